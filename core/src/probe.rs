//! Facts that a node announces: for white-box checkers in simulation, and for metrics.
//!
//! A fact says what has happened, never what is hoped for. Production runtimes ignore them.

/// Something that has just happened on a node. Costs no allocation to announce.
pub type Fact<'a> = FactOf<&'a str>;

/// A fact that is kept.
pub type OwnedFact = FactOf<Box<str>>;

/// A fact over some kind of text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FactOf<S> {
    /// Records of one group were appended to the log: `[start, end)` in physical bytes.
    Appended { start: u64, end: u64 },
    /// Everything below `upto` is durable.
    Flushed { upto: u64 },
    /// Recovery finished; the log ends at `end`, `lost_bytes` of an unsynced tail were cut.
    Recovered { end: u64, lost_bytes: u64 },
    /// The slot's message is damaged or lost: pulls step over it.
    Gap { topic: S, queue_id: i32, offset: i64 },
    /// A send was acknowledged with this grade.
    Acknowledged {
        topic: S,
        queue_id: i32,
        offset: i64,
        code: i32,
    },
    /// A queue lock changed hands; `owner` is empty when released.
    Locked {
        group: S,
        topic: S,
        queue_id: i32,
        owner: S,
    },
    /// The node took this role for that broker set.
    Role { broker: S, role: S },
}

impl<S> FactOf<S> {
    /// The same fact over another kind of text.
    pub fn map<T>(self, mut text: impl FnMut(S) -> T) -> FactOf<T> {
        match self {
            FactOf::Appended { start, end } => FactOf::Appended { start, end },
            FactOf::Flushed { upto } => FactOf::Flushed { upto },
            FactOf::Recovered { end, lost_bytes } => FactOf::Recovered { end, lost_bytes },
            FactOf::Gap {
                topic,
                queue_id,
                offset,
            } => FactOf::Gap {
                topic: text(topic),
                queue_id,
                offset,
            },
            FactOf::Acknowledged {
                topic,
                queue_id,
                offset,
                code,
            } => FactOf::Acknowledged {
                topic: text(topic),
                queue_id,
                offset,
                code,
            },
            FactOf::Locked {
                group,
                topic,
                queue_id,
                owner,
            } => FactOf::Locked {
                group: text(group),
                topic: text(topic),
                queue_id,
                owner: text(owner),
            },
            FactOf::Role { broker, role } => FactOf::Role {
                broker: text(broker),
                role: text(role),
            },
        }
    }
}
