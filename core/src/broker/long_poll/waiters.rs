//! Who waits for the next message of which queue: a table, no tasks. Woken by arrivals, not by scanning: a queue
//! without a waiter costs one look-up, a queue without messages costs nothing.
//!
//! Invariants: a waiter stands in exactly one queue list, one connection set and the deadlines; taking it removes it
//! from all of them; an empty list does not exist.

use std::collections::{BTreeMap, BTreeSet};

use crate::broker::state::clients::ConnectionId;
use crate::runtime::Mono;
use crate::store::TagFilter;
use crate::types::Map;

/// Names a waiter for as long as it waits. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WaiterId(u64);

/// What is waited for, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) topic: &'a str,
    pub(crate) queue_id: i32,
    /// The queue's end when the waiter looked: anything beyond it wakes.
    pub(crate) offset: i64,
    pub(crate) filter: TagFilter,
    pub(crate) connection: ConnectionId,
    pub(crate) deadline: Mono,
}

#[derive(Debug)]
struct Waiter<T> {
    topic: String,
    queue_id: i32,
    offset: i64,
    filter: TagFilter,
    connection: ConnectionId,
    deadline: Mono,
    held: T,
}

/// As many wait as may: [`Waiters::hold`] gives back what it was to hold.
#[derive(Debug)]
pub(crate) struct Full<T>(pub(crate) T);

#[derive(Debug)]
pub(crate) struct Waiters<T> {
    waiters: Map<WaiterId, Waiter<T>>,
    queues: Map<String, BTreeMap<i32, Vec<WaiterId>>>,
    connections: Map<ConnectionId, BTreeSet<WaiterId>>,
    deadlines: BTreeSet<(Mono, WaiterId)>,
    next_id: u64,
    count_max: usize,
}

impl<T> Waiters<T> {
    pub(crate) fn new(count_max: usize) -> Waiters<T> {
        Waiters {
            waiters: Map::default(),
            queues: Map::default(),
            connections: Map::default(),
            deadlines: BTreeSet::new(),
            next_id: 0,
            count_max,
        }
    }

    pub(crate) fn hold(&mut self, wanted: &Wanted<'_>, held: T) -> Result<WaiterId, Full<T>> {
        if self.waiters.len() >= self.count_max {
            return Err(Full(held));
        }
        let id = WaiterId(self.next_id);
        self.next_id += 1;
        if !self.queues.contains_key(wanted.topic) {
            self.queues.insert(wanted.topic.to_owned(), BTreeMap::new());
        }
        let queues = self.queues.get_mut(wanted.topic).expect("inserted above");
        queues.entry(wanted.queue_id).or_default().push(id);
        self.connections.entry(wanted.connection).or_default().insert(id);
        self.deadlines.insert((wanted.deadline, id));
        self.waiters.insert(
            id,
            Waiter {
                topic: wanted.topic.to_owned(),
                queue_id: wanted.queue_id,
                offset: wanted.offset,
                filter: wanted.filter.clone(),
                connection: wanted.connection,
                deadline: wanted.deadline,
                held,
            },
        );
        Ok(id)
    }

    /// A message is visible; moves those who waited for it to `woken`, in the order in which they came.
    pub(crate) fn arrived(&mut self, topic: &str, queue_id: i32, next_offset: i64, tags_code: i64, woken: &mut Vec<T>) {
        let Some(list) = self.queues.get(topic).and_then(|queues| queues.get(&queue_id)) else {
            return;
        };
        let wakes = |id: &WaiterId| {
            let waiter = &self.waiters[id];
            next_offset > waiter.offset && waiter.filter.passes(tags_code)
        };
        let ids: Vec<WaiterId> = list.iter().copied().filter(wakes).collect();
        woken.extend(ids.into_iter().filter_map(|id| self.take(id)));
    }

