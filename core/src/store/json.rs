//! RocketMQ's `config/*.json` tables: read leniently, written so that a crash at any point leaves a whole one.
//!
//! Writing: a temporary file, synced; the old table becomes `.bak`; the new one takes its name; the folder is synced.
//! Reading: the table, else its `.bak`, in fastjson's dialect as bodies are (integer keys without quotes); written are quoted
//! keys, which Java reads, too.
//! Source: `common/ConfigManager.java`, `common/MixAll.java` `string2File`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::disk::{make_dir, open_existing, remove_if_present};
use crate::protocol::body;
use crate::runtime::{Disk, DiskError, DiskErrorKind, File, OpenMode};

/// Largest table that is read. Default 256 MiB. A larger one is no table of ours.
const SIZE_MAX: u64 = 256 << 20;

/// Why there is no table although there are files.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("{path}: {reason}")]
    Invalid { path: String, reason: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Loads a table; `None` if neither it nor its `.bak` exists.
pub async fn load<D: Disk, T: DeserializeOwned>(disk: &D, path: &Path) -> Result<Option<T>, JsonError> {
    let first = match load_one(disk, path).await {
        Ok(Some(table)) => return Ok(Some(table)),
        other => other,
    };
    match (first, load_one(disk, &with_suffix(path, ".bak")).await) {
        (first, Ok(Some(table))) => {
            if let Err(error) = first {
                log::warn!("{error}; its .bak is used");
            }
            Ok(Some(table))
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
        (Ok(_), Ok(None)) => Ok(None),
    }
}

/// Saves a table. Durable when it returns.
pub async fn save<D: Disk, T: Serialize>(disk: &D, path: &Path, table: &T) -> Result<(), DiskError> {
    let text = serde_json::to_vec_pretty(table)
        .map_err(|error| DiskError::new(DiskErrorKind::Other, path, format!("table is no JSON: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    make_dir(disk, folder).await?;
    let temporary = with_suffix(path, ".tmp");
    remove_if_present(disk, &temporary).await?;
    let file = disk.open(&temporary, OpenMode::New).await?;
    file.write_at(0, &[&text])?;
    file.sync().await?;
    if open_existing(disk, path).await?.is_some() {
        disk.rename(path, &with_suffix(path, ".bak")).await?;
    }
    disk.rename(&temporary, path).await?;
    disk.sync_dir(folder).await
}

async fn load_one<D: Disk, T: DeserializeOwned>(disk: &D, path: &Path) -> Result<Option<T>, JsonError> {
    let Some(file) = open_existing(disk, path).await? else {
        return Ok(None);
    };
    let invalid = |reason: String| JsonError::Invalid {
        path: path.display().to_string(),
        reason,
    };
    if file.is_empty() {
        return Ok(None);
    }
    if file.len() > SIZE_MAX {
        return Err(invalid(format!("{} bytes are more than {SIZE_MAX}", file.len())));
    }
    let bytes = file.read(0, file.len() as usize).await?;
    let table = body::json::read(&bytes).map_err(|error| invalid(error.to_string()))?;
    Ok(Some(table))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
