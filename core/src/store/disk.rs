//! A few steps on [`Disk`] that several parts of the store take.

use std::path::Path;

use crate::runtime::{Disk, DiskError, DiskErrorKind, Entry, OpenMode};

/// Names in a folder; none if there is no such folder.
pub(crate) async fn list<D: Disk>(disk: &D, path: &Path) -> Result<Vec<Entry>, DiskError> {
    match disk.list(path).await {
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Makes a folder (and those above it) durably.
pub(crate) async fn make_dir<D: Disk>(disk: &D, path: &Path) -> Result<(), DiskError> {
    let mut changed = vec![parent(path)];
    while let Some(folder) = changed.last() {
        match disk.list(folder).await {
            Err(error) if error.kind == DiskErrorKind::NotFound => changed.push(parent(folder)),
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    disk.create_dir_all(path).await?;
    for folder in changed {
        disk.sync_dir(folder).await?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Opens a file if it exists.
pub(crate) async fn open_existing<D: Disk>(disk: &D, path: &Path) -> Result<Option<D::File>, DiskError> {
    match disk.open(path, OpenMode::Existing).await {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether there was such a file.
pub(crate) async fn remove_if_present<D: Disk>(disk: &D, path: &Path) -> Result<bool, DiskError> {
    match disk.remove(path).await {
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}

/// Removes a folder unless something is in it or it is not there.
pub(crate) async fn remove_dir_if_empty<D: Disk>(disk: &D, path: &Path) -> Result<(), DiskError> {
    match disk.list(path).await {
        Ok(entries) if entries.is_empty() => disk.remove_dir(path).await,
        Ok(_) => Ok(()),
        Err(error) if error.kind == DiskErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
