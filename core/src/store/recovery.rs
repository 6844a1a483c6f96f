//! Opening a store: finds the end of the log, cuts what is behind it, repairs the queues. The log is the truth.
//!
//! | step | checkpoint is ours | checkpoint is Java's, or says nothing |
//! |---|---|---|
//! | queues | those of the checkpoint's position, a few reads each; they must add up to its digest | each newest file is read |
//! | read the log from | that position | clean stop: the file of the newest entry; else the newest file older than the checkpoint |
//! | queues do not add up, a hole, no queue at all | read everything | the same |
//! | torn record, or bytes of a longer log | cut: zero to the end of the file, remove later files, sync | the same |
//! | unclean stop: records behind the durable position | written again and synced | the same |
//! | queue entries | those of records read are made again, those behind the end are cleared | the same |
//!
//! So after a stop in order nothing is read again, after a kill what was written since the checkpoint. A gap in a queue's
//! offsets says that its files lost entries: everything is read then. Each step leaves a store that the next opening recovers
//! in the same way: the checkpoint is written last. What is a record and what is not: `replay`, `docs/recovery.md`.

use futures_util::future::join_all;

use super::checkpoint::Checkpoint;
use super::files::{LogFiles, Zeros};
use super::layout::Paths;
use super::load::{LoadedQueue, finish_deletions, load_queues, load_settled};
use super::queue::Queue;
use super::queues::QueueTable;
use super::replay::{Durable, Replay, ReplayEnd};
use super::salvage::fill;
use super::{OpenError, Recovery, StoreConfig};
use crate::protocol::message::{STORE_TIME_PREFIX_SIZE, store_time};
use crate::runtime::{Disk, DiskError, File, WallMillis};

/// An opened log and its queues.
pub(crate) struct Recovered<F> {
    pub(crate) files: LogFiles<F>,
    pub(crate) queues: QueueTable<F>,
    pub(crate) recovery: Recovery,
    pub(crate) last_store_time: WallMillis,
    /// Records from here on were verified just now.
    pub(crate) verified_from: u64,
}

/// Where to begin, and with which queues.
struct Start<F> {
    from: u64,
    loaded: Vec<LoadedQueue<F>>,
    durable: Durable,
    last_store_time: WallMillis,
    /// The queues are those of `from`: nothing of them is to be cut.
    is_settled: bool,
    /// All queues are to be made anew.
    is_lost: bool,
}

pub(crate) async fn recover<D: Disk>(
    disk: &D,
    config: &StoreConfig,
    paths: &Paths,
    checkpoint: &Checkpoint,
    clean: bool,
) -> Result<Recovered<D::File>, OpenError> {
    let files = LogFiles::load(disk, &paths.commit_log, config.commit_log_file_size).await?;
    if let Some(seal) = &checkpoint.seal {
        finish_deletions(disk, paths, seal).await?;
    }
    let Some(log_start) = files.start() else {
        for queue in load_queues(disk, paths, config.queue_file_size()).await? {
            queue.build().delete(disk).await?;
        }
        let queues = QueueTable::new(paths.clone(), config.queue_file_size(), []);
        let recovery = Recovery {
            clean,
            ..Recovery::default()
        };
        return Ok(Recovered {
            files,
            queues,
            recovery,
            last_store_time: checkpoint
                .durable()
                .map_or(WallMillis(0), |_| WallMillis(checkpoint.physic_time)),
            verified_from: 0,
        });
    };
    let Start {
        from,
        loaded,
        durable,
        last_store_time,
        is_settled,
        is_lost,
    } = start(disk, config, paths, checkpoint, clean, &files).await?;
    let known = Known::of(&loaded);
    let deleting = checkpoint.seal.unwrap_or_default().deleting;
    let mut replay = Replay::new(disk, config, &files, &loaded, durable);
    replay.deleting = &deleting;
    replay.skip_unknown_below = if clean && !is_lost { known.end } else { 0 };
    replay.is_full = from == log_start;
    replay.is_clean = clean;
    replay.last_store_time = last_store_time;
    replay.recovery = Recovery {
        clean,
        log_start,
        ..Recovery::default()
    };
    let mut queues = match is_settled {
        true => {
            let built = loaded.iter().map(|queue| queue.clone().build());
            QueueTable::new(paths.clone(), config.queue_file_size(), built)
        }
        false => table_at(config, paths, &loaded, from).await?,
    };
    let mut verified_from = from;
    let mut is_settled = is_settled;
    if let ReplayEnd::Gap = replay.run(from, &queues).await? {
        queues = table_at(config, paths, &loaded, log_start).await?;
        verified_from = log_start;
        is_settled = false;
        replay.start_over();
        replay.run(log_start, &queues).await?;
    }
    if !is_settled {
        replay.keep_offsets(&queues).await?;
    }
    for hole in &replay.holes {
        fill(disk, paths, &files, *hole).await?;
    }
    let Replay {
        mut recovery,
        last_store_time,
        ..
    } = replay;
    let log_end = recovery.log_end;
    recovery.rebuilt = verified_from == log_start && log_end > log_start && (is_lost || known.end == 0);
    let is_ahead = |queue: &LoadedQueue<D::File>| !queue.is_damaged && queue.end() > log_end;
    recovery.lost_tail = loaded.iter().any(is_ahead);
    if !(clean && is_settled && from == log_end) {
        let zeros = if clean { Zeros::IfNeeded } else { Zeros::Always };
        recovery.cut_bytes = files.cut(disk, log_end, zeros).await?;
        recovery.lost_tail |= recovery.cut_bytes > 0;
    }
    recovery.repaired_queues = loaded.iter().filter(|queue| queue.is_damaged).count() as u64;
    settle_queues(disk, paths, &queues, log_start, !clean || !is_settled).await?;
    Ok(Recovered {
        files,
        queues,
        recovery,
        last_store_time,
        verified_from,
    })
}

