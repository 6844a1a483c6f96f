//! `bench producer` and `bench batch`: a fixed number of send requests in flight, or a fixed rate of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use orrery_core::protocol::code::response;
use orrery_core::runtime::Runtime;
use orrery_runtime_real::Real;

use super::load::{self, LaneSpec, Taken, Work};
use super::reply::Reply;
use super::report::{self, Counts, Measured};
use super::run::{Run, conduct};
use super::target::{self, Purpose, Target};
use super::template::{Message, Template};
use super::{Generator, Shared, java_bool, unsupported};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    sending: Sending,
    /// Delays each message
    #[arg(short = 'd', long = "delay-enable", value_name = "BOOL", default_value = "false", value_parser = java_bool, action = clap::ArgAction::Set)]
    delay: bool,
    /// Delay level
    #[arg(short = 'e', long = "delay-level", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    delay_level: u8,
    /// Java: sends without waiting. Here nothing waits; only printed
    #[arg(short = 'y', long = "async-enable", value_name = "BOOL", default_value = "false", value_parser = java_bool, action = clap::ArgAction::Set)]
    asynchronous: bool,
    /// Compression is a client's work: only `false`
    #[arg(short = 'c', long = "compress-enable", value_name = "BOOL", default_value = "false", value_parser = unsupported, action = clap::ArgAction::Set)]
    compress: bool,
}

#[derive(Args)]
pub(crate) struct BatchArguments {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    sending: Sending,
    /// Messages of one request
    #[arg(short = 'b', long = "batch-size", default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=1024))]
    batch_size: u16,
}

/// Flags of everything that sends.
#[derive(Args, Clone)]
pub(super) struct Sending {
    /// Requests in flight, over all connections (Java: threads)
    #[arg(short = 'w', long = "thread-count", visible_alias = "in-flight", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) in_flight: u32,
    /// Requests in flight per connection, instead of -w
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000), conflicts_with = "in_flight")]
    pub(super) depth: Option<u32>,
    #[command(flatten)]
    pub(super) generator: Generator,
    /// Bytes of a body
    #[arg(short = 's', long = "message-size", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4 << 20))]
    pub(super) message_size: u32,
    /// Gives each message a key
    #[arg(short = 'k', long = "key-enable", value_name = "BOOL", default_value = "false", value_parser = java_bool, action = clap::ArgAction::Set)]
    keys: bool,
    /// Bytes of properties
    #[arg(short = 'p', long = "property-size", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=30_000))]
    property_size: u16,
    /// Different tags
    #[arg(short = 'l', long = "tag-count", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=256))]
    tag_count: u16,
    /// Message trace is a client's work: only `false`
    #[arg(short = 'm', long = "trace-enable", value_name = "BOOL", default_value = "false", value_parser = unsupported, action = clap::ArgAction::Set)]
    trace: bool,
    /// Signed requests: only `false`
    #[arg(short = 'a', long = "acl-enable", value_name = "BOOL", default_value = "false", value_parser = unsupported, action = clap::ArgAction::Set)]
    acl: bool,
}

impl Sending {
    /// Plain messages of a size.
    pub(super) fn plain(message_size: u32, in_flight: u32, rate: f64) -> Sending {
        Sending {
            in_flight,
            depth: None,
            generator: Generator { threads: 1, rate },
            message_size,
            keys: false,
            property_size: 0,
            tag_count: 0,
            trace: false,
            acl: false,
        }
    }

    fn total_in_flight(&self, shared: &Shared) -> u32 {
        self.depth
            .map_or(self.in_flight, |depth| depth * u32::from(shared.connections))
    }
}

/// What a send carries beside its size.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Plain,
    Delayed(u8),
    Batch(u16),
}

pub(super) async fn run(arguments: Arguments, real: Real) -> anyhow::Result<bool> {
    let Arguments { shared, sending, .. } = &arguments;
    shared.check()?;
    println!(
        "topic: {}, threadCount: {}, messageSize: {}, keyEnable: {}, propertySize: {}, tagCount: {}, traceEnable: {}, aclEnable: {}, \
         messageQuantity: {}, delayEnable: {}, delayLevel: {}, asyncEnable: {}\n compressEnable: {}, reportInterval: {}",
        shared.topic,
        sending.total_in_flight(shared),
        sending.message_size,
        sending.keys,
        sending.property_size,
        sending.tag_count,
        sending.trace,
        sending.acl,
        shared.quantity,
        arguments.delay,
        arguments.delay_level,
        arguments.asynchronous,
        arguments.compress,
        shared.report_interval
    );
    let kind = if arguments.delay {
        Kind::Delayed(arguments.delay_level)
    } else {
        Kind::Plain
    };
    let measured = measure(shared, sending, kind, &real, every_window(line)).await?;
    let (counts, used) = (&measured.counts, &measured.used);
    let start = format!("[Complete] Send Total: {}", counts.messages);
    println!(
        "{}",
        line(
            &start,
            counts,
            Totals::of(counts),
            Duration::from_secs_f64(used.seconds)
        )
    );
    finish("orrery bench producer", shared, &measured)
}

