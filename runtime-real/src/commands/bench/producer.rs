//! `bench producer`: a fixed number of send requests in flight, or a fixed rate of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::BytesMut;
use clap::Args;
use orrery_core::protocol::Command;
use orrery_core::protocol::code::response;
use orrery_core::runtime::{Runtime, TaskSet};
use orrery_runtime_real::Real;

use super::connection::Connection;
use super::report::{self, Counts, Part};
use super::run::{Phase, Run, conduct};
use super::target::{self, Purpose, Target};
use super::template::{Message, OPAQUE_BASE, Template};
use super::{Shared, java_bool};

const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// How old counts may get before they are added to the run's.
const ADD_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shared: Shared,
    /// Requests in flight, over all connections (Java: threads)
    #[arg(short = 'w', long = "thread-count", visible_alias = "in-flight", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: u32,
    /// Bytes of a body
    #[arg(short = 's', long = "message-size", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4 << 20))]
    message_size: u32,
    /// Messages per second to intend; 0: as many as replies allow. Latency then counts from the intended time (the timer has
    /// a grain of 1 ms)
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Gives each message a key
    #[arg(short = 'k', long = "key-enable", value_name = "BOOL", default_value = "false", value_parser = java_bool, action = clap::ArgAction::Set)]
    keys: bool,
    /// Bytes of properties
    #[arg(short = 'p', long = "property-size", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=30_000))]
    property_size: u16,
    /// Different tags
    #[arg(short = 'l', long = "tag-count", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=256))]
    tag_count: u16,
    /// Delays each message
    #[arg(short = 'd', long = "delay-enable", value_name = "BOOL", default_value = "false", value_parser = java_bool, action = clap::ArgAction::Set)]
    delay: bool,
    /// Delay level
    #[arg(short = 'e', long = "delay-level", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    delay_level: u8,
}

pub(super) async fn run(arguments: Arguments, real: Real) -> anyhow::Result<bool> {
    let shared = &arguments.shared;
    let connections = u32::from(shared.connections);
    if arguments.in_flight < connections {
        bail!(
            "-w {} is less than one request per connection ({connections})",
            arguments.in_flight
        );
    }
    shared.check()?;
    let targets = target::find(shared, &real, Purpose::Write).await?;
    let templates: Vec<Arc<[Template]>> = targets
        .iter()
        .map(|target| templates(&arguments, &real, target))
        .collect::<anyhow::Result<_>>()?;
    println!(
        "topic: {}, threadCount: {}, messageSize: {}, keyEnable: {}, propertySize: {}, tagCount: {}, messageQuantity: {}, \
         delayEnable: {}, delayLevel: {}, reportInterval: {}",
        shared.topic,
        arguments.in_flight,
        arguments.message_size,
        arguments.keys,
        arguments.property_size,
        arguments.tag_count,
        shared.quantity,
        arguments.delay,
        arguments.delay_level,
        shared.report_interval
    );
    let run = Arc::new(Run::new(shared));
    let mut tasks = TaskSet::new();
    let key_base = u128::from(real.random_u64()) << 64;
    for index in 0..connections {
        let which = index as usize % targets.len();
        let depth = arguments.in_flight / connections + u32::from(index < arguments.in_flight % connections);
        let lane = Lane {
            target: targets[which].clone(),
            templates: Arc::clone(&templates[which]),
            next_template: index as usize,
            interval: (arguments.rate > 0.0).then(|| Duration::from_secs_f64(f64::from(connections) / arguments.rate)),
            key: key_base | u128::from(index) << 40,
            slots: vec![Slot::default(); depth as usize],
            free: Vec::new(),
            measured: false,
            part: Part::default(),
        };
        tasks.spawn(&real, "bench producer", lane.send_all(real.clone(), Arc::clone(&run)));
    }
    let mut last = (0, 0, 0);
    let used = conduct(&run, shared, &real, tasks, |counts, window| {
        let (latencies, sum_us) = counts.latencies();
        let now = (counts.messages, latencies, sum_us);
        print_line(
            "Current Time: ",
            Some(real.wall().0),
            counts,
            difference(now, last),
            window,
        );
        last = now;
    })
    .await;
    let counts = run.counts();
    let (latencies, sum_us) = counts.latencies();
    let all = (counts.messages, latencies, sum_us);
    print_line(
        "[Complete] Send Total: ",
        None,
        &counts,
        all,
        Duration::from_secs_f64(used.seconds),
    );
    report::finish(
        "orrery bench producer",
        &counts,
        &used,
        shared.warmup(),
        shared.json.as_deref(),
    )?;
    Ok(counts.messages > 0 && counts.failed() == 0)
}

/// One template per queue and tag.
fn templates(arguments: &Arguments, real: &Real, target: &Target) -> anyhow::Result<Arc<[Template]>> {
    let body: Vec<u8> = (0..arguments.message_size)
        .map(|index| b'a' + (index % 26) as u8)
        .collect();
    let padding = "p".repeat(usize::from(arguments.property_size));
    let delay_level = arguments.delay_level.to_string();
    let key = (real.wall().0 / 1000).to_string();
    let mut all = Vec::new();
    for tag_index in 0..arguments.tag_count.max(1) {
        let tag = format!("tag{tag_index}");
        let mut properties = Vec::new();
        if arguments.keys {
            properties.push(("KEYS", key.as_str()));
        }
        if arguments.tag_count > 0 {
            properties.push(("TAGS", tag.as_str()));
        }
        if arguments.delay {
            properties.push(("DELAY", delay_level.as_str()));
        }
        if arguments.property_size > 0 {
            properties.push(("padding", padding.as_str()));
        }
        let message = Message {
            topic: &arguments.shared.topic,
            broker_name: &target.broker_name,
            body: &body,
            properties: &properties,
        };
        for queue_id in 0..target.queue_count {
            all.push(Template::new(&message, queue_id)?);
        }
    }
    Ok(all.into())
}

