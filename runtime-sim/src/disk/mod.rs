//! Simulated disks. This file is the fault model; a store that survives it survives what real disks do.
//!
//! # What a disk holds
//!
//! Each node has one disk. It outlives processes and boots. Every file has two contents, every directory two lists of
//! names: *cached*, which all reads see, and *durable*, which the device holds. A write changes the cached content.
//! [`File::sync`](orrery_core::runtime::File::sync) makes one file's data and length durable;
//! [`Disk::sync_dir`](orrery_core::runtime::Disk::sync_dir) makes the names in one directory durable. A file's data can
//! be durable while its name is not: then a power loss takes the file. Nothing else orders anything: two unsynced writes
//! may reach the device in either order, or one without the other, as on a drive with a volatile cache.
//!
//! The kernel writes back by itself what is older than 30 s, and, when a disk's dirty bytes pass
//! [`DiskProfile::dirty_limit_bytes`], all of it while the writer waits. That never makes a *name* durable.
//!
//! # What can go wrong
//!
//! | fault | how it is injected | what the store must do | property that watches |
//! |---|---|---|---|
//! | process killed | [`World::kill`](crate::World::kill): cached state stays, locks are released | lose nothing, in any flush mode | C05, C12, C25 |
//! | power loss | [`World::power_loss`](crate::World::power_loss): each unsynced write is kept, lost, or torn at 512 B sectors; each unsynced name kept or lost | recover to a prefix that holds everything acknowledged after a sync | C02, C04, C05 |
//! | torn write | part of power loss: any subset of the sectors of one write | find the tear by checksum, cut there, never hand it out | C01, C04 |
//! | reordered writes | part of power loss: a later write survives an earlier one | behind a broken frame, not to trust a valid record; behind a bad body, to declare the gap | C01, C02, C04 |
//! | lost name | creation, removal or rename undone by power loss | `sync_dir` before promising; accept old and new name | C05 |
//! | device full | [`DiskProfile::capacity_bytes`] | refuse sends with a code, keep serving reads, go on when there is room | C05, C27 |
//! | write error | [`DiskFaults::write_error`] | treat the range as unknown; acknowledge nothing in it | C02, C05 |
//! | read error | [`DiskFaults::read_error`] | answer with an error, never with other bytes | C01 |
//! | failed sync | [`DiskFaults::sync_error`]: what was unsynced stays visible but no later sync writes it (Linux marks the pages clean) | acknowledge nothing since the last success; stop or rewrite, not merely retry | C05 |
//! | lying sync | [`DiskFaults::sync_lie`]: success, nothing durable | cannot be defended on one node; excused by the budget, counted | C05 (control: must be able to fail) |
//! | slow sync | [`DiskFaults::sync_slow_by`] on top of [`DiskProfile::sync_latency`] | group commits; time-outs answered with their own code | C05, C27 |
//! | stall | [`World::stall_disk`](crate::World::stall_disk): a write stands still until it is over, and the whole node with it, as when a kernel blocks every worker | survive looking dead: leases expire, then it comes back | C14, C26, C27 |
//! | bit rot | [`World::rot`](crate::World::rot): bits flip, for readers and on the device | find it by checksum; report, never hand out | C01, C25 |
//! | lost disk | [`World::wipe_disk`](crate::World::wipe_disk) | start empty; be repaired by replicas | C05 with its budget |
//! | eviction | [`DiskFaults::evict`]: a file leaves memory just before it is asked for residency; a power loss empties all memory | read from the device, and check what comes from there | C01 |
//! | dirty limit | [`DiskProfile::dirty_limit_bytes`]: the writer waits for write-back | bound its own unflushed bytes | C27 |
//! | lock held | a second [`Disk::lock`](orrery_core::runtime::Disk::lock) while the first process lives | refuse to start | C22 |
//! | short write | [`DiskFaults::short_write`]: the first part arrives in the cache, then the write fails | as for a write error | C02, C05 |
//! | misdirected write | [`DiskFaults::misdirected_write`]: answered with success, right in the cache; the sync puts it elsewhere in the file | find both places by checksum and position; cold reads and the next start never hand them out | C01 |
//! | rot below the cache | [`World::rot_at`](crate::World::rot_at): the device's copy changes, slices of the resident page stay right until the process ends | the same as bit rot | C01 |
//!
//! Each fault can also strike at chosen operations, counted from 0 by [`World::disk_operations`](crate::World::disk_operations):
//! [`World::strike_disk`](crate::World::strike_disk). And each state between two operations can be kept and crashed
//! into, as often and in as many ways as wanted: [`World::keep_crash_points`](crate::World::keep_crash_points).
//!
//! Not modelled: a file system that repairs or reorders metadata on its own, hard links, sparse accounting (a file takes
//! its length).
//!
//! # Time
//!
//! Writes take none, as they copy into a cache. Everything asynchronous queues behind [`DiskProfile::bytes_per_second`]
//! and takes a latency drawn by operation. `sync_in_place` and a stalled write take the *node's* time: the code that
//! called them goes on at once in the simulator, but sees its clock at the end of the wait, its packets leave then, and
//! no task of the node runs before.

