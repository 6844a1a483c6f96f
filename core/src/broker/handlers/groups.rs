//! Subscription groups, as operators see them.

use super::topics::page;
use super::{Answer, Handlers, Rejected, answer, success};
use crate::broker::operations::Refusal;
use crate::protocol::Command;
use crate::protocol::body::{
    Body, ConsumeStats, OffsetWrapper, QueueMap, SubscriptionGroupConfig, SubscriptionGroupWrapper,
};
use crate::protocol::header::{
    AllSubscriptionGroupHeader, ConsumeStatsHeader, DeleteSubscriptionGroupHeader, GroupHeader,
};
use crate::runtime::Runtime;
use crate::types::MessageQueue;

impl<R: Runtime> Handlers<R> {
    /// Code 200.
    pub(in crate::broker) async fn put_group(&self, command: &Command) -> Answer {
        let result = async {
            let config = SubscriptionGroupConfig::read(&command.body)?;
            self.operations.put_group(config).await?;
            success(command, |_| {})
        };
        answer(command, result.await)
    }

    /// Code 207.
    pub(in crate::broker) async fn remove_group(&self, command: &Command) -> Answer {
        let result = async {
            let header = DeleteSubscriptionGroupHeader::read(&command.ext)?;
            self.operations
                .remove_group(&header.group_name, header.clean_offset)
                .await?;
            success(command, |_| {})
        };
        answer(command, result.await)
    }

    /// Code 201.
    pub(in crate::broker) fn all_groups(&self, command: &Command) -> Answer {
        let result = || {
            let header = AllSubscriptionGroupHeader::read(&command.ext)?;
            let saved = self.operations.tables().groups.save();
            let total = saved.subscription_group_table.len();
            let (start, count) = page(header.group_sequence, header.group_count_max, total);
            let body = SubscriptionGroupWrapper {
                data_version: saved.data_version,
                forbidden_table: saved.forbidden_table,
                subscription_group_table: saved
                    .subscription_group_table
                    .into_iter()
                    .skip(start)
                    .take(count)
                    .collect(),
            };
            let mut reply = Command::success(command).with_body(body.write());
            reply.ext.push_integer("totalGroupNum", total as i64);
            Ok(Answer::Reply(reply))
        };
        answer(command, result())
    }

    /// Code 352.
    pub(in crate::broker) fn group_config(&self, command: &Command) -> Answer {
        let result = || {
            let header = GroupHeader::read(&command.ext)?;
            let config = self.operations.tables().groups.get(&header.group).cloned();
            let config = config.ok_or_else(|| Refusal::group_missing(&header.group))?;
            Ok(Answer::Reply(Command::success(command).with_body(config.write())))
        };
        answer(command, result())
    }

    /// Code 208.
    pub(in crate::broker) async fn consume_stats(&self, command: &Command) -> Answer {
        let result = self.try_consume_stats(command).await;
        answer(command, result)
    }

    async fn try_consume_stats(&self, command: &Command) -> Result<Answer, Rejected> {
        let header = ConsumeStatsHeader::read(&command.ext)?;
        let progress = self
            .operations
            .group_progress(&header.consumer_group, header.topic.as_deref())
            .await?;
        let entries = progress.into_iter().map(|queue| {
            let name = MessageQueue {
                topic: queue.topic,
                broker_name: self.operations.broker_name().to_owned(),
                queue_id: queue.queue_id,
            };
            let offsets = OffsetWrapper {
                broker_offset: queue.broker_offset,
                consumer_offset: queue.consumer_offset,
                last_timestamp: queue.last_stored.map_or(0, |time| time.0),
                pull_offset: queue.consumer_offset,
            };
            (name, offsets)
        });
        let body = ConsumeStats {
            consume_tps: 0.0,
            offset_table: entries.collect::<QueueMap<_>>(),
        };
        Ok(Answer::Reply(Command::success(command).with_body(body.write())))
    }
}
