//! Reads brokers' directories after each start and after each stop in order, and asks a broker that has just started for messages
//! by time and by key. What it reads is parsed by the checker's own hand and judged there (C25, C28).
//!
//! Not on anybody's way: reading takes no simulated time. The questions do, and they bring pages into memory: while
//! clients work there are a few, afterwards many.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use orrery_checker::history::{Boundary, Event, Queue};
use orrery_checker::stored::{Files, Stored, StoredBounds, StoredRecord};
use orrery_core::runtime::{Runtime, WallMillis};
use orrery_core::store::{self, Bounds, Store};
use orrery_runtime_sim::{Draw, NodeId, SimRuntime, World};

use crate::recorder::Recorder;

/// Where brokers keep their stores.
pub(crate) const STORE: &str = "/store";
/// Exists while a store is open, and after a crash.
const ABORT: &str = "abort";
/// A disk that stalls may keep an index from catching up in time: a question is asked again.
const TRIES: usize = 8;
/// Younger than every message.
const FAR: i64 = 4_000_000_000_000;

/// How many questions a start is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    queues: usize,
    times: usize,
    keys: usize,
}

/// While clients work.
pub(crate) const AT_WORK: Effort = Effort {
    queues: 2,
    times: 2,
    keys: 4,
};
/// Afterwards.
pub(crate) const AT_REST: Effort = Effort {
    queues: 64,
    times: 8,
    keys: 64,
};

/// One broker's directory.
pub(crate) struct Directory<'a> {
    pub(crate) name: &'a str,
    /// Slots of an index file (`maxHashSlotNum`); `None` without an index.
    pub(crate) index_slots: Option<u32>,
    pub(crate) recorder: &'a Recorder,
}

/// What a start has left, and whom to ask about it.
struct Start<'a> {
    store: &'a Store<SimRuntime>,
    files: Files<'a>,
    stored: Stored,
    /// The queues when the files were read.
    bounds: BTreeMap<(String, i32), Bounds>,
    effort: Effort,
}

impl Directory<'_> {
    /// Right after the broker has started.
    pub(crate) async fn after_start(&self, rt: &SimRuntime, store: &Store<SimRuntime>, effort: Effort) {
        // Facts carry the node's time, which a stall of its disk lets run ahead of the true one that the history has.
        rt.sleep(Duration::from_micros(1)).await;
        let (world, node) = (rt.world(), rt.node());
        let bytes = read(world, node);
        let files = self.files(&bytes);
        let start = Start {
            store,
            stored: files.read(false),
            files,
            bounds: bounds(store),
            effort,
        };
        self.tell(start.stored.clone(), false, said(&start.bounds));
        let draw = world
            .draw("questions")
            .with(Draw::new(0, self.name).bits())
            .with(world.now().as_nanos() as u64);
        self.search_by_time(&start, draw.with(1)).await;
        if self.index_slots.is_some() {
            self.search_by_key(&start, rt, draw.with(2)).await;
        }
    }

    /// After a stop: says so if it was one in order.
    pub(crate) fn after_stop(&self, world: &World, node: NodeId) {
        let bytes = read(world, node);
        if bytes.contains_key(Path::new(ABORT)) {
            return;
        }
        let mut stored = self.files(&bytes).read(self.index_slots.is_some());
        if self.index_slots.is_none() {
            stored.records.iter_mut().for_each(|record| record.keys.clear());
        }
        self.tell(stored, true, Vec::new());
    }

    fn files<'a>(&self, bytes: &'a BTreeMap<PathBuf, Bytes>) -> Files<'a> {
        let slots = self.index_slots.unwrap_or(1) as usize;
        Files::new(bytes.iter().map(|(path, bytes)| (path.as_path(), &bytes[..])), slots)
    }

    fn tell(&self, stored: Stored, complete: bool, bounds: Vec<StoredBounds>) {
        self.recorder.tell(Event::Stored {
            broker: self.name.to_owned(),
            complete,
            stored: Box::new(stored),
            bounds,
        });
    }

    async fn search_by_time(&self, start: &Start<'_>, draw: Draw) {
        let Start {
            store, stored, effort, ..
        } = start;
        let filled = start.bounds.iter().filter(|(_, bounds)| bounds.max > bounds.min);
        let queues: Vec<_> = filled.collect();
        for (number, ((topic, id), bounds)) in some(&queues, effort.queues, draw).into_iter().enumerate() {
            let draw = draw.with(1_000 + number as u64);
            let Some(topic_number) = stored.topics.iter().position(|name| name == topic) else {
                continue;
            };
            let is_of = |record: &&StoredRecord| record.topic as usize == topic_number && record.queue == *id;
            let times: Vec<i64> = stored.records.iter().filter(is_of).map(|record| record.time).collect();
            let mut asked: Vec<i64> = some(&times, effort.times, draw)
                .into_iter()
                .enumerate()
                .map(|(index, time)| time + [0, 0, -1, 1][draw.with(index as u64).below(4) as usize])
                .collect();
            if effort.times > AT_WORK.times {
                asked.extend([0, FAR]);
            }
            for time in asked {
                for boundary in [Boundary::Lower, Boundary::Upper] {
                    let offset = store
                        .offset_by_time(topic, *id, WallMillis(time), theirs(boundary))
                        .await;
                    // A queue that grew meanwhile may answer with what came.
                    let (Ok(offset), true) = (offset, store.bounds(topic, *id) == Some(*bounds)) else {
                        continue;
                    };
                    self.recorder.tell(Event::SearchedByTime {
                        queue: Queue {
                            topic: topic.clone(),
                            broker: self.name.to_owned(),
                            id: *id,
                        },
                        time,
                        boundary,
                        offset,
                    });
                }
            }
        }
    }

    async fn search_by_key(&self, start: &Start<'_>, rt: &SimRuntime, draw: Draw) {
        let stored = &start.stored;
        let is_visible = |record: &&StoredRecord| {
            let queue = (stored.topics[record.topic as usize].clone(), record.queue);
            let bounds = start.bounds.get(&queue);
            record.is_queued && !record.is_damaged && bounds.is_some_and(|bounds| record.offset < bounds.max)
        };
        let records: Vec<&StoredRecord> = stored.records.iter().filter(is_visible).collect();
        for record in some(&records, start.effort.keys, draw) {
            let Some(key) = start.files.unique_key(record) else {
                continue;
            };
            let mut found = Vec::new();
            for _ in 0..TRIES {
                let times = (WallMillis(0), WallMillis(FAR));
                let Ok(answer) = start.store.query(&key.topic, &key.key, 64, times.0, times.1).await else {
                    return;
                };
                found = answer.iter().filter_map(|record| position(record)).collect();
                if found.contains(&record.position) {
                    break;
                }
                rt.sleep(Duration::from_millis(500)).await;
            }
            self.recorder.tell(Event::SearchedByKey {
                broker: self.name.to_owned(),
                key: key.hash,
                position: record.position,
                found,
            });
        }
    }
}

