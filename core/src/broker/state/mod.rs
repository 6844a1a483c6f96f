//! What a broker knows beside the messages: topics, groups, committed offsets, delay progress, queue locks, connected
//! clients. Plain tables, no IO.
//!
//! Everything that a consumer can notice changes by a [`Change`] and nowhere else: an operation *decides* a change
//! while it holds the tables, and [`Tables::apply`] carries it out. Here the decision is final at once; in a replicated
//! broker the same changes travel in the log and are applied on every replica in its order. Changes that are bound to
//! a connection (a heartbeat, a lost connection) are changes too, but stay on the node that holds the connection.
//!
//! | table | saved as | when |
//! |---|---|---|
//! | topics, groups | `topics.json`, `subscriptionGroup.json` | before a creation is answered |
//! | queue locks | `queueLocks.json` | before a new owner is answered |
//! | offsets | `consumerOffset.json` | every 5 s, at shutdown |
//! | delay progress | `delayOffset.json` | every 10 s, after a flush of the log; at shutdown |
//! | clients | – | they come back with the next heartbeat |

pub mod clients;
pub mod delays;
pub mod groups;
pub mod lineage;
pub mod locks;
pub mod offsets;
pub mod subscription;
pub mod topics;

use clients::{Clients, ConnectionId, Heartbeat};
use delays::DelayProgress;
use groups::Groups;
use lineage::Lineage;
use locks::QueueLocks;
use offsets::Offsets;
use topics::Topics;

use crate::protocol::body::{SubscriptionGroupConfig, TopicConfig};
use crate::runtime::{Mono, WallMillis};

/// A change of the tables, decided and complete.
#[derive(Debug)]
pub enum Change<'a> {
    PutTopic(TopicConfig),
    /// The topic and the offsets that groups have on it.
    RemoveTopic {
        topic: &'a str,
    },
    PutGroup(SubscriptionGroupConfig),
    RemoveGroup {
        group: &'a str,
        and_offsets: bool,
    },
    CommitOffset {
        group: &'a str,
        topic: &'a str,
        queue_id: i32,
        offset: i64,
        /// The connection that commits; `None` if the broker itself does.
        by: Option<ConnectionId>,
    },
    /// The queue's messages below `next_offset` of this delay level are delivered.
    Delivered {
        level: i32,
        next_offset: i64,
    },
    /// A lease from `now` on. Only for verdicts that allow it.
    Lock {
        group: &'a str,
        topic: &'a str,
        queue_id: i32,
        client: &'a str,
        now: Mono,
    },
    Unlock {
        group: &'a str,
        topic: &'a str,
        queue_id: i32,
        client: &'a str,
    },
    Heartbeat {
        connection: ConnectionId,
        beat: &'a Heartbeat,
        now: Mono,
    },
    Unregister {
        connection: ConnectionId,
        producer_group: Option<&'a str>,
        consumer_group: Option<&'a str>,
    },
    Disconnect {
        connection: ConnectionId,
    },
    /// Clients silent since before `oldest` are gone.
    Expire {
        oldest: Mono,
    },
}

/// Which saved tables a change touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub topics: bool,
    pub groups: bool,
    pub offsets: bool,
    pub delays: bool,
    pub locks: bool,
}

/// What follows from a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub touched: Touched,
    /// Consumer groups whose members must be told to rebalance.
    pub changed_groups: Vec<String>,
    /// The client must send its subscriptions in full.
    pub subscriptions_wanted: bool,
}

impl Effects {
    fn touching(touched: Touched) -> Effects {
        Effects {
            touched,
            ..Effects::default()
        }
    }

    fn changing(changed_groups: Vec<String>) -> Effects {
        Effects {
            changed_groups,
            ..Effects::default()
        }
    }
}

/// All tables of a broker.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub topics: Topics,
    pub groups: Groups,
    pub offsets: Offsets,
    pub delays: DelayProgress,
    pub locks: QueueLocks,
    pub clients: Clients,
    /// Not a promise to consumers but a guard: which reading positions to believe.
    pub lineage: Lineage,
}

