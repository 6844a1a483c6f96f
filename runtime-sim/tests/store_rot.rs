//! A bit rots anywhere in a store's files, below memory, and the store is started again: only right messages are shown, and only what
//! the rule of `docs/recovery.md` gives up is missing.
//!
//! A small store is filled once and ends in two ways: stopped in order, and killed with messages above its checkpoint. Then
//! one bit of one byte flips, for every byte of every file in turn (`ORRERY_ROT_STRIDE=1`; by default one in some).

mod stored;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use orrery_core::protocol::message::RecordView;
use orrery_core::runtime::WallMillis;
use orrery_core::store::FlushMode;
use orrery_core::types::PhysicalOffset;
use orrery_runtime_sim::{CrashPoint, Draw, Fate, NodeId, PowerCut, World, run};
use stored::*;

/// Place of the logics offset in the checkpoint.
const DURABLE_AT: usize = 40;

/// A store that has ended, and what had been sent.
struct Ended {
    point: CrashPoint,
    files: BTreeMap<PathBuf, Bytes>,
    sent: Vec<Sent>,
    /// The checkpoint says that everything before this position is in log and queues.
    durable: u64,
    log_end: u64,
}

async fn send(store: &Sim, id: u64) -> Sent {
    let queue = (TOPICS[(id % 2) as usize], 0);
    let sent = append(store, vec![Message::drawn(Draw::new(7, "rot"), id, queue)]).await;
    let sent = sent.expect("appended").remove(0);
    store.flushed(PhysicalOffset(sent.end())).await.expect("flushed");
    sent
}

async fn fill(world: &World, node: NodeId, is_stopped: bool) -> Ended {
    world.set_disk(node, instant_disk());
    let (store, _) = open(&world.runtime(node), &config(FlushMode::Sync)).await.unwrap();
    let mut sent = Vec::new();
    for id in 0..16 {
        sent.push(send(&store, id).await);
    }
    world.sleep(Duration::from_millis(300)).await;
    for id in 16..20 {
        sent.push(send(&store, id).await);
    }
    if is_stopped {
        store.close().await.unwrap();
    }
    let log_end = store.info().log_end;
    drop(store);
    world.keep_crash_points(node);
    let point = world.take_crash_points(node).pop().expect("the state now");
    // Nothing is unsynced that matters; memory is empty afterwards.
    world.crash_to(node, &point, Some(&PowerCut::fixed(Fate::Kept, Fate::Kept)));
    let files = world.files(node, Path::new("/store"));
    let checkpoint = &files[Path::new("store/checkpoint")];
    let durable = u64::from_be_bytes(checkpoint[DURABLE_AT..DURABLE_AT + 8].try_into().unwrap());
    Ended {
        point,
        files,
        sent,
        durable,
        log_end,
    }
}

/// What was shown, by position; everything in it was sent, byte for byte but for the rotten byte.
async fn shown(store: &Sim, ended: &Ended, rotten: Option<u64>, name: &str) -> BTreeMap<u64, Bytes> {
    let mut shown = BTreeMap::new();
    for (queue, sent) in by_queue(&ended.sent) {
        let Some(bounds) = store.bounds(queue.0, queue.1) else {
            continue;
        };
        let records = read_queue(store, queue, bounds.min).await;
        for record in records.unwrap_or_else(|error| panic!("{name}: {queue:?}: {error}")) {
            let view = RecordView::parse_checked(&record).unwrap_or_else(|error| panic!("{name}: {error}"));
            let same = sent.iter().find(|sent| sent.position == view.physical_offset);
            let same = same.unwrap_or_else(|| panic!("{name}: {queue:?} shows what is not there"));
            assert!(view.body == same.message.body, "{name}: another body");
            let differs = (0..record.len()).filter(|&at| record[at] != same.record[at]);
            let differs: Vec<u64> = differs.map(|at| same.position + at as u64).collect();
            // RocketMQ's CRC covers the body alone.
            assert!(
                differs.is_empty() || differs[..] == [rotten.unwrap_or(u64::MAX)],
                "{name}: {differs:?} differ"
            );
            shown.insert(view.physical_offset, record);
        }
    }
    shown
}

