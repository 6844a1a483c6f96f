//! The `checkpoint` file: up to when the log, the consume queues and the index are on the device.
//!
//! Six big-endian `i64` at the start of a page of 4096 bytes, as `store/StoreCheckpoint.java` writes them:
//!
//! ```text
//!  0 physic time    store time of a record that is durable, as all before it
//!  8 logics time    store time of a record whose queue entries are durable, as all before it
//! 16 index time     the same for the key index
//! 24 master flushed offset (replication)
//! 32 confirm offset
//! 40 logics offset  physical offset up to which queue entries are durable (5.5.0)
//! ```
//!
//! Behind them comes a seal that Java neither reads nor writes. All 96 bytes lie in one sector: a torn write leaves the old
//! or the new ones.
//!
//! ```text
//! 48 "ORRERY" and version (u16, 1)
//! 56 digest of the queues at the logics offset: the sum over all queues of weight x next offset
//! 64 hashes of two topics that are being deleted (0: none): their queues may be there in part
//! 80 zero
//! 92 CRC-32 of the 92 bytes before it
//! ```
//!
//! With a seal that fits, log *and* queues are durable below the logics offset and the digest tells whether all queues
//! are still there. A seal that does not fit says that Java, or damage, has changed the fields: nothing is claimed then, and
//! everything is read. Without any seal the fields are Java's and mean what they mean there.
//!
//! Invariant: written only after syncing what it claims.

use std::path::Path;

use crate::runtime::{Disk, DiskError, DiskErrorKind, File, OpenMode, WallMillis};

const PAGE_SIZE: u64 = 4096;
const FIELDS_SIZE: usize = 48;
const SEALED_SIZE: usize = 96;
const SEAL_CRC_AT: usize = 92;
const SEAL_MAGIC: [u8; 8] = *b"ORRERY\x00\x01";
/// Topics that can be under deletion at one time.
pub(crate) const DELETING_MAX: usize = 2;

/// Recovery goes this far behind the times claimed, as Java's does.
const MARGIN_MS: i64 = 3000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) physic_time: i64,
    pub(crate) logics_time: i64,
    pub(crate) index_time: i64,
    pub(crate) master_flushed_offset: i64,
    pub(crate) confirm_offset: i64,
    pub(crate) logics_offset: i64,
    /// Ours; `None` in a checkpoint of Java's.
    pub(crate) seal: Option<Seal>,
}

/// What we add to Java's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seal {
    /// [`super::queue::Queue::weight`] times next offset, summed over all queues, at the logics offset. Wraps.
    pub(crate) digest: u64,
    pub(crate) deleting: [u64; DELETING_MAX],
}

impl Checkpoint {
    /// A checkpoint with a seal that does not fit claims nothing.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Checkpoint> {
        let mut fields = [0i64; 6];
        for (field, bytes) in fields.iter_mut().zip(bytes.get(..FIELDS_SIZE)?.as_chunks::<8>().0) {
            *field = i64::from_be_bytes(*bytes);
        }
        let [
            physic_time,
            logics_time,
            index_time,
            master_flushed_offset,
            confirm_offset,
            logics_offset,
        ] = fields;
        let seal = match bytes.get(FIELDS_SIZE..SEALED_SIZE) {
            Some(seal) if seal.starts_with(&SEAL_MAGIC) => {
                let crc = crc32fast::hash(&bytes[..SEAL_CRC_AT]);
                if bytes[SEAL_CRC_AT..SEALED_SIZE] != crc.to_be_bytes() {
                    return None;
                }
                let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|index| seal[at + index]));
                Some(Seal {
                    digest: number(8),
                    deleting: [number(16), number(24)],
                })
            }
            _ => None,
        };
        Some(Checkpoint {
            physic_time,
            logics_time,
            index_time,
            master_flushed_offset,
            confirm_offset,
            logics_offset,
            seal,
        })
    }

    pub(crate) fn encode(&self) -> [u8; SEALED_SIZE] {
        let fields = [
            self.physic_time,
            self.logics_time,
            self.index_time,
            self.master_flushed_offset,
            self.confirm_offset,
            self.logics_offset,
        ];
        let mut bytes = [0; SEALED_SIZE];
        for (chunk, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *chunk = field.to_be_bytes();
        }
        if let Some(seal) = &self.seal {
            let (_, behind) = bytes.split_at_mut(FIELDS_SIZE);
            let [first, second] = seal.deleting;
            let numbers = [u64::from_be_bytes(SEAL_MAGIC), seal.digest, first, second];
            for (chunk, number) in behind.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
                *chunk = number.to_be_bytes();
            }
            let crc = crc32fast::hash(&bytes[..SEAL_CRC_AT]);
            bytes[SEAL_CRC_AT..].copy_from_slice(&crc.to_be_bytes());
        }
        bytes
    }

    /// Position below which log and queues are durable, if the checkpoint is ours.
    pub(crate) fn durable(&self) -> Option<u64> {
        self.seal.and(u64::try_from(self.logics_offset).ok())
    }

    /// A file whose first record is not younger than this is a safe place to start scanning after a crash.
    pub(crate) fn recovery_time(&self) -> WallMillis {
        WallMillis(self.physic_time.min(self.logics_time).saturating_sub(MARGIN_MS))
    }
}

