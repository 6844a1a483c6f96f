//! Who walks through old parts of the log, and what to read ahead for them. Pure.
//!
//! A walker is known by its place, not by a name: pulls that follow each other through the log are one walk, whichever
//! connections and queues they belong to. So consumers of all queues of a topic share what is read ahead for one of them.
//!
//! A walk begins with a pull whose records have to be checked: they are cold, or in memory but not as this process wrote or checked
//! them. From its second pull on the log is read ahead for it, provided it takes an eighth of the bytes that it passes
//! ([`DENSITY_MIN`]): reading ahead for a queue whose records lie far apart would read mostly what nobody wants. It ends at the end
//! of the log, after [`IDLE_PULLS_MAX`] pulls made elsewhere, or [`IDLE_TIME`] without one of its own. Where what lies ahead needs no
//! check, or cannot be read, nothing more is read ahead until a pull has to read or check again.
//!
//! One piece is read at a time for a walk: where the next one begins is known when the records of the last one are.

use std::time::Duration;

use crate::runtime::Mono;

/// Walks known at once. One more takes the place of the one that was idle longest.
const WALKER_COUNT_MAX: usize = 16;
/// Bytes read ahead in one piece.
pub(crate) const PIECE_SIZE: u64 = 2 << 20;
/// A piece begins less than so many bytes in front of its walk.
const AHEAD_MAX: u64 = 6 << 20;
/// A pull that begins this far behind (or before) the last one still belongs to the walk: a pull of one of many queues.
const STRIDE_MAX: u64 = 4 << 20;
const DENSITY_MIN: u64 = 8;
/// The density is that of about the last 64 MiB.
const MEMORY_SIZE: u64 = 64 << 20;
const IDLE_PULLS_MAX: u64 = 10_000;
/// Looked at every `cleanResourceInterval`.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// The records of one pull.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Bytes of the records themselves.
    pub(crate) bytes: u64,
    /// They had to be read or checked for this pull.
    pub(crate) is_new: bool,
}

/// What a visit means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// The log is read ahead for this reader.
    pub(crate) is_walker: bool,
    /// There is something to read ahead now.
    pub(crate) wants_piece: bool,
}

/// A stretch to be read ahead, within one file. `from` is the start of a record, as far as the walk knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    walker: u64,
    pub(crate) from: u64,
    pub(crate) until: u64,
}

#[derive(Debug)]
struct Walker {
    id: u64,
    /// Where the bytes are counted from.
    start: u64,
    bytes: u64,
    pulls: u64,
    /// End of what was pulled, and of what was read ahead; `u64::MAX`: nothing more is to be read ahead.
    consumed: u64,
    ahead: u64,
    reading: Option<Task>,
    last_turn: u64,
    last_time: Mono,
}

#[derive(Debug, Default)]
pub(crate) struct Walkers {
    walkers: Vec<Walker>,
    turn: u64,
    next_id: u64,
}

impl Walkers {
    pub(crate) fn is_empty(&self) -> bool {
        self.walkers.is_empty()
    }

    /// A pull was made; nothing at or behind `log_end` can be read.
    pub(crate) fn note(&mut self, visit: Visit, log_end: u64, now: Mono) -> Noted {
        self.turn += 1;
        let turn = self.turn;
        self.walkers.retain(|walker| turn - walker.last_turn < IDLE_PULLS_MAX);
        let own = self.walkers.iter().position(|walker| walker.is_at(visit.start));
        let Some(index) = own else {
            if visit.is_new {
                self.begin(visit, now);
            }
            return Noted::default();
        };
        let walker = &mut self.walkers[index];
        (walker.last_turn, walker.last_time) = (turn, now);
        walker.follow(visit);
        let noted = Noted {
            is_walker: walker.is_dense(),
            wants_piece: walker.wants_piece(log_end),
        };
        if walker.consumed >= log_end {
            self.walkers.swap_remove(index);
        }
        noted
    }

    /// What to read next: for the walk with the least in front of it. To be [`done`](Walkers::done).
    pub(crate) fn next(&mut self, log_end: u64, file_size: u64) -> Option<Task> {
        let wanting = self.walkers.iter_mut().filter(|walker| walker.wants_piece(log_end));
        let walker = wanting.min_by_key(|walker| walker.ahead.saturating_sub(walker.consumed))?;
        let from = walker.ahead.max(walker.consumed);
        let file_end = (from / file_size + 1) * file_size;
        let task = Task {
            walker: walker.id,
            from,
            until: (from + PIECE_SIZE).min(log_end).min(file_end),
        };
        walker.reading = Some(task);
        Some(task)
    }

    /// The next piece begins at `next`; without it nothing more is read ahead, until a pull has to read or check again.
    pub(crate) fn done(&mut self, task: Task, next: Option<u64>) {
        if let Some(walker) = self.walkers.iter_mut().find(|walker| walker.id == task.walker) {
            walker.ahead = next.unwrap_or(u64::MAX);
            walker.reading = None;
        }
    }

