//! # C25 Derived structures
//!
//! **Law.** Consume queues, key index and the bounds of queues say of the log exactly what the log says itself; no committed
//! offset lies beyond its queue. It holds after each start, for every record that recovery has seen (to the end of the last
//! `recovered` fact), and after a stop in order for every record. Source: `store/ConsumeQueue.java`, `store/index/IndexFile.java`.
//!
//! **Why clients depend on it.** Consumers see the log only through the queues: an entry that is missing hides a message for
//! ever, one that is wrong gives them another message or none. An offset beyond the end skips what comes next.
//!
//! **Excused.** A slot that was declared a gap may be empty. A damaged record may keep its entry or have a filler, and no key
//! leads to it. Entries and keys of records below the log's start are leftovers of deleted files. A committed offset may lie
//! below the queue's minimum: retention takes what a group has not consumed. The files of the index are judged after a
//! stop in order alone, and up to the newest record that they name, since a broker builds them behind its other work and goes
//! on with them at its next start; after a start it is asked for keys instead, of any record.
//!
//! **How.** The log is walked record by record by a parser of our own (`stored.rs`); each record is looked for in its slot, each
//! slot in the log, each key in the index and each index entry in the log. O(n).

use std::collections::{HashMap, HashSet};

use super::{Findings, Law, Property};
use crate::history::Recorded;
use crate::ledger::{KeySearch, Ledger, Snapshot};
use crate::stored::{SCHEDULE_TOPIC, StoredEntry, StoredRecord, reachable};

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C25",
        title: "derived structures differ from the log",
        needs: &[Recorded::Stores],
        also: None,
    },
    check,
};

type Slot = (u32, i32, i64);

/// A stretch of undeclared slots this long is shown by its ends.
const STRETCH_MAX: i64 = 100_000;

fn check(ledger: &Ledger, findings: &mut Findings) {
    for snapshot in &ledger.snapshots {
        let mut tell = |text: String| findings.violation(snapshot.t, format!("store of {}: {text}", snapshot.broker));
        let view = View::new(ledger, snapshot);
        view.records(&mut tell);
        view.entries(&mut tell);
        view.bounds(&mut tell);
        view.committed(&mut tell);
        if snapshot.is_complete {
            index(snapshot, &mut tell);
        }
    }
    for search in &ledger.key_searches {
        let snapshot = &ledger.snapshots[search.snapshot];
        key_search(snapshot, search, &mut |text| {
            findings.violation(search.t, format!("index of {}: {text}", snapshot.broker));
        });
    }
}

/// What the log says of a queue.
#[derive(Clone, Copy)]
struct Extent {
    /// Its first record.
    first: i64,
    /// Behind its last record that recovery has seen.
    seen_end: i64,
    /// Behind its last record.
    end: i64,
}

/// A snapshot, by slot and by position.
struct View<'a> {
    ledger: &'a Ledger,
    snapshot: &'a Snapshot,
    slots: HashMap<Slot, StoredEntry>,
    by_position: HashMap<u64, &'a StoredRecord>,
    extents: HashMap<(u32, i32), Extent>,
}

