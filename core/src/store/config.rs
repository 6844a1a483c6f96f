//! What the store is told: paths, sizes, periods. Plain values; RocketMQ's property names are `config`'s business.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{BrokerConfig, FlushDiskType};

/// When a send may be acknowledged, and how far consumers may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMode {
    /// Written to the page cache: survives a kill of the process, not a power loss.
    #[default]
    Async,
    /// Durable on the device.
    Sync,
}

/// Settings of one store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `storePathRootDir`: everything lies below it, except a commit log that has a path of its own.
    pub root: PathBuf,
    /// `storePathCommitLog`; `<root>/commitlog` if none.
    pub commit_log_dir: Option<PathBuf>,
    /// Bytes of a commit log file. Default 1 GiB. A record (or batch) that does not fit into one is refused.
    pub commit_log_file_size: u64,
    /// Bytes of a consume queue file, rounded up to whole entries of 20. Default 6,000,000.
    pub consume_queue_file_size: u64,
    pub flush_mode: FlushMode,
    /// Period of the asynchronous flush. Default 500 ms.
    pub flush_interval: Duration,
    /// The asynchronous flush skips a turn with fewer dirty pages of 4 KiB than this. Default 4.
    pub flush_least_pages: u64,
    /// ... but not for longer than this. Default 10 s.
    pub flush_thorough_interval: Duration,
    /// A synchronous flush that a single sender waits for runs on that sender's own thread, if senders come one at a
    /// time: a thread hand-off costs 4-50 µs. Default on.
    pub sync_lone_in_place: bool,
    /// Period in which consume queue entries go from memory to their files. Default 1 s.
    pub queue_flush_interval: Duration,
    /// Period of syncing the consume queues and writing the checkpoint behind it: recovery after a crash starts there.
    /// Default 5 s; every turn of `queue_flush_interval` once 128 MiB are behind it.
    pub checkpoint_interval: Duration,
    /// Largest record in bytes. Default 4 MiB body + 64 KiB. Larger ones are refused.
    pub record_size_max: usize,
    /// Bytes appended and not yet written. Default 64 MiB. Beyond it appends are refused as busy.
    pub pending_bytes_max: usize,
    /// `maxTransferBytesOnMessageInMemory`, `maxTransferCountOnMessageInMemory`. Default 256 KiB, 32.
    pub transfer_in_memory: TransferLimit,
    /// `maxTransferBytesOnMessageInDisk`, `maxTransferCountOnMessageInDisk`. Default 64 KiB, 8.
    pub transfer_on_disk: TransferLimit,
    /// `fileReservedTime`: a log file that was not written for this long expires. Default 72 h.
    pub file_reserved: Duration,
    /// `deleteWhen`: hours of the day (0 to 23, local time) in which expired files are deleted. Default 4.
    pub delete_hours: Vec<u8>,
    /// Period of looking for files to delete. Default 10 s.
    pub clean_interval: Duration,
    /// Most files deleted in one turn. Default 10.
    pub delete_files_max: usize,
    /// Percent of the disk in use from which expired files go at any hour. Default 75.
    pub disk_used_percent_max: u64,
    /// Percent from which the oldest files go even if not expired. Default 85.
    pub disk_used_percent_forced: u64,
    /// Percent from which appends are refused. Default 90.
    pub disk_used_percent_full: u64,
    /// Free bytes of the disk below which appends are refused, whatever the percentage. Default 0: only the percentage counts.
    pub disk_free_bytes_min: u64,
    /// A group write under way for longer than this makes appends be refused as busy. Default 1 s.
    pub page_cache_busy: Duration,
    /// With synchronous flush: bytes ahead of the end that hold zeros on the device before records come, so that an fdatasync
    /// has no fresh extents to convert. Default 64 MiB; 0 switches it off.
    pub zeros_ahead_bytes: u64,
    /// Delay levels in milliseconds, level 1 first: the consume queues of `SCHEDULE_TOPIC_XXXX` carry delivery times.
    pub delay_levels_ms: Vec<i64>,
    /// Slots and entries of a key index file. Default 5,000,000 and 20,000,000.
    pub index_slots: u32,
    pub index_entries: u32,
    /// Whether records are indexed by key (`messageIndexEnable`). Default on.
    pub index: bool,
}

/// Most messages and bytes of one pull. At least one whole message is given, however large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferLimit {
    pub count: usize,
    pub bytes: usize,
}

