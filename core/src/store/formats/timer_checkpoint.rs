//! `config/timercheck`: how far the timer wheel has come. Big-endian `i64`s at the start of a page of 4096 bytes:
//!
//! ```text
//!  0 the second that is to be served next, in milliseconds: what was due before is delivered
//!  8 position up to which the timer log is on the device
//! 16 offset in `rmq_sys_wheel_timer` up to which messages are in the timer log
//! 24 the same at the master (replication)
//! 32 data version: state, timestamp, counter
//! ```
//!
//! Source: `store/timer/TimerCheckpoint.java`.

use super::i64_at;

/// Bytes in use.
pub const TIMER_CHECKPOINT_SIZE: usize = 56;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerCheckpoint {
    pub last_read_time: i64,
    pub last_log_position: i64,
    pub last_queue_offset: i64,
    pub master_queue_offset: i64,
    pub data_version: [i64; 3],
}

impl TimerCheckpoint {
    pub fn decode(bytes: &[u8]) -> Option<TimerCheckpoint> {
        Some(TimerCheckpoint {
            last_read_time: i64_at(bytes, 0)?,
            last_log_position: i64_at(bytes, 8)?,
            last_queue_offset: i64_at(bytes, 16)?,
            master_queue_offset: i64_at(bytes, 24)?,
            data_version: [i64_at(bytes, 32)?, i64_at(bytes, 40)?, i64_at(bytes, 48)?],
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let [state, timestamp, counter] = self.data_version;
        let fields = [
            self.last_read_time,
            self.last_log_position,
            self.last_queue_offset,
            self.master_queue_offset,
            state,
            timestamp,
            counter,
        ];
        fields.iter().flat_map(|field| field.to_be_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn checkpoints_round_trip(time: i64, log: i64, queue: i64, master: i64, data_version: [i64; 3]) {
            let checkpoint = TimerCheckpoint {
                last_read_time: time,
                last_log_position: log,
                last_queue_offset: queue,
                master_queue_offset: master,
                data_version,
            };
            let bytes = checkpoint.encode();
            prop_assert_eq!(bytes.len(), TIMER_CHECKPOINT_SIZE);
            prop_assert_eq!(TimerCheckpoint::decode(&bytes), Some(checkpoint));
            prop_assert_eq!(TimerCheckpoint::decode(&bytes[..55]), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = TimerCheckpoint::decode(&bytes);
        }
    }
}
