//! A store that is slow and obvious: sorted maps, no files, no tasks. It says what the real one must answer.
//!
//! It is told what it cannot know: how far a background flush has come, and where the log ended after a power loss. Both are
//! checked against what is possible.

use std::collections::{BTreeMap, BTreeSet};

use orrery_core::protocol::message::java_hash;
use orrery_core::runtime::WallMillis;
use orrery_core::store::{Boundary, Bounds, FlushMode, GetStatus};

use super::{LOG_FILE_SIZE, Message, Queue, Sent};

/// Bytes of a blank record, for which every file keeps room.
const BLANK_SIZE: u64 = 8;
/// RocketMQ's topic of delayed messages, and the first of its delay levels in milliseconds.
pub(crate) const DELAYED: &str = "SCHEDULE_TOPIC_XXXX";
pub(crate) const DELAYS_MS: [i64; 4] = [1_000, 5_000, 10_000, 30_000];

/// What a pull must give.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pull {
    pub(crate) status: GetStatus,
    pub(crate) next_offset: i64,
    pub(crate) bounds: Bounds,
    /// Positions of its records.
    pub(crate) positions: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

/// A queue: which record is at which offset.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelQueue {
    pub(crate) positions: BTreeMap<i64, u64>,
    next: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    mode: FlushMode,
    /// By position.
    pub(crate) records: BTreeMap<u64, Sent>,
    pub(crate) queues: BTreeMap<Queue, ModelQueue>,
    /// Records whose queue is gone.
    deleted: BTreeSet<u64>,
    /// Records that a power loss tore, with whole ones behind them: gaps.
    pub(crate) torn: BTreeSet<u64>,
    end: u64,
    pub(crate) written: u64,
    pub(crate) flushed: u64,
    pub(crate) log_start: u64,
    last_store_time: WallMillis,
    /// When each log file was written last.
    modified: BTreeMap<u64, WallMillis>,
    /// When recovery may have written to any of them.
    recovered: WallMillis,
    pub(crate) arrivals: Vec<(Queue, i64, i64)>,
    arrived: u64,
}

impl Model {
    pub(crate) fn new(mode: FlushMode) -> Model {
        Model {
            mode,
            records: BTreeMap::new(),
            queues: BTreeMap::new(),
            deleted: BTreeSet::new(),
            torn: BTreeSet::new(),
            end: 0,
            written: 0,
            flushed: 0,
            log_start: 0,
            last_store_time: WallMillis(0),
            modified: BTreeMap::new(),
            recovered: WallMillis(0),
            arrivals: Vec::new(),
            arrived: 0,
        }
    }

    /// The places of messages that were appended at `now`, which must be the ones that `sent` were given.
    pub(crate) fn append(&mut self, sent: Vec<Sent>, now: WallMillis) {
        let size: u64 = sent.iter().map(|sent| sent.record.len() as u64).sum();
        let used = self.end % LOG_FILE_SIZE;
        if used + size + BLANK_SIZE > LOG_FILE_SIZE {
            self.end += LOG_FILE_SIZE - used;
        }
        self.last_store_time = self.last_store_time.max(now);
        for sent in sent {
            let queue = self.queues.entry(sent.message.queue).or_default();
            assert_eq!(sent.position, self.end);
            assert_eq!(sent.queue_offset, queue.next);
            assert_eq!(sent.store_time, self.last_store_time);
            queue.next += 1;
            self.end += sent.record.len() as u64;
            self.records.insert(sent.position, sent);
        }
    }

    /// Everything appended is written at `now`.
    pub(crate) fn write(&mut self, now: WallMillis) {
        let mut file = self.written - self.written % LOG_FILE_SIZE;
        while file < self.end && self.written < self.end {
            self.modified.insert(file, now);
            file += LOG_FILE_SIZE;
        }
        self.written = self.end;
        self.show();
    }

    /// The log is durable up to there.
    pub(crate) fn flush(&mut self, upto: u64) {
        assert!(self.flushed <= upto && upto <= self.written, "flushed up to {upto}");
        self.flushed = upto;
        self.show();
    }

    pub(crate) fn confirmed(&self) -> u64 {
        match self.mode {
            FlushMode::Async => self.written,
            FlushMode::Sync => self.flushed,
        }
    }

    /// Records that have become visible enter their queues.
    fn show(&mut self) {
        let confirmed = self.confirmed();
        let shown: Vec<Sent> = self
            .records
            .range(self.arrived..confirmed)
            .map(|(_, sent)| sent.clone())
            .collect();
        for sent in shown {
            if sent.end() > confirmed {
                break;
            }
            self.arrived = sent.end();
            let arrival = (sent.message.queue, sent.queue_offset + 1, tags_code(&sent));
            self.arrivals.push(arrival);
            let queue = self.queues.get_mut(&sent.message.queue).expect("made by the append");
            queue.positions.insert(sent.queue_offset, sent.position);
        }
    }

    /// The topic's queues are gone; everything was visible.
    pub(crate) fn delete_topic(&mut self, topic: &str) {
        self.queues.retain(|queue, _| queue.0 != topic);
        let of_topic = self.records.values().filter(|sent| sent.message.queue.0 == topic);
        self.deleted.extend(of_topic.map(|sent| sent.position));
    }

    /// The process has ended and the log was found to end at `end`, by a recovery at that time.
    pub(crate) fn reopen(&mut self, end: u64, recovered: Option<WallMillis>) {
        self.recovered = recovered.unwrap_or(self.recovered);
        self.records.retain(|_, sent| sent.end() <= end);
        self.torn.retain(|position| *position < end);
        self.end = end;
        self.written = end;
        self.flushed = end;
        self.arrived = end;
        self.arrivals.clear();
        let last = self.records.values().map(|sent| sent.store_time).max();
        self.last_store_time = last.unwrap_or(WallMillis(0));
        self.queues.clear();
        for sent in self
            .records
            .values()
            .filter(|sent| !self.deleted.contains(&sent.position))
        {
            let queue = self.queues.entry(sent.message.queue).or_default();
            queue.positions.insert(sent.queue_offset, sent.position);
            queue.next = sent.queue_offset + 1;
        }
    }

