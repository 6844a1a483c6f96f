//! Consumers among themselves and towards the broker: locks, members, offsets, assignment (`LockBatchRequestBody.java`,
//! `GetConsumerListByGroupResponseBody.java`, `ResetOffsetBody.java`, `ConsumerOffsetSerializeWrapper.java`, ...).

use std::collections::BTreeMap;

use super::{DataVersion, QueueMap, bodies, lenient};
use crate::types::MessageQueue;

bodies! {
    /// Codes 41 and 42.
    #[derive(Eq, Default)]
    LockBatchRequestBody {
        client_id: String,
        consumer_group: String,
        mq_set: Vec<MessageQueue>,
        #[serde(deserialize_with = "lenient::boolean")]
        only_this_broker: bool,
    }

    /// Reply to 41: the queues asked for that this client holds now.
    #[derive(Eq, Default)]
    LockBatchResponseBody {
        #[serde(rename = "lockOKMQSet")]
        lock_ok_mq_set: Vec<MessageQueue>,
    }

    /// Reply to 38.
    #[derive(Eq, Default)]
    ConsumerIdList {
        consumer_id_list: Vec<String>,
    }

    /// Reply to 222, body of 220.
    #[derive(Default)]
    ResetOffsetBody {
        offset_table: QueueMap<i64>,
    }

    /// Reply to 221.
    #[derive(Default)]
    ConsumerStatusBody {
        message_queue_table: QueueMap<i64>,
    }

    /// Reply to 223.
    #[derive(Default)]
    ConsumerStatusTable {
        consumer_table: BTreeMap<String, QueueMap<i64>>,
    }

    /// Reply to 43. Keys of the tables are `topic@group`.
    #[derive(Eq, Default)]
    ConsumerOffsetSerializeWrapper {
        data_version: DataVersion,
        group_topic_map: BTreeMap<String, Vec<String>>,
        offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
        pull_offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
    }

    /// Reply to 45: delivered offset by delay level.
    #[derive(Eq, Default)]
    DelayOffsetSerializeWrapper {
        data_version: DataVersion,
        offset_table: BTreeMap<i32, i64>,
    }

    /// Code 400.
    #[derive(Eq, Default)]
    QueryAssignmentRequestBody {
        client_id: String,
        consumer_group: String,
        message_model: super::MessageModel,
        strategy_name: String,
        topic: String,
    }

    /// A queue given to a client.
    #[derive(Eq)]
    MessageQueueAssignment {
        #[serde(skip_serializing_if = "Option::is_none")]
        attachments: Option<BTreeMap<String, String>>,
        message_queue: MessageQueue,
        /// `PULL` or `POP`.
        mode: String,
    }

    /// Reply to 400.
    #[derive(Eq, Default)]
    QueryAssignmentResponseBody {
        message_queue_assignments: Vec<MessageQueueAssignment>,
    }

    /// Code 401.
    #[derive(Eq, Default)]
    SetMessageRequestModeRequestBody {
        consumer_group: String,
        /// `PULL` or `POP`.
        mode: String,
        #[serde(deserialize_with = "lenient::integer")]
        pop_share_queue_num: i32,
        topic: String,
    }

    /// Reply to 402: by topic and group.
    #[derive(Eq, Default)]
    MessageRequestModeMap {
        message_request_mode_map: BTreeMap<String, BTreeMap<String, SetMessageRequestModeRequestBody>>,
    }

    /// Code 200151.
    #[derive(Eq, Default)]
    BatchAckMessageRequestBody {
        acks: Vec<BatchAck>,
        broker_name: String,
    }

    /// Offsets of one handle. Short names are written, long ones read too.
    #[derive(Eq, Default)]
    BatchAck {
        /// Base64 of a little-endian bit set relative to `start_offset`.
        #[serde(rename = "b", alias = "bitSet")]
        bit_set: String,
        #[serde(rename = "c", alias = "consumerGroup")]
        consumer_group: String,
        #[serde(rename = "it", alias = "invisibleTime", deserialize_with = "lenient::integer")]
        invisible_time: i64,
        #[serde(rename = "pt", alias = "popTime", deserialize_with = "lenient::integer")]
        pop_time: i64,
        #[serde(rename = "q", alias = "queueId", deserialize_with = "lenient::integer")]
        queue_id: i32,
        #[serde(rename = "r", alias = "retry")]
        retry: String,
        #[serde(rename = "rq", alias = "reviveQueueId", deserialize_with = "lenient::integer")]
        revive_queue_id: i32,
        #[serde(rename = "so", alias = "startOffset", deserialize_with = "lenient::integer")]
        start_offset: i64,
        #[serde(rename = "t", alias = "topic")]
        topic: String,
    }
}

impl Default for MessageQueueAssignment {
    fn default() -> MessageQueueAssignment {
        MessageQueueAssignment {
            attachments: None,
            message_queue: MessageQueue {
                topic: String::new(),
                broker_name: String::new(),
                queue_id: 0,
            },
            mode: "PULL".to_owned(),
        }
    }
}
