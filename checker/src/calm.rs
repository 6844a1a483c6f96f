//! Since when nothing has disturbed the cluster: no fault is on, and nothing has changed that others must learn of.
//!
//! A fault that lasts is on from its `begin` to its `end`; a dead node is down until its `restart` or the end of what
//! killed it. The mark `healed` says that everything is undone.

use std::collections::BTreeMap;

use crate::history::{Event, FaultKind, FaultPhase};

#[derive(Default)]
pub(crate) struct Calm {
    /// Faults that are on, with the nodes that they struck dead.
    active: BTreeMap<u32, Vec<String>>,
    /// When a fault last began, ended or changed something.
    since: u64,
}

impl Calm {
    /// Takes in the fault log, in order of time.
    pub(crate) fn observe(&mut self, t: u64, event: &Event) {
        match event {
            Event::Fault {
                id,
                fault,
                phase: FaultPhase::Begin,
                nodes,
                ..
            } => {
                self.since = t;
                match fault {
                    FaultKind::Restart => {
                        for dead in self.active.values_mut() {
                            dead.retain(|node| !nodes.contains(node));
                        }
                        // What lasts without a dead node has an `end` of its own.
                        self.active.retain(|_, dead| !dead.is_empty());
                    }
                    FaultKind::ClockStep | FaultKind::DiskLost | FaultKind::Other => {}
                    FaultKind::Kill | FaultKind::PowerLoss => {
                        self.active.insert(*id, nodes.clone());
                    }
                    _ => {
                        self.active.insert(*id, vec![LASTS.to_owned()]);
                    }
                }
            }
            Event::Fault { id, .. } => {
                self.since = t;
                self.active.remove(id);
            }
            Event::Mark { name } if name == "healed" => {
                self.since = t;
                self.active.clear();
            }
            _ => {}
        }
    }

    /// Something changed that others must learn of.
    pub(crate) fn disturb(&mut self, t: u64) {
        self.since = t;
    }

    /// When the calm began; `None` while a fault is on.
    pub(crate) fn since(&self) -> Option<u64> {
        self.active.is_empty().then_some(self.since)
    }

    /// Has it lasted for `ns` at `t`?
    pub(crate) fn lasts(&self, t: u64, ns: u64) -> bool {
        self.since().is_some_and(|since| t >= since.saturating_add(ns))
    }
}

/// No node has this name: the fault is on until its end.
const LASTS: &str = "";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Calm;
    use crate::history::{Event, FaultKind, FaultPhase};

    fn fault(id: u32, fault: FaultKind, phase: FaultPhase, node: &str) -> Event {
        Event::Fault {
            id,
            fault,
            phase,
            nodes: vec![node.into()],
            effect: BTreeMap::new(),
        }
    }

    #[test]
    fn it_is_calm_when_the_dead_are_up_and_the_cuts_are_mended() {
        use FaultPhase::{Begin, End};
        let mut calm = Calm::default();
        calm.observe(10, &fault(1, FaultKind::Kill, Begin, "b"));
        assert_eq!(calm.since(), None);
        calm.observe(20, &fault(2, FaultKind::Cut, Begin, "c"));
        calm.observe(30, &fault(3, FaultKind::Restart, Begin, "b"));
        assert_eq!(calm.since(), None);
        calm.observe(40, &fault(2, FaultKind::Cut, End, "c"));
        assert_eq!(calm.since(), Some(40));
        assert!(calm.lasts(50, 10) && !calm.lasts(49, 10));
        calm.observe(60, &fault(4, FaultKind::DiskSlow, Begin, "b"));
        calm.observe(70, &Event::Mark { name: "healed".into() });
        assert_eq!(calm.since(), Some(70));
    }
}
