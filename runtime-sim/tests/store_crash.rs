//! The power goes between any two disk operations of a store's life, and everything promised is there.
//!
//! One run of a store, with its starts, stops, crashes and recoveries, yields the disk as it stood before each operation.
//! Each of these is crashed into in many ways: process killed; power cut with all, none or some of the unsynced names
//! and writes kept, in any order, torn at any sector; the latest write ending at, or missing, each of its sectors. Then the
//! store is opened again and compared with what had been promised by then, goes on, is crashed, and opened once more.
//! A part of the recoveries is cut in the same way at each of their own operations.
//!
//! `ORRERY_CRASH_RUNS` sets the number of runs of each test. A failure names seed, change and cut.

mod stored;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use orrery_core::runtime::{Disk, File, OpenMode, Runtime, WallMillis};
use orrery_core::store::{Boundary, FlushMode, StoreConfig, json};
use orrery_runtime_sim::{CrashPoint, Draw, Effects, Fate, Newest, NodeId, PowerCut, World, run};
use stored::judge::Judge;
use stored::*;

/// Cuts with drawn outcomes at each point.
const DRAWN_CUTS: u64 = 3;
/// One in so many recoveries is cut at each of its own operations.
const CUT_RECOVERIES: u64 = 150;
/// One in so many looks up keys and times, too.
const LOOK_UPS: u64 = 4;

/// What was promised, as of a change of the disk.
#[derive(Clone, Copy, Debug)]
struct Promise {
    change: u64,
    /// Everything before this position survives a power loss.
    durable: u64,
    /// Everything before this position survives a kill.
    written: u64,
    /// The log starts there, or will before the next promise.
    log_start: u64,
}

/// What a store held from one change on: a life, with the recovery that follows.
#[derive(Clone, Debug, Default)]
struct Life {
    from_change: u64,
    sent: Vec<Sent>,
    promises: Vec<Promise>,
    /// The last change before the power went.
    power_lost_at: Option<u64>,
    /// Positions of records that an earlier recovery found torn, with a whole one behind them: their slots are gaps.
    torn: BTreeSet<u64>,
}

impl Life {
    fn durable(&self, change: u64) -> u64 {
        let made = self.promises.iter().filter(|promise| promise.change <= change);
        made.map(|promise| promise.durable).max().unwrap_or(0)
    }

    fn written(&self, change: u64) -> u64 {
        let made = self.promises.iter().filter(|promise| promise.change <= change);
        made.map(|promise| promise.written).max().unwrap_or(0)
    }

    /// The furthest that retention can have come by then.
    fn log_start_max(&self, change: u64) -> u64 {
        let mut later = self.promises.iter().filter(|promise| promise.change >= change);
        later
            .next()
            .or(self.promises.last())
            .map_or(0, |promise| promise.log_start)
    }
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    mode: FlushMode,
    retention: bool,
    lives: u64,
    steps: u64,
}

fn plan_config(plan: &Plan) -> StoreConfig {
    StoreConfig {
        delete_hours: if plan.retention { (0..24).collect() } else { Vec::new() },
        delete_files_max: 2,
        ..config(plan.mode)
    }
}

/// How the power goes at a point: every fixed way, every sector of the latest write, some drawn ones. `None` is a kill.
fn cuts(point: &CrashPoint, draw: Draw, drawn: u64) -> Vec<Option<PowerCut>> {
    let mut cuts = vec![None];
    for names in [Fate::Kept, Fate::Lost] {
        for data in [Fate::Kept, Fate::Lost] {
            cuts.push(Some(PowerCut::fixed(names, data)));
        }
    }
    let sectors = point.newest_sectors();
    if sectors > 0 {
        // Re-ordered: what came last arrives alone.
        let newest = Newest::Kept;
        let alone = PowerCut::fixed(Fate::Kept, Fate::Lost);
        cuts.push(Some(PowerCut { newest, ..alone }));
    }
    for sector in 1..sectors {
        cuts.push(Some(PowerCut::newest(Newest::First(sector))));
    }
    if sectors > 1 {
        cuts.extend((0..sectors).map(|sector| Some(PowerCut::newest(Newest::Without(sector)))));
    }
    cuts.extend((0..drawn).map(|number| Some(PowerCut::drawn(draw.with(number)))));
    cuts
}

