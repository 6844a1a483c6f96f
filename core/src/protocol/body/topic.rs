//! Topics and versions of tables (`TopicConfig.java`, `DataVersion.java`, `TopicConfigSerializeWrapper.java`, `TopicList.java`).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{EmptyMap, bodies, lenient};
use crate::runtime::WallMillis;

bodies! {
    /// Version of a table. Equal only if all three members are.
    #[derive(Copy, Eq, Hash, Default)]
    DataVersion {
        #[serde(deserialize_with = "lenient::integer")]
        counter: i64,
        #[serde(deserialize_with = "lenient::integer")]
        state_version: i64,
        #[serde(deserialize_with = "lenient::integer")]
        timestamp: i64,
    }

    /// Configuration of a topic on one broker.
    #[derive(Eq)]
    TopicConfig {
        attributes: BTreeMap<String, String>,
        #[serde(deserialize_with = "lenient::boolean")]
        order: bool,
        /// Bits of [`Permission`].
        #[serde(deserialize_with = "lenient::integer")]
        perm: i32,
        #[serde(deserialize_with = "lenient::integer")]
        read_queue_nums: i32,
        topic_filter_type: String,
        topic_name: String,
        #[serde(deserialize_with = "lenient::integer")]
        topic_sys_flag: i32,
        #[serde(deserialize_with = "lenient::integer")]
        write_queue_nums: i32,
    }

    /// All topics of a broker: reply to 21, and part of a registration. Static topics are neither read nor written.
    #[derive(Eq, Default)]
    TopicConfigSerializeWrapper {
        data_version: DataVersion,
        mapping_data_version: DataVersion,
        topic_config_table: BTreeMap<String, TopicConfig>,
        topic_queue_mapping_detail_map: EmptyMap,
        topic_queue_mapping_info_map: EmptyMap,
    }

    /// Code 18.
    #[derive(Eq, Default)]
    TopicConfigList {
        topic_config_list: Vec<TopicConfig>,
    }

    /// Names of topics.
    #[derive(Eq, Default)]
    TopicList {
        #[serde(skip_serializing_if = "Option::is_none")]
        broker_addr: Option<String>,
        topic_list: Vec<String>,
    }
}

/// Bits of a topic's permission (`PermName.java`).
pub struct Permission;

impl Permission {
    pub const PRIORITY: i32 = 8;
    pub const READ: i32 = 4;
    pub const WRITE: i32 = 2;
    /// Topics created from this template take its configuration.
    pub const INHERIT: i32 = 1;
    pub const READ_WRITE: i32 = Permission::READ | Permission::WRITE;
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig {
            attributes: BTreeMap::new(),
            order: false,
            perm: Permission::READ_WRITE,
            read_queue_nums: 16,
            topic_filter_type: "SINGLE_TAG".to_owned(),
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

impl TopicConfig {
    /// A readable and writable topic with as many queues for reading as for writing.
    pub fn new(topic_name: impl Into<String>, queue_nums: i32) -> TopicConfig {
        TopicConfig {
            topic_name: topic_name.into(),
            read_queue_nums: queue_nums,
            write_queue_nums: queue_nums,
            ..TopicConfig::default()
        }
    }

    pub fn is_readable(&self) -> bool {
        self.perm & Permission::READ != 0
    }

    pub fn is_writable(&self) -> bool {
        self.perm & Permission::WRITE != 0
    }
}

impl DataVersion {
    /// The version after a change of the table at `now`.
    pub fn next(self, now: WallMillis) -> DataVersion {
        DataVersion {
            counter: self.counter + 1,
            state_version: self.state_version,
            timestamp: now.0,
        }
    }

    /// Older or newer: by state version, then counter, then timestamp (`DataVersion.compare`).
    pub fn compare(&self, other: &DataVersion) -> Ordering {
        let key = |version: &DataVersion| (version.state_version, version.counter, version.timestamp);
        key(self).cmp(&key(other))
    }
}
