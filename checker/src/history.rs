//! What happened in a run, as data: one JSON object a line, the header first. `docs/history.md` says it in prose.
//!
//! Any program in any language may write a history: the simulator, drivers of official clients, our own client.
//! It records what a *client* saw (level B) and, where the writer can look inside a node, facts (level W).
//!
//! Invariants: `t` counts nanoseconds on one clock for all writers of a run; an operation that got no answer is
//! `info` (unknown), never `fail`; fields that a writer does not know are left out.

mod file;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use file::{History, ReadError};

use crate::stored::{Stored, StoredBounds};

/// Version of this schema. A reader refuses any other.
pub const VERSION: u32 = 1;

/// First line of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Schema version, [`VERSION`].
    pub history: u32,
    /// Who wrote it: program, version, seed.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What the writer records; a check that needs more is not evaluated.
    pub records: Vec<Recorded>,
    pub brokers: Vec<BrokerConfig>,
    pub groups: Vec<GroupConfig>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub required: Required,
}

/// A kind of event that the writer promises to record completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    Sends,
    Deliveries,
    /// Ownership of queues, with start offsets.
    Sessions,
    Fetches,
    Commits,
    /// Send-backs to retry topics. Without it a `later` verdict counts as stored.
    SendBacks,
    OffsetQueries,
    Locks,
    Faults,
    /// White-box facts: appended, flushed, recovered.
    Facts,
    /// Every queue read from its beginning at the end, by a fresh client.
    Scan,
    /// Brokers' directories after each start and at the end, with searches by time.
    Stores,
    /// The consumers were given time to reach the end of every queue, without faults.
    Drain,
    /// Members of groups, queues of topics, and what each member takes for its own.
    Assignments,
    /// Routes as clients and name servers have them, and who is master in truth.
    Routes,
    /// Messages sent after the last fault to each queue, to see whether it works.
    Probes,
    /// Which messages were sent as one batch.
    Batches,
    /// Panics, and what a node holds when nothing is under way.
    Hygiene,
    /// Hashes of the traces of two runs of one plan.
    Checkpoints,
    Transactions,
    /// Messages with a due time.
    Delays,
    Pops,
    /// Roles, confirmed records and truncations of replicas.
    Replication,
    /// Votes, elections, commits and in-sync sets.
    Consensus,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// Broker name as in [`Queue::broker`].
    pub name: String,
    /// Name of its node in the fault log.
    pub node: String,
    pub flush: Flush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flush {
    Sync,
    Async,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    pub name: String,
    pub topics: Vec<String>,
    pub order: Order,
    #[serde(default)]
    pub model: Model,
    /// Where a group without a committed offset begins.
    #[serde(default)]
    pub from: StartAt,
    /// Tags subscribed to; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Orderly,
    Concurrent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    #[default]
    Clustering,
    Broadcasting,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    #[default]
    First,
    Last,
}

/// Declared bounds; each default is RocketMQ's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Without facts: a power loss this long after an acknowledgement may still lose it under async flush.
    pub flush_window_ms: u64,
    /// Committed offsets are saved this often, with the time that saving may take.
    pub offset_persist_ms: u64,
    /// How long a broker honours a queue lock after the last renewal.
    pub lock_lease_ms: u64,
    /// How long a consumer believes in its own lock.
    pub lock_validity_ms: u64,
    /// Largest difference in clock rate between two nodes, in parts per million.
    pub clock_drift_ppm: u64,
    /// A group shares out its queues again at least this often.
    pub rebalance_ms: u64,
    /// Until clients and name servers know a change of masters: a broker registers every 30 s, a client asks every 30 s.
    pub route_ms: u64,
    /// Until every queue and group works again after the last fault: 120 s until a dead broker is forgotten, and the route.
    pub availability_ms: u64,
    /// Elections that one healed cluster may need.
    pub elections_max: u64,
    /// Retries of a message before it becomes a dead letter.
    pub reconsume_max: u32,
    /// Waiting time before the first, second, … retry, by the broker's delay levels; empty: not judged.
    pub retry_delays_ms: Vec<u64>,
    /// A half message is not checked before this age.
    pub transaction_timeout_ms: u64,
    /// Half messages are looked through this often.
    pub transaction_check_ms: u64,
    /// Checks before a half message is discarded.
    pub transaction_checks: u32,
    /// A delayed message may come this much too early.
    pub delay_precision_ms: u64,
    /// And, without faults, this much too late.
    pub delay_bound_ms: u64,
    /// A popped message that nobody acknowledged comes again at most this long after its invisible time.
    pub pop_revive_ms: u64,
    /// Tasks and files that a node may hold at rest beyond what it held at its first rest.
    pub leak_slack: u64,
    /// Bytes that a node may keep buffered at rest.
    pub buffered_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            flush_window_ms: 10_000,
            offset_persist_ms: 6_000,
            lock_lease_ms: 60_000,
            lock_validity_ms: 30_000,
            clock_drift_ppm: 0,
            rebalance_ms: 20_000,
            route_ms: 60_000,
            availability_ms: 180_000,
            elections_max: 3,
            reconsume_max: 16,
            retry_delays_ms: Vec::new(),
            transaction_timeout_ms: 6_000,
            transaction_check_ms: 30_000,
            transaction_checks: 15,
            delay_precision_ms: 1_000,
            delay_bound_ms: 10_000,
            pop_revive_ms: 30_000,
            leak_slack: 16,
            buffered_bytes_max: 1 << 20,
        }
    }
}

