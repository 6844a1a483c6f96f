//! `bench compare`: Apache RocketMQ and us on one machine in one run, alternately, with one generator, and the floor server beside them.
//!
//! Absolute figures differ between machines by factors and between hours by half: only ratios of one run are compared. While one
//! server is measured the other is frozen or not there. Our broker starts anew for each measurement, with an empty store and no more
//! warm-up than the seconds every measurement has; Apache RocketMQ is warmed until its throughput no longer changes, and
//! stays alive. Before each measurement everything written before is on the disk.

mod stock;
mod table;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use orrery_runtime_real::Real;
use serde::Serialize;

use self::stock::Stock;
use self::table::{Row, agree, median};
use super::Shared;
use super::backlog::{self, Findings, Latency, settle};
use super::floor::Mode;
use super::limits::{Stall, stall, sync_rate};
use super::producer::{self, Kind, Sending};
use super::pull::{self, Pulling, Walk};
use super::report::{Measured, mebibytes};
use super::server::{Flush, Server};

const TOPIC: &str = "BenchmarkTest";
const QUEUES: u16 = 8;
/// Connections where many requests are in flight.
const CONNECTIONS: u16 = 4;
const IN_FLIGHT: u32 = 64;
/// How close three windows in a row must be for a server to count as warm.
const TOLERANCE: f64 = 0.05;
/// Share of a server's own saturated throughput at which its latency is measured.
const LOAD: f64 = 0.7;
/// Messages that are pulled from memory.
const PULL_MESSAGES: u64 = 200_000;
/// Refused or unanswered requests, of all, from which on a rate says nothing.
const FAILED_SHARE_MAX: f64 = 0.01;
/// A disk is calm when it syncs at this share of its best rate of this run. After gigabytes of writing some sync ten times slower for up to a
/// minute, which would be measured instead of a broker.
const CALM_SHARE: f64 = 0.6;
const CALM_PROBE: Duration = Duration::from_millis(300);
const CALM_PAUSE: Duration = Duration::from_secs(2);
/// How long a whole comparison waits for that.
const CALM_WAIT_MAX: Duration = Duration::from_secs(120);
/// What a record has beside its body, as the longest-stall loop counts.
const RECORD_OVERHEAD: u32 = 215;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Apache RocketMQ: a folder made by `interop/stock/fetch`
    #[arg(long, value_name = "DIR")]
    stock: PathBuf,
    /// Folder for servers and stores; created if absent, what is made there is removed
    #[arg(long, default_value = "orrery-compare", value_name = "DIR")]
    dir: PathBuf,
    /// Parts to run; all if none is named
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// Java heap, touched before the start
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(256..))]
    heap_mebibytes: u32,
    /// Bytes of a body
    #[arg(short = 's', long = "message-size", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    message_size: u32,
    /// Seconds of a measurement; a quarter of it, 2 s at most, goes before without counting
    #[arg(long, default_value_t = 8.0, value_parser = super::some_seconds)]
    seconds: f64,
    /// How often each throughput is measured, by turns; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    rounds: u8,
    /// Seconds of a window of the warm-up
    #[arg(long, default_value_t = 10.0, value_parser = super::some_seconds)]
    window: f64,
    /// Windows at most, if three in a row do not agree before
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u8).range(3..=100))]
    windows_max: u8,
    /// Messages of the backlog
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Short: 3 s a measurement, one round, windows of 3 s, eight at most. Shows that all works; decides little
    #[arg(long, conflicts_with_all = ["seconds", "rounds", "window", "windows_max"])]
    quick: bool,
    /// Writes the result to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Sends with asynchronous flush, and cached pulls
    Async,
    /// Sends with synchronous flush
    Sync,
    /// A long queue, and starts with it: ours alone
    Backlog,
}

/// One measurement.
#[derive(Clone, Serialize)]
struct Figure {
    server: &'static str,
    work: String,
    /// Messages a second; `None` if nothing came or too much failed.
    rate: Option<f64>,
    latency_us: Option<Percentiles>,
    failed: u64,
    /// Writes of 4 KiB with fdatasync a second, right before; with synchronous flush only.
    sync_rate_before: Option<f64>,
    server_cores: Option<f64>,
    generator_cores: f64,
    server_anonymous_bytes: Option<u64>,
    bytes_written_per_message: Option<f64>,
    syncs_per_message: Option<f64>,
}

