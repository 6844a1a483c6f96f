//! Names: files and directories made, renamed, removed, listed, synced and locked.
//!
//! Not what files hold. A name changes in the cache; [`Disk::sync_dir`] makes the names of one directory durable.

use std::path::{Path, PathBuf};

use orrery_core::runtime::{DiskError, DiskErrorKind, Entry, OpenMode, Space};

use super::image::Image;
use super::tree::{Name, normal};
use super::{Disk, DiskFault, Inode, Moment, NAME_SIZE, fail, not_found};

impl Disk {
    pub(super) fn open(&mut self, moment: Moment, path: &Path, mode: OpenMode) -> Result<u64, DiskError> {
        let path = normal(path);
        let found = match self.tree.get(&path) {
            Some(Name::Dir) => return Err(fail(DiskErrorKind::Other, &path, "is a directory")),
            Some(Name::File(file)) => Some(file),
            None => None,
        };
        let file = match (found, mode) {
            (Some(_), OpenMode::New) => return Err(fail(DiskErrorKind::AlreadyExists, &path, "exists already")),
            (Some(file), _) => file,
            (None, OpenMode::Existing) => return Err(not_found(&path)),
            (None, _) => self.create_file(moment, &path)?,
        };
        self.inode(file).handles += 1;
        Ok(file)
    }

    pub(super) fn create_file(&mut self, moment: Moment, path: &Path) -> Result<u64, DiskError> {
        self.parent_exists(path)?;
        self.check_name(path)?;
        self.reserve(path, NAME_SIZE)?;
        self.changes += 1;
        self.inode_count += 1;
        let path_bytes = path.as_os_str().as_encoded_bytes();
        let inode = Inode {
            identity: path_bytes
                .iter()
                .fold(self.draw, |draw, &byte| draw.with(u64::from(byte)))
                .bits(),
            image: Image::default(),
            handles: 0,
            modified: moment.wall,
        };
        self.inodes.insert(self.inode_count, inode);
        self.tree.create(path.to_owned(), Name::File(self.inode_count));
        Ok(self.inode_count)
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> Result<(), DiskError> {
        let path = normal(path);
        let mut missing = Vec::new();
        for ancestor in path.ancestors() {
            match self.tree.get(ancestor) {
                Some(Name::Dir) => break,
                Some(Name::File(_)) => return Err(fail(DiskErrorKind::AlreadyExists, ancestor, "is a file")),
                None => missing.push(ancestor.to_owned()),
            }
        }
        if !missing.is_empty() {
            self.check_name(&path)?;
            self.changes += 1;
        }
        for path in missing.into_iter().rev() {
            self.tree.create(path, Name::Dir);
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let (from, to) = (normal(from), normal(to));
        let name = self.tree.get(&from).ok_or_else(|| not_found(&from))?;
        self.parent_exists(&to)?;
        match (name, self.tree.get(&to)) {
            _ if from == to => return Ok(()),
            (_, None) | (Name::File(_), Some(Name::File(_))) => {}
            (Name::File(_), Some(Name::Dir)) => return Err(fail(DiskErrorKind::Other, &to, "is a directory")),
            (Name::Dir, Some(_)) => return Err(fail(DiskErrorKind::AlreadyExists, &to, "exists already")),
        }
        if name == Name::Dir && to.starts_with(&from) {
            return Err(fail(DiskErrorKind::Other, &to, "lies inside of what is renamed"));
        }
        self.check_name(&to)?;
        self.changes += 1;
        self.tree.rename(from, to);
        self.collect_garbage();
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<(), DiskError> {
        let path = normal(path);
        match self.tree.get(&path) {
            None => Err(not_found(&path)),
            Some(Name::Dir) => Err(fail(DiskErrorKind::Other, &path, "is a directory")),
            Some(Name::File(_)) => {
                self.check_name(&path)?;
                self.changes += 1;
                self.tree.remove(path);
                self.collect_garbage();
                Ok(())
            }
        }
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> Result<(), DiskError> {
        let path = normal(path);
        match self.tree.get(&path) {
            None => return Err(not_found(&path)),
            Some(Name::File(_)) => return Err(fail(DiskErrorKind::Other, &path, "is no directory")),
            Some(Name::Dir) => {}
        }
        if path.as_os_str().is_empty() || self.tree.children(&path).next().is_some() {
            return Err(fail(DiskErrorKind::Other, &path, "is not empty"));
        }
        self.check_name(&path)?;
        self.changes += 1;
        self.tree.remove(path);
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> Result<Vec<Entry>, DiskError> {
        let path = self.directory(path)?;
        let entries = self.tree.children(&path).map(|(child, name)| Entry {
            name: child.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            is_dir: name == Name::Dir,
        });
        Ok(entries.collect())
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> Result<(), DiskError> {
        let path = self.directory(path)?;
        match self.struck(&[DiskFault::SyncError, DiskFault::SyncLie]) {
            Some(DiskFault::SyncError) => {
                return Err(fail(DiskErrorKind::Device, &path, "input/output error while syncing"));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        self.changes += u64::from(self.tree.has_unsynced());
        self.tree.sync_dir(&path);
        self.collect_garbage();
        Ok(())
    }

    pub(super) fn lock(&mut self, moment: Moment, path: &Path) -> Result<u64, DiskError> {
        let path = normal(path);
        match self.tree.get(&path) {
            Some(Name::Dir) => return Err(fail(DiskErrorKind::Other, &path, "is a directory")),
            Some(Name::File(_)) => {}
            None => {
                self.create_file(moment, &path)?;
            }
        }
        if self.locks.contains_key(&path) {
            return Err(fail(DiskErrorKind::Locked, &path, "is locked by another holder"));
        }
        self.lock_count += 1;
        self.locks.insert(path, self.lock_count);
        Ok(self.lock_count)
    }

    pub(super) fn unlock(&mut self, lock: u64) {
        self.locks.retain(|_, holder| *holder != lock);
    }

    pub(super) fn space(&self) -> Space {
        Space {
            total_bytes: self.profile.capacity_bytes,
            available_bytes: self.profile.capacity_bytes.saturating_sub(self.used),
        }
    }

    pub(super) fn directory(&self, path: &Path) -> Result<PathBuf, DiskError> {
        let path = normal(path);
        match self.tree.get(&path) {
            Some(Name::Dir) => Ok(path),
            Some(Name::File(_)) => Err(fail(DiskErrorKind::Other, &path, "is no directory")),
            None => Err(not_found(&path)),
        }
    }

    pub(super) fn parent_exists(&self, path: &Path) -> Result<(), DiskError> {
        match path.parent() {
            Some(parent) => self.directory(parent).map(|_| ()),
            None => Err(fail(DiskErrorKind::Other, path, "is the root")),
        }
    }

    /// Frees what no name and no handle leads to.
    pub(super) fn collect_garbage(&mut self) {
        let dead: Vec<u64> = self
            .inodes
            .iter()
            .filter(|(file, inode)| inode.handles == 0 && !self.tree.refers_to(**file))
            .map(|(file, _)| *file)
            .collect();
        for file in dead {
            if let Some(inode) = self.inodes.remove(&file) {
                self.used -= inode.image.len() + NAME_SIZE;
                self.dirty -= inode.image.unsynced_bytes();
            }
        }
    }
}
