//! The consumer's path: pull (`PullMessageRequestHeader.java`, `PullMessageResponseHeader.java`, `PullSysFlag.java`).

use super::headers;
use crate::protocol::Text;

headers! {
    /// Codes 11 and 361.
    PullHeader {
        "consumerGroup" => consumer_group: Text,
        "topic" => topic: Text,
        "queueId" => queue_id: i32,
        /// Next queue offset wanted.
        "queueOffset" => queue_offset: i64,
        "maxMsgNums" => message_count_max: i32 = 32,
        /// See [`PullFlag`].
        "sysFlag" => sys_flag: i32 = 0,
        "commitOffset" => commit_offset: i64 = 0,
        "suspendTimeoutMillis" => suspend_timeout_ms: i64 = 0,
        "subscription" => subscription: Option<Text>,
        "subVersion" => subscription_version: i64 = 0,
        /// `TAG` when absent.
        "expressionType" => expression_type: Option<Text>,
        "maxMsgBytes" => message_bytes_max: Option<i32>,
        "requestSource" => request_source: Option<i32>,
        /// Spelled so on the wire; proxies only.
        "proxyFrowardClientId" => proxy_forward_client_id: Option<Text>,
        "bname" => broker_name: Option<Text>,
    }

    /// Reply to 11 and 361: all four mandatory fields with every code that the pull itself produced.
    PullResponseHeader {
        "suggestWhichBrokerId" => suggested_broker_id: i64,
        "nextBeginOffset" => next_begin_offset: i64,
        "minOffset" => min_offset: i64,
        "maxOffset" => max_offset: i64,
        "offsetDelta" => offset_delta: Option<i64>,
        "topicSysFlag" => topic_sys_flag: Option<i32>,
        "groupSysFlag" => group_sys_flag: Option<i32>,
        "forbiddenType" => forbidden_type: Option<i32>,
    }
}

/// Bits of [`PullHeader::sys_flag`].
pub struct PullFlag;

impl PullFlag {
    /// Store `commitOffset` before answering.
    pub const COMMIT_OFFSET: i32 = 0x1;
    /// Long polling allowed.
    pub const SUSPEND: i32 = 0x2;
    /// Use the subscription of this request, not the heartbeat's.
    pub const SUBSCRIPTION: i32 = 0x4;
    pub const CLASS_FILTER: i32 = 0x8;
    pub const LITE_PULL: i32 = 0x10;
}

impl PullHeader {
    /// True when `flag`, one of [`PullFlag`], is set.
    pub fn has(&self, flag: i32) -> bool {
        self.sys_flag & flag != 0
    }
}
