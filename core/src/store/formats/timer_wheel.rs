//! A slot of the timer wheel: the messages that are due in one second.
//!
//! ```text
//!  0 i64 the second, in units of the precision (1000 ms)
//!  8 i64 position of its first unit in the timer log, -1 if it has none
//! 16 i64 position of its last unit
//! 24 i32 units in it, less those taken back
//! 28 i32 magic, 0
//! ```
//!
//! The file is one array of 2 x 604,800 slots (two rounds of seven days): slot of a time = seconds mod number of slots. A
//! slot keeps its numbers after it was served, until it is used again. Source: `store/timer/Slot.java`, `TimerWheel.java`.

use super::{i32_at, i64_at};

/// Bytes of a slot.
pub const TIMER_SLOT_SIZE: usize = 32;
/// Slots of the file that RocketMQ makes.
pub const TIMER_SLOT_COUNT: usize = 2 * 7 * 86_400;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerSlot {
    pub second: i64,
    pub first: i64,
    pub last: i64,
    pub count: i32,
    pub magic: i32,
}

impl TimerSlot {
    /// `None` if it was never used, or `bytes` are too few.
    pub fn decode(bytes: &[u8]) -> Option<TimerSlot> {
        let slot = TimerSlot {
            second: i64_at(bytes, 0)?,
            first: i64_at(bytes, 8)?,
            last: i64_at(bytes, 16)?,
            count: i32_at(bytes, 24)?,
            magic: i32_at(bytes, 28)?,
        };
        (slot != TimerSlot::default()).then_some(slot)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.second.to_be_bytes());
        out.extend_from_slice(&self.first.to_be_bytes());
        out.extend_from_slice(&self.last.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&self.magic.to_be_bytes());
    }
}

/// The slots in use of a wheel, by index.
pub fn slots(file: &[u8]) -> impl Iterator<Item = (usize, TimerSlot)> + '_ {
    let chunks = file.chunks_exact(TIMER_SLOT_SIZE).enumerate();
    chunks.filter_map(|(index, bytes)| Some((index, TimerSlot::decode(bytes)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_round_trip(second in 1..i64::MAX, first: i64, last: i64, count: i32, magic: i32) {
            let slot = TimerSlot { second, first, last, count, magic };
            let mut bytes = vec![0; TIMER_SLOT_SIZE];
            slot.encode(&mut bytes);
            prop_assert_eq!(slots(&bytes).collect::<Vec<_>>(), [(1, slot)]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = slots(&bytes).count();
        }
    }
}
