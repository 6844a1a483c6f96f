//! # C20 Retry and dead letters
//!
//! **Law.** In a concurrent group (a) a message comes with `reconsumeTimes` r only after it came with r - 1; (b) no retry topic hands
//! out more than the allowed retries (16); (c) a retry comes no sooner than its delay level, 3 + r, says; (d) without faults, a
//! message has no more copies with r than deliveries with r - 1; (e) without faults, a message that was handed back after its last
//! retry is exactly once in the dead letters, and no message is both there and consumed.
//! Source: `SendMessageProcessor.consumerSendMsgBack`, `DefaultMQPushConsumerImpl.sendMessageBack`, `SubscriptionGroupConfig`.
//!
//! **Why clients depend on it.** The number of retries and their spacing is what an application plans its outages with; dead
//! letters are where it looks for what it could not do.
//!
//! **Excused.** Orderly groups: they count on the spot and start again with each owner. Deliveries from the topic itself have no upper
//! limit: a client that cannot hand back counts on. (c) needs the levels (`retry_delays_ms`) and clocks that nobody has moved.
//! (d) and (e) need a run without faults, since a copy whose answer is lost is stored again; (e) needs a scan of the dead letters.
//!
//! **How.** The deliveries of messages that were ever retried or handed back as dead, by group and message. O(n).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Findings, Law, Watch, Watched, seconds};
use crate::history::{ConsumeVerdict, Event, FaultKind, Recorded};
use crate::ledger::{Delivery, Ledger, Step};
use crate::names::{Id, NONE};

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C20",
        title: "retry or dead letter wrong",
        needs: &[Recorded::Deliveries, Recorded::Faults],
        also: None,
    },
    watch: || Box::new(Retry::default()),
};

#[derive(Default)]
struct Retry {
    clocks_moved: bool,
}

impl Watch for Retry {
    fn observe(&mut self, _: u64, event: &Event, _: &mut Ledger) {
        if let Event::Fault { fault, .. } = event {
            self.clocks_moved |= matches!(fault, FaultKind::ClockStep | FaultKind::ClockDrift);
        }
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        let mut retried: BTreeMap<(Id, Id), Vec<&Delivery>> = BTreeMap::new();
        for delivery in ledger.deliveries.iter().filter(|delivery| delivery.reconsume > 0) {
            if delivery.uid != NONE && !ledger.is_orderly(delivery.group) && ledger.is_clustering(delivery.group) {
                retried.insert((delivery.group, delivery.uid), Vec::new());
            }
        }
        for delivery in &ledger.deliveries {
            if let Some(all) = retried.get_mut(&(delivery.group, delivery.uid)) {
                all.push(delivery);
            }
        }
        for deliveries in retried.values() {
            self.of_one(ledger, findings, deliveries);
        }
        if ledger.faults == 0 && ledger.scan_complete == Some(true) {
            dead_letters(ledger, findings);
        }
    }
}

impl Retry {
    /// All deliveries of one message to one group, in order of time.
    fn of_one(&self, ledger: &Ledger, findings: &mut Findings, deliveries: &[&Delivery]) {
        let mut came: BTreeMap<u16, Came> = BTreeMap::new();
        for delivery in deliveries {
            let times = delivery.reconsume;
            let is_copy = ledger.queue_info(delivery.queue).system;
            let mut tell = |text: String| {
                let name = ledger.uid_name(delivery.uid);
                let group = ledger.text(delivery.group);
                findings.violation(
                    delivery.started,
                    format!("{name} comes to {group} with reconsumeTimes {times}{text}"),
                );
            };
            if is_copy && u32::from(times) > ledger.limits.reconsume_max {
                tell(format!(", at most {} are allowed", ledger.limits.reconsume_max));
            }
            let before = times.checked_sub(1).map(|before| (before, came.get(&before)));
            match before {
                None => {}
                Some((before, None)) => tell(format!(", and never came with {before}")),
                Some((before, Some(refused))) if is_copy => {
                    let delay_ms = ledger.limits.retry_delays_ms.get(usize::from(before)).copied();
                    let delay_ns = delay_ms.unwrap_or(0).saturating_mul(1_000_000);
                    let due = refused.first.saturating_add(delay_ns);
                    if !self.clocks_moved && delivery.started < due {
                        let started = seconds(delivery.started);
                        tell(format!(
                            " at {started}, but not before {} by its delay level",
                            seconds(due)
                        ));
                    }
                    let mut copies = came.get(&times).map_or(BTreeSet::new(), |came| came.copies.clone());
                    if copies.insert(slot(delivery)) && copies.len() > refused.count && ledger.faults == 0 {
                        let (copies, count) = (copies.len(), refused.count);
                        tell(format!(" from {copies} slots, and with {before} only {count} time(s)"));
                    }
                }
                Some(_) => {}
            }
            let now = came.entry(times).or_insert_with(|| Came {
                first: delivery.started,
                count: 0,
                copies: BTreeSet::new(),
            });
            now.count += 1;
            if is_copy {
                now.copies.insert(slot(delivery));
            }
        }
    }
}

/// How a message came with one count of retries.
struct Came {
    first: u64,
    count: usize,
    /// Its slots in retry topics.
    copies: BTreeSet<(Id, i64)>,
}

