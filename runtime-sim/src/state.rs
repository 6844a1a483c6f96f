//! Everything of a world behind one lock, and the way in: [`World::with`].
//!
//! Invariants: wakers run only after the lock is released; `now` is true time; nothing in here blocks or awaits.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use madsim::runtime::Handle;
use madsim::time::TimeHandle;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::effects::Effects;
use crate::events::{Event, EventQueue};
use crate::net::Net;
use crate::process::{Boot, Process};
use crate::run::Panic;
use crate::sites::Sites;
use crate::timer::Timers;
use crate::trace::{LogWindow, Trace};
use crate::world::{FactRecord, World};

/// What network, disks and clocks need of the world.
pub(crate) struct Core {
    pub(crate) seed: u64,
    /// True time in nanoseconds.
    pub(crate) now: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) events: EventQueue,
    pub(crate) trace: Trace,
    pub(crate) wakers: Vec<Waker>,
}

/// One machine: what its kernel and its hardware know.
pub(crate) struct Host {
    pub(crate) name: String,
    /// Of the name: what draws about the node are keyed by, so that they stay the same when a plan loses another node.
    pub(crate) identity: u64,
    pub(crate) ip: Ipv4Addr,
    pub(crate) clock: Clock,
    pub(crate) utc_offset_seconds: i32,
    /// False from a power loss to the restart.
    pub(crate) powered: bool,
    /// Counts boots of the machine: a kernel does not know connections of an earlier boot.
    pub(crate) epoch: u64,
    /// Counts processes.
    pub(crate) incarnation: u64,
    pub(crate) running: Option<Arc<Process>>,
    pub(crate) boot: Option<Boot>,
    pub(crate) paused: bool,
    /// The node's workers stand still until then, blocked by their disk.
    pub(crate) stalled_until: u64,
    pub(crate) effects: Effects,
    pub(crate) random_count: u64,
}

impl Core {
    /// Now as the node's running code sees it: whoever has just been blocked by the disk goes on at the end of the stall.
    pub(crate) fn local_now(&self, node: usize) -> u64 {
        self.now.max(self.hosts[node].stalled_until)
    }

    pub(crate) fn effects(&mut self, node: usize) -> &mut Effects {
        &mut self.hosts[node].effects
    }

    pub(crate) fn trace(&mut self, node: usize, kind: &'static str, words: &[u64], bytes: &[u8]) {
        self.trace.event(self.now, node as u32, kind, words, bytes);
    }

    /// Blocks the node's workers until `until` (true time).
    pub(crate) fn stall(&mut self, node: usize, until: u64) {
        let from = self.local_now(node);
        if until <= from {
            return;
        }
        let host = &mut self.hosts[node];
        host.stalled_until = until;
        host.effects.stalls += 1;
        host.effects.stalled_us += (until - from) / 1_000;
        if let Some(running) = &host.running {
            Handle::current().pause(running.madsim_id());
        }
        self.events.push(until, Event::StallEnd(node));
    }

    /// Lets a node run again unless something else holds it.
    pub(crate) fn resume_if_free(&mut self, node: usize) {
        let host = &self.hosts[node];
        if !host.paused
            && host.stalled_until <= self.now
            && let Some(running) = &host.running
        {
            Handle::current().resume(running.madsim_id());
        }
    }
}

pub(crate) struct State {
    pub(crate) core: Core,
    pub(crate) net: Net,
    pub(crate) disks: Vec<Disk>,
    pub(crate) timers: Timers,
    pub(crate) sites: Sites,
    pub(crate) facts: VecDeque<FactRecord>,
    pub(crate) panics: Vec<Panic>,
    pub(crate) stopped: bool,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    time: TimeHandle,
    /// Wakes the task that carries out events.
    keeper: Mutex<Option<Waker>>,
}

