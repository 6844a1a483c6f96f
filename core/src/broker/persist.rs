//! Saving the tables as RocketMQ's JSON files, and waiting until a change is durable.
//!
//! Each table has a count of changes. The saver reads the count, then takes a snapshot, so that a snapshot holds at
//! least the changes counted; when it is durable, everyone who waits for that count goes on. Changes made while a file
//! is being written share the next one.
//!
//! A save that fails refuses those who wait for it; it is tried again with the next change, and every few seconds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, select_biased};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::operations::Operations;
use super::state::lineage::{CARRY_TIME, SavedCuts};
use super::state::offsets::SavedOffsets;
use super::state::topics::SavedTopics;
use super::state::{Tables, Touched};
use crate::config::BrokerConfig;
use crate::runtime::{Mono, Runtime, site};
use crate::store::json;
use crate::sync::{Notify, Watch};

/// A table that is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Topics,
    Groups,
    Locks,
    Offsets,
    Delays,
    Cuts,
}

impl Table {
    const COUNT: usize = 6;
    /// Saved as soon as they change, because somebody waits for it.
    const PROMPT: [Table; 4] = [Table::Topics, Table::Groups, Table::Locks, Table::Cuts];
    const ALL: [Table; Table::COUNT] = [
        Table::Topics,
        Table::Groups,
        Table::Locks,
        Table::Offsets,
        Table::Delays,
        Table::Cuts,
    ];

    pub(super) fn path(self, config: &BrokerConfig) -> PathBuf {
        let name = match self {
            Table::Topics => "topics.json",
            Table::Groups => "subscriptionGroup.json",
            Table::Locks => "queueLocks.json",
            Table::Offsets => offsets_file(config.topics.enable_lmq),
            Table::Delays => "delayOffset.json",
            Table::Cuts => "queueCuts.json",
        };
        path_of(config, name)
    }
}

fn path_of(config: &BrokerConfig, name: &str) -> PathBuf {
    config.store.root_dir.join("config").join(name)
}

/// With `enableLmq=true` RocketMQ keeps *all* offsets in a file of its own, and does not look into the other.
fn offsets_file(enable_lmq: bool) -> &'static str {
    match enable_lmq {
        true => "lmqConsumerOffset.json",
        false => "consumerOffset.json",
    }
}

/// A table could not be saved: whether the change survives a restart is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change is made but could not be saved")]
pub struct SaveError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    saved: [u64; Table::COUNT],
    failed: [u64; Table::COUNT],
}

/// Counts changes and knows what is durable.
#[derive(Debug)]
pub(super) struct Saver {
    changed: [AtomicU64; Table::COUNT],
    progress: Watch<Progress>,
    bell: Notify,
}

impl Saver {
    pub(super) fn new() -> Saver {
        Saver {
            changed: Default::default(),
            progress: Watch::new(Progress::default()),
            bell: Notify::new(),
        }
    }

    /// Tables have changed. Called while they are still held, so that no snapshot misses what was counted.
    pub(super) fn touch(&self, touched: Touched) {
        let touches = [
            (Table::Topics, touched.topics),
            (Table::Groups, touched.groups),
            (Table::Locks, touched.locks),
            (Table::Offsets, touched.offsets),
            (Table::Delays, touched.delays),
        ];
        for (table, is_touched) in touches {
            if is_touched {
                self.changed[table as usize].fetch_add(1, Ordering::SeqCst);
            }
        }
        if touched.topics || touched.groups || touched.locks {
            self.bell.notify();
        }
    }

    /// Waits until every change of the table made so far is durable.
    pub(super) async fn durable(&self, table: Table) -> Result<(), SaveError> {
        let wanted = self.changed[table as usize].load(Ordering::SeqCst);
        let index = table as usize;
        let progress = self
            .progress
            .until(|progress| progress.saved[index] >= wanted || progress.failed[index] >= wanted)
            .await;
        if progress.saved[index] >= wanted {
            Ok(())
        } else {
            Err(SaveError)
        }
    }

    fn is_due(&self, table: Table) -> bool {
        self.progress.get().saved[table as usize] < self.changed[table as usize].load(Ordering::SeqCst)
    }