#[derive(Clone, Copy, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// The result file.
#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    command: Vec<String>,
    machine: String,
    java: &'a str,
    stock_version: &'a str,
    stock_heap_flags: Vec<String>,
    rows: &'a [Row],
    figures: &'a [Figure],
    sync_rates: &'a [(String, f64)],
    warm_up: &'a [(String, Vec<f64>)],
    backlog: Option<&'a Findings>,
}

/// Compares, prints the table, and says whether everything that was to be measured was.
pub(super) async fn run(arguments: Arguments, real: Real) -> anyhow::Result<bool> {
    let stock = Stock::find(&arguments.stock, arguments.heap_mebibytes)?;
    let existed = arguments.dir.exists();
    fs::create_dir_all(&arguments.dir).with_context(|| arguments.dir.display().to_string())?;
    let mut comparison = Comparison {
        course: Course::of(&arguments),
        dir: std::path::absolute(&arguments.dir)?,
        stock,
        real,
        rows: Vec::new(),
        figures: Vec::new(),
        sync_rates: Vec::new(),
        calm_wait_left: CALM_WAIT_MAX,
        warm_up: Vec::new(),
        backlog: None,
    };
    let result = super::unless_stopped(comparison.all(&arguments.only)).await;
    for name in ["ours", "stock", "floor", "floor.log", "limits-file", "backlog"] {
        let path = comparison.dir.join(name);
        let _ = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
    }
    if !existed {
        let _ = fs::remove_dir(&comparison.dir);
    }
    result?;
    comparison.show(&arguments)
}

/// How long everything takes.
struct Course {
    message_size: u32,
    seconds: f64,
    rounds: u8,
    window: f64,
    windows_max: u8,
    messages: u64,
}

impl Course {
    fn of(arguments: &Arguments) -> Course {
        let whole = Course {
            message_size: arguments.message_size,
            seconds: arguments.seconds,
            rounds: arguments.rounds,
            window: arguments.window,
            windows_max: arguments.windows_max,
            messages: arguments.messages,
        };
        match arguments.quick {
            false => whole,
            true => Course {
                seconds: 3.0,
                rounds: 1,
                window: 3.0,
                windows_max: 8,
                ..whole
            },
        }
    }
}

struct Comparison {
    course: Course,
    dir: PathBuf,
    stock: Stock,
    real: Real,
    rows: Vec<Row>,
    figures: Vec<Figure>,
    sync_rates: Vec<(String, f64)>,
    calm_wait_left: Duration,
    warm_up: Vec<(String, Vec<f64>)>,
    backlog: Option<Findings>,
}

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Stock,
    Ours,
    Floor(Mode),
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Stock => "Apache RocketMQ",
            Who::Ours => "Orrery",
            Who::Floor(Mode::Echo) => "floor, echo",
            Who::Floor(Mode::Async) => "floor, async",
            Who::Floor(Mode::Sync) => "floor, sync",
        }
    }
}

/// What is sent.
#[derive(Clone, Copy)]
struct Load {
    in_flight: u32,
    connections: u16,
    /// Messages a second; 0: as many as replies allow.
    rate: f64,
}

const MANY: Load = Load {
    in_flight: IN_FLIGHT,
    connections: CONNECTIONS,
    rate: 0.0,
};
const ONE: Load = Load {
    in_flight: 1,
    connections: 1,
    rate: 0.0,
};

impl Comparison {
    async fn all(&mut self, only: &[Part]) -> anyhow::Result<()> {
        println!("machine: {}", stock::machine());
        println!(
            "Apache RocketMQ {} with {}, {}",
            self.stock.jar_version,
            self.stock.java_version,
            self.stock.heap_flags().join(" ")
        );
        let chosen = |part| only.is_empty() || only.contains(&part);
        if chosen(Part::Async) {
            self.asynchronous().await?;
        }
        if chosen(Part::Sync) {
            self.synchronous().await?;
        }
        if chosen(Part::Backlog) {
            self.backlog().await?;
        }
        Ok(())
    }