mod crash;
mod handle;
mod image;
mod names;
mod rot;
mod strike;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use orrery_core::runtime::{DiskError, DiskErrorKind, WallMillis};
use orrery_core::types::Map;

pub use crash::{CrashPoint, Fate, Newest, PowerCut};
pub use handle::{SimDisk, SimFile, SimLock};
pub use strike::DiskFault;

use crate::effects::Effects;
use crate::random::Draw;
use image::{Image, SECTOR_SIZE};
use strike::Strike;
use tree::{Tree, normal};

/// For decisions about no file in particular.
const NO_FILE: u64 = 0;

/// The kernel writes dirty pages back at this age.
const WRITE_BACK_AGE_NS: u64 = 30_000_000_000;

/// Bytes that a name or an empty file takes.
const NAME_SIZE: u64 = 4096;

/// A device and how the kernel drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskProfile {
    pub capacity_bytes: u64,
    /// Sequential throughput.
    pub bytes_per_second: u64,
    /// A sync takes between these, plus the time to write what is dirty.
    pub sync_latency: (Duration, Duration),
    /// Any other asynchronous operation takes between these, plus the time to read.
    pub latency: (Duration, Duration),
    /// Unsynced bytes of the whole disk; a write beyond waits for write-back.
    pub dirty_limit_bytes: u64,
}

impl Default for DiskProfile {
    /// A flash drive with power-loss protection switched off.
    fn default() -> Self {
        DiskProfile {
            capacity_bytes: 64 << 30,
            bytes_per_second: 1 << 30,
            sync_latency: (Duration::from_micros(300), Duration::from_micros(1500)),
            latency: (Duration::from_micros(20), Duration::from_micros(120)),
            dirty_limit_bytes: 256 << 20,
        }
    }
}

/// Probabilities per operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskFaults {
    pub read_error: f64,
    pub write_error: f64,
    /// Some whole sectors of the write arrive, then it fails.
    pub short_write: f64,
    /// The write succeeds; what the next sync brings to the device lands elsewhere in the file.
    pub misdirected_write: f64,
    pub sync_error: f64,
    pub sync_lie: f64,
    /// The file has been evicted from memory when somebody asks whether it is there.
    pub evict: f64,
    /// Added to every sync.
    pub sync_slow_by: Duration,
}

/// What a draw decides.
#[derive(Clone, Copy)]
enum Purpose {
    Latency = 1,
    Read = 2,
    Write = 3,
    Sync = 4,
    Rot = 5,
    Evict = 6,
}

#[derive(Clone)]
struct Inode {
    /// Names the file in draws: a hash of the path at which it was created.
    identity: u64,
    image: Image,
    handles: usize,
    modified: WallMillis,
}

/// What an operation needs to know of its moment.
#[derive(Clone, Copy)]
struct Moment {
    now: u64,
    wall: WallMillis,
}

