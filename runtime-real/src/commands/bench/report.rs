//! What a run has counted: lines while it runs, percentiles at the end, and the same as JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::counters::Counters as ServerCounters;
use super::processes;

/// Largest latency told apart from longer ones: one hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
const PERCENTILES: [(&str, f64); 7] = [
    ("p50", 50.0),
    ("p75", 75.0),
    ("p90", 90.0),
    ("p95", 95.0),
    ("p99", 99.0),
    ("p99_9", 99.9),
    ("p99_99", 99.99),
];

/// Ages of messages in milliseconds of the wall clock.
#[derive(Clone, Default)]
pub(super) struct Age {
    count: u64,
    ms_sum: i64,
    pub(super) ms_max: i64,
}

impl Age {
    pub(super) fn add(&mut self, ms: i64) {
        self.merge(&Age {
            count: 1,
            ms_sum: ms,
            ms_max: ms,
        });
    }

    fn merge(&mut self, other: &Age) {
        self.count += other.count;
        self.ms_sum += other.ms_sum;
        self.ms_max = self.ms_max.max(other.ms_max);
    }

    /// Mean of what was added since `earlier`.
    pub(super) fn mean_ms_since(&self, earlier: &Age) -> f64 {
        (self.ms_sum - earlier.ms_sum) as f64 / (self.count - earlier.count).max(1) as f64
    }
}

/// Counts of one connection since they were last added to the run's.
#[derive(Default)]
pub(super) struct Part {
    /// Messages sent and answered, or received.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) requests: u64,
    /// Requests whose connection was lost before the reply.
    pub(super) unknown: u64,
    /// Replies by code, where the code is not success.
    pub(super) refused: BTreeMap<i32, u64>,
    pub(super) born: Age,
    pub(super) stored: Age,
    latencies_ns: Vec<u64>,
}

impl Part {
    pub(super) fn latency(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies_ns.push(ns.max(1));
    }

    /// Worth adding to the run's counts.
    pub(super) fn is_large(&self) -> bool {
        self.latencies_ns.len() >= 4096
    }

    pub(super) fn clear(&mut self) {
        *self = Part {
            latencies_ns: std::mem::take(&mut self.latencies_ns),
            ..Part::default()
        };
        self.latencies_ns.clear();
    }
}

/// Counts of the run.
pub(super) struct Counts {
    pub(super) messages: u64,
    bytes: u64,
    requests: u64,
    unknown: u64,
    refused: BTreeMap<i32, u64>,
    latency_ns: Histogram<u64>,
    latency_ns_sum: u64,
    pub(super) born: Age,
    pub(super) stored: Age,
}

impl Counts {
    pub(super) fn new() -> Counts {
        Counts {
            messages: 0,
            bytes: 0,
            requests: 0,
            unknown: 0,
            refused: BTreeMap::new(),
            latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constant bounds are valid"),
            latency_ns_sum: 0,
            born: Age::default(),
            stored: Age::default(),
        }
    }

    /// Adds `part` and leaves it empty.
    pub(super) fn add(&mut self, part: &mut Part) {
        self.messages += part.messages;
        self.bytes += part.bytes;
        self.requests += part.requests;
        self.unknown += part.unknown;
        for (code, count) in &part.refused {
            *self.refused.entry(*code).or_default() += count;
        }
        for ns in &part.latencies_ns {
            self.latency_ns.saturating_record(*ns);
            self.latency_ns_sum += *ns;
        }
        self.born.merge(&part.born);
        self.stored.merge(&part.stored);
        part.clear();
    }

    pub(super) fn failed(&self) -> u64 {
        self.unknown + self.refused_count()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn unknown(&self) -> u64 {
        self.unknown
    }

    pub(super) fn refused_count(&self) -> u64 {
        self.refused.values().sum()
    }

    /// How many latencies there are, and their sum in nanoseconds.
    pub(super) fn latencies(&self) -> (u64, u64) {
        (self.latency_ns.len(), self.latency_ns_sum)
    }

    pub(super) fn latency_ms_max(&self) -> u64 {
        self.latency_ns.max() / 1_000_000
    }

    /// A percentile of latency in microseconds; 100: the longest. `None` if nothing was measured.
    pub(super) fn percentile_us(&self, percentile: f64) -> Option<f64> {
        let us = self.latency_ns.value_at_percentile(percentile) as f64 / 1e3;
        (!self.latency_ns.is_empty()).then_some(us)
    }
}

/// Processor time, memory and writing around the measured part.
pub(super) struct Usage {
    started: Instant,
    broker_pids: Vec<u32>,
    broker: Duration,
    broker_stored_bytes: Option<u64>,
    own: Duration,
    server: Option<ServerCounters>,
}

impl Usage {
    pub(super) fn start(broker_pids: &[u32], server: Option<ServerCounters>) -> Usage {
        Usage {
            started: Instant::now(),
            broker_pids: broker_pids.to_vec(),
            broker: processes::processor_time(broker_pids),
            broker_stored_bytes: processes::stored_bytes(broker_pids),
            own: processes::processor_time(&[std::process::id()]),
            server,
        }
    }