    /// Those who have waited long enough.
    pub(crate) fn due(&mut self, now: Mono) -> Vec<T> {
        let mut due = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            due.extend(self.take(id));
        }
        due
    }

    /// Drops what a closed connection waited for.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        let ids = self.connections.get(&connection).cloned().unwrap_or_default();
        for id in ids {
            self.take(id);
        }
    }

    /// Takes one waiter out, if it still waits.
    pub(crate) fn take(&mut self, id: WaiterId) -> Option<T> {
        let waiter = self.waiters.remove(&id)?;
        self.deadlines.remove(&(waiter.deadline, id));
        if let Some(queues) = self.queues.get_mut(&waiter.topic) {
            if let Some(list) = queues.get_mut(&waiter.queue_id) {
                list.retain(|other| *other != id);
                if list.is_empty() {
                    queues.remove(&waiter.queue_id);
                }
            }
            if queues.is_empty() {
                self.queues.remove(&waiter.topic);
            }
        }
        if let Some(ids) = self.connections.get_mut(&waiter.connection) {
            ids.remove(&id);
            if ids.is_empty() {
                self.connections.remove(&waiter.connection);
            }
        }
        Some(waiter.held)
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        let listed: usize = self.queues.values().flat_map(BTreeMap::values).map(Vec::len).sum();
        assert_eq!(listed, self.waiters.len(), "each waiter stands in one queue list");
        let connected: usize = self.connections.values().map(BTreeSet::len).sum();
        assert_eq!(connected, self.waiters.len(), "each waiter belongs to one connection");
        assert_eq!(self.deadlines.len(), self.waiters.len(), "each waiter has a deadline");
        assert!(self.queues.values().all(|queues| !queues.is_empty()), "no empty topic");
        assert!(
            self.queues
                .values()
                .flat_map(BTreeMap::values)
                .all(|list| !list.is_empty()),
            "no empty list"
        );
        assert!(self.waiters.len() <= self.count_max);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted(topic: &str, queue_id: i32, offset: i64) -> Wanted<'_> {
        Wanted {
            topic,
            queue_id,
            offset,
            filter: TagFilter::All,
            connection: 1,
            deadline: Mono(100),
        }
    }

    #[test]
    fn an_arrival_wakes_those_who_wait_on_that_queue_for_that_offset_and_tag() {
        let mut waiters = Waiters::new(10);
        waiters.hold(&wanted("T", 0, 5), "at 5").unwrap();
        waiters.hold(&wanted("T", 0, 6), "at 6").unwrap();
        waiters.hold(&wanted("T", 1, 5), "other queue").unwrap();
        let tagged = Wanted {
            filter: TagFilter::codes([7]),
            ..wanted("T", 0, 5)
        };
        waiters.hold(&tagged, "tag 7").unwrap();
        let mut woken = Vec::new();
        waiters.arrived("T", 0, 6, 3, &mut woken);
        assert_eq!(woken, ["at 5"]);
        waiters.arrived("T", 0, 7, 7, &mut woken);
        assert_eq!(woken, ["at 5", "at 6", "tag 7"]);
        assert_eq!(waiters.len(), 1);
        waiters.check_invariants();
    }

    #[test]
    fn waiters_end_at_their_deadline_or_with_their_connection() {
        let mut waiters = Waiters::new(10);
        waiters.hold(&wanted("T", 0, 5), 1).unwrap();
        let later = Wanted {
            deadline: Mono(200),
            connection: 2,
            ..wanted("T", 0, 5)
        };
        waiters.hold(&later, 2).unwrap();
        assert_eq!(waiters.next_deadline(), Some(Mono(100)));
        assert_eq!(waiters.due(Mono(100)), [1]);
        assert!(waiters.due(Mono(199)).is_empty());
        waiters.forget(2);
        assert_eq!(waiters.next_deadline(), None);
        waiters.check_invariants();
    }

    #[test]
    fn past_the_limit_what_was_to_be_held_comes_back() {
        let mut waiters = Waiters::new(1);
        waiters.hold(&wanted("T", 0, 5), 1).unwrap();
        assert_eq!(waiters.hold(&wanted("T", 0, 5), 2).unwrap_err().0, 2);
    }

    proptest! {
        #[test]
        fn any_order_of_events_keeps_the_invariants(steps in prop::collection::vec((0u8..4, 0i32..3, 0i64..5, 0u64..4), 0..100)) {
            let mut waiters = Waiters::new(20);
            for (action, queue_id, offset, number) in steps {
                match action {
                    0 | 1 => {
                        let at = Wanted { connection: number, deadline: Mono(number * 10), ..wanted("T", queue_id, offset) };
                        let _ = waiters.hold(&at, ());
                    }
                    2 => waiters.arrived("T", queue_id, offset, 0, &mut Vec::new()),
                    _ if offset > 2 => waiters.forget(number),
                    _ => { waiters.due(Mono(number * 10)); }
                }
                waiters.check_invariants();
            }
        }
    }
}
