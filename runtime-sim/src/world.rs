//! The world: nodes, their processes, and everything that can happen to them.
//!
//! Methods act at once, at the current true time. Faults count what they really did in [`World::effects`].

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use orrery_core::probe::{Fact, OwnedFact};
use orrery_core::runtime::{Mono, Runtime, WallMillis};

use crate::clock::Clock;
use crate::disk::{CrashPoint, Disk, DiskFault, DiskFaults, DiskProfile, PowerCut};
use crate::effects::Effects;
use crate::net::{LinkProfile, NetSettings};
use crate::process::{Process, SimRuntime};
use crate::random::Draw;
use crate::sites::SiteCount;
use crate::state::{Host, Shared, State};
use crate::timer::{Deadline, Sleep};
use crate::trace::{Detail, LogWindow};

/// Nodes of a world at most: addresses are `10.0.0.1` to `10.0.0.250`.
pub const NODE_COUNT_MAX: usize = 250;

/// Facts kept for the scenario to drain, at most; the oldest go first, but all are hashed.
const FACT_COUNT_MAX: usize = 1_000_000;

/// A machine of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) usize);

impl NodeId {
    /// 0 for the first node added.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A fact that a node announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactRecord {
    /// True time.
    pub time: Duration,
    pub node: NodeId,
    pub fact: OwnedFact,
}

/// A cheap handle to the whole simulated world. For scenarios; nodes see a [`SimRuntime`].
#[derive(Clone)]
pub struct World(pub(crate) Arc<Shared>);

/// Time, nodes and processes.
impl World {
    pub(crate) fn new(seed: u64, window: LogWindow, net: NetSettings) -> World {
        let world = World(Arc::new(Shared::new(seed, window)));
        world.with(|state| state.net.set_settings(net));
        world
    }

    pub fn seed(&self) -> u64 {
        self.with(|state| state.core.seed)
    }

    /// True time since the start of the simulation.
    pub fn now(&self) -> Duration {
        self.with(|state| Duration::from_nanos(state.core.now))
    }

