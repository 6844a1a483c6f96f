//! Reading on this machine, everything in memory: pulls of neighbouring records (`Alone`) and of records that lie between those of
//! seven other queues (`Mixed`), and look-ups by time, by key and by position. What a device adds is not measured here.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orrery_core::protocol::message::Draft;
use orrery_core::runtime::WallMillis;
use orrery_core::store::{Boundary, GetRequest, Store, StoreConfig, TagFilter};
use orrery_core::types::PhysicalOffset;
use orrery_runtime_real::Real;

const BODY: [u8; 1024] = [7; 1024];
const COUNT: i32 = 100_000;
const TURN: i32 = 64;

fn draft<'a>(topic: &'a str, queue_id: i32, properties: &'a str) -> Draft<'a> {
    Draft {
        properties,
        ..Draft::new(topic, queue_id, &BODY)
    }
}

/// `COUNT` messages in one queue of `Alone`, then as many in eight of `Mixed`.
async fn fill(store: &Store<Real>) {
    for number in 0..2 * COUNT {
        let properties = format!("KEYS\u{1}key-{number}\u{2}TAGS\u{1}TagA\u{2}");
        let draft = if number < COUNT {
            draft("Alone", 0, &properties)
        } else {
            draft("Mixed", number % 8, &properties)
        };
        store.append_when_ready(&[draft]).await.expect("appended");
        if number % TURN == TURN - 1 {
            store.write_pending().await.expect("written");
        }
    }
    store.write_pending().await.expect("written");
}

fn request(topic: &str, offset: i64) -> GetRequest<'_> {
    GetRequest {
        topic,
        queue_id: 0,
        offset,
        max_count: 32,
        max_bytes: 256 << 10,
        filter: TagFilter::All,
    }
}

/// Pulls of 32 through the first part of a queue, over and over.
fn pulls(criterion: &mut Criterion, store: &Store<Real>) {
    let mut group = criterion.benchmark_group("pull");
    group.throughput(Throughput::Elements(32));
    for topic in ["Alone", "Mixed"] {
        let mut offset = 0;
        group.bench_function(format!("32 x 1 KiB of {topic}"), |bencher| {
            bencher.iter(|| {
                offset = (offset + 32) % 8_000;
                let got = store.get_hot(&request(topic, offset)).expect("in memory");
                assert_eq!(got.count, 32);
                got
            });
        });
    }
    group.finish();
}

fn look_ups(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime, store: &Store<Real>) {
    let mut group = criterion.benchmark_group("look-up");
    let stored = |offset| runtime.block_on(store.store_time("Alone", 0, offset)).expect("read");
    let first = stored(0).expect("a message");
    let last = stored(i64::from(COUNT) - 1).expect("a message");
    let mut step = 0;
    group.bench_function(format!("by time among {COUNT}"), |bencher| {
        bencher.iter(|| {
            step = (step + 17) % last.millis_since(first).max(1);
            let time = WallMillis(first.0 + step);
            let look_up = store.offset_by_time("Alone", 0, time, Boundary::Lower);
            runtime.block_on(look_up).expect("read")
        });
    });
    let mut number = 0;
    group.bench_function(format!("by key among {}", 2 * COUNT), |bencher| {
        bencher.iter(|| {
            number = (number + 7_919) % COUNT;
            let key = format!("key-{number}");
            let look_up = store.query("Alone", &key, 1, WallMillis(0), WallMillis(i64::MAX));
            assert_eq!(runtime.block_on(look_up).expect("read").len(), 1);
        });
    });
    group.bench_function("by position", |bencher| {
        bencher.iter(|| {
            let record = store.record_at(PhysicalOffset(0));
            runtime.block_on(record).expect("read").expect("a record")
        });
    });
    group.finish();
}

fn bench(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("tokio");
    let folder = tempfile::tempdir().expect("a folder for the bench");
    let real = Real::on(runtime.handle().clone());
    let config = StoreConfig::new(folder.path().join("store"));
    let opened = runtime.block_on(Store::open(&real, config, Arc::new(())));
    let (store, _) = opened.expect("the store opens");
    runtime.block_on(fill(&store));
    pulls(criterion, &store);
    // Keys are indexed, and entries are in their files, a moment after.
    std::thread::sleep(Duration::from_secs(3));
    look_ups(criterion, &runtime, &store);
    runtime.block_on(store.close()).expect("closed");
}

criterion_group!(benches, bench);
criterion_main!(benches);
