//! Offsets: stored by consumers, and the bounds of a queue (`QueryConsumerOffsetRequestHeader.java`, ...).

use super::headers;
use crate::protocol::Text;

headers! {
    /// Code 14.
    QueryConsumerOffsetHeader {
        "consumerGroup" => consumer_group: Text,
        "topic" => topic: Text,
        "queueId" => queue_id: i32,
        "setZeroIfNotFound" => set_zero_if_not_found: Option<bool>,
        "bname" => broker_name: Option<Text>,
    }

    /// Code 15.
    UpdateConsumerOffsetHeader {
        "consumerGroup" => consumer_group: Text,
        "topic" => topic: Text,
        "queueId" => queue_id: i32,
        "commitOffset" => commit_offset: i64,
        "bname" => broker_name: Option<Text>,
    }

    /// Code 29.
    SearchOffsetHeader {
        "topic" => topic: Text,
        "queueId" => queue_id: i32,
        "timestamp" => timestamp: i64,
        /// `LOWER` (when absent) or `UPPER`.
        "boundaryType" => boundary_type: Option<Text>,
        "bname" => broker_name: Option<Text>,
    }

    /// Codes 30, 31 and 32.
    QueueHeader {
        "topic" => topic: Text,
        "queueId" => queue_id: i32,
        "committed" => committed: Option<bool>,
        "bname" => broker_name: Option<Text>,
    }

    /// Reply to 14, 29, 30 and 31.
    OffsetResponseHeader {
        "offset" => offset: i64,
    }

    /// Reply to 32.
    TimestampResponseHeader {
        "timestamp" => timestamp: i64,
    }
}

impl SearchOffsetHeader {
    /// True when the last offset not after the timestamp is asked for, not the first one not before it.
    pub fn wants_upper_boundary(&self) -> bool {
        let boundary = self.boundary_type.as_deref().unwrap_or("");
        boundary.eq_ignore_ascii_case("UPPER")
    }
}
