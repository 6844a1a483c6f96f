//! `bench limits`: what this machine allows, measured by the same generator and with the system calls a broker needs. A figure of a
//! broker says something only beside these, from the same hour.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use orrery_runtime_real::Real;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use serde::Serialize;

use super::Shared;
use super::backlog::settle;
use super::floor::{Mode, zeroed};
use super::producer::{self, Kind, Sending};
use super::report::Measured;
use super::schedule::Schedule;
use super::server::Server;

const TOPIC: &str = "BenchmarkTest";
/// Bytes that a 1 KiB message takes on disk, roughly: the unit of the stall loop.
const RECORD_BYTES: usize = 1200;
/// A group of 64 such messages, rounded.
const GROUP_BYTES: usize = 64 << 10;
/// The file that is synced into.
const SYNC_FILE_BYTES: u64 = 16 << 20;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Folder on the disk to measure; created if absent, what is made there is removed
    #[arg(long, default_value = "orrery-limits", value_name = "DIR")]
    dir: PathBuf,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3.0, value_parser = super::some_seconds)]
    seconds: f64,
    /// Bytes of a message's body
    #[arg(short = 's', long = "message-size", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    message_size: u32,
    /// Requests in flight where many are
    #[arg(short = 'w', long = "in-flight", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Connections where many requests are in flight
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Mebibytes of sequential writing and reading
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    file_mebibytes: u64,
    /// Megabytes per second of the loop that looks for the longest stall
    #[arg(long, default_value_t = 200.0, value_parser = megabytes)]
    stall_rate: f64,
    /// Writes the result to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Arguments {
    /// As a part of a longer run.
    pub(super) fn of(dir: &Path, message_size: u32, seconds: f64) -> Arguments {
        Arguments {
            dir: dir.to_owned(),
            seconds,
            message_size,
            in_flight: 64,
            connections: 4,
            file_mebibytes: 1024,
            stall_rate: 200.0,
            json: None,
        }
    }
}

/// Every ceiling. The names are those of the result file.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Limits {
    copy_bytes_per_second: f64,
    /// Writes with fdatasync a second: 4 KiB, and a group of 64 KiB.
    syncs: f64,
    group_syncs: f64,
    write_bytes_per_second: f64,
    read_bytes_per_second: f64,
    stall_us_max: f64,
    stall_bytes_per_second: f64,
    floors: Vec<FloorLimit>,
}

/// What the floor server reached.
#[derive(Clone, Debug, Serialize)]
struct FloorLimit {
    mode: &'static str,
    in_flight: u32,
    connections: u16,
    /// Requests a second; `None` if some failed.
    rate: Option<f64>,
    p50_us: f64,
    p99_us: f64,
}

impl Limits {
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |name: &str, figure: f64, unit: &str, how: &str| format!("{name:<22} {figure:>10.0} {unit} ({how})");
        let mut lines = vec![
            line(
                "memory copy",
                self.copy_bytes_per_second / 1e6,
                "MB/s",
                "64 KiB pieces out of 256 MiB",
            ),
            line("fdatasync alone", self.syncs, "/s", "4 KiB into a file of zeros"),
            line(
                "fdatasync grouped",
                self.group_syncs,
                "/s",
                "64 KiB into a file of zeros",
            ),
            line(
                "sequential write",
                self.write_bytes_per_second / 1e6,
                "MB/s",
                "1 MiB pieces, preallocated, with the final fdatasync",
            ),
            line(
                "sequential read",
                self.read_bytes_per_second / 1e6,
                "MB/s",
                "the same file, dropped from the page cache",
            ),
            line(
                "longest write stall",
                self.stall_us_max,
                "µs",
                &format!(
                    "pwrite of {RECORD_BYTES} bytes at {:.0} MB/s, from the intended time",
                    self.stall_bytes_per_second / 1e6
                ),
            ),
        ];
        for floor in &self.floors {
            let name = format!("floor server, {}", floor.mode);
            let how = format!(
                "{} in flight on {} connections; p50 {:.0} µs, p99 {:.0} µs",
                floor.in_flight, floor.connections, floor.p50_us, floor.p99_us
            );
            match floor.rate {
                Some(rate) => lines.push(line(&name, rate, "/s", &how)),
                None => lines.push(format!("{name:<22}     failed")),
            }
        }
        lines
    }
}

