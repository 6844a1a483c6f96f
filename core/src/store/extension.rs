//! The consume queues' extension files: gives the tags code behind an address. Read only: what this store writes needs none.
//!
//! The files are *weakly reliable*, as RocketMQ has it: a unit that is lost makes its message pass every filter (the client
//! compares the tag itself). File sizes need no setting: names say where files start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::disk::{list, remove_dir_if_empty, remove_if_present};
use super::formats::extension::{ExtensionUnit, UNIT_SIZE_MIN, position};
use super::layout::{file_name, parse_file_name};
use crate::runtime::{Disk, DiskError, File, OpenMode};
use crate::sync::lock;
use crate::types::Map;

/// Bytes read at once: units of neighbouring entries lie together.
const READ_SIZE: u64 = 64 << 10;
/// Queues whose files stay open. One more closes all.
const FOLDERS_MAX: usize = 64;

/// The files of one queue, by the position of their first byte.
type Files<F> = Arc<BTreeMap<u64, F>>;

pub(crate) struct Extension<F> {
    root: PathBuf,
    folders: Mutex<Map<(String, i32), Files<F>>>,
}

impl<F: File> Extension<F> {
    pub(crate) fn new(root: PathBuf) -> Extension<F> {
        Extension {
            root,
            folders: Mutex::new(Map::default()),
        }
    }

    /// The tags codes behind addresses; those whose unit cannot be read are left out.
    pub(crate) async fn resolve<D: Disk<File = F>>(
        &self,
        disk: &D,
        topic: &str,
        queue_id: i32,
        addresses: &[i64],
    ) -> BTreeMap<i64, i64> {
        let mut codes = BTreeMap::new();
        let files = match self.files(disk, topic, queue_id).await {
            Ok(files) => files,
            Err(error) => {
                log::warn!("extension files of {topic}/{queue_id}: {error}");
                return codes;
            }
        };
        let mut window = Window::default();
        for address in addresses {
            let Some(at) = position(*address) else { continue };
            match window.unit(&files, at).await {
                Ok(Some(unit)) => _ = codes.insert(*address, unit.tags_code),
                Ok(None) => {}
                Err(error) => log::warn!("extension unit of {topic}/{queue_id} at {at}: {error}"),
            }
        }
        codes
    }

    async fn files<D: Disk<File = F>>(&self, disk: &D, topic: &str, queue_id: i32) -> Result<Files<F>, DiskError> {
        let key = (topic.to_owned(), queue_id);
        if let Some(files) = lock(&self.folders).get(&key) {
            return Ok(Arc::clone(files));
        }
        let folder = self.folder(topic, queue_id);
        let mut files = BTreeMap::new();
        for entry in list(disk, &folder).await? {
            if let Some(start) = parse_file_name(&entry.name).filter(|_| !entry.is_dir) {
                files.insert(start, disk.open(&folder.join(&entry.name), OpenMode::Existing).await?);
            }
        }
        let files = Arc::new(files);
        let mut folders = lock(&self.folders);
        if folders.len() >= FOLDERS_MAX {
            folders.clear();
        }
        folders.insert(key, Arc::clone(&files));
        Ok(files)
    }

    fn folder(&self, topic: &str, queue_id: i32) -> PathBuf {
        self.root.join(topic).join(queue_id.to_string())
    }

    /// Deletes the files that lie wholly before the unit that a queue's first entry names, but never the last.
    pub(crate) async fn trim<D: Disk<File = F>>(
        &self,
        disk: &D,
        topic: &str,
        queue_id: i32,
        first_tags_code: i64,
    ) -> Result<(), DiskError> {
        let Some(first) = position(first_tags_code) else {
            return Ok(());
        };
        let files = self.files(disk, topic, queue_id).await?;
        let starts: Vec<u64> = files.keys().copied().collect();
        let folder = self.folder(topic, queue_id);
        let mut deleted = false;
        for pair in starts.windows(2).take_while(|pair| pair[1] <= first) {
            remove_if_present(disk, &folder.join(file_name(pair[0]))).await?;
            deleted = true;
        }
        if deleted {
            lock(&self.folders).remove(&(topic.to_owned(), queue_id));
            disk.sync_dir(&folder).await?;
        }
        Ok(())
    }

    /// Deletes all files of a topic.
    pub(crate) async fn delete_topic<D: Disk<File = F>>(&self, disk: &D, topic: &str) -> Result<(), DiskError> {
        lock(&self.folders).retain(|(other, _), _| other != topic);
        remove_queue_folders(disk, &self.root.join(topic)).await
    }
}

/// Removes a topic's folder with the folders of its queues and the files in them.
pub(crate) async fn remove_queue_folders<D: Disk>(disk: &D, topic: &std::path::Path) -> Result<(), DiskError> {
    for queue in list(disk, topic).await?.iter().filter(|entry| entry.is_dir) {
        let folder = topic.join(&queue.name);
        for file in list(disk, &folder).await?.iter().filter(|entry| !entry.is_dir) {
            remove_if_present(disk, &folder.join(&file.name)).await?;
        }
        remove_dir_if_empty(disk, &folder).await?;
    }
    remove_dir_if_empty(disk, topic).await
}

/// The stretch of a file that was read last.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Bytes,
}

impl Window {
    async fn unit<F: File>(&mut self, files: &BTreeMap<u64, F>, at: u64) -> Result<Option<ExtensionUnit>, DiskError> {
        if let Some(unit) = self.decode(at) {
            return Ok(Some(unit));
        }
        let Some((start, file)) = files.range(..=at).next_back() else {
            return Ok(None);
        };
        let within = at - start;
        let size = file.len().saturating_sub(within).min(READ_SIZE);
        if size < UNIT_SIZE_MIN as u64 {
            return Ok(None);
        }
        self.bytes = file.read(within, size as usize).await?;
        self.start = at;
        Ok(self.decode(at))
    }

    fn decode(&self, at: u64) -> Option<ExtensionUnit> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        Some(ExtensionUnit::decode(self.bytes.get(from..)?)?.0)
    }
}
