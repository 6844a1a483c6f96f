//! Offsets of groups and bounds of queues.

use super::{Answer, Handlers, Rejected, answer, client_handle, success};
use crate::broker::operations::{CommitRequest, Reason, Refusal, Searched};
use crate::protocol::Command;
use crate::protocol::header::{QueryConsumerOffsetHeader, QueueHeader, SearchOffsetHeader, UpdateConsumerOffsetHeader};
use crate::remoting::Peer;
use crate::runtime::{Runtime, WallMillis};
use crate::store::Boundary;

impl<R: Runtime> Handlers<R> {
    /// Code 14.
    pub(in crate::broker) fn query_offset(&self, command: &Command) -> Answer {
        answer(command, self.try_query_offset(command))
    }

    fn try_query_offset(&self, command: &Command) -> Result<Answer, Rejected> {
        let header = QueryConsumerOffsetHeader::read(&command.ext)?;
        let zero_if_none = header.set_zero_if_not_found != Some(false);
        let offset =
            self.operations
                .committed_offset(&header.consumer_group, &header.topic, header.queue_id, zero_if_none);
        let Some(offset) = offset else {
            let remark = "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first";
            return Err(Refusal::new(Reason::NotFound, remark).into());
        };
        success(command, |ext| ext.push_integer("offset", offset))
    }

    /// Code 15.
    pub(in crate::broker) fn commit_offset(&self, peer: &Peer, command: &Command) -> Answer {
        let result = || {
            let header = UpdateConsumerOffsetHeader::read(&command.ext)?;
            let commit = CommitRequest {
                group: &header.consumer_group,
                topic: &header.topic,
                queue_id: header.queue_id,
                offset: header.commit_offset,
            };
            self.operations.commit_offset(client_handle(peer, command), &commit)?;
            success(command, |_| {})
        };
        answer(command, result())
    }

    /// Code 29.
    pub(in crate::broker) async fn search_offset(&self, peer: &Peer, command: &Command) -> Answer {
        let result = async {
            let header = SearchOffsetHeader::read(&command.ext)?;
            let boundary = if header.wants_upper_boundary() {
                Boundary::Upper
            } else {
                Boundary::Lower
            };
            let searched = Searched::ByTime(WallMillis(header.timestamp), boundary);
            let client = client_handle(peer, command);
            let offset = self
                .operations
                .search_offset(client, &header.topic, header.queue_id, searched)
                .await?;
            success(command, |ext| ext.push_integer("offset", offset))
        };
        answer(command, result.await)
    }

    /// Codes 30 and 31.
    pub(in crate::broker) async fn queue_bound(&self, peer: &Peer, command: &Command, searched: Searched) -> Answer {
        let result = async {
            let header = QueueHeader::read(&command.ext)?;
            let client = client_handle(peer, command);
            let offset = self
                .operations
                .search_offset(client, &header.topic, header.queue_id, searched)
                .await?;
            success(command, |ext| ext.push_integer("offset", offset))
        };
        answer(command, result.await)
    }

    /// Code 32.
    pub(in crate::broker) async fn earliest_store_time(&self, command: &Command) -> Answer {
        let result = async {
            let header = QueueHeader::read(&command.ext)?;
            let stored = self
                .operations
                .earliest_store_time(&header.topic, header.queue_id)
                .await?;
            success(command, |ext| {
                ext.push_integer("timestamp", stored.map_or(-1, |time| time.0))
            })
        };
        answer(command, result.await)
    }
}
