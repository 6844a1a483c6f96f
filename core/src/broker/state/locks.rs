//! Queue locks of orderly groups: one owner per queue, by lease. Which client *should* have a queue is the clients'
//! affair; this table only keeps two of them from believing in the same one.
//!
//! ```text
//! client believes        |<---- 30 s ---->|           counted from the reply it received
//! broker keeps refusing  |<------------ 60 s ------------>|   counted from the grant
//! ```
//!
//! Over a restart: every change of owner is saved durably *before* it is answered, so the file names, for each queue,
//! the only client that can believe in a lock. At start each saved owner holds its queues for one lease from the
//! start, which is later than any lease it was granted. The owner re-locks at once (clients renew every 20 s), others
//! wait at most a lease; a queue that the file does not name is free. If the file is missing beside a store that is
//! not empty, or does not read, nobody knows the owners: then no queue is granted to anyone for one lease.
//! Renewals and unlocks are not saved: they never add an owner.
//!
//! Invariants: a queue has at most one owner; a grant to another owner happens at or after the end of the lease or
//! after an unlock by the owner.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::runtime::Mono;
use crate::types::Map;

/// How long a lock holds after the last grant (`RebalanceLockManager.java`, `REBALANCE_LOCK_MAX_LIVE_TIME`). Twice
/// what a client believes, which leaves room for clock drift and a late reply.
pub const LEASE: Duration = Duration::from_secs(60);

/// What a client believes after a successful lock (`ProcessQueue.java`, `REBALANCE_LOCK_MAX_LIVE_TIME`).
pub const CLIENT_VALIDITY: Duration = Duration::from_secs(30);

const _: () = assert!(LEASE.as_secs() >= 2 * CLIENT_VALIDITY.as_secs());

#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    owner: String,
    until: Mono,
}

/// Answer to one queue of a lock request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client holds it already: the lease is renewed.
    Renew,
    /// Nobody holds it: the client becomes the owner, once that is durable.
    Take,
    /// Another client may still believe in it.
    Refuse,
}

#[derive(Clone, Debug, Default)]
pub struct QueueLocks {
    groups: Map<String, BTreeMap<(String, i32), Holder>>,
    unknown_until: Option<Mono>,
}

impl QueueLocks {
    pub fn judge(&self, now: Mono, group: &str, topic: &str, queue_id: i32, client: &str) -> Verdict {
        match self.holder(group, topic, queue_id) {
            Some(holder) if holder.owner == client => Verdict::Renew,
            Some(holder) if now < holder.until => Verdict::Refuse,
            _ if self.unknown_until.is_some_and(|until| now < until) => Verdict::Refuse,
            _ => Verdict::Take,
        }
    }

    pub(super) fn grant(&mut self, now: Mono, group: &str, topic: &str, queue_id: i32, client: &str) {
        debug_assert_ne!(self.judge(now, group, topic, queue_id, client), Verdict::Refuse);
        let until = now + LEASE;
        let queues = self.groups.entry(group.to_owned()).or_default();
        let holder = queues.entry((topic.to_owned(), queue_id)).or_insert_with(|| Holder {
            owner: client.to_owned(),
            until,
        });
        if holder.owner != client {
            client.clone_into(&mut holder.owner);
        }
        holder.until = until;
    }

    pub(super) fn release(&mut self, group: &str, topic: &str, queue_id: i32, client: &str) {
        let Some(queues) = self.groups.get_mut(group) else {
            return;
        };
        let key = (topic.to_owned(), queue_id);
        if queues.get(&key).is_some_and(|holder| holder.owner == client) {
            queues.remove(&key);
        }
        if queues.is_empty() {
            self.groups.remove(group);
        }
    }

    /// Queues that a client holds in any group, as (group, topic, queue).
    pub fn held_by(&self, client: &str) -> Vec<(String, String, i32)> {
        let mut held = Vec::new();
        for (group, queues) in &self.groups {
            let own = queues.iter().filter(|(_, holder)| holder.owner == client);
            held.extend(own.map(|((topic, queue_id), _)| (group.clone(), topic.clone(), *queue_id)));
        }
        held.sort();
        held
    }

    /// True while any queue of the group is under an unexpired lock: the group consumes in order.
    pub fn any_held(&self, now: Mono, group: &str) -> bool {
        self.groups
            .get(group)
            .is_some_and(|queues| queues.values().any(|holder| now < holder.until))
    }

    pub fn owner(&self, now: Mono, group: &str, topic: &str, queue_id: i32) -> Option<&str> {
        let holder = self
            .holder(group, topic, queue_id)
            .filter(|holder| now < holder.until)?;
        Some(&holder.owner)
    }

    fn holder(&self, group: &str, topic: &str, queue_id: i32) -> Option<&Holder> {
        // The key owns its topic; a lock request is rare enough to pay for the copy.
        self.groups.get(group)?.get(&(topic.to_owned(), queue_id))
    }

    /// The owners that can still believe in a lock.
    pub fn save(&self, now: Mono) -> SavedLocks {
        let mut owners = Vec::new();
        for (group, queues) in &self.groups {
            for ((topic, queue_id), holder) in queues.iter().filter(|(_, holder)| now < holder.until) {
                owners.push(SavedLock {
                    group: group.clone(),
                    topic: topic.clone(),
                    queue_id: *queue_id,
                    owner: holder.owner.clone(),
                });
            }
        }
        owners.sort();
        SavedLocks {
            version: SavedLocks::VERSION,
            owners,
        }
    }

