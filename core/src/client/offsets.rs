//! The offsets file of a broadcasting consumer: `{"version":1,"offsets":[{"topic":"T","brokerName":"b","queueId":0,"offset":7}]}`.
//!
//! It has the place of RocketMQ's `offsets.json`, but not its text (bare objects as keys, which are not JSON): the file
//! belongs to one member of our own client and nothing else reads it. A version that is not ours is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::MessageQueue;

const VERSION: u32 = 1;
/// Bytes of the file that are read; a longer one is refused.
pub const FILE_SIZE_MAX: u64 = 64 << 20;

/// Committed offsets by queue.
pub type OffsetTable = BTreeMap<MessageQueue, i64>;

/// Why a file of offsets cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    #[error("not a file of offsets: {0}")]
    Json(#[from] serde_json::Error),
    #[error("version {0} is unknown")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
struct OffsetsFile {
    version: u32,
    offsets: Vec<OffsetEntry>,
}

#[derive(Serialize, Deserialize)]
struct OffsetEntry {
    #[serde(flatten)]
    queue: MessageQueue,
    offset: i64,
}

pub fn encode(table: &OffsetTable) -> Vec<u8> {
    let offsets = table.iter().map(|(queue, offset)| OffsetEntry {
        queue: queue.clone(),
        offset: *offset,
    });
    let file = OffsetsFile {
        version: VERSION,
        offsets: offsets.collect(),
    };
    serde_json::to_vec(&file).expect("plain data becomes JSON")
}

pub fn decode(bytes: &[u8]) -> Result<OffsetTable, OffsetsError> {
    let file: OffsetsFile = serde_json::from_slice(bytes)?;
    if file.version != VERSION {
        return Err(OffsetsError::Version(file.version));
    }
    Ok(file
        .offsets
        .into_iter()
        .map(|entry| (entry.queue, entry.offset))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_foreign_version_is_refused() {
        assert!(matches!(
            decode(br#"{"version":9,"offsets":[]}"#),
            Err(OffsetsError::Version(9))
        ));
    }

    proptest! {
        #[test]
        fn offsets_round_trip(entries in prop::collection::vec(("[a-z]{1,8}", 0i32..9, 0i64..i64::MAX), 0..20)) {
            let table: OffsetTable = entries
                .into_iter()
                .map(|(topic, queue_id, offset)| (MessageQueue { topic, broker_name: "b".into(), queue_id }, offset))
                .collect();
            prop_assert_eq!(decode(&encode(&table)).unwrap(), table);
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
