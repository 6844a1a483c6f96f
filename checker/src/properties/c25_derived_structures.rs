//! # C25 Derived structures
//!
//! **Law.** Consume queues and key index say of the log exactly what the log says itself; no committed offset lies beyond its queue.
//! It holds after each start, for everything that recovery has seen, and at the end, after a stop in order, for everything.
//!
//! **Why clients depend on it.** Consumers see the log only through the queues: an entry that is missing hides a message for
//! ever, one that is wrong gives them another message or none. An offset beyond the end skips what comes next.
//!
//! **How.** The directory is read by a parser of our own (`stored.rs`); each record is looked for in its slot, each slot in the
//! log, each key in the index and each index entry in the log. Slots that were declared gaps may be empty. O(n).

use std::collections::{HashMap, HashSet};

use super::{Findings, Property};
use crate::history::Recorded;
use crate::ledger::{Ledger, Snapshot};
use crate::stored::{SCHEDULE_TOPIC, StoredEntry, StoredRecord, reachable};

pub(super) const PROPERTY: Property = Property {
    id: "C25",
    title: "derived structures differ from the log",
    needs: &[Recorded::Stores],
    check,
};

type Slot = (u32, i32, i64);

fn check(ledger: &Ledger, findings: &mut Findings) {
    for snapshot in &ledger.snapshots {
        let mut tell = |text: String| findings.violation(snapshot.t, format!("store of {}: {text}", snapshot.broker));
        let entries = entries(snapshot);
        queues(ledger, snapshot, &entries, &mut tell);
        if snapshot.is_complete {
            index(snapshot, &mut tell);
        }
        committed(snapshot, &entries, &mut tell);
    }
}

fn entries(snapshot: &Snapshot) -> HashMap<Slot, StoredEntry> {
    let queues = snapshot.stored.queues.iter();
    queues
        .flat_map(|queue| {
            queue
                .entries
                .iter()
                .map(|entry| ((queue.topic, queue.id, entry.offset), *entry))
        })
        .collect()
}

fn name(snapshot: &Snapshot, topic: u32, queue: i32) -> String {
    format!("{}:{queue}", snapshot.stored.topics[topic as usize])
}

fn queues(ledger: &Ledger, snapshot: &Snapshot, entries: &HashMap<Slot, StoredEntry>, tell: &mut impl FnMut(String)) {
    let stored = &snapshot.stored;
    let mut by_position: HashMap<u64, &StoredRecord> = HashMap::new();
    let mut slots: HashSet<Slot> = HashSet::new();
    let mut last_time = i64::MIN;
    for record in &stored.records {
        by_position.insert(record.position, record);
        if record.time < last_time {
            tell(format!(
                "the record at {} was stored before the one in front of it",
                record.position
            ));
        }
        last_time = record.time;
        if !record.is_queued || record.position + u64::from(record.size) > snapshot.upto {
            continue;
        }
        let slot = (record.topic, record.queue, record.offset);
        let queue = || name(snapshot, record.topic, record.queue);
        if !slots.insert(slot) {
            tell(format!("two records for offset {} of {}", record.offset, queue()));
        }
        match entries.get(&slot) {
            None => tell(format!(
                "{} lacks offset {}, the record at {}",
                queue(),
                record.offset,
                record.position
            )),
            Some(entry) if !names(snapshot, entry, record) => tell(format!(
                "offset {} of {} names {entry:?}, the log says {record:?}",
                record.offset,
                queue()
            )),
            Some(_) => {}
        }
    }
    for queue in &stored.queues {
        let queue_name = || name(snapshot, queue.topic, queue.id);
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
                if !is_before && !ledger.is_declared(snapshot, queue, entry.offset) {
                    tell(format!(
                        "offset {} of {} is a gap that nobody declared",
                        entry.offset,
                        queue_name()
                    ));
                }
                continue;
            }
            let record = by_position.get(&entry.position);
            if entry.position >= stored.start && record.is_none_or(|record| !names(snapshot, entry, record)) {
                tell(format!(
                    "offset {} of {} names {entry:?}, where no such record is",
                    entry.offset,
                    queue_name()
                ));
            }
        }
    }
}

fn names(snapshot: &Snapshot, entry: &StoredEntry, record: &StoredRecord) -> bool {
    let is_delayed = snapshot.stored.topics[record.topic as usize] == SCHEDULE_TOPIC;
    let code = match is_delayed {
        true => entry.tags_code > record.time,
        false => entry.tags_code == record.tags_code,
    };
    entry.position == record.position && i64::from(entry.size) == i64::from(record.size) && code
}

fn index(snapshot: &Snapshot, tell: &mut impl FnMut(String)) {
    let stored = &snapshot.stored;
    let reachable = reachable(stored);
    let mut keys: HashSet<(u32, u64)> = HashSet::new();
    for record in &stored.records {
        for key in &record.keys {
            let entry = (*key, record.position);
            keys.insert(entry);
            if !reachable.contains(&entry) {
                tell(format!(
                    "the index does not lead to a key of the record at {}",
                    record.position
                ));
            }
        }
    }
    for (key, position) in &stored.index {
        if *position >= stored.start && !keys.contains(&(*key, *position)) {
            tell(format!("the index leads to {position} for a key that is not there"));
        }
    }
}

fn committed(snapshot: &Snapshot, entries: &HashMap<Slot, StoredEntry>, tell: &mut impl FnMut(String)) {
    let stored = &snapshot.stored;
    let mut ends: HashMap<(u32, i32), i64> = HashMap::new();
    let slots = entries.keys().copied();
    let records = stored.records.iter().filter(|record| record.is_queued);
    for (topic, queue, offset) in slots.chain(records.map(|record| (record.topic, record.queue, record.offset))) {
        let end = ends.entry((topic, queue)).or_default();
        *end = (*end).max(offset + 1);
    }
    for line in &stored.committed {
        let topic = stored.topics.iter().position(|topic| *topic == line.topic);
        let end = topic
            .and_then(|topic| ends.get(&(topic as u32, line.queue)))
            .copied()
            .unwrap_or(0);
        if line.offset > end || line.offset < 0 {
            tell(format!(
                "{} has committed offset {} of {}:{}, which ends at {end}",
                line.group, line.offset, line.topic, line.queue
            ));
        }
    }
}
