//! Looking messages up by key and by id (`QueryMessageRequestHeader.java`, `ViewMessageRequestHeader.java`).

use super::headers;
use crate::protocol::Text;

headers! {
    /// Code 12.
    QueryMessageHeader {
        "topic" => topic: Text,
        "key" => key: Text,
        "maxNum" => message_count_max: i32 = 32,
        "beginTimestamp" => begin_timestamp: i64 = 0,
        "endTimestamp" => end_timestamp: i64 = i64::MAX,
        "_UNIQUE_KEY_QUERY" => unique_key_query: bool = false,
        "indexType" => index_type: Option<Text>,
        "lastKey" => last_key: Option<Text>,
    }

    /// Reply to 12, found or not.
    QueryMessageResponseHeader {
        "indexLastUpdateTimestamp" => index_last_update_timestamp: i64,
        "indexLastUpdatePhyoffset" => index_last_update_physical_offset: i64,
    }

    /// Code 33.
    ViewMessageHeader {
        /// Physical offset.
        "offset" => offset: i64,
        "topic" => topic: Option<Text>,
    }
}
