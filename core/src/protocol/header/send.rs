//! The producer's path: send, send back, transactions, request and reply (`SendMessageRequestHeader.java`,
//! `SendMessageRequestHeaderV2.java`, `SendMessageResponseHeader.java`, `EndTransactionRequestHeader.java`, ...).

use super::headers;
use crate::protocol::{ExtFields, Text};

headers! {
    /// Codes 10, 310, 320, 324, 325. Reads the long and the one-letter names alike; [`SendHeader::write`] writes letters.
    SendHeader<'a> {
        "a" | "producerGroup" => producer_group: &'a str = "",
        "b" | "topic" => topic: &'a str,
        /// Template topic for automatic creation.
        "c" | "defaultTopic" => default_topic: &'a str = "TBW102",
        "d" | "defaultTopicQueueNums" => default_topic_queue_count: i32 = 4,
        /// Negative: the broker picks a queue.
        "e" | "queueId" => queue_id: i32 = -1,
        "f" | "sysFlag" => sys_flag: i32 = 0,
        "g" | "bornTimestamp" => born_timestamp: i64 = 0,
        /// The application's own flag.
        "h" | "flag" => flag: i32 = 0,
        "i" | "properties" => properties: &'a str = "",
        "j" | "reconsumeTimes" => reconsume_times: i32 = 0,
        "k" | "unitMode" => unit_mode: bool = false,
        "l" | "maxReconsumeTimes" => max_reconsume_times: Option<i32>,
        /// True with code 320; the C++ client sends a batch as code 10 with `1` here.
        "m" | "batch" => batch: bool = false,
        "n" | "bname" => broker_name: Option<&'a str>,
    }

    /// Reply to every send that was stored, whatever its code.
    SendResponseHeader {
        /// Offset message id; comma list for a batch.
        "msgId" => message_id: Text,
        "queueId" => queue_id: i32,
        "queueOffset" => queue_offset: i64,
        "transactionId" => transaction_id: Option<Text>,
        "batchUniqId" => batch_unique_id: Option<Text>,
        "recallHandle" => recall_handle: Option<Text>,
        "MSG_REGION" => region: Text = DEFAULT_REGION,
        /// Absent: on for Java, off for Go. Always written.
        "TRACE_ON" => trace_on: bool = true,
    }

    /// Code 36.
    SendBackHeader {
        /// Physical offset of the message.
        "offset" => offset: i64,
        "group" => group: Text,
        /// 0: the broker decides; negative: dead letter at once.
        "delayLevel" => delay_level: i32 = 0,
        "originMsgId" => origin_message_id: Option<Text>,
        "originTopic" => origin_topic: Option<Text>,
        "unitMode" => unit_mode: bool = false,
        /// Honoured for senders of version 121 and later.
        "maxReconsumeTimes" => max_reconsume_times: Option<i32>,
        "bname" => broker_name: Option<Text>,
    }

    /// Code 37.
    EndTransactionHeader {
        "topic" => topic: Option<Text>,
        "producerGroup" => producer_group: Text,
        "tranStateTableOffset" => queue_offset: i64,
        "commitLogOffset" => physical_offset: i64,
        /// 8 commit, 12 rollback, 0 unknown.
        "commitOrRollback" => commit_or_rollback: i32,
        "fromTransactionCheck" => from_transaction_check: bool = false,
        "msgId" => message_id: Option<Text>,
        "transactionId" => transaction_id: Option<Text>,
        "bname" => broker_name: Option<Text>,
    }

    /// Code 39, broker to client.
    CheckTransactionStateHeader {
        "topic" => topic: Option<Text>,
        "tranStateTableOffset" => queue_offset: i64,
        "commitLogOffset" => physical_offset: i64,
        "msgId" => message_id: Option<Text>,
        "transactionId" => transaction_id: Option<Text>,
        "offsetMsgId" => offset_message_id: Option<Text>,
        "bname" => broker_name: Option<Text>,
    }

    /// Code 326, broker to client.
    PushReplyHeader {
        "producerGroup" => producer_group: Text = Text::new(),
        "topic" => topic: Text,
        "defaultTopic" => default_topic: Text = Text::new(),
        "defaultTopicQueueNums" => default_topic_queue_count: i32 = 4,
        "queueId" => queue_id: i32 = 0,
        "sysFlag" => sys_flag: i32 = 0,
        "bornTimestamp" => born_timestamp: i64 = 0,
        "flag" => flag: i32 = 0,
        "properties" => properties: Text = Text::new(),
        "reconsumeTimes" => reconsume_times: i32 = 0,
        "unitMode" => unit_mode: bool = false,
        "bornHost" => born_host: Text = Text::new(),
        "storeHost" => store_host: Text = Text::new(),
        "storeTimestamp" => store_timestamp: i64 = 0,
    }

    /// Code 370.
    RecallHeader {
        "producerGroup" => producer_group: Option<Text>,
        "topic" => topic: Text,
        "recallHandle" => recall_handle: Text,
    }

    /// Reply to 370.
    RecallResponseHeader {
        "msgId" => message_id: Text,
    }
}

/// The region that a broker without one announces.
pub const DEFAULT_REGION: Text = Text::from_static("DefaultRegion");

impl SendHeader<'_> {
    /// Appends the fields under their long names, for codes 10 and 324.
    pub fn write_long(&self, fields: &mut ExtFields) {
        fields.push("producerGroup", self.producer_group);
        fields.push("topic", self.topic);
        fields.push("defaultTopic", self.default_topic);
        fields.push_integer("defaultTopicQueueNums", self.default_topic_queue_count.into());
        fields.push_integer("queueId", self.queue_id.into());
        fields.push_integer("sysFlag", self.sys_flag.into());
        fields.push_integer("bornTimestamp", self.born_timestamp);
        fields.push_integer("flag", self.flag.into());
        fields.push("properties", self.properties);
        fields.push_integer("reconsumeTimes", self.reconsume_times.into());
        fields.push_bool("unitMode", self.unit_mode);
        if let Some(times) = self.max_reconsume_times {
            fields.push_integer("maxReconsumeTimes", times.into());
        }
        fields.push_bool("batch", self.batch);
        if let Some(name) = &self.broker_name {
            fields.push("bname", name);
        }
    }
}
