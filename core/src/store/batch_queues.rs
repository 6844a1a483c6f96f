//! Batch consume queues (topics with `queue.type=BatchCQ`): what their files hold. Read only; the files are kept as they are.

use std::path::Path;
use std::sync::Arc;

use super::disk::{list, open_existing};
use super::formats::batch_entry::{BATCH_ENTRY_SIZE, BatchEntry};
use super::layout::parse_file_name;
use super::{QueueName, Store, StoreError};
use crate::runtime::{Disk, DiskError, File, Runtime};

/// Bytes read at once, in whole entries.
const READ_SIZE: u64 = 4096 * BATCH_ENTRY_SIZE as u64;

impl<R: Runtime> Store<R> {
    /// The batch queues in the directory, by topic and id.
    pub async fn batch_queues(&self) -> Result<Vec<QueueName>, StoreError> {
        let shared = &self.owner.shared;
        let disk = shared.runtime.disk();
        let mut names = Vec::new();
        for topic in list(disk, &shared.paths.batch_queue).await? {
            let folder = shared.paths.batch_queue.join(&topic.name);
            let name: Arc<str> = Arc::from(topic.name.as_str());
            for queue in list(disk, &folder).await?.iter().filter(|_| topic.is_dir) {
                if let Ok(queue_id) = queue.name.parse() {
                    names.push(QueueName {
                        topic: Arc::clone(&name),
                        queue_id,
                    });
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// The entries of a batch queue, from the first whose record is in the log, up to the first place that holds none
    /// or names a record beyond the end.
    pub async fn batch_entries(&self, topic: &str, queue_id: i32) -> Result<Vec<BatchEntry>, StoreError> {
        let shared = &self.owner.shared;
        let folder = shared.paths.batch_queue.join(topic).join(queue_id.to_string());
        let entries = read(shared.runtime.disk(), &folder).await?;
        let log_start = shared.files.start().unwrap_or(0) as i64;
        let end = shared.confirmed() as i64;
        let in_log = entries
            .into_iter()
            .skip_while(|entry| entry.position < log_start)
            .take_while(|entry| entry.position.saturating_add(i64::from(entry.size)) <= end);
        Ok(in_log.collect())
    }
}

async fn read<D: Disk>(disk: &D, folder: &Path) -> Result<Vec<BatchEntry>, DiskError> {
    let mut entries = Vec::new();
    for listed in list(disk, folder).await? {
        if listed.is_dir || parse_file_name(&listed.name).is_none() {
            continue;
        }
        let Some(file) = open_existing(disk, &folder.join(&listed.name)).await? else {
            continue;
        };
        let mut at = 0;
        while at < file.len() {
            let bytes = file.read(at, (file.len() - at).min(READ_SIZE) as usize).await?;
            for chunk in bytes.chunks(BATCH_ENTRY_SIZE) {
                match BatchEntry::decode(chunk) {
                    Some(entry) => entries.push(entry),
                    None => return Ok(entries),
                }
            }
            at += bytes.len() as u64;
        }
    }
    Ok(entries)
}