impl<'a> View<'a> {
    fn new(ledger: &'a Ledger, snapshot: &'a Snapshot) -> View<'a> {
        let stored = &snapshot.stored;
        let entries = stored.queues.iter().flat_map(|queue| {
            let slot = |entry: &StoredEntry| ((queue.topic, queue.id, entry.offset), *entry);
            queue.entries.iter().map(slot)
        });
        let mut extents: HashMap<(u32, i32), Extent> = HashMap::new();
        for record in stored.records.iter().filter(|record| record.is_queued) {
            let extent = extents.entry((record.topic, record.queue)).or_insert(Extent {
                first: record.offset,
                seen_end: 0,
                end: 0,
            });
            extent.end = extent.end.max(record.offset + 1);
            if is_seen(snapshot, record) {
                extent.seen_end = extent.seen_end.max(record.offset + 1);
            }
        }
        View {
            ledger,
            snapshot,
            slots: entries.collect(),
            by_position: stored.records.iter().map(|record| (record.position, record)).collect(),
            extents,
        }
    }

    fn name(&self, topic: u32, queue: i32) -> String {
        format!("{}:{queue}", self.snapshot.stored.topics[topic as usize])
    }

    fn is_declared(&self, topic: u32, queue: i32, offset: i64) -> bool {
        let topic = &self.snapshot.stored.topics[topic as usize];
        self.ledger.is_declared(&self.snapshot.broker, topic, queue, offset)
    }

    /// Each record of the log is in its slot.
    fn records(&self, tell: &mut impl FnMut(String)) {
        let mut taken: HashSet<Slot> = HashSet::new();
        let mut last_time = i64::MIN;
        for record in &self.snapshot.stored.records {
            if record.time < last_time {
                tell(format!(
                    "the record at {} was stored before the one in front of it",
                    record.position
                ));
            }
            last_time = record.time;
            if !record.is_queued || !is_seen(self.snapshot, record) {
                continue;
            }
            let slot = (record.topic, record.queue, record.offset);
            let queue = || self.name(record.topic, record.queue);
            if !taken.insert(slot) {
                tell(format!("two records for offset {} of {}", record.offset, queue()));
            }
            match self.slots.get(&slot) {
                None => tell(format!(
                    "{} lacks offset {}, the record at {}",
                    queue(),
                    record.offset,
                    record.position
                )),
                Some(entry) if record.is_damaged && entry.is_filler() => {}
                Some(entry) if !names(self.snapshot, entry, record) => tell(format!(
                    "offset {} of {} names {entry:?}, the log says {record:?}",
                    record.offset,
                    queue()
                )),
                Some(_) => {}
            }
        }
    }

    /// Each entry of a queue follows the one in front of it and names a record, or is a declared gap.
    fn entries(&self, tell: &mut impl FnMut(String)) {
        let stored = &self.snapshot.stored;
        for queue in &stored.queues {
            let queue_name = || self.name(queue.topic, queue.id);
            let mut expected = queue.entries.first().map_or(0, |entry| entry.offset);
            let first_solid = queue.entries.iter().find(|entry| !entry.is_filler());
            for entry in &queue.entries {
                if entry.offset != expected {
                    tell(format!(
                        "{} has nothing at [{expected}, {})",
                        queue_name(),
                        entry.offset
                    ));
                }
                expected = entry.offset + 1;
                if entry.is_filler() {
                    let is_before = first_solid.is_some_and(|first| entry.offset < first.offset);
                    if !is_before && !self.is_declared(queue.topic, queue.id, entry.offset) {
                        tell(format!(
                            "offset {} of {} is a gap that nobody declared",
                            entry.offset,
                            queue_name()
                        ));
                    }
                    continue;
                }
                let record = self.by_position.get(&entry.position);
                if entry.position >= stored.start && record.is_none_or(|record| !names(self.snapshot, entry, record)) {
                    tell(format!(
                        "offset {} of {} names {entry:?}, where no such record is",
                        entry.offset,
                        queue_name()
                    ));
                }
            }
        }
    }

    /// What the broker says of its queues is what the log says.
    fn bounds(&self, tell: &mut impl FnMut(String)) {
        let stored = &self.snapshot.stored;
        let mut said = HashSet::new();
        for bounds in &self.snapshot.bounds {
            let queue = || format!("{}:{}", bounds.topic, bounds.queue);
            let declared = |offset| {
                let broker = &self.snapshot.broker;
                self.ledger.is_declared(broker, &bounds.topic, bounds.queue, offset)
            };
            let topic = stored.topics.iter().position(|topic| *topic == bounds.topic);
            let extent = topic.and_then(|topic| {
                said.insert((topic as u32, bounds.queue));
                self.extents.get(&(topic as u32, bounds.queue)).copied()
            });
            let Extent { first, seen_end, end } = extent.unwrap_or(Extent {
                first: bounds.max,
                seen_end: bounds.min,
                end: bounds.min,
            });
            let end = (end..end.saturating_add(STRETCH_MAX))
                .find(|offset| !declared(*offset))
                .unwrap_or(end);
            if bounds.max < seen_end || bounds.max > end {
                tell(format!(
                    "{} is said to end at {}, the log says {seen_end} to {end}",
                    queue(),
                    bounds.max
                ));
            }
            let is_begun =
                bounds.min <= first && first - bounds.min <= STRETCH_MAX && (bounds.min..first).all(declared);
            if bounds.min < 0 || !is_begun {
                tell(format!(
                    "{} is said to begin at {}, the log says {first}",
                    queue(),
                    bounds.min
                ));
            }
        }
        if self.snapshot.is_complete {
            return;
        }
        for ((topic, queue), extent) in &self.extents {
            if extent.seen_end > 0 && !said.contains(&(*topic, *queue)) {
                tell(format!("the broker knows nothing of {}", self.name(*topic, *queue)));
            }
        }
    }

    /// No committed offset lies beyond its queue.
    fn committed(&self, tell: &mut impl FnMut(String)) {
        let stored = &self.snapshot.stored;
        for line in &stored.committed {
            let topic = stored.topics.iter().position(|topic| *topic == line.topic);
            let end = topic.map_or(0, |topic| self.end(topic as u32, line.queue));
            if line.offset > end || line.offset < 0 {
                tell(format!(
                    "{} has committed offset {} of {}:{}, which ends at {end}",
                    line.group, line.offset, line.topic, line.queue
                ));
            }
        }
    }

    /// Behind everything that is known of a queue.
    fn end(&self, topic: u32, queue: i32) -> i64 {
        let stored = &self.snapshot.stored;
        let in_log = self.extents.get(&(topic, queue)).map_or(0, |extent| extent.end);
        let mut files = stored.queues.iter();
        let files = files.find(|files| (files.topic, files.id) == (topic, queue));
        let in_files = files
            .and_then(|files| files.entries.last())
            .map_or(0, |entry| entry.offset + 1);
        let end = in_log.max(in_files);
        (end..end + STRETCH_MAX)
            .find(|offset| !self.is_declared(topic, queue, *offset))
            .unwrap_or(end)
    }
}

