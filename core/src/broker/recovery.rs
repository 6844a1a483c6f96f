//! What a start makes of the saved tables and the recovered log: tables that fit the log, whatever was lost.
//!
//! 1. Queues that hold messages but whose topic no file names get their topic back: messages are not left unreachable.
//! 2. Committed offsets and delay progress beyond a queue's end are set to the end. An unsynced tail was lost, and new
//!    messages will take those offsets; a consumer must not skip them. What was set back is saved before the first request: after another
//!    crash the queue may be longer than the old position, which would be believed.
//! 3. After an unclean start under asynchronous flush, readers' positions beyond the end are not believed
//!    (`state::lineage`).
//! 4. Queue locks hold for their saved owners for one lease, or for nobody if owners are not known (`state::locks`).

use std::collections::BTreeMap;

use super::persist::Loaded;
use super::state::lineage::Lineage;
use super::state::topics::{self, DEFAULT_TOPIC, topic};
use super::state::{Change, Tables};
use crate::config::{BrokerConfig, FlushDiskType};
use crate::protocol::body::Permission;
use crate::runtime::{Mono, Runtime, WallMillis};
use crate::store::{QueueName, Recovery, Store};

pub(super) struct Fitted {
    pub(super) tables: Tables,
    /// Positions beyond the end of their queues were set to it.
    pub(super) is_set_back: bool,
}

pub(super) fn fit<R: Runtime>(
    runtime: &R,
    config: &BrokerConfig,
    store: &Store<R>,
    recovery: &Recovery,
    loaded: Loaded,
) -> Fitted {
    let Loaded {
        mut tables,
        locks_unknown,
        cuts,
    } = loaded;
    let (now, mono) = (runtime.wall(), runtime.mono());
    add_system_topics(&mut tables, config, now);
    let queues = store.queues();
    adopt(&mut tables, queues.iter().map(|(name, _)| name), now);
    let offsets_set_back = clamp_offsets(
        &mut tables,
        |topic, queue_id| store.bounds(topic, queue_id).map_or(0, |bounds| bounds.max),
        now,
    );
    let delays_set_back = clamp_delays(&mut tables, config.messages.delay_levels.count(), now, |queue_id| {
        store
            .bounds(topics::SCHEDULE_TOPIC, queue_id)
            .map_or((0, 0), |bounds| (bounds.min, bounds.max))
    });
    if !recovery.clean && config.flush.disk_type == FlushDiskType::Async {
        let ends = queues
            .into_iter()
            .map(|(name, bounds)| (name.topic.to_string(), name.queue_id, bounds.max));
        tables.lineage = Lineage::cut_at(ends);
    }
    if config.flush.disk_type == FlushDiskType::Async {
        tables.lineage.carry(cuts);
    }
    restore_locks(&mut tables, locks_unknown, recovery, mono);
    Fitted {
        tables,
        is_set_back: offsets_set_back || delays_set_back,
    }
}

fn restore_locks(tables: &mut Tables, locks_unknown: bool, recovery: &Recovery, mono: Mono) {
    let is_new_store = recovery.log_end == 0;
    if locks_unknown && !is_new_store {
        log::warn!("owners of queue locks are not known: none is granted for one lease");
        tables.locks.restore_unknown(mono);
    }
}

fn add_system_topics(tables: &mut Tables, config: &BrokerConfig, now: WallMillis) {
    let auto_create = config.topics.auto_create_topic;
    let queue_count = i32::try_from(config.topics.default_queue_count).unwrap_or(topics::QUEUE_COUNT_MAX);
    let identity = &config.identity;
    let system = topics::system_topics(
        &identity.cluster_name,
        &identity.broker_name,
        config.messages.delay_levels.count(),
        auto_create.then_some(queue_count),
    );
    tables
        .topics
        .mark_system(system.iter().map(|config| config.topic_name.clone()).collect());
    for config in system {
        if tables
            .topics
            .get(&config.topic_name)
            .is_none_or(|known| **known != config)
        {
            tables.apply(Change::PutTopic(config), now);
        }
    }
    if !auto_create && tables.topics.get(DEFAULT_TOPIC).is_some() {
        tables.apply(Change::RemoveTopic { topic: DEFAULT_TOPIC }, now);
    }
}