    fn note(&self, table: Table, count: u64, is_saved: bool) {
        let mut progress = self.progress.get();
        let slots = if is_saved {
            &mut progress.saved
        } else {
            &mut progress.failed
        };
        slots[table as usize] = count;
        self.progress.set(progress);
    }
}

/// Saves what changed, until dropped.
pub(super) async fn run<R: Runtime>(operations: Arc<Operations<R>>) {
    let runtime = operations.runtime.clone();
    let offsets_period = operations.config.flush.consumer_offset_interval;
    let delays_period = operations.config.flush.delay_offset_interval;
    let mut offsets_due = runtime.mono() + offsets_period;
    let mut delays_due = runtime.mono() + delays_period;
    loop {
        for table in Table::PROMPT {
            save_if_due(&operations, table).await;
        }
        let now = runtime.mono();
        if now >= offsets_due {
            save_if_due(&operations, Table::Offsets).await;
            offsets_due = runtime.mono() + offsets_period;
        }
        if now >= delays_due {
            save_if_due(&operations, Table::Delays).await;
            delays_due = runtime.mono() + delays_period;
        }
        let next: Mono = offsets_due.min(delays_due);
        let wait = next.since(runtime.mono()).max(Duration::from_millis(1));
        select_biased! {
            () = operations.saver.bell.notified().fuse() => {}
            () = runtime.sleep(wait).fuse() => {}
        }
    }
}

/// Saves what must be durable before the first request is served: above all that nobody holds a lock yet, and which positions were
/// set back.
pub(super) async fn save_start<R: Runtime>(operations: &Operations<R>, is_set_back: bool) -> Result<(), SaveError> {
    let positions: &[Table] = match is_set_back {
        true => &[Table::Offsets, Table::Delays],
        false => &[],
    };
    for &table in Table::PROMPT.iter().chain(positions) {
        save(operations, table).await.map_err(|reason| {
            log::error!("{} is not saved: {reason}", table.path(&operations.config).display());
            SaveError
        })?;
    }
    Ok(())
}

/// Once the cuts of this start need not be known to the next one, says so on disk.
pub(super) async fn end_carrying_cuts<R: Runtime>(operations: Arc<Operations<R>>) {
    operations.runtime.sleep(CARRY_TIME).await;
    operations.tables().lineage.end_carrying();
    if let Err(reason) = save(&operations, Table::Cuts).await {
        log::warn!(
            "{} is not saved: {reason}",
            Table::Cuts.path(&operations.config).display()
        );
    }
}

/// Saves everything that changed: the last act of a clean stop.
pub(super) async fn save_all<R: Runtime>(operations: &Operations<R>) {
    for table in Table::ALL {
        save_if_due(operations, table).await;
    }
}

async fn save_if_due<R: Runtime>(operations: &Operations<R>, table: Table) {
    let saver = &operations.saver;
    if !saver.is_due(table) {
        return;
    }
    let count = saver.changed[table as usize].load(Ordering::SeqCst);
    // Defect: what consumers have committed lives in memory only.
    if table == Table::Offsets && site(&operations.runtime, "offsets-not-saved") {
        saver.note(table, count, true);
        return;
    }
    let saved = save(operations, table).await;
    if let Err(reason) = &saved {
        log::error!("{} is not saved: {reason}", table.path(&operations.config).display());
    }
    saver.note(table, count, saved.is_ok());
}

async fn save<R: Runtime>(operations: &Operations<R>, table: Table) -> Result<(), String> {
    let now = operations.runtime.wall();
    match table {
        Table::Topics => {
            let (version, snapshot) = {
                let tables = operations.tables();
                (tables.topics.version(), tables.topics.snapshot())
            };
            write(operations, table, &SavedTopics::of(version, &snapshot)).await
        }
        Table::Groups => {
            let snapshot = operations.tables().groups.save();
            write(operations, table, &snapshot).await
        }
        Table::Locks => {
            let snapshot = operations.tables().locks.save(operations.runtime.mono());
            write(operations, table, &snapshot).await
        }
        Table::Offsets => {
            let snapshot = operations
                .tables()
                .offsets
                .save(now, operations.config.topics.enable_lmq);
            write(operations, table, &snapshot).await
        }
        Table::Cuts => {
            let snapshot = operations.tables().lineage.save();
            write(operations, table, &snapshot).await
        }
        Table::Delays => {
            let snapshot = operations.tables().delays.save(now);
            // Progress that skips a delayed message must not outlive its delivered copy: the copies first.
            let end = operations.store.info().written;
            let flushed = operations.store.flushed(crate::types::PhysicalOffset(end)).await;
            flushed.map_err(|error| error.to_string())?;
            write(operations, table, &snapshot).await
        }
    }
}

