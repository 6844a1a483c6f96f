//! # C26 Route
//!
//! **Law.** When masters have not changed and no fault has struck for `route_ms`, every client and name server that knows a broker
//! has the address of its true master and no other; nobody ever has two addresses for one master.
//! Source: `RouteInfoManager`, `MQClientInstance.updateTopicRouteInfoFromNameServer`.
//!
//! **Why clients depend on it.** A stale route sends to a dead or deposed master; a missing one makes a topic vanish. A
//! late unregister that removes a newer registration shows as such a missing route.
//!
//! **Excused.** Brokers without a master: clients may keep the last address that they knew. Everything for `route_ms` (60 s: brokers
//! register every 30 s, clients ask every 30 s) after a fault and after a change of masters. What a killed process knew.
//!
//! **How.** Truth and what each holder has are kept, and compared once in each stretch of calm, before anything changes. O(n) and
//! holders · brokers for each change.

use std::collections::BTreeMap;

use super::{Findings, Law, Watch, Watched};
use crate::calm::Calm;
use crate::history::{Event, FaultKind, FaultPhase, Recorded};
use crate::ledger::Ledger;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C26",
        title: "route wrong",
        needs: &[Recorded::Routes, Recorded::Faults],
        also: None,
    },
    watch: || Box::new(Routes::default()),
};

#[derive(Default)]
struct Routes {
    calm: Calm,
    masters: BTreeMap<String, Option<String>>,
    /// Holder and broker to the addresses that it has.
    held: BTreeMap<(String, String), Vec<String>>,
    is_judged: bool,
    last: u64,
    wrong: Vec<(u64, String)>,
}

impl Routes {
    /// Looks at the state that lasted until `t`.
    fn look(&mut self, t: u64, route_ms: u64) {
        if self.is_judged || !self.calm.lasts(t, route_ms.saturating_mul(1_000_000)) {
            return;
        }
        self.is_judged = true;
        for ((holder, broker), addresses) in &self.held {
            if let Some(Some(master)) = self.masters.get(broker)
                && addresses.as_slice() != std::slice::from_ref(master)
            {
                let has = if addresses.is_empty() {
                    "no address".to_owned()
                } else {
                    addresses.join(" and ")
                };
                let text =
                    format!("{holder} has {has} for the master of {broker}, which has been {master} for {route_ms} ms");
                self.wrong.push((t, text));
            }
        }
    }
}

impl Watch for Routes {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        self.last = t;
        if !matches!(
            event,
            Event::Fault { .. } | Event::Mark { .. } | Event::Route { .. } | Event::Master { .. }
        ) {
            return;
        }
        self.look(t, ledger.limits.route_ms);
        self.calm.observe(t, event);
        match event {
            Event::Fault {
                fault: FaultKind::Kill | FaultKind::PowerLoss,
                phase: FaultPhase::Begin,
                nodes,
                ..
            } => self.held.retain(|(holder, _), _| !nodes.contains(holder)),
            Event::Master { broker, address } => {
                self.masters.insert(broker.clone(), address.clone());
                self.calm.disturb(t);
            }
            Event::Route {
                holder,
                broker,
                addresses,
            } => {
                if addresses.len() > 1 {
                    let text = format!(
                        "{holder} has {} addresses for the master of {broker}: {}",
                        addresses.len(),
                        addresses.join(", ")
                    );
                    self.wrong.push((t, text));
                }
                self.held.insert((holder.clone(), broker.clone()), addresses.clone());
            }
            _ => {}
        }
        // A mark changes nothing, unless it says that all is healed.
        self.is_judged &= matches!(event, Event::Mark { name } if name != "healed");
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        self.look(self.last, ledger.limits.route_ms);
        for (t, text) in self.wrong.drain(..) {
            findings.violation(t, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::{Event, Recorded};
    use crate::story::{Story, broken};

    fn route(addresses: &[&str]) -> Event {
        Event::Route {
            holder: "c1".into(),
            broker: "b".into(),
            addresses: addresses.iter().map(|&address| address.into()).collect(),
        }
    }

    /// The master changes from `old` to `new`, the client learns this, and time passes.
    fn changed(learns: &[&str], ms: u64) -> Story {
        let mut story = Story::new();
        story.records(Recorded::Routes).tell(route(&["old"]));
        for address in ["old", "new"] {
            let address = Some(address.into());
            story.tell(Event::Master {
                broker: "b".into(),
                address,
            });
        }
        story
            .tell(route(learns))
            .wait_ms(ms)
            .tell(Event::Mark { name: "end".into() });
        story
    }

    #[test]
    fn the_true_master_is_accepted() {
        assert_eq!(broken(&changed(&["new"], 100_000)), [] as [&str; 0]);
    }

    #[test]
    fn a_stale_or_missing_route_is_rejected_when_it_lasts() {
        assert_eq!(broken(&changed(&["old"], 100_000)), ["C26"]);
        assert_eq!(broken(&changed(&[], 100_000)), ["C26"]);
        assert_eq!(broken(&changed(&["old"], 10_000)), [] as [&str; 0]);
    }

    #[test]
    fn two_addresses_are_rejected_at_once() {
        assert_eq!(broken(&changed(&["new", "old"], 0)), ["C26"]);
    }

    #[test]
    fn what_a_dead_client_knew_is_accepted() {
        let mut story = changed(&["old"], 0);
        story.kill_client("c1").tell(Event::Mark { name: "healed".into() });
        story.wait_ms(100_000).tell(Event::Mark { name: "end".into() });
        assert_eq!(broken(&story), [] as [&str; 0]);
    }
}
