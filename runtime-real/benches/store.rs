//! The store's two hot paths on this machine: appending a connection's turn of messages and writing them in one go, and
//! pulling what was just written. On a memory disk if there is one: the device is not measured here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orrery_core::protocol::message::Draft;
use orrery_core::runtime::WallMillis;
use orrery_core::store::{AppendError, GetRequest, GetStatus, Store, StoreConfig, TagFilter};
use orrery_runtime_real::Real;

const BODY_SIZE: usize = 1024;
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
        topic: "BenchmarkTest",
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_time: WallMillis(1_700_000_000_000),
        born_host: "127.0.0.1:40000".parse().expect("an address"),
        store_host: "127.0.0.1:10911".parse().expect("an address"),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: PROPERTIES,
    }
}

/// Appends and writes `count` messages, one append each, as a turn of a connection does.
fn turn(runtime: &tokio::runtime::Runtime, store: &Store<Real>, body: &[u8], count: i32) {
    for number in 0..count {
        let draft = [draft(number % 8, body)];
        match store.append(&draft) {
            Ok(_) => {}
            Err(AppendError::NotReady) => {
                runtime.block_on(store.append_when_ready(&draft)).expect("appended");
            }
            Err(error) => panic!("{error}"),
        }
    }
    store.write_pending().expect("written");
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

    let mut group = criterion.benchmark_group("store");
    for count in [1, 64] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("append and write {count} x 1 KiB"), |bencher| {
            bencher.iter(|| turn(&runtime, &store, &body, count as i32));
        });
    }
    turn(&runtime, &store, &body, 8 * 64);
    let max = store.bounds("BenchmarkTest", 0).expect("messages").max;
    let request = GetRequest {
        topic: "BenchmarkTest",
        queue_id: 0,
        offset: max - 32,
        max_count: 32,
        max_bytes: 256 << 10,
        filter: TagFilter::All,
    };
    group.throughput(Throughput::Elements(32));
    group.bench_function("pull 32 x 1 KiB, hot", |bencher| {
        bencher.iter(|| {
            let got = store.get_hot(&request).expect("hot");
            assert_eq!((got.status, got.count), (GetStatus::Found, 32));
            got
        });
    });
    group.finish();
    runtime.block_on(store.close()).expect("closed");
}

criterion_group!(benches, bench);
criterion_main!(benches);