/// A sync that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sync {
    file: u64,
    upto: u64,
    verdict: SyncVerdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyncVerdict {
    Honest,
    Lie,
    Error,
}

/// The disk of one node.
pub(crate) struct Disk {
    draw: Draw,
    profile: DiskProfile,
    faults: DiskFaults,
    tree: Tree,
    inodes: BTreeMap<u64, Inode>,
    inode_count: u64,
    /// Reads answered so far, slices of resident pages apart, and their bytes.
    reads: (u64, u64),
    locks: BTreeMap<PathBuf, u64>,
    lock_count: u64,
    /// Sum of file lengths and names.
    used: u64,
    dirty: u64,
    /// How many decisions of a kind were made about a file.
    decisions: Map<(u64, u64), u64>,
    /// Counts boots: handles of an earlier one are dead.
    epoch: u64,
    stalled_until: u64,
    busy_until: u64,
    /// Counts operations that can fail, reads of resident slices apart.
    operations: u64,
    strike: Option<Strike>,
    /// Damage that the operation under way has done.
    damage: Effects,
    /// Counts changes of what the cache or the device holds.
    changes: u64,
    /// File of the latest write.
    newest: Option<u64>,
    crash_points: Option<Vec<CrashPoint>>,
}

/// Made by the world.
impl Disk {
    pub(crate) fn new(seed: u64, identity: u64) -> Disk {
        Disk {
            draw: Draw::new(seed, "disk").with(identity),
            profile: DiskProfile::default(),
            faults: DiskFaults::default(),
            tree: Tree::default(),
            inodes: BTreeMap::new(),
            inode_count: 0,
            reads: (0, 0),
            locks: BTreeMap::new(),
            lock_count: 0,
            used: 0,
            dirty: 0,
            decisions: Map::default(),
            epoch: 0,
            stalled_until: 0,
            busy_until: 0,
            operations: 0,
            strike: None,
            damage: Effects::default(),
            changes: 0,
            newest: None,
            crash_points: None,
        }
    }

    pub(crate) fn profile(&self) -> &DiskProfile {
        &self.profile
    }

    pub(crate) fn set_profile(&mut self, profile: DiskProfile) {
        self.profile = profile;
    }

    pub(crate) fn set_faults(&mut self, faults: DiskFaults) {
        self.faults = faults;
    }

    pub(crate) fn stall_until(&mut self, until: u64) {
        self.stalled_until = self.stalled_until.max(until);
    }

    pub(crate) fn wipe(&mut self) {
        self.tree = Tree::default();
        self.inodes.clear();
        self.used = 0;
        self.dirty = 0;
        self.epoch += 1;
    }

    /// The process is gone: its handles and locks with it.
    pub(crate) fn release_process(&mut self) {
        self.locks.clear();
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
            inode.image.drop_overlay();
        }
        self.collect_garbage();
    }

    pub(crate) fn power_loss(&mut self, now: u64, epoch: u64, effects: &mut Effects) {
        let draw = self.draw.with(0x706f_7765).with(epoch);
        self.cut_power(now, &PowerCut::drawn(draw), effects);
    }

    fn cut_power(&mut self, now: u64, cut: &PowerCut, effects: &mut Effects) {
        self.epoch += 1;
        self.changes += 1;
        self.stalled_until = 0;
        self.busy_until = 0;
        let newest = self.newest.take();
        self.tree.power_loss(cut.names, effects);
        self.collect_garbage();
        for (file, inode) in &mut self.inodes {
            let cut_newest = (newest == Some(*file)).then_some(cut.newest);
            let data = cut.data.of(inode.identity);
            inode.image.power_loss(now, data, cut_newest, effects);
        }
        self.dirty = 0;
        self.used = self.inodes.values().map(|inode| inode.image.len() + NAME_SIZE).sum();
    }

    /// Keyed by file (by the path at which it was created) and by how many there were before of this purpose.
    fn next_draw(&mut self, purpose: Purpose, file: u64) -> Draw {
        let identity = self.inodes.get(&file).map_or(0, |inode| inode.identity);
        let count = self.decisions.entry((identity, purpose as u64)).or_default();
        *count += 1;
        self.draw.with(identity).with(purpose as u64).with(*count)
    }

    /// When an operation on `file` that moves `bytes` and takes `latency` is done.
    fn done_at(&mut self, file: u64, now: u64, bytes: u64, latency: (Duration, Duration)) -> u64 {
        let latency = self.next_draw(Purpose::Latency, file).between(latency.0, latency.1);
        let start = now.max(self.stalled_until).max(self.busy_until);
        self.busy_until = start + transfer_ns(bytes, self.profile.bytes_per_second);
        self.busy_until + latency.as_nanos() as u64
    }
}