type Totals = (u64, u64, u64);

fn difference(now: Totals, last: Totals) -> Totals {
    (now.0 - last.0, now.1 - last.1, now.2 - last.2)
}

/// A line of the Java benchmark; its maximum is since the start.
fn print_line(start: &str, wall_millis: Option<i64>, counts: &Counts, part: Totals, window: Duration) {
    let (messages, latencies, sum_us) = part;
    let first = wall_millis.map_or_else(|| counts.messages.to_string(), report::time_text);
    println!(
        "{start}{first} | Send TPS: {:.0} | Max RT(ms): {} | Average RT(ms): {:7.3} | Send Failed: {} | Response Failed: {}",
        messages as f64 / window.as_secs_f64().max(1e-9),
        counts.latency_ms_max(),
        sum_us as f64 / 1e3 / latencies.max(1) as f64,
        counts.unknown(),
        counts.refused_count()
    );
}

#[derive(Clone, Copy)]
struct Slot {
    intended: Instant,
    busy: bool,
    measured: bool,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot {
            intended: Instant::now(),
            busy: false,
            measured: false,
        }
    }
}

/// One connection and its requests in flight. The opaque of a request is its slot.
struct Lane {
    target: Target,
    templates: Arc<[Template]>,
    next_template: usize,
    /// Time between intended sends; `None`: as soon as a slot is free.
    interval: Option<Duration>,
    key: u128,
    slots: Vec<Slot>,
    free: Vec<u32>,
    measured: bool,
    part: Part,
}

impl Lane {
    async fn send_all(mut self, real: Real, run: Arc<Run>) {
        while let Err(error) = self.drive(&real, &run).await {
            self.part.unknown += self.slots.iter().filter(|slot| slot.busy && slot.measured).count() as u64;
            run.add(&mut self.part);
            log::warn!("{}: {error:#}", self.target.address);
            if run.phase() == Phase::Ending {
                break;
            }
            real.sleep(RECONNECT_PAUSE).await;
        }
        run.add(&mut self.part);
    }

    /// Sends on one connection until the run ends.
    async fn drive(&mut self, real: &Real, run: &Run) -> anyhow::Result<()> {
        let mut connection = Connection::open(real, self.target.address).await?;
        self.free = (0..self.slots.len() as u32).rev().collect();
        self.slots.fill(Slot::default());
        let mut out = BytesMut::new();
        let mut now = Instant::now();
        let mut next_intended = now;
        let mut added = now;
        loop {
            if !self.measured && run.phase() >= Phase::Measured {
                self.measured = true;
                self.part.clear();
                next_intended = now;
            }
            let more = self.fill_slots(run, now, &mut next_intended, real.wall().0, &mut out);
            if !out.is_empty() {
                connection.send(out.split().freeze()).await?;
            }
            if !more && self.free.len() == self.slots.len() {
                return Ok(());
            }
            match self.interval {
                Some(_) if more && !self.free.is_empty() => tokio::select! {
                    received = connection.receive() => received?,
                    () = tokio::time::sleep_until(next_intended.into()) => {}
                },
                _ => connection.receive().await?,
            }
            now = Instant::now();
            while let Some(reply) = connection.received()? {
                self.take_reply(&reply, now);
            }
            if self.part.is_large() || now - added > ADD_INTERVAL {
                run.add(&mut self.part);
                added = now;
            }
        }
    }

    /// Composes a request for each free slot that is due; false once no more will come.
    fn fill_slots(&mut self, run: &Run, now: Instant, next: &mut Instant, wall: i64, out: &mut BytesMut) -> bool {
        if run.phase() == Phase::Ending {
            return false;
        }
        while let Some(slot) = self.free.last().copied() {
            if self.interval.is_some() && *next > now {
                break;
            }
            if self.measured && run.take(1) == 0 {
                return false;
            }
            let intended = match self.interval {
                Some(interval) => std::mem::replace(next, *next + interval),
                None => now,
            };
            self.free.pop();
            self.slots[slot as usize] = Slot {
                intended,
                busy: true,
                measured: self.measured,
            };
            self.key += 1;
            let template = &self.templates[self.next_template % self.templates.len()];
            self.next_template += 1;
            template.append(OPAQUE_BASE + slot as i32, wall, self.key, out);
        }
        true
    }

    fn take_reply(&mut self, reply: &Command, now: Instant) {
        let index = reply.opaque.wrapping_sub(OPAQUE_BASE);
        let slot = usize::try_from(index).ok().and_then(|index| self.slots.get_mut(index));
        let Some(slot) = slot.filter(|slot| slot.busy && reply.is_reply()) else {
            return;
        };
        slot.busy = false;
        self.free.push(index as u32);
        if !slot.measured {
            return;
        }
        self.part.requests += 1;
        self.part.latency(now.saturating_duration_since(slot.intended));
        if reply.code == response::SUCCESS {
            self.part.messages += 1;
            self.part.bytes += self.templates[0].body_size() as u64;
        } else {
            *self.part.refused.entry(reply.code).or_default() += 1;
        }
    }
}
