//! One simulation: a fresh OS thread, a seed, a scenario, an outcome.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::resume_unwind;
use std::time::Duration;

use madsim::Config;
use madsim::runtime::Runtime;

use crate::effects::Effects;
use crate::net::NetSettings;
use crate::sites::SiteCount;
use crate::trace::{LogWindow, TraceLog};
use crate::world::{FactRecord, World};

/// Stack of a simulation's thread in bytes; futures of a whole cluster are polled on it.
const STACK_SIZE: usize = 16 << 20;

/// A task of a node panicked: always worth a look, usually a violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    pub time: Duration,
    pub node: String,
    pub task: &'static str,
    pub message: String,
}

/// What a simulation leaves behind.
#[derive(Debug)]
pub struct Outcome<T> {
    pub seed: u64,
    pub value: T,
    /// Equal for equal seeds and schedules (and the same binary).
    pub trace_hash: u64,
    /// Observable events: packets, disk operations, facts, faults.
    pub event_count: u64,
    pub log: TraceLog,
    /// Simulated time.
    pub time: Duration,
    pub panics: Vec<Panic>,
    /// Facts that the scenario has not drained.
    pub facts: Vec<FactRecord>,
    pub effects: Effects,
    pub sites: BTreeMap<&'static str, SiteCount>,
}

/// A simulation to be run.
#[derive(Clone, Debug)]
pub struct Sim {
    seed: u64,
    schedule: u64,
    window: LogWindow,
    net: NetSettings,
}

impl Sim {
    pub fn new(seed: u64) -> Sim {
        Sim {
            seed,
            schedule: seed,
            window: LogWindow::Off,
            net: NetSettings::default(),
        }
    }

    /// Seed of the order in which tasks run that are ready at the same time; the simulation's own seed without this call. No other draw
    /// depends on it.
    #[must_use]
    pub fn schedule(mut self, seed: u64) -> Sim {
        self.schedule = seed;
        self
    }

    /// Keeps the events of this window in [`Outcome::log`].
    #[must_use]
    pub fn log(mut self, window: LogWindow) -> Sim {
        self.window = window;
        self
    }

    #[must_use]
    pub fn net(mut self, settings: NetSettings) -> Sim {
        self.net = settings;
        self
    }

    /// Runs the scenario to its end on a thread of its own, then ends every process. A panic of the scenario itself
    /// is passed on; a panic in a node's task is an [`Outcome::panics`] entry.
    pub fn run<T, F, S>(self, scenario: F) -> Outcome<T>
    where
        T: Send + 'static,
        F: FnOnce(World) -> S + Send + 'static,
        S: Future<Output = T>,
    {
        let seed = self.seed;
        let thread = std::thread::Builder::new()
            .name(format!("seed-{seed}"))
            .stack_size(STACK_SIZE)
            .spawn(move || self.run_here(scenario))
            .expect("the system has a thread to spare");
        thread.join().unwrap_or_else(|panic| {
            eprintln!("the scenario of seed {seed} panicked");
            resume_unwind(panic)
        })
    }

    fn run_here<T, F, S>(self, scenario: F) -> Outcome<T>
    where
        F: FnOnce(World) -> S,
        S: Future<Output = T>,
    {
        let runtime = Runtime::with_seed_and_config(self.schedule, Config::default());
        runtime.block_on(async {
            let world = World::new(self.seed, self.window, self.net);
            let keeper = madsim::task::spawn(world.clone().keep());
            let value = scenario(world.clone()).await;
            let time = world.now();
            let mut outcome = world.with(|state| Outcome {
                seed: self.seed,
                value,
                trace_hash: state.core.trace.hash(),
                event_count: state.core.trace.count(),
                log: state.core.trace.take_log(),
                time,
                panics: Vec::new(),
                facts: state.facts.drain(..).collect(),
                effects: Effects::default(),
                sites: state.sites.counts(),
            });
            outcome.effects = world.effects();
            // madsim leaks tasks that live when its runtime is dropped (its issue 242): end them, let them be dropped.
            world.stop();
            madsim::time::sleep(Duration::from_millis(1)).await;
            drop(keeper);
            outcome.panics = world.with(|state| std::mem::take(&mut state.panics));
            outcome
        })
    }
}

/// Runs `scenario` with `seed` and default settings.
pub fn run<T, F, S>(seed: u64, scenario: F) -> Outcome<T>
where
    T: Send + 'static,
    F: FnOnce(World) -> S + Send + 'static,
    S: Future<Output = T>,
{
    Sim::new(seed).run(scenario)
}
