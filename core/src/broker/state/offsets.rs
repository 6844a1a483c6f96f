//! Committed offsets: up to where each group has consumed each queue. Not where a client reads: see `lineage`.
//!
//! Invariant: every offset is at least 0. Whether an offset may go back is the proposer's decision, made with the
//! connection that committed last ([`Offsets::committer`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clients::ConnectionId;
use crate::protocol::body::DataVersion;
use crate::runtime::WallMillis;
use crate::types::Map;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Committed {
    offset: i64,
    /// Who committed it; `None` after a restart.
    by: Option<ConnectionId>,
}

/// Groups of light queues.
const LMQ_PREFIX: &str = "%LMQ%";

/// Offsets by topic, then group, then queue: each look-up borrows its keys.
#[derive(Clone, Debug, Default)]
pub struct Offsets {
    topics: Map<String, Map<String, BTreeMap<i32, Committed>>>,
    version: DataVersion,
}

impl Offsets {
    pub(super) fn commit(&mut self, group: &str, topic: &str, queue_id: i32, offset: i64, by: Option<ConnectionId>) {
        debug_assert!(offset >= 0);
        let queues = self.topics.get_mut(topic).and_then(|groups| groups.get_mut(group));
        let queues = match queues {
            Some(queues) => queues,
            None => self
                .topics
                .entry(topic.to_owned())
                .or_default()
                .entry(group.to_owned())
                .or_default(),
        };
        queues.insert(queue_id, Committed { offset, by });
    }

    pub(super) fn remove_group(&mut self, group: &str) {
        self.topics.retain(|_, groups| {
            groups.remove(group);
            !groups.is_empty()
        });
    }

