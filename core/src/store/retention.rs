//! Deleting old log files, by age, hour of the day and disk use. Whole files, oldest first, never the last.
//!
//! Source: `store/DefaultMessageStore.java` `CleanCommitLogService`.

use super::disk::list;
use super::layout::file_name;
use super::{Shared, StoreConfig, StoreError};
use crate::runtime::{Disk, File, Runtime, WallMillis};
use crate::sync::lock;

/// Why files may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deletion {
    None,
    /// Those that have expired.
    Expired,
    /// The oldest, expired or not.
    Forced,
}

fn decide(config: &StoreConfig, hour: u8, used_percent: u64) -> Deletion {
    if used_percent > config.disk_used_percent_forced {
        return Deletion::Forced;
    }
    if config.delete_hours.contains(&hour) || used_percent > config.disk_used_percent_max {
        return Deletion::Expired;
    }
    Deletion::None
}

/// Hour of the day, local time, as Java's (`UtilAll.isItTimeToDo`).
fn hour_of_day(now: WallMillis, utc_offset_seconds: i32) -> u8 {
    let local_seconds = now.0.div_euclid(1000) + i64::from(utc_offset_seconds);
    (local_seconds.div_euclid(3600)).rem_euclid(24) as u8
}

impl<R: Runtime> Shared<R> {
    /// One turn: measures the disk, deletes what may go, corrects the queues.
    pub(super) async fn clean(&self) -> Result<(), StoreError> {
        let disk = self.runtime.disk();
        let used_percent = self.disk_gauge.note(disk.space(&self.paths.commit_log).await?);
        let now = self.runtime.wall();
        let hour = hour_of_day(now, self.runtime.utc_offset_seconds(now));
        let deletion = decide(&self.config, hour, used_percent);
        if deletion == Deletion::None {
            return Ok(());
        }
        let mut deleted = 0;
        // The last file and the one that is appended to stay; so does what the next start would read again.
        let recovery_from = lock(&self.last_checkpoint).logics_offset.max(0) as u64;
        let kept_from = self.confirmed().min(recovery_from);
        while deleted < self.config.delete_files_max {
            let files = self.files.all();
            let Some(oldest) = files.first() else { break };
            if oldest.start + self.config.commit_log_file_size > kept_from {
                break;
            }
            let reserved_ms = i64::try_from(self.config.file_reserved.as_millis()).unwrap_or(i64::MAX);
            let is_expired = now.millis_since(oldest.file.modified().await?) >= reserved_ms;
            if !is_expired && deletion != Deletion::Forced {
                break;
            }
            if self.files.remove_first(disk).await?.is_none() {
                break;
            }
            self.warn_if_needed(oldest.start);
            deleted += 1;
            if deletion == Deletion::Forced && !is_expired {
                // One at a time: the next turn measures again.
                break;
            }
        }
        if deleted > 0 {
            self.trim_queues().await?;
        }
        Ok(())
    }

    /// A deleted file is gone for what is kept for RocketMQ, too.
    fn warn_if_needed(&self, start: u64) {
        let needed = self.pending.get().map_or(u64::MAX, |pending| pending.needed_from);
        if start + self.config.commit_log_file_size > needed {
            log::warn!(
                "commit log file {} is deleted (fileReservedTime, disk watermarks): pending timers, half messages or POP \
                 checkpoints needed its messages",
                file_name(start)
            );
        }
    }

    async fn trim_queues(&self) -> Result<(), StoreError> {
        let disk = self.runtime.disk();
        let log_start = self.files.start().unwrap_or(0);
        let has_extension = !list(disk, &self.paths.extension).await?.is_empty();
        for queue in self.queues.all() {
            queue.trim(disk, log_start).await?;
            if has_extension && let Some(first) = queue.entry(queue.bounds().min).await? {
                let (topic, queue_id) = (&queue.topic, queue.queue_id);
                self.extension.trim(disk, topic, queue_id, first.tags_code).await?;
            }
        }
        if let Some(index) = &self.index {
            index.trim(disk, log_start).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_at_their_hour_or_when_the_disk_fills() {
        let config = StoreConfig::new("store");
        assert_eq!(decide(&config, 4, 10), Deletion::Expired);
        assert_eq!(decide(&config, 5, 75), Deletion::None);
        assert_eq!(decide(&config, 5, 76), Deletion::Expired);
        assert_eq!(decide(&config, 5, 86), Deletion::Forced);
    }

    #[test]
    fn hours_follow_the_offset_to_utc() {
        assert_eq!(hour_of_day(WallMillis(23 * 3_600_000), 2 * 3600), 1);
        assert_eq!(hour_of_day(WallMillis(20 * 3_600_000), 5 * 3600 + 1800), 1);
        assert_eq!(hour_of_day(WallMillis(1_800_000), -3600), 23);
        assert_eq!(hour_of_day(WallMillis(-1), 0), 23);
    }
}
