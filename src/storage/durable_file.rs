//! Small files that change all at once or not at all, and directories whose entries are durable.
//!
//! The recipe is always temp file, fsync, rename, fsync of the directory. Never deletes what it was
//! not told to delete.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use super::StorageError;
use crate::fault::{self, Point};

/// Replaces the file at `path` by `bytes`, durably. `staged` is passed before it gets its name.
pub fn replace(path: &Path, bytes: &[u8], staged: Point) -> Result<(), StorageError> {
    // A leftover of an earlier crash under this name is overwritten, never read.
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)
        .map_err(StorageError::io_at("creating", &temporary))?;
    file.write_all(bytes).map_err(StorageError::io_at("writing", &temporary))?;
    file.sync_all()
        .and_then(|()| fault::fail(staged))
        .map_err(StorageError::io_at("syncing", &temporary))?;
    rename(&temporary, path)
}

/// Renames within one directory, durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    fs::rename(from, to).map_err(StorageError::io_at("renaming", from))?;
    sync_parent(to)
}

/// The bytes of the file at `path`, None if there is none; more than `bytes_max` is an error.
pub fn read(path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>, StorageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io_at("opening", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(StorageError::io_at("reading", path))?;
    if bytes.len() > bytes_max {
        let attempted = format!("reading {}", path.display());
        return Err(StorageError::corrupt(attempted, format!("longer than {bytes_max} bytes")));
    }
    Ok(Some(bytes))
}

/// Removes the file at `path` durably; a file that is gone already is fine.
pub fn remove(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(StorageError::io_at("removing", path)(error)),
    }
    sync_parent(path)
}

/// Removes the directory at `path` with all it holds, durably; one that is gone already is fine.
pub fn remove_directory(path: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::io_at("removing", path)(error)),
    }
    sync_parent(path)
}

/// Makes the entries of the directory at `path` durable.
pub fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(StorageError::io_at("syncing the directory", path))
}

/// Makes the entry of `path` in its directory durable.
pub fn sync_parent(path: &Path) -> Result<(), StorageError> {
    sync_directory(parent(path))
}

/// The directory that holds `path`; the current one for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
