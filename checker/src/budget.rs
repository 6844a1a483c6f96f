//! When an acknowledged message may be lost: the durability budget of a single master.
//!
//! | grade of the acknowledgement | may be lost by |
//! |---|---|
//! | sync: SEND_OK of a sync-flush broker, to a client that waits for the store | loss of the disk's synced content |
//! | async: SEND_OK of an async-flush broker, any weaker status, `waitStoreMsgOK=false` | also a power loss before the record was synced |
//!
//! A process kill loses nothing in any mode (the page cache survives), a partition loses nothing. With white-box facts
//! "before it was synced" is exact: the record's position is not below what had been synced when the power went.
//! Without them every power loss from the invocation until `flush_window_ms` after the acknowledgement excuses.

use crate::history::{Event, FaultKind, FaultPhase, Flush, Header};

/// How much an acknowledgement promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grade {
    Sync,
    Async,
}

/// The message whose loss wants an excuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) grade: Grade,
    pub(crate) invoked: u64,
    /// When it was acknowledged or first read; `u64::MAX` if never.
    pub(crate) ended: u64,
    pub(crate) position: Option<u64>,
}

/// A fault that takes data away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    pub(crate) t: u64,
    disk_lost: bool,
    /// Synced up to here when it struck; `None` without facts.
    durable: Option<u64>,
}

/// One broker's node: what had been synced, and what struck it.
struct NodeRecord {
    node: String,
    flush: Flush,
    durable: Option<u64>,
    losses: Vec<Loss>,
}

/// The budget of every broker in a history.
pub(crate) struct Budget {
    nodes: Vec<NodeRecord>,
    flush_window_ns: u64,
}

impl Budget {
    pub(crate) fn new(header: &Header, has_facts: bool) -> Budget {
        let nodes = header
            .brokers
            .iter()
            .map(|broker| NodeRecord {
                node: broker.node.clone(),
                flush: broker.flush,
                durable: has_facts.then_some(0),
                losses: Vec::new(),
            })
            .collect();
        Budget {
            nodes,
            flush_window_ns: header.limits.flush_window_ms.saturating_mul(1_000_000),
        }
    }

    /// Takes in facts and faults, in order of time.
    pub(crate) fn observe(&mut self, t: u64, event: &Event) {
        match event {
            Event::Flushed { node, upto } => self.on(node, |record| {
                record.durable = record.durable.map(|durable| durable.max(*upto));
            }),
            Event::Recovered { node, end, .. } => self.on(node, |record| {
                record.durable = record.durable.map(|durable| durable.min(*end));
            }),
            Event::Fault {
                fault,
                phase: FaultPhase::Begin,
                nodes,
                ..
            } => {
                for node in nodes {
                    self.on(node, |record| record.struck(t, *fault));
                }
            }
            _ => {}
        }
    }

    fn on(&mut self, node: &str, mut change: impl FnMut(&mut NodeRecord)) {
        self.nodes
            .iter_mut()
            .filter(|record| record.node == node)
            .for_each(&mut change);
    }

    /// What SEND_OK of the `broker`-th broker promises to a client that waits.
    pub(crate) fn flush(&self, broker: Option<usize>) -> Flush {
        broker.map_or(Flush::Sync, |index| self.nodes[index].flush)
    }

    /// The first fault that may have taken the claimed message away, at or before `until`.
    pub(crate) fn excuse(&self, broker: Option<usize>, claim: Claim, until: u64) -> Option<Loss> {
        let record = &self.nodes[broker?];
        record.losses.iter().copied().find(|loss| {
            let unsynced = match (loss.durable, claim.position) {
                (Some(durable), Some(position)) => position >= durable,
                _ => loss.t <= claim.ended.saturating_add(self.flush_window_ns),
            };
            let in_time = loss.t >= claim.invoked && loss.t <= until;
            in_time && (loss.disk_lost || (claim.grade == Grade::Async && unsynced))
        })
    }
}

impl NodeRecord {
    fn struck(&mut self, t: u64, fault: FaultKind) {
        let disk_lost = fault == FaultKind::DiskLost;
        if disk_lost || fault == FaultKind::PowerLoss {
            self.losses.push(Loss {
                t,
                disk_lost,
                durable: self.durable,
            });
        }
    }
}
