//! `bench compare`: Apache RocketMQ and us on one machine in one run, alternately, with one generator, and the floor server beside them.
//!
//! Absolute figures differ between machines by factors and between hours by half: only ratios of one run are compared. While one
//! server is measured the other is frozen or not there. Our broker starts anew for each measurement, with an empty store and no more
//! warm-up than the seconds every measurement has; Apache RocketMQ is warmed until its throughput no longer changes, and
//! stays alive. Before each measurement everything written before is on the disk.
//!
//! What fails makes its own rows say why, and nothing else: the run goes on. After each row the result files are written anew.

mod figure;
mod measure;
mod rows;
mod stock;
mod table;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use orrery_runtime_real::Real;
use serde::Serialize;

use self::figure::Figure;
use self::stock::Stock;
use self::table::Row;
use super::backlog::Findings;
use super::limits::Limits;
use super::server::{Flush, settings};

/// Bytes that everything beside the backlog needs on the disk: two stores and the floor's files.
const OTHER_BYTES: u64 = 12 << 30;
/// What a message of the backlog takes beside its body: record, queue entry, index.
const MESSAGE_OVERHEAD: u64 = 260;

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
    /// How often each is measured, by turns; the median counts
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
    /// Minutes after which no further measurement begins, and its row says so; the last, the backlog, takes four
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u16).range(1..=1440))]
    minutes: u16,
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
    /// What the machine allows
    Limits,
    /// Sends with asynchronous flush, and cached pulls
    Async,
    /// Sends with synchronous flush
    Sync,
    /// A long queue, and starts with it: ours alone
    Backlog,
}

/// The result file.
#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    command: Vec<String>,
    machine: &'a str,
    orrery_version: &'static str,
    java: &'a str,
    stock_version: &'a str,
    stock_heap_flags: Vec<String>,
    settings: &'a str,
    seconds: f64,
    rows: &'a [Row],
    figures: &'a [Figure],
    sync_rates: &'a [(String, f64)],
    warm_up: &'a [(String, Vec<f64>)],
    limits: Option<&'a Limits>,
    backlog: Option<&'a Findings>,
}

/// Compares, prints the table, and says whether every row has a figure.
pub(super) async fn run(arguments: Arguments, real: Real) -> anyhow::Result<bool> {
    let stock = Stock::find(&arguments.stock, arguments.heap_mebibytes)?;
    let existed = arguments.dir.exists();
    fs::create_dir_all(&arguments.dir).with_context(|| arguments.dir.display().to_string())?;
    let dir = std::path::absolute(&arguments.dir)?;
    let mut comparison = Comparison::new(&arguments, dir, stock, real);
    // Before anything is measured: can the files be written at all?
    comparison.save()?;
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
    println!("\n{}", table::text(&comparison.rows));
    println!("took {:.1} minutes", comparison.started.elapsed().as_secs_f64() / 60.0);
    comparison.save()?;
    result?;
    if comparison.rows.is_empty() && comparison.limits.is_none() {
        bail!("nothing was measured");
    }
    Ok(comparison.rows.iter().all(Row::has_figure))
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
    machine: String,
    started: Instant,
    deadline: Instant,
    json: Option<PathBuf>,
    markdown: Option<PathBuf>,
    rows: Vec<Row>,
    figures: Vec<Figure>,
    sync_rates: Vec<(String, f64)>,
    calm_wait_left: Duration,
    warm_up: Vec<(String, Vec<f64>)>,
    limits: Option<Limits>,
    backlog: Option<Findings>,
}

impl Comparison {
    fn new(arguments: &Arguments, dir: PathBuf, stock: Stock, real: Real) -> Comparison {
        let started = Instant::now();
        Comparison {
            course: Course::of(arguments),
            dir,
            stock,
            real,
            machine: stock::machine(),
            started,
            deadline: started + Duration::from_secs(60 * u64::from(arguments.minutes)),
            json: arguments.json.clone(),
            markdown: arguments.markdown.clone(),
            rows: Vec::new(),
            figures: Vec::new(),
            sync_rates: Vec::new(),
            calm_wait_left: measure::CALM_WAIT_MAX,
            warm_up: Vec::new(),
            limits: None,
            backlog: None,
        }
    }

