//! Appending and writing: the path of every send, synchronous up to the page cache.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, TryLockError};

use super::dispatch::{TagsCode, is_queued};
use super::files::FilesEnd;
use super::index::{Fed, Feed, KeyHashes};
use super::layout::{Entry, is_folder_name};
use super::log::{AppendLog, Group, Reserved};
use super::queue::Pushed;
use super::scan::{Step, step};
use super::{AppendError, Appended, FlushMode, Positions, QueueOf, Shared, Store, StoreError};
use crate::probe::Fact;
use crate::protocol::message::{self, Draft, DraftError, Placement};
use crate::runtime::{Runtime, WallMillis, site};
use crate::sync::lock;
use crate::types::PhysicalOffset;

/// Groups that a sender writes at most, his own included, before the task that writes takes over.
const WRITE_ROUNDS_MAX: usize = 4;

/// A record that gets a queue entry once the confirm position passes its end.
pub(super) struct Visible<R: Runtime> {
    queue: QueueOf<R>,
    offset: i64,
    entry: Entry,
    store_time: WallMillis,
    /// For the key index; `None` if it has to look itself.
    keys: Option<KeyHashes>,
}

/// Makes records visible, in log order.
pub(super) struct Dispatcher<R: Runtime> {
    /// Written and not visible yet.
    waiting: VecDeque<Visible<R>>,
    /// The confirm position, up to which every entry has been made.
    pub(super) visible: Written,
    /// Sum of weight times next offset over all queues: see `checkpoint`.
    digest: u64,
    /// Topics deleted so far.
    deletions: u64,
    feed: Feed,
}

impl<R: Runtime> Dispatcher<R> {
    pub(super) fn new(visible: Written, digest: u64) -> Self {
        Dispatcher {
            waiting: VecDeque::new(),
            visible,
            digest,
            deletions: 0,
            feed: Feed::default(),
        }
    }

    /// Keys of records that became visible, for the index to take.
    pub(super) fn feed(&mut self) -> &mut Feed {
        &mut self.feed
    }

    /// What a checkpoint may claim once it is durable.
    pub(super) fn claimable(&self) -> Claimable {
        Claimable {
            upto: self.visible,
            digest: self.digest,
            deletions: self.deletions,
        }
    }

    pub(super) fn deletions(&self) -> u64 {
        self.deletions
    }

    /// The queues of a deleted topic count no longer.
    pub(super) fn retire(&mut self, queues: &[QueueOf<R>]) {
        self.deletions += 1;
        for queue in queues {
            queue.retire();
            self.digest = self.digest.wrapping_sub(queue.digest());
        }
    }
}

/// What has reached the page cache.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) end: u64,
    /// Store time of the last record before `end`.
    pub(super) last_store_time: WallMillis,
}

/// The queues at a confirm position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimable {
    pub(super) upto: Written,
    pub(super) digest: u64,
    /// The digest holds as long as this is the number of deleted topics.
    pub(super) deletions: u64,
}

/// What can be known of a draft before it has a place: computed outside of the append lock.
struct Prepared {
    crc: u32,
    size: u64,
    tags_code: TagsCode,
    keys: Option<KeyHashes>,
}

