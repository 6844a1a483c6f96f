//! How far the messages of each delay level have been delivered, and which levels there are.
//!
//! Invariant: progress counts schedule-queue offsets whose copies are in the log; it is saved only once those copies
//! are as durable as promised, so that no saved progress skips a message that a power loss took.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::topics::DataVersion;
use crate::runtime::WallMillis;

/// RocketMQ's default of `messageDelayLevel`.
pub const DEFAULT_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";

/// The delays by level; level 1 comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayLevels(Vec<Duration>);

/// A `messageDelayLevel` that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("delay level {text:?} is not a number followed by s, m, h or d")]
pub struct LevelError {
    pub text: String,
}

impl DelayLevels {
    pub fn parse(text: &str) -> Result<DelayLevels, LevelError> {
        let levels: Result<Vec<Duration>, LevelError> = text.split_whitespace().map(parse_level).collect();
        levels.map(DelayLevels)
    }

    /// The level that `wanted` means: capped at the highest, `None` for no delay.
    pub fn effective(&self, wanted: i32) -> Option<i32> {
        let highest = i32::try_from(self.0.len()).unwrap_or(i32::MAX);
        (wanted > 0 && highest > 0).then(|| wanted.min(highest))
    }

    pub fn delay(&self, level: i32) -> Option<Duration> {
        let index = usize::try_from(level).ok()?.checked_sub(1)?;
        self.0.get(index).copied()
    }

    /// Number of levels, which is the number of queues of the schedule topic.
    pub fn count(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }
}

fn parse_level(text: &str) -> Result<Duration, LevelError> {
    let error = || LevelError { text: text.to_owned() };
    let unit = text.chars().next_back().ok_or_else(error)?;
    let seconds_per_unit = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(error()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| error())?;
    count
        .checked_mul(seconds_per_unit)
        .map(Duration::from_secs)
        .ok_or_else(error)
}

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
        self.version.raise(now);
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
    fn the_default_levels_are_rocketmqs() {
        let levels = DelayLevels::parse(DEFAULT_LEVELS).unwrap();
        assert_eq!(levels.count(), 18);
        assert_eq!(levels.delay(3), Some(Duration::from_secs(10)));
        assert_eq!(levels.delay(18), Some(Duration::from_secs(7200)));
        assert_eq!(levels.effective(99), Some(18));
        assert_eq!(levels.effective(0), None);
        assert_eq!(levels.delay(0), None);
    }

    #[test]
    fn a_wrong_level_is_named() {
        assert_eq!(DelayLevels::parse("1s 2x").unwrap_err().text, "2x");
        assert_eq!(DelayLevels::parse("é").unwrap_err().text, "é");
    }
}
