//! Who walks through old parts of the log, and what to read ahead for them. Pure.
//!
//! A walker is known by its place, not by a name: pulls that follow each other through the log are one walk, whichever
//! connections and queues they belong to. So consumers of all queues of a topic share what is read ahead for one of them.
//!
//! A walk begins with a pull that finds its records cold. From its second pull on the log is read ahead for it, provided it takes
//! an eighth of the bytes that it passes ([`DENSITY_MIN`]): reading ahead for a queue whose records lie far apart would read
//! mostly what nobody wants. It ends when [`IDLE_PULLS_MAX`] pulls were made elsewhere, or when it reaches the end of the log.

/// Walks known at once. One more takes the place of the one that was idle longest.
const WALKER_COUNT_MAX: usize = 16;
/// Bytes read ahead in one piece, and at most in front of a walk: with 16 walks 128 MiB of the page cache, nothing of our own memory.
pub(crate) const PIECE_SIZE: u64 = 2 << 20;
const AHEAD_MAX: u64 = 8 << 20;
/// A pull that begins this far behind (or before) the last one still belongs to the walk: a pull of one of many queues.
const STRIDE_MAX: u64 = 4 << 20;
const DENSITY_MIN: u64 = 8;
/// The density is that of about the last 64 MiB.
const MEMORY_SIZE: u64 = 64 << 20;
const IDLE_PULLS_MAX: u64 = 10_000;

/// The records of one pull.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Bytes of the records themselves.
    pub(crate) bytes: u64,
    /// They were not in memory.
    pub(crate) is_cold: bool,
}