    /// Store times may go on from a record that was lost.
    pub(crate) fn observe_store_time(&mut self, time: WallMillis) {
        self.last_store_time = self.last_store_time.max(time);
    }

    pub(crate) fn last_store_time(&self) -> WallMillis {
        self.last_store_time
    }

    /// Where the log starts after everything written before `expiry` is deleted.
    pub(crate) fn surely_expired(&self, expiry: WallMillis) -> u64 {
        if self.recovered > expiry {
            self.log_start
        } else {
            self.expired(expiry)
        }
    }

    /// The furthest that this can come.
    pub(crate) fn expired(&self, expiry: WallMillis) -> u64 {
        let mut start = self.log_start;
        while start + LOG_FILE_SIZE <= self.confirmed()
            && self.modified.get(&start).is_some_and(|modified| *modified <= expiry)
        {
            start += LOG_FILE_SIZE;
        }
        start
    }

    pub(crate) fn bounds(&self, queue: Queue) -> Option<Bounds> {
        let queue = self.queues.get(&queue)?;
        let max = queue.positions.last_key_value().map_or(0, |(offset, _)| offset + 1);
        let mut kept = queue
            .positions
            .iter()
            .filter(|(_, position)| **position >= self.log_start);
        let min = kept.next().map_or(max, |(offset, _)| *offset);
        Some(Bounds { min, max })
    }

    /// Where the message at an offset lies.
    pub(crate) fn position_of(&self, queue: Queue, offset: i64) -> Option<u64> {
        self.queues.get(&queue)?.positions.get(&offset).copied()
    }

    pub(crate) fn pull(&self, queue: Queue, offset: i64, limits: Limits, codes: Option<&[i64]>) -> Pull {
        let Some(bounds) = self.bounds(queue) else {
            return Pull {
                status: GetStatus::NoMatchedLogicQueue,
                next_offset: 0,
                bounds: Bounds::default(),
                positions: Vec::new(),
            };
        };
        let nothing = |status, next_offset| Pull {
            status,
            next_offset,
            bounds,
            positions: Vec::new(),
        };
        if bounds.max == 0 {
            return nothing(GetStatus::NoMessageInQueue, 0);
        } else if offset < bounds.min {
            return nothing(GetStatus::OffsetTooSmall, bounds.min);
        } else if offset == bounds.max {
            return nothing(GetStatus::OffsetOverflowOne, offset);
        } else if offset > bounds.max {
            return nothing(GetStatus::OffsetOverflowBadly, bounds.max);
        }
        let mut positions = Vec::new();
        let mut bytes = 0;
        let mut next_offset = offset;
        for (at, position) in self.queues[&queue].positions.range(offset..) {
            let sent = &self.records[position];
            let is_wanted = codes.is_none_or(|codes| codes.contains(&tags_code(sent)));
            if is_wanted && !self.torn.contains(position) {
                let is_full = positions.len() >= limits.count || bytes + sent.record.len() > limits.bytes;
                if is_full && !positions.is_empty() {
                    break;
                }
                positions.push(*position);
                bytes += sent.record.len();
                if positions.len() >= limits.count.max(1) {
                    next_offset = at + 1;
                    break;
                }
            }
            next_offset = at + 1;
        }
        Pull {
            status: if positions.is_empty() {
                GetStatus::NoMatchedMessage
            } else {
                GetStatus::Found
            },
            next_offset,
            bounds,
            positions,
        }
    }

    pub(crate) fn offset_by_time(&self, queue: Queue, time: WallMillis, boundary: Boundary) -> i64 {
        let Some(bounds) = self.bounds(queue) else { return 0 };
        let stored_at = |position: &u64| self.records[position].store_time;
        let mut inside = self.queues[&queue].positions.range(bounds.min..);
        match boundary {
            Boundary::Lower => inside
                .find(|(_, position)| stored_at(position) >= time)
                .map_or(bounds.max, |(offset, _)| *offset),
            Boundary::Upper => inside
                .rfind(|(_, position)| stored_at(position) <= time)
                .map_or(0, |(offset, _)| *offset),
        }
    }

    /// Positions of visible records of a topic with a key, newest first.
    pub(crate) fn query(&self, topic: &str, key: &str, begin: WallMillis, end: WallMillis) -> Vec<u64> {
        let visible = self.records.values().filter(|sent| {
            sent.position >= self.log_start
                && sent.end() <= self.confirmed()
                && !self.torn.contains(&sent.position)
                && sent.message.queue.0 == topic
                && sent.message.has_key(key)
                && begin <= sent.store_time
                && sent.store_time <= end
        });
        let mut positions: Vec<u64> = visible.map(|sent| sent.position).collect();
        positions.reverse();
        positions
    }

    pub(crate) fn record_at(&self, position: u64) -> Option<&[u8]> {
        let sent = self.records.get(&position)?;
        (position >= self.log_start && !self.torn.contains(&position) && sent.end() <= self.confirmed())
            .then_some(&sent.record)
    }
}

fn tags_code(sent: &Sent) -> i64 {
    let Message { queue, tag, level, .. } = &sent.message;
    match level {
        Some(level) if queue.0 == DELAYED => sent.store_time.0 + DELAYS_MS[level - 1],
        _ => tag.map_or(0, |tag| i64::from(java_hash(tag))),
    }
}