    pub(super) fn remove_topic(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    pub fn get(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        Some(self.entry(group, topic, queue_id)?.offset)
    }

    /// The connection that committed the present offset, in this run of the broker.
    pub fn committer(&self, group: &str, topic: &str, queue_id: i32) -> Option<ConnectionId> {
        self.entry(group, topic, queue_id)?.by
    }

    fn entry(&self, group: &str, topic: &str, queue_id: i32) -> Option<&Committed> {
        self.topics.get(topic)?.get(group)?.get(&queue_id)
    }

    /// Groups with offsets on a topic, sorted.
    pub fn groups_of(&self, topic: &str) -> Vec<String> {
        let mut groups: Vec<String> = self
            .topics
            .get(topic)
            .into_iter()
            .flat_map(Map::keys)
            .cloned()
            .collect();
        groups.sort();
        groups
    }

    /// Topics on which a group has offsets, sorted.
    pub fn topics_of(&self, group: &str) -> Vec<String> {
        let with_group = self.topics.iter().filter(|(_, groups)| groups.contains_key(group));
        let mut topics: Vec<String> = with_group.map(|(topic, _)| topic.clone()).collect();
        topics.sort();
        topics
    }

    /// Every entry as (group, topic, queue, offset), sorted.
    pub fn entries(&self) -> Vec<(String, String, i32, i64)> {
        let mut all = Vec::new();
        for (topic, groups) in &self.topics {
            for (group, queues) in groups {
                let named = |(queue, entry): (&i32, &Committed)| (group.clone(), topic.clone(), *queue, entry.offset);
                all.extend(queues.iter().map(named));
            }
        }
        all.sort();
        all
    }

    /// With `enable_lmq` light groups have a table of their own, as `LmqConsumerOffsetManager.java` has it.
    pub fn save(&mut self, now: WallMillis, enable_lmq: bool) -> SavedOffsets {
        self.version = self.version.next(now);
        let mut table: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        let mut lmq_table = BTreeMap::new();
        for (topic, groups) in &self.topics {
            for (group, queues) in groups {
                if enable_lmq && group.starts_with(LMQ_PREFIX) {
                    let first = queues.first_key_value().map_or(0, |(_, entry)| entry.offset);
                    lmq_table.insert(format!("{topic}@{group}"), first);
                    continue;
                }
                let offsets = queues.iter().map(|(queue, entry)| (*queue, entry.offset)).collect();
                table.insert(format!("{topic}@{group}"), offsets);
            }
        }
        SavedOffsets {
            data_version: self.version,
            offset_table: table,
            lmq_offset_table: enable_lmq.then_some(lmq_table),
        }
    }

    /// Takes over a saved table; keys that are not `topic@group` are left out and returned.
    pub fn restore(&mut self, saved: SavedOffsets) -> Vec<String> {
        let mut refused = Vec::new();
        let light = saved.lmq_offset_table.unwrap_or_default().into_iter();
        let light = light.map(|(key, offset)| (key, BTreeMap::from([(0, offset)])));
        for (key, queues) in saved.offset_table.into_iter().chain(light) {
            let Some((topic, group)) = key.split_once('@').filter(|(_, group)| !group.contains('@')) else {
                refused.push(key);
                continue;
            };
            for (queue, offset) in queues {
                if queue >= 0 && offset >= 0 {
                    self.commit(group, topic, queue, offset, None);
                }
            }
        }
        self.version = saved.data_version;
        refused
    }

    pub fn check_invariants(&self) {
        for groups in self.topics.values() {
            for queues in groups.values() {
                assert!(
                    queues.values().all(|entry| entry.offset >= 0),
                    "offsets are not negative"
                );
            }
        }
    }
}

/// `config/consumerOffset.json`; with `enableLmq=true` RocketMQ has `lmqConsumerOffset.json` instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SavedOffsets {
    pub data_version: DataVersion,
    pub offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
    /// Offsets of light groups, whose topics have one queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lmq_offset_table: Option<BTreeMap<String, i64>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_kept_per_group_topic_and_queue() {
        let mut offsets = Offsets::default();
        offsets.commit("g", "T", 0, 5, Some(1));
        offsets.commit("g", "T", 1, 7, Some(1));
        offsets.commit("h", "T", 0, 1, Some(1));
        offsets.commit("g", "T", 0, 4, Some(1));
        assert_eq!(offsets.get("g", "T", 0), Some(4));
        assert_eq!(offsets.get("g", "U", 0), None);
        assert_eq!(offsets.groups_of("T"), ["g", "h"]);
        assert_eq!(offsets.topics_of("g"), ["T"]);
        offsets.remove_group("g");
        assert_eq!(offsets.get("g", "T", 1), None);
        assert_eq!(offsets.get("h", "T", 0), Some(1));
    }

    #[test]
    fn a_saved_table_comes_back() {
        let mut offsets = Offsets::default();
        offsets.commit("g", "T", 3, 12, Some(1));
        offsets.commit("g", "%RETRY%g", 0, 2, Some(1));
        let text = serde_json::to_string(&offsets.save(WallMillis(7), false)).unwrap();
        let mut restored = Offsets::default();
        assert!(restored.restore(serde_json::from_str(&text).unwrap()).is_empty());
        assert_eq!(restored.entries(), offsets.entries());
    }

    #[test]
    fn light_groups_have_a_table_of_their_own_if_they_are_enabled() {
        let mut offsets = Offsets::default();
        offsets.commit("%LMQ%g", "%LMQ%g", 0, 5, Some(1));
        offsets.commit("g", "T", 1, 2, Some(1));
        let saved = offsets.save(WallMillis(7), true);
        let light = BTreeMap::from([("%LMQ%g@%LMQ%g".to_owned(), 5)]);
        assert_eq!(saved.lmq_offset_table, Some(light));
        assert_eq!(saved.offset_table.len(), 1);
        assert_eq!(offsets.save(WallMillis(7), false).offset_table.len(), 2);
        let mut restored = Offsets::default();
        assert!(restored.restore(saved).is_empty());
        assert_eq!(restored.entries(), offsets.entries());
    }
}
