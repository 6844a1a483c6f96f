//! Facts that a node announces: for white-box checkers in simulation, and for metrics.
//!
//! A fact says what has happened, never what is hoped for. Production runtimes ignore them.

/// Something that has just happened on a node.
#[derive(Clone, Debug)]
pub enum Fact<'a> {
    /// Records of one group were appended to the log: `[start, end)` in physical bytes.
    Appended { start: u64, end: u64 },
    /// Everything below `upto` is durable.
    Flushed { upto: u64 },
    /// Recovery finished; the log ends at `end`, `lost_bytes` of an unsynced tail were cut.
    Recovered { end: u64, lost_bytes: u64 },
    /// A send was acknowledged with this grade.
    Acknowledged {
        topic: &'a str,
        queue_id: i32,
        offset: i64,
        code: i32,
    },
    /// A queue lock changed hands; `owner` is empty when released.
    Locked {
        group: &'a str,
        topic: &'a str,
        queue_id: i32,
        owner: &'a str,
    },
    /// The node took this role for that broker set.
    Role { broker: &'a str, role: &'a str },
}
