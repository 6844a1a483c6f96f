//! Names and places of RocketMQ's files below `storePathRootDir`, and the consume queue's entry.
//!
//! Not their contents beyond the entry: records are `protocol::message`, the checkpoint is `checkpoint`.
//! Source: `store/config/StorePathConfigHelper.java`, `store/ConsumeQueue.java`.

use std::path::{Path, PathBuf};

use super::StoreConfig;

/// Bytes of a consume queue entry: `i64 physical offset, i32 size, i64 tags code`.
pub(crate) const ENTRY_SIZE: u64 = 20;

/// Size of the filler entries before a queue's first offset. Java writes (0, `i32::MAX`, 0).
const FILLER_SIZE: i32 = i32::MAX;

/// Name of a log or queue file: the position of its first byte in 20 digits.
pub(crate) fn file_name(start: u64) -> String {
    format!("{start:020}")
}

/// First byte of the file with this name; `None` if it is no such name.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    if name.len() != 20 || !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    name.parse().ok()
}

/// Where things lie.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) root: PathBuf,
    pub(crate) commit_log: PathBuf,
    pub(crate) consume_queue: PathBuf,
    pub(crate) batch_queue: PathBuf,
    pub(crate) extension: PathBuf,
    pub(crate) timer_log: PathBuf,
    pub(crate) timer_checkpoint: PathBuf,
    pub(crate) compaction_log: PathBuf,
    pub(crate) index: PathBuf,
    pub(crate) checkpoint: PathBuf,
    pub(crate) abort: PathBuf,
    pub(crate) lock: PathBuf,
    /// Ours: what stood where the log could not be read.
    pub(crate) damaged: PathBuf,
}

impl Paths {
    pub(crate) fn new(config: &StoreConfig) -> Paths {
        let root = config.root.clone();
        Paths {
            commit_log: config.commit_log_dir(),
            consume_queue: root.join("consumequeue"),
            batch_queue: root.join("batchconsumequeue"),
            extension: root.join("consumequeue_ext"),
            timer_log: root.join("timerlog"),
            timer_checkpoint: root.join("config/timercheck"),
            compaction_log: root.join("compaction/compactionLog"),
            index: root.join("index"),
            checkpoint: root.join("checkpoint"),
            abort: root.join("abort"),
            lock: root.join("lock"),
            damaged: root.join("damaged"),
            root,
        }
    }

    pub(crate) fn topic(&self, topic: &str) -> PathBuf {
        self.consume_queue.join(topic)
    }

    pub(crate) fn queue(&self, topic: &str, queue_id: i32) -> PathBuf {
        self.topic(topic).join(queue_id.to_string())
    }
}

/// Whether a topic can be the name of a folder. Topics of clients pass `TopicValidator`; this guards the disk against
/// the rest.
pub(crate) fn is_folder_name(topic: &str) -> bool {
    !topic.is_empty() && topic != "." && topic != ".." && !topic.contains(['/', '\0']) && Path::new(topic).is_relative()
}

/// An entry of a consume queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) physical: u64,
    pub(crate) size: i32,
    pub(crate) tags_code: i64,
}

impl Entry {
    /// What stands where no message is: before a queue's first offset.
    pub(crate) const FILLER: Entry = Entry {
        physical: 0,
        size: FILLER_SIZE,
        tags_code: 0,
    };

    pub(crate) fn is_filler(&self) -> bool {
        self.size == FILLER_SIZE
    }

    pub(crate) fn end(&self) -> u64 {
        self.physical.saturating_add(self.size.max(0) as u64)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.physical.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.tags_code.to_be_bytes());
    }

    /// `None` where no entry was written (or the bytes are no entry).
    pub(crate) fn decode(bytes: &[u8]) -> Option<Entry> {
        let bytes: &[u8; ENTRY_SIZE as usize] = bytes.try_into().ok()?;
        let (physical, rest) = bytes.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let (tags_code, _) = rest.split_first_chunk::<8>()?;
        let physical = u64::try_from(i64::from_be_bytes(*physical)).ok()?;
        let size = i32::from_be_bytes(*size);
        (size > 0).then_some(Entry {
            physical,
            size,
            tags_code: i64::from_be_bytes(*tags_code),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn file_names_round_trip_and_others_are_refused() {
        assert_eq!(file_name(1 << 30), "00000000001073741824");
        assert_eq!(parse_file_name(&file_name(u64::MAX)), Some(u64::MAX));
        for name in ["", "1", "0000000000107374182x", "99999999999999999999"] {
            assert_eq!(parse_file_name(name), None);
        }
    }

    #[test]
    fn folders_above_the_store_are_no_topics() {
        for topic in ["", ".", "..", "a/b", "/etc"] {
            assert!(!is_folder_name(topic));
        }
        assert!(is_folder_name("%RETRY%group"));
    }

    proptest! {
        #[test]
        fn entries_round_trip(physical in 0..=i64::MAX as u64, size in 1..=i32::MAX, tags_code in any::<i64>()) {
            let entry = Entry { physical, size, tags_code };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(Entry::decode(&bytes), Some(entry));
        }

        #[test]
        fn arbitrary_bytes_are_an_entry_or_none(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let _ = Entry::decode(&bytes);
        }
    }
}