    /// Time and processor time end here; the broker's counters may be asked for afterwards.
    pub(super) fn end(&self) -> Used {
        let elapsed = self.started.elapsed();
        let cores = |used: Duration| used.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
        let broker = processes::processor_time(&self.broker_pids).saturating_sub(self.broker);
        let own = processes::processor_time(&[std::process::id()]).saturating_sub(self.own);
        let known = !self.broker_pids.is_empty();
        let stored = processes::stored_bytes(&self.broker_pids);
        Used {
            seconds: elapsed.as_secs_f64(),
            broker_cores: known.then(|| cores(broker)),
            broker_anonymous_bytes: known.then(|| processes::anonymous_bytes(&self.broker_pids)),
            broker_file_bytes: known.then(|| processes::file_bytes(&self.broker_pids)),
            broker_stored_bytes: stored
                .zip(self.broker_stored_bytes)
                .map(|(now, before)| now.saturating_sub(before)),
            broker_written_bytes: None,
            broker_writes: None,
            broker_syncs: None,
            own_cores: cores(own),
        }
    }

    pub(super) fn add_server(&self, used: &mut Used, server: Option<ServerCounters>) {
        let delta = server.zip(self.server).map(|(now, before)| now.since(before));
        used.broker_written_bytes = delta.map(|delta| delta.bytes_written);
        used.broker_writes = delta.map(|delta| delta.writes);
        used.broker_syncs = delta.map(|delta| delta.syncs);
    }
}

/// What a run took. `None` is unknown.
#[derive(Clone, Serialize)]
pub(super) struct Used {
    pub(super) seconds: f64,
    pub(super) broker_cores: Option<f64>,
    pub(super) broker_anonymous_bytes: Option<u64>,
    pub(super) broker_file_bytes: Option<u64>,
    /// Bytes that the kernel sent to the disk for the broker.
    pub(super) broker_stored_bytes: Option<u64>,
    /// By the broker's own counters: bytes given to the kernel, calls for it, and syncs.
    pub(super) broker_written_bytes: Option<u64>,
    pub(super) broker_writes: Option<u64>,
    pub(super) broker_syncs: Option<u64>,
    pub(super) own_cores: f64,
}

/// A run's counts and what it took.
pub(super) struct Measured {
    pub(super) counts: Counts,
    pub(super) used: Used,
}

impl Measured {
    pub(super) fn messages_per_second(&self) -> f64 {
        self.counts.messages as f64 / self.used.seconds.max(1e-9)
    }
}

/// The result file. Field names are part of the format; new ones may be added.
#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    command: Vec<String>,
    processors: usize,
    warmup_seconds: f64,
    messages: u64,
    messages_per_second: f64,
    bytes_per_second: f64,
    requests: u64,
    refused: &'a BTreeMap<i32, u64>,
    unknown: u64,
    latency_us: &'a BTreeMap<&'static str, f64>,
    #[serde(flatten)]
    used: &'a Used,
}

