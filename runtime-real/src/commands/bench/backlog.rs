//! `bench backlog`: many messages on one queue, pulled from the start with the store in memory and with the store on disk only; what
//! that costs in memory, what a slow reader of old data does to senders, and how long starts take with such a store.
//!
//! Starts a broker of its own, unless one is named: then nothing can be restarted, and what needs a restart is not measured.
//! Every figure is `None` ("not measured") unless it was measured in this run.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use orrery_core::runtime::Runtime;
use orrery_runtime_real::Real;
use serde::Serialize;

use super::producer::{self, Kind, Sending};
use super::pull::{self, Pulling, Stretch, Walk};
use super::report::{Measured, mebibytes};
use super::residency::{self, Residency};
use super::sampler::Sampler;
use super::server::{Flush, Server};
use super::target::Target;
use super::{Shared, processes};

const TOPIC: &str = "BenchmarkBacklog";
/// Messages of one request while the queue is filled.
const FILL_BATCH: u16 = 32;
/// Messages that the cached reference reads again and again.
const CACHED_MESSAGES: u64 = 100_000;
/// How long one walk through the queue may take.
const PULL_SECONDS_MAX: f64 = 180.0;
/// How long filling it may take.
const FILL_SECONDS_MAX: f64 = 300.0;
/// Bytes of the store read to learn the disk's rate.
const DISK_READ_BYTES: u64 = 2 << 30;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder for the broker and its store; created if absent, removed at the end
    #[arg(long, default_value = "orrery-backlog", value_name = "DIR")]
    dir: PathBuf,
    /// Messages on the queue
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Bytes of a body. A message takes about 190 bytes more on disk
    #[arg(short = 's', long = "message-size", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    message_size: u32,
    /// Connections that pull, each the whole queue
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    readers: u16,
    /// Seconds of each part that has no end of its own
    #[arg(long, default_value_t = 5.0, value_parser = super::some_seconds)]
    seconds: f64,
    /// Sends a second while a slow reader disturbs or does not
    #[arg(long, default_value_t = 20_000.0, value_parser = super::some_rate)]
    send_rate: f64,
    /// Pulls a second of the slow reader
    #[arg(long, default_value_t = 500.0, value_parser = super::some_rate)]
    reader_rate: f64,
    /// Keeps the store; a later run with the same folder goes on with it
    #[arg(long)]
    keep: bool,
    /// A running broker instead of one of its own
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<SocketAddr>,
    /// Process of that broker
    #[arg(long, value_name = "PID", requires = "broker")]
    broker_pid: Option<u32>,
    /// Store folder of that broker, to drop it from the page cache
    #[arg(long, value_name = "DIR", requires = "broker")]
    store: Option<PathBuf>,
    /// Writes the result to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was found. The names are those of the result file; rates count messages of one second.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Findings {
    pub(super) messages: u64,
    pub(super) message_size: u32,
    /// Bytes of all records of the queue.
    pub(super) record_bytes: Option<u64>,
    pub(super) fill_rate: Option<f64>,
    /// Without a request, 2 s after a start, and 2 s after the warm pull.
    pub(super) idle_anonymous_bytes: Option<u64>,
    pub(super) idle_after_pulls_anonymous_bytes: Option<u64>,
    pub(super) cached_rate: Option<f64>,
    pub(super) cached_bytes_per_second: Option<f64>,
    pub(super) warm_residency: Option<Residency>,
    pub(super) warm_rate: Option<f64>,
    pub(super) cold_residency: Option<Residency>,
    pub(super) cold_rate: Option<f64>,
    pub(super) disk_read_bytes_per_second: Option<f64>,
    /// The disk's rate in messages of this store.
    pub(super) disk_read_rate: Option<f64>,
    pub(super) pull_anonymous_bytes_max: Option<u64>,
    pub(super) start_clean_seconds: Option<f64>,
    pub(super) start_killed_seconds: Option<f64>,
    pub(super) send_alone: Option<Latency>,
    pub(super) send_with_reader: Option<Latency>,
    /// What was tried and did not come to a figure.
    pub(super) failures: Vec<String>,
}

impl Findings {
    /// Notes a part that failed; the others go on.
    fn keep(&mut self, part: &str, done: anyhow::Result<()>) {
        if let Err(error) = done {
            println!("{part}: {error:#}");
            self.failures.push(format!("{part}: {error:#}"));
        }
    }
}

