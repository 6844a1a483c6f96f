//! A consumer could not handle a message: it comes again later through the group's retry topic and a delay level, or,
//! past the last retry, goes to the group's dead letters. Stored under the same promise as a send.
//!
//! Sources: `AbstractSendMessageProcessor.java` (`consumerSendMsgBack`).

use super::send::VERSION_WITH_MAX_RECONSUME_TIMES;
use super::{ClientHandle, Operations, Reason, Refusal, Stored};
use crate::broker::state::topics;
use crate::protocol::message::{self, Draft, RecordView};
use crate::protocol::properties;
use crate::runtime::{Runtime, site};
use crate::types::PhysicalOffset;

#[derive(Clone, Copy, Debug)]
pub struct SendBackRequest<'a> {
    /// Where the message lies in the log.
    pub physical_offset: i64,
    pub group: &'a str,
    /// 0: by the number of retries; below: dead letter at once.
    pub delay_level: i32,
    pub origin_message_id: Option<&'a str>,
    pub max_reconsume_times: Option<i32>,
}

impl<R: Runtime> Operations<R> {
    /// `None`: the group keeps no retries, the message is done with.
    pub async fn send_back(
        &self,
        client: ClientHandle,
        request: &SendBackRequest<'_>,
    ) -> Result<Option<Stored>, Refusal> {
        let Some(group) = self.group_or_create(request.group).await? else {
            return Err(Refusal::group_missing(request.group));
        };
        if !self.broker_is_writable() {
            return Err(self.not_writable());
        }
        // Defect: answered as stored, and stored nowhere.
        if group.retry_queue_nums <= 0 || site(&self.runtime, "retry-not-stored") {
            return Ok(None);
        }
        let record = self.record(request.physical_offset).await?;
        let view = RecordView::parse(&record)
            .map_err(|error| Refusal::new(Reason::Failed, format!("look message by offset failed, {error}")))?;
        let Some(original) = view.draft() else {
            return Err(Refusal::new(
                Reason::IllegalMessage,
                "the message's properties are not text",
            ));
        };
        let max = request
            .max_reconsume_times
            .filter(|_| client.version >= VERSION_WITH_MAX_RECONSUME_TIMES)
            .unwrap_or(group.retry_max_times);
        let is_dead = view.reconsume_times >= max || request.delay_level < 0;
        let target = if is_dead {
            self.dead_letter_topic(request.group).await?
        } else {
            self.retry_topic(request.group, group.retry_queue_nums).await?
        };
        let queue_count = u64::try_from(target.write_queue_nums.max(1)).unwrap_or(1);
        let queue_id = (self.runtime.random_u64() % queue_count) as i32;
        let level = match request.delay_level {
            _ if is_dead => None,
            0 => self.delay_level(3 + view.reconsume_times),
            level => self.delay_level(level),
        };
        let text = retry_properties(&view, original.properties, request, is_dead);
        let text = match level {
            Some(level) => with_delay(text, level, &target.topic_name, queue_id),
            None => text,
        };
        let draft = Draft {
            topic: if level.is_some() {
                topics::SCHEDULE_TOPIC
            } else {
                &target.topic_name
            },
            queue_id: level.map_or(queue_id, |level| level - 1),
            sys_flag: original.sys_flag & !message::sys_flag::TRANSACTION_MASK,
            reconsume_times: view.reconsume_times.saturating_add(1),
            prepared_transaction_offset: 0,
            store_host: self.store_host,
            properties: &text,
            ..original
        };
        let appended = self.append(&[draft]).await?;
        Ok(Some(Stored {
            appended,
            queue_id,
            made_unique_key: None,
            is_delayed: level.is_some(),
            waits: true,
        }))
    }

    /// The record at a place in the log, if there is a whole one.
    pub async fn record(&self, physical_offset: i64) -> Result<bytes::Bytes, Refusal> {
        let missing = || {
            Refusal::new(
                Reason::Failed,
                format!("look message by offset failed, {physical_offset}"),
            )
        };
        let position = u64::try_from(physical_offset).map_err(|_| missing())?;
        match self.store.record_at(PhysicalOffset(position)).await {
            Ok(record) => record.ok_or_else(missing),
            Err(error) => Err(Refusal::store_failed(&error)),
        }
    }
}

/// The properties of the copy: what the broker had added for the last trip is gone, where it came from stays.
fn retry_properties(view: &RecordView<'_>, text: &str, request: &SendBackRequest<'_>, is_dead: bool) -> String {
    let trip = [
        properties::DELAY,
        properties::REAL_TOPIC,
        properties::REAL_QUEUE_ID,
        properties::TIMER_DELAY_SEC,
        properties::TIMER_DELAY_MS,
        properties::TIMER_DELIVER_MS,
    ];
    let mut copy = properties::remove_all(text, &trip);
    if properties::get(&copy, properties::RETRY_TOPIC).is_none() {
        properties::push(&mut copy, properties::RETRY_TOPIC, view.topic);
    }
    let id = view.offset_message_id();
    if properties::get(&copy, properties::ORIGIN_MESSAGE_ID).is_none() {
        let origin = request.origin_message_id.filter(|id| !id.is_empty()).unwrap_or(&id);
        properties::push(&mut copy, properties::ORIGIN_MESSAGE_ID, origin);
    }
    if is_dead {
        let topic = properties::get(&copy, properties::RETRY_TOPIC)
            .unwrap_or(view.topic)
            .to_owned();
        copy = properties::set(&copy, properties::DLQ_ORIGIN_TOPIC, &topic);
        copy = properties::set(&copy, properties::DLQ_ORIGIN_MESSAGE_ID, &id);
    }
    copy
}

fn with_delay(mut text: String, level: i32, topic: &str, queue_id: i32) -> String {
    properties::push(&mut text, properties::DELAY, &level.to_string());
    properties::push(&mut text, properties::REAL_TOPIC, topic);
    properties::push(&mut text, properties::REAL_QUEUE_ID, &queue_id.to_string());
    text
}
