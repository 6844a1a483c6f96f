//! Key-value configuration by namespace (requests 100, 101, 102, 219) and its file.
//!
//! Pure: the table and its text. `KVConfigManager` of Apache RocketMQ keeps the same file, `{"configTable":{"NAMESPACE":
//! {"key":"value"}}}`. Order topics live in the namespace [`ORDER_TOPIC_CONFIG`], as `broker-a:4;broker-b:4`.
//! Invariant: a namespace stays once it was made, as in Java; sizes stay below the limits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Namespace of the topics whose queue list is fixed by hand.
pub const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";

/// Namespaces plus keys: 100,000. The whole table is written at each change; beyond, a put is refused.
pub const ENTRIES_MAX: usize = 100_000;

/// A namespace, key or value: 64 KiB. Beyond, a put is refused.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KvConfig {
    #[serde(default)]
    config_table: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutRefused {
    #[error("a namespace, key or value is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    #[error("{ENTRIES_MAX} keys are stored")]
    TooMany,
}

impl KvConfig {
    pub fn put(&mut self, namespace: &str, key: &str, value: &str) -> Result<(), PutRefused> {
        if [namespace, key, value].iter().any(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(PutRefused::TooLong);
        }
        let is_known = self.get(namespace, key).is_some();
        if !is_known && self.len() >= ENTRIES_MAX {
            return Err(PutRefused::TooMany);
        }
        let keys = self.config_table.entry(namespace.to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// Removes a key; true if it was there.
    pub fn delete(&mut self, namespace: &str, key: &str) -> bool {
        let keys = self.config_table.get_mut(namespace);
        keys.is_some_and(|keys| keys.remove(key).is_some())
    }

    pub fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.config_table.get(namespace)?.get(key).map(String::as_str)
    }

    pub fn namespace(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.config_table.get(namespace)
    }

    /// Namespaces plus keys.
    fn len(&self) -> usize {
        self.config_table.values().map(|keys| keys.len() + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_got_until_it_is_deleted() {
        let mut kv = KvConfig::default();
        kv.put(ORDER_TOPIC_CONFIG, "TopicA", "broker-a:4")
            .expect("within limits");
        assert_eq!(kv.get(ORDER_TOPIC_CONFIG, "TopicA"), Some("broker-a:4"));
        assert_eq!(kv.get("other", "TopicA"), None);
        assert!(kv.delete(ORDER_TOPIC_CONFIG, "TopicA"));
        assert!(!kv.delete(ORDER_TOPIC_CONFIG, "TopicA"));
        assert_eq!(kv.get(ORDER_TOPIC_CONFIG, "TopicA"), None);
        assert!(kv.namespace(ORDER_TOPIC_CONFIG).is_some_and(BTreeMap::is_empty));
    }

    #[test]
    fn the_file_is_that_of_rocketmq() {
        let mut kv = KvConfig::default();
        kv.put("NS", "k", "v").expect("within limits");
        let text = serde_json::to_string(&kv).expect("plain data");
        assert_eq!(text, r#"{"configTable":{"NS":{"k":"v"}}}"#);
        assert_eq!(serde_json::from_str::<KvConfig>(&text).expect("own text"), kv);
    }

    #[test]
    fn limits_refuse_and_change_nothing() {
        let mut kv = KvConfig::default();
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert_eq!(kv.put("NS", "k", &long), Err(PutRefused::TooLong));
        for index in 0..ENTRIES_MAX - 1 {
            kv.put("NS", &index.to_string(), "").expect("below the limit");
        }
        assert_eq!(kv.put("NS", "one more", ""), Err(PutRefused::TooMany));
        kv.put("NS", "7", "an update").expect("known keys stay writable");
    }
}