/// Latency of sends at a fixed rate, from the intended time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) rate: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p99_9_us: f64,
    pub(super) max_us: f64,
}

impl Latency {
    /// `None` if nothing was answered, or something failed: then it says nothing about latency.
    pub(super) fn of(measured: &Measured) -> Option<Latency> {
        let percentile = |percentile| measured.counts.percentile_us(percentile);
        if measured.counts.failed() > 0 {
            return None;
        }
        Some(Latency {
            rate: measured.messages_per_second(),
            p50_us: percentile(50.0)?,
            p99_us: percentile(99.0)?,
            p99_9_us: percentile(99.9)?,
            max_us: percentile(100.0)?,
        })
    }

    pub(super) fn text(&self) -> String {
        format!(
            "{:.0} messages/s: p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs",
            self.rate, self.p50_us, self.p99_us, self.p99_9_us, self.max_us
        )
    }
}

/// What to do.
pub(super) struct Plan {
    pub(super) dir: PathBuf,
    pub(super) messages: u64,
    pub(super) message_size: u32,
    pub(super) readers: u16,
    pub(super) seconds: f64,
    pub(super) send_rate: f64,
    pub(super) reader_rate: f64,
}

pub(super) async fn run(arguments: Arguments, real: Real) -> anyhow::Result<bool> {
    let plan = Plan {
        dir: arguments.dir.clone(),
        messages: arguments.messages,
        message_size: arguments.message_size,
        readers: arguments.readers,
        seconds: arguments.seconds,
        send_rate: arguments.send_rate,
        reader_rate: arguments.reader_rate,
    };
    let mut findings = Findings::default();
    let done = match arguments.broker {
        None => {
            let existed = plan.dir.exists();
            let done = super::unless_stopped(own(&plan, &real, &mut findings)).await;
            if !arguments.keep {
                remove(&plan.dir, existed)?;
            }
            done
        }
        Some(address) => {
            let host = Host {
                address,
                pid: arguments.broker_pid,
                store: arguments.store.clone(),
            };
            foreign(&plan, &host, &real, &mut findings).await
        }
    };
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&findings)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    done?;
    Ok(findings.failures.is_empty())
}

