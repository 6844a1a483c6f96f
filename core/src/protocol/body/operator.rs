//! What else operators read from a broker (`BrokerStatsData.java`, `QueryConsumeQueueResponseBody.java`, `HARuntimeInfo.java`, ...).

use std::collections::BTreeMap;

use super::{SubscriptionData, bodies, lenient};
use crate::types::MessageQueue;

bodies! {
    /// Reply to 315.
    #[derive(Default)]
    BrokerStatsData {
        stats_day: BrokerStatsItem,
        stats_hour: BrokerStatsItem,
        stats_minute: BrokerStatsItem,
    }

    /// A sum over a period.
    #[derive(Default)]
    BrokerStatsItem {
        avgpt: f64,
        sum: i64,
        tps: f64,
    }

    /// Reply to 303.
    #[derive(Eq, Default)]
    ConsumeTimeSpanBody {
        consume_time_span_set: Vec<QueueTimeSpan>,
    }

    /// Times at the ends of a queue and at a group's offset.
    #[derive(Eq)]
    QueueTimeSpan {
        consume_time_stamp: i64,
        delay_time: i64,
        max_time_stamp: i64,
        message_queue: MessageQueue,
        min_time_stamp: i64,
    }

    /// Reply to 321.
    #[derive(Eq, Default)]
    QueryConsumeQueueResponseBody {
        #[serde(skip_serializing_if = "Option::is_none")]
        filter_data: Option<String>,
        max_queue_index: i64,
        min_queue_index: i64,
        queue_data: Vec<ConsumeQueueData>,
        #[serde(skip_serializing_if = "Option::is_none")]
        subscription_data: Option<SubscriptionData>,
    }

    /// An entry of a consume queue.
    #[derive(Eq, Default)]
    ConsumeQueueData {
        #[serde(skip_serializing_if = "Option::is_none")]
        bit_map: Option<String>,
        eval: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        extend_data_json: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        msg: Option<String>,
        physic_offset: i64,
        physic_size: i32,
        tags_code: i64,
    }

    /// Reply to 308: offset by queue.
    #[derive(Eq, Default)]
    QueryCorrectionOffsetBody {
        correction_offsets: BTreeMap<i32, i64>,
    }

    /// Reply to 345.
    #[derive(Eq, Default)]
    QuerySubscriptionResponseBody {
        group: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        subscription_data: Option<SubscriptionData>,
        topic: String,
    }

    /// Reply to 353.
    #[derive(Eq, Default)]
    GroupForbidden {
        group: String,
        readable: bool,
        topic: String,
    }

    /// Reply to 907.
    #[derive(Eq, Default)]
    HaRuntimeInfo {
        ha_client_runtime_info: HaClientRuntimeInfo,
        ha_connection_info: Vec<HaConnectionRuntimeInfo>,
        in_sync_slave_nums: i32,
        master: bool,
        master_commit_log_max_offset: i64,
    }

    /// A replica's side of replication.
    #[derive(Eq, Default)]
    HaClientRuntimeInfo {
        last_read_timestamp: i64,
        last_write_timestamp: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        master_addr: Option<String>,
        master_flush_offset: i64,
        max_offset: i64,
        transferred_byte_in_second: i64,
    }

    /// A master's view of a replica.
    #[derive(Eq, Default)]
    HaConnectionRuntimeInfo {
        addr: String,
        diff: i64,
        in_sync: bool,
        slave_ack_offset: i64,
        transfer_from_where: i64,
        transferred_byte_in_second: i64,
    }

    /// Code 513, the part needed to refuse it by name.
    #[derive(Eq, Default)]
    TopicQueueMappingDetail {
        bname: String,
        #[serde(deserialize_with = "lenient::integer")]
        epoch: i64,
        topic: String,
        #[serde(deserialize_with = "lenient::integer")]
        total_queues: i32,
    }
}

impl Default for QueueTimeSpan {
    fn default() -> QueueTimeSpan {
        QueueTimeSpan {
            consume_time_stamp: 0,
            delay_time: 0,
            max_time_stamp: 0,
            message_queue: MessageQueue {
                topic: String::new(),
                broker_name: String::new(),
                queue_id: 0,
            },
            min_time_stamp: 0,
        }
    }
}