impl<R: Runtime> Store<R> {
    /// Gives the drafts their places, all in one log file, and encodes them into memory. Nothing may be acknowledged
    /// before it is [`written`](Store::written). Refused drafts leave the log as it was.
    pub fn append(&self, drafts: &[Draft<'_>]) -> Result<Appended, AppendError> {
        let appended = self.try_append(drafts);
        if let Err(error) = &appended {
            lock(&self.owner.shared.refusals).count(error);
        }
        appended
    }

    fn try_append(&self, drafts: &[Draft<'_>]) -> Result<Appended, AppendError> {
        let shared = &self.owner.shared;
        shared.check()?;
        shared.disk_gauge.check(&shared.config)?;
        shared.check_busy()?;
        match drafts {
            [] => Err(AppendError::Empty),
            [draft] => {
                let mut place = [Placement::default()];
                let end = shared.place(drafts, &[shared.prepare(draft)?], |index, placed| place[index] = placed)?;
                Ok(Appended {
                    positions: Positions::One(place),
                    end: PhysicalOffset(end),
                })
            }
            _ => {
                let prepared = drafts.iter().map(|draft| shared.prepare(draft));
                let prepared = prepared.collect::<Result<Vec<_>, _>>()?;
                let mut places = Vec::with_capacity(drafts.len());
                let end = shared.place(drafts, &prepared, |_, placed| places.push(placed))?;
                Ok(Appended {
                    positions: Positions::Many(places),
                    end: PhysicalOffset(end),
                })
            }
        }
    }

    /// Appends whole records that have their places already (from a primary, or for repair). They must follow the end of
    /// the log; if they start at the next file, the current one is filled up.
    pub fn append_at(&self, position: PhysicalOffset, records: &[u8]) -> Result<Appended, AppendError> {
        let shared = &self.owner.shared;
        shared.check()?;
        let mut log = lock(&shared.log);
        shared.check()?;
        let file_size = shared.config.commit_log_file_size;
        let end = log.end();
        let next_file = end.div_ceil(file_size) * file_size;
        if position.0 != end && position.0 != next_file {
            return Err(AppendError::Position { given: position.0, end });
        }
        let room = file_size - position.0 % file_size;
        let places = shared.check_records(position.0, room, records)?;
        if !log.is_ready(position.0 + records.len() as u64 + message::BLANK_SIZE as u64) {
            shared.file_wanted.notify();
            return Err(AppendError::NotReady);
        }
        if position.0 != end {
            log.roll();
        }
        let size = records.len() as u64;
        let reserved = log.reserve(size, WallMillis(0))?;
        assert_eq!(reserved.start, position.0, "records were checked to fit");
        log.buffer().extend_from_slice(records);
        log.commit(size, places.len() as u64);
        let mut positions = Vec::with_capacity(places.len());
        for (placement, visible) in places {
            log.observe_store_time(placement.store_time);
            positions.push(placement);
            if let Some(visible) = visible {
                visible.queue.set_assigned(visible.offset + 1);
                log.place(visible);
            }
        }
        shared.want_file(&log);
        Ok(Appended {
            positions: Positions::Many(positions),
            end: PhysicalOffset(log.end()),
        })
    }

    /// Waits until the log file that an append found missing is there, or cannot be made, or the zeros that were in its way are
    /// written.
    pub async fn ready(&self) -> Result<(), AppendError> {
        let shared = &self.owner.shared;
        shared.check()?;
        shared.zeroing.until(|zeroing| !zeroing).await;
        let wanted = {
            let log = lock(&shared.log);
            let file_size = shared.config.commit_log_file_size;
            log.end() - log.end() % file_size + 2 * file_size
        };
        shared.file_wanted.notify();
        let is_over = |files: &FilesEnd| files.end >= wanted || files.error.is_some();
        let files = shared.files_end.until(is_over).await;
        if files.end == u64::MAX {
            shared.check()?;
            return Err(StoreError::Closed.into());
        }
        match files.error {
            Some(error) if files.end < wanted => {
                let error = AppendError::NoFile(error);
                lock(&shared.refusals).count(&error);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// As [`append`](Store::append), waiting for the next log file if need be.
    pub async fn append_when_ready(&self, drafts: &[Draft<'_>]) -> Result<Appended, AppendError> {
        loop {
            match self.append(drafts) {
                Err(AppendError::NotReady) => self.ready().await?,
                other => return other,
            }
        }
    }

    /// Writes everything appended so far, by anyone, in one go, and returns when everything before `end` is written: a kill
    /// of the process loses none of it; with asynchronous flush it is visible. While somebody else writes, his thread does
    /// this one's share, too, and none waits but for that.
    pub async fn written(&self, end: PhysicalOffset) -> Result<(), StoreError> {
        let shared = &self.owner.shared;
        shared.check()?;
        shared.write_or_leave(WRITE_ROUNDS_MAX)?;
        shared.on_file.reached(end.0).await
    }

    /// As [`written`](Store::written), for everything appended so far.
    pub async fn write_pending(&self) -> Result<(), StoreError> {
        let end = lock(&self.owner.shared.log).end();
        self.written(PhysicalOffset(end)).await
    }
}

impl<R: Runtime> Shared<R> {
    /// Whether the group write under way has taken too long already.
    fn check_busy(&self) -> Result<(), AppendError> {
        let Some(busy) = self.write_clock.elapsed(|| self.runtime.mono()) else {
            return Ok(());
        };
        if busy <= self.config.page_cache_busy {
            return Ok(());
        }
        Err(AppendError::PageCacheBusy {
            busy_ms: busy.as_millis() as u64,
            limit_ms: self.config.page_cache_busy.as_millis() as u64,
        })
    }

    fn prepare(&self, draft: &Draft<'_>) -> Result<Prepared, AppendError> {
        message::check(draft)?;
        if !is_folder_name(draft.topic) {
            return Err(DraftError::TopicName.into());
        }
        let size = message::encoded_size(draft);
        if size > self.config.record_size_max {
            return Err(AppendError::TooLarge {
                size: size as u64,
                limit: self.config.record_size_max as u64,
            });
        }
        Ok(Prepared {
            crc: message::body_crc(draft.body),
            size: size as u64,
            tags_code: TagsCode::of(draft.topic, draft.properties, &self.config.delay_levels_ms),
            keys: match self.index {
                Some(_) => KeyHashes::of(draft.topic, draft.properties.as_bytes()),
                None => None,
            },
        })
    }

    /// The critical section of a send.
    fn place(
        &self,
        drafts: &[Draft<'_>],
        prepared: &[Prepared],
        mut placed: impl FnMut(usize, Placement),
    ) -> Result<u64, AppendError> {
        let size = prepared.iter().map(|prepared| prepared.size).sum();
        let mut last: Option<QueueOf<R>> = None;
        let mut log = lock(&self.log);
        // Again under the lock: closing sets it there, so that nothing slips in behind the last write.
        self.check()?;
        self.check_deletions(drafts.iter().map(|draft| draft.topic))?;
        let reserved = log.reserve(size, self.runtime.wall());
        let Reserved { start, mut store_time } = reserved.inspect_err(|error| {
            if matches!(error, AppendError::NotReady) {
                self.file_wanted.notify();
            }
        })?;
        // Defect: store times follow the clock back.
        if site(&self.runtime, "store-time-steps-back") {
            store_time = self.runtime.wall();
        }
        let mut physical_offset = start;
        for (index, (draft, prepared)) in drafts.iter().zip(prepared).enumerate() {
            let mut placement = Placement {
                queue_offset: 0,
                physical_offset,
                store_time,
            };
            if is_queued(draft) {
                let queue = match last.take() {
                    Some(queue) if queue.queue_id == draft.queue_id && *queue.topic == *draft.topic => queue,
                    _ => self.queues.get_or_create(draft.topic, draft.queue_id),
                };
                placement.queue_offset = queue.assigned();
                queue.set_assigned(placement.queue_offset + 1);
                let entry = Entry {
                    physical: physical_offset,
                    size: prepared.size as i32,
                    tags_code: prepared.tags_code.at(store_time),
                };
                log.place(Visible {
                    queue: Arc::clone(&queue),
                    offset: placement.queue_offset,
                    entry,
                    store_time,
                    keys: prepared.keys,
                });
                last = Some(queue);
            }
            message::encode(draft, prepared.crc, &placement, log.buffer());
            log.commit(prepared.size, 1);
            physical_offset += prepared.size;
            placed(index, placement);
        }
        self.want_file(&log);
        Ok(log.end())
    }

    fn want_file(&self, log: &AppendLog<Visible<R>>) {
        if log.wants_file() {
            self.file_wanted.notify();
        }
    }

    /// Records that are to lie at `position`, with `room` bytes to the end of the file: whole, in order, each saying so.
    #[allow(clippy::type_complexity)]
    fn check_records(
        &self,
        position: u64,
        room: u64,
        records: &[u8],
    ) -> Result<Vec<(Placement, Option<Visible<R>>)>, AppendError> {
        if records.is_empty() {
            return Err(AppendError::Empty);
        }
        if records.len() as u64 + message::BLANK_SIZE as u64 > room {
            return Err(AppendError::Records(format!(
                "{} bytes do not fit into {room}",
                records.len()
            )));
        }
        let mut places = Vec::new();
        let mut at = 0;
        while at < records.len() {
            let here = position + at as u64;
            let Step::Record(record) = step(&records[at..], here, room - at as u64) else {
                return Err(AppendError::Records(format!("no whole record for position {here}")));
            };
            at += record.size();
            let placement = Placement {
                queue_offset: record.queue_offset,
                physical_offset: here,
                store_time: record.store_time,
            };
            // Further entries (light queues) are made by recovery's rule, the same as here.
            let own = super::dispatch::places(&record, &self.config.delay_levels_ms).next();
            let visible = match own {
                Some(place) if is_folder_name(place.topic) => {
                    self.check_deletions(std::iter::once(place.topic))?;
                    let queue = self.queues.get_or_create(place.topic, place.queue_id);
                    self.check_offset(&queue, place.offset, &places)?;
                    Some(Visible {
                        queue,
                        offset: place.offset,
                        entry: place.entry,
                        store_time: record.store_time,
                        keys: None,
                    })
                }
                _ => None,
            };
            places.push((placement, visible));
        }
        Ok(places)
    }

    /// A record's queue offset must be the next one of its queue, counting those before it in the same append.
    fn check_offset(
        &self,
        queue: &QueueOf<R>,
        offset: i64,
        before: &[(Placement, Option<Visible<R>>)],
    ) -> Result<(), AppendError> {
        let earlier = before.iter().rev().filter_map(|(_, visible)| visible.as_ref());
        let same = earlier.into_iter().find(|visible| Arc::ptr_eq(&visible.queue, queue));
        let next = same.map_or(queue.assigned(), |visible| visible.offset + 1);
        if offset == next {
            return Ok(());
        }
        Err(AppendError::Records(format!(
            "offset {offset} of {}-{} does not follow {next}",
            queue.topic, queue.queue_id
        )))
    }

    /// Writes what is pending, unless somebody is writing: then it is his. What others append meanwhile is written here, too,
    /// up to `rounds` groups; then the task that writes goes on, so that nobody works for others for ever.
    pub(super) fn write_or_leave(&self, rounds: usize) -> Result<(), StoreError> {
        for _ in 0..rounds {
            // Whoever has it looks once more after he let it go: nothing pending is left behind.
            let writer = match self.writer.try_lock() {
                Ok(writer) => writer,
                Err(TryLockError::WouldBlock) => return Ok(()),
                Err(TryLockError::Poisoned(writer)) => writer.into_inner(),
            };
            self.write_locked(&writer)?;
            drop(writer);
            if !lock(&self.log).has_pending() {
                return Ok(());
            }
        }
        self.write_wanted.notify();
        Ok(())
    }

    /// One write of everything pending. Once we hold the writer, what others have taken is written.
    pub(super) fn write_group(&self) -> Result<(), StoreError> {
        let writer = lock(&self.writer);
        self.write_locked(&writer)?;
        drop(writer);
        if lock(&self.log).has_pending() {
            // Left to us meanwhile.
            return self.write_or_leave(WRITE_ROUNDS_MAX);
        }
        Ok(())
    }

    fn write_locked(&self, _writer: &MutexGuard<'_, ()>) -> Result<(), StoreError> {
        if let Some(error) = self.poison.get() {
            return Err(error.clone());
        }
        let Some(group) = lock(&self.log).take() else {
            return Ok(());
        };
        let Group {
            segments,
            mut placed,
            end,
            last_store_time,
        } = group;
        let start = segments.first().map_or(end, |segment| segment.start);
        self.write_clock.start(self.runtime.mono());
        let mut result = Ok(());
        for segment in &segments {
            result = result.and_then(|()| self.files.write(segment.start, &segment.bytes));
        }
        self.write_clock.stop();
        if let Err(error) = result {
            return Err(self.poisoned(&error));
        }
        *lock(&self.written) = Written { end, last_store_time };
        self.write_groups.fetch_add(1, Ordering::Relaxed);
        self.runtime.announce(Fact::Appended { start, end });
        lock(&self.dispatcher).waiting.extend(placed.drain(..));
        lock(&self.log).recycle(segments, placed);
        if self.config.flush_mode == FlushMode::Async {
            self.confirm(Written { end, last_store_time });
        }
        // Last: whoever waited finds it visible.
        self.on_file.advance(end);
        Ok(())
    }

    /// Moves the confirm position on and makes the records before it visible.
    pub(super) fn confirm(&self, upto: Written) {
        let mut dispatcher = lock(&self.dispatcher);
        if upto.end <= dispatcher.visible.end {
            return;
        }
        dispatcher.visible = upto;
        self.confirmed.store(upto.end, Ordering::Release);
        let is_visible = |visible: &mut Visible<R>| visible.entry.end() <= upto.end;
        while let Some(visible) = dispatcher.waiting.pop_front_if(is_visible) {
            let Visible {
                queue,
                offset,
                entry,
                store_time,
                keys,
            } = visible;
            if let Some(keys) = keys {
                dispatcher.feed.push(Fed {
                    position: entry.physical,
                    end: entry.end(),
                    store_time,
                    keys,
                });
            }
            match queue.push(offset, entry) {
                Pushed::First => self.queues.note_unwritten(&queue),
                Pushed::Further => {}
                Pushed::Gone => continue,
                // Offsets are given out under the append lock and arrive in log order.
                Pushed::Duplicate | Pushed::Gap => {
                    ::log::error!("entry {offset} of {}-{} does not follow", queue.topic, queue.queue_id);
                    continue;
                }
            }
            dispatcher.digest = dispatcher.digest.wrapping_add(queue.weight());
            self.arrivals
                .arrived(&queue.topic, queue.queue_id, offset + 1, entry.tags_code);
        }
    }
}
