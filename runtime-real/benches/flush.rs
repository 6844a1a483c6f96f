//! What a durable append costs, by how the space under it was made: 1 KiB or 64 KiB behind what was written last, then fdatasync.
//!
//! | case | the file before |
//! |---|---|
//! | `grown` | empty: each write makes the file longer |
//! | `fallocate` | full length, extents never written: an fdatasync has to convert those it covers, through the file system's journal |
//! | `zero_filled` | full length, zeros written and synced |
//! | `recycled` | full length, old data written and synced (what a renamed expired file would be, before the zeroing that recovery needs) |
//!
//! Plain threads and plain calls: the disk's own price, none of ours. The store follows the result, see `docs/write-path.md`.
//! Run: `cargo bench -p orrery-runtime-real --bench flush`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::fs::{FallocateFlags, fallocate};

const FILE_BYTES: u64 = 128 << 20;

#[derive(Clone, Copy)]
enum Space {
    Grown,
    Fallocate,
    Filled(u8),
}

fn prepared(path: &Path, space: Space) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .expect("a file");
    match space {
        Space::Grown => {}
        Space::Fallocate => fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES).expect("space"),
        Space::Filled(byte) => {
            let block = vec![byte; 1 << 20];
            for at in (0..FILE_BYTES).step_by(block.len()) {
                file.write_all_at(&block, at).expect("space");
            }
        }
    }
    file.sync_all().expect("a disk that syncs");
    file
}

/// Appends and syncs, making a new file (not counted) whenever one is full.
fn appends(path: &Path, space: Space, size: usize, iterations: u64) -> Duration {
    let block = vec![2; size];
    let mut spent = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let file = prepared(path, space);
        let count = left.min(FILE_BYTES / size as u64);
        let started = Instant::now();
        for index in 0..count {
            file.write_all_at(&block, index * size as u64).expect("space");
            file.sync_data().expect("a disk that syncs");
        }
        spent += started.elapsed();
        left -= count;
    }
    spent
}

fn flush(criterion: &mut Criterion) {
    // Not /tmp, which may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = dir.path().join("log");
    for (name, size) in [("flush 1 KiB", 1 << 10), ("flush 64 KiB", 64 << 10)] {
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(2))
            .warm_up_time(Duration::from_millis(500))
            .throughput(Throughput::Bytes(size as u64));
        let cases = [
            ("grown", Space::Grown),
            ("fallocate", Space::Fallocate),
            ("zero_filled", Space::Filled(0)),
            ("recycled", Space::Filled(7)),
        ];
        for (case, space) in cases {
            group.bench_function(case, |bencher| {
                bencher.iter_custom(|iterations| appends(&path, space, size, iterations));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, flush);
criterion_main!(benches);
