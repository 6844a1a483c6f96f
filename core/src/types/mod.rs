//! Words of the domain as types, and maps whose order does not depend on a random seed.

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueue {
    pub topic: String,
    pub broker_name: String,
    pub queue_id: i32,
}
