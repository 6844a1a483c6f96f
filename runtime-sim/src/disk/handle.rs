//! What a process holds: its disk, open files, locks.

use std::fmt;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use orrery_core::runtime::{self, DiskError, DiskErrorKind, Entry, File, OpenMode, Source, Space, WallMillis};

use super::{Disk, Moment, Sync, fail};
use crate::effects::Effects;
use crate::process::Process;
use crate::state::State;
use crate::timer::{Deadline, Sleep};
use crate::trace::Detail;

/// A process's disk.
#[derive(Clone)]
pub struct SimDisk {
    process: Arc<Process>,
}

impl SimDisk {
    pub(crate) fn new(process: Arc<Process>) -> SimDisk {
        SimDisk { process }
    }

    /// Waits as long as an operation takes, then carries it out and traces it.
    async fn operate<T>(
        &self,
        kind: &'static str,
        path: &Path,
        act: impl FnOnce(&mut Disk, Moment, &mut Effects) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        wait(&self.process, path, |state, node| {
            let disk = &mut state.disks[node];
            let latency = disk.profile.latency;
            disk.done_at(super::NO_FILE, state.core.now, 0, latency)
        })
        .await?;
        act_on(&self.process, kind, path, &[], act)
    }
}

/// Waits until the true time that `done_at` names.
async fn wait(process: &Process, path: &Path, done_at: impl FnOnce(&mut State, usize) -> u64) -> Result<(), DiskError> {
    check_alive(process, path)?;
    let until = process.world.with(|state| done_at(state, process.node));
    Sleep::until(process.world.clone(), Deadline::True(until)).await;
    check_alive(process, path)
}

fn act_on<T>(
    process: &Process,
    kind: &'static str,
    path: &Path,
    words: &[u64],
    act: impl FnOnce(&mut Disk, Moment, &mut Effects) -> Result<T, DiskError>,
) -> Result<T, DiskError> {
    let node = process.node;
    process.world.with(|state| {
        let now = state.core.local_now(node);
        let host = &mut state.core.hosts[node];
        let moment = Moment {
            now,
            wall: host.clock.wall(now),
        };
        let disk = &mut state.disks[node];
        disk.begin(kind, now);
        let result = act(disk, moment, &mut host.effects);
        host.effects = host.effects + std::mem::take(&mut disk.damage);
        let mut detail = Detail::new();
        detail.write(path.as_os_str().as_encoded_bytes());
        for &word in words {
            detail.write_u64(word);
        }
        detail.write_u64(result.as_ref().err().map_or(0, |error| error.kind as u64 + 1));
        state.core.trace.record(now, node as u32, kind, detail.finish());
        result
    })
}

fn check_alive(process: &Process, path: &Path) -> Result<(), DiskError> {
    if process.is_alive() {
        Ok(())
    } else {
        Err(fail(DiskErrorKind::Other, path, "the process has ended"))
    }
}

impl runtime::Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    async fn open(&self, path: &Path, mode: OpenMode) -> Result<SimFile, DiskError> {
        let file = self
            .operate("open", path, |disk, moment, _| disk.open(moment, path, mode))
            .await?;
        Ok(SimFile(Arc::new(Open {
            process: self.process.clone(),
            path: path.to_owned(),
            file,
        })))
    }

    async fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.operate("mkdir", path, |disk, _, _| disk.create_dir_all(path))
            .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.operate("rename", to, |disk, _, _| disk.rename(from, to)).await
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.operate("remove", path, |disk, _, _| disk.remove(path)).await
    }

    async fn remove_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.operate("rmdir", path, |disk, _, _| disk.remove_dir(path)).await
    }

    async fn list(&self, path: &Path) -> Result<Vec<Entry>, DiskError> {
        self.operate("list", path, |disk, _, effects| {
            disk.read_fails(super::NO_FILE, path, effects)?;
            disk.list(path)
        })
        .await
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        wait(&self.process, path, |state, node| {
            let disk = &mut state.disks[node];
            let (low, high) = disk.profile.sync_latency;
            let slow_by = disk.faults.sync_slow_by;
            disk.done_at(super::NO_FILE, state.core.now, 0, (low + slow_by, high + slow_by))
        })
        .await?;
        act_on(&self.process, "sync-dir", path, &[], |disk, _, _| disk.sync_dir(path))
    }

    async fn space(&self, path: &Path) -> Result<Space, DiskError> {
        self.operate("space", path, |disk, _, _| Ok(disk.space())).await
    }

    async fn lock(&self, path: &Path) -> Result<SimLock, DiskError> {
        let lock = self
            .operate("lock", path, |disk, moment, _| disk.lock(moment, path))
            .await?;
        Ok(SimLock {
            process: self.process.clone(),
            lock,
        })
    }
}