pub(super) async fn run_batch(arguments: BatchArguments, real: Real) -> anyhow::Result<bool> {
    let BatchArguments {
        shared,
        sending,
        batch_size,
    } = &arguments;
    shared.check()?;
    println!(
        "topic: {}, threadCount: {}, messageSize: {}, batchSize: {batch_size}, keyEnable: {}, propertySize: {}, tagCount: {}, \
         traceEnable: {}, aclEnable: {}",
        shared.topic,
        sending.total_in_flight(shared),
        sending.message_size,
        sending.keys,
        sending.property_size,
        sending.tag_count,
        sending.trace,
        sending.acl
    );
    let line = every_window(|start, counts, part, window| batch_line(start, counts, part, *batch_size, window));
    let measured = measure(shared, sending, Kind::Batch(*batch_size), &real, line).await?;
    finish("orrery bench batch", shared, &measured)
}

/// Prints a line for each window of a run.
fn every_window(line: impl Fn(&str, &Counts, Totals, Duration) -> String) -> impl FnMut(&Counts, Duration) {
    let mut last = Totals::default();
    move |counts, window| {
        let (now, time) = (Totals::of(counts), report::time_text(load::wall_millis()));
        println!(
            "{}",
            line(&format!("Current Time: {time}"), counts, now.since(last), window)
        );
        last = now;
    }
}

fn finish(what: &'static str, shared: &Shared, measured: &Measured) -> anyhow::Result<bool> {
    report::finish(
        what,
        &measured.counts,
        &measured.used,
        shared.warmup(),
        shared.json.as_deref(),
    )?;
    Ok(measured.counts.messages > 0 && measured.counts.failed() == 0)
}

/// Sends as told, and calls `report` every interval.
pub(super) async fn measure(
    shared: &Shared,
    sending: &Sending,
    kind: Kind,
    real: &Real,
    report: impl FnMut(&Counts, Duration),
) -> anyhow::Result<Measured> {
    let (connections, in_flight) = (u32::from(shared.connections), sending.total_in_flight(shared));
    if in_flight < connections {
        bail!("-w {in_flight} is less than one request per connection ({connections})");
    }
    let targets = target::find(shared, real, Purpose::Write).await?;
    let templates: Vec<Arc<[Template]>> = targets
        .iter()
        .map(|target| templates(shared, sending, kind, target))
        .collect::<anyhow::Result<_>>()?;
    let run = Arc::new(Run::new(shared));
    let key_base = u128::from(real.random_u64()) << 64;
    let lanes = (0..connections)
        .map(|index| {
            let which = index as usize % targets.len();
            LaneSpec {
                address: targets[which].address,
                depth: (in_flight / connections + u32::from(index < in_flight % connections)) as usize,
                work: Sends {
                    templates: Arc::clone(&templates[which]),
                    next_template: index as usize,
                    key: key_base | u128::from(index) << 40,
                },
            }
        })
        .collect();
    let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    let ended = load::start(lanes, &sending.generator.shape(), &run)?;
    let used = conduct(&run, shared, real, &addresses, ended, report).await;
    Ok(Measured {
        counts: run.take_counts(),
        used,
    })
}

/// One template per queue and tag.
fn templates(shared: &Shared, sending: &Sending, kind: Kind, target: &Target) -> anyhow::Result<Arc<[Template]>> {
    let body: Vec<u8> = (0..sending.message_size)
        .map(|index| b'a' + (index % 26) as u8)
        .collect();
    let padding = "p".repeat(usize::from(sending.property_size));
    let delay_level = match kind {
        Kind::Delayed(level) => level.to_string(),
        _ => String::new(),
    };
    let key = (load::wall_millis() / 1000).to_string();
    let mut all = Vec::new();
    for tag_index in 0..sending.tag_count.max(1) {
        let tag = format!("tag{tag_index}");
        let mut properties = Vec::new();
        if sending.keys {
            properties.push(("KEYS", key.as_str()));
        }
        if sending.tag_count > 0 {
            properties.push(("TAGS", tag.as_str()));
        }
        if !delay_level.is_empty() {
            properties.push(("DELAY", delay_level.as_str()));
        }
        if sending.property_size > 0 {
            properties.push(("padding", padding.as_str()));
        }
        let message = Message {
            topic: &shared.topic,
            broker_name: &target.broker_name,
            body: &body,
            properties: &properties,
        };
        for queue_id in 0..target.queue_count {
            all.push(match kind {
                Kind::Batch(count) => Template::batch(&message, queue_id, count)?,
                _ => Template::new(&message, queue_id)?,
            });
        }
    }
    Ok(all.into())
}

