//! Following the log: what an earlier process has left of the index is taken over, then each record gets its entries.
//!
//! Invariants: keys are put in the order of the log, each once; after a stop in order the files hold every key of the log, unless
//! the index had failed or the time for it was up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, pin_mut, select_biased};

use super::super::checkpoint::Checkpoint;
use super::super::{FileOf, Shared, StoreError};
use super::image::index_hashes;
use super::{Feed, Index, Write, read_entry};
use crate::protocol::message::{MAGIC_BLANK, RecordView, sys_flag};
use crate::runtime::{Runtime, WallMillis};
use crate::sync::lock;

/// Log bytes indexed between two pauses: short, since it runs among the connections' tasks.
const TURN_SIZE: u64 = 64 << 10;
/// Records indexed between two pauses when they need not be read.
const TURN_COUNT: usize = 256;
/// Encoded entries in memory from which they are written.
const PENDING_BYTES_MAX: usize = 1 << 20;
/// How long the index may trail when nobody asks, and how often it is made durable.
const IDLE_PERIOD: Duration = Duration::from_millis(100);
const SYNC_PERIOD: Duration = Duration::from_secs(30);
/// A stop in order does not wait longer than this for the index to catch up.
const STOP_CATCH_UP_MAX: Duration = Duration::from_secs(5);

/// The task that builds the index.
pub(in crate::store) async fn index_loop<R: Runtime>(shared: Arc<Shared<R>>) {
    let Some(index) = &shared.index else { return };
    if let Err(error) = shared.build_index(index).await {
        log::error!("key index: {error}; queries by key fail until the next start");
        index.progress.fail(error);
    }
}

impl<R: Runtime> Shared<R> {
    async fn load_index(&self, index: &Index<FileOf<R>>) -> Result<Option<(u64, usize)>, StoreError> {
        let trusted_time = match self.recovered_clean {
            true => i64::MAX,
            // Entries of that very second may be incomplete.
            false => index.durable_time().saturating_sub(1000),
        };
        let disk = self.runtime.disk();
        let mut resumed = index.load(disk, &self.paths.index, trusted_time).await?;
        let is_behind = |(position, _): &(u64, usize)| *position < self.confirmed();
        if resumed.is_some() && !(resumed.as_ref().is_some_and(is_behind) && self.is_whole(index).await?) {
            log::warn!("key index: a file is missing, damaged or names lost records; all are made anew");
            index.clear(disk, &self.paths.index).await?;
            resumed = None;
        }
        if index.limit_durable_time() {
            let index_time = index.durable_time();
            self.change_checkpoint(|last| Some(Checkpoint { index_time, ..last }))
                .await?;
        }
        index.loaded.store(true, Ordering::Release);
        Ok(resumed)
    }

    /// Whether the files that were found follow each other without leaving out a key of a record.
    async fn is_whole(&self, index: &Index<FileOf<R>>) -> Result<bool, StoreError> {
        let mut position = self.files.start().unwrap_or(0);
        let mut indexed = None;
        for (file, header) in index.named() {
            let (begin, end) = (header.begin_position.max(0) as u64, header.end_position.max(0) as u64);
            if begin.max(end) >= self.confirmed() {
                return Ok(false);
            }
            while position < begin {
                let Some(bytes) = self.framed(position).await? else {
                    position = position - position % self.files.file_size() + self.files.file_size();
                    continue;
                };
                let has_keys = RecordView::parse(&bytes).is_ok_and(|record| hashes_of(&record).next().is_some());
                if has_keys && indexed != Some(position) {
                    return Ok(false);
                }
                position += bytes.len() as u64;
            }
            if position == begin
                && indexed != Some(begin)
                && let Some(bytes) = self.framed(begin).await?
                && let Ok(record) = RecordView::parse(&bytes)
            {
                // The keys before that one were in a file that is missing.
                let first = read_entry(&file, index.shape, 1).await?.map(|entry| entry.hash);
                if hashes_of(&record).next() != first {
                    return Ok(false);
                }
            }
            position = position.max(end);
            indexed = Some(end);
        }
        Ok(true)
    }