impl StoreConfig {
    pub fn new(root: impl Into<PathBuf>) -> StoreConfig {
        const SECOND: i64 = 1000;
        const MINUTE: i64 = 60 * SECOND;
        let minutes = (1..=10).map(|minutes| minutes * MINUTE);
        let delay_levels_ms = [1, 5, 10, 30]
            .map(|seconds| seconds * SECOND)
            .into_iter()
            .chain(minutes)
            .chain([20, 30, 60, 120].map(|minutes| minutes * MINUTE))
            .collect();
        StoreConfig {
            root: root.into(),
            commit_log_dir: None,
            commit_log_file_size: 1 << 30,
            consume_queue_file_size: 6_000_000,
            flush_mode: FlushMode::Async,
            flush_interval: Duration::from_millis(500),
            flush_least_pages: 4,
            flush_thorough_interval: Duration::from_secs(10),
            sync_lone_in_place: true,
            queue_flush_interval: Duration::from_secs(1),
            checkpoint_interval: Duration::from_secs(5),
            record_size_max: (4 << 20) + (64 << 10),
            pending_bytes_max: 64 << 20,
            transfer_in_memory: TransferLimit {
                count: 32,
                bytes: 256 << 10,
            },
            transfer_on_disk: TransferLimit {
                count: 8,
                bytes: 64 << 10,
            },
            file_reserved: Duration::from_secs(72 * 3600),
            delete_hours: vec![4],
            clean_interval: Duration::from_secs(10),
            delete_files_max: 10,
            disk_used_percent_max: 75,
            disk_used_percent_forced: 85,
            disk_used_percent_full: 90,
            disk_free_bytes_min: 0,
            page_cache_busy: Duration::from_secs(1),
            zeros_ahead_bytes: 64 << 20,
            delay_levels_ms,
            index_slots: 5_000_000,
            index_entries: 20_000_000,
            index: true,
        }
    }

    pub fn commit_log_dir(&self) -> PathBuf {
        self.commit_log_dir
            .clone()
            .unwrap_or_else(|| self.root.join("commitlog"))
    }

    /// Consume queue file size in whole entries' bytes.
    pub fn queue_file_size(&self) -> u64 {
        self.consume_queue_file_size.max(1).div_ceil(20) * 20
    }
}

impl From<&BrokerConfig> for StoreConfig {
    fn from(broker: &BrokerConfig) -> StoreConfig {
        let levels = &broker.messages.delay_levels;
        let delay_levels_ms = (1..=levels.count())
            .filter_map(|level| levels.delay(level))
            .map(|delay| i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
            .collect();
        StoreConfig {
            commit_log_dir: broker.store.commit_log_dir.clone(),
            commit_log_file_size: broker.store.commit_log_file_bytes,
            consume_queue_file_size: broker.consume_queue_file_bytes(),
            flush_mode: match broker.flush.disk_type {
                FlushDiskType::Sync => FlushMode::Sync,
                FlushDiskType::Async => FlushMode::Async,
            },
            flush_interval: broker.flush.commit_log_interval,
            flush_least_pages: u64::from(broker.flush.commit_log_least_pages),
            flush_thorough_interval: broker.flush.commit_log_thorough_interval,
            queue_flush_interval: broker.flush.consume_queue_interval,
            record_size_max: broker.messages.size_bytes_max as usize + (64 << 10),
            transfer_in_memory: TransferLimit {
                count: broker.polling.transfer_count_hot as usize,
                bytes: broker.polling.transfer_bytes_hot as usize,
            },
            transfer_on_disk: TransferLimit {
                count: broker.polling.transfer_count_cold as usize,
                bytes: broker.polling.transfer_bytes_cold as usize,
            },
            file_reserved: Duration::from_secs(u64::from(broker.retention.file_reserved_hours) * 3600),
            delete_hours: broker.retention.delete_when.0.clone(),
            clean_interval: broker.retention.clean_interval,
            disk_used_percent_max: u64::from(broker.retention.disk_used_percent_max),
            disk_used_percent_forced: match broker.retention.clean_file_forcibly_enable {
                true => u64::from(broker.retention.disk_used_percent_forcibly),
                false => u64::MAX,
            },
            disk_used_percent_full: u64::from(broker.retention.disk_used_percent_warning),
            disk_free_bytes_min: broker.retention.disk_free_bytes_min,
            page_cache_busy: broker.flush.page_cache_busy,
            zeros_ahead_bytes: broker.flush.zeros_ahead_bytes,
            delete_files_max: broker.retention.delete_files_per_turn,
            delay_levels_ms,
            index_slots: broker.store.index_hash_slot_count,
            index_entries: broker.store.index_entry_count,
            index: broker.store.message_index_enable,
            ..StoreConfig::new(broker.store.root_dir.clone())
        }
    }
}
