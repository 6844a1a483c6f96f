//! `orrery bench`: load on a broker, Orrery or Apache RocketMQ, over the plain protocol.
//!
//! Not a client: it fails over to nothing and retries nothing, so that what is measured is the broker. Flags and report
//! lines are those of the Java `benchmark` scripts; on top come a warm-up that is not counted, percentiles in microseconds
//! from the *intended* send time, processor time of broker and generator, and JSON.

mod backlog;
mod compare;
mod connection;
mod consumer;
mod counters;
mod floor;
mod limits;
mod load;
mod processes;
mod producer;
mod pull;
mod reply;
mod report;
mod residency;
mod run;
mod sampler;
mod schedule;
mod server;
mod target;
mod template;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use orrery_runtime_real::Real;

pub(crate) use self::report::time_text;
use super::stop::Stop;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Sends messages as fast as replies allow, or at a fixed rate
    Producer(producer::Arguments),
    /// Sends batches: many messages in one request
    Batch(producer::BatchArguments),
    /// Takes messages as they come, one long-polling pull per queue
    Consumer(consumer::Arguments),
    /// Reads queues again and again as fast as the broker hands them out
    Pull(pull::Arguments),
    /// Fills one queue, and pulls it from the start from memory and from disk
    Backlog(backlog::Arguments),
    /// Serves the least that a broker has to do: the ceiling for the same generator
    Floor(floor::Arguments),
    /// Measures what this machine allows: round trips, syncs, writing, reading, copying
    Limits(limits::Arguments),
    /// Measures Apache RocketMQ and us by turns, and prints ratios
    Compare(compare::Arguments),
}

/// Flags that both sides share.
#[derive(Args, Clone)]
struct Shared {
    /// Name server address
    #[arg(short = 'n', long, default_value = "127.0.0.1:9876", value_name = "HOST:PORT")]
    namesrv: String,
    /// Broker address: asks no name server
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,
    /// Queues of the topic where --broker is given
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    queues: u16,
    #[arg(short, long, default_value = "BenchmarkTest")]
    topic: String,
    /// TCP connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Seconds before anything counts
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    warmup: f64,
    /// Seconds that count; 0: until -q messages or Ctrl-C
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    seconds: f64,
    /// Messages that count; 0: until --seconds or Ctrl-C
    #[arg(short = 'q', long = "message-quantity", default_value_t = 0)]
    quantity: u64,
    /// Milliseconds between report lines
    #[arg(long = "ri", visible_alias = "report-interval", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    report_interval: u64,
    /// Process whose processor time is reported as the broker's; may be repeated
    #[arg(long = "broker-pid", value_name = "PID")]
    broker_pids: Vec<u32>,
    /// Writes the result to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How requests are made.
#[derive(Args, Clone)]
struct Generator {
    /// Threads of the generator; connections are spread over them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Requests per second to intend; 0: as many as replies allow. Latency then counts from the intended time
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    rate: f64,
}

impl Generator {
    fn shape(&self) -> load::Shape {
        load::Shape {
            threads: usize::from(self.threads),
            rate: (self.rate > 0.0).then_some(self.rate),
        }
    }
}

/// The command line with the Java benchmark's long options spelled as ours: `-ri` and `--threadCount` are `--ri` and `--thread-count`.
pub(crate) fn java_options(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if arguments.get(1).is_some_and(|command| command == "bench") {
        for argument in &mut arguments {
            match argument.to_str() {
                Some("-ri") => *argument = "--ri".into(),
                Some("--msgTraceEnable") => *argument = "--trace-enable".into(),
                Some(option) if option.starts_with("--") => *argument = kebab_case(option).into(),
                _ => {}
            }
        }
    }
    arguments
}

/// An option's name with dashes for capitals; what follows `=` stays.
fn kebab_case(option: &str) -> String {
    let (name, value) = option.split_at(option.find('=').unwrap_or(option.len()));
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out + value
}

/// Runs a benchmark; true when nothing failed.
pub(crate) async fn run(bench: Bench, real: Real) -> anyhow::Result<bool> {
    match bench {
        Bench::Producer(arguments) => producer::run(arguments, real).await,
        Bench::Batch(arguments) => producer::run_batch(arguments, real).await,
        Bench::Consumer(arguments) => consumer::run(arguments, real).await,
        Bench::Pull(arguments) => pull::run(arguments, real).await,
        Bench::Backlog(arguments) => backlog::run(arguments, real).await,
        Bench::Floor(arguments) => floor::run(&arguments),
        Bench::Limits(arguments) => limits::run(arguments, real).await,
        Bench::Compare(arguments) => compare::run(arguments, real).await,
    }
}

/// Work that starts servers: a signal ends it, so that they are ended and their folders removed.
async fn unless_stopped<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut stop = Stop::listen()?;
    tokio::select! {
        done = work => done,
        () = stop.wait() => anyhow::bail!("interrupted"),
    }
}