    /// Sends with asynchronous flush: throughput, one at a time, latency under load, pulls.
    async fn asynchronous(&mut self) -> anyhow::Result<()> {
        let flush = Flush::Async;
        self.sync_rate("before the part with asynchronous flush")?;
        let mut stock = self.warm(flush).await?;
        let whos = [Who::Stock, Who::Ours, Who::Floor(Mode::Async)];
        let [stock_rate, our_rate, floor_rate] = self.rates(&whos, MANY, flush, &mut stock).await?;
        let work = "send, 64 in flight, async flush";
        self.row(Row::ratio(
            work,
            "Apache RocketMQ",
            5.0,
            our_rate,
            stock_rate,
            " messages/s",
        ));
        self.row(Row::ratio(
            work,
            "the floor server",
            0.6,
            our_rate,
            floor_rate,
            " messages/s",
        ));

        self.loaded(our_rate, stock_rate, &mut stock).await?;

        let whos = [Who::Stock, Who::Ours, Who::Floor(Mode::Async), Who::Floor(Mode::Echo)];
        let [stock_rate, our_rate, floor_rate, echo_rate] = self.rates(&whos, ONE, flush, &mut stock).await?;
        let work = "send, 1 in flight, async flush";
        self.row(Row::ratio(
            work,
            "Apache RocketMQ",
            1.8,
            our_rate,
            stock_rate,
            " messages/s",
        ));
        self.row(
            Row::ratio(work, "the round trip", 0.8, our_rate, echo_rate, " messages/s")
                .with(&format!(" (floor with pwrite: {:.0})", floor_rate.unwrap_or(0.0))),
        );

        self.pulls(&mut stock).await?;
        stock.thaw();
        stock.stop()?;
        self.clean("stock")?;
        self.sync_rate("after it")
    }

    /// Latency of each broker at the same share of its own throughput, and the longest stall beside a loop of bare writes.
    async fn loaded(
        &mut self,
        our_rate: Option<f64>,
        stock_rate: Option<f64>,
        stock: &mut Server,
    ) -> anyhow::Result<()> {
        let at = |rate: f64| Load { rate, ..MANY };
        if let Some(rate) = stock_rate {
            self.one(Who::Stock, at(rate * LOAD), Flush::Async, stock).await?;
        }
        let mut ours = None;
        let mut bare = None;
        if let Some(rate) = our_rate {
            let measured = self.one(Who::Ours, at(rate * LOAD), Flush::Async, stock).await?;
            // Fewer than intended: it was not at this load, and its percentiles say how far behind it fell.
            ours = Latency::of(&measured);
            settle(&self.dir)?;
            let bytes = rate * LOAD * f64::from(self.course.message_size + RECORD_OVERHEAD);
            let found = stall(&self.dir, bytes, Duration::from_secs_f64(self.course.seconds))?;
            println!(
                "  bare pwrite loop: longest stall {:.0} µs at {:.0} MB/s",
                found.max_us,
                found.bytes_per_second / 1e6
            );
            bare = Some(found);
            settle(&self.dir)?;
        }
        let work = "send, 70 % of its throughput, async flush";
        let p99 = ours.map(|latency| latency.p99_us);
        self.row(Row::at_most(work, "p99 at most 1000 µs", Some(1000.0), p99, " µs"));
        let limit = bare.as_ref().map(|stall: &Stall| stall.max_us + 10_000.0);
        let goal = "longest stall at most 10 ms above a bare pwrite loop's";
        let against = bare.map_or_else(String::new, |stall| format!(" against {:.1} µs", stall.max_us));
        let longest = ours.map(|latency| latency.max_us);
        self.row(Row::at_most(work, goal, limit, longest, " µs").with(&against));
        Ok(())
    }

