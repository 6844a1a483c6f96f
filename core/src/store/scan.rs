//! What stands at a position of the log, as far as the bytes there tell. Pure; what follows from it is `replay`'s business,
//! the whole rule is in `docs/recovery.md`.
//!
//! A record counts only if size, magic and the lengths of its parts agree *and* it says that it lies where it lies:
//! bytes left by an earlier, longer log look perfect otherwise (Java does not check this).
//!
//! Invariant used: bytes of a log file that were never written, or whose write was lost, read as zeros, whole sectors at a
//! time. So a torn record lacks its first sector (no magic), or the lengths behind its body (the parts do not add up), or
//! part of its body (CRC), or part of its topic or properties (zeros, which no name or value contains).

use crate::protocol::message::{BLANK_SIZE, MAGIC_BLANK, MAGIC_V1, MAGIC_V2, RECORD_FIXED_SIZE, RecordView};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Record(RecordView<'a>),
    /// Frame and position are whole, the body or the properties are not.
    Doubtful(RecordView<'a>),
    /// The rest of the file is filler.
    Blank,
    /// This many bytes are needed to say.
    More(usize),
    /// No frame of a record of this place.
    Broken,
}

/// Looks at the start of `bytes`, which lie at `position` with `room` bytes up to the end of the file.
pub(crate) fn step(bytes: &[u8], position: u64, room: u64) -> Step<'_> {
    if room < BLANK_SIZE as u64 {
        return Step::Blank;
    }
    let Some((head, _)) = bytes.split_first_chunk::<8>() else {
        return Step::More(BLANK_SIZE);
    };
    let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let magic = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    match magic {
        MAGIC_BLANK if u64::from(size) == room => return Step::Blank,
        MAGIC_V1 | MAGIC_V2 => {}
        _ => return Step::Broken,
    }
    if u64::from(size) > room || (size as usize) < RECORD_FIXED_SIZE {
        return Step::Broken;
    }
    let Some(bytes) = bytes.get(..size as usize) else {
        return Step::More(size as usize);
    };
    let Ok(record) = RecordView::parse(bytes) else {
        return Step::Broken;
    };
    if record.check_position(position).is_err() || record.topic.as_bytes().contains(&0) {
        return Step::Broken;
    }
    let is_whole = record.check_crc().is_ok() && !lacks_sector(record.properties, position + u64::from(size));
    match is_whole {
        true => Step::Record(record),
        false => Step::Doubtful(record),
    }
}

/// Smallest unit that a device writes whole. Bytes.
const SECTOR_SIZE: u64 = 512;

/// Whether `properties`, the last part of a record that ends at `end`, are all zero within one sector. No client
/// sends such properties: names and values are text.
fn lacks_sector(properties: &[u8], end: u64) -> bool {
    let mut rest = properties;
    let mut position = end - properties.len() as u64;
    while !rest.is_empty() {
        let room = SECTOR_SIZE - position % SECTOR_SIZE;
        let (sector, after) = rest.split_at(rest.len().min(room as usize));
        if sector.iter().all(|&byte| byte == 0) {
            return true;
        }
        position += sector.len() as u64;
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::message::{Draft, Placement, body_crc, encode, encode_blank};
    use crate::runtime::WallMillis;

    fn record(position: u64) -> Vec<u8> {
        record_with(position, "")
    }

    fn record_with(position: u64, properties: &str) -> Vec<u8> {
        let draft = Draft {
            properties,
            ..Draft::new("T", 0, b"body")
        };
        let place = Placement {
            queue_offset: 0,
            physical_offset: position,
            store_time: WallMillis(50),
        };
        let mut bytes = Vec::new();
        encode(&draft, body_crc(draft.body), &place, &mut bytes);
        bytes
    }

    #[test]
    fn a_perfect_record_at_another_position_is_none() {
        let bytes = record(700);
        assert!(matches!(step(&bytes, 700, 1000), Step::Record(_)));
        assert_eq!(step(&bytes, 800, 1000), Step::Broken);
    }

    #[test]
    fn a_flipped_body_leaves_a_doubtful_record() {
        let mut bytes = record(0);
        bytes[89] ^= 1;
        assert!(matches!(step(&bytes, 0, 1000), Step::Doubtful(_)));
    }

    #[test]
    fn properties_of_which_a_sector_is_missing_are_doubtful() {
        let mut bytes = record_with(400, "KEYS\u{1}client-1-201\u{2}TAGS\u{1}B\u{2}");
        assert!(matches!(step(&bytes, 400, 1000), Step::Record(_)));
        assert!(400 + bytes.len() as u64 > SECTOR_SIZE);
        bytes[112..].fill(0);
        assert!(matches!(step(&bytes, 400, 1000), Step::Doubtful(_)));
    }

    /// What the head of `scan` claims: any sector of a record that reads as zeros is noticed.
    #[test]
    fn a_record_that_lacks_any_sector_is_never_taken_for_whole() {
        for position in (0..600).step_by(7) {
            for properties in ["", "KEYS\u{1}client-1-201\u{2}TAGS\u{1}B\u{2}"] {
                let whole = record_with(position, properties);
                let end = position + whole.len() as u64;
                for sector in position / SECTOR_SIZE..=(end - 1) / SECTOR_SIZE {
                    let mut torn = whole.clone();
                    let from = (sector * SECTOR_SIZE).saturating_sub(position) as usize;
                    let until = ((sector + 1) * SECTOR_SIZE)
                        .saturating_sub(position)
                        .min(whole.len() as u64) as usize;
                    torn[from..until].fill(0);
                    if torn != whole {
                        let found = step(&torn, position, 10_000);
                        assert!(!matches!(found, Step::Record(_)), "{position} {sector}: {found:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_blank_must_fill_its_file() {
        let mut bytes = Vec::new();
        encode_blank(500, &mut bytes);
        assert_eq!(step(&bytes, 500, 500), Step::Blank);
        assert_eq!(step(&bytes, 400, 600), Step::Broken);
        assert_eq!(step(&[], 996, 4), Step::Blank);
    }

    #[test]
    fn a_record_cut_by_the_buffer_asks_for_more_and_one_cut_by_the_file_is_none() {
        let bytes = record(0);
        assert_eq!(step(&bytes[..50], 0, 1000), Step::More(bytes.len()));
        assert_eq!(step(&bytes[..50], 0, 60), Step::Broken);
        assert_eq!(step(&[0; 100], 0, 1000), Step::Broken);
    }

    proptest! {
        #[test]
        fn any_single_change_of_a_record_is_noticed(at in 0usize..96, bit in 0u8..8) {
            let mut bytes = record(0);
            prop_assume!(at < bytes.len());
            bytes[at] ^= 1 << bit;
            match step(&bytes, 0, 1000) {
                // Fields outside of frame, position and body carry no checksum in this format.
                Step::Record(record) => prop_assert!(record.body == b"body" && record.physical_offset == 0),
                Step::More(size) => prop_assert!(size > bytes.len()),
                Step::Doubtful(_) | Step::Broken => {}
                Step::Blank => prop_assert!(false, "a record is no filler"),
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), room in any::<u32>()) {
            let _ = step(&bytes, 0, u64::from(room));
        }
    }
}