pub(super) async fn run(arguments: Arguments, real: Real) -> anyhow::Result<bool> {
    let existed = arguments.dir.exists();
    let result = super::unless_stopped(measure(&arguments, &real)).await;
    let _ = fs::remove_dir_all(arguments.dir.join("floor"));
    for name in ["floor.log", "limits-file"] {
        let _ = fs::remove_file(arguments.dir.join(name));
    }
    if !existed {
        let _ = fs::remove_dir(&arguments.dir);
    }
    let limits = result?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&limits)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(limits.floors.iter().all(|floor| floor.rate.is_some()))
}

pub(super) async fn measure(arguments: &Arguments, real: &Real) -> anyhow::Result<Limits> {
    let (dir, time) = (&arguments.dir, Duration::from_secs_f64(arguments.seconds));
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let mut limits = Limits {
        copy_bytes_per_second: copy_rate(time),
        syncs: sync_rate(dir, 4096, time)?,
        group_syncs: sync_rate(dir, GROUP_BYTES, time)?,
        write_bytes_per_second: write_rate(dir, arguments.file_mebibytes << 20)?,
        read_bytes_per_second: read_rate(dir)?,
        ..Limits::default()
    };
    settle(dir)?;
    let stall = stall(dir, arguments.stall_rate * 1e6, time)?;
    (limits.stall_us_max, limits.stall_bytes_per_second) = (stall.max_us, stall.bytes_per_second);
    let _ = fs::remove_file(dir.join("limits-file"));
    for line in limits.lines() {
        println!("{line}");
    }
    for mode in [Mode::Echo, Mode::Async, Mode::Sync] {
        for (in_flight, connections) in [(1, 1), (arguments.in_flight, arguments.connections)] {
            settle(dir)?;
            let measured = floor(arguments, mode, in_flight, connections, real).await?;
            limits.floors.push(FloorLimit {
                mode: mode.name(),
                in_flight,
                connections,
                rate: (measured.counts.messages > 0 && measured.counts.failed() == 0)
                    .then(|| measured.messages_per_second()),
                p50_us: measured.counts.percentile_us(50.0).unwrap_or(0.0),
                p99_us: measured.counts.percentile_us(99.0).unwrap_or(0.0),
            });
            println!("{}", limits.lines().last().map_or("", String::as_str));
        }
    }
    settle(dir)?;
    Ok(limits)
}

/// The floor server under the producer's load; started and ended here.
async fn floor(
    arguments: &Arguments,
    mode: Mode,
    in_flight: u32,
    connections: u16,
    real: &Real,
) -> anyhow::Result<Measured> {
    let server = Server::floor(&arguments.dir, mode)?;
    let mut shared = Shared::of_broker(server.address, TOPIC, 8, connections, Some(server.pid()));
    shared.warmup = (arguments.seconds / 4.0).min(1.0);
    shared.seconds = arguments.seconds;
    let sending = Sending::plain(arguments.message_size, in_flight, 0.0);
    let measured = producer::measure(&shared, &sending, Kind::Plain, real, |_, _| {}).await?;
    drop(server);
    let _ = fs::remove_dir_all(arguments.dir.join("floor"));
    Ok(measured)
}

fn megabytes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("megabytes per second from 0.1 to 10000".to_owned()),
    }
}

