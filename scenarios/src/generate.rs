//! From a seed to a plan, swarm style: each seed switches some kinds of faults off, so that the others are seen alone and
//! together. Every choice is a draw keyed by what it is about. A [`Profile`] says which kinds there are and how long a run is.
//!
//! The numbers keep a run meaningful: faults last less than the time that producers have left, only the kinds that say so have two
//! brokers down at a time, and two producers send about 170 messages a second between them, so that even a run with a long wait for a
//! queue lock sees 50 a second.

use std::collections::BTreeMap;

use orrery_runtime_sim::Draw;

use crate::plan::{
    BrokerPlan, ClientPlan, DiskErrorKind, Fault, FaultPlan, Flush, GroupPlan, Network, Order, Plan, Produces,
    TopicPlan, VERSION,
};

/// A family of plans.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Seconds of work: from, to. Most runs are near the short end.
    seconds: (u64, u64),
    /// Kinds of faults, each on in about two seeds of three.
    kinds: &'static [&'static str],
}

const CLASSIC: &[&str] = &[
    "kill-broker",
    "power-loss",
    "kill-name-server",
    "kill-client",
    "cut-both",
    "cut-one-way",
    "isolate-client",
    "pause",
    "clock-step",
    "clock-drift",
    "disk-slow",
    "disk-stall",
    "slow-link",
];

const ALL: &[&str] = &[
    "kill-broker",
    "power-loss",
    "power-loss-all",
    "rolling-restart",
    "kill-name-server",
    "name-servers-gone",
    "stale-name-server",
    "kill-client",
    "cut-both",
    "cut-one-way",
    "isolate-client",
    "swizzle",
    "ring",
    "bridge",
    "pause",
    "clock-step",
    "clock-drift",
    "disk-slow",
    "disk-stall",
    "disk-errors",
    "disk-full",
    "slow-link",
];

/// All profiles; the first is the default.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "smoke",
        about: "short runs of the classic kinds, for every change",
        seconds: (20, 30),
        kinds: CLASSIC,
    },
    Profile {
        name: "ci",
        about: "a minute or more of every kind",
        seconds: (60, 120),
        kinds: ALL,
    },
    Profile {
        name: "nightly",
        about: "up to a quarter of an hour of every kind: leases, expiries and the later retry steps are reached",
        seconds: (60, 900),
        kinds: ALL,
    },
    Profile {
        name: "store",
        about: "brokers that die and disks that fail",
        seconds: (30, 90),
        kinds: &[
            "kill-broker",
            "power-loss",
            "power-loss-all",
            "rolling-restart",
            "clock-step",
            "disk-slow",
            "disk-stall",
            "disk-errors",
            "disk-full",
        ],
    },
    Profile {
        name: "partition",
        about: "links that fail, in every shape",
        seconds: (60, 180),
        kinds: &[
            "cut-both",
            "cut-one-way",
            "isolate-client",
            "stale-name-server",
            "name-servers-gone",
            "swizzle",
            "ring",
            "bridge",
            "slow-link",
            "pause",
        ],
    },
    Profile {
        name: "clock",
        about: "clocks that step and drift while brokers and clients restart",
        seconds: (60, 180),
        kinds: &["clock-step", "clock-drift", "kill-broker", "kill-client", "pause"],
    },
];

impl Profile {
    pub fn by_name(name: &str) -> Option<Profile> {
        PROFILES.iter().find(|profile| profile.name == name).copied()
    }
}

/// The plan of a seed in the default profile.
pub fn generate(seed: u64) -> Plan {
    generate_in(PROFILES[0], seed)
}