/// An exclusive lock of a process.
pub struct SimLock {
    process: Arc<Process>,
    lock: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if self.process.is_alive() {
            let node = self.process.node;
            self.process.world.with(|state| state.disks[node].unlock(self.lock));
        }
    }
}

struct Open {
    process: Arc<Process>,
    path: PathBuf,
    file: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.process.is_alive() {
            let node = self.process.node;
            self.process.world.with(|state| state.disks[node].close(self.file));
        }
    }
}

/// An open file of a process.
#[derive(Clone)]
pub struct SimFile(Arc<Open>);

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.0.path.display())
    }
}

impl SimFile {
    fn act<T>(
        &self,
        kind: &'static str,
        words: &[u64],
        act: impl FnOnce(&mut Disk, Moment, &mut Effects) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        check_alive(&self.0.process, &self.0.path)?;
        act_on(&self.0.process, kind, &self.0.path, words, act)
    }

    /// The node's workers wait for their disk.
    fn stall(&self, until: u64) {
        let node = self.0.process.node;
        self.0.process.world.with(|state| state.core.stall(node, until));
    }
}

impl File for SimFile {
    fn path(&self) -> &Path {
        &self.0.path
    }

    fn len(&self) -> u64 {
        let node = self.0.process.node;
        if !self.0.process.is_alive() {
            return 0;
        }
        self.0.process.world.with(|state| state.disks[node].len(self.0.file))
    }

    async fn modified(&self) -> Result<WallMillis, DiskError> {
        self.act("stat", &[], |disk, _, _| Ok(disk.inode(self.0.file).modified))
    }

    fn resident(&self, offset: u64, size: usize) -> bool {
        let Open { process, path, file } = &*self.0;
        if !process.is_alive() {
            return false;
        }
        process.world.with(|state| {
            let disk = &mut state.disks[process.node];
            disk.check_range(path, *file, offset, size).is_ok() && disk.is_resident(*file, offset, size)
        })
    }