/// Bytes a second of copying 64 KiB pieces out of a memory larger than the caches.
fn copy_rate(time: Duration) -> f64 {
    let source = vec![1_u8; 256 << 20];
    let mut target = vec![0_u8; GROUP_BYTES];
    let (started, mut total) = (Instant::now(), 0_u64);
    while started.elapsed() < time {
        for piece in source.chunks(GROUP_BYTES) {
            target[..piece.len()].copy_from_slice(piece);
            std::hint::black_box(&mut target);
            total += piece.len() as u64;
        }
    }
    total as f64 / started.elapsed().as_secs_f64()
}

/// Writes of `size` bytes, each with fdatasync, a second, into a file whose blocks are written.
pub(super) fn sync_rate(dir: &Path, size: usize, time: Duration) -> anyhow::Result<f64> {
    let folder = dir.join("floor");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let file = zeroed(&folder, SYNC_FILE_BYTES)?;
    let bytes = vec![7; size];
    let (started, mut count) = (Instant::now(), 0_u64);
    while started.elapsed() < time || count == 0 {
        let place = count * size as u64 % (SYNC_FILE_BYTES - size as u64);
        file.write_all_at(&bytes, place / 4096 * 4096)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    fs::remove_dir_all(&folder)?;
    Ok(rate)
}

fn fresh(dir: &Path, bytes: u64) -> anyhow::Result<File> {
    let path = dir.join("limits-file");
    let _ = fs::remove_file(&path);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let file = file.with_context(|| path.display().to_string())?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)
        .with_context(|| format!("preallocate {bytes} bytes in {}: is the disk full?", dir.display()))?;
    Ok(file)
}

/// Bytes a second of writing a preallocated file in pieces of 1 MiB, durable at the end.
fn write_rate(dir: &Path, bytes: u64) -> anyhow::Result<f64> {
    let file = fresh(dir, bytes)?;
    let piece = vec![7; 1 << 20];
    let (started, mut at) = (Instant::now(), 0);
    while at < bytes {
        file.write_all_at(&piece, at)?;
        at += piece.len() as u64;
    }
    file.sync_data()?;
    Ok(bytes as f64 / started.elapsed().as_secs_f64())
}

fn read_rate(dir: &Path) -> anyhow::Result<f64> {
    let file = File::open(dir.join("limits-file"))?;
    file.sync_data()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut piece = vec![0; 1 << 20];
    let (started, mut at) = (Instant::now(), 0);
    loop {
        match file.read_at(&mut piece, at)? {
            0 => break,
            count => at += count as u64,
        }
    }
    Ok(at as f64 / started.elapsed().as_secs_f64())
}

pub(super) struct Stall {
    /// Longest time from an intended write to its end.
    pub(super) max_us: f64,
    /// What the loop really wrote.
    pub(super) bytes_per_second: f64,
}

/// A loop that does nothing but `pwrite` records at a byte rate into a preallocated file: the stalls that are not a broker's.
pub(super) fn stall(dir: &Path, bytes_per_second: f64, time: Duration) -> anyhow::Result<Stall> {
    let total = (bytes_per_second * time.as_secs_f64() * 1.1) as u64 + (1 << 20);
    let file = fresh(dir, total)?;
    let record = [7; RECORD_BYTES];
    let started = Instant::now();
    let mut schedule = Schedule::new(bytes_per_second / RECORD_BYTES as f64, 0, 1, started);
    let (mut at, mut longest) = (0, Duration::ZERO);
    while started.elapsed() < time {
        let now = Instant::now();
        match schedule.take(now) {
            None => std::thread::sleep(Duration::from_micros(50)),
            Some(intended) => {
                if at + RECORD_BYTES as u64 > total {
                    at = 0;
                }
                file.write_all_at(&record, at)?;
                at += RECORD_BYTES as u64;
                longest = longest.max(intended.elapsed());
            }
        }
    }
    let written = at as f64 / started.elapsed().as_secs_f64();
    drop(file);
    fs::remove_file(dir.join("limits-file"))?;
    Ok(Stall {
        max_us: longest.as_nanos() as f64 / 1e3,
        bytes_per_second: written,
    })
}
