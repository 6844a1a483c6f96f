//! The store's hot paths on this machine, each beside the least that it could cost. On a memory disk if there is one: the
//! device is not measured here (benches `flush` and `sync` do that).
//!
//! | case | |
//! |---|---|
//! | append, write, dispatch | a connection's turn: positions, CRC, encoding, one group write, entries in the queues |
//! | append, write | the same of half messages, which get no entries: the difference is what dispatch costs |
//! | limits of these | a copy in memory and one plain pwrite of the same bytes; a copy of the entries |
//! | pull 32 x 1 KiB, hot | what was just written, sliced |
//! | recover 64 MiB | opening after a kill: every record read, checked and dispatched again |
//! | limit of it | plain reads of the same files, 1 MiB each, with a CRC-32 over them |
//!
//! Run: `cargo bench -p orrery-runtime-real --bench store`. Look-ups: bench `reading`.

#[path = "../../core/benches/beside/mod.rs"]
mod beside;

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use beside::Beside;
use criterion::{Criterion, criterion_group, criterion_main};
use orrery_core::protocol::message::{self, Draft, sys_flag};
use orrery_core::store::{AppendError, GetRequest, GetStatus, OpenError, Store, StoreConfig, TagFilter};
use orrery_runtime_real::Real;

const BODY_SIZE: usize = 1024;
/// About what a record of these bodies takes.
const RECORD_SIZE: usize = 1230;
const PROPERTIES: &str =
    "UNIQ_KEY\u{1}7F0000010001AAAABBBBCCCCDDDD0000\u{2}KEYS\u{1}order-4711\u{2}TAGS\u{1}TagA\u{2}WAIT\u{1}true\u{2}";

fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a folder for the bench")
}

fn draft(queue_id: i32, body: &[u8]) -> Draft<'_> {
    Draft {
        properties: PROPERTIES,
        ..Draft::new("BenchmarkTest", queue_id, body)
    }
}

/// Appends and writes `count` messages, one append each, as a turn of a connection does.
fn turn(runtime: &tokio::runtime::Runtime, store: &Store<Real>, body: &[u8], count: i32, flags: i32) {
    for number in 0..count {
        let draft = [Draft {
            sys_flag: flags,
            ..draft(number % 8, body)
        }];
        match store.append(&draft) {
            Ok(_) => {}
            Err(AppendError::NotReady) => {
                runtime.block_on(store.append_when_ready(&draft)).expect("appended");
            }
            Err(error) => panic!("{error}"),
        }
    }
    runtime.block_on(store.write_pending()).expect("written");
}

/// Appends, with and without entries in queues, beside plain copies and writes of the same bytes.
fn appends(
    criterion: &mut Criterion,
    runtime: &tokio::runtime::Runtime,
    store: &Store<Real>,
    folder: &Path,
    count: u64,
) {
    const FILE_SIZE: u64 = 64 << 20;
    let mut group = Beside::new(criterion, &format!("append {count} x 1 KiB"), count);
    let body = vec![7; BODY_SIZE];
    let all = group.measure("append, write, dispatch", || {
        turn(runtime, store, &body, count as i32, 0)
    });
    let half = group.measure("append, write (half messages: no entries)", || {
        turn(runtime, store, &body, count as i32, sys_flag::PREPARED);
    });

    let records = vec![7; (count as usize) * RECORD_SIZE];
    let mut copy = vec![0; records.len()];
    let copied = group.measure("limit: copy of the records", || {
        copy.copy_from_slice(black_box(&records));
        copy.last().copied()
    });
    let path = folder.join("plain");
    let file = File::create(&path).expect("a file");
    let mut at = 0;
    let written = group.measure("limit: pwrite of the records", || {
        if at + records.len() as u64 > FILE_SIZE {
            // Fresh pages, as the log has them.
            file.set_len(0).expect("cut");
            at = 0;
        }
        file.write_all_at(&records, at).expect("written");
        at += records.len() as u64;
    });
    std::fs::remove_file(path).expect("removed");
    let mut entries = vec![0_u8; 20 * count as usize];
    let entry = [7_u8; 20];
    let dispatched = group.measure("limit: copy of the queue entries", || {
        for place in entries.chunks_exact_mut(20) {
            place.copy_from_slice(black_box(&entry));
        }
        entries.last().copied()
    });
    group.ratio("append and write", half, "a pwrite of the records", written);
    group.ratio("append and write", half, "a copy of the records", copied);
    group.ratio("dispatch", all.above(half), "a copy of the queue entries", dispatched);
    group.end();
}