/// Where the queue offset lies in a record.
const QUEUE_OFFSET: Range<u64> = 20..28;

/// A record with a rotten byte.
#[derive(Clone, Copy)]
struct Hit<'a> {
    sent: &'a Sent,
    /// The byte's place in it.
    at: u64,
}

impl Ended {
    fn hit(&self, position: u64) -> Option<Hit<'_>> {
        let sent = self
            .sent
            .iter()
            .find(|sent| (sent.position..sent.end()).contains(&position))?;
        let at = position - sent.position;
        Some(Hit { sent, at })
    }
}

impl Hit<'_> {
    /// The parts of a record that no checksum covers and that recovery has nothing to compare with above the checkpoint: flags and queue
    /// that it names, topic and properties. A record that is told from another by these alone may be taken for one.
    fn is_unchecked(&self) -> bool {
        let record = &self.sent.record;
        let view = RecordView::parse(record).expect("as sent");
        let body_end = record.len() - 2 - self.sent.message.properties.len() - 1 - view.topic.len();
        let queue_flags = (12..16).contains(&self.at) || (36..40).contains(&self.at);
        queue_flags || QUEUE_OFFSET.contains(&self.at) || self.at >= body_end as u64
    }
}

struct Rotten<'a> {
    path: &'a Path,
    at: u64,
    /// What flips in it.
    mask: u8,
    /// Its place in the log, if it is one of the log's.
    position: Option<u64>,
}

async fn start_with(world: &World, node: NodeId, ended: &Ended, rotten: &Rotten<'_>) -> usize {
    let name = format!("{}: byte {}, {:#04x}", rotten.path.display(), rotten.at, rotten.mask);
    world.crash_to(node, &ended.point, Some(&PowerCut::fixed(Fate::Kept, Fate::Kept)));
    assert!(world.rot_at(node, rotten.path, rotten.at, rotten.mask, true), "{name}");
    let opened = open(&world.runtime(node), &config(FlushMode::Sync)).await;
    let (store, recovery) = opened.unwrap_or_else(|error| panic!("{name}: {error}"));
    let shown = shown(&store, ended, rotten.position, &name).await;
    // Above the checkpoint's position damage and a torn tail look alike: the log may end there.
    let cut = rotten.position.filter(|position| *position >= ended.durable);
    let is_cut = |sent: &Sent| cut.is_some_and(|cut| sent.end() > cut) && recovery.log_end < ended.log_end;
    let hit = rotten.position.and_then(|position| ended.hit(position));
    let is_hit = |sent: &Sent| hit.is_some_and(|hit| hit.sent.position == sent.position);
    let missing = ended.sent.iter().filter(|sent| !shown.contains_key(&sent.position));
    let missing: Vec<&Sent> = missing.filter(|sent| !is_hit(sent) && !is_cut(sent)).collect();
    let is_queue = rotten.path.starts_with("store/consumequeue");
    assert!(
        missing.len() <= usize::from(is_queue),
        "{name}: {} records are missing, the first at {}; {recovery:?}",
        missing.len(),
        missing[0].position
    );
    for sent in ended.sent.iter().filter(|sent| sent.message.key.is_some()).take(3) {
        let key = sent.message.key.as_deref().expect("filtered");
        let (begin, end) = (WallMillis(0), WallMillis(i64::MAX));
        let found = store.query(sent.message.queue.0, key, 64, begin, end).await;
        for record in found.unwrap_or_else(|error| panic!("{name}: by key: {error}")) {
            let position = RecordView::parse_checked(&record).expect(&name).physical_offset;
            let found = ended.sent.iter().find(|sent| sent.position == position);
            assert!(
                found.is_some_and(|found| found.message.has_key(key)) || rotten.position.is_some(),
                "{name}: {key} leads to {position}"
            );
        }
    }
    let queue = (TOPICS[0], 0);
    let end = store.bounds(queue.0, queue.1).map_or(0, |bounds| bounds.max);
    let more = send(&store, 1_000).await;
    assert_eq!(more.queue_offset, end, "{name}: offsets go on");
    let is_unchecked = hit.is_some_and(|hit| hit.is_unchecked());
    let is_all_there = recovery.log_end == ended.log_end && !is_queue && !is_unchecked;
    let next = ended.sent.iter().rfind(|sent| sent.message.queue == queue);
    assert!(
        !is_all_there || end == next.map_or(0, |sent| sent.queue_offset + 1),
        "{name}: an offset is given out again"
    );
    ended.sent.len() - shown.len()
}