fn is_seen(snapshot: &Snapshot, record: &StoredRecord) -> bool {
    record.position + u64::from(record.size) <= snapshot.upto
}

fn names(snapshot: &Snapshot, entry: &StoredEntry, record: &StoredRecord) -> bool {
    let is_delayed = snapshot.stored.topics[record.topic as usize] == SCHEDULE_TOPIC;
    let code = match is_delayed {
        true => entry.tags_code > record.time,
        false => entry.tags_code == record.tags_code,
    };
    let place = entry.position == record.position && i64::from(entry.size) == i64::from(record.size);
    // What a damaged record says of its tag is no truth.
    place && (code || record.is_damaged)
}

fn index(snapshot: &Snapshot, tell: &mut impl FnMut(String)) {
    let stored = &snapshot.stored;
    let reachable = reachable(stored);
    let newest = stored.index.iter().map(|(_, position)| *position).max();
    let mut keys: HashSet<(u32, u64)> = HashSet::new();
    for record in &stored.records {
        let is_indexed = newest.is_some_and(|newest| record.position < newest);
        for key in &record.keys {
            let entry = (*key, record.position);
            keys.insert(entry);
            if is_indexed && !reachable.contains(&entry) {
                tell(format!(
                    "the index does not lead to a key of the record at {}",
                    record.position
                ));
            }
        }
    }
    let damaged = stored.records.iter().filter(|record| record.is_damaged);
    let damaged: HashSet<u64> = damaged.map(|record| record.position).collect();
    for (key, position) in &stored.index {
        if *position >= stored.start && !damaged.contains(position) && !keys.contains(&(*key, *position)) {
            tell(format!("the index leads to {position} for a key that is not there"));
        }
    }
}

fn key_search(snapshot: &Snapshot, search: &KeySearch, tell: &mut impl FnMut(String)) {
    let record_at = |position: u64| {
        let records = &snapshot.stored.records;
        let found = records.binary_search_by_key(&position, |record| record.position);
        found.ok().map(|index| &records[index])
    };
    if !search.found.contains(&search.position) {
        tell(format!(
            "a key of the record at {} does not lead to it",
            search.position
        ));
    }
    for &position in &search.found {
        if record_at(position).is_some_and(|record| !record.keys.contains(&search.key)) {
            tell(format!(
                "a key of the record at {} leads to the one at {position}, which lacks it",
                search.position
            ));
        }
    }
}
