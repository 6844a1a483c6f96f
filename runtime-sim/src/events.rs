//! Things that will happen, by true time. One task of the world carries them out; nothing else has a timer in madsim.

use std::collections::{BTreeMap, BTreeSet};

use crate::net::NetEvent;

pub(crate) enum Event {
    /// A sleeper's time has come: slot in the timer table.
    Timer(usize),
    Net(NetEvent),
    /// A node's disk stall may be over.
    StallEnd(usize),
}

/// When, and in which order within that instant.
pub(crate) type EventKey = (u64, u64);

#[derive(Default)]
pub(crate) struct EventQueue {
    events: BTreeMap<EventKey, Event>,
    /// Instants for which madsim will wake the world's task. Never cancelled, so each is registered once.
    alarms: BTreeSet<u64>,
    count: u64,
}

impl EventQueue {
    pub(crate) fn push(&mut self, at_ns: u64, event: Event) -> EventKey {
        self.count += 1;
        let key = (at_ns, self.count);
        self.events.insert(key, event);
        key
    }

    pub(crate) fn cancel(&mut self, key: EventKey) {
        self.events.remove(&key);
    }

    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<Event> {
        let entry = self.events.first_entry()?;
        (entry.key().0 <= now_ns).then(|| entry.remove())
    }

    /// The instant for which an alarm must be registered now, if any.
    pub(crate) fn alarm_needed(&mut self, now_ns: u64) -> Option<u64> {
        let next = self.events.first_key_value()?.0.0.max(now_ns);
        if self.alarms.first().is_some_and(|&alarm| alarm <= next) {
            return None;
        }
        self.alarms.insert(next);
        Some(next)
    }

    /// Forgets alarms that have rung.
    pub(crate) fn rang(&mut self, now_ns: u64) {
        while self.alarms.first().is_some_and(|&alarm| alarm <= now_ns) {
            self.alarms.pop_first();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn clear(&mut self) {
        self.events.clear();
    }
}
