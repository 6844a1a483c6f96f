//! The remoting side of the broker: commands in, operations called, replies out. By family; the list of codes is
//! `dispatch`.
//!
//! A *turn* is all requests that a connection had ready. Its sends are appended one after another and written by one
//! grouped write at the end; then those that wait for nothing more are answered with everything else of the turn, in one
//! vectored write, without a change of thread. Sends that wait for a flush are answered later by the acknowledger; held
//! pulls by the task that serves what was woken.

mod acknowledge;
mod admin;
mod clients;
mod groups;
mod offsets;
mod pull;
mod query;
mod send;
mod topics;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

pub(super) use self::acknowledge::Acknowledger;
pub(super) use self::pull::HeldPull;
use super::long_poll::LongPolls;
use super::operations::{ClientHandle, Notice, Operations, Reason, Refusal, Stored, Turn};
use super::state::clients::ConnectionId;
use crate::protocol::body::BodyError;
use crate::protocol::code::{request, response};
use crate::protocol::header::HeaderError;
use crate::protocol::{Command, ExtFields, Span};
use crate::remoting::{Peer, Replies, Service};
use crate::runtime::{Runtime, TaskSet};

/// Serves the connections of one broker.
pub(super) struct Handlers<R: Runtime> {
    pub(super) operations: Arc<Operations<R>>,
    pub(super) polls: Arc<LongPolls<HeldPull>>,
    pub(super) acknowledger: Acknowledger,
    peers: Mutex<BTreeMap<ConnectionId, Peer>>,
    /// Requests passed on to clients, which take their time. At most one per request that connections may have in flight.
    relays: Mutex<TaskSet<R>>,
}

/// What a request came to.
pub(super) enum Answer {
    Reply(Command),
    /// With a body that is not copied.
    Records(Command, Vec<Bytes>),
    /// A message was stored: the answer follows once the log is written, or flushed.
    Stored(Receipt),
    /// Somebody holds a responder.
    Later,
}

/// A stored message that is to be acknowledged.
#[derive(Debug)]
pub(super) struct Receipt {
    pub(super) opaque: i32,
    pub(super) stored: Stored,
    pub(super) kind: ReceiptKind,
}

#[derive(Debug)]
pub(super) enum ReceiptKind {
    /// Texts of the request.
    Send {
        topic: Span,
        /// As the sender gave it.
        unique_key: Option<Span>,
    },
    SendBack,
}

impl<R: Runtime> Handlers<R> {
    pub(super) fn new(operations: Arc<Operations<R>>, polls: Arc<LongPolls<HeldPull>>) -> Handlers<R> {
        Handlers {
            operations,
            polls,
            acknowledger: Acknowledger::new(),
            peers: Mutex::new(BTreeMap::new()),
            relays: Mutex::new(TaskSet::new()),
        }
    }

    /// Tells members that their group changed.
    pub(super) fn notify(&self, notices: Vec<Notice>) {
        for notice in notices {
            let peer = self.peers().get(&notice.connection).cloned();
            if let Some(peer) = peer {
                let mut command = Command::one_way(request::NOTIFY_CONSUMER_IDS_CHANGED);
                command.ext.push("consumerGroup", &notice.group);
                peer.notify(command);
            }
        }
    }

    fn peer(&self, connection: ConnectionId) -> Option<Peer> {
        self.peers().get(&connection).cloned()
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Runtime> Service for Handlers<R> {
    fn opened(&self, peer: &Peer) {
        self.peers().insert(peer.id(), peer.clone());
    }

    fn closed(&self, peer: &Peer) {
        self.peers().remove(&peer.id());
        self.polls.forget(peer.id());
        let notices = self.operations.disconnected(peer.id());
        self.notify(notices);
    }

    async fn serve(&self, peer: &Peer, commands: &mut Vec<Command>, replies: &mut Replies) {
        let mut turn = Turn::default();
        let mut receipts: Vec<(Receipt, &Command)> = Vec::new();
        for command in commands.iter() {
            let answer = self.dispatch(peer, command, &mut turn).await;
            if let Answer::Stored(receipt) = answer {
                if receipts.is_empty() {
                    receipts.reserve_exact(commands.len());
                }
                receipts.push((receipt, command));
                continue;
            }
            turn.forget_topic();
            match answer {
                Answer::Reply(reply) => replies.push(reply, Vec::new()),
                Answer::Records(reply, records) => replies.push(reply, records),
                Answer::Stored(_) | Answer::Later => {}
            }
        }
        if !receipts.is_empty() {
            self.acknowledge(peer, receipts, replies).await;
        }
    }
}

pub(super) fn client_handle(peer: &Peer, command: &Command) -> ClientHandle {
    ClientHandle {
        connection: peer.id(),
        address: peer.remote_address(),
        version: command.version,
    }
}

/// The response code of a refusal.
pub(super) fn code_of(reason: Reason) -> i32 {
    match reason {
        Reason::InvalidParameter => response::INVALID_PARAMETER,
        Reason::IllegalMessage => response::MESSAGE_ILLEGAL,
        Reason::NoPermission => response::NO_PERMISSION,
        Reason::TopicMissing => response::TOPIC_NOT_EXIST,
        Reason::GroupMissing => response::SUBSCRIPTION_GROUP_NOT_EXIST,
        Reason::SubscriptionMissing => response::SUBSCRIPTION_NOT_EXIST,
        Reason::SubscriptionOutdated => response::SUBSCRIPTION_NOT_LATEST,
        Reason::SubscriptionUnparsable => response::SUBSCRIPTION_PARSE_FAILED,
        Reason::NotFound => response::QUERY_NOT_FOUND,
        Reason::Busy => response::SYSTEM_BUSY,
        Reason::Unavailable => response::SERVICE_NOT_AVAILABLE,
        Reason::ConsumerOffline => response::CONSUMER_NOT_ONLINE,
        Reason::Failed | Reason::NoRoom => response::SYSTEM_ERROR,
    }
}

pub(super) fn refuse(request: &Command, refusal: &Refusal) -> Command {
    Command::reply(request, code_of(refusal.reason)).with_remark(refusal.remark.as_str())
}

/// What a handler says instead of an answer.
pub(super) struct Rejected(Refusal);

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Rejected {
        Rejected(refusal)
    }
}

impl From<HeaderError> for Rejected {
    fn from(error: HeaderError) -> Rejected {
        Rejected(Refusal::new(Reason::InvalidParameter, error.to_string()))
    }
}

impl From<BodyError> for Rejected {
    fn from(error: BodyError) -> Rejected {
        Rejected(Refusal::new(Reason::InvalidParameter, error.to_string()))
    }
}

/// An answer, or the refusal as one.
pub(super) fn answer(request: &Command, result: Result<Answer, Rejected>) -> Answer {
    result.unwrap_or_else(|Rejected(refusal)| Answer::Reply(refuse(request, &refusal)))
}

/// A reply of code 0 with these fields.
pub(super) fn success(request: &Command, write: impl FnOnce(&mut ExtFields)) -> Result<Answer, Rejected> {
    let mut reply = Command::success(request);
    write(&mut reply.ext);
    Ok(Answer::Reply(reply))
}
