//! What survives a power loss and what may not, on a mounted file system. Where none can be mounted
//! these tests say so and pass.
#![allow(clippy::unwrap_used)]

mod child;
mod content;
mod databases;
mod limits;
mod model;
mod names;
mod unsynced;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::PowerFs;

/// Losses of one story, each with a seed of its own.
pub const SEEDS: u64 = 24;

/// A mounted file system in a temporary directory.
pub struct Mounted {
    pub power: PowerFs,
    pub at: PathBuf,
    _directory: TempDir,
}

/// Mounts one, or says why that cannot be done.
pub fn mount() -> Option<Mounted> {
    if let Err(reason) = PowerFs::is_available() {
        println!("skipped: {reason}");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("mount");
    fs::create_dir(&at).unwrap();
    let power = PowerFs::mount(&directory.path().join("backing"), &at).unwrap();
    Some(Mounted { power, at, _directory: directory })
}

impl Mounted {
    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    /// Writes a file, and makes its bytes and its name durable.
    pub fn write_durably(&self, name: &str, bytes: &[u8]) {
        write_synced(&self.path(name), bytes);
        self.sync_root();
    }

    pub fn sync_root(&self) {
        sync(&self.at);
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }
}

/// Syncs a file or a directory.
pub fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Writes a file anew and makes its bytes durable.
pub fn write_synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// Writes into a file that is there, and does not sync.
pub fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Bytes that differ from block to block.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut random = crate::random::Random::new(seed);
    (0..length).map(|_| random.next() as u8).collect()
}
