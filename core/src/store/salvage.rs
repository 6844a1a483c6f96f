//! Makes a stretch of the log in which no record could be made out readable again: for whoever walks over it later, our own
//! index and Apache RocketMQ included.
//!
//! What was there is kept below `<store>/damaged`, in a file named by its position. In its place come records that no queue and
//! no index takes (rolled back, topic `_`), or a blank record up to the end of the file. A crash in between leaves a stretch
//! that is as broken as before: the next opening does the same again.

use super::disk::make_dir;
use super::files::LogFiles;
use super::layout::{Paths, file_name};
use crate::protocol::message::{
    BLANK_SIZE, Draft, Placement, RECORD_FIXED_SIZE, body_crc, encode, encode_blank, sys_flag,
};
use crate::runtime::{Disk, DiskError, File, OpenMode, WallMillis};
use crate::types::address::{Ipv4Addr, SocketAddr};

const TOPIC: &str = "_";
/// Smallest record of that topic, and the largest that is written in one piece.
const SIZE_MIN: u64 = (RECORD_FIXED_SIZE + TOPIC.len()) as u64;
const SIZE_MAX: u64 = 1 << 20;

/// A stretch within one file, and the store time of the record before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) store_time: WallMillis,
}

pub(crate) async fn fill<D: Disk>(
    disk: &D,
    paths: &Paths,
    files: &LogFiles<D::File>,
    hole: Hole,
) -> Result<(), DiskError> {
    keep(disk, paths, files, hole).await?;
    let mut at = hole.from;
    if hole.until.is_multiple_of(files.file_size()) {
        let mut bytes = Vec::with_capacity(BLANK_SIZE);
        encode_blank((hole.until - at) as u32, &mut bytes);
        files.write(at, &bytes)?;
    } else {
        for size in sizes(hole.until - at) {
            files.write(at, &filler(at, size, hole.store_time))?;
            at += size;
        }
    }
    for log_file in files.covering(hole.from, hole.until) {
        log_file.file.sync().await?;
    }
    Ok(())
}

async fn keep<D: Disk>(disk: &D, paths: &Paths, files: &LogFiles<D::File>, hole: Hole) -> Result<(), DiskError> {
    make_dir(disk, &paths.damaged).await?;
    let path = paths.damaged.join(file_name(hole.from));
    let copy = disk.open(&path, OpenMode::Create).await?;
    if copy.len() >= hole.until - hole.from {
        // From an earlier attempt, which may have begun to write over the original.
        return Ok(());
    }
    let mut at = hole.from;
    while at < hole.until {
        let size = (hole.until - at).min(SIZE_MAX);
        let bytes = files.read(at, size as usize).await?;
        copy.write_at(at - hole.from, &[&bytes])?;
        at += size;
    }
    copy.sync().await?;
    disk.sync_dir(&paths.damaged).await
}

/// Sizes of records that fill `room` bytes; none if it is too small for one.
fn sizes(room: u64) -> Vec<u64> {
    let mut sizes = Vec::new();
    let mut rest = room;
    while rest >= SIZE_MIN {
        let size = match rest {
            ..=SIZE_MAX => rest,
            // What is left must hold a record, too.
            _ => SIZE_MAX.min(rest - SIZE_MIN),
        };
        sizes.push(size);
        rest -= size;
    }
    sizes
}

fn filler(position: u64, size: u64, store_time: WallMillis) -> Vec<u8> {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let body = vec![0; (size - SIZE_MIN) as usize];
    let draft = Draft {
        sys_flag: sys_flag::ROLLBACK,
        born_time: store_time,
        born_host: nowhere,
        store_host: nowhere,
        ..Draft::new(TOPIC, 0, &body)
    };
    let place = Placement {
        queue_offset: 0,
        physical_offset: position,
        store_time,
    };
    let mut bytes = Vec::with_capacity(size as usize);
    encode(&draft, body_crc(&body), &place, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Step, step};
    use super::*;

    #[test]
    fn any_room_for_a_record_is_filled_with_records_to_the_last_byte() {
        assert!(sizes(SIZE_MIN - 1).is_empty());
        for room in [
            SIZE_MIN,
            1000,
            SIZE_MAX,
            SIZE_MAX + 1,
            SIZE_MAX + SIZE_MIN,
            3 * SIZE_MAX + 5,
        ] {
            let sizes = sizes(room);
            assert_eq!(sizes.iter().sum::<u64>(), room);
            assert!(
                sizes.iter().all(|size| (SIZE_MIN..=SIZE_MAX).contains(size)),
                "{sizes:?}"
            );
        }
    }

    #[test]
    fn a_filler_is_a_whole_record_that_no_queue_takes() {
        let bytes = filler(700, 300, WallMillis(5));
        assert_eq!(bytes.len(), 300);
        let Step::Record(record) = step(&bytes, 700, 5000) else {
            panic!("not a record");
        };
        assert!(!sys_flag::is_queued(record.sys_flag));
        assert_eq!(record.store_time, WallMillis(5));
    }
}