/// Contents. Files are known to exist: a living handle keeps its inode.
impl Disk {
    fn inode(&mut self, file: u64) -> &mut Inode {
        self.inodes.get_mut(&file).expect("an open file has an inode")
    }

    fn close(&mut self, file: u64) {
        let inode = self.inode(file);
        inode.handles -= 1;
        if inode.handles == 0 && !self.tree.refers_to(file) {
            self.collect_garbage();
        }
    }

    fn len(&self, file: u64) -> u64 {
        self.inodes.get(&file).map_or(0, |inode| inode.image.len())
    }

    fn check_range(&self, path: &Path, file: u64, offset: u64, size: usize) -> Result<(), DiskError> {
        let len = self.len(file);
        match offset.checked_add(size as u64) {
            Some(end) if end <= len => Ok(()),
            _ => {
                let message = format!("{size} bytes at {offset} lie outside of {len}");
                Err(fail(DiskErrorKind::OutOfRange, path, message))
            }
        }
    }

    fn read(&mut self, path: &Path, file: u64, offset: u64, size: usize) -> Result<Bytes, DiskError> {
        self.check_range(path, file, offset, size)?;
        self.reads.0 += 1;
        self.reads.1 += size as u64;
        let image = &mut self.inode(file).image;
        if image.is_resident(offset, size as u64) {
            return Ok(image.read_mapped(offset, size));
        }
        image.bring_in(offset, size as u64);
        Ok(image.read(offset, size))
    }

    /// What the device has, or memory where it is newer; nothing comes to be in memory by it.
    fn read_past_memory(&mut self, path: &Path, file: u64, offset: u64, size: usize) -> Result<Bytes, DiskError> {
        self.check_range(path, file, offset, size)?;
        self.reads.0 += 1;
        self.reads.1 += size as u64;
        Ok(self.inode(file).image.read(offset, size))
    }

    /// Whether a range inside of the file is in memory.
    fn is_resident(&mut self, file: u64, offset: u64, size: usize) -> bool {
        if self.faults.evict > 0.0 && self.next_draw(Purpose::Evict, file).happens(self.faults.evict) {
            self.inode(file).image.evict();
        }
        self.inode(file).image.is_resident(offset, size as u64)
    }

    /// Fetches a range into memory. The device is busy with it; a later read waits for that.
    fn read_ahead(&mut self, now: u64, file: u64, offset: u64, size: usize) {
        let size = (size as u64).min(self.len(file).saturating_sub(offset));
        let start = now.max(self.stalled_until).max(self.busy_until);
        self.busy_until = start + transfer_ns(size, self.profile.bytes_per_second);
        self.inode(file).image.bring_in(offset, size);
    }

    /// A look at a range through its mapping. Returns until when it waits for the device.
    fn fault_in(&mut self, now: u64, file: u64, offset: u64, size: usize) -> u64 {
        if self.inode(file).image.is_resident(offset, size as u64) {
            return now;
        }
        self.inode(file).image.bring_in(offset, size as u64);
        self.done_at(file, now, size as u64, self.profile.latency)
    }

    fn read_hot(&self, path: &Path, file: u64, offset: u64, size: usize) -> Result<Bytes, DiskError> {
        self.check_range(path, file, offset, size)?;
        Ok(self.inodes[&file].image.read_mapped(offset, size))
    }

