//! Which reading positions belong to this life of the log.
//!
//! Under asynchronous flush a power loss cuts the unsynced tail, and new messages take the offsets of the lost ones.
//! A consumer that had read past the cut then holds a position beyond messages it never saw. Offsets alone cannot
//! tell; so after an unclean start the broker remembers the end of every queue at recovery (the *cut*) and believes a
//! position beyond it only if it has itself led the reader there:
//!
//! ```text
//!             cut                  end now
//!  ───────────┼──────────────────────┤
//!   same in   │  new messages in the offsets of lost ones
//!   both lives│  ▲ believed if: served to this client, or committed by the group, in this life
//! ```
//!
//! Any other position is set back to the cut, or to what the group has committed since: duplicates, never a skip.
//! Commits are judged by the same rule. The price: in a broker started uncleanly, a client that reconnects and pulls
//! before its heartbeat, or seeks to an arbitrary new offset, is set back too. A process kill loses nothing, but a
//! broker cannot tell it from a power loss; since then the cut is the old end, nobody's position is beyond it.
//! Not used after a clean stop, nor under synchronous flush, where nothing unsynced is ever shown.
//!
//! A reader may have missed a whole life of the broker, in which its offsets were given to other messages and after which
//! the end lies beyond them. So the cuts are saved, and a start within [`CARRY_TIME`] of the one that found them keeps the
//! lower of old and new. A reader that hears nothing of a broker for longer than that is believed.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::Map;

/// How long a cut outlives the start that found it: five times the silence after which a client is forgotten.
pub const CARRY_TIME: Duration = Duration::from_secs(600);

/// Positions remembered at most; beyond, all are forgotten, which costs duplicates only.
const SERVED_COUNT_MAX: usize = 1_000_000;

/// Answers to offset look-ups remembered per client; beyond, the lowest is forgotten.
const LOOKED_UP_COUNT_MAX: usize = 1024;

/// Whose position it is. `client` is the client id, or the name of the connection before its first heartbeat.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub queue_id: i32,
    pub offset: i64,
}

type Queues = BTreeMap<i32, i64>;

/// Cuts as they are saved: topic → queue → offset. `None`: none to be carried on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedCuts {
    pub cuts: Option<BTreeMap<String, Queues>>,
}

#[derive(Clone, Debug, Default)]
struct Reader {
    /// group → topic → queue → highest position served.
    served: Map<String, Map<String, Queues>>,
    /// topic → (queue, exact offset) answered to a look-up by time or bound, which names no group.
    looked_up: Map<String, BTreeSet<(i32, i64)>>,
    looked_up_count: usize,
}

/// After an unclean start under asynchronous flush.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    cuts: Option<Map<String, Queues>>,
    readers: Map<String, Reader>,
    served_count: usize,
    is_carried: bool,
}

impl Lineage {
    /// Nothing can have been lost: every position is believed.
    pub fn unbroken() -> Lineage {
        Lineage::default()
    }

    /// The log may have lost a tail; `ends` are the queue ends found at recovery. Queues not named were empty.
    pub fn cut_at(ends: impl IntoIterator<Item = (String, i32, i64)>) -> Lineage {
        let mut cuts: Map<String, Queues> = Map::default();
        for (topic, queue_id, end) in ends {
            cuts.entry(topic).or_default().insert(queue_id, end);
        }
        Lineage {
            cuts: Some(cuts),
            is_carried: true,
            ..Lineage::default()
        }
    }

    /// Takes the cuts of earlier lives into account. A queue that they do not name was empty then.
    pub fn carry(&mut self, saved: SavedCuts) {
        let Some(mut earlier) = saved.cuts else {
            return;
        };
        match &mut self.cuts {
            None => {
                self.cuts = Some(earlier.into_iter().collect());
                self.is_carried = true;
            }
            Some(cuts) => {
                for (topic, queues) in cuts.iter_mut() {
                    let earlier = earlier.remove(topic).unwrap_or_default();
                    for (queue_id, cut) in queues {
                        *cut = (*cut).min(earlier.get(queue_id).copied().unwrap_or(0));
                    }
                }
            }
        }
    }

    /// What the next start must know.
    pub fn save(&self) -> SavedCuts {
        let cuts = self.cuts.as_ref().filter(|_| self.is_carried);
        SavedCuts {
            cuts: cuts.map(|cuts| {
                cuts.iter()
                    .map(|(topic, queues)| (topic.clone(), queues.clone()))
                    .collect()
            }),
        }
    }

    /// The cuts need not outlive this life any more: every reader has been heard, or is gone.
    pub fn end_carrying(&mut self) {
        self.is_carried = false;
    }

    pub fn is_unbroken(&self) -> bool {
        self.cuts.is_none()
    }

    /// `Ok` if the position is believed, else the offset to set the reader back to. `readers` are the names under
    /// which the client may be known; `committed` is what the group has committed in this life (or before, clamped).
    pub fn judge(&self, readers: &[&str], position: Position<'_>, committed: Option<i64>) -> Result<(), i64> {
        let Some(cuts) = &self.cuts else {
            return Ok(());
        };
        let cut = cuts
            .get(position.topic)
            .and_then(|queues| queues.get(&position.queue_id))
            .copied()
            .unwrap_or(0);
        let floor = cut.max(committed.unwrap_or(0));
        if position.offset <= floor {
            return Ok(());
        }
        if readers.iter().any(|reader| self.was_led_to(reader, position)) {
            return Ok(());
        }
        Err(floor)
    }