/// Counts of a test, for its report.
#[derive(Default)]
struct Counts {
    points: Cell<u64>,
    crashes: Cell<u64>,
    recovery_points: Cell<u64>,
    recovery_crashes: Cell<u64>,
    lost_tails: Cell<u64>,
    gaps: Cell<u64>,
    deletions: Cell<u64>,
}

fn add(cell: &Cell<u64>, count: u64) {
    cell.set(cell.get() + count);
}

struct Tester {
    world: World,
    node: NodeId,
    seed: u64,
    config: StoreConfig,
    counts: Counts,
}

/// A store's life: what happens is drawn.
impl Tester {
    async fn live(&self, plan: &Plan) -> (Vec<Life>, Vec<CrashPoint>) {
        let Tester { world, node, .. } = self;
        let node = *node;
        let mut lives: Vec<Life> = Vec::new();
        let mut next_id = 0;
        world.keep_crash_points(node);
        for number in 0..plan.lives {
            let draw = world.draw("life").with(number);
            let rt = world.runtime(node);
            let (store, recovery) = open(&rt, &plan_config(plan)).await.expect("the run itself goes well");
            let mut life = Life {
                from_change: world.disk_changes(node),
                ..lives.last().cloned().unwrap_or_default()
            };
            life.sent.retain(|sent| sent.end() <= recovery.log_end);
            life.promises.clear();
            life.power_lost_at = None;
            life.torn.extend(recovery.damaged.iter().copied());
            self.note(&store, &mut life);
            for step in 0..plan.steps {
                self.step(&store, &mut life, draw.with(step), &mut next_id, plan).await;
                self.note(&store, &mut life);
            }
            match draw.with(u64::MAX).below(4) {
                0 | 1 => {
                    store.close().await.expect("a clean stop");
                    self.judge(&format!("seed {}, life {number}", self.seed)).stopped();
                    let end = store.info().log_end;
                    life.promises.push(Promise {
                        change: world.disk_changes(node),
                        durable: end,
                        written: end,
                        log_start: store.info().log_start,
                    });
                }
                2 => {
                    drop(store);
                    world.kill(node);
                }
                _ => {
                    drop(store);
                    life.power_lost_at = Some(world.disk_changes(node));
                    world.power_loss(node);
                }
            }
            lives.push(life);
        }
        (lives, world.take_crash_points(node))
    }

    fn note(&self, store: &Sim, life: &mut Life) {
        let info = store.info();
        life.promises.push(Promise {
            change: self.world.disk_changes(self.node),
            durable: info.flushed,
            written: info.written,
            log_start: info.log_start,
        });
    }

    async fn step(&self, store: &Sim, life: &mut Life, draw: Draw, next_id: &mut u64, plan: &Plan) {
        match draw.with(1).below(12) {
            0..=6 => {
                let queue = (TOPICS[draw.with(2).below(3) as usize], draw.with(3).below(2) as i32);
                let count = if draw.with(4).below(3) == 0 { 3 } else { 1 };
                let messages =
                    (0..count).map(|number| Message::drawn(draw.with(5).with(number), *next_id + number, queue));
                let sent = append(store, messages.collect()).await.expect("appended");
                *next_id += count;
                let end = sent.last().expect("one at least").end();
                life.sent.extend(sent);
                match draw.with(6).below(4) {
                    // In memory alone, for now.
                    0 => {}
                    1 => store.write_pending().await.expect("written"),
                    _ => {
                        store
                            .flushed(orrery_core::types::PhysicalOffset(end))
                            .await
                            .expect("flushed");
                        assert!(store.info().flushed >= end);
                    }
                }
            }
            7 | 8 => self.world.sleep(Duration::from_millis(draw.with(2).below(25))).await,
            9 => self.world.sleep(Duration::from_millis(60)).await,
            10 if draw.with(2).below(4) == 0 => self.world.sleep(Duration::from_secs(32)).await,
            11 if plan.retention && draw.with(2).below(2) == 0 => {
                self.world.step_wall(self.node, 80 * 3_600_000);
                self.world.sleep(Duration::from_millis(50)).await;
            }
            _ => self.world.sleep(Duration::from_millis(5)).await,
        }
    }
}

