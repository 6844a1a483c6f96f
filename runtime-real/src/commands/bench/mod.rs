//! `orrery bench`: load on a broker, Orrery or Apache RocketMQ, over the plain protocol.
//!
//! Not a client: it fails over to nothing and retries nothing, so that what is measured is the broker. Flags and report
//! lines are those of the Java `benchmark` scripts; on top come a warm-up that is not counted, percentiles in microseconds
//! from the *intended* send time, processor time of broker and generator, and JSON.

mod connection;
mod consumer;
mod processes;
mod producer;
mod report;
mod run;
mod target;
mod template;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use orrery_runtime_real::Real;

pub(crate) use self::report::time_text;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Sends messages as fast as replies allow, or at a fixed rate
    Producer(producer::Arguments),
    /// Pulls messages as fast as the broker hands them out
    Consumer(consumer::Arguments),
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

/// Runs a benchmark; true when nothing failed.
pub(crate) async fn run(bench: Bench, real: Real) -> anyhow::Result<bool> {
    match bench {
        Bench::Producer(arguments) => producer::run(arguments, real).await,
        Bench::Consumer(arguments) => consumer::run(arguments, real).await,
    }
}

impl Shared {
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

/// Java's options take `true` and `false` as values.
fn java_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}