/// What a run must have seen to mean anything (C32).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Required {
    pub acks: u64,
    pub deliveries: u64,
    pub fault_effects: u64,
}

impl Default for Required {
    fn default() -> Required {
        Required {
            acks: 1,
            deliveries: 1,
            fault_effects: 0,
        }
    }
}

/// Every line but the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Nanoseconds since any origin common to all writers of the run.
    pub t: u64,
    pub event: Event,
}

/// A queue of a topic on one broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Queue {
    pub topic: String,
    pub broker: String,
    pub id: i32,
}

/// What a message carries, as sent or as read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// CRC-32 (IEEE) of the body.
    pub crc: u32,
    /// Bytes of the body.
    pub size: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
}

/// Grade of an acknowledgement, as the client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SendStatus {
    SendOk,
    FlushDiskTimeout,
    FlushSlaveTimeout,
    SlaveNotAvailable,
}

/// What the listener said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumeVerdict {
    Success,
    /// Concurrent: deliver again later (goes to the retry topic).
    Later,
    /// Orderly: the queue pauses, then the same message comes again.
    Suspend,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A wire attempt of a send begins. Attempts of one message count from 1.
    SendInvoke {
        uid: String,
        #[serde(default = "one")]
        attempt: u32,
        /// How many wire tries this attempt may hide (1 + the retries of a client that does not show them).
        #[serde(default = "one", skip_serializing_if = "is_one")]
        tries: u32,
        producer: String,
        topic: String,
        content: Content,
        /// False for `waitStoreMsgOK=false`: asynchronous grade whatever the broker's flush mode.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        wait_store: bool,
    },
    /// The attempt was acknowledged.
    SendOk {
        uid: String,
        #[serde(default = "one")]
        attempt: u32,
        status: SendStatus,
        queue: Queue,
        offset: i64,
        /// Physical position in the broker's log, from the offset message id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<u64>,
    },
    /// Proven not stored: never left the client, or refused before the append.
    SendFail {
        uid: String,
        #[serde(default = "one")]
        attempt: u32,
        error: String,
    },
    /// Unknown: time-out, lost connection, system error, one-way.
    SendInfo {
        uid: String,
        #[serde(default = "one")]
        attempt: u32,
        error: String,
    },
    /// A consumer begins to own a queue and will fetch from `start`.
    SessionOpen {
        session: String,
        group: String,
        client: String,
        queue: Queue,
        start: i64,
        /// When the client asked for the committed offset; absent: `t`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<u64>,
    },
    SessionClose {
        session: String,
    },
    /// A fetch of a session returned `count` messages; the next begins at `next`.
    Fetch {
        session: String,
        from: i64,
        next: i64,
        count: u32,
    },
    /// The consumer was told to go elsewhere (reset, illegal offset).
    Seek {
        session: String,
        offset: i64,
        reason: String,
    },
    /// A message enters the listener.
    DeliverStart {
        /// Unique in the history.
        delivery: u64,
        group: String,
        client: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<String>,
        queue: Queue,
        offset: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<u64>,
        /// Absent if the body could not be understood.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
        content: Content,
        #[serde(default, skip_serializing_if = "is_zero")]
        reconsume: u32,
    },
    /// The listener returned.
    DeliverDone {
        delivery: u64,
        verdict: ConsumeVerdict,
    },
    /// A consumer hands a message back for a later retry or the dead letters.
    SendBackInvoke {
        delivery: u64,
    },
    SendBackOk {
        delivery: u64,
    },
    SendBackInfo {
        delivery: u64,
        error: String,
    },
    CommitInvoke {
        /// Unique in the history.
        commit: u64,
        group: String,
        client: String,
        queue: Queue,
        offset: i64,
    },
    CommitOk {
        commit: u64,
    },
    /// No answer, or one-way.
    CommitInfo {
        commit: u64,
    },
    /// The broker answered what is committed; `offset` absent when nothing is.
    OffsetRead {
        group: String,
        queue: Queue,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<i64>,
        /// When the question was asked.
        asked: u64,
    },
    /// An administrator moved the group's offset on purpose.
    OffsetReset {
        group: String,
        queue: Queue,
        offset: i64,
    },
    /// The broker granted or renewed the lock of a queue; asked at `asked`.
    LockOk {
        group: String,
        client: String,
        queue: Queue,
        asked: u64,
    },
    /// The client gave the lock up, or stopped to believe in it.
    LockEnd {
        group: String,
        client: String,
        queue: Queue,
    },
    /// Final scan: the bounds of a queue.
    ScanQueue {
        queue: Queue,
        min: i64,
        max: i64,
    },
    /// Final scan: one stored message.
    ScanEntry {
        queue: Queue,
        offset: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
        content: Content,
    },
    /// Final scan done, or not.
    ScanEnd {
        complete: bool,
    },
    /// A fault begins, or ends.
    Fault {
        id: u32,
        fault: FaultKind,
        phase: FaultPhase,
        nodes: Vec<String>,
        /// What it did: bytes lost, segments dropped, connections reset … Empty: nothing.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        effect: BTreeMap<String, u64>,
    },
    Appended {
        node: String,
        start: u64,
        end: u64,
    },
    Flushed {
        node: String,
        upto: u64,
    },
    Recovered {
        node: String,
        end: u64,
        lost_bytes: u64,
    },
    /// The node found the slot's message damaged or lost: readers step over it.
    Gap {
        node: String,
        queue: Queue,
        offset: i64,
    },
    /// A broker's directory, read by our own parser: after a start, or, `complete`, after a stop in order.
    Stored {
        broker: String,
        complete: bool,
        stored: Box<Stored>,
        /// What the broker itself said of its queues at this instant; nothing when it had stopped.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        bounds: Vec<StoredBounds>,
    },
    /// The broker's answer to a search by time in a queue, after a [`Event::Stored`] of it.
    SearchedByTime {
        queue: Queue,
        /// Milliseconds, by the broker's clock.
        time: i64,
        boundary: Boundary,
        offset: i64,
    },
    /// Positions that the broker gave for a key of the record at `position`, after a [`Event::Stored`] of it.
    SearchedByKey {
        broker: String,
        /// Hash of topic and key, as the index has it.
        key: u32,
        position: u64,
        found: Vec<u64>,
    },
    /// The broker itself says that it answered a send; `code` 0 is SEND_OK.
    Acknowledged {
        node: String,
        queue: Queue,
        offset: i64,
        code: i32,
    },
    /// The broker itself says who holds a queue lock; empty: nobody.
    Locked {
        node: String,
        group: String,
        queue: Queue,
        owner: String,
    },
    /// A milestone: `workload_end`, `healed`, `drained`.
    Mark {
        name: String,
    },
    /// Every queue that a topic has from now on.
    TopicQueues {
        topic: String,
        queues: Vec<Queue>,
    },
    MemberJoined {
        group: String,
        client: String,
    },
    /// Left in order; a member whose process dies is in the fault log.
    MemberLeft {
        group: String,
        client: String,
    },
    /// What a member takes for its own from now on, of all topics.
    Assigned {
        group: String,
        client: String,
        queues: Vec<Queue>,
    },
    /// Addresses that a client or name server has for the master (id 0) of a broker from now on.
    Route {
        holder: String,
        broker: String,
        addresses: Vec<String>,
    },
    /// Who is the registered master of a broker in truth from now on; absent: nobody.
    Master {
        broker: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// The message is sent to see whether the queue works.
    Probe {
        uid: String,
        queue: Queue,
    },
    /// These messages are sent as one batch.
    Batch {
        uids: Vec<String>,
    },
    Panic {
        node: String,
        task: String,
        message: String,
    },
    /// What a node holds when nothing is under way.
    AtRest {
        node: String,
        tasks: u64,
        files: u64,
        buffered_bytes: u64,
        locks: u64,
    },
    /// Hash of the trace of the `run`-th run after so many events.
    Checkpoint {
        run: u32,
        events: u64,
        hash: u64,
    },
    /// A half message was acknowledged; `send_invoke` came before, no `send_ok` comes.
    HalfOk {
        uid: String,
        /// Unique in the history.
        transaction: u64,
        group: String,
    },
    /// A producer says how a transaction ends; no answer comes.
    TransactionEnd {
        transaction: u64,
        resolution: Resolution,
    },
    /// A producer was asked how a transaction ends.
    TransactionCheck {
        transaction: u64,
        client: String,
    },
    /// White-box: what the broker made of a transaction.
    TransactionResolved {
        transaction: u64,
        resolution: Resolution,
    },
    /// The message must not be delivered before `due`, nanoseconds on the history's clock.
    Delayed {
        uid: String,
        due: u64,
    },
    /// The broker has agreed not to deliver a delayed message.
    DelayCancelled {
        uid: String,
    },
    /// A message was popped, invisible to others until `until`, nanoseconds on the history's clock.
    Popped {
        /// Unique in the history.
        pop: u64,
        group: String,
        client: String,
        uid: String,
        until: u64,
    },
    /// The acknowledgement of a popped message was answered with success.
    PopAcked {
        pop: u64,
    },
    /// A popped message stays invisible until `until`.
    PopChanged {
        pop: u64,
        until: u64,
    },
    /// White-box: what a node is in a broker's set of replicas from now on. `epoch` absent: not fenced.
    Role {
        node: String,
        broker: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        is_master: bool,
    },
    /// White-box: a node holds a record for good.
    Confirmed {
        node: String,
        broker: String,
        position: u64,
        size: u32,
        crc: u32,
    },
    /// White-box: a node cuts its log.
    Truncated {
        node: String,
        broker: String,
        from: u64,
    },
    /// White-box: a vote, once it is durable.
    Voted {
        node: String,
        set: String,
        term: u64,
        candidate: String,
    },
    /// White-box: a node leads `set` from now on and holds entries up to `last`.
    Elected {
        node: String,
        set: String,
        term: u64,
        last: u64,
    },
    /// White-box: the leader takes entries up to `index` for committed; `holders` of `members` hold them.
    EntriesCommitted {
        node: String,
        set: String,
        term: u64,
        index: u64,
        last: u64,
        holders: Vec<String>,
        members: Vec<String>,
    },
    /// The members that a new leader may be chosen from.
    InSync {
        set: String,
        term: u64,
        members: Vec<String>,
    },
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    Commit,
    Rollback,
    /// The producer does not know yet.
    Unknown,
    /// The broker gave up asking.
    Discard,
}

/// Which message of a time is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    Lower,
    Upper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The process dies; the page cache stays.
    Kill,
    /// The machine dies; what was not synced may be lost.
    PowerLoss,
    /// The node comes up again.
    Restart,
    /// Messages between two sides, or in one direction, are dropped without a word.
    Cut,
    Pause,
    ClockStep,
    ClockDrift,
    DiskSlow,
    DiskStall,
    /// Operations of the disk fail; nothing that had been synced is lost.
    DiskErrors,
    DiskFull,
    /// The disk lost or damaged what had been synced.
    DiskLost,
    Latency,
    Loss,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultPhase {
    Begin,
    End,
}

fn one() -> u32 {
    1
}

fn is_one(value: &u32) -> bool {
    *value == 1
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}