    /// What is framed as a record at `position`; `None` if up to the end of the file there is nothing that could have been indexed.
    async fn framed(&self, position: u64) -> Result<Option<Bytes>, StoreError> {
        let file_end = position - position % self.files.file_size() + self.files.file_size();
        let room = file_end.min(self.confirmed()).saturating_sub(position);
        if room < 8 {
            return Ok(None);
        }
        let head = self.read_any(position, 8).await?;
        let Some([a, b, c, d, magic @ ..]) = head.first_chunk::<8>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([*a, *b, *c, *d]);
        if u32::from_be_bytes(*magic) == MAGIC_BLANK || u64::from(size) > room || size == 0 {
            return Ok(None);
        }
        Ok(Some(self.read_any(position, size as usize).await?))
    }

    /// For a stop in order, with the task that built it gone: brings the index up to the confirm position and makes it durable. The
    /// next start trusts the files as they stand; an index that has failed is removed, to be made anew there.
    pub(in crate::store) async fn settle_index(&self) -> Result<(), StoreError> {
        let Some(index) = &self.index else { return Ok(()) };
        let caught_up = match index.progress.failure() {
            Some(error) => Err(error),
            None => self.catch_up(index).await,
        };
        if let Err(error) = caught_up {
            log::error!(
                "key index: {error}; its files may lack entries and are removed: the next start makes them anew"
            );
            index.clear(self.runtime.disk(), &self.paths.index).await?;
        }
        Ok(())
    }

    async fn catch_up(&self, index: &Index<FileOf<R>>) -> Result<(), StoreError> {
        let resumed = match index.loaded.load(Ordering::Acquire) {
            true => {
                index.sync().await?;
                index.last_record().await?
            }
            // Nothing says yet what a crash before this start has left of the files.
            false => self.load_index(index).await?,
        };
        let done = index.progress.position();
        let (mut position, mut skip) = match self.go_on_from(resumed) {
            (position, _) if position < done => (done, 0),
            resumed => resumed,
        };
        let began = self.runtime.mono();
        while position < self.confirmed() {
            if self.runtime.mono().since(began) >= STOP_CATCH_UP_MAX {
                log::warn!(
                    "key index: {} bytes of the log are not indexed {} s after the stop began: the next start does it, stock RocketMQ would not",
                    self.confirmed() - position,
                    STOP_CATCH_UP_MAX.as_secs()
                );
                break;
            }
            position = self.index_turn(index, position, std::mem::take(&mut skip)).await?;
            self.runtime.yield_now().await;
        }
        Ok(index.sync().await?)
    }

    /// Where to go on behind the last record that is indexed, and how many keys of the record there are done.
    fn go_on_from(&self, resumed: Option<(u64, usize)>) -> (u64, usize) {
        let log_start = self.files.start().unwrap_or(0);
        match resumed {
            Some((position, keys)) if log_start <= position && position < self.confirmed() => (position, keys),
            _ => (log_start, 0),
        }
    }

    async fn build_index(&self, index: &Index<FileOf<R>>) -> Result<(), StoreError> {
        let resumed = self.load_index(index).await?;
        let (mut position, mut skip) = self.go_on_from(resumed);
        let mut last_sync = self.runtime.mono();
        let mut feed = Feed::default();
        loop {
            if position < self.confirmed() {
                if feed.is_empty() {
                    std::mem::swap(&mut feed, lock(&self.dispatcher).feed());
                }
                position = match self.index_fed(index, position, skip, &mut feed).await? {
                    Some(position) => position,
                    None => self.index_turn(index, position, skip).await?,
                };
                skip = 0;
                index.progress.advance(position);
                self.runtime.yield_now().await;
            } else {
                let idle = self.runtime.sleep(IDLE_PERIOD).fuse();
                let wanted = index.wanted.notified().fuse();
                pin_mut!(idle, wanted);
                select_biased! {
                    () = wanted => {}
                    () = idle => {}
                }
            }
            let now = self.runtime.mono();
            if now.since(last_sync) >= SYNC_PERIOD {
                last_sync = now;
                index.sync().await?;
            }
        }
    }