    async fn synchronous(&mut self) -> anyhow::Result<()> {
        let flush = Flush::Sync;
        self.sync_rate("before the part with synchronous flush")?;
        let mut stock = self.warm(flush).await?;
        let whos = [Who::Stock, Who::Ours, Who::Floor(Mode::Sync)];
        let [stock_rate, our_rate, floor_rate] = self.rates(&whos, MANY, flush, &mut stock).await?;
        let work = "send, 64 in flight, sync flush";
        let share = our_rate
            .zip(floor_rate)
            .map_or(0.0, |(ours, floor)| ours * 100.0 / floor);
        self.row(
            Row::ratio(work, "Apache RocketMQ", 5.0, our_rate, stock_rate, " messages/s").with(&format!(
                " ({share:.0} % of the floor server's {:.0})",
                floor_rate.unwrap_or(0.0)
            )),
        );
        let [stock_rate, our_rate, floor_rate] = self.rates(&whos, ONE, flush, &mut stock).await?;
        let work = "send, 1 in flight, sync flush";
        self.row(Row::ratio(
            work,
            "Apache RocketMQ",
            2.5,
            our_rate,
            stock_rate,
            " messages/s",
        ));
        let floor = "round trip and one fdatasync";
        self.row(Row::ratio(work, floor, 0.8, our_rate, floor_rate, " messages/s"));
        stock.thaw();
        stock.stop()?;
        self.clean("stock")?;
        self.sync_rate("after it")
    }

    /// Starts Apache RocketMQ and sends until three windows agree. It comes back frozen.
    async fn warm(&mut self, flush: Flush) -> anyhow::Result<Server> {
        let started = std::time::Instant::now();
        let mut server = self.stock.start(&self.dir.join("stock"), flush)?;
        println!(
            "Apache RocketMQ, {}: started in {:.1} s",
            flush.property(),
            started.elapsed().as_secs_f64()
        );
        let mut windows = Vec::new();
        while !agree(&windows, TOLERANCE) && windows.len() < usize::from(self.course.windows_max) {
            let mut shared = self.shared(&server, MANY);
            (shared.warmup, shared.seconds) = (0.0, self.course.window);
            let sending = Sending::plain(self.course.message_size, MANY.in_flight, 0.0);
            let measured = producer::measure(&shared, &sending, Kind::Plain, &self.real, |_, _| {}).await?;
            println!("  warm-up: {:.0} messages/s", measured.messages_per_second());
            windows.push(measured.messages_per_second());
        }
        if !agree(&windows, TOLERANCE) {
            println!("  three windows in a row did not agree within 5 %: it is taken as it is");
        }
        self.warm_up.push((flush.property().to_owned(), windows));
        server.freeze();
        Ok(server)
    }

    /// Throughput of each, by turns; the median of the rounds.
    async fn rates<const N: usize>(
        &mut self,
        whos: &[Who; N],
        load: Load,
        flush: Flush,
        stock: &mut Server,
    ) -> anyhow::Result<[Option<f64>; N]> {
        let mut rates = vec![Vec::new(); N];
        for _ in 0..self.course.rounds {
            for (who, rates) in whos.iter().zip(&mut rates) {
                let measured = self.one(*who, load, flush, stock).await?;
                rates.extend(counted_rate(&measured));
            }
        }
        let enough = usize::from(self.course.rounds);
        // A round that failed is a figure missing, not one to leave out.
        Ok(std::array::from_fn(|index| {
            (rates[index].len() == enough).then(|| median(&rates[index])).flatten()
        }))
    }

    /// One measurement of one server; everything else rests.
    async fn one(&mut self, who: Who, load: Load, flush: Flush, stock: &mut Server) -> anyhow::Result<Measured> {
        let sync_rate_before = match flush {
            Flush::Async => None,
            Flush::Sync => Some(self.calm().await?),
        };
        let own = match who {
            Who::Stock => {
                stock.thaw();
                None
            }
            Who::Ours => Some(Server::orrery(&self.dir.join("ours"), flush)?),
            Who::Floor(mode) => Some(Server::floor(&self.dir, mode)?),
        };
        let shared = self.shared(own.as_ref().unwrap_or(stock), load);
        let sending = Sending::plain(self.course.message_size, load.in_flight, load.rate);
        let measured = producer::measure(&shared, &sending, Kind::Plain, &self.real, |_, _| {}).await;
        match own {
            None => stock.freeze(),
            Some(server) => server.kill()?,
        }
        self.clean("ours")?;
        self.clean("floor")?;
        settle(&self.dir)?;
        let measured = measured?;
        let pace = match load.rate {
            0.0 => String::new(),
            rate => format!(" at {rate:.0}/s"),
        };
        let work = format!("send, {} in flight, {}{pace}", load.in_flight, flush.property());
        self.note(who.name(), work, &measured, sync_rate_before);
        Ok(measured)
    }

