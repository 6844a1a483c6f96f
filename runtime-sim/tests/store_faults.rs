//! What the store does when its disk misbehaves: each row of `docs/disk-faults.md`.
//!
//! Every operation of a script of sends, pauses and restarts is struck by each fault, once and for good: whatever fails then,
//! nothing acknowledged is lost, nothing wrong is shown, and with a whole disk the store works again. Of a disk that lies (misdirected
//! writes, syncs that do nothing) less can be asked: that what was acknowledged before is in the log, that nothing wrong is shown. The rest of
//! the tests pins the outcome of single faults. `ORRERY_FAULT_STRIDE=1` strikes every operation, not one in some.

mod stored;

#[path = "broker/client.rs"]
mod client;

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use client::{Client, bodies, messages, small_config};
use orrery_core::broker::Broker;
use orrery_core::config::FlushDiskType;
use orrery_core::protocol::code::response;
use orrery_core::protocol::message::{self, RecordView};
use orrery_core::runtime::{Disk, DiskErrorKind, File, OpenMode, Runtime};
use orrery_core::store::{AppendError, FlushMode, GetStatus, OpenError, Recovery, StoreError, TagFilter, json};
use orrery_core::types::PhysicalOffset;
use orrery_runtime_sim::{
    DiskFault, DiskFaults, DiskProfile, Draw, Effects, Fate, NodeId, PowerCut, SimRuntime, World, run,
};
use stored::judge::Judge;
use stored::*;

const QUEUE: Queue = ("TopicA", 0);

/// Sends and waits for the promise; gives what was sent, if it was acknowledged.
async fn send(store: &Sim, message: Message) -> Result<Sent, AppendError> {
    let sent = append(store, vec![message]).await?.remove(0);
    store.write_pending().await?;
    store.flushed(PhysicalOffset(sent.end())).await?;
    Ok(sent)
}

fn text(id: u64, size: usize) -> Message {
    let mut message = Message::drawn(Draw::new(1, "text"), id, QUEUE);
    message.body.truncate(8);
    message.body.resize(8 + size, b'x');
    message
}

/// Cuts the power with that outcome for everything unsynced.
fn cut(world: &World, node: NodeId, data: Fate) {
    world.keep_crash_points(node);
    let now = world.take_crash_points(node).pop().expect("the state now");
    world.crash_to(node, &now, Some(&PowerCut::fixed(data, data)));
}

/// Everything acknowledged is there byte for byte, in its place; nothing that is no record of ours is shown.
async fn check(store: &Sim, acknowledged: &[Sent], all: &[Sent], name: &str) {
    for (queue, sent) in by_queue(all) {
        let Some(bounds) = store.bounds(queue.0, queue.1) else {
            assert!(
                acknowledged.iter().all(|sent| sent.message.queue != queue),
                "{name}: {queue:?} is gone"
            );
            continue;
        };
        let records = read_queue(store, queue, bounds.min).await;
        let records = records.unwrap_or_else(|error| panic!("{name}: {error}"));
        for record in &records {
            assert!(
                sent.iter().any(|sent| sent.record == record[..]),
                "{name}: {queue:?} shows what nobody sent"
            );
        }
        for sent in acknowledged.iter().filter(|sent| sent.message.queue == queue) {
            let found = records
                .iter()
                .find(|record| RecordView::parse(record).unwrap().queue_offset == sent.queue_offset);
            assert!(
                found.is_some_and(|record| record[..] == sent.record[..]),
                "{name}: {queue:?} lost {}",
                sent.queue_offset
            );
        }
    }
}

/// Opens the store. A log file that lost its length or its name to a sync that did nothing is brought to its length with zeros first, by an
/// operator: a start refuses it, and says which it is.
async fn open_by_hand(world: &World, node: NodeId) -> Result<(Sim, Recovery), OpenError> {
    let rt = world.runtime(node);
    loop {
        let (name, mode) = match open(&rt, &config(FlushMode::Sync)).await {
            Err(OpenError::FileSize { file, .. }) if world.effects().syncs_lied > 0 => (file, OpenMode::Existing),
            Err(OpenError::FileMissing { expected, .. }) if world.effects().syncs_lied > 0 => (expected, OpenMode::New),
            other => return other,
        };
        let file = Path::new("/store/commitlog").join(name);
        rt.disk().open(&file, mode).await?.allocate(LOG_FILE_SIZE).await?;
    }
}