    pub(crate) fn reads(&self) -> (u64, u64) {
        self.reads
    }

    /// All files below a path, as a process would read them now.
    pub(crate) fn files_below(&self, under: &Path) -> BTreeMap<PathBuf, Bytes> {
        let under = normal(under);
        let files = self.tree.named_files_below(&under);
        files
            .map(|(path, file)| {
                let image = &self.inodes[&file].image;
                (path.to_path_buf(), image.read(0, image.len() as usize))
            })
            .collect()
    }

    fn read_fails(&mut self, file: u64, path: &Path, effects: &mut Effects) -> Result<(), DiskError> {
        let draw = self.next_draw(Purpose::Read, file);
        let struck = self.struck(&[DiskFault::ReadError]).is_some();
        if struck || draw.happens(self.faults.read_error) {
            effects.reads_failed += u64::from(!struck);
            return Err(fail(DiskErrorKind::Device, path, "input/output error while reading"));
        }
        Ok(())
    }

    /// Returns until when the writer has to wait.
    fn write(
        &mut self,
        moment: Moment,
        path: &Path,
        file: u64,
        offset: u64,
        chunks: &[&[u8]],
        effects: &mut Effects,
    ) -> Result<u64, DiskError> {
        let size: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        if size == 0 {
            return Ok(moment.now);
        }
        let Some(end) = offset.checked_add(size).filter(|&end| end <= i64::MAX as u64) else {
            return Err(fail(
                DiskErrorKind::OutOfRange,
                path,
                "offset is beyond what a file can hold",
            ));
        };
        let fault = self.write_fault(file, effects);
        match fault {
            Some(DiskFault::WriteError) => return Err(write_error(path)),
            Some(DiskFault::Full) => return Err(full(path)),
            _ => {}
        }
        self.grow_used(path, file, end, effects)?;
        let mut data = match chunks {
            [chunk] => Bytes::copy_from_slice(chunk),
            _ => {
                let mut data = BytesMut::with_capacity(size as usize);
                chunks.iter().for_each(|chunk| data.extend_from_slice(chunk));
                data.freeze()
            }
        };
        if fault == Some(DiskFault::ShortWrite) {
            data.truncate(self.short_size(file, offset, size));
        }
        if fault == Some(DiskFault::MisdirectedWrite) {
            let sectors = (self.len(file).max(end) / SECTOR_SIZE).max(1);
            let lands = self.next_draw(Purpose::Write, file).below(sectors) * SECTOR_SIZE;
            self.inode(file).image.misdirect(offset, &data, lands);
        }
        self.dirty += data.len() as u64;
        self.changes += 1;
        self.newest = Some(file);
        let inode = self.inode(file);
        inode.modified = moment.wall;
        if !data.is_empty() {
            inode.image.write(moment.now, offset, data);
        }
        if fault == Some(DiskFault::ShortWrite) {
            return Err(write_error(path));
        }
        let free_at = self.throttle(moment.now);
        Ok(free_at.max(self.stalled_until))
    }

    /// Writes everything back if there is too much of it; returns when that is done.
    fn throttle(&mut self, now: u64) -> u64 {
        if self.dirty <= self.profile.dirty_limit_bytes {
            return now;
        }
        let before = self.dirty;
        for inode in self.inodes.values_mut() {
            let had = inode.image.unsynced_bytes();
            inode.image.persist(u64::MAX);
            self.dirty -= had - inode.image.unsynced_bytes();
        }
        let written = before - self.dirty;
        self.done_at(NO_FILE, now, written, (Duration::ZERO, Duration::ZERO))
    }

    fn allocate(
        &mut self,
        moment: Moment,
        path: &Path,
        file: u64,
        size: u64,
        effects: &mut Effects,
    ) -> Result<(), DiskError> {
        self.check_name(path)?;
        self.grow_used(path, file, size, effects)?;
        self.changes += 1;
        self.inode(file).image.grow(moment.now, size);
        Ok(())
    }