    /// Indexes some records from `position` on that were fed; the first one without its first `skip` keys. Gives the next position,
    /// `None` if the one at `position` was not fed.
    async fn index_fed(
        &self,
        index: &Index<FileOf<R>>,
        position: u64,
        mut skip: usize,
        feed: &mut Feed,
    ) -> Result<Option<u64>, StoreError> {
        let mut next = None;
        for _ in 0..TURN_COUNT {
            let Some(record) = feed.take(next.unwrap_or(position)) else {
                break;
            };
            let keys = record.keys.as_slice();
            self.index_keys(
                index,
                keys,
                record.position,
                record.store_time,
                std::mem::take(&mut skip),
            )
            .await?;
            next = Some(record.end);
        }
        Ok(next)
    }

    /// Indexes some records from `position` on; the first one without its first `skip` keys. Gives the next position.
    async fn index_turn(&self, index: &Index<FileOf<R>>, position: u64, mut skip: usize) -> Result<u64, StoreError> {
        let mut position = position;
        let log_start = self.files.start().unwrap_or(0);
        if position < log_start {
            // Deleted meanwhile; what was left out was of the record there.
            (position, skip) = (log_start, 0);
        }
        let from = position;
        let confirmed = self.confirmed();
        let file_size = self.config.commit_log_file_size;
        let file_end = position - position % file_size + file_size;
        let room = file_end.min(confirmed).saturating_sub(position);
        let mut bytes = self.read_any(position, room.min(TURN_SIZE) as usize).await?;
        while bytes.len() >= 8 {
            let size = u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            let magic = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            if magic == MAGIC_BLANK {
                return Ok(file_end);
            }
            if size > room {
                log::error!("key index: no record at {position}; the rest of its file is left out");
                return Ok(file_end.min(confirmed));
            }
            if size > bytes.len() as u64 {
                if bytes.len() as u64 == room.min(TURN_SIZE) && size <= room {
                    bytes = self.read_any(position, size as usize).await?;
                    continue;
                }
                break;
            }
            let record = bytes.split_to(size.max(1) as usize);
            self.index_record(index, &record, std::mem::take(&mut skip)).await?;
            position += size.max(1);
        }
        // Fewer than eight bytes up to the end of the file hold nothing.
        if file_end - position < 8 {
            Ok(file_end)
        } else if position == from && position < confirmed {
            log::error!("key index: no record at {position}; the rest of its file is left out");
            Ok(file_end.min(confirmed))
        } else {
            Ok(position)
        }
    }

    async fn index_record(&self, index: &Index<FileOf<R>>, bytes: &Bytes, skip: usize) -> Result<(), StoreError> {
        // A record without a whole frame cannot be below the confirm position; one with a bad body is found by nobody.
        let Ok(record) = RecordView::parse(bytes.chunk()) else {
            return Ok(());
        };
        let hashes: Vec<u32> = hashes_of(&record).collect();
        self.index_keys(index, &hashes, record.physical_offset, record.store_time, skip)
            .await
    }

    async fn index_keys(
        &self,
        index: &Index<FileOf<R>>,
        hashes: &[u32],
        position: u64,
        store_time: WallMillis,
        mut skip: usize,
    ) -> Result<(), StoreError> {
        let pending = loop {
            match index.put(hashes, position, store_time, skip) {
                Ok(pending) => break pending,
                Err(next_key) => skip = next_key,
            }
            if index.needs_file() {
                index
                    .roll(self.runtime.disk(), &self.paths.index, self.runtime.wall())
                    .await?;
            }
        };
        if pending >= PENDING_BYTES_MAX {
            index.write(Write::Entries)?;
        }
        Ok(())
    }
}

/// Hashes of the keys under which a record is found: none for an undone transaction; a prepared one is found.
fn hashes_of(record: &RecordView<'_>) -> impl Iterator<Item = u32> {
    let is_undone = sys_flag::transaction(record.sys_flag) == sys_flag::ROLLBACK;
    index_hashes(record.topic, record.properties).filter(move |_| !is_undone)
}
