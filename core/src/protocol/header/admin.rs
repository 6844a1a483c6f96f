//! What operators ask a broker (`CreateTopicRequestHeader.java`, `GetConsumeStatsRequestHeader.java`, ...).

use super::headers;
use crate::protocol::Text;

headers! {
    /// Code 17.
    CreateTopicHeader {
        "topic" => topic: Text,
        "defaultTopic" => default_topic: Option<Text>,
        "readQueueNums" => read_queue_count: i32,
        "writeQueueNums" => write_queue_count: i32,
        "perm" => permission: i32,
        "topicFilterType" => topic_filter_type: Option<Text>,
        "topicSysFlag" => topic_sys_flag: Option<i32>,
        "order" => order: bool = false,
        /// Comma list of `+key=value` and `-key`.
        "attributes" => attributes: Option<Text>,
        "force" => force: bool = false,
    }

    /// Codes 202, 215, 217, 300, 351: requests about one topic.
    TopicHeader {
        "topic" => topic: Text,
    }

    /// Code 21. Without any field: everything.
    AllTopicConfigHeader {
        "topicSeq" => topic_sequence: Option<i32>,
        "dataVersion" => data_version: Option<Text>,
        "maxTopicNum" => topic_count_max: Option<i32>,
    }

    /// Reply to 21.
    AllTopicConfigResponseHeader {
        "totalTopicNum" => total_topic_count: Option<i32>,
    }

    /// Code 201. Without any field: everything.
    AllSubscriptionGroupHeader {
        "groupSeq" => group_sequence: Option<i32>,
        "dataVersion" => data_version: Option<Text>,
        "maxGroupNum" => group_count_max: Option<i32>,
    }

    /// Reply to 201.
    AllSubscriptionGroupResponseHeader {
        "totalGroupNum" => total_group_count: Option<i32>,
    }

    /// Code 207.
    DeleteSubscriptionGroupHeader {
        "groupName" => group_name: Text,
        "cleanOffset" => clean_offset: bool = false,
    }

    /// Codes 343, 352.
    GroupHeader {
        "group" => group: Text,
    }

    /// Codes 303 and 345.
    GroupTopicHeader {
        "group" => group: Text,
        "topic" => topic: Text,
    }

    /// Code 353.
    GroupForbiddenHeader {
        "group" => group: Text,
        "topic" => topic: Text,
        "readable" => readable: Option<bool>,
    }

    /// Code 208.
    ConsumeStatsHeader {
        "consumerGroup" => consumer_group: Text,
        "topic" => topic: Option<Text>,
        /// Semicolon list.
        "topicList" => topic_list: Option<Text>,
    }

    /// Code 317.
    BrokerConsumeStatsHeader {
        "isOrder" => is_order: bool = false,
    }

    /// Code 321.
    QueryConsumeQueueHeader {
        "topic" => topic: Text,
        "queueId" => queue_id: i32,
        "index" => index: i64,
        "count" => count: i32,
        "consumerGroup" => consumer_group: Option<Text>,
    }

    /// Reply to 26.
    BrokerConfigResponseHeader {
        /// DataVersion as JSON.
        "version" => version: Text,
    }

    /// Code 315.
    BrokerStatsHeader {
        "statsName" => stats_name: Text,
        "statsKey" => stats_key: Text,
    }

    /// Codes 222 and 220 (broker to client).
    ResetOffsetHeader {
        "topic" => topic: Text,
        "group" => group: Text,
        /// -1: end of the queue.
        "timestamp" => timestamp: i64,
        "isForce" => is_force: bool = false,
        /// -1: every queue.
        "queueId" => queue_id: i32 = -1,
        "offset" => offset: Option<i64>,
    }

    /// Codes 221 (broker to client) and 223.
    ConsumerStatusHeader {
        "topic" => topic: Text,
        "group" => group: Text,
        "clientAddr" => client_address: Option<Text>,
    }

    /// Code 314.
    CloneGroupOffsetHeader {
        "srcGroup" => source_group: Text,
        "destGroup" => destination_group: Text,
        "topic" => topic: Option<Text>,
        "offline" => offline: bool = false,
    }

    /// Code 308.
    CorrectionOffsetHeader {
        "compareGroup" => compare_group: Text,
        "topic" => topic: Text,
        /// Comma list.
        "filterGroups" => filter_groups: Option<Text>,
    }

    /// Code 323.
    ResumeCheckHalfMessageHeader {
        "topic" => topic: Option<Text>,
        "msgId" => message_id: Text,
    }

    /// Code 906, both ways.
    ExchangeHaInfoHeader {
        "masterHaAddress" => master_ha_address: Option<Text>,
        "masterFlushOffset" => master_flush_offset: Option<i64>,
        "masterAddress" => master_address: Option<Text>,
    }
}