/// Prints the end of a run and writes its file.
pub(super) fn finish(
    what: &'static str,
    counts: &Counts,
    used: &Used,
    warmup: Duration,
    json: Option<&Path>,
) -> anyhow::Result<()> {
    let per_second = |count: u64| count as f64 / used.seconds.max(1e-9);
    let latency_us = latencies(&counts.latency_ns);
    println!(
        "{} messages in {:.2} s: {:.0} messages/s, {:.1} MB/s",
        counts.messages,
        used.seconds,
        per_second(counts.messages),
        per_second(counts.bytes) / 1e6
    );
    if !counts.latency_ns.is_empty() {
        let order = [
            "min", "mean", "p50", "p75", "p90", "p95", "p99", "p99_9", "p99_99", "max",
        ];
        let line: Vec<String> = order
            .iter()
            .map(|name| format!("{} {:.1}", name.replace('_', "."), latency_us[name]))
            .collect();
        println!("latency in µs: {}", line.join("  "));
    }
    print_used(counts, used);
    if counts.failed() > 0 {
        println!("refused by code: {:?}, unknown: {}", counts.refused, counts.unknown);
    }
    let Some(path) = json else { return Ok(()) };
    let document = Document {
        format: what,
        version: 1,
        command: std::env::args().collect(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        warmup_seconds: warmup.as_secs_f64(),
        messages: counts.messages,
        messages_per_second: per_second(counts.messages),
        bytes_per_second: per_second(counts.bytes),
        requests: counts.requests,
        refused: &counts.refused,
        unknown: counts.unknown,
        latency_us: &latency_us,
        used,
    };
    let text = serde_json::to_string_pretty(&document)? + "\n";
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

fn print_used(counts: &Counts, used: &Used) {
    match used.broker_cores {
        Some(cores) => println!(
            "processor: broker {cores:.2} cores, generator {:.2} cores",
            used.own_cores
        ),
        None => println!(
            "processor: generator {:.2} cores (--broker-pid adds the broker's)",
            used.own_cores
        ),
    }
    if let Some((anonymous, file)) = used.broker_anonymous_bytes.zip(used.broker_file_bytes) {
        println!(
            "memory: broker RssAnon {:.1} MiB, RssFile {:.1} MiB",
            mebibytes(anonymous),
            mebibytes(file)
        );
    }
    let per_message = |count: Option<u64>| match count {
        Some(count) if counts.messages > 0 => format!("{:.4}", count as f64 / counts.messages as f64),
        _ => "unknown".to_owned(),
    };
    println!(
        "per message: {} bytes written, {} writes, {} syncs, {} bytes to disk",
        per_message(used.broker_written_bytes),
        per_message(used.broker_writes),
        per_message(used.broker_syncs),
        per_message(used.broker_stored_bytes)
    );
}

pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn latencies(histogram: &Histogram<u64>) -> BTreeMap<&'static str, f64> {
    let mut all: BTreeMap<&'static str, f64> = PERCENTILES
        .iter()
        .map(|(name, percentile)| (*name, histogram.value_at_percentile(*percentile) as f64 / 1e3))
        .collect();
    all.insert("mean", histogram.mean() / 1e3);
    all.insert("min", histogram.min() as f64 / 1e3);
    all.insert("max", histogram.max() as f64 / 1e3);
    all
}

/// `yyyy-MM-dd HH:mm:ss,SSS` in UTC, as `UtilAll.timeMillisToHumanString2` prints local time.
pub(crate) fn time_text(wall_millis: i64) -> String {
    let days = wall_millis.div_euclid(86_400_000);
    let millis = wall_millis.rem_euclid(86_400_000);
    // Days to civil date: years begin in March, eras have 400 years.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02},{:03}",
        millis % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(time_text(0), "1970-01-01 00:00:00,000");
        assert_eq!(time_text(951_782_400_123), "2000-02-29 00:00:00,123");
        assert_eq!(time_text(1_795_565_286_007), "2026-11-25 00:08:06,007");
        assert_eq!(time_text(-1), "1969-12-31 23:59:59,999");
    }

    #[test]
    fn adding_moves_every_count() {
        let (mut part, mut total) = (Part::default(), Counts::new());
        for us in [1, 50, 7_200_000_000_u64] {
            part.latency(Duration::from_micros(us));
        }
        part.messages = 3;
        part.refused.insert(2, 1);
        total.add(&mut part);
        total.add(&mut part);
        assert_eq!((total.messages, total.failed(), total.latencies().0), (3, 1, 3));
    }

    #[test]
    fn percentiles_are_in_microseconds_and_right_to_a_thousandth() {
        let (mut part, mut total) = (Part::default(), Counts::new());
        assert_eq!(total.percentile_us(50.0), None);
        for us in 1..=10_000 {
            part.latency(Duration::from_micros(us));
        }
        total.add(&mut part);
        for (percentile, us) in [(50.0, 5000.0), (99.0, 9900.0), (99.9, 9990.0), (100.0, 10_000.0)] {
            let found = total.percentile_us(percentile).unwrap();
            assert!((found - us).abs() <= us / 1000.0, "p{percentile} is {found}");
        }
        let all = latencies(&total.latency_ns);
        assert!((all["mean"] - 5000.5).abs() < 5.0, "{all:?}");
        assert!((all["p99_9"] - 9990.0).abs() < 10.0, "{all:?}");
        assert_eq!(total.latencies(), (10_000, 50_005_000_000));
    }

    #[test]
    fn what_a_broker_does_not_count_stays_unknown() {
        let usage = Usage::start(&[], None);
        let mut used = usage.end();
        usage.add_server(&mut used, Some(ServerCounters::default()));
        assert_eq!((used.broker_syncs, used.broker_written_bytes), (None, None));
        let usage = Usage::start(&[], Some(ServerCounters::default()));
        let now = ServerCounters {
            bytes_written: 30,
            writes: 2,
            syncs: 1,
        };
        usage.add_server(&mut used, Some(now));
        assert_eq!((used.broker_syncs, used.broker_written_bytes), (Some(1), Some(30)));
    }
}