fn slot(delivery: &Delivery) -> (Id, i64) {
    (delivery.queue, delivery.offset)
}

fn dead_letters(ledger: &Ledger, findings: &mut Findings) {
    for (group, config) in ledger.groups() {
        if ledger.is_orderly(group) || !ledger.is_clustering(group) {
            continue;
        }
        let topic = ledger.find_text(&format!("%DLQ%{}", config.name));
        let scans = ledger
            .scans
            .iter()
            .filter(|&(&queue, _)| Some(ledger.queue_info(queue).topic) == topic);
        let mut dead: HashMap<Id, (u64, u32)> = HashMap::new();
        let mut is_scanned = false;
        for (_, scan) in scans {
            is_scanned = true;
            for entry in scan.entries.iter().filter(|entry| entry.uid != NONE) {
                dead.entry(entry.uid).or_insert((entry.t, 0)).1 += 1;
            }
        }
        if !is_scanned {
            continue;
        }
        let mut consumed: BTreeSet<Id> = BTreeSet::new();
        let mut exhausted: BTreeMap<Id, u64> = BTreeMap::new();
        for &(t, step) in &ledger.steps {
            let (Step::DeliverDone(index) | Step::SentBack(index)) = step else {
                continue;
            };
            let delivery = &ledger.deliveries[index as usize];
            if delivery.group != group || delivery.uid == NONE {
                continue;
            }
            match step {
                Step::SentBack(_) if u32::from(delivery.reconsume) >= ledger.limits.reconsume_max => {
                    exhausted.insert(delivery.uid, t);
                }
                _ if delivery.verdict == Some(ConsumeVerdict::Success) && dead.contains_key(&delivery.uid) => {
                    consumed.insert(delivery.uid);
                }
                _ => {}
            }
        }
        let mut tell = |t: u64, uid: Id, text: &str| {
            findings.violation(t, format!("{} of {}: {text}", ledger.uid_name(uid), config.name));
        };
        for (&uid, &t) in exhausted.iter().filter(|(uid, _)| !dead.contains_key(uid)) {
            tell(t, uid, "handed back after its last retry, and not in the dead letters");
        }
        let mut dead: Vec<_> = dead.into_iter().collect();
        dead.sort_unstable();
        for (uid, (t, count)) in dead {
            if count > 1 {
                tell(t, uid, &format!("{count} times in the dead letters"));
            }
            if consumed.contains(&uid) {
                tell(t, uid, "consumed, and in the dead letters");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::ConsumeVerdict::{Later, Success};
    use crate::history::{Event, FaultKind};
    use crate::story::{Story, broken};

    /// A message that was refused `times` times and comes again from the retry topic each time, at these offsets.
    fn retried(times: &[(u32, i64)]) -> Story {
        let mut story = Story::new();
        story.send("a", 0, 0).open("s1", "g", "c1", 0, 0);
        story.deliver_as("s1", 0, "a", Later).send_back();
        for &(reconsume, offset) in times {
            story
                .wait_ms(20_000)
                .retry("g", "c1", offset, "a", reconsume, Later)
                .send_back();
        }
        story
    }

    #[test]
    fn retries_that_count_up_are_accepted() {
        assert_eq!(broken(&retried(&[(1, 0), (2, 1), (3, 2)])), [] as [&str; 0]);
    }

    #[test]
    fn a_jump_and_one_retry_too_many_are_rejected() {
        assert_eq!(broken(&retried(&[(2, 0)])), ["C20"]);
        let all: Vec<(u32, i64)> = (1..=17).map(|times| (times, i64::from(times))).collect();
        assert_eq!(broken(&retried(&all[..16])), [] as [&str; 0]);
        assert_eq!(broken(&retried(&all)), ["C20"]);
    }

    #[test]
    fn a_second_copy_of_one_refusal_is_rejected_without_faults() {
        assert_eq!(broken(&retried(&[(1, 0), (1, 1)])), ["C20"]);
        let mut struck = retried(&[(1, 0), (1, 1)]);
        struck.kill();
        assert_eq!(broken(&struck), [] as [&str; 0]);
    }

    #[test]
    fn a_retry_before_its_delay_is_rejected_unless_a_clock_was_moved() {
        let mut story = retried(&[(1, 0)]);
        story.history.header.limits.retry_delays_ms = vec![30_000];
        assert_eq!(broken(&story), ["C20"]);
        story.fault(FaultKind::ClockStep, "b");
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_message_is_dead_or_consumed_and_dead_once() {
        let mut dead = retried(&[(1, 0)]);
        dead.history.header.limits.reconsume_max = 1;
        let mut missing = dead.clone();
        let mut consumed = dead.clone();
        dead.dead_letter("g", "a").scan(0, &["a"]);
        assert_eq!(broken(&dead), [] as [&str; 0]);
        missing.dead_letter("g", "b").scan(0, &["a"]);
        assert_eq!(broken(&missing), ["C01", "C20"]);
        consumed
            .deliver_as("s1", 0, "a", Success)
            .dead_letter("g", "a")
            .scan(0, &["a"]);
        assert_eq!(broken(&consumed), ["C20"]);
        dead.tell(Event::ScanEnd { complete: true }).dead_letter_at("g", 1, "a");
        assert_eq!(broken(&dead), ["C20"]);
    }
}
