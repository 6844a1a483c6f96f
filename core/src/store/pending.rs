//! State of RocketMQ that this store keeps but does not work on: pending timers, half messages, POP checkpoints,
//! compacted topics. It is counted when a broker starts, so that nobody loses sight of it, and its files stay as they are.
//!
//! | counted | how |
//! |---|---|
//! | timers | units of the timer log due at or after the wheel's last second, less those that take one back; messages of `rmq_sys_wheel_timer` behind the last unit's |
//! | half messages | from the committed offset of `CID_RMQ_SYS_TRANS` on, less those that an operation record names |
//! | POP checkpoints | records tagged `ck` of `rmq_sys_REVIVE_LOG_*` from the committed offset of `CID_RMQ_SYS_REVIVE_GROUP` on |
//! | compacted queues | folders below `compaction/compactionLog` that hold files |

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

use super::disk::list;
use super::formats::timer_checkpoint::{TIMER_CHECKPOINT_SIZE, TimerCheckpoint};
use super::formats::timer_log::{TIMER_UNIT_SIZE, TimerUnit};
use super::layout::{ENTRY_SIZE, Entry, parse_file_name};
use super::{QueueOf, Shared, Store, StoreError};
use crate::protocol::body::json;
use crate::protocol::message::{RecordView, java_hash};
use crate::runtime::{Disk, File, OpenMode, Runtime};
use crate::types::topic_name::{HALF_OP_TOPIC, HALF_TOPIC, REVIVE_TOPIC_PREFIX, TIMER_TOPIC};

const TRANSACTION_GROUP: &str = "CID_RMQ_SYS_TRANS";
const REVIVE_GROUP: &str = "CID_RMQ_SYS_REVIVE_GROUP";
const CHECKPOINT_TAG: &str = "ck";
/// Bytes of a timer log read at once, in whole units.
const TIMER_READ_SIZE: u64 = 4096 * TIMER_UNIT_SIZE as u64;

/// What waits in a store, and from where on the log is needed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub timers: u64,
    pub half_messages: u64,
    pub pop_checkpoints: u64,
    pub compacted_queues: u64,
    /// Position of the oldest record needed; `u64::MAX` if none is.
    pub needed_from: u64,
}

impl Default for Pending {
    fn default() -> Pending {
        Pending {
            timers: 0,
            half_messages: 0,
            pop_checkpoints: 0,
            compacted_queues: 0,
            needed_from: u64::MAX,
        }
    }
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.timers == 0 && self.half_messages == 0 && self.pop_checkpoints == 0 && self.compacted_queues == 0
    }

    fn need(&mut self, position: u64) {
        self.needed_from = self.needed_from.min(position);
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.timers, "timers"),
            (self.half_messages, "half messages"),
            (self.pop_checkpoints, "POP checkpoints"),
            (self.compacted_queues, "compacted queues"),
        ];
        let named = counts.iter().filter(|(count, _)| *count > 0);
        let named: Vec<String> = named.map(|(count, name)| format!("{count} {name}")).collect();
        f.write_str(&named.join(", "))
    }
}

/// Committed offset of a group on a queue; 0 if there is none.
pub trait Committed: Fn(&str, &str, i32) -> i64 + Send + Sync {}
impl<F: Fn(&str, &str, i32) -> i64 + Send + Sync> Committed for F {}

impl<R: Runtime> Store<R> {
    /// Counts what is pending. The store remembers it: retention says when it deletes what is needed.
    pub async fn count_pending(&self, committed: impl Committed) -> Result<Pending, StoreError> {
        let shared = &self.owner.shared;
        let mut pending = Pending::default();
        shared.count_timers(&mut pending).await?;
        shared.count_half_messages(&mut pending, &committed).await?;
        shared.count_pop_checkpoints(&mut pending, &committed).await?;
        pending.compacted_queues = shared.count_compacted().await?;
        Ok(*shared.pending.get_or_init(|| pending))
    }

    /// What was counted at the start.
    pub fn pending(&self) -> Pending {
        self.owner.shared.pending.get().copied().unwrap_or_default()
    }
}

