//! The rows of a comparison: what is measured for each, and its goal.

use std::time::Duration;

use super::super::backlog::{self, Findings, Latency, settle};
use super::super::floor::Mode;
use super::super::limits::{self, stall};
use super::super::report::{Measured, mebibytes};
use super::super::residency::Residency;
use super::super::server::Flush;
use super::Comparison;
use super::measure::{Found, MANY, ONE, StockServer, Who, reason};
use super::table::{Row, median};

const STOCK: &str = "Apache RocketMQ";
/// Share of a server's own saturated throughput at which its latency is measured.
const LOAD: f64 = 0.7;
/// Bytes of a record beside its body, for a broker that does not count what it writes.
const RECORD_OVERHEAD: u32 = 215;
/// What the goals of the long queue and of starts speak of.
const BACKLOG_MESSAGES: u64 = 10_000_000;
const STORE_BYTES: u64 = 10_000_000_000;

impl Comparison {
    pub(super) async fn limits(&mut self) {
        println!("limits of the machine:");
        let arguments = limits::Arguments::of(&self.dir, self.course.message_size, self.course.seconds.min(2.0));
        match limits::measure(&arguments, &self.real).await {
            Ok(limits) => self.limits = Some(limits),
            Err(error) => println!("limits: {error:#}"),
        }
    }

    /// Sends with asynchronous flush: throughput, latency under load, one at a time, pulls.
    pub(super) async fn asynchronous(&mut self) {
        let flush = Flush::Async;
        self.sync_rate("before the part with asynchronous flush");
        let mut stock = self.warm(flush).await;
        let whos = [Who::Stock, Who::Ours, Who::Floor(Mode::Async)];
        let [theirs, ours, floor] = self.rates(&whos, MANY, flush, &mut stock).await;
        let work = "send, 64 in flight, async flush";
        self.row(Row::ratio(work, STOCK, 5.0, &ours, &theirs));
        self.row(Row::ratio(work, "the floor server", 0.6, &ours, &floor));

        self.loaded(&ours, &theirs, &mut stock).await;

        let whos = [Who::Stock, Who::Ours, Who::Floor(Mode::Async), Who::Floor(Mode::Echo)];
        let [theirs, ours, floor, echo] = self.rates(&whos, ONE, flush, &mut stock).await;
        let work = "send, 1 in flight, async flush";
        self.row(Row::ratio(work, STOCK, 1.8, &ours, &theirs));
        let row = Row::ratio(work, "the round trip", 0.8, &ours, &echo);
        self.row(row.with(&format!(" (floor with pwrite: {:.0})", floor.unwrap_or(0.0))));

        let [theirs, ours] = self.pull_rates(&mut stock).await;
        self.row(Row::ratio("pull, cached, 32 a reply", STOCK, 2.0, &ours, &theirs));
        self.end_stock(stock);
        self.sync_rate("after it");
    }

    /// Latency of each broker at the same share of its own throughput, and the longest stall beside a loop of bare writes, by turns.
    async fn loaded(&mut self, ours: &Found<f64>, theirs: &Found<f64>, stock: &mut StockServer) {
        let mut found: Found<Vec<(Latency, f64)>> = Ok(Vec::new());
        for _ in 0..self.course.rounds {
            if let Ok(rate) = theirs {
                // For the table of figures.
                let _ = self.one(Who::Stock, MANY.at(rate * LOAD), Flush::Async, stock).await;
            }
            let Ok(rounds) = &mut found else { continue };
            match self.loaded_round(ours, stock).await {
                Ok(round) => rounds.push(round),
                Err(reason) => found = Err(reason),
            }
        }
        let work = "send, 70 % of its throughput, async flush";
        let all =
            |of: fn(&(Latency, f64)) -> f64| found.clone().map(|rounds| rounds.iter().map(of).collect::<Vec<f64>>());
        let p99 = all(|(latency, _)| latency.p99_us);
        let text = texts(&p99);
        let row = Row::at_most(
            work,
            "p99 at most 1000 µs",
            &Ok(1000.0),
            &p99.and_then(|all| median(&all)),
            " µs",
        );
        self.row(row.with(&text));
        let (stalls, bare) = (all(|(latency, _)| latency.max_us), all(|(_, bare)| *bare));
        let text = format!("{} against{}", texts(&stalls), texts(&bare));
        let longest = |all: Found<Vec<f64>>| all.map(|all| all.into_iter().fold(0.0, f64::max));
        let limit = longest(bare).map(|bare| bare + 10_000.0);
        let goal = "longest stall at most 10 ms above a bare pwrite loop's";
        self.row(Row::at_most(work, goal, &limit, &longest(stalls), " µs").with(&text));
    }

