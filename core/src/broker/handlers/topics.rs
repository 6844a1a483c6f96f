//! Topics, as operators see them.

use std::collections::BTreeMap;

use super::{Answer, Handlers, Rejected, answer, success};
use crate::broker::operations::{Attributes, Reason, Refusal};
use crate::protocol::Command;
use crate::protocol::body::{
    Body, GroupList, QueueMap, TopicConfig, TopicConfigSerializeWrapper, TopicList, TopicOffset, TopicStatsTable,
};
use crate::protocol::header::{AllTopicConfigHeader, CreateTopicHeader, TopicHeader};
use crate::runtime::Runtime;
use crate::types::MessageQueue;

impl<R: Runtime> Handlers<R> {
    /// Code 17.
    pub(in crate::broker) async fn put_topic(&self, command: &Command) -> Answer {
        let result = async {
            let header = CreateTopicHeader::read(&command.ext)?;
            let config = TopicConfig {
                attributes: BTreeMap::new(),
                order: header.order,
                perm: header.permission,
                read_queue_nums: header.read_queue_count,
                topic_filter_type: header.topic_filter_type.as_deref().unwrap_or("SINGLE_TAG").to_owned(),
                topic_name: header.topic.to_string(),
                topic_sys_flag: header.topic_sys_flag.unwrap_or(0),
                write_queue_nums: header.write_queue_count,
            };
            let attributes = Attributes(header.attributes.as_deref().unwrap_or_default());
            self.operations.put_topic(config, attributes).await?;
            success(command, |_| {})
        };
        answer(command, result.await)
    }

    /// Code 215.
    pub(in crate::broker) async fn remove_topic(&self, command: &Command) -> Answer {
        let result = async {
            let header = TopicHeader::read(&command.ext)?;
            self.operations.remove_topic(&header.topic).await?;
            success(command, |_| {})
        };
        answer(command, result.await)
    }

    /// Code 21. A page if one is asked for, with the total only then: clients page until they have as many.
    pub(in crate::broker) fn all_topics(&self, command: &Command) -> Answer {
        let result = || {
            let header = AllTopicConfigHeader::read(&command.ext)?;
            let (version, snapshot) = {
                let tables = self.operations.tables();
                (tables.topics.version(), tables.topics.snapshot())
            };
            let total = snapshot.len();
            let (start, count) = page(header.topic_sequence, header.topic_count_max, total);
            let selected = snapshot.iter().skip(start).take(count);
            let body = TopicConfigSerializeWrapper {
                data_version: version,
                topic_config_table: selected
                    .map(|config| (config.topic_name.clone(), TopicConfig::clone(config)))
                    .collect(),
                ..TopicConfigSerializeWrapper::default()
            };
            let mut reply = Command::success(command).with_body(body.write());
            reply.ext.push_integer("totalTopicNum", total as i64);
            Ok(Answer::Reply(reply))
        };
        answer(command, result())
    }

    /// Code 351.
    pub(in crate::broker) fn topic_config(&self, command: &Command) -> Answer {
        let result = || {
            let header = TopicHeader::read(&command.ext)?;
            let config = self.operations.tables().topics.get(&header.topic).cloned();
            let Some(config) = config else {
                let remark = format!("No topic in this broker. topic: {}", header.topic);
                return Err(Refusal::new(Reason::TopicMissing, remark).into());
            };
            Ok(Answer::Reply(Command::success(command).with_body(config.write())))
        };
        answer(command, result())
    }

    /// Code 202.
    pub(in crate::broker) async fn topic_statistics(&self, command: &Command) -> Answer {
        let result = self.try_topic_statistics(command).await;
        answer(command, result)
    }

    async fn try_topic_statistics(&self, command: &Command) -> Result<Answer, Rejected> {
        let header = TopicHeader::read(&command.ext)?;
        let queues = self.operations.topic_statistics(&header.topic).await?;
        let entries = queues.into_iter().map(|queue| {
            let name = MessageQueue {
                topic: header.topic.to_string(),
                broker_name: self.operations.broker_name().to_owned(),
                queue_id: queue.queue_id,
            };
            let offsets = TopicOffset {
                last_update_timestamp: queue.last_stored.map_or(0, |time| time.0),
                max_offset: queue.max,
                min_offset: queue.min,
            };
            (name, offsets)
        });
        let body = TopicStatsTable {
            offset_table: entries.collect::<QueueMap<_>>(),
            topic_put_tps: 0.0,
        };
        Ok(Answer::Reply(Command::success(command).with_body(body.write())))
    }

    /// Code 305.
    pub(in crate::broker) fn system_topics(&self, command: &Command) -> Answer {
        let body = TopicList {
            broker_addr: None,
            topic_list: self.operations.tables().topics.system_names().to_vec(),
        };
        Answer::Reply(Command::success(command).with_body(body.write()))
    }

    /// Code 300.
    pub(in crate::broker) fn groups_of_topic(&self, command: &Command) -> Answer {
        let result = || {
            let header = TopicHeader::read(&command.ext)?;
            let body = GroupList {
                group_list: self.operations.groups_of(&header.topic),
            };
            Ok(Answer::Reply(Command::success(command).with_body(body.write())))
        };
        answer(command, result())
    }
}

/// First index and count of a page; everything if none is asked for.
pub(super) fn page(sequence: Option<i32>, count_max: Option<i32>, total: usize) -> (usize, usize) {
    let start = sequence.and_then(|start| usize::try_from(start).ok()).unwrap_or(0);
    let count = count_max
        .and_then(|count| usize::try_from(count).ok())
        .filter(|count| *count > 0);
    (start, count.unwrap_or(total))
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn without_a_page_everything_is_given() {
        assert_eq!(page(None, None, 7), (0, 7));
        assert_eq!(page(Some(2), Some(3), 7), (2, 3));
        assert_eq!(page(Some(-1), Some(0), 7), (0, 7));
    }
}