    async fn all(&mut self, only: &[Part]) -> anyhow::Result<()> {
        println!("machine: {}", self.machine);
        println!(
            "Orrery {}; Apache RocketMQ {} with {}, {}",
            env!("CARGO_PKG_VERSION"),
            self.stock.jar_version,
            self.stock.java_version,
            self.stock.heap_flags().join(" ")
        );
        println!("both brokers: {}", settings(Flush::Async).join(" "));
        let chosen = |part| only.is_empty() || only.contains(&part);
        self.look_at_space(chosen(Part::Backlog))?;
        if chosen(Part::Limits) {
            self.limits().await;
        }
        // The disk is calmer before gigabytes were written.
        if chosen(Part::Sync) {
            self.synchronous().await;
        }
        if chosen(Part::Async) {
            self.asynchronous().await;
        }
        if chosen(Part::Backlog) {
            self.backlog().await;
        }
        Ok(())
    }

    /// Says early what would show late.
    fn look_at_space(&self, with_backlog: bool) -> anyhow::Result<()> {
        let disk = rustix::fs::statvfs(&self.dir).context("ask for free space")?;
        let free = disk.f_bavail * disk.f_frsize;
        let message_bytes = u64::from(self.course.message_size) + MESSAGE_OVERHEAD;
        let backlog = if with_backlog {
            self.course.messages.saturating_mul(message_bytes)
        } else {
            0
        };
        let needed = OTHER_BYTES.max(backlog);
        if free < needed {
            println!(
                "warning: {} has {:.0} GB free, this may need {:.0} GB",
                self.dir.display(),
                free as f64 / 1e9,
                needed as f64 / 1e9
            );
        }
        Ok(())
    }

    /// Adds a row and writes the files, so that a run that is ended leaves what it had.
    fn row(&mut self, row: Row) {
        self.rows.push(row);
        if let Err(error) = self.save() {
            log::warn!("{error:#}");
        }
    }

    fn save(&self) -> anyhow::Result<()> {
        if let Some(path) = &self.markdown {
            fs::write(path, self.to_markdown()).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &self.json {
            let document = Document {
                format: "orrery bench compare",
                version: 1,
                command: std::env::args().collect(),
                machine: &self.machine,
                orrery_version: env!("CARGO_PKG_VERSION"),
                java: &self.stock.java_version,
                stock_version: &self.stock.jar_version,
                stock_heap_flags: self.stock.heap_flags(),
                settings: &settings(Flush::Async).join("\n"),
                seconds: self.started.elapsed().as_secs_f64(),
                rows: &self.rows,
                figures: &self.figures,
                sync_rates: &self.sync_rates,
                warm_up: &self.warm_up,
                limits: self.limits.as_ref(),
                backlog: self.backlog.as_ref(),
            };
            let text = serde_json::to_string_pretty(&document)? + "\n";
            fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn to_markdown(&self) -> String {
        let mut out = format!(
            "{}; Orrery {}; Apache RocketMQ {} with {}, `{}`; bodies of {} bytes; {:.0} s a measurement, {} rounds.\n\n{}\n",
            self.machine,
            env!("CARGO_PKG_VERSION"),
            self.stock.jar_version,
            self.stock.java_version,
            self.stock.heap_flags().join(" "),
            self.course.message_size,
            self.course.seconds,
            self.course.rounds,
            table::markdown(&self.rows)
        );
        if let Some(limits) = &self.limits {
            out.push_str("Limits of the machine:\n\n");
            for line in limits.lines() {
                out.push_str(&format!("    {line}\n"));
            }
            out.push('\n');
        }
        out.push_str(&figure::markdown(&self.figures));
        for (when, rate) in &self.sync_rates {
            out.push_str(&format!("\nfdatasync alone, 4 KiB, {when}: {rate:.0} a second."));
        }
        for (flush, windows) in &self.warm_up {
            let windows: Vec<String> = windows.iter().map(|rate| format!("{rate:.0}")).collect();
            let windows = windows.join(", ");
            out.push_str(&format!("\nWarm-up of Apache RocketMQ, {flush}: {windows} messages/s."));
        }
        out.push_str(&format!("\nBoth brokers: `{}`.\n", settings(Flush::Async).join(" ")));
        out
    }
}