impl<R: Runtime> Shared<R> {
    async fn count_timers(&self, pending: &mut Pending) -> Result<(), StoreError> {
        let disk = self.runtime.disk();
        let last_read_time = match disk.open(&self.paths.timer_checkpoint, OpenMode::Existing).await {
            Ok(file) if file.len() >= TIMER_CHECKPOINT_SIZE as u64 => {
                let bytes = file.read(0, TIMER_CHECKPOINT_SIZE).await?;
                TimerCheckpoint::decode(&bytes).map_or(0, |checkpoint| checkpoint.last_read_time)
            }
            // Without one, all that is there counts.
            _ => 0,
        };
        let mut balance = 0i64;
        let mut behind = 0;
        for listed in list(disk, &self.paths.timer_log).await? {
            if listed.is_dir || parse_file_name(&listed.name).is_none() {
                continue;
            }
            let file = disk
                .open(&self.paths.timer_log.join(&listed.name), OpenMode::Existing)
                .await?;
            let mut at = 0;
            'file: while at < file.len() {
                let bytes = file.read(at, (file.len() - at).min(TIMER_READ_SIZE) as usize).await?;
                at += bytes.len() as u64;
                for chunk in bytes.chunks(TIMER_UNIT_SIZE) {
                    let Some(unit) = TimerUnit::decode(chunk) else {
                        break 'file;
                    };
                    behind = behind.max(unit.position.saturating_add(1) as u64);
                    if unit.due() < last_read_time {
                        continue;
                    }
                    balance += if unit.is_delete() { -1 } else { 1 };
                    pending.need(unit.position as u64);
                }
            }
        }
        pending.timers = u64::try_from(balance).unwrap_or(0);
        if let Some(queue) = self.queues.get(TIMER_TOPIC, 0) {
            let from = queue.first_at_or_behind(behind).await?;
            self.visit(&queue, from, |_, entry| {
                pending.timers += 1;
                pending.need(entry.physical);
            })
            .await?;
        }
        if pending.timers == 0 {
            pending.needed_from = u64::MAX;
        }
        Ok(())
    }

    async fn count_half_messages(&self, pending: &mut Pending, committed: &impl Committed) -> Result<(), StoreError> {
        let Some(halves) = self.queues.get(HALF_TOPIC, 0) else {
            return Ok(());
        };
        let mut open = Vec::new();
        let from = committed(TRANSACTION_GROUP, HALF_TOPIC, 0);
        self.visit(&halves, from, |offset, entry| open.push((offset, entry.physical)))
            .await?;
        let mut resolved = BTreeSet::new();
        if let (false, Some(operations)) = (open.is_empty(), self.queues.get(HALF_OP_TOPIC, 0)) {
            let mut positions = Vec::new();
            let from = committed(TRANSACTION_GROUP, HALF_OP_TOPIC, 0);
            self.visit(&operations, from, |_, entry| positions.push(entry.physical))
                .await?;
            for position in positions {
                let Some(record) = self.record_at(position).await? else {
                    continue;
                };
                let Ok(record) = RecordView::parse(&record) else {
                    continue;
                };
                let text = String::from_utf8_lossy(record.body);
                resolved.extend(text.split(',').filter_map(|offset| offset.trim().parse::<i64>().ok()));
            }
        }
        for (_, physical) in open.iter().filter(|(offset, _)| !resolved.contains(offset)) {
            pending.half_messages += 1;
            pending.need(*physical);
        }
        Ok(())
    }

    async fn count_pop_checkpoints(&self, pending: &mut Pending, committed: &impl Committed) -> Result<(), StoreError> {
        let tags_code = i64::from(java_hash(CHECKPOINT_TAG));
        for queue in self.queues.all() {
            if !queue.topic.starts_with(REVIVE_TOPIC_PREFIX) {
                continue;
            }
            let mut positions = Vec::new();
            let from = committed(REVIVE_GROUP, &queue.topic, queue.queue_id);
            self.visit(&queue, from, |_, entry| {
                if entry.tags_code == tags_code {
                    positions.push(entry.physical);
                }
            })
            .await?;
            for position in positions {
                pending.pop_checkpoints += 1;
                pending.need(position);
                if let Some(first) = self.first_popped(position).await? {
                    pending.need(first);
                }
            }
        }
        Ok(())
    }

    /// Where the first message that a checkpoint speaks of lies.
    async fn first_popped(&self, checkpoint: u64) -> Result<Option<u64>, StoreError> {
        let Some(record) = self.record_at(checkpoint).await? else {
            return Ok(None);
        };
        let popped = RecordView::parse(&record).ok();
        let popped = popped.and_then(|record| json::read::<Popped>(record.body).ok());
        let queue = popped
            .as_ref()
            .and_then(|popped| self.queues.get(&popped.topic, popped.queue_id));
        let (Some(popped), Some(queue)) = (popped, queue) else {
            return Ok(None);
        };
        let entry = queue.entry(popped.start_offset).await?;
        Ok(entry.filter(|entry| !entry.is_filler()).map(|entry| entry.physical))
    }

    async fn count_compacted(&self) -> Result<u64, StoreError> {
        let disk = self.runtime.disk();
        let mut count = 0;
        for topic in list(disk, &self.paths.compaction_log).await? {
            let folder = self.paths.compaction_log.join(&topic.name);
            for queue in list(disk, &folder).await?.iter().filter(|entry| entry.is_dir) {
                let files = list(disk, &folder.join(&queue.name)).await?;
                count += u64::from(files.iter().any(|entry| !entry.is_dir));
            }
        }
        Ok(count)
    }

    /// Shows the entries from an offset (or the queue's first) to the end.
    async fn visit(&self, queue: &QueueOf<R>, from: i64, mut visit: impl FnMut(i64, Entry)) -> Result<(), StoreError> {
        let bounds = queue.bounds();
        let mut at = from.max(bounds.min);
        while at < bounds.max {
            let loaded = queue.load(at).await?.unwrap_or_default();
            if loaded.is_empty() {
                return Err(queue.unreadable(at));
            }
            for (offset, bytes) in (at..bounds.max).zip(loaded.chunks_exact(ENTRY_SIZE as usize)) {
                at = offset + 1;
                if let Some(entry) = Entry::decode(bytes).filter(|entry| !entry.is_filler()) {
                    visit(offset, entry);
                }
            }
        }
        Ok(())
    }
}

/// What counts of a POP checkpoint's body. Source: `store/pop/PopCheckPoint.java`.
#[derive(Deserialize)]
struct Popped {
    #[serde(rename = "so")]
    start_offset: i64,
    #[serde(rename = "t")]
    topic: String,
    #[serde(rename = "q")]
    queue_id: i32,
}
