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
//! Invariant: written only after syncing what it claims.

use std::path::Path;

use crate::runtime::{Disk, DiskError, DiskErrorKind, File, OpenMode, WallMillis};

const PAGE_SIZE: u64 = 4096;
const FIELDS_SIZE: usize = 48;

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
}

impl Checkpoint {
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
        Some(Checkpoint {
            physic_time,
            logics_time,
            index_time,
            master_flushed_offset,
            confirm_offset,
            logics_offset,
        })
    }

    pub(crate) fn encode(&self) -> [u8; FIELDS_SIZE] {
        let fields = [
            self.physic_time,
            self.logics_time,
            self.index_time,
            self.master_flushed_offset,
            self.confirm_offset,
            self.logics_offset,
        ];
        let mut bytes = [0; FIELDS_SIZE];
        for (chunk, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *chunk = field.to_be_bytes();
        }
        bytes
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
    /// Opens or creates it. A missing or short one claims nothing.
    pub(crate) async fn open<D: Disk<File = F>>(
        disk: &D,
        path: &Path,
    ) -> Result<(CheckpointFile<F>, Checkpoint), DiskError> {
        let file = disk.open(path, OpenMode::Create).await?;
        if file.len() < PAGE_SIZE {
            file.allocate(PAGE_SIZE).await?;
            file.sync().await?;
        }
        let checkpoint = match file.read(0, FIELDS_SIZE).await {
            Ok(bytes) => Checkpoint::decode(&bytes).unwrap_or_default(),
            // An unreadable checkpoint only costs a longer scan.
            Err(error) if error.kind == DiskErrorKind::Device => Checkpoint::default(),
            Err(error) => return Err(error),
        };
        Ok((CheckpointFile { file }, checkpoint))
    }

    pub(crate) async fn save(&self, checkpoint: &Checkpoint) -> Result<(), DiskError> {
        self.file.write_at(0, &[&checkpoint.encode()])?;
        self.file.sync().await
    }
}

#[cfg(test)]
mod tests {
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
        };
        let bytes = checkpoint.encode();
        for (index, expected) in (1..=6u8).enumerate() {
            assert_eq!(bytes[index * 8 + 7], expected);
        }
        assert_eq!(Checkpoint::decode(&bytes), Some(checkpoint));
        assert_eq!(Checkpoint::decode(&bytes[..47]), None);
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
