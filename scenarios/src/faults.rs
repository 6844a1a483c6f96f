//! Lets a plan's faults strike, undoes them, and writes down what they really did.

use std::collections::BTreeMap;
use std::time::Duration;

use orrery_checker::history::{Event, FaultKind, FaultPhase};
use orrery_runtime_sim::{DiskFaults, DiskProfile, Effects, LinkProfile, NodeId, World};

use crate::cluster::Cluster;
use crate::plan::{DiskErrorKind, FaultPlan, Plan};
use crate::recorder::Recorder;

/// Runs all faults; returns when the last is undone and everything is whole again.
pub(crate) async fn strike(cluster: &Cluster, plan: &Plan, recorder: &Recorder) {
    let mut turns: Vec<(u64, usize, FaultPhase)> = Vec::new();
    for (index, fault) in plan.faults.iter().enumerate() {
        turns.push((fault.at_ms, index, FaultPhase::Begin));
        if let Some(for_ms) = fault.what.for_ms() {
            turns.push((fault.at_ms + for_ms, index, FaultPhase::End));
        }
    }
    turns.sort_by_key(|&(at_ms, index, _)| (at_ms, index));
    let begin = cluster.world.now();
    let mut strikes = Strikes::new(cluster, recorder, plan.faults.len());
    for (at_ms, index, phase) in turns {
        let at = begin + Duration::from_millis(at_ms.min(plan.duration_ms));
        cluster.world.sleep(at.saturating_sub(cluster.world.now())).await;
        match phase {
            FaultPhase::Begin => strikes.begin(index, &plan.faults[index].what),
            FaultPhase::End => strikes.end(index, &plan.faults[index].what),
        }
    }
    strikes.heal();
}

/// Faults that are on. Two may lie on the same link or node: what is counted is undone by the last.
struct Strikes<'a> {
    cluster: &'a Cluster,
    world: &'a World,
    recorder: &'a Recorder,
    before: BTreeMap<usize, Effects>,
    cuts: BTreeMap<(NodeId, NodeId), u32>,
    pauses: BTreeMap<NodeId, u32>,
    default_link: LinkProfile,
    /// Faults of the plan.
    fault_count: usize,
}

impl<'a> Strikes<'a> {
    fn new(cluster: &'a Cluster, recorder: &'a Recorder, fault_count: usize) -> Self {
        let first = *cluster.nodes.values().next().expect("a plan has nodes");
        Strikes {
            cluster,
            world: &cluster.world,
            recorder,
            before: BTreeMap::new(),
            cuts: BTreeMap::new(),
            pauses: BTreeMap::new(),
            default_link: cluster.world.link(first, first),
            fault_count,
        }
    }

    fn node(&self, name: &str) -> NodeId {
        self.cluster.nodes[name]
    }

    fn begin(&mut self, index: usize, fault: &FaultPlan) {
        let before = self.effects(fault);
        match fault {
            FaultPlan::Kill { node, .. } => self.world.kill(self.node(node)),
            FaultPlan::PowerLoss { node, .. } => self.world.power_loss(self.node(node)),
            FaultPlan::Cut { .. } => self.each_link(fault, |strikes, from, to| {
                *strikes.cuts.entry((from, to)).or_default() += 1;
                strikes.world.cut(from, to);
            }),
            FaultPlan::Pause { node, .. } => {
                *self.pauses.entry(self.node(node)).or_default() += 1;
                self.world.pause(self.node(node));
            }
            FaultPlan::ClockStep { node, by_ms } => self.world.step_wall(self.node(node), *by_ms),
            FaultPlan::ClockDrift {
                node,
                parts_per_million,
                ..
            } => self.world.set_drift(self.node(node), *parts_per_million),
            FaultPlan::DiskSlow { node, sync_ms, .. } => {
                let profile = self.world.disk(self.node(node));
                self.world.set_disk(
                    self.node(node),
                    DiskProfile {
                        sync_latency: (Duration::from_millis(*sync_ms), Duration::from_millis(2 * *sync_ms)),
                        ..profile
                    },
                );
            }
            FaultPlan::DiskStall { node, for_ms } => {
                self.world.stall_disk(self.node(node), Duration::from_millis(*for_ms));
            }
            FaultPlan::DiskErrors { node, of, percent, .. } => {
                let mut faults = DiskFaults::default();
                let probability = match of {
                    DiskErrorKind::Read => &mut faults.read_error,
                    DiskErrorKind::Write => &mut faults.write_error,
                    DiskErrorKind::ShortWrite => &mut faults.short_write,
                    DiskErrorKind::Sync => &mut faults.sync_error,
                };
                *probability = percent / 100.0;
                self.world.set_disk_faults(self.node(node), faults);
            }
            FaultPlan::DiskFull { node, .. } => {
                let profile = self.world.disk(self.node(node));
                let full = DiskProfile {
                    capacity_bytes: 0,
                    ..profile
                };
                self.world.set_disk(self.node(node), full);
            }
            FaultPlan::Link {
                node,
                latency_ms,
                loss_percent,
                ..
            } => self.set_links(
                self.node(node),
                LinkProfile {
                    latency: Duration::from_millis(*latency_ms),
                    loss: loss_percent / 100.0,
                    ..self.default_link
                },
            ),
        }
        self.tell(index, fault, FaultPhase::Begin, before);
        self.before.insert(index, self.effects(fault));
    }

