//! The topics of this broker: names, queue counts, permissions. Not the messages, which are the store's.
//!
//! Invariants: the key of an entry is its name; every name passed [`check_name`]; queue counts lie in
//! `0..=QUEUE_COUNT_MAX`; each change of the table raises the data version, because a name server takes a topic
//! table with an unchanged version for an unchanged table.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::protocol::body::{DataVersion, Permission, TopicConfig};
use crate::runtime::WallMillis;
use crate::types::Map;
pub use crate::types::topic_name::{HALF_OP_TOPIC, HALF_TOPIC, REVIVE_TOPIC_PREFIX, SCHEDULE_TOPIC, TIMER_TOPIC};

/// Retried messages of a group wait in the topic with this prefix and the group's name.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Messages that a group gave up on.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";
/// The template that producers name when their topic does not exist yet.
pub const DEFAULT_TOPIC: &str = "TBW102";
/// Half messages that nobody resolved.
pub const HALF_DISCARD_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";

/// Longest topic name in bytes: old record formats keep it in one signed byte, and Go and Node.js misread longer ones.
pub const NAME_BYTES_MAX: usize = 127;
/// Longest name of a retry or dead-letter topic in bytes.
pub const DERIVED_NAME_BYTES_MAX: usize = 255;
/// Most queues of one topic: beyond it a creation is refused (INVALID_PARAMETER). RocketMQ has no limit; its largest system topic has 1024.
pub const QUEUE_COUNT_MAX: i32 = 65_536;

/// A topic with as many queues to read as to write. `perm` holds bits of [`Permission`].
pub fn topic(name: impl Into<String>, queue_count: i32, perm: i32) -> TopicConfig {
    TopicConfig {
        perm,
        ..TopicConfig::new(name, queue_count)
    }
}

/// True for a template: a topic whose configuration new topics may take.
pub fn is_inherited(config: &TopicConfig) -> bool {
    config.perm & Permission::INHERIT != 0
}

/// Whether the topic has batch queues (`queue.type=BatchCQ`), whose format this broker only reads.
pub fn has_batch_queues(config: &TopicConfig) -> bool {
    config
        .attributes
        .get("queue.type")
        .is_some_and(|kind| kind == "BatchCQ")
}

/// How many queue ids a send may name: a queue being drained (read > write) is still addressable.
pub fn queue_count(config: &TopicConfig) -> i32 {
    config.write_queue_nums.max(config.read_queue_nums)
}

/// Why a topic name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("The specified topic is blank.")]
    Blank,
    #[error("The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    IllegalCharacters,
    #[error("The specified topic is longer than topic max length {max}.")]
    TooLong { max: usize },
}

/// Checks characters and length (`common/topic/TopicValidator.java`, `validateTopic`).
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-');
    if !name.bytes().all(allowed) {
        return Err(NameError::IllegalCharacters);
    }
    let derived = name.starts_with(RETRY_PREFIX) || name.starts_with(DEAD_LETTER_PREFIX);
    let max = if derived {
        DERIVED_NAME_BYTES_MAX
    } else {
        NAME_BYTES_MAX
    };
    if name.len() > max {
        return Err(NameError::TooLong { max });
    }
    Ok(())
}

/// Topics that clients must not send to (`TopicValidator.java`, `NOT_ALLOWED_SEND_TOPIC_SET`); and, unlike RocketMQ's, those
/// whose messages would count as pending timers and POP checkpoints at the next start.
pub fn is_closed_to_senders(name: &str) -> bool {
    let is_closed = matches!(
        name,
        SCHEDULE_TOPIC | HALF_TOPIC | HALF_OP_TOPIC | HALF_DISCARD_TOPIC | "SELF_TEST_TOPIC" | "OFFSET_MOVED_EVENT"
    );
    is_closed || name == TIMER_TOPIC || name.starts_with(REVIVE_TOPIC_PREFIX)
}

/// The retry topic of a group.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// The dead-letter topic of a group.
pub fn dead_letter_topic(group: &str) -> String {
    format!("{DEAD_LETTER_PREFIX}{group}")
}

/// All topics. Readers take an [`Arc`] and go; an entry is replaced, never changed in place.
#[derive(Clone, Debug, Default)]
pub struct Topics {
    table: Map<String, Arc<TopicConfig>>,
    version: DataVersion,
    system: Vec<String>,
}

impl Topics {
    pub(super) fn put(&mut self, config: TopicConfig, now: WallMillis) {
        debug_assert_eq!(check_name(&config.topic_name), Ok(()));
        self.table.insert(config.topic_name.clone(), Arc::new(config));
        self.version = self.version.next(now);
    }

    pub(super) fn remove(&mut self, name: &str, now: WallMillis) {
        if self.table.remove(name).is_some() {
            self.version = self.version.next(now);
        }
    }

    /// Names of topics that no admin command may change or remove.
    pub fn mark_system(&mut self, names: Vec<String>) {
        self.system = names;
        self.system.sort();
    }

    pub fn get(&self, name: &str) -> Option<&Arc<TopicConfig>> {
        self.table.get(name)
    }