    fn read_resident(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, DiskError> {
        let Open { process, path, file } = &*self.0;
        check_alive(process, path)?;
        process.world.with(|state| {
            let disk = &mut state.disks[process.node];
            disk.check_range(path, *file, offset, buffer.len())?;
            if !disk.is_resident(*file, offset, buffer.len()) {
                return Ok(false);
            }
            buffer.copy_from_slice(&disk.read_hot(path, *file, offset, buffer.len())?);
            Ok(true)
        })
    }

    fn read_hot(&self, offset: u64, size: usize) -> Result<Bytes, DiskError> {
        let Open { process, path, file } = &*self.0;
        check_alive(process, path)?;
        let (bytes, until) = process.world.with(|state| {
            let now = state.core.local_now(process.node);
            let disk = &mut state.disks[process.node];
            disk.check_range(path, *file, offset, size)?;
            let until = disk.fault_in(now, *file, offset, size);
            Ok((disk.read_hot(path, *file, offset, size)?, until))
        })?;
        self.stall(until);
        Ok(bytes)
    }

    fn will_read(&self, offset: u64, size: usize) {
        let Open { process, path, file } = &*self.0;
        if check_alive(process, path).is_ok() {
            let _ = act_on(process, "will-read", path, &[offset, size as u64], |disk, moment, _| {
                disk.read_ahead(moment.now, *file, offset, size);
                Ok(())
            });
        }
    }

    async fn read_once<T, F>(&self, offset: u64, size: usize, look: F) -> Result<T, DiskError>
    where
        T: Send + 'static,
        F: FnOnce(Bytes, Source) -> T + Send + 'static,
    {
        let mut buffer = vec![0; size];
        if self.read_resident(offset, &mut buffer)? {
            return Ok(look(buffer.into(), Source::Memory));
        }
        let Open { process, path, file } = &*self.0;
        wait(process, path, |state, node| {
            let disk = &mut state.disks[node];
            let latency = disk.profile.latency;
            disk.done_at(*file, state.core.now, size as u64, latency)
        })
        .await?;
        let bytes = self.act("read-once", &[offset, size as u64], |disk, _, effects| {
            disk.read_fails(*file, path, effects)?;
            disk.read_past_memory(path, *file, offset, size)
        })?;
        Ok(look(bytes, Source::Device))
    }

    async fn read(&self, offset: u64, size: usize) -> Result<Bytes, DiskError> {
        let Open { process, path, file } = &*self.0;
        check_alive(process, path)?;
        process
            .world
            .with(|state| state.disks[process.node].check_range(path, *file, offset, size))?;
        wait(process, path, |state, node| {
            let disk = &mut state.disks[node];
            let latency = disk.profile.latency;
            disk.done_at(*file, state.core.now, size as u64, latency)
        })
        .await?;
        self.act("read", &[offset, size as u64], |disk, _, effects| {
            disk.read_fails(*file, path, effects)?;
            disk.read(path, *file, offset, size)
        })
    }

    fn write_at(&self, offset: u64, chunks: &[&[u8]]) -> Result<(), DiskError> {
        let Open { path, file, .. } = &*self.0;
        let mut detail = Detail::new();
        for chunk in chunks {
            detail.write(chunk);
        }
        let until = self.act("write", &[offset, detail.finish()], |disk, moment, effects| {
            disk.write(moment, path, *file, offset, chunks, effects)
        })?;
        self.stall(until);
        Ok(())
    }

    async fn allocate(&self, size: u64) -> Result<(), DiskError> {
        let Open { process, path, file } = &*self.0;
        wait(process, path, |state, node| {
            let disk = &mut state.disks[node];
            let latency = disk.profile.latency;
            disk.done_at(*file, state.core.now, 0, latency)
        })
        .await?;
        self.act("allocate", &[size], |disk, moment, effects| {
            disk.allocate(moment, path, *file, size, effects)
        })
    }

    async fn zero_range(&self, offset: u64, size: u64) -> Result<(), DiskError> {
        let Open { process, path, file } = &*self.0;
        wait(process, path, |state, node| {
            let disk = &mut state.disks[node];
            let latency = disk.profile.latency;
            disk.done_at(*file, state.core.now, 0, latency)
        })
        .await?;
        self.act("zero", &[offset, size], |disk, moment, effects| {
            disk.zero(moment, path, *file, (offset, size), effects)
        })
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let Open { process, path, file } = &*self.0;
        check_alive(process, path)?;
        let (sync, done_at): (Sync, u64) = process
            .world
            .with(|state| state.disks[process.node].begin_sync(state.core.now, *file));
        Sleep::until(process.world.clone(), Deadline::True(done_at)).await;
        self.act("sync", &[sync.upto], |disk, _, effects| {
            disk.end_sync(path, sync, effects)
        })
    }

    fn sync_in_place(&self) -> Result<(), DiskError> {
        let Open { path, file, .. } = &*self.0;
        let mut until = 0;
        let result = self.act("sync", &[], |disk, moment, effects| {
            let (sync, done_at) = disk.begin_sync(moment.now, *file);
            until = done_at;
            disk.end_sync(path, sync, effects)
        });
        self.stall(until);
        result
    }
}