    fn end(&mut self, index: usize, fault: &FaultPlan) {
        let before = self.before.remove(&index).unwrap_or_default();
        match fault {
            FaultPlan::Kill { node, .. } | FaultPlan::PowerLoss { node, .. } => self.restart(self.node(node)),
            FaultPlan::Cut { .. } => self.each_link(fault, |strikes, from, to| {
                let count = strikes.cuts.entry((from, to)).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    strikes.world.heal(from, to);
                }
            }),
            FaultPlan::Pause { node, .. } => {
                let node = self.node(node);
                let count = self.pauses.entry(node).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.world.resume(node);
                }
            }
            FaultPlan::ClockDrift { node, .. } => self.world.set_drift(self.node(node), 0),
            FaultPlan::DiskSlow { node, .. } => self.world.set_disk(self.node(node), DiskProfile::default()),
            FaultPlan::DiskErrors { node, .. } | FaultPlan::DiskFull { node, .. } => {
                self.mend_disk(self.node(node));
                self.start_again(index, node);
            }
            FaultPlan::Link { node, .. } => self.set_links(self.node(node), self.default_link),
            FaultPlan::ClockStep { .. } | FaultPlan::DiskStall { .. } => {}
        }
        self.tell(index, fault, FaultPhase::End, before);
    }

    /// Whatever was left on, by overlapping faults too.
    fn heal(&mut self) {
        self.world.heal_all();
        for &node in self.cluster.nodes.values() {
            self.world.resume(node);
            self.world.set_drift(node, 0);
            self.mend_disk(node);
            self.set_links(node, self.default_link);
            self.restart(node);
        }
    }

    /// As an operator does. A kill like any other, so it is told as one, under a number that no fault of the plan has.
    fn start_again(&self, index: usize, name: &str) {
        let number = self.fault_count + index;
        let kill = FaultPlan::Kill {
            node: name.to_owned(),
            for_ms: 0,
        };
        let node = self.node(name);
        let before = self.effects(&kill);
        self.world.kill(node);
        self.tell(number, &kill, FaultPhase::Begin, before);
        let before = self.effects(&kill);
        self.restart(node);
        self.tell(number, &kill, FaultPhase::End, before);
    }

    fn mend_disk(&self, node: NodeId) {
        self.world.set_disk_faults(node, DiskFaults::default());
        self.world.set_disk(node, DiskProfile::default());
    }

    fn restart(&self, node: NodeId) {
        if !self.world.is_running(node) {
            self.world.restart(node);
        }
    }

    fn each_link(&mut self, fault: &FaultPlan, mut change: impl FnMut(&mut Self, NodeId, NodeId)) {
        let FaultPlan::Cut { from, to, both, .. } = fault else {
            return;
        };
        for from in from {
            for to in to {
                let (from, to) = (self.node(from), self.node(to));
                change(self, from, to);
                if *both {
                    change(self, to, from);
                }
            }
        }
    }

    fn set_links(&self, node: NodeId, profile: LinkProfile) {
        for &other in self.cluster.nodes.values().filter(|&&other| other != node) {
            self.world.set_link(node, other, profile);
            self.world.set_link(other, node, profile);
        }
    }

    fn effects(&self, fault: &FaultPlan) -> Effects {
        let nodes = fault.nodes();
        nodes.iter().fold(Effects::default(), |sum, node| {
            sum + self.world.effects_of(self.node(node))
        })
    }

    fn tell(&self, index: usize, fault: &FaultPlan, phase: FaultPhase, before: Effects) {
        let did = self.effects(fault) - before;
        let effect = did
            .each()
            .filter(|(name, count)| *count > 0 && causes(fault).contains(name))
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        self.recorder.tell(Event::Fault {
            id: index as u32,
            fault: kind(fault),
            phase,
            nodes: fault.nodes(),
            effect,
        });
    }
}

fn kind(fault: &FaultPlan) -> FaultKind {
    match fault {
        FaultPlan::Kill { .. } => FaultKind::Kill,
        FaultPlan::PowerLoss { .. } => FaultKind::PowerLoss,
        FaultPlan::Cut { .. } => FaultKind::Cut,
        FaultPlan::Pause { .. } => FaultKind::Pause,
        FaultPlan::ClockStep { .. } => FaultKind::ClockStep,
        FaultPlan::ClockDrift { .. } => FaultKind::ClockDrift,
        FaultPlan::DiskSlow { .. } => FaultKind::DiskSlow,
        FaultPlan::DiskStall { .. } => FaultKind::DiskStall,
        FaultPlan::DiskErrors { .. } => FaultKind::DiskErrors,
        FaultPlan::DiskFull { .. } => FaultKind::DiskFull,
        FaultPlan::Link { .. } => FaultKind::Latency,
    }
}

/// What counts as an effect of such a fault, among everything that happens on its nodes meanwhile.
fn causes(fault: &FaultPlan) -> &'static [&'static str] {
    match fault {
        FaultPlan::Kill { .. } => &["processes_ended"],
        FaultPlan::PowerLoss { .. } => &[
            "processes_ended",
            "writes_lost",
            "writes_torn",
            "bytes_lost",
            "names_lost",
        ],
        FaultPlan::Cut { .. } => &["packets_cut", "bytes_cut", "connections_reset", "connects_timed_out"],
        FaultPlan::Pause { .. } => &["pauses"],
        FaultPlan::ClockStep { .. } | FaultPlan::ClockDrift { .. } => &["clock_changes"],
        FaultPlan::DiskSlow { .. } | FaultPlan::DiskStall { .. } => &["stalls", "stalled_us"],
        FaultPlan::DiskErrors { .. } => &["reads_failed", "writes_failed", "writes_short", "syncs_failed"],
        FaultPlan::DiskFull { .. } => &["refused_full"],
        FaultPlan::Link { .. } => &["packets_lost", "packets_retransmitted"],
    }
}