/// What one connection sends: its templates in turn.
struct Sends {
    templates: Arc<[Template]>,
    next_template: usize,
    key: u128,
}

impl Work for Sends {
    fn messages_per_request(&self) -> u64 {
        self.templates[0].message_count()
    }

    fn compose(&mut self, _slot: usize, opaque: i32, wall_millis: i64, out: &mut Vec<u8>) {
        let template = &self.templates[self.next_template % self.templates.len()];
        self.next_template += 1;
        template.append(opaque, wall_millis, self.key, out);
        self.key += u128::from(template.message_count());
    }

    fn take(&mut self, _slot: usize, reply: &Reply<'_>) -> anyhow::Result<Taken> {
        Ok(match reply.code {
            response::SUCCESS => Taken::Done {
                messages: self.messages_per_request(),
                bytes: self.templates[0].body_size() as u64,
            },
            code => Taken::Refused(code),
        })
    }
}

#[derive(Clone, Copy, Default)]
struct Totals {
    messages: u64,
    requests: u64,
    sum_ns: u64,
}

impl Totals {
    fn of(counts: &Counts) -> Totals {
        let (requests, sum_ns) = counts.latencies();
        Totals {
            messages: counts.messages,
            requests,
            sum_ns,
        }
    }

    fn since(self, last: Totals) -> Totals {
        Totals {
            messages: self.messages - last.messages,
            requests: self.requests - last.requests,
            sum_ns: self.sum_ns - last.sum_ns,
        }
    }
}

/// A line of the Java benchmark's `Producer`; its maximum is since the start.
fn line(start: &str, counts: &Counts, part: Totals, window: Duration) -> String {
    format!(
        "{start} | Send TPS: {:.0} | Max RT(ms): {} | Average RT(ms): {:7.3} | Send Failed: {} | Response Failed: {}",
        part.messages as f64 / window.as_secs_f64().max(1e-9),
        counts.latency_ms_max(),
        part.sum_ns as f64 / 1e6 / part.requests.max(1) as f64,
        counts.unknown(),
        counts.refused_count()
    )
}

/// A line of its `BatchProducer`: TPS are requests, MPS messages.
fn batch_line(start: &str, counts: &Counts, part: Totals, batch_size: u16, window: Duration) -> String {
    let seconds = window.as_secs_f64().max(1e-9);
    let sum_ms = part.sum_ns as f64 / 1e6;
    format!(
        "{start} | Send TPS: {:.0} | Send MPS: {:.0} | Max RT(ms): {} | Average RT(ms): {:7.3} | Average Message RT(ms): {:7.3} | \
         Send Failed: {} | Send Message Failed: {}",
        part.requests as f64 / seconds,
        part.messages as f64 / seconds,
        counts.latency_ms_max(),
        sum_ms / part.requests.max(1) as f64,
        sum_ms / part.messages.max(1) as f64,
        counts.failed(),
        counts.failed() * u64::from(batch_size)
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Part;
    use super::*;

    fn counts() -> Counts {
        let (mut counts, mut part) = (Counts::new(), Part::default());
        part.messages = 32;
        part.unknown = 1;
        part.refused.insert(2, 3);
        part.latency(Duration::from_micros(1500));
        part.latency(Duration::from_micros(7250));
        counts.add(&mut part);
        counts
    }

    #[test]
    fn lines_are_those_of_the_java_benchmark() {
        let (counts, second) = (counts(), Duration::from_secs(2));
        assert_eq!(
            line("Current Time: now", &counts, Totals::of(&counts), second),
            "Current Time: now | Send TPS: 16 | Max RT(ms): 7 | Average RT(ms):   4.375 | Send Failed: 1 | Response Failed: 3"
        );
        assert_eq!(
            batch_line("Current Time: now", &counts, Totals::of(&counts), 16, second),
            "Current Time: now | Send TPS: 1 | Send MPS: 16 | Max RT(ms): 7 | Average RT(ms):   4.375 | \
             Average Message RT(ms):   0.273 | Send Failed: 4 | Send Message Failed: 64"
        );
    }
}
