//! The KV configuration on disk: written beside, synced, renamed over, so that a crash leaves the old or the new table.
//!
//! The last table but one stays as `.bak`, as RocketMQ does (`MixAll.string2File`), and is read when the file is damaged.

use std::path::{Path, PathBuf};

use super::kv::KvConfig;
use super::server::StartError;
use crate::runtime::{Disk, DiskError, DiskErrorKind, File, OpenMode};

/// Largest file that is read: 64 MiB. A larger one was not written here.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Reads the table; a file that was never written is an empty table.
pub(super) async fn load<D: Disk>(disk: &D, path: &Path) -> Result<KvConfig, StartError> {
    let mut damaged = None;
    for candidate in [path.to_path_buf(), beside(path, "bak")] {
        match read(disk, &candidate).await {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(kv) => return Ok(kv),
                Err(error) => damaged = damaged.or(Some(error.to_string())),
            },
            Err(error) if error.kind == DiskErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    match damaged {
        None => Ok(KvConfig::default()),
        Some(message) => Err(StartError::KvFile {
            path: path.to_path_buf(),
            message,
        }),
    }
}

pub(super) async fn save<D: Disk>(disk: &D, path: &Path, kv: &KvConfig) -> Result<(), DiskError> {
    let other = |error: serde_json::Error| DiskError::new(DiskErrorKind::Other, path, error.to_string());
    let text = serde_json::to_vec(kv).map_err(other)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    disk.create_dir_all(directory).await?;
    let fresh = beside(path, "tmp");
    ignore_missing(disk.remove(&fresh).await)?;
    let file = disk.open(&fresh, OpenMode::New).await?;
    file.write_at(0, &[&text])?;
    file.sync().await?;
    ignore_missing(disk.rename(path, &beside(path, "bak")).await)?;
    disk.rename(&fresh, path).await?;
    disk.sync_dir(directory).await
}

async fn read<D: Disk>(disk: &D, path: &Path) -> Result<Vec<u8>, DiskError> {
    let file = disk.open(path, OpenMode::Existing).await?;
    if file.len() > FILE_BYTES_MAX {
        return Err(DiskError::new(DiskErrorKind::Other, path, "larger than 64 MiB"));
    }
    if file.is_empty() {
        return Ok(Vec::new());
    }
    // At most 64 MiB: fits a usize anywhere.
    let bytes = file.read(0, file.len() as usize).await?;
    Ok(bytes.to_vec())
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

fn ignore_missing(result: Result<(), DiskError>) -> Result<(), DiskError> {
    match result {
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(()),
        other => other,
    }
}