/// The two-broker, two-name-server, four-client scenario of this seed.
pub fn generate_in(profile: Profile, seed: u64) -> Plan {
    let draw = |purpose: &str| Draw::new(seed, "plan").with(Draw::new(0, purpose).bits());
    let topics = vec![TopicPlan {
        name: "orders".into(),
        queues: 2 + draw("queues").below(3) as u32,
    }];
    let mut plan = Plan {
        version: VERSION,
        story: format!("generated from seed {seed} in profile {}", profile.name),
        seed,
        schedule: None,
        duration_ms: seconds(profile.seconds, draw("duration")) * 1_000,
        drain_ms: 180_000,
        network: network(draw("network")),
        sites: BTreeMap::new(),
        expect: None,
        name_servers: 2,
        brokers: vec![broker("broker-a", draw("flush-a")), broker("broker-b", draw("flush-b"))],
        topics,
        groups: groups(draw("groups")),
        clients: clients(draw("clients")),
        faults: Vec::new(),
    };
    plan.faults = faults(&plan, profile.kinds, draw("faults"));
    plan
}

/// One run in four is drawn from the whole range, the others from its first quarter.
fn seconds((from, to): (u64, u64), draw: Draw) -> u64 {
    let range = if to - from > 10 && draw.with(1).happens(0.75) {
        (to - from) / 4
    } else {
        to - from
    };
    from + draw.with(2).below(range + 1)
}

fn network(draw: Draw) -> Network {
    Network {
        latency_us: 100 + draw.with(1).below(900),
        jitter_us: draw.with(2).below(1_500),
        user_timeout_ms: pick(draw.with(3), &[2_000, 4_000, 30_000]),
    }
}

fn broker(name: &str, draw: Draw) -> BrokerPlan {
    BrokerPlan {
        name: name.into(),
        flush: pick(draw, &[Flush::Sync, Flush::Sync, Flush::Async]),
        properties: BTreeMap::new(),
    }
}

fn groups(draw: Draw) -> Vec<GroupPlan> {
    vec![
        GroupPlan {
            name: "billing".into(),
            order: Order::Concurrent,
            topics: vec!["orders".into()],
            listen_ms: 5 + draw.with(1).below(30),
            slow_ms: 200 + draw.with(2).below(2_000),
            slow_percent: 1.0,
            later_percent: pick(draw.with(3), &[0.0, 1.0, 5.0]),
        },
        GroupPlan {
            name: "shipping".into(),
            order: Order::Orderly,
            topics: vec!["orders".into()],
            listen_ms: 2 + draw.with(4).below(10),
            slow_ms: 100 + draw.with(5).below(900),
            slow_percent: 0.5,
            later_percent: pick(draw.with(6), &[0.0, 0.2]),
        },
    ]
}

fn clients(draw: Draw) -> Vec<ClientPlan> {
    let produces = |draw: Draw| {
        Some(Produces {
            topics: vec!["orders".into()],
            per_second: 75 + draw.with(1).below(21),
            messages: None,
            size_max: pick(draw.with(2), &[200, 1_000, 6_000]),
            unwaited_percent: pick(draw.with(3), &[0.0, 5.0]),
            batch_percent: pick(draw.with(4), &[0.0, 5.0]),
            one_way_percent: pick(draw.with(5), &[0.0, 2.0]),
        })
    };
    let client = |name: &str, produces, joins: &str| ClientPlan {
        name: name.into(),
        produces,
        joins: vec![joins.into()],
    };
    vec![
        client("client-1", produces(draw.with(1)), "billing"),
        client("client-2", produces(draw.with(2)), "shipping"),
        client("client-3", None, "billing"),
        client("client-4", None, "shipping"),
    ]
}

