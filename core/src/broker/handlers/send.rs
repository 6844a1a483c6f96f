//! Sends in all their forms, and send back.

use super::{Answer, Handlers, Receipt, ReceiptKind, Rejected, answer, client_handle, refuse};
use crate::broker::operations::{Reason, Refusal, SendBackRequest, SendRequest, Turn};
use crate::protocol::Command;
use crate::protocol::code::{request, response};
use crate::protocol::header::{SendBackHeader, SendHeader};
use crate::protocol::properties;
use crate::protocol::send_reply::push_trace;
use crate::remoting::Peer;
use crate::runtime::{Runtime, WallMillis};

impl<R: Runtime> Handlers<R> {
    /// Codes 10, 310 and 320.
    pub(in crate::broker) async fn send(&self, peer: &Peer, command: &Command, turn: &mut Turn) -> Answer {
        match self.try_send(peer, command, turn).await {
            Ok(answer) => answer,
            Err(Rejected(refusal)) => {
                let mut reply = refuse(command, &refusal);
                push_trace(&mut reply.ext);
                Answer::Reply(reply)
            }
        }
    }

    async fn try_send(&self, peer: &Peer, command: &Command, turn: &mut Turn) -> Result<Answer, Rejected> {
        let header = SendHeader::read(&command.ext)?;
        let send = SendRequest {
            topic: header.topic,
            default_topic: header.default_topic,
            default_queue_count: header.default_topic_queue_count,
            queue_id: header.queue_id,
            sys_flag: header.sys_flag,
            flag: header.flag,
            born_time: WallMillis(header.born_timestamp),
            properties: header.properties,
            reconsume_times: header.reconsume_times,
            max_reconsume_times: header.max_reconsume_times,
            is_batch: header.batch || command.code == request::SEND_BATCH_MESSAGE,
            body: &command.body,
        };
        let stored = self.operations.send(client_handle(peer, command), &send, turn).await?;
        let unique_key = properties::get(header.properties, properties::UNIQUE_KEY);
        Ok(Answer::Stored(Receipt {
            opaque: command.opaque,
            stored,
            kind: ReceiptKind::Send {
                topic: command.ext.span(header.topic),
                unique_key: unique_key.map(|key| command.ext.span(key)),
            },
        }))
    }

    /// Code 36.
    pub(in crate::broker) async fn send_back(&self, peer: &Peer, command: &Command) -> Answer {
        let result = self.try_send_back(peer, command).await;
        answer(command, result)
    }

    async fn try_send_back(&self, peer: &Peer, command: &Command) -> Result<Answer, Rejected> {
        let header = SendBackHeader::read(&command.ext)?;
        let back = SendBackRequest {
            physical_offset: header.offset,
            group: &header.group,
            delay_level: header.delay_level,
            origin_message_id: header.origin_message_id.as_deref(),
            max_reconsume_times: header.max_reconsume_times,
        };
        match self.operations.send_back(client_handle(peer, command), &back).await? {
            Some(stored) => Ok(Answer::Stored(Receipt {
                opaque: command.opaque,
                stored,
                kind: ReceiptKind::SendBack,
            })),
            None => Ok(Answer::Reply(Command::reply(command, response::SUCCESS))),
        }
    }

    /// Code 37. No half message is ever stored, so there is nothing to end.
    pub(in crate::broker) fn end_transaction(&self, command: &Command) -> Answer {
        let refusal = Refusal::new(
            Reason::NoPermission,
            "this broker keeps no transactions: half messages are refused",
        );
        Answer::Reply(refuse(command, &refusal))
    }
}
