//! Pulls: answered at once, or held until a message comes, time is up or the client goes.

use std::time::Duration;

use super::{Answer, Handlers, Rejected, answer, client_handle, refuse};
use crate::broker::long_poll::{Held, Wanted};
use crate::broker::operations::{ClientHandle, PullRequest, Pulled, PulledCode, Reason, Refusal, Subscribed};
use crate::protocol::Command;
use crate::protocol::code::response;
use crate::protocol::header::{PullFlag, PullHeader, PullResponseHeader};
use crate::protocol::message::records;
use crate::remoting::{Peer, Responder};
use crate::runtime::Runtime;
use crate::store::TagFilter;

/// Longest hold. Clients give up on a pull after 30 s; what is held longer is answered for nobody.
const SUSPEND_MAX: Duration = Duration::from_secs(60);

/// Bytes of one answer when the client names no limit; the store's own limit is lower.
const BYTES_MAX_UNNAMED: usize = 4 << 20;

/// A pull that waits for a message.
pub(in crate::broker) struct HeldPull {
    client: ClientHandle,
    /// Without what was in the frame: a held pull must not hold the read buffer.
    group: String,
    topic: String,
    queue_id: i32,
    offset: i64,
    count_max: usize,
    bytes_max: usize,
    subscribed: HeldSubscription,
    responder: Responder,
}

enum HeldSubscription {
    ByHeartbeat(i64),
    Here(String, Option<String>),
}

impl HeldPull {
    fn request(&self) -> PullRequest<'_> {
        PullRequest {
            group: &self.group,
            topic: &self.topic,
            queue_id: self.queue_id,
            offset: self.offset,
            count_max: self.count_max,
            bytes_max: self.bytes_max,
            // Committed when it came.
            commit: None,
            subscribed: match &self.subscribed {
                HeldSubscription::ByHeartbeat(version) => Subscribed::ByHeartbeat { version: *version },
                HeldSubscription::Here(expression, expression_type) => Subscribed::Here {
                    expression,
                    expression_type: expression_type.as_deref(),
                },
            },
        }
    }
}

impl<R: Runtime> Handlers<R> {
    /// Codes 11 and 361.
    pub(in crate::broker) async fn pull(&self, peer: &Peer, command: &Command) -> Answer {
        let result = self.try_pull(peer, command).await;
        answer(command, result)
    }

    async fn try_pull(&self, peer: &Peer, command: &Command) -> Result<Answer, Rejected> {
        let header = PullHeader::read(&command.ext)?;
        let client = client_handle(peer, command);
        let request = PullRequest {
            group: &header.consumer_group,
            topic: &header.topic,
            queue_id: header.queue_id,
            offset: header.queue_offset,
            count_max: usize::try_from(header.message_count_max).unwrap_or(0).max(1),
            bytes_max: header
                .message_bytes_max
                .and_then(|bytes| usize::try_from(bytes).ok())
                .unwrap_or(BYTES_MAX_UNNAMED)
                .max(1),
            commit: header.has(PullFlag::COMMIT_OFFSET).then_some(header.commit_offset),
            subscribed: if header.has(PullFlag::SUBSCRIPTION) {
                Subscribed::Here {
                    expression: header.subscription.as_deref().unwrap_or("*"),
                    expression_type: header.expression_type.as_deref(),
                }
            } else {
                Subscribed::ByHeartbeat {
                    version: header.subscription_version,
                }
            },
        };
        let pulled = self.operations.pull(client, &request).await?;
        if pulled.code != PulledCode::NotFound || !header.has(PullFlag::SUSPEND) {
            let (reply, records) = pull_reply(command.opaque, pulled);
            return Ok(Answer::Records(reply, records));
        }
        let suspend = if self.operations.config.polling.long_polling {
            Duration::from_millis(u64::try_from(header.suspend_timeout_ms).unwrap_or(0))
        } else {
            self.operations.config.polling.short_polling
        };
        let held = HeldPull {
            client,
            group: request.group.to_owned(),
            topic: request.topic.to_owned(),
            queue_id: request.queue_id,
            offset: request.offset,
            count_max: request.count_max,
            bytes_max: request.bytes_max,
            subscribed: match request.subscribed {
                Subscribed::ByHeartbeat { version } => HeldSubscription::ByHeartbeat(version),
                Subscribed::Here {
                    expression,
                    expression_type,
                } => HeldSubscription::Here(expression.to_owned(), expression_type.map(str::to_owned)),
            },
            responder: peer.answer_later(command),
        };
        self.hold(held, pulled.filter, suspend.min(SUSPEND_MAX)).await;
        Ok(Answer::Later)
    }

    async fn hold(&self, held: HeldPull, filter: TagFilter, suspend: Duration) {
        let (topic, queue_id) = (held.topic.clone(), held.queue_id);
        let wanted = Wanted {
            topic: &topic,
            queue_id,
            offset: held.offset,
            filter,
            connection: held.client.connection,
            deadline: self.operations.runtime.mono() + suspend,
        };
        let end = || self.operations.queue_bounds(&topic, queue_id).max;
        match self.polls.hold(&wanted, held, end) {
            Held::Waits => {}
            Held::Again(held) => self.serve_held(held).await,
            Held::Full(held) => {
                let refusal = Refusal::new(Reason::Busy, "[OVERLOAD]too many pulls wait on this broker");
                let reply = Command::reply_to(held.responder.opaque(), super::code_of(refusal.reason))
                    .with_remark(refusal.remark.as_str());
                held.responder.reply(reply, Vec::new());
            }
        }
    }

    /// Executes a held pull again, for good.
    async fn serve_held(&self, held: HeldPull) {
        if !held.responder.peer().is_open() {
            return;
        }
        let opaque = held.responder.opaque();
        let (reply, records) = match self.operations.pull(held.client, &held.request()).await {
            Ok(pulled) => pull_reply(opaque, pulled),
            Err(refusal) => {
                let mut request = Command::request(0);
                request.opaque = opaque;
                (refuse(&request, &refusal), Vec::new())
            }
        };
        held.responder.reply(reply, records);
    }

    /// Serves pulls that were woken, until dropped.
    pub(in crate::broker) async fn run_woken(&self) {
        loop {
            for held in self.polls.woken().await {
                self.serve_held(held).await;
            }
        }
    }
}

fn pull_reply(opaque: i32, pulled: Pulled) -> (Command, Vec<bytes::Bytes>) {
    let code = match pulled.code {
        PulledCode::Found => response::SUCCESS,
        PulledCode::NotFound => response::PULL_NOT_FOUND,
        PulledCode::RetryImmediately => response::PULL_RETRY_IMMEDIATELY,
        PulledCode::OffsetMoved => response::PULL_OFFSET_MOVED,
    };
    let mut reply = Command::reply_to(opaque, code).with_remark(pulled.status);
    PullResponseHeader {
        suggested_broker_id: 0,
        next_begin_offset: pulled.next_offset,
        min_offset: pulled.bounds.min,
        max_offset: pulled.bounds.max,
        offset_delta: None,
        topic_sys_flag: Some(pulled.topic_sys_flag),
        group_sys_flag: Some(pulled.group_sys_flag),
        forbidden_type: None,
    }
    .write(&mut reply.ext);
    debug_assert!(
        pulled
            .chunks
            .iter()
            .all(|chunk| records(chunk).all(|record| record.is_ok()))
    );
    (reply, pulled.chunks)
}