impl Shared {
    /// A broker at a known address, measured for a while.
    fn of_broker(address: SocketAddr, topic: &str, queues: u16, connections: u16, pid: Option<u32>) -> Shared {
        Shared {
            namesrv: String::new(),
            broker: Some(address.to_string()),
            queues,
            topic: topic.to_owned(),
            connections,
            warmup: 0.0,
            seconds: 0.0,
            quantity: 0,
            report_interval: 3_600_000,
            broker_pids: pid.into_iter().collect(),
            json: None,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        match self.broker_pids.iter().find(|pid| !processes::exists(**pid)) {
            Some(pid) => anyhow::bail!("no process {pid} (--broker-pid)"),
            None => Ok(()),
        }
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }

    /// `None`: no end in time.
    fn measured(&self) -> Option<Duration> {
        (self.seconds > 0.0).then(|| Duration::from_secs_f64(self.seconds))
    }
}

/// Seconds as people write them, up to a day.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds from 0 to 86400".to_owned()),
    }
}

/// Seconds of a measurement that has no other end.
fn some_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds from 0.01 to 3600".to_owned()),
    }
}

fn some_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=1e8).contains(&rate) => Ok(rate),
        _ => Err("requests per second from 0.01 to 100000000".to_owned()),
    }
}

/// 0: no fixed rate.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(0.0),
        _ => some_rate(text),
    }
}

/// An option of the Java client that has no meaning without a client.
fn unsupported(text: &str) -> Result<bool, String> {
    match java_bool(text)? {
        false => Ok(false),
        true => Err("only false: the generator is not a client".to_owned()),
    }
}

/// Java's options take `true` and `false` as values.
fn java_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_java_benchmark_are_understood() {
        let line = [
            "orrery",
            "bench",
            "producer",
            "-ri",
            "--threadCount",
            "8",
            "--topic=MyTopic",
            "-t",
            "Other",
        ];
        let read = java_options(line.iter().map(OsString::from));
        let expected = [
            "orrery",
            "bench",
            "producer",
            "--ri",
            "--thread-count",
            "8",
            "--topic=MyTopic",
            "-t",
            "Other",
        ];
        assert_eq!(read, expected);
        let other = ["orrery", "check", "-ri", "--threadCount"];
        assert_eq!(java_options(other.iter().map(OsString::from)), other);
    }

    #[test]
    fn numbers_that_measure_nothing_are_refused() {
        for text in ["0", "-1", "NaN", "inf", "1e9", "x"] {
            assert!(some_seconds(text).is_err(), "{text}");
            assert!(some_rate(text).is_err(), "{text}");
        }
        assert_eq!((rate("0"), seconds("0")), (Ok(0.0), Ok(0.0)));
        assert_eq!((some_rate("0.5"), some_seconds("0.01")), (Ok(0.5), Ok(0.01)));
    }
}
