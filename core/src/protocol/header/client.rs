//! Client management: heartbeats, membership, notifications (`UnregisterClientRequestHeader.java`, ...).

use super::headers;
use crate::protocol::Text;

headers! {
    /// Reply to 34.
    HeartbeatResponseHeader {
        "IS_SUPPORT_HEART_BEAT_V2" => supports_version_2: bool = false,
        /// True asks the client for its full heartbeat.
        "IS_SUB_CHANGE" => subscription_changed: bool = false,
    }

    /// Code 35.
    UnregisterClientHeader {
        "clientID" => client_id: Text,
        "producerGroup" => producer_group: Option<Text>,
        "consumerGroup" => consumer_group: Option<Text>,
    }

    /// Codes 38, 40 (broker to client) and 203.
    ConsumerGroupHeader {
        "consumerGroup" => consumer_group: Text,
    }

    /// Code 204.
    ProducerGroupHeader {
        "producerGroup" => producer_group: Text,
    }

    /// Code 307, both hops.
    ConsumerRunningInfoHeader {
        "consumerGroup" => consumer_group: Text,
        "clientId" => client_id: Text,
        "jstackEnable" => jstack_enable: bool = false,
    }

    /// Code 309, both hops.
    ConsumeMessageDirectlyHeader {
        "consumerGroup" => consumer_group: Text,
        "clientId" => client_id: Option<Text>,
        "msgId" => message_id: Option<Text>,
        "brokerName" => broker_name: Option<Text>,
        "topic" => topic: Option<Text>,
        "topicSysFlag" => topic_sys_flag: Option<i32>,
        "groupSysFlag" => group_sys_flag: Option<i32>,
    }
}