/// What a store shows after a crash.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    log_end: u64,
    queues: BTreeMap<Queue, (i64, i64)>,
    torn: BTreeSet<u64>,
}

/// Crashing, and looking at what is left.
impl Tester {
    async fn crash_everywhere(&self, lives: &[Life], points: &[CrashPoint]) {
        for (index, point) in points.iter().enumerate() {
            let life = lives.iter().rev().find(|life| life.from_change <= point.change);
            let first = Life::default();
            let life = life.unwrap_or(&first);
            let draw = self.world.draw("cut").with(point.change);
            add(&self.counts.points, 1);
            for (number, cut) in cuts(point, draw, DRAWN_CUTS).into_iter().enumerate() {
                add(&self.counts.crashes, 1);
                let draw = draw.with(1000 + number as u64);
                self.crash(life, point, cut.as_ref(), draw).await;
                if draw.with(1).below(CUT_RECOVERIES) == 0 || (index == 0 && number == 0) {
                    self.crash_recovery(life, point, cut.as_ref(), draw).await;
                }
            }
        }
    }

    fn judge<'a>(&'a self, name: &'a str) -> Judge<'a> {
        Judge {
            world: &self.world,
            node: self.node,
            config: &self.config,
            name,
        }
    }

    fn name(&self, point: &CrashPoint, cut: Option<&PowerCut>) -> String {
        format!(
            "seed {}, change {} before {}, {cut:?}",
            self.seed, point.change, point.before
        )
    }

    /// Crashes there, looks at what is left, goes on with it, crashes again, and looks again.
    async fn crash(&self, life: &Life, point: &CrashPoint, cut: Option<&PowerCut>, draw: Draw) {
        let name = self.name(point, cut);
        self.world.crash_to(self.node, point, cut);
        let (store, shown) = self.look(life, point.change, cut.is_none(), &name, draw).await;
        let mut sent: Vec<Sent> = life
            .sent
            .iter()
            .filter(|sent| sent.end() <= shown.log_end)
            .cloned()
            .collect();
        let last_time = sent.iter().map(|sent| sent.store_time).max().unwrap_or(WallMillis(0));
        // What a reader has seen is a promise: it survives a cut at once.
        if draw.with(2).below(2) == 0 {
            let queue = (TOPICS[draw.with(3).below(3) as usize], 0);
            let message = Message::drawn(draw.with(4), 1_000_000, queue);
            let more = append(&store, vec![message])
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let next = shown.queues.get(&queue).map_or(0, |(_, max)| *max);
            assert_eq!(more[0].queue_offset, next, "{name}: offsets go on where they ended");
            assert!(more[0].store_time >= last_time, "{name}: store times go on");
            store
                .flushed(orrery_core::types::PhysicalOffset(more[0].end()))
                .await
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            sent.extend(more);
        }
        let end = store.info().log_end;
        let is_clean = draw.with(5).below(4) == 0;
        if is_clean {
            store
                .close()
                .await
                .unwrap_or_else(|error| panic!("{name}: closing: {error}"));
            self.judge(&format!("{name}; closed")).stopped();
        }
        drop(store);
        let again = Life {
            from_change: 0,
            sent,
            power_lost_at: None,
            torn: shown.torn.clone(),
            promises: vec![Promise {
                change: 0,
                durable: end,
                written: end,
                log_start: life.log_start_max(point.change),
            }],
        };
        self.world.keep_crash_points(self.node);
        let after = self.world.take_crash_points(self.node).pop().expect("the state now");
        let data = [Fate::Lost, Fate::Kept, Fate::Drawn(draw)][draw.with(6).below(3) as usize];
        self.world
            .crash_to(self.node, &after, Some(&PowerCut::fixed(Fate::Lost, data)));
        let name = format!("{name}; opened again after {data:?}");
        let (store, shown_again) = self.look(&again, 0, false, &name, draw).await;
        assert_eq!(shown_again.log_end, end, "{name}");
        drop(store);
    }

