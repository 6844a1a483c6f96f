//! An entry of a batch consume queue: one inner batch, which takes as many offsets as it holds messages.
//!
//! ```text
//!  0 i64 position of the record in the log
//!  8 i32 size of the record
//! 12 i64 tags code
//! 20 i64 store time
//! 28 i64 offset of the first message
//! 36 i16 messages in the batch
//! 38 i32 compacted offset, -1 if the topic is not compacted
//! 42 i32 reserved, 0
//! ```
//!
//! Offsets have no fixed stride: an entry is found by binary search over `first_offset`. Topics with the attribute
//! `queue.type=BatchCQ` have such queues. Source: `store/queue/BatchConsumeQueue.java`.

use super::{i16_at, i32_at, i64_at};

/// Bytes of an entry.
pub const BATCH_ENTRY_SIZE: usize = 46;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEntry {
    pub position: i64,
    pub size: i32,
    pub tags_code: i64,
    pub store_time: i64,
    pub first_offset: i64,
    pub count: i16,
    pub compacted_offset: i32,
}

impl BatchEntry {
    /// `None` where no entry was written.
    pub fn decode(bytes: &[u8]) -> Option<BatchEntry> {
        let entry = BatchEntry {
            position: i64_at(bytes, 0)?,
            size: i32_at(bytes, 8)?,
            tags_code: i64_at(bytes, 12)?,
            store_time: i64_at(bytes, 20)?,
            first_offset: i64_at(bytes, 28)?,
            count: i16_at(bytes, 36)?,
            compacted_offset: i32_at(bytes, 38)?,
        };
        // Its reserved field must be there, too.
        i32_at(bytes, 42)?;
        let is_entry = entry.position >= 0 && entry.size > 0 && entry.first_offset >= 0 && entry.count > 0;
        is_entry.then_some(entry)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.tags_code.to_be_bytes());
        out.extend_from_slice(&self.store_time.to_be_bytes());
        out.extend_from_slice(&self.first_offset.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&self.compacted_offset.to_be_bytes());
        out.extend_from_slice(&0i32.to_be_bytes());
    }

    /// Offset behind the last message.
    pub fn end_offset(&self) -> i64 {
        self.first_offset.saturating_add(i64::from(self.count))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_slot_is_no_entry() {
        assert_eq!(BatchEntry::decode(&[0; BATCH_ENTRY_SIZE]), None);
    }

    proptest! {
        #[test]
        fn entries_round_trip(
            position in 0..=i64::MAX,
            size in 1..=i32::MAX,
            tags_code: i64,
            store_time: i64,
            first_offset in 0..=i64::MAX,
            count in 1..=i16::MAX,
            compacted_offset: i32,
        ) {
            let entry = BatchEntry { position, size, tags_code, store_time, first_offset, count, compacted_offset };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), BATCH_ENTRY_SIZE);
            prop_assert_eq!(BatchEntry::decode(&bytes), Some(entry));
            prop_assert_eq!(BatchEntry::decode(&bytes[..45]), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(entry) = BatchEntry::decode(&bytes) {
                let _ = entry.end_offset();
            }
        }
    }
}
