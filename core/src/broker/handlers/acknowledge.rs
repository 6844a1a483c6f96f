//! When a send is answered.
//!
//! ```text
//! append ─► write (one per turn) ─► answer                      asynchronous flush, or WAIT=false
//!                                └► flushed up to its end ─► answer, or FLUSH_DISK_TIMEOUT after 5 s
//! ```
//!
//! Sends that wait for a flush stand in one queue in the order of the log: the first is waited for, the flush that covers
//! it usually covers those behind it. A lone send whose flush can run in place is answered within its turn.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;

use super::{Handlers, Receipt, ReceiptKind, refuse};
use crate::broker::operations::{Reason, Refusal};
use crate::probe::Fact;
use crate::protocol::code::response;
use crate::protocol::send_reply::SendReply;
use crate::protocol::{Command, Text};
use crate::remoting::{Peer, Replies, Responder};
use crate::runtime::{Mono, Runtime, site};
use crate::sync::Notify;
use crate::types::PhysicalOffset;

/// Sends of one turn that wait for the same flush.
struct Waiting {
    end: PhysicalOffset,
    deadline: Mono,
    receipts: Vec<Late>,
}

/// A receipt that outlives its request.
struct Late {
    receipt: Receipt,
    topic: Text,
    unique_key: Option<Text>,
    responder: Responder,
}

/// Sends that wait for a flush. Bounded by the requests that connections may have in flight.
pub(in crate::broker) struct Acknowledger {
    queue: Mutex<VecDeque<Waiting>>,
    bell: Notify,
}

impl Acknowledger {
    pub(in crate::broker) fn new() -> Acknowledger {
        Acknowledger {
            queue: Mutex::new(VecDeque::new()),
            bell: Notify::new(),
        }
    }