    /// Crashes there and cuts the recovery at each of its operations.
    async fn crash_recovery(&self, life: &Life, point: &CrashPoint, cut: Option<&PowerCut>, draw: Draw) {
        let name = self.name(point, cut);
        self.world.crash_to(self.node, point, cut);
        self.world.keep_crash_points(self.node);
        let opened = open(&self.world.runtime(self.node), &self.config).await;
        let (store, recovery) = opened.unwrap_or_else(|error| panic!("{name}: {error}"));
        drop(store);
        // What it has found torn is not looked at again once it has saved its checkpoint.
        let mut life = life.clone();
        life.torn.extend(recovery.damaged);
        let life = &life;
        let points = self.world.take_crash_points(self.node);
        add(&self.counts.recovery_points, points.len() as u64);
        for (number, inner) in points.iter().enumerate() {
            let draw = draw.with(7).with(number as u64);
            for cut_again in cuts(inner, draw, 2) {
                add(&self.counts.recovery_crashes, 1);
                let name = format!(
                    "{name}; recovery cut at {} before {}: {cut_again:?}",
                    inner.change, inner.before
                );
                self.world.crash_to(self.node, inner, cut_again.as_ref());
                let only_kills = cut.is_none() && cut_again.is_none();
                drop(self.look(life, point.change, only_kills, &name, draw).await);
            }
        }
    }

