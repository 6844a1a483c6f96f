//! The one list of request codes and what each calls.

use super::handlers::{Answer, Handlers};
use super::operations::{Counters, Searched, Turn};
use crate::protocol::Command;
use crate::protocol::code::request;
use crate::remoting::Peer;
use crate::runtime::Runtime;

impl<R: Runtime> Handlers<R> {
    pub(super) async fn dispatch(&self, peer: &Peer, command: &Command, turn: &mut Turn) -> Answer {
        match command.code {
            request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
                self.send(peer, command, turn).await
            }
            request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => self.pull(peer, command).await,
            request::QUERY_MESSAGE => self.query_message(command).await,
            request::QUERY_CONSUMER_OFFSET => self.query_offset(command),
            request::UPDATE_CONSUMER_OFFSET => self.commit_offset(peer, command),
            request::UPDATE_AND_CREATE_TOPIC => self.put_topic(command).await,
            request::GET_ALL_TOPIC_CONFIG => self.all_topics(command),
            request::GET_BROKER_CONFIG => self.broker_config(command),
            request::GET_BROKER_RUNTIME_INFO => self.runtime_info(command),
            request::SEARCH_OFFSET_BY_TIMESTAMP => self.search_offset(peer, command).await,
            request::GET_MAX_OFFSET => self.queue_bound(peer, command, Searched::Max).await,
            request::GET_MIN_OFFSET => self.queue_bound(peer, command, Searched::Min).await,
            request::GET_EARLIEST_MSG_STORETIME => self.earliest_store_time(command).await,
            request::VIEW_MESSAGE_BY_ID => self.view_message(command).await,
            request::HEART_BEAT => self.heartbeat(peer, command).await,
            request::UNREGISTER_CLIENT => self.unregister_client(peer, command),
            request::CONSUMER_SEND_MSG_BACK => self.send_back(peer, command).await,
            request::END_TRANSACTION => self.end_transaction(command),
            request::GET_CONSUMER_LIST_BY_GROUP => self.consumer_list(command),
            request::LOCK_BATCH_MQ => self.lock_queues(command).await,
            request::UNLOCK_BATCH_MQ => self.unlock_queues(command),
            request::CHECK_CLIENT_CONFIG => self.check_client(command),
            request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => self.put_group(command).await,
            request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => self.all_groups(command),
            request::GET_TOPIC_STATS_INFO => self.topic_statistics(command).await,
            request::GET_CONSUMER_CONNECTION_LIST => self.consumer_connections(command),
            request::GET_PRODUCER_CONNECTION_LIST => self.producer_connections(command),
            request::DELETE_SUBSCRIPTIONGROUP => self.remove_group(command).await,
            request::GET_CONSUME_STATS => self.consume_stats(command).await,
            request::DELETE_TOPIC_IN_BROKER => self.remove_topic(command).await,
            request::QUERY_TOPIC_CONSUME_BY_WHO => self.groups_of_topic(command),
            request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => self.system_topics(command),
            request::GET_CONSUMER_RUNNING_INFO | request::CONSUME_MESSAGE_DIRECTLY => self.relay(peer, command),
            request::GET_TOPIC_CONFIG => self.topic_config(command),
            request::GET_SUBSCRIPTIONGROUP_CONFIG => self.group_config(command),
            _ => self.unsupported(command),
        }
    }

    fn unsupported(&self, command: &Command) -> Answer {
        Counters::add(&self.operations.counters.unsupported, 1);
        Answer::Reply(Command::not_supported(command))
    }
}
