//! An entry of a DLedger log (`enableDLegerCommitLog=true`): a header, then a message record.
//!
//! ```text
//!  0 i32 magic: 1 normal, 2 no operation, 3 configuration, -1 filler up to the end of the file
//!  4 i32 size, this header included (of a filler: what remains of the file)
//!  8 i64 index
//! 16 i64 term
//! 24 i64 position of the entry
//! 32 i32 channel, 0
//! 36 i32 chain CRC, 0
//! 40 i32 body CRC, 0
//! 44 i32 length of the body
//! 48     body: a record, whose own position is that of the entry plus 48
//! ```
//!
//! Such a log cannot be continued as a plain one: every record's position would change, and with it message ids and
//! queue entries. Source: `openmessaging/dledger` `entry/DLedgerEntryCoder.java`.

use super::{i32_at, i64_at};

/// Bytes in front of an entry's body.
pub const DLEDGER_HEADER_SIZE: usize = 48;
/// Folders whose name starts so hold one peer's log.
pub const DLEDGER_FOLDER_PREFIX: &str = "dledger-";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DledgerEntry<'a> {
    pub magic: i32,
    pub index: i64,
    pub term: i64,
    pub position: i64,
    pub body: &'a [u8],
}

/// What stands at a place of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DledgerStep<'a> {
    Entry(DledgerEntry<'a>),
    /// The rest of the file is filler.
    Blank,
    End,
}

/// Looks at the start of `bytes`, which reach to the end of the file and lie at `position`.
pub fn step(bytes: &[u8], position: u64) -> DledgerStep<'_> {
    read(bytes, position).unwrap_or(DledgerStep::End)
}

fn read(bytes: &[u8], position: u64) -> Option<DledgerStep<'_>> {
    let magic = i32_at(bytes, 0)?;
    if magic == -1 {
        return Some(DledgerStep::Blank);
    }
    let size = usize::try_from(i32_at(bytes, 4)?).ok()?;
    let body_size = usize::try_from(i32_at(bytes, 44)?).ok()?;
    let entry = DledgerEntry {
        magic,
        index: i64_at(bytes, 8)?,
        term: i64_at(bytes, 16)?,
        position: i64_at(bytes, 24)?,
        body: bytes.get(DLEDGER_HEADER_SIZE..size)?,
    };
    let is_entry = (1..=3).contains(&magic) && entry.body.len() == body_size && entry.position as u64 == position;
    is_entry.then_some(DledgerStep::Entry(entry))
}

impl DledgerEntry<'_> {
    /// `None` if the body is too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let size = i32::try_from(DLEDGER_HEADER_SIZE + self.body.len()).ok()?;
        let mut bytes = Vec::with_capacity(DLEDGER_HEADER_SIZE + self.body.len());
        bytes.extend_from_slice(&self.magic.to_be_bytes());
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&self.index.to_be_bytes());
        bytes.extend_from_slice(&self.term.to_be_bytes());
        bytes.extend_from_slice(&self.position.to_be_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&(self.body.len() as i32).to_be_bytes());
        bytes.extend_from_slice(self.body);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_round_trip(
            magic in 1..=3i32,
            index: i64,
            term: i64,
            position in 0..=i64::MAX,
            body in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let entry = DledgerEntry { magic, index, term, position, body: &body };
            let mut bytes = entry.encode().unwrap();
            bytes.push(1);
            prop_assert_eq!(step(&bytes, position as u64), DledgerStep::Entry(entry));
            prop_assert_eq!(step(&bytes, position as u64 ^ 1), DledgerStep::End);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), position: u64) {
            let _ = step(&bytes, position);
        }
    }
}