async fn start<D: Disk>(
    disk: &D,
    config: &StoreConfig,
    paths: &Paths,
    checkpoint: &Checkpoint,
    clean: bool,
    files: &LogFiles<D::File>,
) -> Result<Start<D::File>, DiskError> {
    let log_start = files.start().unwrap_or(0);
    let file_size = config.queue_file_size();
    if let (Some(durable), Some(seal)) = (checkpoint.durable(), &checkpoint.seal) {
        let is_there = log_start <= durable && durable <= files.end();
        let settled = match is_there {
            true => load_settled(disk, paths, file_size, durable, seal).await?,
            false => None,
        };
        let last_store_time = WallMillis(checkpoint.physic_time);
        if let Some(loaded) = settled {
            return Ok(Start {
                from: durable,
                loaded,
                durable: Durable::Below(durable),
                last_store_time,
                is_settled: true,
                is_lost: false,
            });
        }
        log::warn!("consume queues are not what the checkpoint says: they are made anew from the whole log");
        return Ok(Start {
            from: log_start,
            loaded: load_queues(disk, paths, file_size).await?,
            durable: Durable::Below(durable.min(files.end())),
            last_store_time,
            is_settled: false,
            is_lost: true,
        });
    }
    let loaded = load_queues(disk, paths, file_size).await?;
    let known = Known::of(&loaded);
    let recovery_time = checkpoint.recovery_time();
    let durable = match clean {
        true => WallMillis(i64::MAX),
        false => recovery_time,
    };
    Ok(Start {
        from: scan_start(&first_store_times(files).await?, clean, recovery_time, &known),
        loaded,
        durable: Durable::StoredBefore(durable),
        // Of Java's times none is believed that no record bears out.
        last_store_time: time_of_newest(files, &known).await?,
        is_settled: false,
        is_lost: false,
    })
}

/// Queues that are settled together.
const TOGETHER: usize = 64;

/// Writes, clears, syncs and trims every queue, so that memory and files agree. With `look`, queues behind whose end one look
/// finds something are cleared there.
async fn settle_queues<D: Disk>(
    disk: &D,
    paths: &Paths,
    queues: &QueueTable<D::File>,
    log_start: u64,
    look: bool,
) -> Result<(), DiskError> {
    queues.take_unwritten();
    let mut created = false;
    for queues in queues.all().chunks(TOGETHER) {
        let settling = queues.iter().map(|queue| settle(disk, queue, log_start, look));
        for (queue, is_new) in queues.iter().zip(join_all(settling).await) {
            if is_new? {
                disk.sync_dir(&paths.topic(&queue.topic)).await?;
                created = true;
            }
        }
    }
    if created {
        disk.sync_dir(&paths.consume_queue).await?;
        disk.sync_dir(&paths.root).await?;
    }
    Ok(())
}

/// True if files were made.
async fn settle<D: Disk>(disk: &D, queue: &Queue<D::File>, log_start: u64, look: bool) -> Result<bool, DiskError> {
    queue.write_out(disk, u64::MAX).await?;
    if look && queue.has_entries_behind().await? {
        queue.doubt_behind();
    }
    queue.clear_behind(disk).await?;
    let is_new = queue.sync(disk).await?;
    queue.trim(disk, log_start).await?;
    queue.set_assigned(queue.bounds().max);
    Ok(is_new)
}