/// Whatever is shown was sent: that body, in that place. Gives how many records were shown. The other bytes of a record are not looked at:
/// RocketMQ's CRC covers the body alone, and what shares a sector with a record's properties may spoil those.
async fn check_shown(store: &Sim, all: &[Sent], name: &str) -> u64 {
    let mut shown = 0;
    for (queue, sent) in by_queue(all) {
        let Some(bounds) = store.bounds(queue.0, queue.1) else {
            continue;
        };
        let records = read_queue(store, queue, bounds.min).await;
        for record in records.unwrap_or_else(|error| panic!("{name}: {error}")) {
            let record = RecordView::parse_checked(&record).unwrap_or_else(|error| panic!("{name}: {error}"));
            let is_same = |sent: &&Sent| {
                (sent.position, sent.queue_offset) == (record.physical_offset, record.queue_offset)
                    && sent.message.body == record.body
            };
            assert!(sent.iter().any(is_same), "{name}: {queue:?} shows what nobody sent");
            shown += 1;
        }
    }
    shown
}

#[derive(Default)]
struct Played {
    operations: u64,
    /// Acknowledged before the disk lied.
    acknowledged: u64,
    /// Shown after the last start.
    shown: u64,
    failed_opens: u64,
    refused: u64,
    damage: Effects,
}