    /// Sleeps in true time.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        let until = self.with(|state| state.core.now.saturating_add(duration.as_nanos() as u64));
        Sleep::until(self.clone(), Deadline::True(until))
    }

    /// A draw of the scenario's own, keyed by `purpose`.
    pub fn draw(&self, purpose: &str) -> Draw {
        Draw::new(self.seed(), "scenario").with(Draw::new(0, purpose).bits())
    }

    /// Adds a machine with the next address; its name resolves to it.
    ///
    /// # Panics
    /// Beyond [`NODE_COUNT_MAX`] nodes.
    pub fn add_node(&self, name: &str) -> NodeId {
        self.with(|state| {
            let index = state.core.hosts.len();
            assert!(index < NODE_COUNT_MAX, "at most {NODE_COUNT_MAX} nodes");
            let ip = Ipv4Addr::new(10, 0, 0, index as u8 + 1);
            let identity = Draw::new(0, name).bits();
            let boot_ns = Draw::new(state.core.seed, "boot").with(identity).below(10_000_000_000);
            let mut clock = Clock::new();
            clock.reboot(state.core.now, boot_ns);
            state.core.hosts.push(Host {
                name: name.to_owned(),
                identity,
                ip,
                clock,
                utc_offset_seconds: 0,
                powered: true,
                epoch: 0,
                incarnation: 0,
                running: None,
                boot: None,
                paused: false,
                stalled_until: 0,
                effects: Effects::default(),
                random_count: 0,
            });
            state.disks.push(Disk::new(state.core.seed, identity));
            state.net.add_host(index, ip, name);
            NodeId(index)
        })
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        self.with(|state| (0..state.core.hosts.len()).map(NodeId).collect())
    }

    pub fn name(&self, node: NodeId) -> String {
        self.with(|state| state.core.hosts[node.0].name.clone())
    }

    pub fn ip(&self, node: NodeId) -> IpAddr {
        self.with(|state| IpAddr::V4(state.core.hosts[node.0].ip))
    }

    pub fn address(&self, node: NodeId, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(node), port)
    }

    /// Makes `name` resolve to `ips`, in that order.
    pub fn set_name(&self, name: &str, ips: &[Ipv4Addr]) {
        self.with(|state| state.net.set_name(name, ips));
    }

    /// Starts the node's process; [`restart`](World::restart) will run the same `boot` again. The process exits when
    /// the future ends.
    ///
    /// # Panics
    /// If a process is running there.
    pub fn start<F, S>(&self, node: NodeId, boot: F)
    where
        F: Fn(SimRuntime) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        assert!(!self.is_running(node), "{} runs already", self.name(node));
        let boot = Arc::new(move |rt| Box::pin(boot(rt)) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>);
        let old = self.with(|state| state.core.hosts[node.0].boot.replace(boot));
        drop(old);
        self.boot(node);
    }

    /// The runtime of the node's current process; starts one without a main future if none runs. Futures may be
    /// polled by the scenario itself; only what is spawned on the runtime is paused, stalled and killed with the node.
    pub fn runtime(&self, node: NodeId) -> SimRuntime {
        let running = self.with(|state| state.core.hosts[node.0].running.clone());
        SimRuntime::new(running.unwrap_or_else(|| self.new_process(node)))
    }

    pub fn is_running(&self, node: NodeId) -> bool {
        self.with(|state| state.core.hosts[node.0].running.is_some())
    }

    /// `kill -9`: tasks are dropped, the kernel closes sockets (in order, or by reset if something was unread) and
    /// releases locks; the page cache stays.
    pub fn kill(&self, node: NodeId) {
        self.with(|state| {
            state.core.trace(node.0, "kill", &[], &[]);
            state.end_process(node.0, false);
        });
    }

    /// The plug is pulled: nothing is said to peers, the page cache is gone, unsynced writes are kept, torn or lost.
    pub fn power_loss(&self, node: NodeId) {
        self.with(|state| {
            state.core.trace(node.0, "power-loss", &[], &[]);
            state.end_process(node.0, true);
            let core = &mut state.core;
            let epoch = core.hosts[node.0].epoch;
            let now = core.now;
            state.disks[node.0].power_loss(now, epoch, &mut core.hosts[node.0].effects);
        });
    }

    /// Boots the node again (ending its process if one runs) with what [`start`](World::start) was given.
    ///
    /// # Panics
    /// If the node was never started.
    pub fn restart(&self, node: NodeId) {
        if self.is_running(node) {
            self.kill(node);
        }
        self.with(|state| state.core.trace(node.0, "restart", &[], &[]));
        self.boot(node);
    }

    /// `SIGSTOP`: tasks stand still, the kernel goes on acknowledging and buffering.
    pub fn pause(&self, node: NodeId) {
        self.with(|state| {
            state.core.trace(node.0, "pause", &[], &[]);
            let host = &mut state.core.hosts[node.0];
            if let Some(running) = &host.running
                && !host.paused
            {
                host.paused = true;
                host.effects.pauses += 1;
                madsim::runtime::Handle::current().pause(running.madsim_id());
            }
        });
    }

    /// `SIGCONT`.
    pub fn resume(&self, node: NodeId) {
        self.with(|state| {
            state.core.trace(node.0, "resume", &[], &[]);
            state.core.hosts[node.0].paused = false;
            state.core.resume_if_free(node.0);
        });
    }

    fn new_process(&self, node: NodeId) -> Arc<Process> {
        let name = self.name(node);
        let handle = madsim::runtime::Handle::current().create_node().name(name).build();
        self.with(|state| {
            let host = &mut state.core.hosts[node.0];
            if !host.powered {
                host.powered = true;
                let shows = Draw::new(state.core.seed, "reboot")
                    .with(host.identity)
                    .with(host.epoch)
                    .below(10_000_000_000);
                host.clock.reboot(state.core.now, shows);
            }
            host.incarnation += 1;
            let process = Arc::new(Process::new(self.clone(), node.0, host.incarnation, handle));
            host.running = Some(process.clone());
            process
        })
    }

    fn boot(&self, node: NodeId) {
        let boot = self
            .with(|state| state.core.hosts[node.0].boot.clone())
            .expect("the node has been started before");
        let process = self.new_process(node);
        let world = self.clone();
        let incarnation = process.incarnation;
        let rt = SimRuntime::new(process);
        let main = rt.spawn("main", boot(rt.clone()));
        // The waiter lives on the world's side: it must survive the process it reaps.
        let reaper = madsim::task::spawn(async move {
            let _ = main.await;
            world.with(|state| {
                if state.core.hosts[node.0].incarnation == incarnation && state.core.hosts[node.0].running.is_some() {
                    state.core.trace(node.0, "exit", &[], &[]);
                    state.end_process(node.0, false);
                }
            });
        });
        drop(reaper);
    }
}

