//! From a seed to a plan, swarm style: each seed switches some kinds of faults off, so that the others are seen alone and
//! together. Every choice is a draw keyed by what it is about.
//!
//! The numbers keep a run meaningful: at most one broker is down at a time, faults last less than the time that
//! producers have left, and two producers send about 170 messages a second between them, so that even a run with a long
//! wait for a queue lock sees 50 a second.

use std::collections::BTreeMap;

use orrery_runtime_sim::Draw;

use crate::plan::{
    BrokerPlan, ClientPlan, Fault, FaultPlan, Flush, GroupPlan, Network, Order, Plan, Produces, TopicPlan, VERSION,
};

/// Kinds of faults, each on in about two seeds of three.
const KINDS: &[&str] = &[
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

/// The two-broker, two-name-server, four-client scenario of this seed.
pub fn generate(seed: u64) -> Plan {
    let draw = |purpose: &str| Draw::new(seed, "plan").with(Draw::new(0, purpose).bits());
    let duration_ms = 20_000 + draw("duration").below(11) * 1_000;
    let topics = vec![TopicPlan {
        name: "orders".into(),
        queues: 2 + draw("queues").below(3) as u32,
    }];
    let mut plan = Plan {
        version: VERSION,
        story: format!("generated from seed {seed}"),
        seed,
        schedule: None,
        duration_ms,
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
    plan.faults = faults(&plan, draw("faults"));
    plan
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
fn faults(plan: &Plan, draw: Draw) -> Vec<Fault> {
    let on: Vec<&str> = KINDS
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
        let what = fault(plan, pick(draw.with(1), &on), draw);
        let until = at_ms + what.for_ms().unwrap_or(0);
        let strikes_broker = what.nodes().iter().any(|node| node.starts_with("broker"));
        if !strikes_broker || at_ms >= broker_busy_until {
            if strikes_broker {
                broker_busy_until = until + 500;
            }
            faults.push(Fault { at_ms, what });
        }
        at_ms += 800 + draw.with(2).below(2_200);
    }
    faults
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
        _ => FaultPlan::Link {
            node: any,
            latency_ms: pick(draw.with(8), &[5, 50, 300]),
            loss_percent: pick(draw.with(9), &[0.0, 1.0, 10.0]),
            for_ms: between(1_000, 6_000),
        },
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
        for seed in 0..500 {
            let plan = generate(seed);
            plan.check().unwrap();
            assert_eq!(plan, generate(seed));
            assert_ne!(plan, generate(seed + 1));
        }
    }

    #[test]
    fn each_kind_of_fault_is_drawn_and_each_is_absent_somewhere() {
        let mut with = BTreeMap::<String, u32>::new();
        for seed in 0..200 {
            let mut kinds: Vec<String> = generate(seed)
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
        assert_eq!(with.len(), 9, "{with:?}");
        assert!(with.values().all(|&seeds| (20..200).contains(&seeds)), "{with:?}");
    }
}