    /// Opens the store and compares everything it shows with what was promised by `change`.
    async fn look(&self, life: &Life, change: u64, is_kill: bool, name: &str, draw: Draw) -> (Sim, Shown) {
        let rt = self.world.runtime(self.node);
        let (store, recovery) = open(&rt, &self.config)
            .await
            .unwrap_or_else(|error| panic!("{name}: cannot be opened: {error}"));
        self.judge(name).started(&store, recovery.log_end, &recovery.gaps);
        let has_power = life.power_lost_at.is_none_or(|lost_at| change <= lost_at);
        let promised = match is_kill && has_power {
            true => life.written(change),
            false => life.durable(change),
        };
        assert!(
            recovery.log_end >= promised,
            "{name}: the log ends at {}, {promised} was promised",
            recovery.log_end
        );
        assert!(recovery.log_start <= life.log_start_max(change), "{name}: {recovery:?}");
        let torn: BTreeSet<u64> = life.torn.iter().chain(&recovery.damaged).copied().collect();
        assert!(
            recovery
                .damaged
                .iter()
                .all(|position| *position >= promised || life.torn.contains(position)),
            "{name}: {recovery:?}"
        );
        add(&self.counts.gaps, recovery.damaged.len() as u64);
        add(&self.counts.lost_tails, u64::from(recovery.lost_tail));
        add(&self.counts.deletions, u64::from(recovery.log_start > 0));
        let placed = |sent: &&Sent| sent.end() <= recovery.log_end && sent.position >= recovery.log_start;
        let kept = |sent: &&Sent| placed(sent) && !torn.contains(&sent.position);
        let at_end = life.sent.iter().rfind(|sent| sent.position < recovery.log_end);
        assert!(
            at_end.is_none_or(|sent| sent.end() <= recovery.log_end),
            "{name}: the log ends within a record: {recovery:?}"
        );
        let mut shown = Shown {
            log_end: recovery.log_end,
            queues: BTreeMap::new(),
            torn: torn.clone(),
        };
        for (queue_name, bounds) in store.queues() {
            let topic = TOPICS
                .iter()
                .find(|topic| *queue_name.topic == ***topic)
                .expect("a topic of ours");
            shown
                .queues
                .insert((topic, queue_name.queue_id), (bounds.min, bounds.max));
        }
        for (queue, sent) in by_queue(&life.sent) {
            let sent: Vec<&Sent> = sent.into_iter().filter(placed).collect();
            let (Some(first), Some(last)) = (sent.first().copied(), sent.last().copied()) else {
                continue;
            };
            let next = last.queue_offset + 1;
            let sent: Vec<&Sent> = sent.into_iter().filter(kept).collect();
            let (min, max) = *shown
                .queues
                .get(&queue)
                .unwrap_or_else(|| panic!("{name}: {queue:?} is gone"));
            assert_eq!(max, next, "{name}: end of {queue:?}");
            assert!(min <= first.queue_offset, "{name}: {queue:?} starts at {min}");
            let records = read_queue(&store, queue, min).await;
            let records = records.unwrap_or_else(|error| panic!("{name}: {queue:?}: {error}"));
            assert_eq!(records.len(), sent.len(), "{name}: records of {queue:?}");
            for (record, sent) in records.iter().zip(&sent) {
                assert!(
                    record[..] == sent.record[..],
                    "{name}: {queue:?} {} is not what was sent",
                    sent.queue_offset
                );
            }
        }
        for (queue, (min, max)) in &shown.queues {
            let is_sent = |sent: &Sent| sent.message.queue == *queue && sent.end() <= recovery.log_end;
            assert!(
                min == max || life.sent.iter().any(is_sent),
                "{name}: nobody sent to {queue:?}, which has {min}..{max}"
            );
        }
        if draw.with(8).below(LOOK_UPS) == 0 {
            let (kept, placed) = (life.sent.iter().filter(kept), life.sent.iter().filter(placed));
            self.look_up(&store, kept.collect(), placed.collect(), name, draw).await;
        }
        (store, shown)
    }

    /// Keys and times of some records.
    async fn look_up(&self, store: &Sim, sent: Vec<&Sent>, placed: Vec<&Sent>, name: &str, draw: Draw) {
        let Some(one) = sent.get(draw.with(9).below(sent.len() as u64) as usize) else {
            return;
        };
        let topic = one.message.queue.0;
        let all = (WallMillis(0), WallMillis(i64::MAX));
        if let Some(key) = &one.message.key {
            let found = store.query(topic, key, 64, all.0, all.1).await;
            let mut found: Vec<u64> = found.expect(name).iter().map(|record| id_of(record)).collect();
            found.reverse();
            let matching = |sent: &&&Sent| sent.message.queue.0 == topic && sent.message.key.as_ref() == Some(key);
            let expected: Vec<u64> = sent.iter().filter(matching).map(|sent| id_of(&sent.record)).collect();
            assert_eq!(found, expected, "{name}: records with {key}");
        }
        let time = one.store_time;
        let (queue, queue_id) = one.message.queue;
        let found = store
            .offset_by_time(queue, queue_id, time, Boundary::Lower)
            .await
            .expect(name);
        // A torn record says when it was stored: its slot counts.
        let first = placed
            .iter()
            .find(|sent| sent.message.queue == one.message.queue && sent.store_time >= time);
        assert_eq!(found, first.expect("the one itself").queue_offset, "{name}: by time");
    }
}

