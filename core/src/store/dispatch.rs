//! What a record means to the consume queues: which entries it gets. Pure; the same for a record just appended and for
//! one read by recovery.
//!
//! Source: `store/CommitLog.java` `checkMessageAndReturnSize`, `store/ConsumeQueue.java` `multiDispatchLmqQueue`.

use super::layout::Entry;
use crate::protocol::message::{Draft, RecordView, sys_flag, tags_code};
use crate::protocol::properties;
use crate::runtime::WallMillis;
use crate::types::topic_name::SCHEDULE_TOPIC;

/// Java's delay of a level that its table does not have.
const UNKNOWN_LEVEL_DELAY_MS: i64 = 1000;

/// How the tags code of a message comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagsCode {
    Fixed(i64),
    /// Store time plus this delay.
    Delivery {
        delay_ms: i64,
    },
}

impl TagsCode {
    pub(crate) fn of<T: AsRef<[u8]> + ?Sized>(topic: &str, text: &T, delay_levels_ms: &[i64]) -> TagsCode {
        if topic == SCHEDULE_TOPIC
            && let Some(level) = properties::get(text, properties::DELAY).and_then(|level| level.parse::<usize>().ok())
            && level > 0
        {
            let level = level.min(delay_levels_ms.len().max(1));
            let delay_ms = delay_levels_ms.get(level - 1).copied();
            return TagsCode::Delivery {
                delay_ms: delay_ms.unwrap_or(UNKNOWN_LEVEL_DELAY_MS),
            };
        }
        TagsCode::Fixed(tags_code(properties::get(text, properties::TAGS)))
    }

    pub(crate) fn at(self, store_time: WallMillis) -> i64 {
        match self {
            TagsCode::Fixed(code) => code,
            TagsCode::Delivery { delay_ms } => store_time.0.saturating_add(delay_ms),
        }
    }
}

/// Whether a message gets an entry in the queue it names.
pub(crate) fn is_queued(draft: &Draft<'_>) -> bool {
    queued(draft.sys_flag)
}

/// Inner batches have queues of another format, which stay as they are.
fn queued(flags: i32) -> bool {
    sys_flag::is_queued(flags) && flags & sys_flag::INNER_BATCH == 0
}

/// An entry for a queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a str,
    pub(crate) queue_id: i32,
    pub(crate) offset: i64,
    pub(crate) entry: Entry,
}

/// All entries of a record: one in its own queue, one in each light queue (`%LMQ%`) that its properties name.
pub(crate) fn places<'a>(record: &RecordView<'a>, delay_levels_ms: &[i64]) -> impl Iterator<Item = Place<'a>> {
    let queued = queued(record.sys_flag);
    let entry = Entry {
        physical: record.physical_offset,
        size: i32::try_from(record.size()).unwrap_or(i32::MAX),
        tags_code: TagsCode::of(record.topic, record.properties, delay_levels_ms).at(record.store_time),
    };
    let own = Place {
        topic: record.topic,
        queue_id: record.queue_id,
        offset: record.queue_offset,
        entry,
    };
    let names = record.property(properties::INNER_MULTI_DISPATCH).unwrap_or("");
    let offsets = record.property(properties::INNER_MULTI_QUEUE_OFFSET).unwrap_or("");
    let light = names
        .split(',')
        .zip(offsets.split(','))
        .filter_map(move |(topic, offset)| {
            Some(Place {
                topic: (!topic.is_empty()).then_some(topic)?,
                queue_id: 0,
                offset: offset.parse().ok()?,
                entry,
            })
        });
    std::iter::once(own)
        .chain(light)
        .filter(move |place| queued && place.offset >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduled_message_carries_its_delivery_time() {
        let levels = [1000, 5000];
        let code = |level: &str| {
            let text = properties::from_pairs([("DELAY", level), ("TAGS", "a")]);
            TagsCode::of(SCHEDULE_TOPIC, &text, &levels).at(WallMillis(100))
        };
        assert_eq!(code("2"), 5100);
        assert_eq!(code("9"), 5100);
        assert_eq!(code("x"), 97);
        assert_eq!(TagsCode::of("T", "DELAY\u{1}2\u{2}", &levels).at(WallMillis(100)), 0);
    }
}
