//! Files of RocketMQ that are read and kept, and not written here: one codec a file, pure.
//!
//! | codec | file | used for |
//! |---|---|---|
//! | [`extension`] | `consumequeue_ext/TOPIC/QUEUE/*` | the real tags code behind an address |
//! | [`batch_entry`] | `batchconsumequeue/TOPIC/QUEUE/*` | showing what a batch queue holds |
//! | [`timer_log`], [`timer_wheel`], [`timer_checkpoint`] | `timerlog/*`, `timerwheel`, `config/timercheck` | counting pending timers |
//! | [`dledger`] | `dledger-*/data/*` | naming what cannot be opened |
//!
//! What is written, too, lies elsewhere: records in `protocol::message`, queue entries in `store::layout`, the index in
//! `store::index`, the checkpoint in `store::checkpoint`, tables in [`json`](super::json).
//! Invariant: no input panics; what a codec writes it reads back.

pub mod batch_entry;
pub mod dledger;
pub mod extension;
pub mod timer_checkpoint;
pub mod timer_log;
pub mod timer_wheel;

/// The bytes of a fixed-size field; `bytes` must hold it.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

fn i16_at(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(field(bytes, at)?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(field(bytes, at)?))
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_be_bytes(field(bytes, at)?))
}