fn rot_everywhere(is_stopped: bool) {
    let outcome = run(1, move |world| async move {
        let node = world.add_node("broker");
        let ended = fill(&world, node, is_stopped).await;
        assert_eq!(ended.durable == ended.log_end, is_stopped);
        let whole = open(&world.runtime(node), &config(FlushMode::Sync)).await.unwrap().0;
        assert_eq!(shown(&whole, &ended, None, "whole").await.len(), ended.sent.len());
        drop(whole);
        let stride = count_of("ORRERY_ROT_STRIDE", 7).max(1) as usize;
        let mut starts = BTreeMap::<String, (u64, usize)>::new();
        for (path, bytes) in &ended.files {
            let folder = path
                .iter()
                .nth(1)
                .expect("below the store")
                .to_string_lossy()
                .into_owned();
            let log_start = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            let in_log = log_start.filter(|_| folder == "commitlog");
            for at in (0..bytes.len()).step_by(stride) {
                let position = in_log.map(|start| start + at as u64);
                // Zeros far behind the end are like those near it.
                if position.is_some_and(|position| position > ended.log_end + 100) {
                    break;
                }
                let at = at as u64;
                let rotten = Rotten {
                    path,
                    at,
                    mask: 1 << (Draw::new(at, "bit").below(8) as u8),
                    position,
                };
                let lost = start_with(&world, node, &ended, &rotten).await;
                let sum = starts.entry(folder.clone()).or_default();
                sum.0 += 1;
                sum.1 += lost;
            }
        }
        println!("stopped in order: {is_stopped}; starts and records not shown by folder: {starts:?}");
        starts
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
    let starts = outcome.value;
    for folder in ["commitlog", "consumequeue", "index", "checkpoint"] {
        assert!(starts[folder].0 > 3, "{folder}: {starts:?}");
    }
    assert!(starts["commitlog"].1 > 0, "rot of records had no effect");
    assert_eq!(starts["checkpoint"].1 + starts["index"].1, 0);
}

#[test]
fn rot_at_any_byte_after_a_stop_in_order_costs_at_most_one_record() {
    rot_everywhere(true);
}

#[test]
fn rot_at_any_byte_after_a_kill_costs_at_most_one_record_or_the_tail() {
    rot_everywhere(false);
}

/// Offsets above the checkpoint, and what rot makes of them: of one that another follows a neighbour's, what a queue has that begins
/// anew, a leap that would be filled, numbers that would not, one that no file can name; of a queue's last one too low a number.
const ROTTEN_OFFSETS: [(i64, i64); 8] = [
    (8, 9),
    (8, 10),
    (8, 0),
    (8, 8 + (1 << 19)),
    (8, 8 + (1 << 40)),
    (8, 8 + (1 << 62)),
    (9, 0),
    (9, 8),
];

#[test]
fn a_rotten_queue_offset_costs_its_own_record_alone() {
    let outcome = run(1, |world| async move {
        let node = world.add_node("broker");
        let ended = fill(&world, node, false).await;
        for (offset, rotten) in ROTTEN_OFFSETS {
            let is_this = |sent: &&Sent| sent.queue_offset == offset && sent.position >= ended.durable;
            for sent in ended.sent.iter().filter(is_this) {
                let start = sent.position - sent.position % LOG_FILE_SIZE;
                let flipped = (offset ^ rotten) as u64;
                let byte = u64::from(flipped.trailing_zeros() / 8);
                let position = sent.position + QUEUE_OFFSET.end - 1 - byte;
                let hit = Rotten {
                    path: &PathBuf::from(format!("store/commitlog/{start:020}")),
                    at: position - start,
                    mask: (flipped >> (8 * byte)) as u8,
                    position: Some(position),
                };
                let lost = start_with(&world, node, &ended, &hit).await;
                assert_eq!(lost, 1, "{offset} becomes {rotten}");
            }
        }
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}
