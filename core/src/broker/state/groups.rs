//! Subscription groups: what a consumer group may do and how often it may retry. Not who is in it: see `clients`.
//!
//! Invariants: the key of an entry is its name; names have the characters of topic names and at most
//! [`NAME_BYTES_MAX`] bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::topics::DataVersion;
use crate::runtime::WallMillis;
use crate::types::Map;

/// Longest group name in bytes (`TopicValidator.java`, `validateGroup`).
pub const NAME_BYTES_MAX: usize = 120;

/// One group, as RocketMQ writes it to `subscriptionGroup.json`. Members that we do not interpret are kept as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupConfig {
    pub attributes: BTreeMap<String, String>,
    pub broker_id: i64,
    pub consume_broadcast_enable: bool,
    pub consume_enable: bool,
    pub consume_from_min_enable: bool,
    pub consume_message_orderly: bool,
    pub consume_timeout_minute: i32,
    pub group_name: String,
    pub group_retry_policy: Value,
    pub group_sys_flag: i32,
    pub notify_consumer_ids_changed_enable: bool,
    pub retry_max_times: i32,
    pub retry_queue_nums: i32,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub subscription_data_set: Value,
    pub which_broker_when_consume_slowly: i64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            consume_timeout_minute: 15,
            group_name: String::new(),
            group_retry_policy: serde_json::json!({"type": "CUSTOMIZED"}),
            group_sys_flag: 0,
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            subscription_data_set: Value::Null,
            which_broker_when_consume_slowly: 1,
        }
    }
}

impl GroupConfig {
    pub fn named(name: impl Into<String>) -> GroupConfig {
        GroupConfig {
            group_name: name.into(),
            ..GroupConfig::default()
        }
    }
}

/// Why a group name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the specified group is blank")]
    Blank,
    #[error("the specified group contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    IllegalCharacters,
    #[error("the specified group is longer than group max length {NAME_BYTES_MAX}")]
    TooLong,
}

pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-');
    if !name.bytes().all(allowed) {
        return Err(NameError::IllegalCharacters);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    Ok(())
}

/// Groups that exist without being created (`MixAll.java`, `PREDEFINE_GROUP_SET` and the system prefixes).
pub fn is_predefined(name: &str) -> bool {
    matches!(
        name,
        "DEFAULT_PRODUCER"
            | "DEFAULT_CONSUMER"
            | "TOOLS_CONSUMER"
            | "SCHEDULE_CONSUMER"
            | "FILTERSRV_CONSUMER"
            | "__MONITOR_CONSUMER"
            | "CLIENT_INNER_PRODUCER"
            | "SELF_TEST_P_GROUP"
            | "SELF_TEST_C_GROUP"
            | "CID_ONS-HTTP-PROXY"
            | "CID_ONSAPI_OWNER"
            | "CID_ONSAPI_PERMISSION"
            | "CID_ONSAPI_PULL"
    ) || name.starts_with("CID_RMQ_SYS_")
}

#[derive(Clone, Debug, Default)]
pub struct Groups {
    table: Map<String, Arc<GroupConfig>>,
    /// Reading of a topic by a group that an operator has forbidden (353); kept for the file's sake.
    forbidden: BTreeMap<String, BTreeMap<String, i32>>,
    version: DataVersion,
}

impl Groups {
    pub(super) fn put(&mut self, config: GroupConfig, now: WallMillis) {
        debug_assert_eq!(check_name(&config.group_name), Ok(()));
        self.table.insert(config.group_name.clone(), Arc::new(config));
        self.version.raise(now);
    }

    pub(super) fn remove(&mut self, name: &str, now: WallMillis) {
        let known = self.table.remove(name).is_some();
        let forbidden = self.forbidden.remove(name).is_some();
        if known | forbidden {
            self.version.raise(now);
        }
    }

    pub fn get(&self, name: &str) -> Option<&Arc<GroupConfig>> {
        self.table.get(name)
    }

    /// True when reading `topic` is forbidden to `group` (`SubscriptionGroupManager.java`, bit 0 of the forbidden value).
    pub fn is_forbidden(&self, group: &str, topic: &str) -> bool {
        !self.forbidden.is_empty()
            && self
                .forbidden
                .get(group)
                .and_then(|topics| topics.get(topic))
                .is_some_and(|bits| bits & 1 != 0)
    }

    pub fn version(&self) -> DataVersion {
        self.version
    }

    /// Every group, sorted by name.
    pub fn snapshot(&self) -> Vec<Arc<GroupConfig>> {
        let mut all: Vec<_> = self.table.values().cloned().collect();
        all.sort_by(|left, right| left.group_name.cmp(&right.group_name));
        all
    }

    pub fn save(&self) -> SavedGroups {
        SavedGroups {
            data_version: self.version,
            forbidden_table: self.forbidden.clone(),
            subscription_group_table: self
                .table
                .iter()
                .map(|(name, config)| (name.clone(), GroupConfig::clone(config)))
                .collect(),
        }
    }

    /// Takes over a saved table; names that break the rules are left out and returned.
    pub fn restore(&mut self, saved: SavedGroups) -> Vec<String> {
        let mut refused = Vec::new();
        for (name, mut config) in saved.subscription_group_table {
            config.group_name.clone_from(&name);
            if check_name(&name).is_err() {
                refused.push(name);
                continue;
            }
            self.table.insert(name, Arc::new(config));
        }
        self.forbidden = saved.forbidden_table;
        self.version = saved.data_version;
        refused
    }

    pub fn check_invariants(&self) {
        for (name, config) in &self.table {
            assert_eq!(name, &config.group_name, "a group is filed under its name");
            assert_eq!(check_name(name), Ok(()));
        }
    }
}

/// `config/subscriptionGroup.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SavedGroups {
    pub data_version: DataVersion,
    pub forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
    pub subscription_group_table: BTreeMap<String, GroupConfig>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_table_comes_back_with_members_we_do_not_interpret() {
        let text = r#"{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":9},"forbiddenTable":{"g":{"T":1}},
            "subscriptionGroupTable":{"g":{"groupName":"g","retryMaxTimes":3,
            "groupRetryPolicy":{"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":1}}}}}"#;
        let mut groups = Groups::default();
        assert!(groups.restore(serde_json::from_str(text).unwrap()).is_empty());
        assert!(groups.is_forbidden("g", "T"));
        assert!(!groups.is_forbidden("g", "U"));
        let group = groups.get("g").unwrap();
        assert_eq!(group.retry_max_times, 3);
        assert!(group.consume_enable, "absent members have RocketMQ's defaults");
        let saved = groups.save();
        assert_eq!(
            saved.subscription_group_table["g"].group_retry_policy["type"],
            "EXPONENTIAL"
        );
        groups.check_invariants();
    }

    #[test]
    fn group_names_are_checked() {
        assert_eq!(check_name(""), Err(NameError::Blank));
        assert_eq!(check_name("g x"), Err(NameError::IllegalCharacters));
        assert_eq!(check_name(&"g".repeat(121)), Err(NameError::TooLong));
        assert!(is_predefined("CID_RMQ_SYS_TRANS"));
    }
}