/// Network faults.
impl World {
    /// Cuts one direction: packets vanish. Open connections stall, then time out.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.with(|state| {
            state.core.trace(from.0, "cut", &[to.0 as u64], &[]);
            state.net.set_cut(from.0, to.0, true);
        });
    }

    pub fn heal(&self, from: NodeId, to: NodeId) {
        self.with(|state| {
            state.core.trace(from.0, "heal", &[to.0 as u64], &[]);
            state.net.set_cut(from.0, to.0, false);
        });
    }

    /// Cuts both directions between every node of one side and every node of the other.
    pub fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        for &a in one {
            for &b in other {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
    }

    pub fn heal_all(&self) {
        self.with(|state| {
            state.core.trace(0, "heal-all", &[], &[]);
            state.net.heal_all();
        });
    }

    pub fn set_link(&self, from: NodeId, to: NodeId, profile: LinkProfile) {
        self.with(|state| {
            state
                .core
                .trace(from.0, "link", &[to.0 as u64], format!("{profile:?}").as_bytes());
            state.net.set_link(from.0, to.0, profile);
        });
    }

    /// For links that have no profile of their own.
    pub fn set_default_link(&self, profile: LinkProfile) {
        self.with(|state| {
            state
                .core
                .trace(0, "default-link", &[], format!("{profile:?}").as_bytes());
            state.net.set_default_link(profile);
        });
    }

    pub fn link(&self, from: NodeId, to: NodeId) -> LinkProfile {
        self.with(|state| state.net.profile(from.0, to.0))
    }
}

/// Disk faults.
impl World {
    pub fn set_disk(&self, node: NodeId, profile: DiskProfile) {
        self.with(|state| {
            state.core.trace(node.0, "disk", &[], format!("{profile:?}").as_bytes());
            state.disks[node.0].set_profile(profile);
        });
    }

    pub fn disk(&self, node: NodeId) -> DiskProfile {
        self.with(|state| state.disks[node.0].profile().clone())
    }

    pub fn set_disk_faults(&self, node: NodeId, faults: DiskFaults) {
        self.with(|state| {
            state
                .core
                .trace(node.0, "disk-faults", &[], format!("{faults:?}").as_bytes());
            state.disks[node.0].set_faults(faults);
        });
    }

    /// The device answers nothing for `duration`: whoever writes meanwhile stands still, and the node with it.
    pub fn stall_disk(&self, node: NodeId, duration: Duration) {
        self.with(|state| {
            let until = state.core.now + duration.as_nanos() as u64;
            state.core.trace(node.0, "disk-stall", &[until], &[]);
            state.disks[node.0].stall_until(until);
        });
    }

    /// Flips `bits` bits in files whose path begins with `under`, chosen by the seed among bytes ever written.
    /// Returns how many were flipped (0 if there is nothing to rot).
    pub fn rot(&self, node: NodeId, under: &Path, bits: u64) -> u64 {
        self.with(|state| {
            let core = &mut state.core;
            core.trace(node.0, "rot", &[bits], under.as_os_str().as_encoded_bytes());
            let flipped = state.disks[node.0].rot(under, bits);
            core.effects(node.0).bits_rotted += flipped;
            flipped
        })
    }

    /// Flips the bits of `mask` in one byte of a file: on the device, and `in_memory`, too, if readers of resident slices are
    /// to see it. False if there is no such byte.
    pub fn rot_at(&self, node: NodeId, path: &Path, offset: u64, mask: u8, in_memory: bool) -> bool {
        self.with(|state| {
            let core = &mut state.core;
            core.trace(
                node.0,
                "rot-at",
                &[offset, u64::from(mask)],
                path.as_os_str().as_encoded_bytes(),
            );
            let flipped = state.disks[node.0].rot_at(path, offset, mask, in_memory);
            core.effects(node.0).bits_rotted += u64::from(flipped) * u64::from(mask.count_ones());
            flipped
        })
    }

    /// How many operations the node's disk has begun, reads of resident slices apart.
    pub fn disk_operations(&self, node: NodeId) -> u64 {
        self.with(|state| state.disks[node.0].operations())
    }

    /// Lets `fault` strike the operations with these numbers; replaces an earlier strike.
    pub fn strike_disk(&self, node: NodeId, operations: Range<u64>, fault: DiskFault) {
        self.with(|state| {
            let words = [operations.start, operations.end, fault as u64];
            state.core.trace(node.0, "strike", &words, &[]);
            state.disks[node.0].strike(operations, fault);
        });
    }

    /// How many reads the node's disk has answered, slices of resident pages apart, and how many bytes they gave.
    pub fn disk_reads(&self, node: NodeId) -> (u64, u64) {
        self.with(|state| state.disks[node.0].reads())
    }

    /// All files below `under` as a process of the node would read them now. Takes no time and leaves no trace. Paths have no
    /// leading slash.
    pub fn files(&self, node: NodeId, under: &Path) -> BTreeMap<PathBuf, Bytes> {
        self.with(|state| state.disks[node.0].files_below(under))
    }

    /// How often the content of the node's disk has changed, cached or durable.
    pub fn disk_changes(&self, node: NodeId) -> u64 {
        self.with(|state| state.disks[node.0].changes())
    }

    /// From now on keeps the disk as it stands before each of its operations, until they are
    /// [taken](World::take_crash_points). Memory is the caller's business: some tens of kilobytes for each.
    pub fn keep_crash_points(&self, node: NodeId) {
        self.with(|state| state.disks[node.0].keep_crash_points());
    }

