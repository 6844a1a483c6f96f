//! A group of measurements whose figures are set beside what the machine allows: the physical limit is measured in the same group and
//! the ratio printed, so that a figure of another day or machine is never needed.

#![allow(dead_code, reason = "each bench uses its part")]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::{Measurement, WallTime};
use criterion::{BenchmarkGroup, Criterion, Throughput};

pub(crate) struct Beside<'a> {
    group: BenchmarkGroup<'a, WallTime>,
}

/// Mean nanoseconds of one iteration, over all of a measurement's samples; `None` if a filter left it out.
#[derive(Clone, Copy)]
pub(crate) struct Mean(Option<f64>);

impl<'a> Beside<'a> {
    /// `elements`: how many things one iteration does.
    pub(crate) fn new(criterion: &'a mut Criterion, name: &str, elements: u64) -> Beside<'a> {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(elements));
        Beside { group }
    }

    pub(crate) fn measure<T>(&mut self, name: &str, mut body: impl FnMut() -> T) -> Mean {
        let (mut spent_ns, mut count) = (0.0, 0_u64);
        self.group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let started = WallTime.start();
                for _ in 0..iterations {
                    black_box(body());
                }
                let spent = WallTime.end(started);
                spent_ns += spent.as_nanos() as f64;
                count += iterations;
                spent
            });
        });
        Mean((count > 0).then(|| spent_ns / count as f64))
    }

    /// `body` says itself how long the part took that counts.
    pub(crate) fn measure_timed(&mut self, name: &str, mut body: impl FnMut() -> Duration) -> Mean {
        let (mut spent_ns, mut count) = (0.0, 0_u64);
        self.group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let spent: Duration = (0..iterations).map(|_| body()).sum();
                spent_ns += spent.as_nanos() as f64;
                count += iterations;
                spent
            });
        });
        Mean((count > 0).then(|| spent_ns / count as f64))
    }

    /// For what takes tens of milliseconds.
    pub(crate) fn take_few_samples(&mut self) {
        self.group.sample_size(10);
    }

    /// Prints how many times its limit something takes.
    pub(crate) fn ratio(&self, what: &str, took: Mean, limit_name: &str, limit: Mean) {
        if let (Some(took), Some(limit)) = (took.0, limit.0) {
            println!(
                "RATIO {what}: {took:.0} ns, {:.1} x {limit_name} ({limit:.0} ns)\n",
                took / limit
            );
        }
    }

    pub(crate) fn end(self) {
        self.group.finish();
    }
}

impl Mean {
    /// What this takes more than another.
    pub(crate) fn above(self, other: Mean) -> Mean {
        Mean(self.0.zip(other.0).map(|(all, part)| (all - part).max(0.0)))
    }
}