/// The script, with a strike; then the same disk made whole, power cut, everything checked.
fn play(seed: u64, strike: Option<(Range<u64>, DiskFault)>, end: Fate) -> Played {
    let name = format!("{strike:?}, {end:?}");
    let outcome = run(seed, move |world| async move {
        let node = world.add_node("broker");
        world.set_disk(node, instant_disk());
        if let Some((operations, fault)) = &strike {
            world.strike_disk(node, operations.clone(), *fault);
        }
        let mut played = Played::default();
        let (mut acknowledged, mut all) = (Vec::new(), Vec::new());
        let mut id = 0;
        for life in 0..3u64 {
            let rt = world.runtime(node);
            let store = match open_by_hand(&world, node).await {
                Ok((store, _)) => store,
                Err(_) => {
                    played.failed_opens += 1;
                    world.kill(node);
                    continue;
                }
            };
            for step in 0..14u64 {
                let draw = world.draw("fault").with(life).with(step);
                if draw.below(4) == 0 {
                    world.sleep(Duration::from_millis(40)).await;
                }
                let queue = (TOPICS[draw.with(1).below(2) as usize], 0);
                id += 1;
                let sending = append(&store, vec![Message::drawn(draw.with(2), id, queue)]);
                // A next log file that cannot be made is tried again for ever.
                let sent = match rt.timeout(Duration::from_secs(2), sending).await {
                    Ok(Ok(mut sent)) => sent.remove(0),
                    _ => {
                        played.refused += 1;
                        continue;
                    }
                };
                all.push(sent.clone());
                let was_poisoned = store.info().poisoned;
                match store.flushed(PhysicalOffset(sent.end())).await {
                    Ok(()) => {
                        assert!(!was_poisoned, "{name}: acknowledged after a failure");
                        if world.effects().syncs_lied == 0 {
                            acknowledged.push(sent);
                        }
                    }
                    Err(_) => played.refused += 1,
                }
            }
            match life {
                0 => drop(store.close().await),
                _ => cut(&world, node, end),
            }
            drop(store);
            world.kill(node);
        }
        played.operations = world.disk_operations(node);
        played.damage = world.effects();
        world.strike_disk(node, 0..0, DiskFault::Full);
        cut(&world, node, end);
        let config = config(FlushMode::Sync);
        let (store, recovery) = open_by_hand(&world, node)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let judge = Judge {
            world: &world,
            node,
            config: &config,
            name: &name,
        };
        if played.damage.syncs_lied > 0 {
            // What a cut took may come back behind newer records, and entries of queues may be lost.
            check(&store, &[], &all, &name).await;
            for sent in &acknowledged {
                let record = store.record_at(PhysicalOffset(sent.position)).await;
                let is_there = record.is_ok_and(|record| record.is_some_and(|record| record[..] == sent.record[..]));
                assert!(is_there, "{name}: the log lost {}", sent.position);
            }
        } else if played.damage.writes_misdirected == 0 {
            judge.started(&store, recovery.log_end, &recovery.gaps);
            check(&store, &acknowledged, &all, &name).await;
        }
        played.shown = check_shown(&store, &all, &name).await;
        let next = store.bounds(QUEUE.0, QUEUE.1).map_or(0, |bounds| bounds.max);
        let more = send(&store, text(1_000_000, 10))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(more.queue_offset, next, "{name}");
        played.acknowledged = acknowledged.len() as u64;
        played
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
    outcome.value
}

/// Three runs for each operation of the script: it alone is struck, with either fate of what is unsynced at a power loss; it and all later ones.
fn strike_each(fault: DiskFault) -> Vec<Played> {
    let whole = play(1, None, Fate::Kept);
    assert_eq!((whole.acknowledged, whole.shown, whole.refused), (42, 42, 0));
    let stride = count_of("ORRERY_FAULT_STRIDE", 5).max(1);
    let operations = (0..whole.operations).step_by(stride as usize);
    let runs = operations.flat_map(|operation| {
        [
            (operation..operation + 1, Fate::Lost),
            (operation..operation + 1, Fate::Kept),
            (operation..u64::MAX, Fate::Drawn(Draw::new(operation, "end"))),
        ]
    });
    runs.map(|(operations, end)| play(1, Some((operations, fault)), end))
        .collect()
}

/// A fault that the disk reports.
fn strike_all(fault: DiskFault, counter: impl Fn(&Effects) -> u64) {
    let runs = strike_each(fault);
    let struck = runs.iter().filter(|played| counter(&played.damage) > 0).count();
    let refused = runs.iter().filter(|played| played.refused > 0).count();
    let failed_opens: u64 = runs.iter().map(|played| played.failed_opens).sum();
    println!("{fault:?}: {struck} runs struck, {refused} refused something, {failed_opens} starts failed");
    assert!(
        struck > 10 && (refused > 0 || failed_opens > 0),
        "{struck} {refused} {failed_opens}"
    );
}

/// A fault that the disk keeps to itself: the store goes on, and a single one costs little.
fn strike_all_unseen(fault: DiskFault, once_at_least: u64, counter: impl Fn(&Effects) -> u64) {
    let runs = strike_each(fault);
    let struck: Vec<&Played> = runs.iter().filter(|played| counter(&played.damage) > 0).collect();
    let is_unseen = |played: &&Played| played.refused == 0 && played.failed_opens == 0;
    assert!(runs.iter().all(|played| is_unseen(&played)), "nothing was reported");
    let least = |runs: &mut dyn Iterator<Item = &&Played>| runs.map(|played| played.shown).min();
    let least_of_all = least(&mut struck.iter());
    let least_of_once = least(&mut struck.iter().filter(|played| counter(&played.damage) == 1));
    println!(
        "{fault:?}: {} runs struck; of 42 were shown at least {least_of_all:?}, struck once {least_of_once:?}",
        struck.len()
    );
    assert!(struck.len() > 10 && least_of_all < Some(42) && least_of_once >= Some(once_at_least));
}

#[test]
fn a_write_error_at_any_operation_takes_nothing_acknowledged() {
    strike_all(DiskFault::WriteError, |damage| damage.writes_failed);
}

#[test]
fn a_short_write_at_any_operation_takes_nothing_acknowledged() {
    strike_all(DiskFault::ShortWrite, |damage| damage.writes_short);
}

#[test]
fn a_failed_sync_at_any_operation_takes_nothing_acknowledged() {
    strike_all(DiskFault::SyncError, |damage| damage.syncs_failed);
}

#[test]
fn a_full_disk_at_any_operation_takes_nothing_acknowledged() {
    strike_all(DiskFault::Full, |damage| damage.refused_full);
}

#[test]
fn a_read_error_at_any_operation_takes_nothing_acknowledged() {
    strike_all(DiskFault::ReadError, |damage| damage.reads_failed);
}

#[test]
fn a_misdirected_write_at_any_operation_shows_nothing_wrong() {
    strike_all_unseen(DiskFault::MisdirectedWrite, 32, |damage| damage.writes_misdirected);
}

#[test]
fn a_lying_sync_at_any_operation_takes_nothing_from_the_log_that_was_acknowledged_before() {
    strike_all_unseen(DiskFault::SyncLie, 0, |damage| damage.syncs_lied);
}

/// A store on an instant disk with `count` messages that are durable.
async fn filled(world: &World, mode: FlushMode, count: u64) -> (NodeId, Sim, Vec<Sent>) {
    let node = world.add_node("broker");
    world.set_disk(node, instant_disk());
    let (store, _) = open(&world.runtime(node), &config(mode)).await.unwrap();
    let mut sent = Vec::new();
    for id in 0..count {
        sent.push(send(&store, text(id, 200)).await.unwrap());
    }
    (node, store, sent)
}

/// Strikes everything from now on.
fn strike(world: &World, node: NodeId, fault: DiskFault) {
    world.strike_disk(node, world.disk_operations(node)..u64::MAX, fault);
}

fn heal(world: &World, node: NodeId) {
    world.strike_disk(node, 0..0, DiskFault::Full);
}

#[test]
fn a_failure_of_the_log_poisons_it_until_it_is_opened_again() {
    for (fault, mode) in [
        (DiskFault::WriteError, FlushMode::Sync),
        (DiskFault::WriteError, FlushMode::Async),
        (DiskFault::ShortWrite, FlushMode::Sync),
        (DiskFault::Full, FlushMode::Async),
        (DiskFault::SyncError, FlushMode::Sync),
        (DiskFault::SyncError, FlushMode::Async),
    ] {
        run(1, move |world| async move {
            let (node, store, mut sent) = filled(&world, mode, 5).await;
            strike(&world, node, fault);
            let failed = send(&store, text(100, 1000)).await;
            let is_poisoned = |error: &AppendError| matches!(error, AppendError::Store(StoreError::Poisoned(_)));
            assert!(failed.as_ref().is_err_and(is_poisoned), "{fault:?}: {failed:?}");
            heal(&world, node);
            // The disk is whole again, the log is not.
            for id in 101..104 {
                let failed = send(&store, text(id, 10)).await;
                assert!(failed.as_ref().is_err_and(is_poisoned), "{fault:?}: {failed:?}");
            }
            assert!(store.info().poisoned && store.close().await.is_err());
            let records = read_queue(&store, QUEUE, 0).await.unwrap();
            assert!(records.len() == 5 || (mode == FlushMode::Async && fault == DiskFault::SyncError));
            drop(store);
            cut(&world, node, Fate::Lost);
            let (store, recovery) = open(&world.runtime(node), &config(mode)).await.unwrap();
            assert!(!recovery.clean);
            check(&store, &sent, &sent, "after the start").await;
            let more = send(&store, text(200, 10)).await.unwrap();
            assert_eq!(more.queue_offset, 5, "{fault:?}");
            sent.push(more);
            check(&store, &sent, &sent, "later").await;
        });
    }
}

#[test]
fn a_next_log_file_whose_sync_has_failed_does_not_outlive_a_stop_in_order() {
    let outcome = run(1, |world| async move {
        let (node, store, mut sent) = filled(&world, FlushMode::Async, 5).await;
        strike(&world, node, DiskFault::SyncError);
        // It goes to the next file: one more is wanted.
        sent.extend(append(&store, vec![text(100, 3000)]).await.unwrap());
        world.sleep(Duration::from_millis(1)).await;
        assert!(world.effects().syncs_failed > 0 && !store.info().poisoned);
        heal(&world, node);
        store.close().await.unwrap();
        drop(store);
        cut(&world, node, Fate::Lost);
        let (store, recovery) = open(&world.runtime(node), &config(FlushMode::Async)).await.unwrap();
        assert!(recovery.clean, "{recovery:?}");
        check(&store, &sent, &sent, "after the start").await;
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

#[test]
fn a_read_error_is_an_error_to_that_pull_alone() {
    run(1, |world| async move {
        let (node, store, mut sent) = filled(&world, FlushMode::Sync, 60).await;
        world.sleep(Duration::from_millis(300)).await;
        drop(store);
        cut(&world, node, Fate::Lost);
        let (store, _) = open(&world.runtime(node), &config(FlushMode::Sync)).await.unwrap();
        world.set_disk_faults(
            node,
            DiskFaults {
                evict: 1.0,
                ..DiskFaults::default()
            },
        );
        strike(&world, node, DiskFault::ReadError);
        let failed = store.get(&request(QUEUE, 0, TagFilter::All)).await;
        assert!(
            matches!(&failed, Err(StoreError::Disk(error)) if error.kind == DiskErrorKind::Device),
            "{failed:?}"
        );
        assert!(world.effects().reads_failed > 0 && !store.info().poisoned);
        sent.push(send(&store, text(100, 10)).await.expect("sends go on"));
        heal(&world, node);
        check(&store, &sent, &sent, "after the error").await;
    });
}

/// Where the record's bytes lie on the disk.
fn place(position: u64) -> (std::path::PathBuf, u64) {
    let start = position - position % LOG_FILE_SIZE;
    (
        Path::new("/store/commitlog").join(format!("{start:020}")),
        position - start,
    )
}

#[test]
fn rot_in_a_cold_record_is_found_and_stepped_over() {
    for in_memory in [false, true] {
        run(1, move |world| async move {
            let (node, store, sent) = filled(&world, FlushMode::Sync, 60).await;
            store.close().await.unwrap();
            drop(store);
            world.power_loss(node);
            let (store, _) = open(&world.runtime(node), &config(FlushMode::Sync)).await.unwrap();
            let evict = DiskFaults {
                evict: 1.0,
                ..DiskFaults::default()
            };
            world.set_disk_faults(node, evict);
            // In the body, and in the frame.
            for (index, within) in [(7, 100), (9, 2), (11, 30)] {
                let (path, at) = place(sent[index].position + within);
                assert!(world.rot_at(node, &path, at, 0x10, in_memory));
            }
            let records = read_queue(&store, QUEUE, 0).await.unwrap();
            let good: Vec<&Sent> = sent
                .iter()
                .enumerate()
                .filter(|(index, _)| ![7, 9, 11].contains(index))
                .map(|(_, sent)| sent)
                .collect();
            assert_eq!(records.len(), good.len());
            assert!(
                records
                    .iter()
                    .zip(good)
                    .all(|(record, sent)| record[..] == sent.record[..])
            );
            assert_eq!(store.record_at(PhysicalOffset(sent[7].position)).await.unwrap(), None);
            assert_eq!(world.effects().bits_rotted, 3);
        });
    }
}

#[test]
fn rot_in_a_hot_record_is_found_by_whoever_checks_the_body() {
    run(1, |world| async move {
        let (node, store, sent) = filled(&world, FlushMode::Sync, 5).await;
        let body_at = sent[2].position + 100;
        let (path, at) = place(body_at);
        // Below the memory: readers of the resident page do not see it.
        assert!(world.rot_at(node, &path, at, 0x10, false));
        let records = read_queue(&store, QUEUE, 0).await.unwrap();
        assert!(records[2][..] == sent[2].record[..]);
        // In memory: the slice goes out as it is, and its CRC says so.
        assert!(world.rot_at(node, &path, at, 0x01, true));
        let got = store.get(&request(QUEUE, 2, TagFilter::All)).await.unwrap();
        for record in got.chunks.iter().flat_map(message::records) {
            let record = record.unwrap();
            let is_rotten = record[..] != sent[RecordView::parse(&record).unwrap().queue_offset as usize].record[..];
            assert_eq!(RecordView::parse_checked(&record).is_err(), is_rotten);
        }
        // The store itself checks before it shows a single record.
        assert_eq!(store.record_at(PhysicalOffset(sent[2].position)).await.unwrap(), None);
    });
}

#[test]
fn rot_is_found_by_the_next_start_or_by_whoever_reads_it() {
    // What the checkpoint vouches for is not read again at a start.
    for is_old in [false, true] {
        rot_is_found(is_old);
    }
}

fn rot_is_found(is_old: bool) {
    run(1, move |world| async move {
        let (node, store, mut sent) = filled(&world, FlushMode::Sync, 6).await;
        for id in 6..12 {
            sent.push(send(&store, text(id, 100)).await.unwrap());
        }
        if is_old {
            world.sleep(Duration::from_millis(200)).await;
        }
        drop(store);
        let (path, at) = place(sent[4].position + 100);
        assert!(world.rot_at(node, &path, at, 0x10, false));
        cut(&world, node, Fate::Lost);
        let (store, recovery) = open(&world.runtime(node), &config(FlushMode::Sync)).await.unwrap();
        let found: &[u64] = if is_old { &[] } else { &[sent[4].position] };
        assert_eq!(recovery.damaged, found);
        let records = read_queue(&store, QUEUE, 0).await.unwrap();
        assert_eq!(records.len(), 11);
        let got = store.get(&request(QUEUE, 4, TagFilter::All)).await.unwrap();
        assert_eq!((got.status, got.next_offset > 5), (GetStatus::Found, true));
        assert_eq!(send(&store, text(100, 10)).await.unwrap().queue_offset, 12);
    });
}

#[test]
fn the_body_of_a_misdirected_write_is_never_shown_for_another() {
    let mut struck = 0;
    for seed in 0..40 {
        let outcome = run(seed, move |world| async move {
            let (node, store, mut sent) = filled(&world, FlushMode::Sync, 8).await;
            let at = world.disk_operations(node) + world.draw("at").below(12);
            world.strike_disk(node, at..at + 1, DiskFault::MisdirectedWrite);
            for id in 8..20 {
                sent.push(send(&store, text(id, 200)).await.unwrap());
            }
            // Memory is right.
            check(&store, &sent, &sent, "hot").await;
            drop(store);
            cut(&world, node, Fate::Lost);
            let (store, _) = open(&world.runtime(node), &config(FlushMode::Sync)).await.unwrap();
            // What shares a sector with a record's properties may spoil those: RocketMQ's CRC covers the body alone.
            for record in read_queue(&store, QUEUE, 0).await.unwrap() {
                let record = RecordView::parse_checked(&record).expect("whole");
                let sent = &sent[record.queue_offset as usize];
                assert!(record.body == sent.message.body && record.physical_offset == sent.position);
            }
            send(&store, text(100, 10)).await.unwrap();
            world.effects().writes_misdirected
        });
        assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
        struck += outcome.value;
    }
    assert!(struck > 10, "{struck}");
}

#[test]
fn a_lying_sync_may_lose_what_it_promised_and_nothing_else() {
    let mut lost = 0;
    for seed in 0..10 {
        let outcome = run(seed, move |world| async move {
            let (node, store, honest) = filled(&world, FlushMode::Sync, 8).await;
            strike(&world, node, DiskFault::SyncLie);
            let mut all = honest.clone();
            for id in 8..14 {
                all.push(send(&store, text(id, 200)).await.expect("the store cannot know"));
            }
            assert!(world.effects().syncs_lied >= 6);
            heal(&world, node);
            drop(store);
            cut(&world, node, Fate::Drawn(world.draw("cut")));
            let (store, _) = open(&world.runtime(node), &config(FlushMode::Sync)).await.unwrap();
            check(&store, &honest, &all, "after the start").await;
            14 - store.bounds(QUEUE.0, QUEUE.1).unwrap().max
        });
        assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
        lost += outcome.value;
    }
    assert!(lost > 0, "the lie had no effect");
}

#[test]
fn a_slow_disk_delays_acknowledgements_and_groups_them() {
    run(1, |world| async move {
        let (node, store, _) = filled(&world, FlushMode::Sync, 1).await;
        let slow = DiskFaults {
            sync_slow_by: Duration::from_millis(500),
            ..DiskFaults::default()
        };
        world.set_disk_faults(node, slow);
        let groups = store.info().flush_groups;
        let began = world.now();
        let rt = world.runtime(node);
        let mut senders = Vec::new();
        for id in 10..30 {
            let store = store.clone();
            let sender = async move { send(&store, text(id, 10)).await.map(drop) };
            senders.push(rt.spawn("sender", sender));
        }
        for sender in senders {
            sender.await.unwrap().expect("late, but there");
        }
        let took = world.now() - began;
        assert!(
            took >= Duration::from_millis(500) && took < Duration::from_secs(4),
            "{took:?}"
        );
        assert!(
            store.info().flush_groups - groups <= 6,
            "twenty senders share few syncs"
        );
    });
}

#[test]
fn a_full_disk_refuses_sends_and_serves_reads_until_there_is_room() {
    run(1, |world| async move {
        let (node, store, sent) = filled(&world, FlushMode::Sync, 5).await;
        let whole = world.disk(node);
        world.set_disk(
            node,
            DiskProfile {
                capacity_bytes: 30_000,
                ..whole.clone()
            },
        );
        world.sleep(Duration::from_millis(200)).await;
        let refused = store.append(&[text(100, 10).draft()]);
        assert!(matches!(refused, Err(AppendError::DiskFull { .. })), "{refused:?}");
        assert!(store.info().disk_used_percent > 90 && !store.info().poisoned);
        check(&store, &sent, &sent, "full").await;
        world.set_disk(node, whole);
        world.sleep(Duration::from_millis(200)).await;
        send(&store, text(101, 10)).await.expect("there is room");
    });
}

#[test]
fn an_index_that_cannot_be_written_fails_queries_alone() {
    run(1, |world| async move {
        let (node, store, mut sent) = filled(&world, FlushMode::Sync, 2).await;
        world.sleep(Duration::from_millis(200)).await;
        let topic = QUEUE.0;
        let all = (
            orrery_core::runtime::WallMillis(0),
            orrery_core::runtime::WallMillis(i64::MAX),
        );
        assert_eq!(store.query(topic, "unique0", 64, all.0, all.1).await.unwrap().len(), 1);
        // The next index file cannot be made.
        for id in 10..40 {
            sent.push(send(&store, text(id, 10)).await.unwrap());
        }
        strike(&world, node, DiskFault::WriteError);
        let failed = store.query(topic, "unique39", 64, all.0, all.1).await;
        heal(&world, node);
        assert!(failed.is_err(), "{failed:?}");
        assert!(!store.info().poisoned);
        check(&store, &sent, &sent, "meanwhile").await;
        send(&store, text(101, 10)).await.expect("sends go on");
        // A stop in order makes the next start trust the files as they stand.
        store.close().await.unwrap();
        drop(store);
        let (store, recovery) = open(&world.runtime(node), &config(FlushMode::Sync)).await.unwrap();
        assert!(recovery.clean);
        for id in (10..40).chain([101]) {
            let key = format!("unique{id}");
            let found = store.query(topic, &key, 64, all.0, all.1).await.unwrap();
            assert_eq!(found.len(), 1, "{key}");
        }
    });
}

#[test]
fn a_table_that_cannot_be_saved_stays_as_it_was() {
    for fault in [
        DiskFault::WriteError,
        DiskFault::ShortWrite,
        DiskFault::Full,
        DiskFault::SyncError,
    ] {
        for operation in 0..12 {
            run(1, move |world| async move {
                let node = world.add_node("broker");
                world.set_disk(node, instant_disk());
                let rt = world.runtime(node);
                let path = Path::new("/store/config/topics.json");
                json::save(rt.disk(), path, &vec![1; 400]).await.unwrap();
                let at = world.disk_operations(node) + operation;
                world.strike_disk(node, at..at + 1, fault);
                let saved = json::save(rt.disk(), path, &vec![2; 400]).await;
                heal(&world, node);
                let table: Vec<i32> = json::load(rt.disk(), path).await.unwrap().expect("one of the two");
                assert_eq!(table.len(), 400);
                assert!(table[0] == 2 || saved.is_err());
                cut(&world, node, Fate::Drawn(world.draw("cut")));
                let rt = world.runtime(node);
                let table: Vec<i32> = json::load(rt.disk(), path).await.unwrap().expect("one of the two");
                assert!(table[0] == 2 || saved.is_err());
                json::save(rt.disk(), path, &vec![3; 400])
                    .await
                    .expect("the next save works");
            });
        }
    }
}

/// What clients see of it: a broker whose disk fails under a send, and under a pull of old messages.
#[test]
fn clients_are_told_code_and_cause() {
    const PORT: u16 = 23_912;
    let outcome = run(1, |world| async move {
        let node = world.add_node("broker");
        let clients = world.add_node("clients");
        let mut config = small_config(PORT);
        config.flush.disk_type = FlushDiskType::Sync;
        config.network.broker_ip1 = Some(world.ip(node).to_string());
        world.start(node, move |rt| {
            let config = config.clone();
            async move {
                let _broker = Broker::start(rt.clone(), config).await.expect("a broker that starts");
                std::future::pending::<()>().await;
            }
        });
        world.sleep(Duration::from_secs(1)).await;
        let client = Client::new(world.runtime(clients), "c", world.address(node, PORT));
        client.create_topic("T", 1).await;
        for number in 0..5 {
            let reply = client.send("T", 0, &format!("m{number}"), "").await.unwrap();
            assert_eq!(reply.code, response::SUCCESS);
        }
        // The group is made, and its table saved, by its first pull.
        client.pull("g", "T", 0, 0).await.unwrap();
        world.sleep(Duration::from_secs(8)).await;
        world.power_loss(node);
        world.restart(node);
        world.sleep(Duration::from_secs(3)).await;
        let client = Client::new(world.runtime(clients), "d", world.address(node, PORT));
        let evict = DiskFaults {
            evict: 1.0,
            read_error: 1.0,
            ..DiskFaults::default()
        };
        world.set_disk_faults(node, evict);
        let reply = client.pull("g", "T", 0, 0).await.unwrap();
        let remark = reply.remark.clone().unwrap_or_default();
        assert_eq!(reply.code, response::SYSTEM_ERROR, "{remark}");
        assert!(remark.contains("input/output error while reading"), "{remark}");
        world.set_disk_faults(node, DiskFaults::default());
        let reply = client.pull("g", "T", 0, 0).await.unwrap();
        assert_eq!(bodies(&messages(&reply)), ["m0", "m1", "m2", "m3", "m4"]);
        let failing = DiskFaults {
            write_error: 1.0,
            ..DiskFaults::default()
        };
        world.set_disk_faults(node, failing);
        let reply = client.call(Client::<SimRuntime>::topic_command("U", 1)).await.unwrap();
        let remark = reply.remark.clone().unwrap_or_default();
        assert_eq!(reply.code, response::SYSTEM_ERROR, "{remark}");
        assert!(remark.contains("is made but could not be saved"), "{remark}");
        let slow = DiskFaults {
            sync_slow_by: Duration::from_secs(6),
            ..DiskFaults::default()
        };
        world.set_disk_faults(node, slow);
        let reply = client.send("T", 0, "late", "").await.unwrap();
        assert_eq!(reply.code, response::FLUSH_DISK_TIMEOUT, "{:?}", reply.remark);
        world.set_disk_faults(node, DiskFaults::default());
        world.sleep(Duration::from_secs(8)).await;
        let failing = DiskFaults {
            sync_error: 1.0,
            ..DiskFaults::default()
        };
        world.set_disk_faults(node, failing);
        let reply = client.send("T", 0, "unknown", "").await.unwrap();
        let remark = reply.remark.clone().unwrap_or_default();
        assert_eq!(reply.code, response::SYSTEM_ERROR, "{remark}");
        assert!(
            remark.contains("poisoned") && remark.contains("while syncing"),
            "{remark}"
        );
        world.set_disk_faults(node, DiskFaults::default());
        let reply = client.send("T", 0, "refused", "").await.unwrap();
        let remark = reply.remark.clone().unwrap_or_default();
        assert_eq!(reply.code, response::SERVICE_NOT_AVAILABLE, "{remark}");
        assert!(remark.contains("poisoned"), "{remark}");
        let reply = client.pull("g", "T", 0, 0).await.unwrap();
        assert_eq!(bodies(&messages(&reply)).len(), 6, "pulls go on");
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}