    fn zero(
        &mut self,
        moment: Moment,
        path: &Path,
        file: u64,
        range: (u64, u64),
        effects: &mut Effects,
    ) -> Result<(), DiskError> {
        let (offset, size) = range;
        let Some(end) = offset.checked_add(size).filter(|&end| end <= i64::MAX as u64) else {
            return Err(fail(
                DiskErrorKind::OutOfRange,
                path,
                "range is beyond what a file can hold",
            ));
        };
        if size == 0 {
            return Ok(());
        }
        self.check_name(path)?;
        self.grow_used(path, file, end, effects)?;
        self.changes += 1;
        self.newest = Some(file);
        let inode = self.inode(file);
        inode.modified = moment.wall;
        inode.image.zero(moment.now, offset, size);
        Ok(())
    }

    fn grow_used(&mut self, path: &Path, file: u64, end: u64, effects: &mut Effects) -> Result<(), DiskError> {
        let growth = end.saturating_sub(self.len(file));
        self.reserve(path, growth).inspect_err(|_| effects.refused_full += 1)
    }

    fn reserve(&mut self, path: &Path, bytes: u64) -> Result<(), DiskError> {
        if self.used + bytes > self.profile.capacity_bytes {
            return Err(full(path));
        }
        self.used += bytes;
        Ok(())
    }

    /// Begins a sync of a file; it is over at the time returned.
    fn begin_sync(&mut self, now: u64, file: u64) -> (Sync, u64) {
        let draw = self.next_draw(Purpose::Sync, file);
        let verdict = if draw.with(1).happens(self.faults.sync_error) {
            SyncVerdict::Error
        } else if draw.with(2).happens(self.faults.sync_lie) {
            SyncVerdict::Lie
        } else {
            SyncVerdict::Honest
        };
        let slow_by = self.faults.sync_slow_by.as_nanos() as u64;
        let inode = self.inode(file);
        let (bytes, upto) = (inode.image.unsynced_bytes(), inode.image.last_change());
        let done_at = self.done_at(file, now, bytes, self.profile.sync_latency) + slow_by;
        (Sync { file, upto, verdict }, done_at)
    }

    fn end_sync(&mut self, path: &Path, sync: Sync, effects: &mut Effects) -> Result<(), DiskError> {
        let verdict = match self.struck(&[DiskFault::SyncError, DiskFault::SyncLie]) {
            Some(DiskFault::SyncError) => SyncVerdict::Error,
            Some(_) => SyncVerdict::Lie,
            None => sync.verdict,
        };
        // A strike has counted itself.
        let counted = u64::from(verdict == sync.verdict);
        let inode = self.inode(sync.file);
        let had = inode.image.unsynced_bytes();
        let has_changes = inode.image.has_unsynced();
        if verdict != SyncVerdict::Lie {
            self.changes += u64::from(has_changes);
        }
        let inode = self.inode(sync.file);
        match verdict {
            SyncVerdict::Honest => {
                inode.image.persist(sync.upto);
                let left = inode.image.unsynced_bytes();
                self.dirty -= had - left;
                Ok(())
            }
            SyncVerdict::Lie => {
                effects.syncs_lied += counted;
                Ok(())
            }
            SyncVerdict::Error => {
                inode.image.abandon();
                effects.syncs_failed += counted;
                Err(fail(DiskErrorKind::Device, path, "input/output error while syncing"))
            }
        }
    }
}

fn transfer_ns(bytes: u64, bytes_per_second: u64) -> u64 {
    (u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1))) as u64
}

fn fail(kind: DiskErrorKind, path: &Path, message: impl Into<String>) -> DiskError {
    DiskError::new(kind, path, message)
}

fn full(path: &Path) -> DiskError {
    fail(DiskErrorKind::Full, path, "no space left on device")
}

fn write_error(path: &Path) -> DiskError {
    fail(DiskErrorKind::Device, path, "input/output error while writing")
}

fn not_found(path: &Path) -> DiskError {
    fail(DiskErrorKind::NotFound, path, "no such file or directory")
}
