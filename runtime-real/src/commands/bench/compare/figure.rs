//! One measurement as a line, a row of a table, and JSON.

use serde::Serialize;

use super::super::report::{Measured, mebibytes};

/// Refused or unanswered requests, of all, from which on a rate says nothing.
const FAILED_SHARE_MAX: f64 = 0.01;

#[derive(Clone, Serialize)]
pub(super) struct Figure {
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

/// Messages a second, if enough of what was asked was done; otherwise why not.
pub(super) fn counted_rate(measured: &Measured) -> Result<f64, String> {
    let (messages, failed) = (measured.counts.messages, measured.counts.failed());
    if messages == 0 {
        Err(format!("nothing was answered with success ({failed} failed)"))
    } else if failed as f64 > FAILED_SHARE_MAX * messages as f64 {
        Err(format!("{failed} failed, {messages} did not"))
    } else {
        Ok(measured.messages_per_second())
    }
}

impl Figure {
    pub(super) fn of(server: &'static str, work: String, measured: &Measured, sync_rate_before: Option<f64>) -> Figure {
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
        Figure {
            server,
            work,
            rate: counted_rate(measured).ok(),
            latency_us: latency_us.map(|(((p50, p99), p99_9), max)| Percentiles { p50, p99, p99_9, max }),
            failed: counts.failed(),
            sync_rate_before,
            server_cores: used.broker_cores,
            generator_cores: used.own_cores,
            server_anonymous_bytes: used.broker_anonymous_bytes,
            bytes_written_per_message: per_message(used.broker_written_bytes),
            syncs_per_message: per_message(used.broker_syncs),
        }
    }

    pub(super) fn cells(&self) -> Vec<String> {
        let or = |text: Option<String>, otherwise: &str| text.unwrap_or_else(|| otherwise.to_owned());
        let optional =
            |number: Option<f64>, digits: usize| or(number.map(|number| format!("{number:.digits$}")), "unknown");
        let percentiles = self.latency_us.map(|latency| {
            format!(
                "{:.0}, {:.0}, {:.0}, {:.0}",
                latency.p50, latency.p99, latency.p99_9, latency.max
            )
        });
        vec![
            self.server.to_owned(),
            self.work.clone(),
            or(self.rate.map(|rate| format!("{rate:.0}")), "failed"),
            or(percentiles, "-"),
            self.failed.to_string(),
            or(self.sync_rate_before.map(|rate| format!("{rate:.0}")), "-"),
            format!("{}, {:.2}", optional(self.server_cores, 2), self.generator_cores),
            format!("{} MiB", optional(self.server_anonymous_bytes.map(mebibytes), 0)),
            format!(
                "{}, {}",
                optional(self.bytes_written_per_message, 0),
                optional(self.syncs_per_message, 4)
            ),
        ]
    }
}

pub(super) fn markdown(figures: &[Figure]) -> String {
    let mut out = "| server | work | messages/s | p50, p99, p99.9, max µs | failed | fdatasync/s before | cores: server, generator | \
                   RssAnon | per message: bytes, syncs |\n|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for figure in figures {
        out.push_str(&format!("| {} |\n", figure.cells().join(" | ")));
    }
    out
}