/// What a visit means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// The log is read ahead for this reader.
    pub(crate) is_walker: bool,
    /// The stretch to read ahead now: from, until.
    pub(crate) fetch: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Walker {
    /// Where the bytes are counted from.
    start: u64,
    bytes: u64,
    pulls: u64,
    /// End of what was pulled, and of what was asked to be read ahead.
    consumed: u64,
    ahead: u64,
    last_turn: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Walkers {
    walkers: Vec<Walker>,
    turn: u64,
}

impl Walkers {
    pub(crate) fn is_empty(&self) -> bool {
        self.walkers.is_empty()
    }

    /// A pull was made; nothing at or behind `log_end` can be read.
    pub(crate) fn note(&mut self, visit: Visit, log_end: u64) -> Noted {
        self.turn += 1;
        let turn = self.turn;
        self.walkers.retain(|walker| turn - walker.last_turn < IDLE_PULLS_MAX);
        let own = self.walkers.iter().position(|walker| walker.is_at(visit.start));
        let Some(index) = own else {
            if visit.is_cold {
                self.begin(visit);
            }
            return Noted::default();
        };
        let walker = &mut self.walkers[index];
        walker.last_turn = turn;
        walker.follow(visit);
        let noted = Noted {
            is_walker: walker.is_dense(),
            fetch: walker.fetch(log_end),
        };
        if walker.consumed.saturating_add(PIECE_SIZE) >= log_end && !visit.is_cold {
            self.walkers.swap_remove(index);
        }
        noted
    }

    fn begin(&mut self, visit: Visit) {
        if self.walkers.len() >= WALKER_COUNT_MAX {
            let oldest = (0..self.walkers.len()).min_by_key(|index| self.walkers[*index].last_turn);
            self.walkers.swap_remove(oldest.unwrap_or(0));
        }
        self.walkers.push(Walker {
            start: visit.start,
            bytes: visit.bytes,
            pulls: 1,
            consumed: visit.end,
            ahead: visit.end,
            last_turn: self.turn,
        });
    }
}

impl Walker {
    fn is_at(&self, position: u64) -> bool {
        position.saturating_add(STRIDE_MAX) >= self.consumed && position <= self.consumed.saturating_add(STRIDE_MAX)
    }

    fn follow(&mut self, visit: Visit) {
        self.bytes += visit.bytes;
        self.pulls += 1;
        self.consumed = self.consumed.max(visit.end);
        if self.consumed - self.start > MEMORY_SIZE {
            self.start += MEMORY_SIZE / 2;
            self.bytes /= 2;
        }
    }

    fn is_dense(&self) -> bool {
        self.pulls >= 2 && self.bytes.saturating_mul(DENSITY_MIN) >= self.consumed - self.start
    }

    fn fetch(&mut self, log_end: u64) -> Option<(u64, u64)> {
        if !self.is_dense() {
            return None;
        }
        let from = self.ahead.max(self.consumed);
        let until = (self.consumed + AHEAD_MAX).min(log_end);
        // A whole piece, or the last bit.
        if until <= from || (until - from < PIECE_SIZE && until < log_end) {
            return None;
        }
        self.ahead = until;
        Some((from, until))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn visit(start: u64, size: u64, is_cold: bool) -> Visit {
        Visit {
            start,
            end: start + size,
            bytes: size,
            is_cold,
        }
    }

    #[test]
    fn the_second_pull_of_a_walk_is_read_ahead_for() {
        let mut walkers = Walkers::default();
        assert_eq!(walkers.note(visit(0, MIB, true), 1 << 30), Noted::default());
        let noted = walkers.note(visit(MIB, MIB, true), 1 << 30);
        assert_eq!((noted.is_walker, noted.fetch), (true, Some((2 * MIB, 10 * MIB))));
    }

    #[test]
    fn a_walk_is_kept_ahead_of_in_whole_pieces() {
        let mut walkers = Walkers::default();
        walkers.note(visit(0, MIB, true), 1 << 30);
        let mut ahead = 0;
        for index in 1..100 {
            let noted = walkers.note(visit(index * MIB, MIB, false), 1 << 30);
            if let Some((from, until)) = noted.fetch {
                assert!(from == ahead || ahead == 0);
                assert!(until - from >= PIECE_SIZE);
                ahead = until;
            }
            let left = ahead - (index + 1) * MIB;
            assert!(left > AHEAD_MAX - PIECE_SIZE, "{left} bytes ahead");
        }
    }

    #[test]
    fn pulls_of_many_queues_are_one_walk() {
        let mut walkers = Walkers::default();
        for turn in 0..10 {
            for queue in 0..16 {
                let start = turn * MIB + queue * 1000;
                let noted = walkers.note(
                    Visit {
                        start,
                        end: start + MIB - 16_000,
                        bytes: MIB / 16,
                        is_cold: true,
                    },
                    1 << 30,
                );
                assert!(noted.is_walker || (turn, queue) < (1, 0));
            }
        }
        assert_eq!(walkers.walkers.len(), 1);
    }

    #[test]
    fn nothing_is_read_ahead_for_records_that_lie_far_apart() {
        let mut walkers = Walkers::default();
        for index in 0..100 {
            let noted = walkers.note(visit(index * MIB, 1000, true), 1 << 30);
            assert_eq!(noted, Noted::default());
        }
    }

    #[test]
    fn random_readers_are_no_walkers_and_are_forgotten() {
        let mut walkers = Walkers::default();
        for index in 0..100 {
            assert_eq!(
                walkers.note(visit((index * 97 % 100) << 30, 1000, true), 1 << 40),
                Noted::default()
            );
        }
        assert_eq!(walkers.walkers.len(), WALKER_COUNT_MAX);
        for _ in 0..IDLE_PULLS_MAX {
            walkers.note(visit(1 << 39, 1000, false), 1 << 40);
        }
        assert!(walkers.is_empty());
    }

    #[test]
    fn a_walk_that_has_reached_the_end_is_over() {
        let mut walkers = Walkers::default();
        walkers.note(visit(0, MIB, true), 4 * MIB);
        let noted = walkers.note(visit(MIB, MIB, false), 4 * MIB);
        assert_eq!(noted.fetch, Some((2 * MIB, 4 * MIB)));
        walkers.note(visit(2 * MIB, MIB, false), 4 * MIB);
        assert!(walkers.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_read_ahead_lies_ahead_and_is_bounded(
            pulls in prop::collection::vec((0u64..64, 0u64..3, any::<bool>()), 1..200),
        ) {
            let mut walkers = Walkers::default();
            let log_end = 64 * MIB;
            for (start, size, is_cold) in pulls {
                let seen = visit(start * MIB, size * MIB, is_cold);
                if let Some((from, until)) = walkers.note(seen, log_end).fetch {
                    prop_assert!(from < until && until <= log_end);
                    prop_assert!(until - from <= AHEAD_MAX);
                    prop_assert!(from + STRIDE_MAX >= seen.end);
                }
                prop_assert!(walkers.walkers.len() <= WALKER_COUNT_MAX);
            }
        }
    }
}
