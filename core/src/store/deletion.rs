//! Deleting a topic's queues, so that a crash in between neither brings them back nor costs a scan of the whole log.
//!
//! The checkpoint names the topic (by hash) *before* the first file goes and forgets it after the last: recovery removes what is
//! left of the queues of a named topic, and the digest counts them no longer.
//!
//! A deletion that fails half way stays on the list, and its name in the checkpoint. It goes on with the next turn of retention, when
//! its topic is deleted again, and at a stop in order. Until it is through nothing is appended to the topic: a start would take the
//! messages for deleted ones. The list is as long as a checkpoint has names; a further deletion waits for those that are under way, and is
//! refused when all of them have failed.

use std::time::Duration;

use super::checkpoint::{Checkpoint, DELETING_MAX, Seal};
use super::queue::topic_hash;
use super::{AppendError, QueueOf, Shared, StoreError, disk, extension, layout};
use crate::runtime::Runtime;
use crate::sync::lock;

/// Pause before another look while as many topics are being deleted as a checkpoint can name.
const PAUSE: Duration = Duration::from_millis(10);
/// Looks of a stop in order at what is under way.
const LOOKS_MAX: usize = 500;

/// A topic whose queues are gone from memory and not, or not all, from the disk.
pub(super) struct Deletion<R: Runtime> {
    topic: String,
    queues: Vec<QueueOf<R>>,
    /// In the checkpoint, durably. Until then the checkpoint counts the queues, and no other may be written.
    is_named: bool,
    is_running: bool,
    failure: Option<StoreError>,
}

enum Begun<'a, R: Runtime> {
    Running(Running<'a, R>),
    /// There is nothing that could come back, and nothing that the digest counts.
    Nothing,
    Wait,
}

/// Somebody works on a deletion; dropped with it, it may be gone on with.
struct Running<'a, R: Runtime> {
    shared: &'a Shared<R>,
    topic: &'a str,
    /// The deletion is off the list.
    is_over: bool,
}

impl<'a, R: Runtime> Running<'a, R> {
    fn new(shared: &'a Shared<R>, topic: &'a str) -> Self {
        Running {
            shared,
            topic,
            is_over: false,
        }
    }
}

impl<R: Runtime> Drop for Running<'_, R> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared
                .change_deletion(self.topic, |deletion| deletion.is_running = false);
        }
    }
}

impl<R: Runtime> Shared<R> {
    pub(super) async fn delete_topic(&self, topic: &str) -> Result<(), StoreError> {
        self.check()?;
        loop {
            match self.begin_deletion(topic)? {
                Begun::Running(running) => return self.go_on_deleting(running).await,
                Begun::Nothing => return self.remove_folders(topic).await,
                Begun::Wait => self.runtime.sleep(PAUSE).await,
            }
        }
    }

    /// Goes on with what has failed; gives the last error.
    pub(super) async fn retry_deletions(&self) -> Result<(), StoreError> {
        let topics: Vec<String> = lock(&self.deletions)
            .iter()
            .map(|deletion| deletion.topic.clone())
            .collect();
        let mut result = Ok(());
        for topic in topics {
            // Only what is on the list: a topic of that name may have been made since.
            let begun = self.resume(&mut lock(&self.deletions), &topic);
            if let Some(Begun::Running(running)) = begun {
                result = self.go_on_deleting(running).await.and(result);
            }
        }
        result
    }