    /// Whether a position is being read ahead right now.
    pub(crate) fn is_reading(&self, position: u64) -> bool {
        let tasks = self.walkers.iter().filter_map(|walker| walker.reading);
        tasks
            .into_iter()
            .any(|task| (task.from..task.until).contains(&position))
    }

    /// Whether a walk is going to pull from `[start, end)`, or a slower queue of it may.
    pub(crate) fn may_want(&self, start: u64, end: u64) -> bool {
        let mut walkers = self.walkers.iter();
        walkers.any(|walker| {
            end.saturating_add(STRIDE_MAX) > walker.consumed && start <= walker.consumed.saturating_add(AHEAD_MAX)
        })
    }

    /// Whether a walk is going to pull from `[start, end)`.
    pub(crate) fn will_want(&self, start: u64, end: u64) -> bool {
        let mut walkers = self.walkers.iter();
        walkers.any(|walker| end > walker.consumed && start <= walker.consumed.saturating_add(AHEAD_MAX))
    }

    /// Ends the walks that were idle for long.
    pub(crate) fn forget_idle(&mut self, now: Mono) {
        self.walkers.retain(|walker| now.since(walker.last_time) < IDLE_TIME);
    }

    fn begin(&mut self, visit: Visit, now: Mono) {
        if self.walkers.len() >= WALKER_COUNT_MAX {
            let oldest = (0..self.walkers.len()).min_by_key(|index| self.walkers[*index].last_turn);
            self.walkers.swap_remove(oldest.unwrap_or(0));
        }
        self.next_id += 1;
        self.walkers.push(Walker {
            id: self.next_id,
            start: visit.start,
            bytes: visit.bytes,
            pulls: 1,
            consumed: visit.end,
            ahead: visit.end,
            reading: None,
            last_turn: self.turn,
            last_time: now,
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
        if visit.is_new && self.ahead == u64::MAX {
            self.ahead = self.consumed;
        }
        if self.consumed - self.start > MEMORY_SIZE {
            self.start += MEMORY_SIZE / 2;
            self.bytes /= 2;
        }
    }

    fn is_dense(&self) -> bool {
        self.pulls >= 2 && self.bytes.saturating_mul(DENSITY_MIN) >= self.consumed - self.start
    }

    fn wants_piece(&self, log_end: u64) -> bool {
        let from = self.ahead.max(self.consumed);
        self.reading.is_none() && from < log_end && from - self.consumed < AHEAD_MAX && self.is_dense()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const FILE_SIZE: u64 = 1 << 30;

    fn visit(start: u64, size: u64, is_new: bool) -> Visit {
        Visit {
            start,
            end: start + size,
            bytes: size,
            is_new,
        }
    }

    fn note(walkers: &mut Walkers, visit: Visit, log_end: u64) -> Noted {
        walkers.note(visit, log_end, Mono(0))
    }

    fn stretch(task: Option<Task>) -> Option<(u64, u64)> {
        task.map(|task| (task.from, task.until))
    }

    #[test]
    fn the_second_pull_of_a_walk_is_read_ahead_for() {
        let mut walkers = Walkers::default();
        assert_eq!(note(&mut walkers, visit(0, MIB, true), 1 << 30), Noted::default());
        assert_eq!(walkers.next(1 << 30, FILE_SIZE), None);
        let noted = note(&mut walkers, visit(MIB, MIB, true), 1 << 30);
        assert!(noted.is_walker && noted.wants_piece);
        let task = walkers.next(1 << 30, FILE_SIZE);
        assert_eq!(stretch(task), Some((2 * MIB, 2 * MIB + PIECE_SIZE)));
        assert!(walkers.is_reading(2 * MIB) && !walkers.is_reading(2 * MIB + PIECE_SIZE));
        assert_eq!(walkers.next(1 << 30, FILE_SIZE), None, "one at a time");
    }

    #[test]
    fn a_walk_is_kept_ahead_of_in_pieces_that_follow_each_other() {
        let mut walkers = Walkers::default();
        note(&mut walkers, visit(0, MIB, true), 1 << 30);
        let mut ahead = 2 * MIB;
        for index in 1..100 {
            note(&mut walkers, visit(index * MIB, MIB, false), 1 << 30);
            while let Some(task) = walkers.next(1 << 30, FILE_SIZE) {
                assert_eq!(task.from, ahead);
                // The last record of a piece belongs to the next one.
                ahead = task.until - 100;
                walkers.done(task, Some(ahead));
            }
            assert!(ahead - (index + 1) * MIB >= AHEAD_MAX, "{ahead}");
        }
    }

    #[test]
    fn a_reader_that_is_faster_than_the_disk_is_read_ahead_for_from_where_it_is() {
        let mut walkers = Walkers::default();
        note(&mut walkers, visit(0, MIB, true), 1 << 30);
        note(&mut walkers, visit(MIB, MIB, true), 1 << 30);
        let task = walkers.next(1 << 30, FILE_SIZE).unwrap();
        for index in 2..8 {
            note(&mut walkers, visit(index * MIB, MIB, true), 1 << 30);
        }
        walkers.done(task, Some(task.until));
        assert_eq!(walkers.next(1 << 30, FILE_SIZE).unwrap().from, 8 * MIB);
    }

    #[test]
    fn pulls_of_many_queues_are_one_walk() {
        let mut walkers = Walkers::default();
        for turn in 0..10 {
            for queue in 0..16 {
                let start = turn * MIB + queue * 1000;
                let seen = Visit {
                    start,
                    end: start + MIB - 16_000,
                    bytes: MIB / 16,
                    is_new: true,
                };
                let noted = note(&mut walkers, seen, 1 << 30);
                assert!(noted.is_walker || (turn, queue) < (1, 0));
            }
        }
        assert_eq!(walkers.walkers.len(), 1);
    }

    #[test]
    fn nothing_is_read_ahead_for_records_that_lie_far_apart() {
        let mut walkers = Walkers::default();
        for index in 0..100 {
            let noted = note(&mut walkers, visit(index * MIB, 1000, true), 1 << 30);
            assert_eq!(noted, Noted::default());
            assert_eq!(walkers.next(1 << 30, FILE_SIZE), None);
        }
    }

    #[test]
    fn random_readers_are_no_walkers_and_are_forgotten() {
        let mut walkers = Walkers::default();
        for index in 0..100 {
            let seen = visit((index * 97 % 100) << 30, 1000, true);
            assert_eq!(note(&mut walkers, seen, 1 << 40), Noted::default());
        }
        assert_eq!(walkers.walkers.len(), WALKER_COUNT_MAX);
        for _ in 0..IDLE_PULLS_MAX {
            note(&mut walkers, visit(1 << 39, 1000, false), 1 << 40);
        }
        assert!(walkers.is_empty());
    }

    #[test]
    fn a_walk_is_over_at_the_end_of_the_log_and_pauses_where_nothing_can_be_read_ahead() {
        let mut walkers = Walkers::default();
        note(&mut walkers, visit(0, MIB, true), 3 * MIB);
        note(&mut walkers, visit(MIB, MIB, false), 3 * MIB);
        let task = walkers.next(3 * MIB, FILE_SIZE);
        assert_eq!(stretch(task), Some((2 * MIB, 3 * MIB)));
        note(&mut walkers, visit(2 * MIB, MIB, false), 3 * MIB);
        assert!(walkers.is_empty());
        walkers.done(task.unwrap(), Some(3 * MIB));

        note(&mut walkers, visit(0, MIB, true), 9 * MIB);
        note(&mut walkers, visit(MIB, MIB, true), 9 * MIB);
        let task = walkers.next(9 * MIB, FILE_SIZE).unwrap();
        walkers.done(task, None);
        assert!(!note(&mut walkers, visit(2 * MIB, MIB, false), 9 * MIB).wants_piece);
        assert!(walkers.may_want(2 * MIB, 3 * MIB), "what was read before is kept");
        assert!(note(&mut walkers, visit(3 * MIB, MIB, true), 9 * MIB).wants_piece);
        assert_eq!(stretch(walkers.next(9 * MIB, FILE_SIZE)), Some((4 * MIB, 6 * MIB)));
    }

    #[test]
    fn a_piece_does_not_reach_into_the_next_file() {
        let mut walkers = Walkers::default();
        note(&mut walkers, visit(0, MIB, true), 1 << 30);
        note(&mut walkers, visit(MIB, MIB, true), 1 << 30);
        assert_eq!(stretch(walkers.next(1 << 30, 3 * MIB)), Some((2 * MIB, 3 * MIB)));
    }

    #[test]
    fn a_reader_that_stopped_is_forgotten_with_time() {
        let mut walkers = Walkers::default();
        let second = |second: u64| Mono(second * 1_000_000_000);
        walkers.note(visit(0, MIB, true), 1 << 30, second(5));
        walkers.forget_idle(second(14));
        assert!(walkers.may_want(0, MIB) && !walkers.is_empty());
        walkers.forget_idle(second(15));
        assert!(walkers.is_empty() && !walkers.may_want(0, MIB));
    }

    proptest! {
        #[test]
        fn what_is_read_ahead_lies_ahead_and_is_bounded(
            pulls in prop::collection::vec((0u64..64, 0u64..3, any::<bool>(), any::<bool>()), 1..200),
        ) {
            let mut walkers = Walkers::default();
            let log_end = 64 * MIB;
            for (start, size, is_new, is_done) in pulls {
                note(&mut walkers, visit(start * MIB, size * MIB, is_new), log_end);
                prop_assert!(walkers.walkers.len() <= WALKER_COUNT_MAX);
                while let Some(task) = walkers.next(log_end, 16 * MIB) {
                    prop_assert!(task.from < task.until && task.until <= log_end);
                    prop_assert!(task.until - task.from <= PIECE_SIZE);
                    prop_assert_eq!(task.from / (16 * MIB), (task.until - 1) / (16 * MIB));
                    prop_assert!(walkers.will_want(task.from, task.until) && walkers.is_reading(task.from));
                    if !is_done {
                        break;
                    }
                    walkers.done(task, Some(task.until));
                }
            }
        }
    }
}