/// Plays one life and crashes it everywhere.
fn crash_run(seed: u64, plan: Plan) -> (Counts, Effects) {
    let outcome = run(seed, move |world| async move {
        let node = world.add_node("broker");
        let recorded = Tester {
            world: world.clone(),
            node,
            seed,
            config: config(plan.mode),
            counts: Counts::default(),
        };
        let (lives, points) = recorded.live(&plan).await;
        world.set_disk(node, instant_disk());
        recorded.crash_everywhere(&lives, &points).await;
        recorded.counts
    });
    assert!(outcome.panics.is_empty(), "seed {seed}: {:?}", outcome.panics);
    (outcome.value, outcome.effects)
}

fn crash_runs(first_seed: u64, default_count: u64, plan: Plan) -> Counts {
    let began = std::time::Instant::now();
    let sum = Counts::default();
    let mut damage = Effects::default();
    for seed in first_seed..first_seed + count_of("ORRERY_CRASH_RUNS", default_count) {
        let (counts, effects) = crash_run(seed, plan);
        damage = damage + effects;
        add(&sum.points, counts.points.get());
        add(&sum.crashes, counts.crashes.get());
        add(&sum.recovery_points, counts.recovery_points.get());
        add(&sum.recovery_crashes, counts.recovery_crashes.get());
        add(&sum.lost_tails, counts.lost_tails.get());
        add(&sum.deletions, counts.deletions.get());
    }
    println!(
        "{} points, {} crashes; {} points of recoveries, {} crashes; {} tails lost; {:?}",
        sum.points.get(),
        sum.crashes.get(),
        sum.recovery_points.get(),
        sum.recovery_crashes.get(),
        sum.lost_tails.get(),
        began.elapsed()
    );
    assert!(
        damage.writes_lost > 0 && damage.writes_kept > 0 && damage.writes_torn > 0 && damage.names_lost > 0,
        "the disk was too kind: {damage:?}"
    );
    assert!(sum.lost_tails.get() > 0 && sum.recovery_crashes.get() > 0);
    sum
}

#[test]
fn synchronous_flush_survives_a_crash_at_any_operation() {
    let plan = Plan {
        mode: FlushMode::Sync,
        retention: false,
        lives: 3,
        steps: 12,
    };
    crash_runs(1000, 2, plan);
}

#[test]
fn asynchronous_flush_keeps_what_was_flushed_through_a_crash_at_any_operation() {
    let plan = Plan {
        mode: FlushMode::Async,
        retention: false,
        lives: 3,
        steps: 12,
    };
    crash_runs(2000, 1, plan);
}

#[test]
fn retention_survives_a_crash_at_any_operation() {
    let plan = Plan {
        mode: FlushMode::Sync,
        retention: true,
        lives: 2,
        steps: 30,
    };
    let counts = crash_runs(3000, 1, plan);
    assert!(counts.deletions.get() > 0, "nothing was deleted");
}

