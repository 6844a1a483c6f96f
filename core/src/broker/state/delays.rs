//! How far the messages of each delay level have been delivered. The levels themselves are configuration.
//!
//! Invariant: progress counts schedule-queue offsets whose copies are in the log; it is saved only once those copies
//! are as durable as promised, so that no saved progress skips a message that a power loss took.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocol::body::DataVersion;
use crate::runtime::WallMillis;

#[derive(Clone, Debug, Default)]
pub struct DelayProgress {
    next: BTreeMap<i32, i64>,
    version: DataVersion,
}

impl DelayProgress {
    pub(super) fn advance(&mut self, level: i32, next_offset: i64) {
        debug_assert!(level > 0);
        debug_assert!(next_offset >= 0);
        self.next.insert(level, next_offset);
    }

    /// The schedule-queue offset to deliver next.
    pub fn next_offset(&self, level: i32) -> i64 {
        self.next.get(&level).copied().unwrap_or(0)
    }

    pub fn save(&mut self, now: WallMillis) -> SavedDelays {
        self.version = self.version.next(now);
        SavedDelays {
            data_version: self.version,
            offset_table: self.next.clone(),
        }
    }

    pub fn restore(&mut self, saved: SavedDelays) {
        self.version = saved.data_version;
        let valid = |(level, offset): &(i32, i64)| *level > 0 && *offset >= 0;
        self.next = saved.offset_table.into_iter().filter(valid).collect();
    }

    pub fn levels(&self) -> impl Iterator<Item = (i32, i64)> + '_ {
        self.next.iter().map(|(level, offset)| (*level, *offset))
    }
}

/// `config/delayOffset.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SavedDelays {
    pub data_version: DataVersion,
    pub offset_table: BTreeMap<i32, i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_table_comes_back_without_what_makes_no_sense() {
        let mut progress = DelayProgress::default();
        progress.advance(3, 12);
        let mut saved = progress.save(WallMillis(1));
        saved.offset_table.insert(0, 4);
        saved.offset_table.insert(2, -1);
        let mut restored = DelayProgress::default();
        restored.restore(saved);
        assert_eq!(restored.levels().collect::<Vec<_>>(), [(3, 12)]);
        assert_eq!(restored.next_offset(1), 0);
    }
}