/// Store time of the newest record with a queue entry.
async fn time_of_newest<F: File>(files: &LogFiles<F>, known: &Known) -> Result<WallMillis, DiskError> {
    let Some(last) = known
        .last
        .filter(|last| last + STORE_TIME_PREFIX_SIZE as u64 <= files.end())
    else {
        return Ok(WallMillis(0));
    };
    let room = files.file_size() - last % files.file_size();
    let size = STORE_TIME_PREFIX_SIZE.min(room as usize);
    if files.at(last).is_none() {
        return Ok(WallMillis(0));
    }
    let time = store_time(&files.read(last, size).await?);
    Ok(time.unwrap_or(WallMillis(0)))
}

/// What the queues know of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Position of the newest record with an entry.
    last: Option<u64>,
    /// End of that record.
    end: u64,
    /// The oldest position behind which some queue is damaged.
    damaged_from: Option<u64>,
}

impl Known {
    fn of<F>(loaded: &[LoadedQueue<F>]) -> Known {
        let mut known = Known::default();
        for queue in loaded {
            if let Some(last) = queue.last {
                known.last = known.last.max(Some(last.physical));
                known.end = known.end.max(last.end());
            }
            if queue.is_damaged {
                let from = queue.last.map_or(0, |last| last.physical);
                known.damaged_from = Some(known.damaged_from.map_or(from, |other| other.min(from)));
            }
        }
        known
    }
}

/// Where to start scanning: the start of a file, never behind anything that is in doubt. `starts` are the files' first
/// bytes and the store times of their first records, oldest first; there is at least one.
pub(crate) fn scan_start(
    starts: &[(u64, Option<WallMillis>)],
    clean: bool,
    recovery_time: WallMillis,
    known: &Known,
) -> u64 {
    let first = starts[0].0;
    let newest_with = |fits: &dyn Fn(u64, Option<WallMillis>) -> bool| {
        let found = starts.iter().rev().find(|(start, time)| fits(*start, *time));
        found.map_or(first, |(start, _)| *start)
    };
    let Some(last) = known.last else { return first };
    let start = match clean {
        true => newest_with(&|start, _| start <= last),
        false => newest_with(&|_, time| time.is_some_and(|time| time <= recovery_time)),
    };
    match known.damaged_from {
        Some(position) => start.min(newest_with(&|start, _| start <= position)),
        None => start,
    }
}

async fn first_store_times<F: File>(files: &LogFiles<F>) -> Result<Vec<(u64, Option<WallMillis>)>, DiskError> {
    let mut times = Vec::new();
    for log_file in files.all() {
        let size = (log_file.file.len() as usize).min(STORE_TIME_PREFIX_SIZE);
        let prefix = log_file.file.read(0, size).await?;
        times.push((log_file.start, store_time(&prefix)));
    }
    Ok(times)
}

/// The queues with their entries of records before `from`.
async fn table_at<F: File>(
    config: &StoreConfig,
    paths: &Paths,
    loaded: &[LoadedQueue<F>],
    from: u64,
) -> Result<QueueTable<F>, DiskError> {
    let mut queues = Vec::with_capacity(loaded.len());
    for queue in loaded {
        let queue = queue.clone().build();
        let next = queue.first_at_or_behind(from).await?;
        queue.cut_to(next);
        queues.push(queue);
    }
    Ok(QueueTable::new(paths.clone(), config.queue_file_size(), queues))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTS: [(u64, Option<WallMillis>); 4] = [
        (1000, Some(WallMillis(10))),
        (2000, Some(WallMillis(20))),
        (3000, Some(WallMillis(30))),
        (4000, None),
    ];

    fn known(last: u64) -> Known {
        Known {
            last: Some(last),
            end: last + 100,
            damaged_from: None,
        }
    }

    #[test]
    fn a_clean_stop_scans_from_the_file_of_the_newest_entry() {
        assert_eq!(scan_start(&STARTS, true, WallMillis(0), &known(2999)), 2000);
        assert_eq!(scan_start(&STARTS, true, WallMillis(0), &known(9999)), 4000);
    }

    #[test]
    fn a_crash_scans_from_the_newest_file_older_than_the_checkpoint() {
        assert_eq!(scan_start(&STARTS, false, WallMillis(25), &known(3500)), 2000);
        assert_eq!(scan_start(&STARTS, false, WallMillis(99), &known(3500)), 3000);
        assert_eq!(scan_start(&STARTS, false, WallMillis(0), &known(3500)), 1000);
    }

    #[test]
    fn a_damaged_queue_or_none_at_all_widens_the_scan() {
        let damaged = Known {
            damaged_from: Some(1500),
            ..known(3500)
        };
        assert_eq!(scan_start(&STARTS, true, WallMillis(0), &damaged), 1000);
        assert_eq!(scan_start(&STARTS, true, WallMillis(0), &Known::default()), 1000);
    }
}