impl Tables {
    /// Carries out a change. The only way in which the tables change after they were restored. `now` stamps versions.
    pub fn apply(&mut self, change: Change<'_>, now: WallMillis) -> Effects {
        let untouched = Touched::default();
        match change {
            Change::PutTopic(config) => {
                self.topics.put(config, now);
                Effects::touching(Touched {
                    topics: true,
                    ..untouched
                })
            }
            Change::RemoveTopic { topic } => {
                self.topics.remove(topic, now);
                self.offsets.remove_topic(topic);
                Effects::touching(Touched {
                    topics: true,
                    offsets: true,
                    ..untouched
                })
            }
            Change::PutGroup(config) => {
                self.groups.put(config, now);
                Effects::touching(Touched {
                    groups: true,
                    ..untouched
                })
            }
            Change::RemoveGroup { group, and_offsets } => {
                self.groups.remove(group, now);
                if and_offsets {
                    self.offsets.remove_group(group);
                }
                Effects::touching(Touched {
                    groups: true,
                    offsets: and_offsets,
                    ..untouched
                })
            }
            Change::CommitOffset {
                group,
                topic,
                queue_id,
                offset,
                by,
            } => {
                self.offsets.commit(group, topic, queue_id, offset, by);
                Effects::touching(Touched {
                    offsets: true,
                    ..untouched
                })
            }
            Change::Delivered { level, next_offset } => {
                self.delays.advance(level, next_offset);
                Effects::touching(Touched {
                    delays: true,
                    ..untouched
                })
            }
            Change::Lock {
                group,
                topic,
                queue_id,
                client,
                now,
            } => {
                let new_owner = self.locks.judge(now, group, topic, queue_id, client) == locks::Verdict::Take;
                self.locks.grant(now, group, topic, queue_id, client);
                Effects::touching(Touched {
                    locks: new_owner,
                    ..untouched
                })
            }
            Change::Unlock {
                group,
                topic,
                queue_id,
                client,
            } => {
                self.locks.release(group, topic, queue_id, client);
                Effects::default()
            }
            Change::Heartbeat { connection, beat, now } => {
                let outcome = self.clients.heartbeat(connection, beat, now);
                Effects {
                    changed_groups: outcome.changed_groups,
                    subscriptions_wanted: outcome.subscriptions_wanted,
                    ..Effects::default()
                }
            }
            Change::Unregister {
                connection,
                producer_group,
                consumer_group,
            } => {
                let left = self.clients.unregister(connection, producer_group, consumer_group);
                let changed = consumer_group.filter(|_| left).map(str::to_owned);
                Effects::changing(changed.into_iter().collect())
            }
            Change::Disconnect { connection } => Effects::changing(self.clients.leave(connection)),
            Change::Expire { oldest } => Effects::changing(self.clients.expire(oldest)),
        }
    }

    /// Connections of a group's members, each to be told of a change.
    pub fn members_to_notify(&self, group: &str) -> Vec<ConnectionId> {
        let muted = self
            .groups
            .get(group)
            .is_some_and(|config| !config.notify_consumer_ids_changed_enable);
        match self.clients.consumer_group(group) {
            Some(members) if !muted => members.members.keys().copied().collect(),
            _ => Vec::new(),
        }
    }

    pub fn check_invariants(&self) {
        self.topics.check_invariants();
        self.groups.check_invariants();
        self.offsets.check_invariants();
        self.clients.check_invariants();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_a_topic_removes_the_offsets_on_it() {
        let mut tables = Tables::default();
        tables.apply(Change::PutTopic(topics::topic("T", 4, 6)), WallMillis(1));
        let commit = |topic| Change::CommitOffset {
            group: "g",
            topic,
            queue_id: 0,
            offset: 3,
            by: None,
        };
        tables.apply(commit("T"), WallMillis(1));
        tables.apply(commit("U"), WallMillis(1));
        let effects = tables.apply(Change::RemoveTopic { topic: "T" }, WallMillis(2));
        assert!(effects.touched.topics);
        assert!(effects.touched.offsets);
        assert_eq!(tables.offsets.get("g", "T", 0), None);
        assert_eq!(tables.offsets.get("g", "U", 0), Some(3));
        tables.check_invariants();
    }

    #[test]
    fn only_a_new_owner_touches_the_saved_locks() {
        let mut tables = Tables::default();
        let lock = || Change::Lock {
            group: "g",
            topic: "T",
            queue_id: 0,
            client: "a",
            now: Mono(0),
        };
        assert!(tables.apply(lock(), WallMillis(0)).touched.locks);
        assert!(
            !tables.apply(lock(), WallMillis(0)).touched.locks,
            "a renewal is not saved"
        );
    }
}
