//! What a client tells whoever writes a history: each wire attempt, fetch, delivery, commit, lock and session.
//!
//! Hooks are called synchronously where the thing happens, with borrowed values: take what is needed and return. They
//! carry no time; an observer stamps with the clock it has. A logical send may make several wire attempts, and a lost
//! reply is *unknown*, so one send can legally own several slots: every attempt is reported, not only the last.

use super::message::{Message, MessageView};
use super::{SendStatus, Verdict};
use crate::runtime::Mono;
use crate::types::MessageQueue;

/// Receives what a client does. Every method does nothing unless overridden.
#[allow(unused_variables)]
pub trait Observer: Send + Sync + 'static {
    /// A send request is about to be handed to the connection.
    fn attempt_started(&self, attempt: &Attempt<'_>) {}
    /// Its fate is known, or known to be unknown. Not called when the caller drops the send before that.
    fn attempt_ended(&self, attempt: &Attempt<'_>, outcome: &AttemptOutcome<'_>) {}

    /// A queue was assigned; the first fetch starts at `start_offset`.
    fn assigned(&self, session: &Session<'_>, start_offset: i64) {}
    /// Nothing more of this session is delivered, except what has already started.
    fn revoked(&self, session: &Session<'_>, reason: RevokeReason) {}
    /// A pull was answered. With [`PullOutcome::OffsetIllegal`] the session ends, and the next one starts where the broker says.
    fn fetched(&self, fetch: &Fetch<'_>) {}

    fn delivery_started(&self, delivery: &Delivery<'_>) {}
    /// The listener returned. With [`Verdict::Later`] a [`sent_back`](Observer::sent_back) may follow.
    fn delivery_ended(&self, delivery: &Delivery<'_>, verdict: Verdict) {}
    /// A message that was not processed was (or was not) stored for a later delivery, before its offset counts as processed.
    /// Once per message of the delivery whose number it carries.
    fn sent_back(&self, delivery: &Delivery<'_>, outcome: SendBackOutcome) {}

    fn commit_started(&self, commit: &Commit<'_>) {}
    fn commit_ended(&self, commit: &Commit<'_>, outcome: CommitOutcome) {}
    /// The broker's committed offset was read; `None` says that it has none.
    fn offset_read(&self, group: &str, queue: &MessageQueue, offset: Option<i64>) {}

    /// A queue lock was granted or refused, renewed or lost.
    fn locked(&self, lock: &Lock<'_>) {}
}

/// The observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// One send request on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Number of the logical send, unique within the client.
    pub send_id: u64,
    /// Counts the attempts of one send, from 1.
    pub attempt: u32,
    pub producer_group: &'a str,
    /// One message, or all of a batch.
    pub messages: &'a [Message],
    pub queue: &'a MessageQueue,
    /// `host:port`.
    pub broker: &'a str,
    pub is_one_way: bool,
}

/// How a wire attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome<'a> {
    /// Stored at `offset` of `queue_id` (a batch: at consecutive offsets from there), with this durability grade.
    Stored {
        status: SendStatus,
        queue_id: i32,
        offset: i64,
        offset_message_id: &'a str,
    },
    /// The broker answered an error. Whether it may still have stored the message: [`super::retry::may_be_stored`].
    Refused { code: i32, remark: &'a str },
    /// No byte of the request has left.
    NotSent,
    /// The request may have arrived; there is no answer. One-way sends always end so.
    Unknown,
}

/// One time span in which a consumer holds a queue.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    /// Unique within the client.
    pub id: u64,
    pub client_id: &'a str,
    pub group: &'a str,
    pub queue: &'a MessageQueue,
    pub is_orderly: bool,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeReason {
    /// Another member takes the queue, or the queue is gone from the route.
    Rebalance,
    /// The broker has set the position: out of range ([`PullOutcome::OffsetIllegal`]) or reset by an administrator.
    OffsetMoved {
        to: i64,
    },
    /// The queue lock was lost or could not be renewed in time.
    LockLost,
    Shutdown,
}

/// The answer to a pull.
#[derive(Clone, Copy, Debug)]
pub struct Fetch<'a> {
    pub session: Session<'a>,
    pub offset: i64,
    pub outcome: PullOutcome,
    pub next_offset: i64,
    pub min_offset: i64,
    pub max_offset: i64,
    /// What passed the exact tag filter.
    pub messages: &'a [MessageView],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullOutcome {
    Found,
    NoNewMessage,
    NoMatchedMessage,
    OffsetIllegal,
}

/// One call of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Number of the call, unique within the client.
    pub id: u64,
    pub session: Session<'a>,
    pub messages: &'a [MessageView],
}

/// What became of a message that the listener wants later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendBackOutcome {
    /// In the group's retry topic, or in its dead-letter topic when its retries are used up.
    Stored,
    /// Kept here and delivered again after a pause: the broker could not be asked or its answer is unknown.
    KeptLocally,
    /// Given up, as broadcasting consumers do.
    Dropped,
}

/// A committed offset on its way to the broker (or to the local file of a broadcasting consumer).
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    /// Number of the commit, unique within the client.
    pub id: u64,
    pub client_id: &'a str,
    pub group: &'a str,
    pub queue: &'a MessageQueue,
    pub offset: i64,
    /// True for the only kind of commit that may go back: the broker moved the position.
    pub is_reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    Stored,
    Refused { code: i32 },
    NotSent,
    Unknown,
}

/// What the broker said about a queue lock.
#[derive(Clone, Copy, Debug)]
pub struct Lock<'a> {
    pub client_id: &'a str,
    pub group: &'a str,
    pub queue: &'a MessageQueue,
    pub change: LockChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockChange {
    /// Held until this time of our own clock, counted from before the request was sent.
    Granted {
        until: Mono,
    },
    Refused,
    /// No renewal in time: nothing more is delivered under it.
    Lapsed,
    Released,
}
