//! Crash points: a disk as it stood between two of its operations, to be crashed into as often as wanted.
//!
//! One run of a store yields all of them, and each yields many disks: what was not synced may be kept, lost, torn and
//! re-ordered. That is cheaper by the length of the run than to play it anew for each point.

use std::collections::BTreeMap;

use super::tree::Tree;
use super::{Disk, Inode, NAME_SIZE};
use crate::effects::Effects;
use crate::random::Draw;

/// What becomes of unsynced changes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Each by itself, by chance: names kept or lost; writes kept, lost, or torn at sector borders.
    Drawn(Draw),
    Kept,
    Lost,
}

impl Fate {
    pub(super) fn of(self, identity: u64) -> Fate {
        match self {
            Fate::Drawn(draw) => Fate::Drawn(draw.with(identity)),
            other => other,
        }
    }
}

/// What becomes of the latest write, if it is unsynced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    /// As of the others.
    AsOthers,
    Kept,
    /// Its first so many sectors arrive.
    First(u64),
    /// All but this sector (counted from 0) arrive.
    Without(u64),
}

/// How the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerCut {
    pub names: Fate,
    pub data: Fate,
    pub newest: Newest,
}

impl PowerCut {
    pub fn drawn(draw: Draw) -> PowerCut {
        PowerCut {
            names: Fate::Drawn(draw),
            data: Fate::Drawn(draw),
            newest: Newest::AsOthers,
        }
    }

    /// All names and all data share a fate each.
    pub fn fixed(names: Fate, data: Fate) -> PowerCut {
        PowerCut {
            names,
            data,
            newest: Newest::AsOthers,
        }
    }

    /// Everything arrives, but of the latest write only a part.
    pub fn newest(newest: Newest) -> PowerCut {
        PowerCut {
            names: Fate::Kept,
            data: Fate::Kept,
            newest,
        }
    }
}

/// A disk between two operations. Cheap to copy: pages are shared.
#[derive(Clone)]
pub struct CrashPoint {
    /// How many changes the disk had seen: [`World::disk_changes`](crate::World::disk_changes) at that time.
    pub change: u64,
    /// The operation that was about to begin.
    pub before: &'static str,
    now: u64,
    tree: Tree,
    inodes: BTreeMap<u64, Inode>,
    newest: Option<u64>,
}

impl CrashPoint {
    /// Sectors of the latest change, if that is an unsynced write.
    pub fn newest_sectors(&self) -> u64 {
        let inode = self.newest.and_then(|file| self.inodes.get(&file));
        inode.map_or(0, |inode| inode.image.newest_sectors())
    }
}

impl Disk {
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn keep_crash_points(&mut self) {
        self.crash_points = Some(Vec::new());
    }

    /// The points kept, and the state now; keeps no more.
    pub(crate) fn take_crash_points(&mut self, now: u64) -> Vec<CrashPoint> {
        self.keep_crash_point("end", now);
        self.crash_points.take().unwrap_or_default()
    }

    /// An operation begins: counts it, and keeps the state unless nothing has changed since the last one kept.
    pub(super) fn begin(&mut self, kind: &'static str, now: u64) {
        self.operations += 1;
        self.keep_crash_point(kind, now);
    }

    fn keep_crash_point(&mut self, before: &'static str, now: u64) {
        let Some(points) = &mut self.crash_points else { return };
        if points.last().is_some_and(|last| last.change == self.changes) {
            return;
        }
        points.push(CrashPoint {
            change: self.changes,
            before,
            now,
            tree: self.tree.clone(),
            inodes: self.inodes.clone(),
            newest: self.newest,
        });
    }

    /// Becomes the disk of a crash point, of which no process is left; without `cut` the cache stays.
    pub(crate) fn crash_to(&mut self, point: &CrashPoint, cut: Option<&PowerCut>, effects: &mut Effects) {
        self.tree = point.tree.clone();
        self.inodes.clone_from(&point.inodes);
        self.newest = point.newest;
        self.changes = point.change + 1;
        self.epoch += 1;
        self.dirty = self.inodes.values().map(|inode| inode.image.unsynced_bytes()).sum();
        self.used = self.inodes.values().map(|inode| inode.image.len() + NAME_SIZE).sum();
        self.release_process();
        if let Some(cut) = cut {
            self.cut_power(point.now, cut, effects);
        }
    }
}
