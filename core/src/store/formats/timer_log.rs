//! A unit of the timer log: one message that waits in the timer wheel.
//!
//! ```text
//!  0 i32 size of the unit: 52
//!  4 i64 position of the unit before it in the same slot of the wheel, -1 if it is the first
//! 12 i32 flags: 1 always, 2 rolled (too far away: waits again when this is due), 4 takes another timer back
//! 16 i64 the wheel's clock when it was written, milliseconds, whole seconds
//! 24 i32 milliseconds from there until it is due
//! 28 i64 position of the record in the commit log
//! 36 i32 size of the record
//! 40 i32 hash of the topic it is for
//! 44 i64 reserved, 0
//! ```
//!
//! What does not fit into the rest of a file goes to the next; a filler of 16 bytes or more (size of the rest, 0,
//! `0xCBD43194` at 12) ends a file. Source: `store/timer/TimerLog.java`.

use super::{i32_at, i64_at};

/// Bytes of a unit.
pub const TIMER_UNIT_SIZE: usize = 52;
/// The filler's magic, where a unit has its flags.
const MAGIC_BLANK: i32 = 0xCBD4_3194_u32 as i32;

pub const FLAG_DEFAULT: i32 = 1;
pub const FLAG_ROLL: i32 = 2;
pub const FLAG_DELETE: i32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerUnit {
    pub previous: i64,
    pub flags: i32,
    pub write_time: i64,
    pub delay: i32,
    pub position: i64,
    pub size: i32,
    pub topic_hash: i32,
    pub reserved: i64,
}

impl TimerUnit {
    /// `None` for a filler, and where nothing was written.
    pub fn decode(bytes: &[u8]) -> Option<TimerUnit> {
        let unit = TimerUnit {
            previous: i64_at(bytes, 4)?,
            flags: i32_at(bytes, 12)?,
            write_time: i64_at(bytes, 16)?,
            delay: i32_at(bytes, 24)?,
            position: i64_at(bytes, 28)?,
            size: i32_at(bytes, 36)?,
            topic_hash: i32_at(bytes, 40)?,
            reserved: i64_at(bytes, 44)?,
        };
        let is_unit = i32_at(bytes, 0)? == TIMER_UNIT_SIZE as i32 && unit.flags != MAGIC_BLANK && unit.position >= 0;
        is_unit.then_some(unit)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(TIMER_UNIT_SIZE as i32).to_be_bytes());
        out.extend_from_slice(&self.previous.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.write_time.to_be_bytes());
        out.extend_from_slice(&self.delay.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.topic_hash.to_be_bytes());
        out.extend_from_slice(&self.reserved.to_be_bytes());
    }

    /// The second whose slot of the wheel it waits in, in milliseconds.
    pub fn due(&self) -> i64 {
        self.write_time.saturating_add(i64::from(self.delay))
    }

    pub fn is_delete(&self) -> bool {
        self.flags & FLAG_DELETE != 0
    }
}

/// The units of one file with their positions in it, up to the first place that holds none.
pub fn units(file: &[u8]) -> impl Iterator<Item = (usize, TimerUnit)> + '_ {
    let chunks = file.chunks_exact(TIMER_UNIT_SIZE).enumerate();
    chunks.map_while(|(index, bytes)| Some((index * TIMER_UNIT_SIZE, TimerUnit::decode(bytes)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_filler_and_an_empty_place_end_a_file() {
        let unit = TimerUnit {
            previous: -1,
            flags: FLAG_DEFAULT,
            write_time: 1000,
            delay: 5000,
            position: 7,
            size: 100,
            topic_hash: 3,
            reserved: 0,
        };
        assert_eq!(unit.due(), 6000);
        let mut file = Vec::new();
        unit.encode(&mut file);
        unit.encode(&mut file);
        let mut filler = vec![0; TIMER_UNIT_SIZE];
        filler[3] = TIMER_UNIT_SIZE as u8;
        filler[12..16].copy_from_slice(&MAGIC_BLANK.to_be_bytes());
        file.extend_from_slice(&filler);
        unit.encode(&mut file);
        let found: Vec<usize> = units(&file).map(|(at, _)| at).collect();
        assert_eq!(found, [0, 52]);
        assert_eq!(units(&[0; 104]).count(), 0);
    }

    proptest! {
        #[test]
        fn units_round_trip(
            previous: i64,
            flags in 0..8i32,
            write_time: i64,
            delay: i32,
            position in 0..=i64::MAX,
            size: i32,
            topic_hash: i32,
            reserved: i64,
        ) {
            let unit = TimerUnit { previous, flags, write_time, delay, position, size, topic_hash, reserved };
            let mut bytes = Vec::new();
            unit.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), TIMER_UNIT_SIZE);
            prop_assert_eq!(TimerUnit::decode(&bytes), Some(unit));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            units(&bytes).for_each(|(_, unit)| _ = (unit.due(), unit.is_delete()));
        }
    }
}