async fn write<R: Runtime, T: Serialize + Sync>(
    operations: &Operations<R>,
    table: Table,
    value: &T,
) -> Result<(), String> {
    let path = table.path(&operations.config);
    let saved = json::save(operations.runtime.disk(), &path, value).await;
    saved.map_err(|error| error.to_string())
}

/// What a start found of the saved tables.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) tables: Tables,
    /// Nobody knows who held queue locks.
    pub(super) locks_unknown: bool,
    /// Cuts of earlier lives; cuts that do not read are taken to be at zero.
    pub(super) cuts: SavedCuts,
}

/// Reads the saved tables, leniently: what does not read is reported and left out, since a broker that starts with
/// defaults serves its messages, and one that refuses to start does not.
pub(super) async fn load<R: Runtime>(runtime: &R, config: &BrokerConfig) -> Loaded {
    let mut loaded = Loaded::default();
    let tables = &mut loaded.tables;
    if let Some(saved) = read(runtime, config, Table::Topics).await.unwrap_or_default() {
        report(config, Table::Topics, tables.topics.restore(saved));
    }
    if let Some(saved) = read(runtime, config, Table::Groups).await.unwrap_or_default() {
        report(config, Table::Groups, tables.groups.restore(saved));
    }
    if let Some(saved) = read_offsets(runtime, config).await {
        report(config, Table::Offsets, tables.offsets.restore(saved));
    }
    if let Some(saved) = read(runtime, config, Table::Delays).await.unwrap_or_default() {
        tables.delays.restore(saved);
    }
    match read(runtime, config, Table::Locks).await {
        // Defect (as in RocketMQ, where locks live in memory): whoever asks first after a restart gets the queue.
        Ok(_) if site(runtime, "locks-not-restored") => {}
        Ok(Some(saved)) => tables.locks.restore(saved, runtime.mono()),
        Ok(None) | Err(Unreadable) => loaded.locks_unknown = true,
    }
    loaded.cuts = match read(runtime, config, Table::Cuts).await {
        Ok(saved) => saved.unwrap_or_default(),
        Err(Unreadable) => SavedCuts {
            cuts: Some(BTreeMap::new()),
        },
    };
    loaded
}

/// Committed offsets; from the file of the other setting of `enableLmq` if there are none in that of the present one.
async fn read_offsets<R: Runtime>(runtime: &R, config: &BrokerConfig) -> Option<SavedOffsets> {
    if let Some(saved) = read(runtime, config, Table::Offsets).await.unwrap_or_default() {
        return Some(saved);
    }
    let other = path_of(config, offsets_file(!config.topics.enable_lmq));
    let saved = read_file(runtime, &other).await.unwrap_or_default()?;
    log::warn!(
        "committed offsets are taken from {}; from now on they are in {}",
        other.display(),
        Table::Offsets.path(config).display()
    );
    Some(saved)
}

struct Unreadable;

async fn read<R: Runtime, T: DeserializeOwned>(
    runtime: &R,
    config: &BrokerConfig,
    table: Table,
) -> Result<Option<T>, Unreadable> {
    read_file(runtime, &table.path(config)).await
}

async fn read_file<R: Runtime, T: DeserializeOwned>(runtime: &R, path: &Path) -> Result<Option<T>, Unreadable> {
    match json::load(runtime.disk(), path).await {
        Ok(saved) => Ok(saved),
        Err(error) => {
            log::error!("{} does not read and is taken for empty: {error}", path.display());
            Err(Unreadable)
        }
    }
}

fn report(config: &BrokerConfig, table: Table, refused: Vec<String>) {
    if !refused.is_empty() {
        log::warn!("{}: left out {}", table.path(config).display(), refused.join(", "));
    }
}
