//! What goes into the store and comes out of it: requests, answers, errors. No behaviour beyond that.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::formats::extension;
use super::pressure::RefusalCounts;
use crate::protocol::message::{DraftError, Placement};
use crate::runtime::{DiskError, WallMillis};
use crate::types::PhysicalOffset;

/// Where appended records went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// One per draft, in order.
    pub positions: Positions,
    /// End of the last record: what [`flushed`](super::Store::flushed) takes.
    pub end: PhysicalOffset,
}

/// Places of the records of one append: a slice, without an allocation for a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Positions {
    One([Placement; 1]),
    Many(Vec<Placement>),
}

impl Deref for Positions {
    type Target = [Placement];
    fn deref(&self) -> &[Placement] {
        match self {
            Positions::One(one) => one,
            Positions::Many(many) => many,
        }
    }
}

/// Why nothing was appended. The log is as before in every case.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Draft(#[from] DraftError),
    #[error("record or batch of {size} bytes is larger than {limit} bytes")]
    TooLarge { size: u64, limit: u64 },
    #[error("no drafts")]
    Empty,
    /// The next log file is being made: await [`Store::ready`](super::Store::ready), then append again.
    #[error("next commit log file is not ready yet")]
    NotReady,
    #[error("{pending} bytes wait to be written, allowed are {limit}")]
    Busy { pending: usize, limit: usize },
    /// A group write has been under way for longer than it may be: the page cache, or the disk below, does not follow.
    #[error(
        "a write of the log has been under way for {busy_ms} ms, allowed are {limit_ms} (osPageCacheBusyTimeOutMills)"
    )]
    PageCacheBusy { busy_ms: u64, limit_ms: u64 },
    #[error("disk is {used_percent} % full, appends end at {limit_percent} % (diskSpaceWarningLevelRatio)")]
    DiskFull { used_percent: u64, limit_percent: u64 },
    #[error("disk has {free_bytes} bytes free, appends end below {limit_bytes} (diskSpaceFreeBytesMin)")]
    DiskSpaceLow { free_bytes: u64, limit_bytes: u64 },
    /// It goes on by itself.
    #[error("the queues of the topic {0} that was deleted are still being removed")]
    Deleting(String),
    /// The next log file could not be made. It is tried again every second.
    #[error("next commit log file cannot be made: {0}")]
    NoFile(Arc<str>),
    /// [`append_at`](super::Store::append_at) only: the records belong elsewhere.
    #[error("records are for {given}, the log ends at {end}")]
    Position { given: u64, end: u64 },
    /// [`append_at`](super::Store::append_at) only: the bytes are no whole records, or contradict their position.
    #[error("records are damaged: {0}")]
    Records(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store can no longer do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A write or sync of the log has failed: what is on the device is unknown. Nothing is acknowledged until the store
    /// has been opened again, which verifies it.
    #[error("log is poisoned until the broker is started again, which verifies it: {0}")]
    Poisoned(Arc<str>),
    #[error("store is closed")]
    Closed,
    /// No file of the queue can give this entry. The next start repairs the queue from the log.
    #[error("consume queue {queue} cannot be read at offset {offset}")]
    Queue { queue: String, offset: i64 },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a store cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process uses the store at {path}")]
    Locked { path: String },
    #[error("commit log file {file} has {actual} bytes, expected are {expected} (mappedFileSizeCommitLog)")]
    FileSize { file: String, actual: u64, expected: u64 },
    #[error(
        "{path} holds a log of DLedger (enableDLegerCommitLog=true), whose records cannot be continued as a plain commit log. \
         Let the official broker serve it until consumers have read it, and start this broker with another storePathRootDir"
    )]
    Dledger { path: String },
    #[error("commit log file {expected} is missing before {found}")]
    FileMissing { expected: String, found: String },
    #[error("{0}")]
    Config(String),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The store had been closed in order.
    pub clean: bool,
    /// First byte of the log.
    pub log_start: u64,
    /// End of the last whole record: the next one goes there (or to the next file).
    pub log_end: u64,
    /// Something lay behind the end and was cut: a torn record, records behind a hole, queue entries of records that are
    /// gone. After an unclean stop (`clean` is false) a tail may have been lost without a trace, too.
    pub lost_tail: bool,
    /// Bytes behind the end that were not zero and are now; after an unclean stop those of the first MiB of each file.
    pub cut_bytes: u64,
    /// Records and bytes read to find the end.
    pub scanned_records: u64,
    pub scanned_bytes: u64,
    /// Positions of records whose frame is whole and whose body is not: kept in the log, never handed out.
    pub damaged: Vec<u64>,
    /// Stretches of the log, `[start, end)`, in which no record could be made out below the durable position.
    pub lost: Vec<(u64, u64)>,
    /// Slots without a message, for either reason: pulls step over them, their offsets are not given out again.
    pub gaps: Vec<Gap>,
    /// Queues that were repaired from the log.
    pub repaired_queues: u64,
    /// Whether all queues were rebuilt from the start of the log.
    pub rebuilt: bool,
}

/// A slot of a queue whose message is damaged or lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    pub topic: Arc<str>,
    pub queue_id: i32,
    pub offset: i64,
}

/// First and next offset of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub min: i64,
    pub max: i64,
}

