//! Subscription groups: what a consumer group may do and how often it may retry. Not who is in it: see `clients`.
//!
//! Invariants: the key of an entry is its name; names have the characters of topic names and at most
//! [`NAME_BYTES_MAX`] bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::protocol::body::{DataVersion, SubscriptionGroupConfig as GroupConfig, SubscriptionGroupWrapper};
use crate::runtime::WallMillis;
use crate::types::Map;

/// Longest group name in bytes (`TopicValidator.java`, `validateGroup`).
pub const NAME_BYTES_MAX: usize = 120;

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
        self.version = self.version.next(now);
    }

    pub(super) fn remove(&mut self, name: &str, now: WallMillis) {
        let known = self.table.remove(name).is_some();
        let forbidden = self.forbidden.remove(name).is_some();
        if known | forbidden {
            self.version = self.version.next(now);
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

    /// The table as `config/subscriptionGroup.json` holds it.
    pub fn save(&self) -> SubscriptionGroupWrapper {
        SubscriptionGroupWrapper {
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
    pub fn restore(&mut self, saved: SubscriptionGroupWrapper) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_table_comes_back_with_a_policy_we_do_not_use() {
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
            saved.subscription_group_table["g"].group_retry_policy.r#type,
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
