//! Reading on this machine, everything in memory: pulls of neighbouring records (`Alone`) and of records that lie between those of
//! seven other queues (`Mixed`), and look-ups by time, by key and by position. What a device adds is not measured here. The limit of each is
//! the plain reads (`pread`) that it cannot do without, on the same files, with a CRC-32 where a record is handed out.
//!
//! Run: `cargo bench -p orrery-runtime-real --bench reading`.

#[path = "../../core/benches/beside/mod.rs"]
mod beside;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use beside::Beside;
use criterion::{Criterion, criterion_group, criterion_main};
use orrery_core::protocol::message::{self, Draft};
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

/// The store's files, read by plain calls.
struct Plain {
    log: File,
    queue: File,
    index: File,
    record_bytes: usize,
    buffer: Vec<u8>,
}

impl Plain {
    fn open(root: &Path) -> Plain {
        let first_file = |folder: &str| {
            let mut paths: Vec<_> = std::fs::read_dir(root.join(folder))
                .expect("a folder")
                .map(|entry| entry.expect("an entry").path())
                .collect();
            paths.sort();
            File::open(paths.first().expect("a file")).expect("opens")
        };
        let log = first_file("commitlog");
        let mut size = [0; 4];
        log.read_exact_at(&mut size, 0).expect("read");
        Plain {
            log,
            queue: first_file("consumequeue/Alone/0"),
            index: first_file("index"),
            record_bytes: u32::from_be_bytes(size) as usize,
            buffer: vec![0; 32 * 20],
        }
    }

    fn read(file: &File, buffer: &mut [u8], at: usize) {
        file.read_exact_at(buffer, at as u64).expect("read");
    }

    /// 32 queue entries.
    fn entries(&mut self, first: usize) {
        Plain::read(&self.queue, &mut self.buffer, first * 20);
    }

    /// A queue entry and the store time of its record, for each step of a binary search.
    fn search(&mut self, count: usize) {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = usize::midpoint(low, high);
            Plain::read(&self.queue, &mut self.buffer[..20], middle * 20);
            Plain::read(&self.log, &mut self.buffer[..8], middle * self.record_bytes + 56);
            high = middle;
            low += usize::from(self.buffer[0] > 200);
        }
    }

    fn record(&mut self, at: usize) -> u32 {
        self.buffer.resize(self.record_bytes, 0);
        Plain::read(&self.log, &mut self.buffer, at);
        message::body_crc(&self.buffer)
    }

    /// A slot, an item and the record.
    fn key(&mut self, number: usize) -> u32 {
        Plain::read(&self.index, &mut self.buffer[..4], 40 + number % 1000 * 4);
        Plain::read(&self.index, &mut self.buffer[..20], 40 + 5_000_000 * 4 + number * 20);
        self.record(number * self.record_bytes)
    }
}

/// Pulls until 32 messages are there: one pull, unless the kernel has evicted what was written. Some machines do so after a minute,
/// needed or not; what is neither in memory nor read ahead is given eight at a time.
fn pull(runtime: &tokio::runtime::Runtime, store: &Store<Real>, topic: &str, offset: i64) -> usize {
    let mut next = offset;
    let mut pulls = 0;
    while next < offset + 32 {
        let asked = GetRequest {
            max_count: (offset + 32 - next) as usize,
            ..request(topic, next)
        };
        let hot = store.get_hot(&asked);
        let got = hot.unwrap_or_else(|| runtime.block_on(store.get(&asked)).expect("read"));
        assert_eq!(got.next_offset, next + got.count as i64);
        next = got.next_offset;
        pulls += 1;
    }
    pulls
}

/// Pulls of 32 through the first part of a queue, over and over.
fn pulls(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime, store: &Store<Real>, plain: &mut Plain) {
    let mut group = Beside::new(criterion, "pull", 32);
    let mut first = 0;
    let limit = group.measure("limit: read of 32 queue entries", || {
        first = (first + 32) % 8_000;
        plain.entries(first);
    });
    for topic in ["Alone", "Mixed"] {
        let (mut offset, mut turns, mut pulls) = (0, 0, 0);
        let name = format!("32 x 1 KiB of {topic}");
        let took = group.measure(&name, || {
            offset = (offset + 32) % 8_000;
            turns += 1;
            pulls += pull(runtime, store, topic, offset);
        });
        println!("{pulls} pulls for {turns} times 32 messages of {topic}");
        group.ratio(&name, took, "a read of 32 queue entries", limit);
    }
    group.end();
}

fn look_ups(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime, store: &Store<Real>, plain: &mut Plain) {
    let mut group = Beside::new(criterion, "look-up", 1);
    let stored = |offset| {
        let time = runtime.block_on(store.store_time("Alone", 0, offset));
        time.expect("read").expect("a message")
    };
    let (first, last) = (stored(0), stored(i64::from(COUNT) - 1));
    let mut step = 0;
    let took = group.measure("by time", || {
        step = (step + 17) % last.millis_since(first).max(1);
        let time = WallMillis(first.0 + step);
        let look_up = store.offset_by_time("Alone", 0, time, Boundary::Lower);
        runtime.block_on(look_up).expect("read")
    });
    let limit = group.measure("limit: the reads of a binary search", || plain.search(COUNT as usize));
    group.ratio("by time", took, "the reads of a binary search", limit);

    let mut number = 0;
    let took = group.measure("by key", || {
        number = (number + 7_919) % COUNT;
        let key = format!("key-{number}");
        let look_up = store.query("Alone", &key, 1, WallMillis(0), WallMillis(i64::MAX));
        assert_eq!(runtime.block_on(look_up).expect("read").len(), 1);
    });
    let limit = group.measure("limit: read of slot, item and record, CRC", || {
        number = (number + 7_919) % COUNT;
        plain.key(number as usize)
    });
    group.ratio("by key", took, "reads of slot, item and record with its CRC", limit);

    let took = group.measure("by position", || {
        let record = store.record_at(PhysicalOffset(0));
        runtime.block_on(record).expect("read").expect("a record")
    });
    let limit = group.measure("limit: read of a record, CRC", || plain.record(0));
    group.ratio("by position", took, "a read of the record with its CRC", limit);
    group.end();
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
    // Keys are indexed, and entries are in their files, a moment after.
    std::thread::sleep(Duration::from_secs(3));
    let mut plain = Plain::open(&folder.path().join("store"));
    pulls(criterion, &runtime, &store, &mut plain);
    look_ups(criterion, &runtime, &store, &mut plain);
    runtime.block_on(store.close()).expect("closed");
}

criterion_group!(benches, bench);
criterion_main!(benches);