/// Something every second or three, of the kinds that are on.
fn faults(plan: &Plan, kinds: &[&str], draw: Draw) -> Vec<Fault> {
    let on: Vec<&str> = kinds
        .iter()
        .copied()
        .filter(|kind| draw.with(Draw::new(0, kind).bits()).happens(0.66))
        .collect();
    let mut faults: Vec<Fault> = Vec::new();
    for node in plan.nodes() {
        // Clocks of machines that were never set right.
        let skew = draw.with(Draw::new(1, &node).bits());
        if on.contains(&"clock-step") && skew.with(1).happens(0.5) {
            let by_ms = skew.with(2).below(600_000) as i64 - 300_000;
            faults.push(Fault {
                at_ms: 0,
                what: FaultPlan::ClockStep { node, by_ms },
            });
        }
    }
    if on.is_empty() {
        return faults;
    }
    let mut at_ms = 2_000 + draw.with(2).below(1_000);
    let mut broker_busy_until = 0;
    for number in 0.. {
        let draw = draw.with(1_000 + number);
        if at_ms + 1_000 > plan.duration_ms {
            break;
        }
        let some = strike(plan, pick(draw.with(1), &on), draw);
        let until = |(after_ms, what): &(u64, FaultPlan)| at_ms + after_ms + what.for_ms().unwrap_or(0);
        let strikes_broker = some
            .iter()
            .any(|(_, what)| what.nodes().iter().any(|node| node.starts_with("broker")));
        if !strikes_broker || at_ms >= broker_busy_until {
            if strikes_broker {
                broker_busy_until = some.iter().map(until).max().unwrap_or(0) + 500;
            }
            faults.extend(some.into_iter().map(|(after_ms, what)| Fault {
                at_ms: at_ms + after_ms,
                what,
            }));
        }
        at_ms += 800 + draw.with(2).below(2_200);
    }
    faults.retain(|fault| fault.at_ms + 1_000 <= plan.duration_ms);
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

/// The faults of one kind: most are a single one, some a pattern of several, each so many milliseconds after the first.
fn strike(plan: &Plan, kind: &str, draw: Draw) -> Vec<(u64, FaultPlan)> {
    let nodes = plan.nodes();
    let all_of = |prefix: &str| {
        let some = nodes.iter().filter(|node| node.starts_with(prefix)).cloned();
        shuffled(some.collect(), draw.with(10))
    };
    let between = |low: u64, high: u64| low + draw.with(5).below(high - low);
    let step = |number: usize, ms: u64| number as u64 * draw.with(11).with(number as u64).below(ms);
    let cut = |from: Vec<String>, to: Vec<String>, for_ms: u64| FaultPlan::Cut {
        from,
        to,
        both: true,
        for_ms,
    };
    match kind {
        "power-loss-all" => {
            let is_staggered = draw.with(6).happens(0.5);
            let brokers = all_of("broker").into_iter().enumerate().map(|(number, node)| {
                let after_ms = if is_staggered { step(number, 1_000) } else { 0 };
                let for_ms = between(500, 4_000);
                (after_ms, FaultPlan::PowerLoss { node, for_ms })
            });
            brokers.collect()
        }
        "rolling-restart" => {
            let brokers = all_of("broker").into_iter().enumerate();
            let kills = brokers.map(|(number, node)| {
                let for_ms = between(200, 1_500);
                (number as u64 * (for_ms + 1_000), FaultPlan::Kill { node, for_ms })
            });
            kills.collect()
        }
        "name-servers-gone" => {
            let for_ms = between(1_000, 20_000);
            let gone = all_of("namesrv").into_iter();
            gone.map(|node| (0, FaultPlan::Kill { node, for_ms })).collect()
        }
        // It goes on telling clients what it knew.
        "stale-name-server" => {
            let one = all_of("namesrv").into_iter().take(1).collect();
            vec![(0, cut(one, all_of("broker"), between(2_000, 20_000)))]
        }
        // Links of some nodes go one after the other and come back in another order (FoundationDB's swizzle-clogging).
        "swizzle" => {
            let count = 2 + draw.with(7).below(nodes.len() as u64 - 2) as usize;
            let some = shuffled(nodes.clone(), draw.with(8))
                .into_iter()
                .take(count)
                .enumerate();
            let cuts = some.map(|(number, node)| {
                let others = nodes.iter().filter(|other| **other != node).cloned().collect();
                let after_ms = step(number, 500);
                (
                    after_ms,
                    cut(vec![node], others, between(500, 2_500) + step(number, 300)),
                )
            });
            cuts.collect()
        }
        // Each node sees a majority, no two the same one: it loses those straight across a circle (Jepsen's majorities-ring).
        "ring" => {
            let circle = shuffled(nodes.clone(), draw.with(8));
            let count = circle.len();
            let for_ms = between(1_000, 5_000);
            let reach = count / 4;
            let cuts = (0..count).filter_map(|place| {
                let far = (1..count).filter(|distance| (*distance).min(count - distance) > reach);
                // Each pair once.
                let others: Vec<String> = far
                    .map(|distance| (place + distance) % count)
                    .filter(|other| *other > place)
                    .map(|other| circle[other].clone())
                    .collect();
                (!others.is_empty()).then(|| (0, cut(vec![circle[place].clone()], others, for_ms)))
            });
            cuts.collect()
        }
        // Two halves that only one node sees both of.
        "bridge" => {
            let all = shuffled(nodes.clone(), draw.with(8));
            let (left, right) = all[1..].split_at(all.len() / 2);
            vec![(0, cut(left.to_vec(), right.to_vec(), between(1_000, 5_000)))]
        }
        kind => vec![(0, fault(plan, kind, draw))],
    }
}

fn shuffled(mut nodes: Vec<String>, draw: Draw) -> Vec<String> {
    nodes.sort_by_cached_key(|node| draw.with(Draw::new(0, node).bits()).bits());
    nodes
}

fn fault(plan: &Plan, kind: &str, draw: Draw) -> FaultPlan {
    let nodes = plan.nodes();
    let of = |prefix: &str| {
        let some: Vec<String> = nodes.iter().filter(|node| node.starts_with(prefix)).cloned().collect();
        some[draw.with(3).below(some.len() as u64) as usize].clone()
    };
    let any = nodes[draw.with(4).below(nodes.len() as u64) as usize].clone();
    let between = |low: u64, high: u64| low + draw.with(5).below(high - low);
    match kind {
        "kill-broker" => FaultPlan::Kill {
            node: of("broker"),
            for_ms: between(200, 3_000),
        },
        "power-loss" => FaultPlan::PowerLoss {
            node: if draw.with(6).happens(0.8) { of("broker") } else { any },
            for_ms: between(500, 4_000),
        },
        "kill-name-server" => FaultPlan::Kill {
            node: of("namesrv"),
            for_ms: between(500, 8_000),
        },
        "kill-client" => FaultPlan::Kill {
            node: of("client"),
            for_ms: between(200, 4_000),
        },
        "cut-both" | "cut-one-way" => {
            let (from, to) = sides(&nodes, draw.with(7));
            FaultPlan::Cut {
                from,
                to,
                both: kind == "cut-both",
                for_ms: between(300, 5_000),
            }
        }
        "isolate-client" => {
            let client = of("client");
            FaultPlan::Cut {
                to: nodes.iter().filter(|node| **node != client).cloned().collect(),
                from: vec![client],
                both: true,
                for_ms: between(500, 8_000),
            }
        }
        "pause" => FaultPlan::Pause {
            node: any,
            for_ms: between(100, 4_000),
        },
        "clock-step" => FaultPlan::ClockStep {
            node: any,
            by_ms: pick(draw.with(8), &[-60_000, -5_000, -200, 200, 5_000, 60_000]),
        },
        "clock-drift" => FaultPlan::ClockDrift {
            node: any,
            parts_per_million: pick(draw.with(8), &[-20_000, -500, 500, 20_000]),
            for_ms: between(2_000, 20_000),
        },
        "disk-slow" => FaultPlan::DiskSlow {
            node: of("broker"),
            sync_ms: pick(draw.with(8), &[20, 100, 400]),
            for_ms: between(1_000, 6_000),
        },
        "disk-stall" => FaultPlan::DiskStall {
            node: of("broker"),
            for_ms: between(200, 3_000),
        },
        "disk-errors" => disk_errors(plan, of("broker"), draw),
        "disk-full" => FaultPlan::DiskFull {
            node: of("broker"),
            for_ms: between(500, 5_000),
        },
        _ => FaultPlan::Link {
            node: any,
            latency_ms: pick(draw.with(8), &[5, 50, 300]),
            loss_percent: pick(draw.with(9), &[0.0, 1.0, 10.0]),
            for_ms: between(1_000, 6_000),
        },
    }
}

/// A sync that fails may lose what an asynchronous flush has promised, which no budget excuses: there only other errors.
fn disk_errors(plan: &Plan, node: String, draw: Draw) -> FaultPlan {
    let is_sync = |broker: &BrokerPlan| broker.name == node && broker.flush == Flush::Sync;
    let kinds: &[DiskErrorKind] = match plan.brokers.iter().any(is_sync) {
        true => &[
            DiskErrorKind::Sync,
            DiskErrorKind::Write,
            DiskErrorKind::ShortWrite,
            DiskErrorKind::Read,
        ],
        false => &[DiskErrorKind::Write, DiskErrorKind::ShortWrite, DiskErrorKind::Read],
    };
    FaultPlan::DiskErrors {
        node,
        of: pick(draw.with(8), kinds),
        percent: pick(draw.with(9), &[1.0, 10.0, 100.0]),
        for_ms: 500 + draw.with(5).below(4_500),
    }
}

/// Two sides of a cut: a node against the rest, or a split of everything.
fn sides(nodes: &[String], draw: Draw) -> (Vec<String>, Vec<String>) {
    let alone = draw.with(1).below(nodes.len() as u64) as usize;
    let lonely = draw.with(2).happens(0.6);
    let is_left = |index: usize| {
        if lonely {
            index == alone
        } else {
            index == alone || draw.with(3).with(index as u64).happens(0.4)
        }
    };
    let named = |left: bool| {
        let side = nodes.iter().enumerate().filter(|(index, _)| is_left(*index) == left);
        side.map(|(_, node)| node.clone()).collect()
    };
    (named(true), named(false))
}

fn pick<T: Clone>(draw: Draw, from: &[T]) -> T {
    from[draw.with(77).below(from.len() as u64) as usize].clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_a_valid_plan_and_always_the_same() {
        for (seed, profile) in (0..500).zip(PROFILES.iter().cycle()) {
            let plan = generate_in(*profile, seed);
            plan.check().unwrap();
            assert_eq!(plan, generate_in(*profile, seed));
            assert_ne!(plan, generate_in(*profile, seed + 1));
            let seconds = plan.duration_ms / 1_000;
            assert!((profile.seconds.0..=profile.seconds.1).contains(&seconds));
        }
    }

    #[test]
    fn each_kind_of_fault_is_drawn_and_each_is_absent_somewhere() {
        let profile = Profile::by_name("ci").unwrap();
        let mut with = BTreeMap::<String, u32>::new();
        for seed in 0..200 {
            let mut kinds: Vec<String> = generate_in(profile, seed)
                .faults
                .iter()
                .map(|fault| serde_json::to_value(&fault.what).unwrap()["fault"].to_string())
                .collect();
            kinds.sort();
            kinds.dedup();
            for kind in kinds {
                *with.entry(kind).or_default() += 1;
            }
        }
        assert_eq!(with.len(), 11, "{with:?}");
        // Seven of the kinds are cuts: hardly any seed has none.
        let is_fair = |kind: &str, seeds: u32| seeds >= 20 && (seeds < 200 || kind.contains("cut"));
        assert!(with.iter().all(|(kind, &seeds)| is_fair(kind, seeds)), "{with:?}");
    }
}