/// Removes what a run made; a folder that was there before stays.
fn remove(dir: &Path, existed: bool) -> anyhow::Result<()> {
    for name in ["store", "broker.conf", "broker.log"] {
        let path = dir.join(name);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| path.display().to_string());
        }
    }
    if !existed {
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

/// Where the broker under test is.
struct Host {
    address: SocketAddr,
    pid: Option<u32>,
    store: Option<PathBuf>,
}

impl Host {
    fn of(server: &Server) -> Host {
        Host {
            address: server.address,
            pid: Some(server.pid()),
            store: Some(server.dir.join("store")),
        }
    }

    fn shared(&self, connections: u16) -> Shared {
        Shared::of_broker(self.address, TOPIC, 1, connections, self.pid)
    }
}

/// With a broker of ours, restarted where that is needed. An error ends it; what fails for itself alone is noted in the findings.
pub(super) async fn own(plan: &Plan, real: &Real, findings: &mut Findings) -> anyhow::Result<()> {
    findings.message_size = plan.message_size;
    let server = Server::orrery(&plan.dir, Flush::Async)?;
    let host = Host::of(&server);
    fill(plan, &host, real, findings).await?;
    let done = cached_and_warm(plan, &host, real, findings).await;
    findings.keep("cached and warm pull", done);
    findings.idle_after_pulls_anonymous_bytes = idle(&server, real, "after the warm pull").await;

    let server = restart_cold(server, real, findings).await?;
    findings.idle_anonymous_bytes = idle(&server, real, "after a start").await;
    let done = slow_reader(plan, &Host::of(&server), real, findings).await;
    findings.keep("sends beside a slow reader", done);

    let store = plan.dir.join("store");
    server.stop()?;
    let done = disk_rate(&store, findings);
    findings.keep("sequential read", done);
    residency::drop_cached(&store)?;
    let server = Server::orrery(&plan.dir, Flush::Async)?;
    let done = cold(plan, &Host::of(&server), real, findings).await;
    findings.keep("cold pull", done);
    start_killed(plan, server, real, findings).await
}

async fn idle(server: &Server, real: &Real, when: &str) -> Option<u64> {
    real.sleep(Duration::from_secs(2)).await;
    let bytes = processes::anonymous_bytes(&[server.pid()]);
    println!("idle with the store, {when}: RssAnon {:.1} MiB", mebibytes(bytes));
    (bytes > 0).then_some(bytes)
}

fn disk_rate(store: &Path, findings: &mut Findings) -> anyhow::Result<()> {
    // The better of two: a disk that others disturb makes a low goal.
    let mut rate = None;
    for _ in 0..2 {
        residency::drop_cached(store)?;
        let again = sequential_read(&store.join("commitlog"), findings.record_bytes.unwrap_or(0))?;
        rate = again.filter(|again| Some(*again) > rate).or(rate);
    }
    let rate = rate.context("no records, as far as is known")?;
    findings.disk_read_bytes_per_second = Some(rate);
    findings.disk_read_rate = findings
        .record_bytes
        .map(|bytes| rate * findings.messages as f64 / bytes as f64);
    println!("disk: {:.0} MB/s sequential read of the commit log", rate / 1e6);
    Ok(())
}

/// With a broker that somebody else runs.
async fn foreign(plan: &Plan, host: &Host, real: &Real, findings: &mut Findings) -> anyhow::Result<()> {
    findings.message_size = plan.message_size;
    findings.idle_anonymous_bytes = host.pid.map(|pid| processes::anonymous_bytes(&[pid]));
    fill(plan, host, real, findings).await?;
    let done = cached_and_warm(plan, host, real, findings).await;
    findings.keep("cached and warm pull", done);
    if let Some(store) = &host.store {
        residency::drop_cached(store)?;
        let done = slow_reader(plan, host, real, findings).await;
        findings.keep("sends beside a slow reader", done);
        residency::drop_cached(store)?;
        let done = cold(plan, host, real, findings).await;
        findings.keep("cold pull", done);
    }
    Ok(())
}

async fn stretch(host: &Host, real: &Real) -> anyhow::Result<Stretch> {
    let target = Target {
        address: host.address,
        broker_name: String::new(),
        queue_count: 1,
    };
    Stretch::ask(real, &target, TOPIC, 0).await
}

/// Sends until the queue holds the messages.
async fn fill(plan: &Plan, host: &Host, real: &Real, findings: &mut Findings) -> anyhow::Result<()> {
    let here = match stretch(host, real).await {
        Ok(stretch) => u64::try_from(stretch.end - stretch.begin).unwrap_or(0),
        Err(error) => {
            log::debug!("nothing there yet: {error:#}");
            0
        }
    };
    let missing = plan.messages.saturating_sub(here);
    if missing > 0 {
        let mut shared = host.shared(1);
        shared.quantity = missing;
        shared.seconds = FILL_SECONDS_MAX;
        shared.report_interval = 10_000;
        let kind = match missing {
            0..64 => Kind::Plain,
            _ => Kind::Batch(FILL_BATCH),
        };
        if let Kind::Batch(size) = kind {
            shared.quantity = missing.next_multiple_of(u64::from(size));
        }
        let sending = Sending::plain(plan.message_size, 16, 0.0);
        let filled = producer::measure(&shared, &sending, kind, real, |counts, _| {
            println!("filled {} of {missing}", counts.messages);
        })
        .await?;
        if filled.counts.messages < missing || filled.counts.failed() > 0 {
            bail!(
                "{} of {missing} messages were stored: is the disk full? ({} refused, {} unknown)",
                filled.counts.messages,
                filled.counts.refused_count(),
                filled.counts.unknown()
            );
        }
        findings.fill_rate = Some(filled.messages_per_second());
        println!(
            "filled with {missing} messages of {} bytes in {:.1} s: {:.0} messages/s, {FILL_BATCH} a request",
            plan.message_size,
            filled.used.seconds,
            filled.messages_per_second()
        );
    }
    let stretch = stretch(host, real).await?;
    findings.messages = u64::try_from(stretch.end - stretch.begin).unwrap_or(0);
    if let Some(store) = &host.store {
        settle(store)?;
    }
    Ok(())
}

/// Waits until what was written is on the disk: what is measured next shall not pay for it.
pub(super) fn settle(dir: &Path) -> anyhow::Result<()> {
    rustix::fs::syncfs(File::open(dir)?).context("sync the file system")
}

async fn cached_and_warm(plan: &Plan, host: &Host, real: &Real, findings: &mut Findings) -> anyhow::Result<()> {
    let mut shared = host.shared(plan.readers);
    shared.warmup = (plan.seconds / 5.0).min(1.0);
    shared.seconds = plan.seconds;
    let cached = Pulling::of_queue(Some(0), Walk::Newest(CACHED_MESSAGES), 0.0);
    let cached = pull::measure(&shared, &cached, real, |_, _| {}).await?;
    findings.cached_rate = rate(&cached);
    findings.cached_bytes_per_second = Some(cached.counts.bytes() as f64 / cached.used.seconds);
    print_pull("cached, newest again and again", &cached, None);

    if let Some(store) = &host.store {
        let log = store.join("commitlog");
        read_all(&log)?;
        findings.warm_residency = Some(Residency::of(&log)?);
    }
    let sampler = host.pid.map(Sampler::start);
    let warm = once(plan, host, real).await?;
    findings.warm_rate = rate(&warm);
    let mean_bytes = warm.counts.bytes() as f64 / warm.counts.messages.max(1) as f64;
    findings.record_bytes = Some((mean_bytes * findings.messages as f64) as u64);
    let anonymous = sampler.and_then(Sampler::end);
    findings.pull_anonymous_bytes_max = findings.pull_anonymous_bytes_max.max(anonymous);
    if let Some(residency) = findings.warm_residency {
        println!("warm: commit log {}", residency.text());
    }
    print_pull("warm, from the start", &warm, anonymous);
    check_whole(plan, &warm)
}

/// Every reader takes the whole queue once.
async fn once(plan: &Plan, host: &Host, real: &Real) -> anyhow::Result<Measured> {
    let mut shared = host.shared(plan.readers);
    shared.seconds = PULL_SECONDS_MAX;
    pull::measure(&shared, &Pulling::of_queue(Some(0), Walk::Once, 0.0), real, |_, _| {}).await
}

/// The rate of a part of the queue is a rate, but a goal that speaks of all of it is told.
fn check_whole(plan: &Plan, measured: &Measured) -> anyhow::Result<()> {
    let expected = plan.messages * u64::from(plan.readers);
    anyhow::ensure!(
        measured.counts.messages >= expected,
        "{} of {expected} messages were pulled in {:.0} s",
        measured.counts.messages,
        measured.used.seconds
    );
    Ok(())
}

async fn cold(plan: &Plan, host: &Host, real: &Real, findings: &mut Findings) -> anyhow::Result<()> {
    let store = host.store.as_ref().context("a store")?;
    let residency = Residency::of(&store.join("commitlog"))?;
    findings.cold_residency = Some(residency);
    println!("cold: commit log {}", residency.text());
    let sampler = host.pid.map(Sampler::start);
    let cold = once(plan, host, real).await?;
    findings.cold_rate = rate(&cold);
    let anonymous = sampler.and_then(Sampler::end);
    findings.pull_anonymous_bytes_max = findings.pull_anonymous_bytes_max.max(anonymous);
    print_pull("cold, from the start", &cold, anonymous);
    check_whole(plan, &cold)
}

/// Sends at a fixed rate, first alone, then while a slow reader walks old data that is on disk only.
async fn slow_reader(plan: &Plan, host: &Host, real: &Real, findings: &mut Findings) -> anyhow::Result<()> {
    let sending = Sending::plain(plan.message_size, 64, plan.send_rate);
    let mut senders = host.shared(4);
    senders.topic = "BenchmarkTest".to_owned();
    senders.queues = 4;
    senders.warmup = (plan.seconds / 5.0).min(1.0);
    senders.seconds = plan.seconds;
    let alone = producer::measure(&senders, &sending, Kind::Plain, real, |_, _| {}).await?;
    findings.send_alone = Latency::of(&alone);

    let mut reader = host.shared(1);
    reader.seconds = plan.seconds + senders.warmup;
    let pulling = Pulling::of_queue(Some(0), Walk::All, plan.reader_rate);
    let ignore = |_: &super::report::Counts, _: Duration| {};
    let (with_reader, reader) = futures_util::join!(
        producer::measure(&senders, &sending, Kind::Plain, real, ignore),
        pull::measure(&reader, &pulling, real, ignore)
    );
    findings.send_with_reader = Latency::of(&with_reader?);
    let reader = reader?;
    for (name, latency) in [
        ("alone", findings.send_alone),
        ("beside a slow cold reader", findings.send_with_reader),
    ] {
        match latency {
            Some(latency) => println!("sends {name}: {}", latency.text()),
            None => println!("sends {name}: not measured (some failed)"),
        }
    }
    println!(
        "the slow reader: {:.0} messages/s of old data",
        reader.messages_per_second()
    );
    Ok(())
}

/// Stops in order, drops the store from the page cache, starts: how long until a request is answered.
async fn restart_cold(server: Server, real: &Real, findings: &mut Findings) -> anyhow::Result<Server> {
    let dir = server.dir.clone();
    server.stop()?;
    residency::drop_cached(&dir.join("store"))?;
    println!(
        "after a clean stop: store {}",
        Residency::of(&dir.join("store"))?.text()
    );
    let started = Instant::now();
    let server = Server::orrery(&dir, Flush::Async)?;
    stretch(&Host::of(&server), real).await?;
    let seconds = started.elapsed().as_secs_f64();
    findings.start_clean_seconds = Some(seconds);
    println!("start after a clean stop: {seconds:.3} s until a request is answered");
    Ok(server)
}

/// Kills it while it is being sent to, and starts it.
async fn start_killed(plan: &Plan, server: Server, real: &Real, findings: &mut Findings) -> anyhow::Result<()> {
    let dir = server.dir.clone();
    let mut shared = Host::of(&server).shared(4);
    shared.topic = "BenchmarkTest".to_owned();
    shared.queues = 4;
    shared.seconds = plan.seconds;
    let sending = Sending::plain(plan.message_size, 64, plan.send_rate);
    let kill = async {
        real.sleep(Duration::from_secs_f64(plan.seconds * 0.9)).await;
        server.kill()
    };
    // What it left unanswered is no failure here.
    let (sent, killed) = futures_util::join!(producer::measure(&shared, &sending, Kind::Plain, real, |_, _| {}), kill);
    killed?;
    anyhow::ensure!(sent?.counts.messages > 0, "nothing was sent before the kill");
    let started = Instant::now();
    let server = Server::orrery(&dir, Flush::Async)?;
    stretch(&Host::of(&server), real).await?;
    let seconds = started.elapsed().as_secs_f64();
    findings.start_killed_seconds = Some(seconds);
    println!("start after kill -9 while sending: {seconds:.3} s until a request is answered");
    server.stop()
}

/// A rate that was measured: something came, and nothing failed.
fn rate(measured: &Measured) -> Option<f64> {
    (measured.counts.messages > 0 && measured.counts.failed() == 0).then(|| measured.messages_per_second())
}

fn print_pull(name: &str, measured: &Measured, anonymous_max: Option<u64>) {
    println!(
        "{name}: {:.0} messages/s, {:.0} MB/s, {} messages in {:.2} s{}",
        measured.messages_per_second(),
        measured.counts.bytes() as f64 / 1e6 / measured.used.seconds,
        measured.counts.messages,
        measured.used.seconds,
        anonymous_max.map_or_else(String::new, |bytes| format!(
            ", RssAnon at most {:.1} MiB",
            mebibytes(bytes)
        ))
    );
}

/// Reads every file: afterwards it is resident, as far as memory allows.
fn read_all(dir: &Path) -> anyhow::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for path in residency::files(dir)? {
        let mut file = File::open(&path)?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

/// Bytes a second of reading dropped files from the first on, `limit` bytes at most; `None` if there is nothing to read.
fn sequential_read(dir: &Path, limit: u64) -> anyhow::Result<Option<f64>> {
    let limit = limit.min(DISK_READ_BYTES);
    let mut buffer = vec![0; 1 << 20];
    let (started, mut total) = (Instant::now(), 0);
    for path in residency::files(dir)? {
        let mut file = File::open(&path)?.take(limit - total);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => total += count as u64,
            }
        }
    }
    Ok((total > 0).then(|| total as f64 / started.elapsed().as_secs_f64().max(1e-9)))
}