/// Saves versions of a table, crashes the saving at every operation, and that of the next one, too.
#[test]
fn a_table_survives_a_crash_at_any_operation_of_saving_it() {
    const PATH: &str = "/store/config/consumerOffset.json";
    fn table(version: u64) -> BTreeMap<String, u64> {
        // Longer and shorter by turns: nothing of the one may show behind the other.
        let filler = (0..version % 3 * 60).map(|number| (format!("group{number}"), number));
        filler.chain([("version".to_owned(), version)]).collect()
    }
    let outcome = run(1, move |world| async move {
        let node = world.add_node("broker");
        world.set_disk(node, instant_disk());
        let path = Path::new(PATH);
        let rt = world.runtime(node);
        rt.disk().create_dir_all(Path::new("/store")).await.unwrap();
        rt.disk().sync_dir(Path::new("/")).await.unwrap();
        // Saves `count` versions behind `from`; gives the points, and which version was promised as of which change.
        let save = async |promised: u64, from: u64, count: u64| {
            let rt = world.runtime(node);
            world.keep_crash_points(node);
            let mut saved = vec![(world.disk_changes(node), promised)];
            for version in from + 1..=from + count {
                json::save(rt.disk(), path, &table(version)).await.expect("saved");
                saved.push((world.disk_changes(node), version));
            }
            (world.take_crash_points(node), saved)
        };
        // At least what was promised, at most what was tried.
        let load = async |promised: u64, tried: u64, name: &str| {
            let rt = world.runtime(node);
            let loaded: Option<BTreeMap<String, u64>> = json::load(rt.disk(), path).await.expect(name);
            let version = loaded.as_ref().map_or(0, |table| table["version"]);
            assert!(
                promised <= version && version <= tried,
                "{name}: {version} after {promised}, {tried}"
            );
            assert!(loaded.is_none_or(|loaded| loaded == table(version)), "{name}: mixed up");
            version
        };
        let promised_at = |saved: &[(u64, u64)], change| {
            let known = saved.iter().rev().find(|(at, _)| *at <= change);
            known.map_or(0, |(_, version)| *version)
        };
        let (points, saved) = save(0, 0, 4).await;
        let mut crashes = 0;
        for point in &points {
            let draw = world.draw("table").with(point.change);
            for cut in cuts(point, draw, 8) {
                let name = format!("change {} before {}, {cut:?}", point.change, point.before);
                world.crash_to(node, point, cut.as_ref());
                let promised = promised_at(&saved, point.change);
                let version = load(promised, promised + 1, &name).await;
                let (again, saved_again) = save(promised, version, 1).await;
                for inner in &again {
                    for cut in cuts(inner, draw.with(inner.change), 2) {
                        crashes += 1;
                        let name = format!("{name}; then change {} before {}, {cut:?}", inner.change, inner.before);
                        world.crash_to(node, inner, cut.as_ref());
                        load(promised_at(&saved_again, inner.change), version + 1, &name).await;
                    }
                }
            }
        }
        println!("{} points, {crashes} double crashes", points.len());
        crashes
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
    assert!(outcome.value > 1000);
}

/// A stop right behind an append that wanted the next log file waits until that is whole.
#[test]
fn closing_leaves_only_whole_log_files() {
    for seed in 0..20 {
        let outcome = run(seed, move |world| async move {
            let node = world.add_node("broker");
            let rt = world.runtime(node);
            let (store, _) = open(&rt, &config(FlushMode::Sync)).await.unwrap();
            for id in 0..seed % 5 {
                append(
                    &store,
                    vec![Message::drawn(world.draw("m").with(id), id, ("TopicA", 0))],
                )
                .await
                .unwrap();
            }
            // Into the last file that there is.
            let mut id = 100;
            let first = store.info().log_end / LOG_FILE_SIZE;
            while store.info().log_end / LOG_FILE_SIZE == first {
                append(
                    &store,
                    vec![Message::drawn(world.draw("m").with(id), id, ("TopicA", 0))],
                )
                .await
                .unwrap();
                id += 1;
            }
            // Sometimes the file is begun by then.
            world.sleep(Duration::from_micros(50 * (seed % 7))).await;
            store.close().await.unwrap();
            drop(store);
            world.keep_crash_points(node);
            let closed = world.take_crash_points(node).pop().unwrap();
            for cut in [None, Some(PowerCut::fixed(Fate::Lost, Fate::Lost))] {
                world.crash_to(node, &closed, cut.as_ref());
                let rt = world.runtime(node);
                let folder = Path::new("/store/commitlog");
                for entry in rt.disk().list(folder).await.unwrap() {
                    let file = rt
                        .disk()
                        .open(&folder.join(&entry.name), OpenMode::Existing)
                        .await
                        .unwrap();
                    assert_eq!(file.len(), LOG_FILE_SIZE, "{}", entry.name);
                }
                let (_, recovery) = open(&rt, &config(FlushMode::Sync)).await.unwrap();
                assert!(recovery.clean && recovery.scanned_records == 0, "{recovery:?}");
            }
        });
        assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
    }
}