/// Which messages a pull wants, by the hash of their tag. Hashes collide: clients compare the tag itself.
#[derive(Clone, Debug, Default)]
pub enum TagFilter {
    #[default]
    All,
    /// Sorted tags codes, as [`java_hash`](crate::protocol::message::java_hash) computes them.
    Codes(Arc<[i64]>),
    /// The same, and what stands behind some addresses into the extension file.
    WithExtension(Arc<[i64]>, Arc<BTreeMap<i64, i64>>),
}

impl TagFilter {
    pub fn codes(codes: impl IntoIterator<Item = i32>) -> TagFilter {
        let mut codes: Vec<i64> = codes.into_iter().map(i64::from).collect();
        codes.sort_unstable();
        codes.dedup();
        TagFilter::Codes(codes.into())
    }

    /// An address into the extension file whose unit is not known says nothing of the tag: it passes.
    pub fn passes(&self, tags_code: i64) -> bool {
        let (codes, tags_code) = match self {
            TagFilter::All => return true,
            TagFilter::Codes(codes) => (codes, tags_code),
            TagFilter::WithExtension(codes, known) => (codes, *known.get(&tags_code).unwrap_or(&tags_code)),
        };
        extension::is_address(tags_code) || codes.binary_search(&tags_code).is_ok()
    }

    /// Whether a tags code is an address that has to be looked up first.
    pub(crate) fn needs_extension(&self, tags_code: i64) -> bool {
        matches!(self, TagFilter::Codes(_)) && extension::is_address(tags_code)
    }

    pub(crate) fn with_extension(self, known: BTreeMap<i64, i64>) -> TagFilter {
        match self {
            TagFilter::All => TagFilter::All,
            TagFilter::Codes(codes) | TagFilter::WithExtension(codes, _) => {
                TagFilter::WithExtension(codes, Arc::new(known))
            }
        }
    }
}

/// A pull from one queue.
#[derive(Clone, Debug)]
pub struct GetRequest<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    pub offset: i64,
    /// Most messages and bytes; the store's own limits apply, too. At least one whole message is given.
    pub max_count: usize,
    pub max_bytes: usize,
    pub filter: TagFilter,
}

/// Outcome of a pull, in RocketMQ's words (`store/GetMessageStatus.java`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetStatus {
    Found,
    NoMatchedMessage,
    MessageWasRemoving,
    OffsetFoundNull,
    OffsetOverflowBadly,
    OffsetOverflowOne,
    OffsetTooSmall,
    NoMatchedLogicQueue,
    NoMessageInQueue,
}

impl GetStatus {
    /// The name that goes into a reply's remark.
    pub fn name(self) -> &'static str {
        match self {
            GetStatus::Found => "FOUND",
            GetStatus::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            GetStatus::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            GetStatus::OffsetFoundNull => "OFFSET_FOUND_NULL",
            GetStatus::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            GetStatus::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            GetStatus::OffsetTooSmall => "OFFSET_TOO_SMALL",
            GetStatus::NoMatchedLogicQueue => "NO_MATCHED_LOGIC_QUEUE",
            GetStatus::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
        }
    }
}

impl fmt::Display for GetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a pull gives.
#[derive(Clone, Debug)]
pub struct Got {
    pub status: GetStatus,
    /// Offset to go on from: behind the last entry examined, or the corrected one.
    pub next_offset: i64,
    pub bounds: Bounds,
    /// Whole records, in order; neighbours in the log share a chunk.
    pub chunks: Vec<Bytes>,
    pub count: usize,
    pub bytes: usize,
}

impl Got {
    pub(crate) fn nothing(status: GetStatus, next_offset: i64, bounds: Bounds) -> Got {
        Got {
            status,
            next_offset,
            bounds,
            chunks: Vec::new(),
            count: 0,
            bytes: 0,
        }
    }
}

/// Which of several messages stored at (or around) a time is meant. Source: `common/BoundaryType.java`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boundary {
    /// The first stored at or after the time; the queue's end if there is none.
    #[default]
    Lower,
    /// The last stored at or before the time; 0 if there is none.
    Upper,
}

/// Told of every message that consumers can see now, in log order, once per run of the process.
/// Called on the path of the sender: be short, do not append.
pub trait Arrivals: Send + Sync + 'static {
    /// The queue's next offset is now `next_offset`.
    fn arrived(&self, topic: &str, queue_id: i32, next_offset: i64, tags_code: i64);
}

/// Nobody listens.
impl Arrivals for () {
    fn arrived(&self, _topic: &str, _queue_id: i32, _next_offset: i64, _tags_code: i64) {}
}

/// A queue that holds, or has held, messages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueName {
    pub topic: Arc<str>,
    pub queue_id: i32,
}

/// Numbers for the broker's runtime info and for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreInfo {
    pub log_start: u64,
    /// Appended, written to the page cache, durable, visible.
    pub log_end: u64,
    pub written: u64,
    pub flushed: u64,
    pub confirmed: u64,
    pub last_store_time: WallMillis,
    pub queues: usize,
    pub appended_records: u64,
    pub appended_bytes: u64,
    pub write_groups: u64,
    pub flush_groups: u64,
    pub disk_used_percent: u64,
    pub refused: RefusalCounts,
    /// How long the group write under way has taken so far.
    pub write_busy_ms: u64,
    pub poisoned: bool,
}
