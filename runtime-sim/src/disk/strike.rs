//! Faults at chosen operations, for tests that try each one.

use std::ops::Range;
use std::path::Path;

use orrery_core::runtime::DiskError;

use super::image::SECTOR_SIZE;
use super::{Disk, Purpose, full, write_error};
use crate::effects::Effects;

/// What strikes a disk operation. Each hits only the operations that it makes sense for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Reads and listings fail with an input/output error.
    ReadError,
    /// Writes, allocations and changes of names fail with an input/output error; nothing changes.
    WriteError,
    /// Some whole sectors of a write arrive, then it fails.
    ShortWrite,
    /// A write is answered with success; the sync puts it elsewhere in the file.
    MisdirectedWrite,
    /// Writes, allocations and creations fail: no space left.
    Full,
    /// Syncs of files and directories fail. A file's unsynced bytes stay visible and are never written.
    SyncError,
    /// Syncs of files and directories succeed without doing anything.
    SyncLie,
}

/// A fault and the operations it strikes.
#[derive(Clone, Debug)]
pub(super) struct Strike {
    operations: Range<u64>,
    fault: DiskFault,
}

impl Disk {
    pub(crate) fn strike(&mut self, operations: Range<u64>, fault: DiskFault) {
        self.strike = Some(Strike { operations, fault });
    }

    pub(crate) fn operations(&self) -> u64 {
        self.operations
    }

    /// The fault that strikes this operation, if it is one of `faults`. Counts what it does.
    pub(super) fn struck(&mut self, faults: &[DiskFault]) -> Option<DiskFault> {
        // The count was raised when the operation began.
        let number = self.operations.checked_sub(1)?;
        let strike = self.strike.as_ref()?;
        let is_struck = strike.operations.contains(&number) && faults.contains(&strike.fault);
        let fault = is_struck.then_some(strike.fault)?;
        *counter(fault, &mut self.damage) += 1;
        Some(fault)
    }

    /// Fails a change of names or lengths that is struck.
    pub(super) fn check_name(&mut self, path: &Path) -> Result<(), DiskError> {
        match self.struck(&[DiskFault::WriteError, DiskFault::Full]) {
            Some(DiskFault::Full) => Err(full(path)),
            Some(_) => Err(write_error(path)),
            None => Ok(()),
        }
    }

    /// What strikes a write, by its number or by chance.
    pub(super) fn write_fault(&mut self, file: u64, effects: &mut Effects) -> Option<DiskFault> {
        const FAULTS: [DiskFault; 4] = [
            DiskFault::WriteError,
            DiskFault::ShortWrite,
            DiskFault::MisdirectedWrite,
            DiskFault::Full,
        ];
        let draw = self.next_draw(Purpose::Write, file);
        if let Some(fault) = self.struck(&FAULTS) {
            return Some(fault);
        }
        let fault = if draw.happens(self.faults.write_error) {
            DiskFault::WriteError
        } else if draw.with(1).happens(self.faults.short_write) {
            DiskFault::ShortWrite
        } else if draw.with(2).happens(self.faults.misdirected_write) {
            DiskFault::MisdirectedWrite
        } else {
            return None;
        };
        *counter(fault, effects) += 1;
        Some(fault)
    }

    /// How many bytes of a short write arrive: up to some sector border before its end.
    pub(super) fn short_size(&mut self, file: u64, offset: u64, size: u64) -> usize {
        let borders = (offset + size - 1) / SECTOR_SIZE - offset / SECTOR_SIZE;
        let sectors = self.next_draw(Purpose::Write, file).below(borders + 1);
        let end = (offset / SECTOR_SIZE + sectors) * SECTOR_SIZE;
        end.saturating_sub(offset) as usize
    }
}

fn counter(fault: DiskFault, effects: &mut Effects) -> &mut u64 {
    match fault {
        DiskFault::ReadError => &mut effects.reads_failed,
        DiskFault::WriteError => &mut effects.writes_failed,
        DiskFault::ShortWrite => &mut effects.writes_short,
        DiskFault::MisdirectedWrite => &mut effects.writes_misdirected,
        DiskFault::Full => &mut effects.refused_full,
        DiskFault::SyncError => &mut effects.syncs_failed,
        DiskFault::SyncLie => &mut effects.syncs_lied,
    }
}
