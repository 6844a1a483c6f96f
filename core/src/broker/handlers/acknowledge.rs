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
use crate::broker::operations::Refusal;
use crate::probe::Fact;
use crate::protocol::code::response;
use crate::protocol::{Command, message};
use crate::remoting::{Peer, Replies, Responder};
use crate::runtime::{Mono, Runtime, site};
use crate::sync::Notify;
use crate::types::PhysicalOffset;

const REGION: &str = "DefaultRegion";

/// Sends of one turn that wait for the same flush.
struct Waiting {
    end: PhysicalOffset,
    deadline: Mono,
    receipts: Vec<(Receipt, Responder)>,
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
    pub(super) async fn acknowledge(&self, peer: &Peer, receipts: Vec<(Receipt, Command)>, replies: &mut Replies) {
        let operations = &self.operations;
        let last = receipts.iter().map(|(receipt, _)| receipt.stored.end()).max();
        let written = operations.store.written(last.unwrap_or_default()).await;
        if let Err(error) = written {
            // Part of it may have reached the file.
            for (_, command) in receipts {
                replies.push(refuse(&command, &Refusal::store_failed(&error)), Vec::new());
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
            for (receipt, _) in receipts {
                replies.push(self.acknowledgement(&receipt, response::SUCCESS), Vec::new());
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
            match &flushed {
                _ if !must_wait(&receipt) => {
                    replies.push(self.acknowledgement(&receipt, response::SUCCESS), Vec::new())
                }
                Some(Ok(())) => replies.push(self.acknowledgement(&receipt, response::SUCCESS), Vec::new()),
                Some(Err(error)) => replies.push(refuse(&command, &Refusal::store_failed(error)), Vec::new()),
                None => waiting.push((receipt, peer.answer_later(&command))),
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
            for (receipt, responder) in waiting.receipts {
                let reply = match &flushed {
                    Ok(Ok(())) => self.acknowledgement(&receipt, response::SUCCESS),
                    Ok(Err(error)) => {
                        let refusal = Refusal::store_failed(error);
                        let code = super::code_of(refusal.reason);
                        Command::reply_to(receipt.opaque, code).with_remark(refusal.remark.as_str())
                    }
                    Err(_) => self.acknowledgement(&receipt, response::FLUSH_DISK_TIMEOUT),
                };
                responder.reply(reply, Vec::new());
            }
        }
    }

    fn acknowledgement(&self, receipt: &Receipt, code: i32) -> Command {
        let stored = &receipt.stored;
        let mut reply = Command::reply_to(receipt.opaque, code);
        let ReceiptKind::Send { topic, unique_key } = &receipt.kind else {
            return reply;
        };
        if !stored.is_delayed {
            self.operations.runtime.announce(Fact::Acknowledged {
                topic,
                queue_id: stored.queue_id,
                offset: stored.queue_offset(),
                code,
            });
        }
        let ext = &mut reply.ext;
        match stored.appended.positions.as_ref() {
            [one] => ext.push(
                "msgId",
                &message::offset_message_id(self.operations.store_host, one.physical_offset),
            ),
            many => {
                let ids = many
                    .iter()
                    .map(|place| message::offset_message_id(self.operations.store_host, place.physical_offset));
                ext.push("msgId", &ids.collect::<Vec<_>>().join(","));
            }
        }
        ext.push_integer("queueId", i64::from(stored.queue_id));
        ext.push_integer("queueOffset", stored.queue_offset());
        if let Some(key) = unique_key.as_deref().or(stored.made_unique_key.as_deref()) {
            ext.push("transactionId", key);
        }
        push_trace(ext);
        reply
    }
}

/// What every answer to a send carries, refusals too: Java does not look whether there are fields at all.
pub(super) fn push_trace(ext: &mut crate::protocol::ExtFields) {
    ext.push("MSG_REGION", REGION);
    ext.push("TRACE_ON", "true");
}