    fn push(&self, waiting: Waiting) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(waiting);
        self.bell.notify();
    }

    fn pop(&self) -> Option<Waiting> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl<R: Runtime> Handlers<R> {
    /// Writes what the turn appended, then answers it or has it answered.
    pub(super) async fn acknowledge(&self, peer: &Peer, receipts: Vec<(Receipt, &Command)>, replies: &mut Replies) {
        let operations = &self.operations;
        let last = receipts.iter().map(|(receipt, _)| receipt.stored.end()).max();
        let written = operations.store.written(last.unwrap_or_default()).await;
        if let Err(error) = written {
            // Part of it may have reached the file.
            for (_, command) in receipts {
                replies.push(refuse(command, &Refusal::store_failed(&error)), Vec::new());
            }
            return;
        }
        // Defect (as Redpanda 3036): what is stored is refused for good.
        if site(&operations.runtime, "reject-after-append") {
            for (_, command) in receipts {
                replies.push(refuse(command, &Refusal::new(Reason::Busy, "too busy")), Vec::new());
            }
            return;
        }
        let skips_flush = site(&operations.runtime, "ack-before-fsync");
        let must_wait = |receipt: &Receipt| operations.is_sync_flush() && receipt.stored.waits && !skips_flush;
        let end = receipts
            .iter()
            .filter(|(receipt, _)| must_wait(receipt))
            .map(|(receipt, _)| receipt.stored.end())
            .max();
        let Some(end) = end else {
            for (receipt, command) in &receipts {
                let texts = Texts::of(receipt, command);
                self.acknowledgement(receipt, texts, response::SUCCESS).push(replies);
            }
            if operations.is_sync_flush() && !skips_flush {
                operations.store.flush_soon();
            }
            return;
        };
        // One look: a lone sender's flush runs here and now.
        let flushed = pin!(operations.store.flushed(end)).now_or_never();
        let mut waiting = Vec::new();
        for (receipt, command) in receipts {
            let texts = Texts::of(&receipt, command);
            match &flushed {
                Some(Err(error)) if must_wait(&receipt) => {
                    replies.push(refuse(command, &Refusal::store_failed(error)), Vec::new());
                }
                None if must_wait(&receipt) => waiting.push(Late {
                    topic: command.ext.share(texts.topic),
                    unique_key: texts.unique_key.map(|key| command.ext.share(key)),
                    receipt,
                    responder: peer.answer_later(command),
                }),
                _ => self.acknowledgement(&receipt, texts, response::SUCCESS).push(replies),
            }
        }
        if !waiting.is_empty() {
            self.acknowledger.push(Waiting {
                end,
                deadline: operations.runtime.mono() + operations.config.flush.sync_timeout,
                receipts: waiting,
            });
        }
    }

    /// Answers sends as their flushes complete, until dropped.
    pub(in crate::broker) async fn run_acknowledger(&self) {
        let operations = &self.operations;
        loop {
            let Some(waiting) = self.acknowledger.pop() else {
                self.acknowledger.bell.notified().await;
                continue;
            };
            let time_left = waiting.deadline.since(operations.runtime.mono());
            let flushed = operations
                .runtime
                .timeout(time_left, operations.store.flushed(waiting.end))
                .await;
            let code = match &flushed {
                Ok(Ok(())) => Ok(response::SUCCESS),
                Ok(Err(error)) => Err(Refusal::store_failed(error)),
                Err(_) => Ok(response::FLUSH_DISK_TIMEOUT),
            };
            for late in waiting.receipts {
                let texts = Texts {
                    topic: &late.topic,
                    unique_key: late.unique_key.as_deref(),
                };
                match &code {
                    Ok(code) => self.acknowledgement(&late.receipt, texts, *code).reply(late.responder),
                    Err(refusal) => {
                        let code = super::code_of(refusal.reason);
                        let reply = Command::reply_to(late.receipt.opaque, code).with_remark(refusal.remark.as_str());
                        late.responder.reply(reply, Vec::new());
                    }
                }
            }
        }
    }

    fn acknowledgement<'a>(&self, receipt: &'a Receipt, texts: Texts<'a>, code: i32) -> Acknowledgement<'a> {
        let stored = &receipt.stored;
        if let ReceiptKind::SendBack = receipt.kind {
            return Acknowledgement::SendBack(Command::reply_to(receipt.opaque, code));
        }
        if !stored.is_delayed {
            self.operations.runtime.announce(Fact::Acknowledged {
                topic: texts.topic,
                queue_id: stored.queue_id,
                offset: stored.queue_offset(),
                code,
            });
        }
        Acknowledgement::Send(SendReply {
            opaque: receipt.opaque,
            code,
            store_host: self.operations.store_host,
            places: &stored.appended.positions,
            queue_id: stored.queue_id,
            queue_offset: stored.queue_offset(),
            transaction_id: texts.unique_key.or(stored.made_unique_key.as_deref()),
        })
    }
}

/// What a receipt names of its request.
#[derive(Clone, Copy, Default)]
struct Texts<'a> {
    topic: &'a str,
    unique_key: Option<&'a str>,
}

impl<'a> Texts<'a> {
    fn of(receipt: &Receipt, request: &'a Command) -> Texts<'a> {
        match receipt.kind {
            ReceiptKind::Send { topic, unique_key } => Texts {
                topic: request.ext.at(topic),
                unique_key: unique_key.map(|key| request.ext.at(key)),
            },
            ReceiptKind::SendBack => Texts::default(),
        }
    }
}

enum Acknowledgement<'a> {
    Send(SendReply<'a>),
    SendBack(Command),
}

impl Acknowledgement<'_> {
    fn push(self, replies: &mut Replies) {
        match self {
            Acknowledgement::Send(reply) => replies.push_send(&reply),
            Acknowledgement::SendBack(reply) => replies.push(reply, Vec::new()),
        }
    }

    fn reply(self, responder: Responder) {
        match self {
            Acknowledgement::Send(reply) => responder.reply_send(&reply),
            Acknowledgement::SendBack(reply) => responder.reply(reply, Vec::new()),
        }
    }
}