    /// Pulls of messages that are in memory, 32 a reply.
    async fn pulls(&mut self, stock: &mut Server) -> anyhow::Result<()> {
        let ours = Server::orrery(&self.dir.join("ours"), Flush::Async)?;
        stock.thaw();
        for server in [&ours, &*stock] {
            let mut shared = self.shared(server, MANY);
            (shared.topic, shared.queues) = ("BenchmarkPull".to_owned(), CONNECTIONS);
            (shared.warmup, shared.seconds, shared.quantity) = (0.0, 0.0, PULL_MESSAGES);
            let sending = Sending::plain(self.course.message_size, IN_FLIGHT, 0.0);
            producer::measure(&shared, &sending, Kind::Plain, &self.real, |_, _| {}).await?;
        }
        stock.freeze();
        settle(&self.dir)?;
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..self.course.rounds {
            for (index, rates) in rates.iter_mut().enumerate() {
                let who = if index == 0 { Who::Stock } else { Who::Ours };
                if who == Who::Stock {
                    stock.thaw();
                }
                let mut shared = self.shared(if who == Who::Stock { stock } else { &ours }, MANY);
                (shared.topic, shared.queues) = ("BenchmarkPull".to_owned(), CONNECTIONS);
                let pulling = Pulling::of_queue(None, Walk::All, 0.0);
                let measured = pull::measure(&shared, &pulling, &self.real, |_, _| {}).await?;
                stock.freeze();
                rates.extend(counted_rate(&measured));
                self.note(
                    who.name(),
                    format!("pull, cached, 32 a reply, {CONNECTIONS} readers"),
                    &measured,
                    None,
                );
            }
        }
        ours.kill()?;
        self.clean("ours")?;
        settle(&self.dir)?;
        let [stock_rate, our_rate] = rates.map(|rates| median(&rates));
        let work = "pull, cached, 32 a reply";
        self.row(Row::ratio(
            work,
            "Apache RocketMQ",
            2.0,
            our_rate,
            stock_rate,
            " messages/s",
        ));
        Ok(())
    }