    /// Our latency, and the longest stall of bare writes at the byte rate our broker had.
    async fn loaded_round(&mut self, ours: &Found<f64>, stock: &mut StockServer) -> Found<(Latency, f64)> {
        let rate = ours.as_ref().map_err(Clone::clone)? * LOAD;
        let measured = self.one(Who::Ours, MANY.at(rate), Flush::Async, stock).await?;
        let latency = Latency::of(&measured).ok_or("some sends failed")?;
        let bytes = self.byte_rate(&measured, rate);
        let bare = stall(&self.dir, bytes, Duration::from_secs_f64(self.course.seconds)).map_err(reason)?;
        println!(
            "  bare pwrite loop: longest stall {:.0} µs at {:.0} MB/s",
            bare.max_us,
            bare.bytes_per_second / 1e6
        );
        settle(&self.dir).map_err(reason)?;
        Ok((latency, bare.max_us))
    }

    fn byte_rate(&self, measured: &Measured, rate: f64) -> f64 {
        match measured.used.broker_written_bytes {
            Some(bytes) if bytes > 0 => bytes as f64 / measured.used.seconds,
            _ => rate * f64::from(self.course.message_size + RECORD_OVERHEAD),
        }
    }

    pub(super) async fn synchronous(&mut self) {
        let flush = Flush::Sync;
        self.sync_rate("before the part with synchronous flush");
        let mut stock = self.warm(flush).await;
        let whos = [Who::Stock, Who::Ours, Who::Floor(Mode::Sync)];
        let [theirs, ours, floor] = self.rates(&whos, MANY, flush, &mut stock).await;
        let work = "send, 64 in flight, sync flush";
        self.row(Row::ratio(work, STOCK, 5.0, &ours, &theirs));
        self.row(Row::share(work, "the floor server", &ours, &floor));
        for (who, rate) in [(Who::Stock, &theirs), (Who::Ours, &ours)] {
            if let Ok(rate) = rate {
                // For the table of figures.
                let _ = self.one(who, MANY.at(rate * LOAD), flush, &mut stock).await;
            }
        }
        let [theirs, ours, floor] = self.rates(&whos, ONE, flush, &mut stock).await;
        let work = "send, 1 in flight, sync flush";
        self.row(Row::ratio(work, STOCK, 2.5, &ours, &theirs));
        self.row(Row::ratio(work, "round trip and one fdatasync", 0.8, &ours, &floor));
        self.end_stock(stock);
        self.sync_rate("after it");
    }

    /// Ours alone: the goals speak of its own cached rate, and of the disk.
    pub(super) async fn backlog(&mut self) {
        let plan = backlog::Plan {
            dir: self.dir.join("backlog"),
            messages: self.course.messages,
            message_size: self.course.message_size,
            readers: 1,
            seconds: self.course.seconds.min(5.0),
            send_rate: 20_000.0,
            reader_rate: 500.0,
        };
        let mut found = Findings::default();
        let done = match self.in_time() {
            Ok(()) => backlog::own(&plan, &self.real, &mut found).await.map_err(reason),
            Err(reason) => Err(reason),
        };
        self.clean("backlog");
        let mut reasons = found.failures.clone();
        if let Err(reason) = done {
            println!("backlog: {reason}");
            reasons.push(reason);
        }
        let why = if reasons.is_empty() {
            "not measured".to_owned()
        } else {
            reasons.join("; ")
        };
        self.backlog_rows(&found, &why);
        self.backlog = Some(found);
    }

