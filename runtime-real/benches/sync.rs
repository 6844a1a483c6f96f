//! What one durable write costs, by where its fdatasync runs: 4 KiB into preallocated, once written space, then the sync.
//!
//! | case | |
//! |---|---|
//! | `plain` | pwrite and fdatasync on a plain thread: the disk's own price |
//! | `in_place` | [`File::sync_in_place`] on a tokio worker |
//! | `hand_off` | [`File::sync`]: a sync thread and back |
//! | `blocking_pool` | the same through tokio's blocking pool, for comparison |
//! | `hand_off_alone` | the way to a sync thread and back without any disk |
//!
//! The order on the machine at hand stands in `ARCHITECTURE.md`. Run: `cargo bench -p orrery-runtime-real --bench sync`.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use orrery_core::runtime::{Disk, File, OpenMode};
use orrery_runtime_real::{RealDisk, RealFile, SyncThreads};
use tokio::runtime::Runtime;

const FILE_BYTES: u64 = 64 << 20;
const WRITE_BYTES: u64 = 4096;

async fn prepared(disk: &RealDisk, path: &Path) -> RealFile {
    let file = disk.open(path, OpenMode::Create).await.expect("a file");
    let block = vec![1; 1 << 20];
    for at in (0..FILE_BYTES).step_by(block.len()) {
        file.write_at(at, &[&block]).expect("space");
    }
    file.sync().await.expect("a disk that syncs");
    file
}

/// Runs `iterations` of write and sync on a worker of the runtime, not on the thread that blocks on it.
fn on_worker<F, G>(runtime: &Runtime, file: &RealFile, iterations: u64, sync: F) -> Duration
where
    F: Fn(RealFile) -> G + Send + 'static,
    G: Future<Output = ()> + Send,
{
    let file = file.clone();
    let task = runtime.spawn(async move {
        let block = vec![2; WRITE_BYTES as usize];
        let started = Instant::now();
        for iteration in 0..iterations {
            file.write_at(iteration * WRITE_BYTES % FILE_BYTES, &[&block])
                .expect("space");
            sync(file.clone()).await;
        }
        started.elapsed()
    });
    runtime.block_on(task).expect("no panic")
}

fn sync(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    // Not /tmp, which may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let disk = RealDisk::default();
    let file = runtime.block_on(prepared(&disk, &dir.path().join("log")));
    let mut group = criterion.benchmark_group("sync");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1));
    group.bench_function("plain", |bencher| {
        bencher.iter_custom(|iterations| {
            let block = vec![2; WRITE_BYTES as usize];
            let started = Instant::now();
            for iteration in 0..iterations {
                file.write_at(iteration * WRITE_BYTES % FILE_BYTES, &[&block])
                    .expect("space");
                file.sync_in_place().expect("a disk that syncs");
            }
            started.elapsed()
        });
    });
    group.bench_function("in_place", |bencher| {
        bencher.iter_custom(|iterations| {
            on_worker(&runtime, &file, iterations, async |file| {
                file.sync_in_place().expect("a disk that syncs")
            })
        });
    });
    group.bench_function("hand_off", |bencher| {
        bencher.iter_custom(|iterations| {
            on_worker(&runtime, &file, iterations, async |file| {
                file.sync().await.expect("a disk that syncs")
            })
        });
    });
    group.bench_function("blocking_pool", |bencher| {
        bencher.iter_custom(|iterations| {
            on_worker(&runtime, &file, iterations, async |file| {
                let done = tokio::task::spawn_blocking(move || file.sync_in_place());
                done.await.expect("no panic").expect("a disk that syncs");
            })
        });
    });
    group.bench_function("hand_off_alone", |bencher| {
        let threads = Arc::new(SyncThreads::default());
        bencher.iter_custom(|iterations| {
            let threads = Arc::clone(&threads);
            let task = runtime.spawn(async move {
                let started = Instant::now();
                for iteration in 0..iterations {
                    black_box(threads.run(move || iteration).await).expect("an answer");
                }
                started.elapsed()
            });
            runtime.block_on(task).expect("no panic")
        });
    });
    group.finish();
}

criterion_group!(benches, sync);
criterion_main!(benches);