    /// The states kept, oldest first, and the one of now.
    pub fn take_crash_points(&self, node: NodeId) -> Vec<CrashPoint> {
        self.with(|state| state.disks[node.0].take_crash_points(state.core.now))
    }

    /// Ends the node's process and gives it the disk of a crash point: as it stood for a process that was killed there, or,
    /// with `cut`, as a power cut at that point left it.
    pub fn crash_to(&self, node: NodeId, point: &CrashPoint, cut: Option<&PowerCut>) {
        self.with(|state| {
            state
                .core
                .trace(node.0, "crash-to", &[point.change], format!("{cut:?}").as_bytes());
            state.end_process(node.0, cut.is_some());
            let effects = &mut state.core.hosts[node.0].effects;
            state.disks[node.0].crash_to(point, cut, effects);
        });
    }

    /// A new, empty disk. The node must not be running.
    pub fn wipe_disk(&self, node: NodeId) {
        assert!(!self.is_running(node), "{} runs", self.name(node));
        self.with(|state| {
            state.core.trace(node.0, "wipe", &[], &[]);
            state.disks[node.0].wipe();
        });
    }
}

/// Clock faults.
impl World {
    /// The node's monotonic and wall clocks run fast (positive) or slow by this many parts per million. At most 50 %.
    pub fn set_drift(&self, node: NodeId, parts_per_million: i64) {
        self.with(|state| {
            let now = state.core.local_now(node.0);
            state.core.trace(node.0, "drift", &[parts_per_million as u64], &[]);
            state.core.hosts[node.0]
                .clock
                .set_drift(now, parts_per_million.saturating_mul(1_000));
            state.core.effects(node.0).clock_changes += 1;
            state.timers.reschedule(&mut state.core, node.0);
        });
    }

    /// Steps the node's wall clock; its monotonic clock does not notice.
    pub fn step_wall(&self, node: NodeId, by_ms: i64) {
        self.with(|state| {
            state.core.trace(node.0, "step", &[by_ms as u64], &[]);
            state.core.hosts[node.0].clock.step_wall(by_ms);
            state.core.effects(node.0).clock_changes += 1;
        });
    }

    /// Moves the node's time zone: seconds east of UTC.
    pub fn set_utc_offset(&self, node: NodeId, seconds: i32) {
        self.with(|state| state.core.hosts[node.0].utc_offset_seconds = seconds);
    }

    /// What the node's clocks show.
    pub fn clocks(&self, node: NodeId) -> (Mono, WallMillis) {
        self.with(|state| {
            let now = state.core.local_now(node.0);
            let clock = &state.core.hosts[node.0].clock;
            (clock.mono(now), clock.wall(now))
        })
    }
}

/// What happened.
impl World {
    /// Damage of all nodes so far.
    pub fn effects(&self) -> Effects {
        self.with(|state| {
            let hosts = state.core.hosts.iter();
            hosts.fold(Effects::default(), |sum, host| sum + host.effects)
        })
    }

    pub fn effects_of(&self, node: NodeId) -> Effects {
        self.with(|state| state.core.hosts[node.0].effects)
    }

    /// Facts announced since the last call, in order.
    pub fn drain_facts(&self) -> Vec<FactRecord> {
        self.with(|state| state.facts.drain(..).collect())
    }

    /// Switches a site on with a probability per asking.
    pub fn switch_site(&self, name: &str, probability: f64) {
        self.with(|state| {
            state.core.trace.event(
                state.core.now,
                u32::MAX,
                "site",
                &[probability.to_bits()],
                name.as_bytes(),
            );
            state.sites.switch(name, probability);
        });
    }

    pub fn site_counts(&self) -> BTreeMap<&'static str, SiteCount> {
        self.with(|state| state.sites.counts())
    }

    /// Puts something the scenario observed into the trace hash.
    pub fn note(&self, kind: &'static str, data: &[u8]) {
        self.with(|state| state.core.trace.event(state.core.now, u32::MAX, kind, &[], data));
    }

    /// Timers, packets and the like that are still to come.
    pub fn pending_events(&self) -> usize {
        self.with(|state| state.core.events.len())
    }

    pub fn trace_hash(&self) -> u64 {
        self.with(|state| state.core.trace.hash())
    }
}

impl State {
    pub(crate) fn announce(&mut self, node: usize, fact: Fact<'_>) {
        let time_ns = self.core.local_now(node);
        let mut detail = Detail::new();
        fact.hash(&mut detail);
        let detail = std::hash::Hasher::finish(&detail);
        self.core.trace.record(time_ns, node as u32, "fact", detail);
        if self.facts.len() == FACT_COUNT_MAX {
            self.facts.pop_front();
        }
        self.facts.push_back(FactRecord {
            time: Duration::from_nanos(time_ns),
            node: NodeId(node),
            fact: fact.map(Into::into),
        });
    }
}
