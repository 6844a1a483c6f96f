//! Progress and connections, as operators see them (`ConsumeStats.java`, `TopicStatsTable.java`, `ConsumerConnection.java`, ...).

use std::collections::BTreeMap;

use super::{ConsumeFromWhere, ConsumeType, MessageModel, QueueMap, SubscriptionData, bodies, lenient};

bodies! {
    /// Reply to 208.
    #[derive(Default)]
    ConsumeStats {
        consume_tps: f64,
        offset_table: QueueMap<OffsetWrapper>,
    }

    /// Progress of a group on a queue.
    #[derive(Eq, Copy, Default)]
    OffsetWrapper {
        broker_offset: i64,
        consumer_offset: i64,
        last_timestamp: i64,
        pull_offset: i64,
    }

    /// Reply to 317.
    #[derive(Default)]
    ConsumeStatsList {
        broker_addr: String,
        consume_stats_list: Vec<BTreeMap<String, Vec<ConsumeStats>>>,
        total_diff: i64,
        total_inflight_diff: i64,
    }

    /// Reply to 202.
    #[derive(Default)]
    TopicStatsTable {
        offset_table: QueueMap<TopicOffset>,
        topic_put_tps: f64,
    }

    /// Bounds of a queue.
    #[derive(Eq, Copy, Default)]
    TopicOffset {
        last_update_timestamp: i64,
        max_offset: i64,
        min_offset: i64,
    }

    /// A client's connection.
    #[derive(Eq, Default)]
    Connection {
        client_addr: String,
        client_id: String,
        language: String,
        #[serde(deserialize_with = "lenient::integer")]
        version: i32,
    }

    /// Reply to 203.
    #[derive(Eq, Default)]
    ConsumerConnection {
        connection_set: Vec<Connection>,
        consume_from_where: ConsumeFromWhere,
        consume_type: ConsumeType,
        message_model: MessageModel,
        subscription_table: BTreeMap<String, SubscriptionData>,
    }

    /// Reply to 204.
    #[derive(Eq, Default)]
    ProducerConnection {
        connection_set: Vec<Connection>,
    }

    /// Reply to 328.
    #[derive(Eq, Default)]
    ProducerTableInfo {
        data: BTreeMap<String, Vec<ProducerInfo>>,
    }

    /// A producer of a group.
    #[derive(Eq, Default)]
    ProducerInfo {
        client_id: String,
        language: String,
        last_update_timestamp: i64,
        #[serde(rename = "remoteIP")]
        remote_ip: String,
        #[serde(deserialize_with = "lenient::integer")]
        version: i32,
    }

    /// Reply to 307, from client to broker to operator.
    #[derive(Default)]
    ConsumerRunningInfo {
        #[serde(skip_serializing_if = "Option::is_none")]
        jstack: Option<String>,
        mq_table: QueueMap<ProcessQueueInfo>,
        properties: BTreeMap<String, String>,
        status_table: BTreeMap<String, ConsumeStatus>,
        subscription_set: Vec<SubscriptionData>,
    }

    /// A queue as its consumer sees it.
    #[derive(Eq, Default)]
    ProcessQueueInfo {
        cached_msg_count: i64,
        cached_msg_max_offset: i64,
        cached_msg_min_offset: i64,
        #[serde(rename = "cachedMsgSizeInMiB")]
        cached_msg_size_in_mib: i64,
        commit_offset: i64,
        /// Spelled so by Java; `dropped` by Go.
        #[serde(rename = "droped", alias = "dropped")]
        dropped: bool,
        last_consume_timestamp: i64,
        last_lock_timestamp: i64,
        last_pull_timestamp: i64,
        locked: bool,
        transaction_msg_count: i64,
        transaction_msg_max_offset: i64,
        transaction_msg_min_offset: i64,
        try_unlock_times: i64,
    }

    /// Speed of a consumer on a topic.
    #[derive(Default)]
    ConsumeStatus {
        consume_failed_msgs: i64,
        #[serde(rename = "consumeFailedTPS")]
        consume_failed_tps: f64,
        #[serde(rename = "consumeOKTPS")]
        consume_ok_tps: f64,
        #[serde(rename = "consumeRT")]
        consume_rt: f64,
        #[serde(rename = "pullRT")]
        pull_rt: f64,
        #[serde(rename = "pullTPS")]
        pull_tps: f64,
    }

    /// Reply to 309, from client to broker to operator.
    #[derive(Eq, Default)]
    ConsumeMessageDirectlyResult {
        auto_commit: bool,
        /// `CR_SUCCESS`, `CR_LATER`, `CR_ROLLBACK`, `CR_COMMIT`, `CR_THROW_EXCEPTION` or `CR_RETURN_NULL`.
        consume_result: String,
        order: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        remark: Option<String>,
        spent_time_mills: i64,
    }
}