    /// For a stop in order: nobody works on a deletion any more, and the checkpoint names those that are not through.
    pub(super) async fn settle_deletions(&self) -> Result<(), StoreError> {
        for _ in 0..LOOKS_MAX {
            if !lock(&self.deletions).iter().any(|deletion| deletion.is_running) {
                break;
            }
            self.runtime.sleep(PAUSE).await;
        }
        match self.retry_deletions().await {
            Err(error) if self.has_unnamed_deletion() => Err(error),
            Err(error) => {
                log::warn!("a topic is deleted in part, the next start does the rest: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Nothing is appended to a topic whose deletion is not through. Called with the log locked.
    pub(super) fn check_deletions<'t>(&self, mut topics: impl Iterator<Item = &'t str>) -> Result<(), AppendError> {
        let deletions = lock(&self.deletions);
        match topics.find(|topic| deletions.iter().any(|deletion| deletion.topic == **topic)) {
            Some(topic) => Err(AppendError::Deleting(topic.to_owned())),
            None => Ok(()),
        }
    }

    /// The checkpoint counts queues that are retired already.
    pub(super) fn has_unnamed_deletion(&self) -> bool {
        lock(&self.deletions).iter().any(|deletion| !deletion.is_named)
    }

    fn change_deletion(&self, topic: &str, change: impl FnOnce(&mut Deletion<R>)) {
        let mut deletions = lock(&self.deletions);
        if let Some(deletion) = deletions.iter_mut().find(|deletion| deletion.topic == topic) {
            change(deletion);
        }
    }

    /// Goes on with a deletion that is on the list.
    fn resume<'a>(&'a self, deletions: &mut [Deletion<R>], topic: &'a str) -> Option<Begun<'a, R>> {
        let deletion = deletions.iter_mut().find(|deletion| deletion.topic == topic)?;
        Some(match std::mem::replace(&mut deletion.is_running, true) {
            true => Begun::Wait,
            false => Begun::Running(Running::new(self, topic)),
        })
    }

    fn begin_deletion<'a>(&'a self, topic: &'a str) -> Result<Begun<'a, R>, StoreError> {
        // Appends look at the list under it.
        let _log = lock(&self.log);
        let mut deletions = lock(&self.deletions);
        if let Some(begun) = self.resume(&mut deletions, topic) {
            return Ok(begun);
        }
        if !self.queues.has(topic) {
            return Ok(Begun::Nothing);
        }
        if deletions.len() >= DELETING_MAX {
            let failures: Vec<_> = deletions
                .iter()
                .map_while(|deletion| deletion.failure.clone())
                .collect();
            return match failures.into_iter().nth(DELETING_MAX - 1) {
                Some(failure) => Err(failure),
                None => Ok(Begun::Wait),
            };
        }
        let queues = self.queues.remove(topic);
        lock(&self.dispatcher).retire(&queues);
        deletions.push(Deletion {
            topic: topic.to_owned(),
            queues,
            is_named: false,
            is_running: true,
            failure: None,
        });
        Ok(Begun::Running(Running::new(self, topic)))
    }

    async fn go_on_deleting(&self, mut running: Running<'_, R>) -> Result<(), StoreError> {
        let topic = running.topic;
        let result = self.delete_queues(topic).await;
        match &result {
            Ok(()) => {
                running.is_over = true;
                lock(&self.deletions).retain(|deletion| deletion.topic != topic);
            }
            Err(error) => self.change_deletion(topic, |deletion| deletion.failure = Some(error.clone())),
        }
        result
    }

    /// Each step may have been done before.
    async fn delete_queues(&self, topic: &str) -> Result<(), StoreError> {
        let mut found = None;
        self.change_deletion(topic, |deletion| {
            found = Some((deletion.queues.clone(), deletion.is_named))
        });
        let Some((queues, is_named)) = found else { return Ok(()) };
        if !is_named {
            self.name_deletion(topic, &queues).await?;
            self.change_deletion(topic, |deletion| deletion.is_named = true);
        }
        for queue in queues {
            queue.delete(self.runtime.disk()).await?;
        }
        self.remove_folders(topic).await?;
        self.forget_deletion(topic).await
    }

    async fn remove_folders(&self, topic: &str) -> Result<(), StoreError> {
        let disk = self.runtime.disk();
        if layout::is_folder_name(topic) {
            disk::remove_dir_if_empty(disk, &self.paths.topic(topic)).await?;
            self.extension.delete_topic(disk, topic).await?;
            extension::remove_queue_folders(disk, &self.paths.batch_queue.join(topic)).await?;
        }
        Ok(())
    }

    async fn name_deletion(&self, topic: &str, queues: &[QueueOf<R>]) -> Result<(), StoreError> {
        let hash = topic_hash(topic);
        loop {
            // What the checkpoint counts of them: their entries of records before its position.
            let position = lock(&self.last_checkpoint).logics_offset;
            let mut digest = 0u64;
            for queue in queues {
                let next = queue.first_at_or_behind(position.max(0) as u64).await?;
                digest = digest.wrapping_add(queue.weight().wrapping_mul(next.max(0) as u64));
            }
            let mut is_named = false;
            self.change_checkpoint(|last| {
                let seal = last.seal.unwrap_or_default();
                let mut deleting = seal.deleting;
                if deleting.contains(&hash) {
                    // Written before, and not synced.
                    is_named = true;
                    return Some(last);
                }
                let free = deleting.iter_mut().find(|slot| **slot == 0)?;
                if last.logics_offset != position {
                    return None;
                }
                *free = hash;
                is_named = true;
                Some(Checkpoint {
                    seal: Some(Seal {
                        digest: seal.digest.wrapping_sub(digest),
                        deleting,
                    }),
                    ..last
                })
            })
            .await?;
            if is_named {
                return Ok(());
            }
            self.runtime.sleep(PAUSE).await;
        }
    }

    /// Written even if it was before: perhaps it was not synced, and a new topic of that name would be taken for the old one.
    async fn forget_deletion(&self, topic: &str) -> Result<(), StoreError> {
        let hash = topic_hash(topic);
        self.change_checkpoint(|last| {
            let mut seal = last.seal.unwrap_or_default();
            for slot in seal.deleting.iter_mut().filter(|slot| **slot == hash) {
                *slot = 0;
            }
            Some(Checkpoint {
                seal: Some(seal),
                ..last
            })
        })
        .await
    }
}