/// Gives queues of no known topic their topic back.
fn adopt<'a>(tables: &mut Tables, queues: impl Iterator<Item = &'a QueueName>, now: WallMillis) {
    let mut orphans: BTreeMap<&str, i32> = BTreeMap::new();
    for name in queues {
        let count = name.queue_id.saturating_add(1);
        if tables.topics.get(&name.topic).is_none() && (1..=topics::QUEUE_COUNT_MAX).contains(&count) {
            let most = orphans.entry(&name.topic).or_default();
            *most = count.max(*most);
        }
    }
    for (name, count) in orphans {
        if topics::check_name(name).is_ok() {
            log::warn!("topic {name} has messages but no configuration: it gets {count} queues");
            tables.apply(Change::PutTopic(topic(name, count, Permission::READ_WRITE)), now);
        }
    }
}

fn clamp_offsets(tables: &mut Tables, end: impl Fn(&str, i32) -> i64, now: WallMillis) -> bool {
    let mut is_set_back = false;
    for (group, topic, queue_id, offset) in tables.offsets.entries() {
        let end = end(&topic, queue_id);
        if offset > end {
            log::warn!("{group} had committed {offset} of {topic}/{queue_id}, which ends at {end} now");
            let change = Change::CommitOffset {
                group: &group,
                topic: &topic,
                queue_id,
                offset: end,
                by: None,
            };
            tables.apply(change, now);
            is_set_back = true;
        }
    }
    is_set_back
}

fn clamp_delays(tables: &mut Tables, level_count: i32, now: WallMillis, bounds: impl Fn(i32) -> (i64, i64)) -> bool {
    let mut is_set_back = false;
    for level in 1..=level_count {
        let (min, max) = bounds(level - 1);
        let progress = tables.delays.next_offset(level);
        let next_offset = progress.clamp(min, max.max(min));
        if next_offset != progress {
            log::warn!("delay level {level} was delivered to {progress}, goes on from {next_offset}");
            tables.apply(Change::Delivered { level, next_offset }, now);
            is_set_back = true;
        }
    }
    is_set_back
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW: WallMillis = WallMillis(1);

    #[test]
    fn offsets_beyond_the_end_are_set_to_it_and_others_stay() {
        let mut tables = Tables::default();
        for (queue_id, offset) in [(0, 95), (1, 60), (2, 7)] {
            let change = Change::CommitOffset {
                group: "g",
                topic: "T",
                queue_id,
                offset,
                by: None,
            };
            tables.apply(change, NOW);
        }
        assert!(clamp_offsets(
            &mut tables,
            |_, queue_id| [80, 80, 0][queue_id as usize],
            NOW
        ));
        assert!(
            !clamp_offsets(&mut tables, |_, _| 80, NOW),
            "nothing is beyond any more"
        );
        let offsets = [0, 1, 2].map(|queue_id| tables.offsets.get("g", "T", queue_id).unwrap());
        assert_eq!(offsets, [80, 60, 0]);
    }

    #[test]
    fn delay_progress_is_kept_within_the_queue() {
        let mut tables = Tables::default();
        for (level, next_offset) in [(1, 9), (2, 1)] {
            tables.apply(Change::Delivered { level, next_offset }, NOW);
        }
        assert!(clamp_delays(&mut tables, 3, NOW, |queue_id| {
            [(0, 5), (3, 8), (0, 0)][queue_id as usize]
        }));
        assert_eq!([1, 2, 3].map(|level| tables.delays.next_offset(level)), [5, 3, 0]);
    }

    #[test]
    fn queues_without_a_topic_get_one_that_covers_them() {
        let mut tables = Tables::default();
        tables.apply(Change::PutTopic(topic("Known", 2, 6)), NOW);
        let name = |topic: &str, queue_id| QueueName {
            topic: Arc::from(topic),
            queue_id,
        };
        let queues = [name("Lost", 0), name("Lost", 3), name("Known", 1), name("not ours", 0)];
        adopt(&mut tables, queues.iter(), NOW);
        assert_eq!(tables.topics.get("Lost").unwrap().write_queue_nums, 4);
        assert_eq!(tables.topics.get("Known").unwrap().write_queue_nums, 2);
        assert!(tables.topics.get("not ours").is_none());
    }

    #[test]
    fn unknown_lock_owners_matter_only_beside_a_store_with_messages() {
        let mut tables = Tables::default();
        let mut recovery = Recovery::default();
        restore_locks(&mut tables, true, &recovery, Mono(0));
        use crate::broker::state::locks::Verdict;
        assert_eq!(tables.locks.judge(Mono(0), "g", "T", 0, "c"), Verdict::Take);
        recovery.log_end = 100;
        restore_locks(&mut tables, true, &recovery, Mono(0));
        assert_eq!(tables.locks.judge(Mono(0), "g", "T", 0, "c"), Verdict::Refuse);
    }
}
