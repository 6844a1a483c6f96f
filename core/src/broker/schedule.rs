//! Delivers messages whose delay level has passed: reads the schedule topic's queue of each level in order, puts what is
//! due into its real topic, and remembers how far it came.
//!
//! One task for all levels, woken by the store when a delayed message arrives and by the clock when one is due; an idle
//! broker does nothing. Delivery is at least once: progress is saved after the copies are durable (see `persist`), so a
//! crash repeats and never skips.
//!
//! Source: `ScheduleMessageService.java`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, select_biased};

use super::operations::{Operations, Refusal};
use super::state::Change;
use super::state::topics::SCHEDULE_TOPIC;
use crate::protocol::message::{Draft, RecordView, records};
use crate::protocol::properties;
use crate::runtime::{Runtime, WallMillis};
use crate::store::{GetRequest, GetStatus, TagFilter};
use crate::sync::Notify;

/// Messages of one level delivered before the other levels have their turn.
const BATCH_COUNT: usize = 32;

/// Longest sleep: after that the wall clock is looked at again, which may have stepped.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// Pause after a failure of the store.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// What one turn over a level left.
enum Turn {
    /// Nothing waits on this level.
    Empty,
    /// More may be due at once.
    More,
    /// The next one is due in this time.
    Later(Duration),
}

/// Delivers, until dropped. `bell` rings when a delayed message is stored.
pub(super) async fn run<R: Runtime>(operations: Arc<Operations<R>>, bell: &Notify) {
    let level_count = operations.config.messages.delay_levels.count();
    loop {
        let mut sleep = None;
        let mut is_more_due = false;
        for level in 1..=level_count {
            let wait = match deliver(&operations, level).await {
                Ok(Turn::Empty) => continue,
                Ok(Turn::More) => {
                    is_more_due = true;
                    continue;
                }
                Ok(Turn::Later(wait)) => wait,
                Err(error) => {
                    log::error!("messages of delay level {level} are not delivered: {error}");
                    FAILURE_PAUSE
                }
            };
            sleep = Some(sleep.map_or(wait, |least: Duration| least.min(wait)));
        }
        if is_more_due {
            operations.runtime.yield_now().await;
            continue;
        }
        match sleep {
            None => bell.notified().await,
            Some(wait) => select_biased! {
                () = bell.notified().fuse() => {}
                () = operations.runtime.sleep(wait.clamp(Duration::from_millis(1), SLEEP_MAX)).fuse() => {}
            },
        }
    }
}

async fn deliver<R: Runtime>(operations: &Operations<R>, level: i32) -> Result<Turn, Refusal> {
    let next = operations.tables().delays.next_offset(level);
    let Some(bounds) = operations.store.bounds(SCHEDULE_TOPIC, level - 1) else {
        return Ok(Turn::Empty);
    };
    if next >= bounds.max {
        return Ok(Turn::Empty);
    }
    let get = GetRequest {
        topic: SCHEDULE_TOPIC,
        queue_id: level - 1,
        offset: next,
        max_count: BATCH_COUNT,
        max_bytes: usize::MAX,
        filter: TagFilter::All,
    };
    let got = operations
        .store
        .get_copied(&get)
        .await
        .map_err(|error| Refusal::store_failed(&error))?;
    if got.status != GetStatus::Found {
        // A stretch that retention or damage took: go on behind it.
        if got.next_offset > next {
            operations.propose(Change::Delivered {
                level,
                next_offset: got.next_offset,
            });
            return Ok(Turn::More);
        }
        return Ok(Turn::Empty);
    }
    let delay = operations.config.messages.delay_levels.delay(level).unwrap_or_default();
    let now = operations.runtime.wall();
    let mut due_offset = None;
    let mut wait = None;
    for record in got.chunks.iter().flat_map(records) {
        let Ok(record) = record else {
            continue;
        };
        let Ok(view) = RecordView::parse(&record) else {
            continue;
        };
        let left = time_left(view.store_time, delay, now);
        if !left.is_zero() {
            wait = Some(left);
            break;
        }
        put_into_real_topic(operations, &view).await?;
        due_offset = Some(view.queue_offset + 1);
    }
    // Without a write nothing of this is visible, or counts as delivered.
    if due_offset.is_some() {
        let written = operations.store.write_pending().await;
        written.map_err(|error| Refusal::store_failed(&error))?;
        operations.store.flush_soon();
    }
    let next_offset = if wait.is_some() {
        due_offset
    } else {
        Some(got.next_offset)
    };
    if let Some(next_offset) = next_offset {
        operations.propose(Change::Delivered { level, next_offset });
    }
    Ok(wait.map_or(Turn::More, Turn::Later))
}

/// Time until a message is due. A due time further ahead than the delay itself says that the clock went back since: the
/// message is due now (`ScheduleMessageService.java`, `correctDeliverTimestamp`).
fn time_left(stored: WallMillis, delay: Duration, now: WallMillis) -> Duration {
    let left = (stored + delay).millis_since(now);
    match u64::try_from(left) {
        Ok(left) if Duration::from_millis(left) <= delay => Duration::from_millis(left),
        _ => Duration::ZERO,
    }
}

async fn put_into_real_topic<R: Runtime>(operations: &Operations<R>, view: &RecordView<'_>) -> Result<(), Refusal> {
    let real_topic = view.property(properties::REAL_TOPIC).unwrap_or_default();
    let real_queue = view.property(properties::REAL_QUEUE_ID).and_then(|id| id.parse().ok());
    let (Some(original), Some(queue_id)) = (view.draft(), real_queue) else {
        log::warn!(
            "a delayed message at {} names no real queue and is dropped",
            view.physical_offset
        );
        return Ok(());
    };
    let is_known = operations.tables().topics.get(real_topic).is_some();
    if !is_known {
        log::warn!(
            "a delayed message at {} is for topic {real_topic}, which is gone",
            view.physical_offset
        );
        return Ok(());
    }
    let text = properties::remove_all(
        original.properties,
        &[
            properties::DELAY,
            properties::TIMER_DELAY_SEC,
            properties::TIMER_DELAY_MS,
            properties::TIMER_DELIVER_MS,
        ],
    );
    let draft = Draft {
        topic: real_topic,
        queue_id,
        store_host: operations.store_host,
        properties: &text,
        ..original
    };
    operations.append(&[draft]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_due_after_its_delay_and_at_once_when_the_clock_went_back() {
        let delay = Duration::from_secs(10);
        let stored = WallMillis(100_000);
        assert_eq!(time_left(stored, delay, WallMillis(100_000)), delay);
        assert_eq!(time_left(stored, delay, WallMillis(109_999)), Duration::from_millis(1));
        assert_eq!(time_left(stored, delay, WallMillis(110_000)), Duration::ZERO);
        assert_eq!(
            time_left(stored, delay, WallMillis(90_000)),
            Duration::ZERO,
            "the clock went back"
        );
    }
}