    pub fn is_system(&self, name: &str) -> bool {
        name.starts_with("rmq_sys_") || self.system.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    pub fn system_names(&self) -> &[String] {
        &self.system
    }

    pub fn version(&self) -> DataVersion {
        self.version
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Every topic, sorted by name: a snapshot that costs one reference count each.
    pub fn snapshot(&self) -> Vec<Arc<TopicConfig>> {
        let mut all: Vec<_> = self.table.values().cloned().collect();
        all.sort_by(|left, right| left.topic_name.cmp(&right.topic_name));
        all
    }

    /// Takes over a saved table; entries that no longer pass the rules are left out and returned.
    pub fn restore(&mut self, saved: SavedTopics) -> Vec<String> {
        let mut refused = Vec::new();
        for (name, mut config) in saved.topic_config_table {
            config.topic_name.clone_from(&name);
            if check_name(&name).is_err() || !queue_counts_fit(&config) {
                refused.push(name);
                continue;
            }
            self.table.insert(name, Arc::new(config));
        }
        self.version = saved.data_version;
        refused
    }

    pub fn check_invariants(&self) {
        for (name, config) in &self.table {
            assert_eq!(name, &config.topic_name, "a topic is filed under its name");
            assert_eq!(check_name(name), Ok(()));
            assert!(queue_counts_fit(config), "queue counts are in range");
        }
    }
}

/// True when both queue counts are within the limit.
pub fn queue_counts_fit(config: &TopicConfig) -> bool {
    let range = 0..=QUEUE_COUNT_MAX;
    range.contains(&config.read_queue_nums) && range.contains(&config.write_queue_nums)
}

/// `config/topics.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SavedTopics {
    pub data_version: DataVersion,
    pub topic_config_table: BTreeMap<String, TopicConfig>,
}

impl SavedTopics {
    pub fn of(version: DataVersion, snapshot: &[Arc<TopicConfig>]) -> SavedTopics {
        SavedTopics {
            data_version: version,
            topic_config_table: snapshot
                .iter()
                .map(|config| (config.topic_name.clone(), TopicConfig::clone(config)))
                .collect(),
        }
    }
}

/// The topics that RocketMQ registers at start (`broker/topic/TopicConfigManager.java`, `init`). Clients rely on the
/// default topic and the reply topic, tools on those named after cluster and broker.
pub fn system_topics(
    cluster: &str,
    broker: &str,
    delay_level_count: i32,
    auto_create_queues: Option<i32>,
) -> Vec<TopicConfig> {
    let read_write = Permission::READ_WRITE;
    let mut all = vec![
        topic("SELF_TEST_TOPIC", 1, read_write),
        topic("BenchmarkTest", 1024, read_write),
        topic("OFFSET_MOVED_EVENT", 1, read_write),
        topic(SCHEDULE_TOPIC, delay_level_count, read_write),
        topic("RMQ_SYS_TRACE_TOPIC", 1, read_write),
        topic(format!("{cluster}_REPLY_TOPIC"), 1, read_write),
        topic(format!("{REVIVE_TOPIC_PREFIX}{cluster}"), 8, read_write),
        topic(format!("rmq_sys_SYNC_BROKER_MEMBER_{broker}"), 1, Permission::INHERIT),
        topic(HALF_TOPIC, 1, read_write),
        topic(HALF_OP_TOPIC, 1, read_write),
        topic(HALF_DISCARD_TOPIC, 1, read_write),
        topic(TIMER_TOPIC, 1, read_write),
        topic(cluster, 16, Permission::INHERIT | read_write),
        topic(broker, 1, Permission::INHERIT | read_write),
    ];
    if let Some(queues) = auto_create_queues {
        all.push(topic(DEFAULT_TOPIC, queues, Permission::INHERIT | read_write));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_for_characters_and_length() {
        assert_eq!(check_name("Topic_A-1|x"), Ok(()));
        assert_eq!(check_name(" "), Err(NameError::Blank));
        assert_eq!(check_name("a b"), Err(NameError::IllegalCharacters));
        assert_eq!(check_name("Überfluss"), Err(NameError::IllegalCharacters));
        assert_eq!(check_name(&"x".repeat(128)), Err(NameError::TooLong { max: 127 }));
        assert_eq!(check_name(&retry_topic(&"g".repeat(200))), Ok(()));
    }

    #[test]
    fn every_change_raises_the_version() {
        let mut topics = Topics::default();
        topics.put(topic("A", 4, 6), WallMillis(1));
        let first = topics.version();
        topics.put(topic("A", 8, 6), WallMillis(1));
        assert_ne!(first, topics.version());
        let second = topics.version();
        topics.remove("B", WallMillis(2));
        assert_eq!(second, topics.version(), "nothing was removed");
        topics.check_invariants();
    }

    #[test]
    fn a_saved_table_comes_back() {
        let mut topics = Topics::default();
        for config in system_topics("DefaultCluster", "broker-a", 18, Some(8)) {
            topics.put(config, WallMillis(5));
        }
        let saved = SavedTopics::of(topics.version(), &topics.snapshot());
        let text = serde_json::to_string(&saved).unwrap();
        let mut restored = Topics::default();
        assert!(restored.restore(serde_json::from_str(&text).unwrap()).is_empty());
        assert_eq!(restored.snapshot(), topics.snapshot());
        assert_eq!(restored.version(), topics.version());
    }

    #[test]
    fn a_bad_entry_of_a_saved_table_is_left_out() {
        let saved: SavedTopics = serde_json::from_str(
            r#"{"topicConfigTable":{"a b":{},"Good":{"perm":6,"writeQueueNums":2,"readQueueNums":2,"new":1}}}"#,
        )
        .unwrap();
        let mut topics = Topics::default();
        assert_eq!(topics.restore(saved), vec!["a b".to_owned()]);
        assert_eq!(topics.get("Good").unwrap().write_queue_nums, 2);
    }
}
