//! The one task that commits a consumer's offsets, so that the commits of a queue reach the broker in their order.
//!
//! What is committed is the watermark: everything below it is processed. It does not go back within a session, except when
//! the broker itself moved the position. An orderly queue whose lock no longer counts is not committed: another member may
//! be further. (RemoteBrokerOffsetStore.java, LocalFileOffsetStore.java)

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_channel::{mpsc, oneshot};
use futures_util::{FutureExt, StreamExt, future::join_all, select_biased};

use super::ConsumerCore;
use super::assigned::Assigned;
use crate::client::error::{RequestError, StartError};
use crate::client::instance::lock;
use crate::client::observer::{Commit, CommitOutcome, RevokeReason};
use crate::client::offsets::{self, FILE_SIZE_MAX, OffsetTable};
use crate::runtime::{Disk, DiskError, DiskErrorKind, File, OpenMode, Runtime, site};
use crate::types::MessageQueue;

/// Asks for one queue to be committed now.
pub(super) struct CommitRequest {
    assigned: Arc<Assigned>,
    reset_to: Option<i64>,
    done: oneshot::Sender<()>,
}

/// Commits every held queue at intervals, and single ones on request.
pub(super) async fn run<R: Runtime>(core: Arc<ConsumerCore<R>>, mut requests: mpsc::Receiver<CommitRequest>) {
    let rt = core.client.rt.clone();
    let interval = core.config.commit_interval;
    let mut due = rt.mono() + interval;
    loop {
        let wait = due.since(rt.mono());
        select_biased! {
            request = requests.next() => {
                let Some(request) = request else { return };
                core.commit(&request.assigned, request.reset_to).await;
                let _ = request.done.send(());
            }
            () = rt.sleep(wait).fuse() => {
                core.commit_all().await;
                due = rt.mono() + interval;
            }
        }
    }
}

impl<R: Runtime> ConsumerCore<R> {
    /// Commits a queue and returns when that is done, successful or not.
    pub(super) async fn commit_now(&self, assigned: &Arc<Assigned>, reset_to: Option<i64>) {
        let (done, is_done) = oneshot::channel();
        let request = CommitRequest {
            assigned: assigned.clone(),
            reset_to,
            done,
        };
        // At most one request per queue in hand; a clone has a place of its own, so this is never full.
        if self.commits.clone().try_send(request).is_ok() {
            let _ = is_done.await;
        }
    }

    async fn commit_all(&self) {
        let held: Vec<Arc<Assigned>> = {
            let queues = lock(&self.queues);
            queues.held.values().map(|held| held.assigned.clone()).collect()
        };
        join_all(held.iter().map(|assigned| self.commit(assigned, None))).await;
        self.save_local_offsets().await;
    }

    async fn commit(&self, assigned: &Assigned, reset_to: Option<i64>) {
        let Some(offset) = self.offset_to_commit(assigned, reset_to) else {
            return;
        };
        let commit = Commit {
            id: self.client.number(),
            client_id: &self.client.client_id,
            group: &self.config.group,
            queue: &assigned.queue,
            offset,
            is_reset: reset_to.is_some(),
        };
        self.client.observer().commit_started(&commit);
        let outcome = match &self.local_offsets {
            Some(local) => {
                lock(&local.table).insert(assigned.queue.clone(), offset);
                CommitOutcome::Stored
            }
            None => {
                let result = self
                    .client
                    .commit_offset(&self.config.group, &assigned.queue, offset)
                    .await;
                if let Err(error) = &result {
                    log::debug!("{}: commit of {:?}: {error}", self.config.group, assigned.queue);
                }
                outcome(&result)
            }
        };
        self.client.observer().commit_ended(&commit, outcome);
    }