    /// Ours alone: the goals speak of its own cached rate, and of the disk.
    async fn backlog(&mut self) -> anyhow::Result<()> {
        let plan = backlog::Plan {
            dir: self.dir.join("backlog"),
            messages: self.course.messages,
            message_size: self.course.message_size,
            readers: 1,
            seconds: self.course.seconds.min(5.0),
            send_rate: 20_000.0,
            reader_rate: 500.0,
        };
        let found = backlog::own(&plan, &self.real).await?;
        self.clean("backlog")?;
        let is_whole = found.messages >= 10_000_000;
        let smaller = format!(" (with {} messages)", found.messages);
        let lower = found
            .cached_rate
            .zip(found.disk_read_rate)
            .map(|(cached, disk)| cached.min(disk));
        let residency = |residency: Option<super::residency::Residency>| {
            residency.map_or_else(String::new, |residency| {
                format!("; {:.1} % resident", residency.percent())
            })
        };
        let work = "10 M messages on one queue";
        let row = Row::ratio(
            &format!("{work}, pulled cold from the start"),
            "the lower of cached pull and disk",
            0.9,
            found.cold_rate,
            lower,
            " messages/s",
        );
        self.row(row.with(&residency(found.cold_residency)).only_if(is_whole, &smaller));
        let row = Row::ratio(
            &format!("{work}, pulled warm from the start"),
            "cached pull",
            0.9,
            found.warm_rate,
            found.cached_rate,
            " messages/s",
        );
        self.row(row.with(&residency(found.warm_residency)).only_if(is_whole, &smaller));
        let size = |bytes: Option<u64>| bytes.map(mebibytes);
        let pulled = size(found.pull_anonymous_bytes_max);
        let row = Row::at_most(work, "RssAnon below 200 MiB while pulled", Some(200.0), pulled, " MiB");
        self.row(row.only_if(is_whole, &smaller));
        let idle = size(found.idle_anonymous_bytes);
        let row = Row::at_most(work, "RssAnon below 40 MiB when idle", Some(40.0), idle, " MiB");
        self.row(row.only_if(is_whole, &smaller));
        let bytes = found.record_bytes.unwrap_or(0);
        let (is_large, why) = (bytes >= 10_000_000_000, format!(" (with {:.1} GB)", bytes as f64 / 1e9));
        let clean = found.start_clean_seconds;
        let row = Row::at_most(
            "start with a 10 GB store after a clean stop",
            "below 1 s",
            Some(1.0),
            clean,
            " s",
        );
        self.row(row.only_if(is_large, &why));
        let killed = found.start_killed_seconds;
        let row = Row::at_most(
            "start with a 10 GB store after kill -9",
            "below 5 s",
            Some(5.0),
            killed,
            " s",
        );
        self.row(row.only_if(is_large, &why));
        if let (Some(alone), Some(beside)) = (found.send_alone, found.send_with_reader) {
            self.row(Row::shown(
                "send at 20 k/s beside a slow reader of old data",
                format!(
                    "p50/p99/max {:.0}/{:.0}/{:.0} µs alone, {:.0}/{:.0}/{:.0} µs beside it",
                    alone.p50_us, alone.p99_us, alone.max_us, beside.p50_us, beside.p99_us, beside.max_us
                ),
            ));
        }
        self.backlog = Some(found);
        Ok(())
    }

    fn shared(&self, server: &Server, load: Load) -> Shared {
        let mut shared = Shared::of_broker(server.address, TOPIC, QUEUES, load.connections, Some(server.pid()));
        shared.warmup = (self.course.seconds / 4.0).min(2.0);
        shared.seconds = self.course.seconds;
        shared
    }

    fn note(&mut self, server: &'static str, work: String, measured: &Measured, sync_rate_before: Option<f64>) {
        let (counts, used) = (&measured.counts, &measured.used);
        let per_message = |count: Option<u64>| {
            count
                .filter(|_| counts.messages > 0)
                .map(|count| count as f64 / counts.messages as f64)
        };
        let percentile = |percentile| counts.percentile_us(percentile);
        let latency_us = percentile(50.0)
            .zip(percentile(99.0))
            .zip(percentile(99.9))
            .zip(percentile(100.0));
        let figure = Figure {
            server,
            work,
            rate: counted_rate(measured),
            latency_us: latency_us.map(|(((p50, p99), p99_9), max)| Percentiles { p50, p99, p99_9, max }),
            failed: counts.failed(),
            sync_rate_before,
            server_cores: used.broker_cores,
            generator_cores: used.own_cores,
            server_anonymous_bytes: used.broker_anonymous_bytes,
            bytes_written_per_message: per_message(used.broker_written_bytes),
            syncs_per_message: per_message(used.broker_syncs),
        };
        println!("  {}", figure_cells(&figure).join("  "));
        self.figures.push(figure);
    }

    fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The disk itself, at this moment.
    fn sync_rate(&mut self, when: &str) -> anyhow::Result<()> {
        settle(&self.dir)?;
        let rate = sync_rate(&self.dir, 4096, Duration::from_secs_f64(self.course.seconds.min(2.0)))?;
        println!("fdatasync alone {when}: {rate:.0} /s");
        self.sync_rates.push((when.to_owned(), rate));
        Ok(())
    }