/// Opens a store that was killed with 64 MiB of records behind its checkpoint.
fn recovery(criterion: &mut Criterion) {
    const FILE_SIZE: u64 = 32 << 20;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("tokio");
    let folder = folder();
    let root = folder.path().join("store");
    let config = || StoreConfig {
        commit_log_file_size: FILE_SIZE,
        checkpoint_interval: Duration::from_secs(3600),
        index: false,
        ..StoreConfig::new(root.clone())
    };
    // With the time it took. The tasks of the store before may hold the directory for a moment.
    let open = || loop {
        let real = Real::on(runtime.handle().clone());
        let started = Instant::now();
        match runtime.block_on(Store::open(&real, config(), Arc::new(()))) {
            Err(OpenError::Locked { .. }) => std::thread::sleep(Duration::from_millis(1)),
            opened => {
                let (store, recovery) = opened.expect("opens");
                break (store, recovery, started.elapsed());
            }
        }
    };
    let body = vec![7; BODY_SIZE];
    let (store, ..) = open();
    let checkpoint = std::fs::read(root.join("checkpoint")).expect("a checkpoint");
    while store.info().log_end < 2 * FILE_SIZE {
        turn(&runtime, &store, &body, 64, 0);
    }
    drop(store);
    let mut group = Beside::new(criterion, "recovery", 1);
    group.take_few_samples();
    let recovered = group.measure_timed("recover 64 MiB", || {
        std::fs::write(root.join("checkpoint"), &checkpoint).expect("written");
        let (store, recovery, elapsed) = open();
        assert!(recovery.scanned_bytes >= 2 * FILE_SIZE - 8192, "{recovery:?}");
        drop(store);
        elapsed
    });
    let limit = group.measure("limit: read of 64 MiB, CRC", || {
        let mut buffer = vec![0; 1 << 20];
        let mut crc = 0;
        for start in [0, FILE_SIZE] {
            let file = File::open(root.join("commitlog").join(format!("{start:020}"))).expect("a file");
            for at in (0..FILE_SIZE).step_by(buffer.len()) {
                file.read_exact_at(&mut buffer, at).expect("read");
                crc ^= message::body_crc(&buffer);
            }
        }
        crc
    });
    group.ratio(
        "recover 64 MiB",
        recovered,
        "a read of the same bytes with a CRC-32",
        limit,
    );
    group.end();
}

fn bench(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("tokio");
    let folder = folder();
    let config = StoreConfig {
        commit_log_file_size: 64 << 20,
        // Keeps the memory disk small.
        file_reserved: Duration::ZERO,
        delete_hours: (0..24).collect(),
        delete_files_max: 1000,
        clean_interval: Duration::from_millis(100),
        index: false,
        ..StoreConfig::new(folder.path().join("store"))
    };
    let real = Real::on(runtime.handle().clone());
    let opened = runtime.block_on(Store::open(&real, config, Arc::new(())));
    let (store, _) = opened.expect("the store opens");
    let body = vec![7; BODY_SIZE];

    for count in [1, 64] {
        appends(criterion, &runtime, &store, folder.path(), count);
    }
    turn(&runtime, &store, &body, 8 * 64, 0);
    let max = store.bounds("BenchmarkTest", 0).expect("messages").max;
    let request = GetRequest {
        topic: "BenchmarkTest",
        queue_id: 0,
        offset: max - 32,
        max_count: 32,
        max_bytes: 256 << 10,
        filter: TagFilter::All,
    };
    let mut group = Beside::new(criterion, "pull", 32);
    group.measure("pull 32 x 1 KiB, hot", || {
        let got = store.get_hot(&request).expect("hot");
        assert_eq!((got.status, got.count), (GetStatus::Found, 32));
        got
    });
    group.end();
    runtime.block_on(store.close()).expect("closed");
}

criterion_group!(benches, bench, recovery);
criterion_main!(benches);