/// The open file.
pub(crate) struct CheckpointFile<F> {
    file: F,
}

impl<F: File> CheckpointFile<F> {
    /// Opens or creates it. A missing, short, damaged or unreadable one claims nothing.
    pub(crate) async fn open<D: Disk<File = F>>(
        disk: &D,
        path: &Path,
    ) -> Result<(CheckpointFile<F>, Checkpoint), DiskError> {
        let file = disk.open(path, OpenMode::Create).await?;
        if file.len() < PAGE_SIZE {
            file.allocate(PAGE_SIZE).await?;
            file.sync().await?;
        }
        let checkpoint = match file.read(0, SEALED_SIZE).await {
            Ok(bytes) => Checkpoint::decode(&bytes).unwrap_or_default(),
            // An unreadable checkpoint only costs a longer scan.
            Err(error) if error.kind == DiskErrorKind::Device => Checkpoint::default(),
            Err(error) => return Err(error),
        };
        Ok((CheckpointFile { file }, checkpoint))
    }

    /// Durable after [`sync`](CheckpointFile::sync).
    pub(crate) fn write(&self, checkpoint: &Checkpoint) -> Result<(), DiskError> {
        self.file.write_at(0, &[&checkpoint.encode()])
    }

    pub(crate) async fn sync(&self) -> Result<(), DiskError> {
        self.file.sync().await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_lie_where_java_puts_them() {
        let checkpoint = Checkpoint {
            physic_time: 1,
            logics_time: 2,
            index_time: 3,
            master_flushed_offset: 4,
            confirm_offset: 5,
            logics_offset: 6,
            seal: None,
        };
        let bytes = checkpoint.encode();
        for (index, expected) in (1..=6u8).enumerate() {
            assert_eq!(bytes[index * 8 + 7], expected);
        }
        assert_eq!(Checkpoint::decode(&bytes), Some(checkpoint));
        assert_eq!(Checkpoint::decode(&bytes[..FIELDS_SIZE]), Some(checkpoint));
        assert_eq!(Checkpoint::decode(&bytes[..47]), None);
    }

    fn sealed() -> Checkpoint {
        Checkpoint {
            physic_time: 1,
            logics_offset: 99,
            seal: Some(Seal {
                digest: 7,
                deleting: [8, 9],
            }),
            ..Checkpoint::default()
        }
    }

    #[test]
    fn a_checkpoint_whose_seal_does_not_fit_claims_nothing() {
        let bytes = sealed().encode();
        assert_eq!(Checkpoint::decode(&bytes), Some(sealed()));
        assert_eq!(sealed().durable(), Some(99));
        for at in (0..FIELDS_SIZE).chain(56..SEALED_SIZE) {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Checkpoint::decode(&changed), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_checkpoint_or_none(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Checkpoint::decode(&bytes);
        }
    }

    #[test]
    fn recovery_starts_three_seconds_before_the_older_claim() {
        let checkpoint = Checkpoint {
            physic_time: 10_000,
            logics_time: 8_000,
            ..Checkpoint::default()
        };
        assert_eq!(checkpoint.recovery_time(), WallMillis(5_000));
    }
}
