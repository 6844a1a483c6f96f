//! Deleting a topic's queues, so that a crash in between neither brings them back nor costs a scan of the whole log.
//!
//! The checkpoint names the topic (by hash) *before* the first file goes and forgets it after the last: recovery removes what is
//! left of the queues of a named topic, and the digest counts them no longer.

use std::time::Duration;

use super::checkpoint::{Checkpoint, Seal};
use super::queue::topic_hash;
use super::{QueueOf, Shared, StoreError, disk, extension, layout};
use crate::runtime::Runtime;
use crate::sync::lock;

/// Pause before another look while as many topics are being deleted as a checkpoint can name.
const PAUSE: Duration = Duration::from_millis(10);

impl<R: Runtime> Shared<R> {
    pub(super) async fn delete_topic(&self, topic: &str) -> Result<(), StoreError> {
        self.check()?;
        let queues = self.queues.remove(topic);
        // Without queues there is nothing that could come back, and nothing that the digest counts.
        let is_named = !queues.is_empty();
        if is_named {
            self.name_deletion(topic, &queues).await?;
        }
        let disk = self.runtime.disk();
        for queue in queues {
            queue.delete(disk).await?;
        }
        if layout::is_folder_name(topic) {
            disk::remove_dir_if_empty(disk, &self.paths.topic(topic)).await?;
            self.extension.delete_topic(disk, topic).await?;
            extension::remove_queue_folders(disk, &self.paths.batch_queue.join(topic)).await?;
        }
        if is_named {
            self.forget_deletion(topic).await?;
        }
        Ok(())
    }

    async fn name_deletion(&self, topic: &str, queues: &[QueueOf<R>]) -> Result<(), StoreError> {
        lock(&self.dispatcher).retire(queues);
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
                let free = deleting.iter_mut().find(|slot| **slot == 0)?;
                if last.logics_offset != position {
                    return None;
                }
                *free = topic_hash(topic);
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

    async fn forget_deletion(&self, topic: &str) -> Result<(), StoreError> {
        let hash = topic_hash(topic);
        self.change_checkpoint(|last| {
            let mut seal = last.seal.unwrap_or_default();
            *seal.deleting.iter_mut().find(|slot| **slot == hash)? = 0;
            Some(Checkpoint {
                seal: Some(seal),
                ..last
            })
        })
        .await
    }
}