    fn offset_to_commit(&self, assigned: &Assigned, reset_to: Option<i64>) -> Option<i64> {
        let mut state = assigned.state();
        if let Some(offset) = reset_to {
            state.committed = offset;
            return Some(offset);
        }
        let is_lost = state.revoked == Some(RevokeReason::LockLost);
        if is_lost || (self.is_locking() && !state.is_locked(self.client.rt.mono())) {
            return None;
        }
        // Defect: an offset counts as consumed once it is fetched, so a crash loses what was in the listener's hands.
        let offset = if site(&self.client.rt, "commit-before-processing") {
            state.process.fetched_to()
        } else if site(&self.client.rt, "commit-highest-processed") {
            // Defect: what lies below and is still with a listener is lost by a crash.
            state.process.highest_processed()
        } else {
            state.process.watermark()
        };
        state.committed = offset.max(state.committed);
        Some(state.committed)
    }

    /// Writes the offsets of a broadcasting consumer to its file.
    pub(super) async fn save_local_offsets(&self) {
        let Some(local) = &self.local_offsets else {
            return;
        };
        if let Err(error) = local.save(&self.client.rt).await {
            log::error!("{}: offsets are not saved: {error}", self.config.group);
        }
    }

    /// The offset of a broadcasting consumer's own file.
    pub(super) fn local_offset(&self, queue: &MessageQueue) -> Option<i64> {
        let local = self.local_offsets.as_ref()?;
        lock(&local.table).get(queue).copied()
    }
}

fn outcome(result: &Result<(), RequestError>) -> CommitOutcome {
    match result {
        Ok(()) => CommitOutcome::Stored,
        Err(RequestError::Refused { code, .. }) => CommitOutcome::Refused { code: *code },
        Err(RequestError::NotSent { .. }) => CommitOutcome::NotSent,
        Err(RequestError::Unknown { .. }) => CommitOutcome::Unknown,
    }
}

/// Offsets of a broadcasting consumer and the file they live in.
pub(super) struct LocalOffsets {
    path: PathBuf,
    table: Mutex<OffsetTable>,
    saved: Mutex<OffsetTable>,
}

impl LocalOffsets {
    /// Reads the file, if there is one.
    pub(super) async fn open<R: Runtime>(rt: &R, path: &Path) -> Result<LocalOffsets, StartError> {
        let failed = |reason: String| StartError::Offsets(format!("{}: {reason}", path.display()));
        let disk = rt.disk();
        disk.create_dir_all(parent(path))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let table = match read(disk, path).await {
            Ok(Some(bytes)) => offsets::decode(&bytes).map_err(|error| failed(error.to_string()))?,
            Ok(None) => OffsetTable::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        Ok(LocalOffsets {
            path: path.to_owned(),
            saved: Mutex::new(table.clone()),
            table: Mutex::new(table),
        })
    }

    /// Replaces the file, so that a crash leaves the old one or the new one.
    async fn save<R: Runtime>(&self, rt: &R) -> Result<(), DiskError> {
        let table = lock(&self.table).clone();
        if table == *lock(&self.saved) {
            return Ok(());
        }
        let disk = rt.disk();
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let new_path = PathBuf::from(name);
        match disk.remove(&new_path).await {
            Err(error) if error.kind != DiskErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(&new_path, OpenMode::New).await?;
        file.write_at(0, &[&offsets::encode(&table)])?;
        file.sync().await?;
        disk.rename(&new_path, &self.path).await?;
        disk.sync_dir(parent(&self.path)).await?;
        *lock(&self.saved) = table;
        Ok(())
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

async fn read<D: Disk>(disk: &D, path: &Path) -> Result<Option<bytes::Bytes>, DiskError> {
    let file = match disk.open(path, OpenMode::Existing).await {
        Ok(file) => file,
        Err(error) if error.kind == DiskErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.len();
    if size > FILE_SIZE_MAX {
        let message = format!("{size} bytes are too many for a file of offsets");
        return Err(DiskError::new(DiskErrorKind::Other, path, message));
    }
    let size = usize::try_from(size).expect("the limit fits");
    file.read(0, size).await.map(Some)
}