/// The files of the store, by path below it.
fn read(world: &World, node: NodeId) -> BTreeMap<PathBuf, Bytes> {
    let files = world.files(node, Path::new(STORE));
    let root = Path::new(STORE.trim_start_matches('/'));
    let below = |path: PathBuf| path.strip_prefix(root).map(Path::to_path_buf).unwrap_or(path);
    files.into_iter().map(|(path, bytes)| (below(path), bytes)).collect()
}

fn bounds(store: &Store<SimRuntime>) -> BTreeMap<(String, i32), Bounds> {
    let queues = store.queues().into_iter();
    queues
        .map(|(name, bounds)| ((name.topic.to_string(), name.queue_id), bounds))
        .collect()
}

fn said(bounds: &BTreeMap<(String, i32), Bounds>) -> Vec<StoredBounds> {
    let bounds = bounds.iter();
    bounds
        .map(|((topic, queue), bounds)| StoredBounds {
            topic: topic.clone(),
            queue: *queue,
            min: bounds.min,
            max: bounds.max,
        })
        .collect()
}

/// The first, the last, and some between, at most `count` of them.
fn some<T: Clone>(all: &[T], count: usize, draw: Draw) -> Vec<T> {
    if all.len() <= count {
        return all.to_vec();
    }
    let between = (0..count as u64).map(|number| draw.with(number).below(all.len() as u64) as usize);
    let mut chosen: Vec<usize> = between.collect();
    if let [first, .., last] = &mut chosen[..] {
        *first = if draw.with(78).happens(0.5) { 0 } else { *first };
        *last = all.len() - 1;
    }
    chosen.sort_unstable();
    chosen.dedup();
    chosen.into_iter().map(|index| all[index].clone()).collect()
}

fn theirs(boundary: Boundary) -> store::Boundary {
    match boundary {
        Boundary::Lower => store::Boundary::Lower,
        Boundary::Upper => store::Boundary::Upper,
    }
}

/// Where a record says that it lies.
fn position(record: &[u8]) -> Option<u64> {
    let bytes = record.get(28..36)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
