//! Words of the domain as types, and maps whose order does not depend on a random seed.

pub mod address;
pub mod topic_name;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

/// Hash map with a fixed hash function: fast, and the same run gives the same order. Sort before showing order to anyone.
#[allow(clippy::disallowed_types)]
pub type Map<K, V> = std::collections::HashMap<K, V, rustc_hash::FxBuildHasher>;

/// Hash set with a fixed hash function.
#[allow(clippy::disallowed_types)]
pub type Set<K> = std::collections::HashSet<K, rustc_hash::FxBuildHasher>;

/// Position of a message in its queue, counted in messages. RocketMQ calls it queue offset or logical offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QueueOffset(pub i64);

/// Position of a record in the commit log, in bytes. RocketMQ calls it physical offset or commit-log offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PhysicalOffset(pub u64);

/// A queue of a topic on one broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueue {
    pub topic: String,
    pub broker_name: String,
    pub queue_id: i32,
}

/// Members in alphabetical order, as fastjson writes them.
impl Serialize for MessageQueue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_struct("MessageQueue", 3)?;
        members.serialize_field("brokerName", &self.broker_name)?;
        members.serialize_field("queueId", &self.queue_id)?;
        members.serialize_field("topic", &self.topic)?;
        members.end()
    }
}