    fn was_led_to(&self, reader: &str, position: Position<'_>) -> bool {
        let Some(reader) = self.readers.get(reader) else {
            return false;
        };
        let served = reader
            .served
            .get(position.group)
            .and_then(|topics| topics.get(position.topic))
            .and_then(|queues| queues.get(&position.queue_id));
        if served.is_some_and(|next| position.offset <= *next) {
            return true;
        }
        let asked = (position.queue_id, position.offset);
        reader
            .looked_up
            .get(position.topic)
            .is_some_and(|answers| answers.contains(&asked))
    }

    /// The reader was handed everything below `position.offset`, from a believed position on.
    pub fn served(&mut self, reader: &str, position: Position<'_>) {
        if self.cuts.is_none() {
            return;
        }
        if self.served_count >= SERVED_COUNT_MAX {
            self.readers.clear();
            self.served_count = 0;
        }
        let reader = entry(&mut self.readers, reader);
        let queues = entry(entry(&mut reader.served, position.group), position.topic);
        match queues.get_mut(&position.queue_id) {
            Some(next) => *next = position.offset.max(*next),
            None => {
                queues.insert(position.queue_id, position.offset);
                self.served_count += 1;
            }
        }
    }

    /// The reader asked for a bound or for an offset by time and was told `offset`.
    pub fn looked_up(&mut self, reader: &str, topic: &str, queue_id: i32, offset: i64) {
        if self.cuts.is_none() {
            return;
        }
        let reader = entry(&mut self.readers, reader);
        if reader.looked_up_count >= LOOKED_UP_COUNT_MAX {
            reader.looked_up.clear();
            reader.looked_up_count = 0;
        }
        if entry(&mut reader.looked_up, topic).insert((queue_id, offset)) {
            reader.looked_up_count += 1;
        }
    }

    /// A connection that never told its client id has gone.
    pub fn forget(&mut self, reader: &str) {
        self.readers.remove(reader);
    }
}

/// The entry of a map with owned keys, copying the key only when it is new.
fn entry<'map, V: Default>(map: &'map mut Map<String, V>, key: &str) -> &'map mut V {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), V::default());
    }
    map.get_mut(key).expect("inserted above")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Position<'static> {
        Position {
            group: "g",
            topic: "T",
            queue_id: 0,
            offset,
        }
    }

    fn cut_at_80() -> Lineage {
        Lineage::cut_at([("T".to_owned(), 0, 80)])
    }

    #[test]
    fn a_reader_from_before_the_cut_is_set_back_even_when_new_messages_took_its_offsets() {
        let lineage = cut_at_80();
        assert_eq!(lineage.judge(&["c"], at(100), Some(70)), Err(80));
        assert_eq!(lineage.judge(&["c"], at(80), Some(70)), Ok(()));
    }

    #[test]
    fn a_reader_that_was_led_past_the_cut_goes_on() {
        let mut lineage = cut_at_80();
        lineage.served("c", at(112));
        assert_eq!(lineage.judge(&["c"], at(112), None), Ok(()));
        assert_eq!(lineage.judge(&["d"], at(112), None), Err(80), "another client was not");
        assert_eq!(
            lineage.judge(&["d"], at(112), Some(112)),
            Ok(()),
            "unless its group has committed there"
        );
        assert_eq!(lineage.judge(&["d"], at(120), Some(112)), Err(112));
    }

    #[test]
    fn an_answered_look_up_is_believed_exactly() {
        let mut lineage = cut_at_80();
        lineage.looked_up("c", "T", 0, 130);
        assert_eq!(lineage.judge(&["c"], at(130), None), Ok(()));
        assert_eq!(lineage.judge(&["c"], at(129), None), Err(80));
    }

    #[test]
    fn a_queue_unknown_at_recovery_was_cut_at_zero() {
        let lineage = cut_at_80();
        let other = Position { queue_id: 7, ..at(3) };
        assert_eq!(lineage.judge(&["c"], other, None), Err(0));
    }

    #[test]
    fn the_lower_cut_of_two_lives_counts_until_it_is_no_longer_carried() {
        let saved = cut_at_80().save();
        let mut second = Lineage::cut_at([("T".to_owned(), 0, 200), ("U".to_owned(), 0, 9)]);
        second.carry(saved.clone());
        assert_eq!(second.judge(&["c"], at(100), None), Err(80));
        let new_topic = Position { topic: "U", ..at(5) };
        assert_eq!(
            second.judge(&["c"], new_topic, None),
            Err(0),
            "it was empty in the earlier life"
        );
        let mut clean = Lineage::unbroken();
        clean.carry(saved.clone());
        assert_eq!(clean.judge(&["c"], at(100), None), Err(80));
        assert_eq!(clean.save(), saved);
        clean.end_carrying();
        assert_eq!(clean.save(), SavedCuts::default());
        assert_eq!(clean.judge(&["c"], at(100), None), Err(80), "this life still counts");
    }

    #[test]
    fn after_a_clean_stop_every_position_is_believed() {
        assert_eq!(Lineage::unbroken().judge(&["c"], at(1 << 40), None), Ok(()));
    }

    #[test]
    fn a_grant_before_the_first_heartbeat_counts_after_it() {
        let mut lineage = cut_at_80();
        lineage.served("#7", at(90));
        assert_eq!(lineage.judge(&["client", "#7"], at(90), None), Ok(()));
        lineage.forget("#7");
        assert_eq!(lineage.judge(&["client", "#7"], at(90), None), Err(80));
    }
}
