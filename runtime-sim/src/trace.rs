//! A running hash of everything observable, and a log of a window of it.
//!
//! Not a cryptographic hash. Two runs with equal hashes saw the same events at the same times; if they differ, the checkpoints
//! (one every [`CHECKPOINT_EVENTS`]) say in which block, and a second run with [`LogWindow`] set to it shows the events.

use std::hash::Hasher;

/// Events per checkpoint.
pub const CHECKPOINT_EVENTS: u64 = 1024;

/// Which events to keep in [`TraceLog::entries`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogWindow {
    /// None: the hash only.
    #[default]
    Off,
    /// Events `from..to` by index. At 40 bytes an event; the caller bounds it.
    Range { from: u64, to: u64 },
}

/// One observable event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub time_ns: u64,
    /// Index of the node; `u32::MAX` for the world itself.
    pub node: u32,
    pub kind: &'static str,
    /// Hash of the event's own data.
    pub detail: u64,
}

/// What a run leaves behind for comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceLog {
    /// The hash after each [`CHECKPOINT_EVENTS`] events.
    pub checkpoints: Vec<u64>,
    pub entries: Vec<LogEntry>,
}

impl TraceLog {
    /// The window that holds the first event in which two runs differ, or `None` if all whole blocks are equal.
    pub fn first_difference(&self, other: &TraceLog) -> Option<LogWindow> {
        let block = self
            .checkpoints
            .iter()
            .zip(&other.checkpoints)
            .position(|(a, b)| a != b)? as u64;
        Some(LogWindow::Range {
            from: block * CHECKPOINT_EVENTS,
            to: (block + 1) * CHECKPOINT_EVENTS,
        })
    }

    /// The first event in which two logs of the same window differ.
    pub fn first_different_entry<'a>(
        &'a self,
        other: &'a TraceLog,
    ) -> Option<(Option<&'a LogEntry>, Option<&'a LogEntry>)> {
        let length = self.entries.len().max(other.entries.len());
        (0..length)
            .map(|index| (self.entries.get(index), other.entries.get(index)))
            .find(|(a, b)| a != b)
    }
}

pub(crate) struct Trace {
    hash: u64,
    count: u64,
    window: LogWindow,
    log: TraceLog,
}

impl Trace {
    pub(crate) fn new(window: LogWindow) -> Trace {
        Trace {
            hash: 0,
            count: 0,
            window,
            log: TraceLog::default(),
        }
    }

    pub(crate) fn event(&mut self, time_ns: u64, node: u32, kind: &'static str, words: &[u64], bytes: &[u8]) {
        let mut detail = Detail::new();
        for &word in words {
            detail.write_u64(word);
        }
        detail.write(bytes);
        self.record(time_ns, node, kind, detail.finish());
    }

    pub(crate) fn record(&mut self, time_ns: u64, node: u32, kind: &'static str, detail: u64) {
        let mut hash = fold(self.hash ^ time_ns);
        hash = fold(hash ^ u64::from(node));
        for chunk in kind.as_bytes().chunks(8) {
            hash = fold(hash ^ word(chunk));
        }
        self.hash = fold(hash ^ detail);
        if let LogWindow::Range { from, to } = self.window
            && (from..to).contains(&self.count)
        {
            self.log.entries.push(LogEntry {
                index: self.count,
                time_ns,
                node,
                kind,
                detail,
            });
        }
        self.count += 1;
        if self.count.is_multiple_of(CHECKPOINT_EVENTS) {
            self.log.checkpoints.push(self.hash);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn take_log(&mut self) -> TraceLog {
        std::mem::take(&mut self.log)
    }
}

/// Hash of one event's data. Bytes go through CRC-32, the fastest way to touch each once.
pub(crate) struct Detail(u64);

impl Detail {
    pub(crate) fn new() -> Detail {
        Detail(0x243f_6a88_85a3_08d3)
    }
}

impl Hasher for Detail {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = fold(self.0 ^ bytes.len() as u64);
        if !bytes.is_empty() {
            self.0 = fold(self.0 ^ u64::from(crc32fast::hash(bytes)));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = fold(self.0 ^ value);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn word(chunk: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..chunk.len()].copy_from_slice(chunk);
    u64::from_le_bytes(bytes)
}

/// 128-bit multiply, folded. The constant added keeps zero from being a fixed point.
fn fold(value: u64) -> u64 {
    let product = u128::from(value.wrapping_add(0xa076_1d64_78bd_642f)) * 0xe703_7ed1_a0b4_28db;
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_time_node_and_bytes_all_count() {
        let hash = |events: &[(u64, u32, &[u8])]| {
            let mut trace = Trace::new(LogWindow::Off);
            for &(time, node, bytes) in events {
                trace.event(time, node, "send", &[], bytes);
            }
            trace.hash()
        };
        let base = hash(&[(1, 0, b"a"), (2, 0, b"b")]);
        assert_eq!(base, hash(&[(1, 0, b"a"), (2, 0, b"b")]));
        assert_ne!(base, hash(&[(2, 0, b"b"), (1, 0, b"a")]));
        assert_ne!(base, hash(&[(1, 0, b"a"), (3, 0, b"b")]));
        assert_ne!(base, hash(&[(1, 0, b"a"), (2, 1, b"b")]));
        assert_ne!(base, hash(&[(1, 0, b"a"), (2, 0, b"b\0")]));
    }

    #[test]
    fn checkpoints_lead_to_the_first_different_event() {
        let run = |odd: u64, window| {
            let mut trace = Trace::new(window);
            for n in 0..5000 {
                trace.event(n, 0, "tick", &[if n == odd { 1 } else { 0 }], &[]);
            }
            trace.take_log()
        };
        let window = run(9999, LogWindow::Off)
            .first_difference(&run(3000, LogWindow::Off))
            .unwrap();
        let (a, b) = (run(9999, window), run(3000, window));
        let (left, right) = a.first_different_entry(&b).unwrap();
        assert_eq!(left.unwrap().index, 3000);
        assert_ne!(left, right);
        assert_eq!(run(1, LogWindow::Off).first_difference(&run(1, LogWindow::Off)), None);
    }
}
