//! Names: what a process sees, what the device holds, and the unsynced difference.
//!
//! A creation, removal or rename is durable once the directories it touches are synced. At a power loss each unsynced
//! one is kept or lost by itself; a rename within one file system is atomic either way.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

use super::crash::Fate;
use crate::effects::Effects;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Dir,
    File(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Create(PathBuf, Name),
    Remove(PathBuf),
    /// Of this file or folder, whatever else may have that name by then.
    Rename(PathBuf, PathBuf, Name),
}

impl Change {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let (first, second) = match self {
            Change::Create(path, _) | Change::Remove(path) => (path, None),
            Change::Rename(from, to, _) => (from, Some(to)),
        };
        [Some(first), second].into_iter().flatten().map(PathBuf::as_path)
    }
}

#[derive(Clone)]
struct Unsynced {
    number: u64,
    change: Change,
    /// Directories that have yet to be synced.
    waits_for: Vec<PathBuf>,
}

type Names = BTreeMap<PathBuf, Name>;

#[derive(Clone, Default)]
pub(super) struct Tree {
    names: Names,
    durable: Names,
    unsynced: Vec<Unsynced>,
    changes: u64,
}

impl Tree {
    /// `None` for a missing name. The root is a directory.
    pub(super) fn get(&self, path: &Path) -> Option<Name> {
        if path.as_os_str().is_empty() {
            return Some(Name::Dir);
        }
        self.names.get(path).copied()
    }

    /// Names directly in `dir`, sorted.
    pub(super) fn children<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a Path, Name)> {
        below(&self.names, dir)
            .filter(move |(path, _)| path.parent() == Some(dir))
            .map(|(path, &name)| (path.as_path(), name))
    }

    pub(super) fn create(&mut self, path: PathBuf, name: Name) {
        self.change(Change::Create(path, name));
    }

    pub(super) fn remove(&mut self, path: PathBuf) {
        self.change(Change::Remove(path));
    }

    pub(super) fn rename(&mut self, from: PathBuf, to: PathBuf) {
        if let Some(name) = self.get(&from) {
            self.change(Change::Rename(from, to, name));
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        let mut waits_for: Vec<PathBuf> = change.paths().filter_map(Path::parent).map(Path::to_owned).collect();
        waits_for.dedup();
        self.changes += 1;
        self.unsynced.push(Unsynced {
            number: self.changes,
            change,
            waits_for,
        });
    }

    /// Makes the names in `dir` durable. A change waits for earlier ones of the same name.
    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let mut stay: Vec<Unsynced> = Vec::new();
        for mut entry in std::mem::take(&mut self.unsynced) {
            entry.waits_for.retain(|parent| parent != dir);
            let blocked = stay
                .iter()
                .any(|earlier| earlier.change.paths().any(|a| entry.change.paths().any(|b| a == b)));
            if entry.waits_for.is_empty() && !blocked {
                apply(&mut self.durable, &entry.change);
            } else {
                stay.push(entry);
            }
        }
        self.unsynced = stay;
    }

    pub(super) fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    pub(super) fn power_loss(&mut self, fate: Fate, effects: &mut Effects) {
        for entry in std::mem::take(&mut self.unsynced) {
            let is_kept = match fate {
                Fate::Drawn(draw) => draw.with(entry.number).happens(0.5),
                Fate::Kept => true,
                Fate::Lost => false,
            };
            if is_kept {
                apply(&mut self.durable, &entry.change);
            } else {
                effects.names_lost += 1;
            }
        }
        // What lies in a directory that was lost cannot be reached.
        let mut reachable = Names::new();
        for (path, name) in std::mem::take(&mut self.durable) {
            let parent = path.parent().unwrap_or(Path::new(""));
            if parent.as_os_str().is_empty() || reachable.get(parent) == Some(&Name::Dir) {
                reachable.insert(path, name);
            }
        }
        self.names = reachable.clone();
        self.durable = reachable;
    }

    /// True if some name, present or durable or in between, leads to the file.
    pub(super) fn refers_to(&self, file: u64) -> bool {
        let is_file = |name: &Name| *name == Name::File(file);
        self.names.values().any(is_file)
            || self.durable.values().any(is_file)
            || self
                .unsynced
                .iter()
                .any(|entry| matches!(&entry.change, Change::Create(_, name) if is_file(name)))
    }

    pub(super) fn files_below<'a>(&'a self, prefix: &'a Path) -> impl Iterator<Item = u64> + 'a {
        self.named_files_below(prefix).map(|(_, file)| file)
    }

    pub(super) fn named_files_below<'a>(&'a self, prefix: &'a Path) -> impl Iterator<Item = (&'a Path, u64)> + 'a {
        self.names
            .iter()
            .filter(move |(path, _)| path.starts_with(prefix))
            .filter_map(|(path, name)| match name {
                Name::File(file) => Some((path.as_path(), *file)),
                Name::Dir => None,
            })
    }
}

/// A change whose precondition is missing (an earlier one was lost) does nothing.
fn apply(names: &mut Names, change: &Change) {
    match change {
        Change::Create(path, name) => {
            names.insert(path.clone(), *name);
        }
        Change::Remove(path) => {
            names.remove(path);
        }
        Change::Rename(from, to, name) => {
            if names.get(from) != Some(name) {
                return;
            }
            names.remove(from);
            names.insert(to.clone(), *name);
            if *name == Name::Dir {
                let inside: Vec<PathBuf> = below(names, from).map(|(path, _)| path.clone()).collect();
                for path in inside {
                    if let (Some(name), Ok(rest)) = (names.remove(&path), path.strip_prefix(from)) {
                        names.insert(to.join(rest), name);
                    }
                }
            }
        }
    }
}

/// Everything below `dir`, not `dir` itself.
fn below<'a>(names: &'a Names, dir: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Name)> {
    names
        .range::<Path, _>((Bound::Excluded(dir), Bound::Unbounded))
        .take_while(move |(path, _)| path.starts_with(dir))
}

/// A path from the root of the node's disk: relative and absolute paths are the same, `.` and `..` resolved.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}