impl Shared {
    pub(crate) fn new(seed: u64, window: LogWindow) -> Shared {
        Shared {
            state: Mutex::new(State {
                core: Core {
                    seed,
                    now: 0,
                    hosts: Vec::new(),
                    events: EventQueue::default(),
                    trace: Trace::new(window),
                    wakers: Vec::new(),
                },
                net: Net::default(),
                disks: Vec::new(),
                timers: Timers::default(),
                sites: Sites::default(),
                facts: VecDeque::new(),
                panics: Vec::new(),
                stopped: false,
            }),
            time: TimeHandle::current(),
            keeper: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        self.time.elapsed().as_nanos() as u64
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.core.now = self.now_ns();
        let value = act(&mut state);
        let now = state.core.now;
        let alarm = state.core.events.alarm_needed(now);
        let wakers = std::mem::take(&mut state.core.wakers);
        drop(state);
        for waker in wakers {
            waker.wake();
        }
        if let Some(at) = alarm {
            self.set_alarm(at, now);
        }
        value
    }

    /// Registers a madsim timer without its 1 ms minimum: a new deadline is taken as it is.
    fn set_alarm(&self, at_ns: u64, now_ns: u64) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(keeper) = keeper else { return };
        let mut sleep = pin!(self.time.sleep(Duration::ZERO));
        let deadline = self.time.now_instant() + Duration::from_nanos(at_ns - now_ns);
        sleep.as_mut().reset(deadline);
        if sleep.poll(&mut Context::from_waker(&keeper)).is_ready() {
            keeper.wake();
        }
    }
}

impl World {
    /// Runs `act` on the state, then wakes whoever it wants woken.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        self.0.with(act)
    }

    /// The task that carries out events. Ends when the world stops.
    pub(crate) async fn keep(self) {
        std::future::poll_fn(|cx| {
            let first = (self.0.keeper.lock().unwrap_or_else(PoisonError::into_inner))
                .replace(cx.waker().clone())
                .is_none();
            self.with(|state| {
                let now = state.core.now;
                // Before the first poll nobody could be woken: those alarms were not set.
                state.core.events.rang(if first { u64::MAX } else { now });
                while let Some(event) = state.core.events.pop_due(now) {
                    state.carry_out(event);
                }
                if state.stopped { Poll::Ready(()) } else { Poll::Pending }
            })
        })
        .await
    }

    /// Ends the simulation: no task, timer or reference cycle is left behind.
    pub(crate) fn stop(&self) {
        let boots = self.with(|state| {
            for node in 0..state.core.hosts.len() {
                state.end_process(node, true);
            }
            state.stopped = true;
            state.core.events.clear();
            let boots: Vec<_> = state.core.hosts.iter_mut().map(|host| host.boot.take()).collect();
            boots
        });
        drop(boots);
        if let Some(keeper) = self.0.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.wake();
        }
    }
}

impl State {
    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Timer(slot) => self.timers.fire(&mut self.core, slot),
            Event::Net(event) => self.net.carry_out(&mut self.core, event),
            Event::StallEnd(node) => self.core.resume_if_free(node),
        }
    }

    /// Ends the node's process. The kernel closes its sockets and releases its locks unless the power is gone.
    pub(crate) fn end_process(&mut self, node: usize, power_lost: bool) {
        let now = Duration::from_nanos(self.core.now);
        let host = &mut self.core.hosts[node];
        if host.stalled_until > self.core.now {
            self.facts.retain(|record| record.node.0 != node || record.time <= now);
        }
        host.paused = false;
        host.stalled_until = 0;
        if power_lost {
            host.powered = false;
            host.epoch += 1;
        }
        if let Some(running) = host.running.take() {
            host.effects.processes_ended += 1;
            running.end();
            // madsim drops the futures of a paused node inside its own lock; resumed ones are dropped outside.
            Handle::current().resume(running.madsim_id());
            Handle::current().kill(running.madsim_id());
        }
        if power_lost {
            self.net.power_loss(&mut self.core, node);
        } else {
            self.net.close_process(&mut self.core, node);
        }
        self.disks[node].release_process();
    }
}