    /// Each saved owner holds its queues for one lease from now.
    pub fn restore(&mut self, saved: SavedLocks, now: Mono) {
        for lock in saved.owners {
            // The first of two owners of one queue counts: the file was not written by us.
            if self.judge(now, &lock.group, &lock.topic, lock.queue_id, &lock.owner) != Verdict::Refuse {
                self.grant(now, &lock.group, &lock.topic, lock.queue_id, &lock.owner);
            }
        }
    }

    /// The owners are not known: nothing is granted for one lease.
    pub fn restore_unknown(&mut self, now: Mono) {
        self.unknown_until = Some(now + LEASE);
    }
}

/// `config/queueLocks.json`, a format of our own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedLocks {
    pub version: u32,
    pub owners: Vec<SavedLock>,
}

impl SavedLocks {
    pub const VERSION: u32 = 1;
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedLock {
    pub group: String,
    pub topic: String,
    pub queue_id: i32,
    pub owner: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(count: u64) -> Mono {
        Mono(count * 1_000_000_000)
    }

    #[test]
    fn a_lock_is_renewed_by_its_owner_and_refused_to_others_until_the_lease_ends() {
        let mut locks = QueueLocks::default();
        assert_eq!(locks.judge(seconds(0), "g", "T", 0, "a"), Verdict::Take);
        locks.grant(seconds(0), "g", "T", 0, "a");
        assert_eq!(locks.judge(seconds(59), "g", "T", 0, "b"), Verdict::Refuse);
        assert_eq!(locks.judge(seconds(59), "g", "T", 0, "a"), Verdict::Renew);
        locks.grant(seconds(59), "g", "T", 0, "a");
        assert_eq!(locks.judge(seconds(118), "g", "T", 0, "b"), Verdict::Refuse);
        assert_eq!(locks.judge(seconds(119), "g", "T", 0, "b"), Verdict::Take);
        assert!(!locks.any_held(seconds(119), "g"));
    }

    #[test]
    fn only_the_owner_can_unlock() {
        let mut locks = QueueLocks::default();
        locks.grant(seconds(0), "g", "T", 0, "a");
        locks.release("g", "T", 0, "b");
        assert_eq!(locks.owner(seconds(1), "g", "T", 0), Some("a"));
        locks.release("g", "T", 0, "a");
        assert_eq!(locks.judge(seconds(1), "g", "T", 0, "b"), Verdict::Take);
    }

    #[test]
    fn after_a_restart_the_saved_owner_locks_at_once_and_others_wait_a_lease() {
        let mut locks = QueueLocks::default();
        locks.grant(seconds(0), "g", "T", 0, "a");
        let saved = locks.save(seconds(10));
        let mut restarted = QueueLocks::default();
        restarted.restore(saved, seconds(100));
        assert_eq!(restarted.judge(seconds(100), "g", "T", 0, "a"), Verdict::Renew);
        assert_eq!(restarted.judge(seconds(159), "g", "T", 0, "b"), Verdict::Refuse);
        assert_eq!(restarted.judge(seconds(160), "g", "T", 0, "b"), Verdict::Take);
        assert_eq!(
            restarted.judge(seconds(100), "g", "T", 1, "b"),
            Verdict::Take,
            "never locked"
        );
    }

    #[test]
    fn with_unknown_owners_nobody_gets_a_lock_for_a_lease() {
        let mut locks = QueueLocks::default();
        locks.restore_unknown(seconds(5));
        assert_eq!(locks.judge(seconds(64), "g", "T", 0, "a"), Verdict::Refuse);
        assert_eq!(locks.judge(seconds(65), "g", "T", 0, "a"), Verdict::Take);
    }

    #[test]
    fn an_expired_lock_is_not_saved() {
        let mut locks = QueueLocks::default();
        locks.grant(seconds(0), "g", "T", 0, "a");
        assert!(locks.save(seconds(60)).owners.is_empty());
    }

    proptest! {
        /// Two clients lock, unlock and restart the broker at will: their beliefs (30 s from each grant) never overlap.
        #[test]
        fn two_clients_never_believe_in_one_queue(steps in prop::collection::vec((0u8..4, 0u8..2, 0u64..40), 1..60)) {
            let mut locks = QueueLocks::default();
            let mut now = 0;
            let mut believed_until = [0u64; 2];
            for (action, who, wait) in steps {
                now += wait;
                let client = ["a", "b"][usize::from(who)];
                match action {
                    0 | 1 => if locks.judge(seconds(now), "g", "T", 0, client) != Verdict::Refuse {
                        locks.grant(seconds(now), "g", "T", 0, client);
                        believed_until[usize::from(who)] = now + 30;
                        prop_assert!(believed_until[usize::from(1 - who)] <= now);
                    },
                    2 => {
                        locks.release("g", "T", 0, client);
                        believed_until[usize::from(who)] = 0;
                    }
                    _ => {
                        let saved = locks.save(seconds(now));
                        locks = QueueLocks::default();
                        locks.restore(saved, seconds(now));
                    }
                }
            }
        }
    }
}
