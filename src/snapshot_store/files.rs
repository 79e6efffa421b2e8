//! Files that survive a crash: synced, renamed, and their directories synced after them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::{PartReader, StoreError};
use crate::fault::{self, Point};
use crate::manifest::Manifest;
use crate::types::Digest;

/// Files synced one by one; for more, one sync of the file system is quicker.
const FILES_SYNCED_SINGLY_MAX: usize = 64;

/// Tells the free bytes of the disk that holds a path; replaced in tests.
pub type FreeBytes = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// Bytes of the disk that holds `path` which this process may still fill.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Replaces a file as a whole: whoever reads it finds the old content or the new. `staged` is passed
/// before it gets its name.
pub(super) fn write_atomically(
    path: &Path,
    content: &[u8],
    staged: Point,
) -> Result<(), StoreError> {
    let temporary = path.with_extension("tmp");
    let attempt = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        drop(file);
        fault::fail(staged)?;
        fs::rename(&temporary, path)?;
        sync_directory_of(path)
    };
    attempt().map_err(|cause| StoreError::io(format!("writing {}", path.display()), cause))
}

/// Reads a file of at most `bytes_max`; a longer one is an error before it is read.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open_part_file(path)?;
    let length = file.metadata()?.len();
    if length > bytes_max {
        let problem = format!("{length} bytes are over the limit of {bytes_max}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let mut content = Vec::with_capacity(length as usize);
    file.take(bytes_max).read_to_end(&mut content)?;
    Ok(content)
}

/// Syncs a directory, so that the names in it last.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    sync_directory(path.parent().expect("a file of ours lies in a directory"))
}

/// Syncs the content of files that lie on one file system. Many at once are synced with it.
pub(super) fn sync_files(directory: &Path, names: &[&str]) -> io::Result<()> {
    if names.len() > FILES_SYNCED_SINGLY_MAX && sync_file_system(directory)? {
        return Ok(());
    }
    for name in names {
        open_part_file(&directory.join(name))?.sync_all()?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn sync_file_system(directory: &Path) -> io::Result<bool> {
    rustix::fs::syncfs(File::open(directory)?)?;
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_directory: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Opens a file for reading; a symbolic link is refused.
pub(super) fn open_part_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)
}

/// Removes a directory with all in it; one that is not there is as good as removed.
pub(super) fn remove_directory(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io(format!("removing {}", path.display()), cause))
        }
        _ => Ok(()),
    }
}

/// Moves a damaged file or directory out of the way, without ever overwriting what was moved before.
/// Returns where it lies now.
pub(super) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    fault::fail(Point::SnapshotAsideBegun)?;
    let name = path.file_name().expect("what is moved has a name").to_string_lossy().into_owned();
    for number in 0_u32.. {
        let target = path.with_file_name(format!("damaged-{number}-{name}"));
        if fs::symlink_metadata(&target).is_err() {
            fs::rename(path, &target)?;
            fault::fail(Point::SnapshotAsideMoved)?;
            sync_directory_of(path)?;
            return Ok(target);
        }
    }
    unreachable!("some number is free")
}

/// What one pass over a file's bytes tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sums {
    pub(super) bytes: u64,
    pub(super) digest: Digest,
    pub(super) chunk_crc32c: Vec<u32>,
}

/// Reads a file once, for its length, its digest and the CRC32C of each chunk.
pub(super) fn sum_file(file: &File, chunk_bytes: u32) -> io::Result<Sums> {
    let mut sums = Sums { bytes: 0, digest: Digest([0; 32]), chunk_crc32c: Vec::new() };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; chunk_bytes as usize];
    loop {
        let filled = fill(file, sums.bytes, &mut buffer)?;
        if filled == 0 {
            break;
        }
        hasher.update(&buffer[..filled]);
        sums.chunk_crc32c.push(crc32c::crc32c(&buffer[..filled]));
        sums.bytes += filled as u64;
        if filled < buffer.len() {
            break;
        }
    }
    sums.digest = Digest(*hasher.finalize().as_bytes());
    Ok(sums)
}

/// Reads as much as there is from `offset`, up to the buffer's length.
pub(super) fn fill(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match FileExt::read_at(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl PartReader for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

/// Puts every part of a snapshot into an existing directory that is to become live state. SST files
/// are linked, since nobody ever changes them; the few small others are copied, since RocksDB
/// appends to its own. What lay there under these names is replaced. Durable when it returns.
pub fn link_parts(parts: &Path, manifest: &Manifest, target: &Path) -> Result<(), StoreError> {
    let attempt = |name: &str| -> io::Result<()> {
        let (from, to) = (parts.join(name), target.join(name));
        match fs::remove_file(&to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if name.ends_with(".sst") { link_or_copy(&from, &to) } else { copy(&from, &to) }?;
        fault::fail(Point::PreparePartLinked)
    };
    for part in &manifest.parts {
        attempt(&part.name).map_err(|cause| {
            let attempted = format!("linking {} into {}", part.name, target.display());
            StoreError::io(attempted, cause)
        })?;
    }
    let sync = || -> io::Result<()> {
        // A linked SST was synced where it came from.
        let copied: Vec<&str> = manifest
            .parts
            .iter()
            .map(|part| part.name.as_str())
            .filter(|name| !name.ends_with(".sst"))
            .collect();
        sync_files(target, &copied)?;
        sync_directory(target)?;
        sync_directory_of(target)?;
        fault::fail(Point::PrepareLinked)
    };
    sync().map_err(|cause| StoreError::io(format!("syncing {}", target.display()), cause))
}

/// Links a file; where the file system cannot, copies and syncs it.
pub(super) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(_) => {
            copy(from, to)?;
            open_part_file(to)?.sync_all()
        }
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = open_part_file(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).open(to)?;
    io::copy(&mut source, &mut target).map(|_| ())
}
