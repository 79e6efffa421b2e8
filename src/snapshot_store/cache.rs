//! Digests of SST files that were summed before, so that a new snapshot reads only new files.
//!
//! An SST never changes, but its name is used again in another generation of the state, and may be
//! after a crash in the same one. So an entry is believed only for the same generation, name,
//! length, inode and time of change. Losing the cache costs time and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::StoreError;
use super::files::{Sums, read_bounded, write_atomically};
use crate::codec::digest_cache::{CachedSums, decode_digest_cache, encode_digest_cache};
use crate::fault::{self, Point};
use crate::limits::{MANIFEST_PARTS_MAX, PULL_RECORD_BYTES_MAX};
use crate::types::Digest;

/// What makes a file the one that was summed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct FileIdentity {
    generation: u64,
    bytes: u64,
    inode: u64,
    changed_ns: i128,
}

impl FileIdentity {
    pub(super) fn new(generation: u64, metadata: &Metadata) -> Self {
        let changed_ns =
            i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        FileIdentity { generation, bytes: metadata.len(), inode: metadata.ino(), changed_ns }
    }
}

/// The cache; shared by all builds of one node.
#[derive(Debug)]
pub struct DigestCache {
    path: PathBuf,
    entries: Mutex<BTreeMap<String, CachedSums>>,
    /// Files, of whatever generation, that no longer read as they did when they were summed, since the start.
    rotten: Mutex<BTreeSet<FileIdentity>>,
}

impl DigestCache {
    /// Loads the cache from `path`; a missing or damaged one is an empty one.
    pub fn open(path: &Path) -> Self {
        let content = read_bounded(path, PULL_RECORD_BYTES_MAX as u64).unwrap_or_default();
        let entries = decode_digest_cache(&content).unwrap_or_default();
        let entries = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        let entries = Mutex::new(entries);
        DigestCache { path: path.to_owned(), entries, rotten: Mutex::default() }
    }

    /// Writes the cache, so that the next start finds it.
    pub fn save(&self) -> Result<(), StoreError> {
        let entries: Vec<CachedSums> = self.lock().values().cloned().collect();
        let content = encode_digest_cache(&entries);
        write_atomically(&self.path, &content, Point::SnapshotDigestsStaged)?;
        fault::point(Point::SnapshotDigestsSaved);
        Ok(())
    }

    pub(super) fn get(&self, name: &str, identity: FileIdentity, chunk_bytes: u32) -> Option<Sums> {
        let entries = self.lock();
        let entry = entries.get(name)?;
        let found = FileIdentity {
            generation: entry.generation,
            bytes: entry.bytes,
            inode: entry.inode,
            changed_ns: entry.changed_ns,
        };
        (found == identity && entry.chunk_bytes == chunk_bytes).then(|| Sums {
            bytes: entry.bytes,
            digest: Digest(entry.digest),
            chunk_crc32c: entry.chunk_crc32c.clone(),
        })
    }

    pub(super) fn put(&self, name: &str, identity: FileIdentity, chunk_bytes: u32, sums: &Sums) {
        let entry = CachedSums {
            name: name.to_owned(),
            generation: identity.generation,
            bytes: identity.bytes,
            inode: identity.inode,
            changed_ns: identity.changed_ns,
            chunk_bytes,
            digest: sums.digest.0,
            chunk_crc32c: sums.chunk_crc32c.clone(),
        };
        self.lock().insert(name.to_owned(), entry);
    }

    /// A file has rotted: a checkpoint that links it makes no snapshot. Summing it anew would bless
    /// the rot.
    pub(super) fn note_rotten(&self, metadata: &Metadata) {
        self.lock_rotten().insert(FileIdentity::new(0, metadata));
    }

    pub(super) fn is_rotten(&self, metadata: &Metadata) -> bool {
        self.lock_rotten().contains(&FileIdentity::new(0, metadata))
    }

    fn lock_rotten(&self) -> std::sync::MutexGuard<'_, BTreeSet<FileIdentity>> {
        self.rotten.lock().expect("nobody panics with the cache in hand")
    }

    /// Forgets every file that the newest checkpoint does not hold.
    pub(super) fn keep_only(&self, names: &[&str]) {
        assert!(names.len() <= MANIFEST_PARTS_MAX);
        let names: BTreeSet<&str> = names.iter().copied().collect();
        self.lock().retain(|name, _| names.contains(name.as_str()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, CachedSums>> {
        self.entries.lock().expect("nobody panics with the cache in hand")
    }
}