    /// Waits until the disk syncs as fast as it did, and says how fast that is.
    async fn calm(&mut self) -> anyhow::Result<f64> {
        loop {
            let best = self.sync_rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
            let rate = sync_rate(&self.dir, 4096, CALM_PROBE)?;
            if rate >= best * CALM_SHARE || self.calm_wait_left.is_zero() {
                return Ok(rate);
            }
            self.calm_wait_left = self.calm_wait_left.saturating_sub(CALM_PAUSE);
            tokio::time::sleep(CALM_PAUSE).await;
        }
    }

    fn clean(&self, name: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| path.display().to_string())
            }
            _ => Ok(()),
        }
    }

    fn show(&self, arguments: &Arguments) -> anyhow::Result<bool> {
        if self.rows.is_empty() {
            bail!("nothing was measured");
        }
        println!("\n{}", table::text(&self.rows));
        if let Some(path) = &arguments.markdown {
            fs::write(path, self.markdown()).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &arguments.json {
            let document = Document {
                format: "orrery bench compare",
                version: 1,
                command: std::env::args().collect(),
                machine: stock::machine(),
                java: &self.stock.java_version,
                stock_version: &self.stock.jar_version,
                stock_heap_flags: self.stock.heap_flags(),
                rows: &self.rows,
                figures: &self.figures,
                sync_rates: &self.sync_rates,
                warm_up: &self.warm_up,
                backlog: self.backlog.as_ref(),
            };
            let text = serde_json::to_string_pretty(&document)? + "\n";
            fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        Ok(self.figures.iter().all(|figure| figure.rate.is_some()))
    }

    fn markdown(&self) -> String {
        let mut out = format!(
            "{}; Apache RocketMQ {} with {}, `{}`; bodies of {} bytes.\n\n{}\n",
            stock::machine(),
            self.stock.jar_version,
            self.stock.java_version,
            self.stock.heap_flags().join(" "),
            self.course.message_size,
            table::markdown(&self.rows)
        );
        out.push_str("| server | work | messages/s | p50, p99, p99.9, max µs | failed | fdatasync/s before | cores: server, generator | RssAnon | per message: bytes, syncs |\n");
        out.push_str("|---|---|---|---|---|---|---|---|---|\n");
        for figure in &self.figures {
            out.push_str(&format!("| {} |\n", figure_cells(figure).join(" | ")));
        }
        for (when, rate) in &self.sync_rates {
            out.push_str(&format!("\nfdatasync alone, 4 KiB, {when}: {rate:.0} a second."));
        }
        for (flush, windows) in &self.warm_up {
            let windows: Vec<String> = windows.iter().map(|rate| format!("{rate:.0}")).collect();
            out.push_str(&format!(
                "\nWarm-up of Apache RocketMQ, {flush}: {} messages/s.",
                windows.join(", ")
            ));
        }
        out.push('\n');
        out
    }
}

/// Messages a second, if enough of what was asked was done.
fn counted_rate(measured: &Measured) -> Option<f64> {
    let (messages, failed) = (measured.counts.messages, measured.counts.failed());
    let counts = messages > 0 && failed as f64 <= FAILED_SHARE_MAX * messages as f64;
    counts.then(|| measured.messages_per_second())
}

fn figure_cells(figure: &Figure) -> Vec<String> {
    let optional = |number: Option<f64>, digits: usize| {
        number.map_or_else(|| "unknown".to_owned(), |number| format!("{number:.digits$}"))
    };
    vec![
        figure.server.to_owned(),
        figure.work.clone(),
        figure
            .rate
            .map_or_else(|| "not measured".to_owned(), |rate| format!("{rate:.0}")),
        figure.latency_us.map_or_else(
            || "-".to_owned(),
            |latency| {
                format!(
                    "{:.0}, {:.0}, {:.0}, {:.0}",
                    latency.p50, latency.p99, latency.p99_9, latency.max
                )
            },
        ),
        figure.failed.to_string(),
        figure
            .sync_rate_before
            .map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")),
        format!("{}, {:.2}", optional(figure.server_cores, 2), figure.generator_cores),
        format!("{} MiB", optional(figure.server_anonymous_bytes.map(mebibytes), 0)),
        format!(
            "{}, {}",
            optional(figure.bytes_written_per_message, 0),
            optional(figure.syncs_per_message, 4)
        ),
    ]
}