    fn backlog_rows(&mut self, found: &Findings, why: &str) {
        let figure = |figure: Option<f64>| figure.ok_or_else(|| why.to_owned());
        let is_whole = found.messages >= BACKLOG_MESSAGES;
        let smaller = format!(" (with {} messages)", found.messages);
        let residency = |residency: Option<Residency>| {
            residency.map_or_else(String::new, |residency| {
                format!("; {:.1} % resident", residency.percent())
            })
        };
        let lower = found.cached_rate.zip(found.disk_read_rate);
        let lower = figure(lower.map(|(cached, disk)| cached.min(disk)));
        let work = "10 M messages on one queue";
        let cold = Row::ratio(
            &format!("{work}, pulled cold from the start"),
            "the lower of cached pull and disk",
            0.9,
            &figure(found.cold_rate),
            &lower,
        );
        self.row(cold.with(&residency(found.cold_residency)).only_if(is_whole, &smaller));
        let warm = Row::ratio(
            &format!("{work}, pulled warm from the start"),
            "cached pull",
            0.9,
            &figure(found.warm_rate),
            &figure(found.cached_rate),
        );
        self.row(warm.with(&residency(found.warm_residency)).only_if(is_whole, &smaller));
        let size = |bytes: Option<u64>| figure(bytes.map(mebibytes));
        let pulled = size(found.pull_anonymous_bytes_max);
        let row = Row::at_most(work, "RssAnon below 200 MiB while pulled", &Ok(200.0), &pulled, " MiB");
        self.row(row.only_if(is_whole, &smaller));
        let idle = size(found.idle_anonymous_bytes.max(found.idle_after_pulls_anonymous_bytes));
        let after_start = found.idle_anonymous_bytes.map_or(0.0, mebibytes);
        let row = Row::at_most(work, "RssAnon below 40 MiB when idle", &Ok(40.0), &idle, " MiB");
        let row = row.with(&format!(" (after a start {after_start:.1})"));
        self.row(row.only_if(is_whole, &smaller));
        let bytes = found.record_bytes.unwrap_or(0);
        let (is_large, smaller) = (bytes >= STORE_BYTES, format!(" (with {:.1} GB)", bytes as f64 / 1e9));
        for (after, limit, seconds) in [
            ("a clean stop", 1.0, found.start_clean_seconds),
            ("kill -9", 5.0, found.start_killed_seconds),
        ] {
            let work = format!("start with a 10 GB store after {after}");
            let row = Row::at_most(&work, &format!("below {limit} s"), &Ok(limit), &figure(seconds), " s");
            self.row(row.only_if(is_large, &smaller));
        }
        let work = "send at 20 k/s beside a slow reader of old data";
        let text = found.send_alone.zip(found.send_with_reader).map(|(alone, beside)| {
            format!(
                "p50/p99/max {:.0}/{:.0}/{:.0} µs alone, {:.0}/{:.0}/{:.0} µs beside it",
                alone.p50_us, alone.p99_us, alone.max_us, beside.p50_us, beside.p99_us, beside.max_us
            )
        });
        self.row(Row::shown(work, text.ok_or_else(|| why.to_owned())));
    }
}

/// Every round's figure, where there are several.
fn texts(all: &Found<Vec<f64>>) -> String {
    let texts: Vec<String> = all.iter().flatten().map(|one| format!("{one:.0}")).collect();
    if texts.is_empty() {
        return String::new();
    }
    format!(" ({})", texts.join(", "))
}
