//! What the tests of the store share: messages, what became of them, and reading a whole store back.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod judge;
pub(crate) mod model;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use orrery_core::protocol::message::{self, Draft, RecordView};
use orrery_core::protocol::properties;
use orrery_core::runtime::WallMillis;
use orrery_core::store::{
    AppendError, FlushMode, GetRequest, GetStatus, OpenError, Recovery, Store, StoreConfig, StoreError, TagFilter,
};
use orrery_runtime_sim::{DiskProfile, Draw, SimRuntime};

pub(crate) type Sim = Store<SimRuntime>;
pub(crate) type Queue = (&'static str, i32);

pub(crate) const TOPICS: [&str; 3] = ["TopicA", "TopicB", "%RETRY%group"];
pub(crate) const TAGS: [&str; 3] = ["red", "green", "blue"];
pub(crate) const LOG_FILE_SIZE: u64 = 4 << 10;

/// Files so small that everything rolls all the time.
pub(crate) fn config(mode: FlushMode) -> StoreConfig {
    StoreConfig {
        commit_log_file_size: LOG_FILE_SIZE,
        consume_queue_file_size: 100,
        flush_mode: mode,
        flush_interval: Duration::from_millis(30),
        queue_flush_interval: Duration::from_millis(20),
        checkpoint_interval: Duration::from_millis(50),
        clean_interval: Duration::from_millis(40),
        delete_hours: Vec::new(),
        index_slots: 7,
        index_entries: 12,
        ..StoreConfig::new("/store")
    }
}

/// A disk on which nothing takes time: what runs on it alone is a plain call.
pub(crate) fn instant_disk() -> DiskProfile {
    DiskProfile {
        bytes_per_second: u64::MAX,
        sync_latency: (Duration::ZERO, Duration::ZERO),
        latency: (Duration::ZERO, Duration::ZERO),
        ..DiskProfile::default()
    }
}

pub(crate) async fn open(rt: &SimRuntime, config: &StoreConfig) -> Result<(Sim, Recovery), OpenError> {
    Store::open(rt, config.clone(), Arc::new(())).await
}

/// What a sender wants stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) queue: Queue,
    pub(crate) body: Vec<u8>,
    pub(crate) properties: String,
    pub(crate) key: Option<String>,
    pub(crate) tag: Option<&'static str>,
    /// Delay level, of messages to the topic of delayed ones.
    pub(crate) level: Option<usize>,
}

impl Message {
    /// A message that `draw` decides; `id` is the start of its body and its unique key.
    pub(crate) fn drawn(draw: Draw, id: u64, queue: Queue) -> Message {
        let below = |purpose, bound| draw.with(purpose).below(bound);
        let size = match below(1, 8) {
            0 => 0,
            1 => 700 + below(2, 400),
            _ => below(2, 300),
        };
        let mut body = id.to_be_bytes().to_vec();
        body.resize(8 + size as usize, draw.with(3).bits() as u8);
        let key = (below(4, 3) > 0).then(|| format!("key{}", below(5, 6)));
        let tag = (below(6, 4) > 0).then(|| TAGS[below(7, 3) as usize]);
        let mut text = String::new();
        if let Some(key) = &key {
            properties::push(&mut text, "KEYS", key);
        }
        if let Some(tag) = tag {
            properties::push(&mut text, "TAGS", tag);
        }
        properties::push(&mut text, "UNIQ_KEY", &format!("unique{id}"));
        let level = (queue.0 == model::DELAYED).then(|| 1 + below(9, 4) as usize);
        if let Some(level) = level {
            properties::push(&mut text, "DELAY", &level.to_string());
        }
        if below(8, 10) == 0 {
            // Long enough to span sectors.
            properties::push(&mut text, "long", &"p".repeat(700));
        }
        Message {
            queue,
            body,
            properties: text,
            key,
            tag,
            level,
        }
    }

    /// Whether a look-up by `key` finds it.
    pub(crate) fn has_key(&self, key: &str) -> bool {
        let id = u64::from_be_bytes(self.body[..8].try_into().expect("bodies begin with a number"));
        self.key.as_deref() == Some(key) || key == format!("unique{id}")
    }

    pub(crate) fn draft(&self) -> Draft<'_> {
        Draft {
            properties: &self.properties,
            ..Draft::new(self.queue.0, self.queue.1, &self.body)
        }
    }
}

/// A message with the place it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) message: Message,
    pub(crate) position: u64,
    pub(crate) queue_offset: i64,
    pub(crate) store_time: WallMillis,
    /// The record, byte for byte.
    pub(crate) record: Vec<u8>,
}

impl Sent {
    pub(crate) fn end(&self) -> u64 {
        self.position + self.record.len() as u64
    }
}

/// Appends messages as one batch and notes where they are to be. Nothing is written yet.
pub(crate) async fn append(store: &Sim, messages: Vec<Message>) -> Result<Vec<Sent>, AppendError> {
    let drafts: Vec<Draft<'_>> = messages.iter().map(Message::draft).collect();
    let appended = store.append_when_ready(&drafts).await?;
    let placed = drafts.iter().zip(appended.positions.iter());
    let records: Vec<_> = placed
        .map(|(draft, place)| {
            let mut record = Vec::new();
            message::encode(draft, message::body_crc(draft.body), place, &mut record);
            (record, *place)
        })
        .collect();
    drop(drafts);
    let sent = messages
        .into_iter()
        .zip(records)
        .map(|(message, (record, place))| Sent {
            message,
            position: place.physical_offset,
            queue_offset: place.queue_offset,
            store_time: place.store_time,
            record,
        });
    Ok(sent.collect())
}

/// Records of a queue from `from` to its end.
pub(crate) async fn read_queue(store: &Sim, queue: Queue, from: i64) -> Result<Vec<Bytes>, StoreError> {
    let mut records = Vec::new();
    let mut offset = from;
    loop {
        let got = store.get(&request(queue, offset, TagFilter::All)).await?;
        for chunk in &got.chunks {
            records.extend(message::records(chunk).map(|record| record.expect("chunks hold whole records")));
        }
        match got.status {
            GetStatus::Found | GetStatus::NoMatchedMessage | GetStatus::MessageWasRemoving => {
                assert!(got.next_offset > offset, "a pull goes on");
                offset = got.next_offset;
            }
            GetStatus::OffsetOverflowOne | GetStatus::NoMessageInQueue | GetStatus::NoMatchedLogicQueue => {
                return Ok(records);
            }
            other => panic!("{queue:?} at {offset}: {other} {:?}", got.bounds),
        }
    }
}

pub(crate) fn request(queue: Queue, offset: i64, filter: TagFilter) -> GetRequest<'static> {
    GetRequest {
        topic: queue.0,
        queue_id: queue.1,
        offset,
        max_count: 32,
        max_bytes: 1 << 20,
        filter,
    }
}

/// The number that a body begins with.
pub(crate) fn id_of(record: &[u8]) -> u64 {
    let record = RecordView::parse(record).expect("a record");
    u64::from_be_bytes(record.body[..8].try_into().expect("bodies begin with a number"))
}

/// By queue, in order.
pub(crate) fn by_queue(sent: &[Sent]) -> BTreeMap<Queue, Vec<&Sent>> {
    let mut queues: BTreeMap<Queue, Vec<&Sent>> = BTreeMap::new();
    for sent in sent {
        queues.entry(sent.message.queue).or_default().push(sent);
    }
    queues
}

/// How many runs: the default is for the gate.
pub(crate) fn count_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |count| {
        count
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={count} is no number"))
    })
}
