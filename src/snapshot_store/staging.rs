//! The staging area at `DATA/incoming/`: snapshots being pulled, and how the last pull ended.
//!
//! `<id>/manifest`, `<id>/record`, and the parts in `<id>/partial/`, which becomes `<id>/parts/` by
//! rename once everything is verified and synced: that name alone says durable. The record never
//! claims a byte that was not synced before it. Nothing here talks to a source or decides anything.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rustix::fs::OFlags;
use slog::{Logger, warn};

use super::StoreError;
use super::disk::{MANIFEST_FILE, PARTS_DIRECTORY, check_lengths};
use super::files::{
    FreeBytes, free_bytes, link_parts, open_part_file, read_bounded, remove_directory, sum_file,
    sync_directory, sync_files, write_atomically,
};
use crate::codec::manifest::decode_manifest;
use crate::codec::pull_record::{
    decode_last_status, decode_pull_record, encode_last_status, encode_pull_record,
};
use crate::fault::{self, Point};
use crate::limits::{
    DISK_RESERVE_BYTES_DEFAULT, MANIFEST_BYTES_MAX, MIB, PULL_RECORD_BYTES_MAX,
    STAGED_FILES_OPEN_MAX,
};
use crate::manifest::Manifest;
use crate::transfer::receiver::Found;
use crate::types::{Digest, PullRecord, SnapshotId, TransferStatus};

/// Directory of the parts while they are being pulled.
pub(super) const PARTIAL_DIRECTORY: &str = "partial";
/// File with the record of a pull.
const RECORD_FILE: &str = "record";
/// File that says how the last pull ended.
const STATUS_FILE: &str = "last-status";
/// Free space is asked for again after so many written bytes.
const SPACE_CHECK_BYTES: u64 = 16 * MIB as u64;

/// What an operator may set, and what tests do.
#[derive(Clone)]
pub struct StagingOptions {
    /// Bytes that stay free on the disk.
    pub reserve_bytes: u64,
    /// Tells the free bytes of the disk.
    pub free_bytes: FreeBytes,
}

impl Default for StagingOptions {
    fn default() -> Self {
        StagingOptions {
            reserve_bytes: DISK_RESERVE_BYTES_DEFAULT,
            free_bytes: Arc::new(free_bytes),
        }
    }
}

/// The staging area.
#[derive(Clone)]
pub struct Staging {
    root: PathBuf,
    options: StagingOptions,
    logger: Logger,
}

/// One staged snapshot, open.
pub struct StagedPull {
    pub(super) id: SnapshotId,
    pub(super) manifest: Arc<Manifest>,
    directory: PathBuf,
    options: StagingOptions,
    files: Mutex<OpenFiles>,
    /// Names were made in the directory of parts since it was synced.
    has_new_names: AtomicBool,
    /// Bytes that may be written before free space is asked for.
    allowance: AtomicU64,
    /// It was removed: nothing may be written any more. Held while the record is replaced.
    removed: Mutex<bool>,
}

#[derive(Default)]
struct OpenFiles {
    by_part: BTreeMap<u32, Arc<File>>,
}

impl Staging {
    /// Opens the area, making its directory if need be.
    pub fn open(root: &Path, options: StagingOptions, logger: Logger) -> Result<Self, StoreError> {
        fs::create_dir_all(root)
            .map_err(|cause| StoreError::io(format!("opening {}", root.display()), cause))?;
        Ok(Staging { root: root.to_owned(), options, logger })
    }

    /// What lies here to go on with: durable ones first, then those with the most staged bytes.
    pub fn found(&self) -> Vec<Found> {
        let mut found: Vec<(bool, u64, Found)> =
            self.ids().into_iter().filter_map(|id| self.find(id)).collect();
        found.sort_by_key(|(durable, bytes, _)| std::cmp::Reverse((*durable, *bytes)));
        found.into_iter().map(|(_, _, found)| found).collect()
    }

    fn find(&self, id: SnapshotId) -> Option<(bool, u64, Found)> {
        let directory = self.directory(id);
        let record = match read_record(&directory) {
            Ok(Some(record)) => record,
            Ok(None) => return None,
            Err(problem) => {
                // Without it nobody knows the source. The bytes stay: a new offer finds them.
                warn!(self.logger, "the record of a staged snapshot cannot be used";
                    "snapshot" => %id, "problem" => problem);
                return None;
            }
        };
        let encoded = read_bounded(&directory.join(MANIFEST_FILE), MANIFEST_BYTES_MAX as u64);
        let manifest = encoded.as_ref().ok().and_then(|bytes| decode_manifest(id, bytes).ok());
        let parts = directory.join(PARTS_DIRECTORY);
        let durable = manifest.as_ref().is_some_and(|m| check_parts(&parts, m));
        if record.reference.id != id {
            return None;
        }
        // Where it matters only which of several is fuller, the record's word is good enough.
        let staged = record.counters.received.saturating_sub(record.counters.resent);
        let manifest = encoded.ok().map(Bytes::from).filter(|_| manifest.is_some());
        Some((durable, staged, Found { record, manifest, durable }))
    }

    /// How the last pull ended, if that was written down and can be read.
    pub fn last_status(&self) -> Option<TransferStatus> {
        let bytes =
            read_bounded(&self.root.join(STATUS_FILE), PULL_RECORD_BYTES_MAX as u64).ok()?;
        decode_last_status(&bytes).ok()
    }

    /// Writes down how a pull ended.
    pub fn save_status(&self, status: &TransferStatus) -> Result<(), StoreError> {
        let content = encode_last_status(status);
        write_atomically(&self.root.join(STATUS_FILE), &content, Point::StagingStatusStaged)?;
        fault::point(Point::StagingStatusWritten);
        Ok(())
    }

    /// Refuses if so many bytes do not fit besides the reserve.
    pub fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        self.options.room(&self.root, bytes).map(|_| ())
    }

    /// Makes the directory of a snapshot, or opens the one that is there; answers with its record.
    pub fn begin(
        &self,
        id: SnapshotId,
        encoded: &[u8],
        manifest: Arc<Manifest>,
    ) -> Result<(StagedPull, Option<PullRecord>), StoreError> {
        assert_eq!(Digest::of(encoded), id, "a manifest is staged under its own digest");
        self.check_space(encoded.len() as u64)?;
        let directory = self.directory(id);
        let partial = directory.join(PARTIAL_DIRECTORY);
        let attempt = || -> io::Result<()> {
            fs::create_dir_all(&directory)?;
            let done = directory.join(PARTS_DIRECTORY);
            if fs::symlink_metadata(&done).is_ok() {
                // Durable once, but it could not be used: every part is judged again.
                fs::rename(&done, &partial)?;
                fault::fail(Point::StagingReopened)?;
            }
            fs::create_dir_all(&partial)?;
            sync_directory(&directory)?;
            sync_directory(&self.root)?;
            fault::fail(Point::StagingOpened)
        };
        let failed = |cause| StoreError::io(format!("making {}", directory.display()), cause);
        attempt().map_err(failed)?;
        let path = directory.join(MANIFEST_FILE);
        write_atomically(&path, encoded, Point::StagingManifestStaged)?;
        fault::point(Point::StagingManifestWritten);
        let record = read_record(&directory).unwrap_or_else(|problem| {
            warn!(self.logger, "a staged snapshot is judged without its record";
                "snapshot" => %id, "problem" => problem);
            None
        });
        Ok((self.staged(id, manifest), record))
    }

    fn staged(&self, id: SnapshotId, manifest: Arc<Manifest>) -> StagedPull {
        StagedPull {
            id,
            manifest,
            directory: self.directory(id),
            options: self.options.clone(),
            files: Mutex::new(OpenFiles::default()),
            has_new_names: AtomicBool::new(false),
            allowance: AtomicU64::new(0),
            removed: Mutex::new(false),
        }
    }

    /// The directory of a durable snapshot's parts.
    pub fn durable_parts(&self, id: SnapshotId) -> PathBuf {
        self.directory(id).join(PARTS_DIRECTORY)
    }

    /// Puts a durable snapshot's parts into the directory of the next generation; durable itself
    /// when it returns. See `link_parts`.
    pub fn link_into(
        &self,
        id: SnapshotId,
        manifest: &Manifest,
        generation: &Path,
    ) -> Result<(), StoreError> {
        link_parts(&self.durable_parts(id), manifest, generation)
    }

    /// Removes a staged snapshot.
    pub fn remove(&self, id: SnapshotId) -> Result<(), StoreError> {
        remove_staged(&self.directory(id))
    }

    /// Removes every staged snapshot, or all but one.
    pub fn remove_others(&self, keep: Option<SnapshotId>) -> Result<(), StoreError> {
        self.ids().into_iter().filter(|id| Some(*id) != keep).try_for_each(|id| self.remove(id))
    }

    /// Files of other staged snapshots, by the digest and length they should have. Their bytes are
    /// not checked, and they may be shorter: those of full length are preferred.
    pub fn parts_of_others(&self, not_in: SnapshotId) -> BTreeMap<(Digest, u64), PathBuf> {
        let mut found = BTreeMap::new();
        for id in self.ids().into_iter().filter(|id| *id != not_in) {
            let directory = self.directory(id);
            let encoded = read_bounded(&directory.join(MANIFEST_FILE), MANIFEST_BYTES_MAX as u64);
            let Some(manifest) = encoded.ok().and_then(|bytes| decode_manifest(id, &bytes).ok())
            else {
                continue;
            };
            for parts in [PARTS_DIRECTORY, PARTIAL_DIRECTORY].map(|name| directory.join(name)) {
                for part in &manifest.parts {
                    let path = parts.join(&part.name);
                    let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                    let key = (part.digest, part.bytes);
                    if metadata.len() == part.bytes || !found.contains_key(&key) {
                        found.insert(key, path);
                    }
                }
            }
        }
        found
    }

    fn directory(&self, id: SnapshotId) -> PathBuf {
        self.root.join(id.to_string())
    }

    fn ids(&self) -> Vec<SnapshotId> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let names = entries.filter_map(Result::ok).map(|entry| entry.file_name());
        let mut ids: Vec<SnapshotId> =
            names.filter_map(|name| name.to_string_lossy().parse().ok()).collect();
        ids.sort_unstable();
        ids
    }
}

impl StagingOptions {
    /// Bytes free besides the reserve, if at least `needed`.
    fn room(&self, path: &Path, needed: u64) -> Result<u64, StoreError> {
        let free = (self.free_bytes)(path)
            .map_err(|cause| StoreError::io("asking for free space", cause))?
            .saturating_sub(self.reserve_bytes);
        if free < needed {
            return Err(StoreError::DiskFull { needed, free });
        }
        Ok(free)
    }
}

/// Whether the parts of a durable snapshot still have their digests. Reads them all: nothing looks
/// at them again before they become live state. If they do not, each part is judged anew.
fn check_parts(parts: &Path, manifest: &Manifest) -> bool {
    check_lengths(parts, manifest).is_ok()
        && manifest.parts.iter().all(|part| {
            let sums = open_part_file(&parts.join(&part.name))
                .and_then(|file| sum_file(&file, manifest.chunk_bytes));
            sums.is_ok_and(|sums| sums.digest == part.digest)
        })
}

fn remove_staged(directory: &Path) -> Result<(), StoreError> {
    fault::point(Point::StagingRemovalBegun);
    remove_directory(directory)?;
    fault::point(Point::StagingRemovalDone);
    Ok(())
}

fn read_record(directory: &Path) -> Result<Option<PullRecord>, String> {
    match read_bounded(&directory.join(RECORD_FILE), PULL_RECORD_BYTES_MAX as u64) {
        Ok(bytes) => decode_pull_record(&bytes).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

impl StagedPull {
    /// Writes bytes of a part in place. A file that shares its inode with another snapshot is
    /// replaced first: what is staged is never written into what is stored.
    pub fn write(&self, part: u32, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let known = &self.manifest.parts[part as usize];
        assert!(offset + bytes.len() as u64 <= known.bytes, "a write past part {}", known.name);
        self.take_room(bytes.len() as u64)?;
        let attempt = || {
            fault::fail(Point::StagingWriteBegun)?;
            self.file(part)?.write_all_at(bytes, offset)
        };
        attempt().map_err(|cause| {
            StoreError::io(format!("writing part {} of {}", known.name, self.id), cause)
        })?;
        fault::point(Point::StagingWriteDone);
        Ok(())
    }

    /// Digest and length that a part should have.
    pub fn identity(&self, part: u32) -> (Digest, u64) {
        let part = &self.manifest.parts[part as usize];
        (part.digest, part.bytes)
    }

    fn take_room(&self, bytes: u64) -> Result<(), StoreError> {
        let left = self.allowance.load(Ordering::Relaxed);
        if left >= bytes {
            self.allowance.store(left - bytes, Ordering::Relaxed);
            return Ok(());
        }
        let room = self.options.room(&self.directory, bytes)?;
        self.allowance.store((room - bytes).min(SPACE_CHECK_BYTES), Ordering::Relaxed);
        Ok(())
    }

    /// The open file of a part, for writing.
    fn file(&self, part: u32) -> io::Result<Arc<File>> {
        let mut files = self.files.lock().expect("nobody panics with the files in hand");
        if let Some(file) = files.by_part.get(&part) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(part);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.nlink() > 1 => fs::remove_file(&path)?,
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&path)?;
        self.has_new_names.store(true, Ordering::Relaxed);
        if files.by_part.len() >= STAGED_FILES_OPEN_MAX {
            files.by_part.pop_first();
        }
        let file = Arc::new(file);
        files.by_part.insert(part, Arc::clone(&file));
        Ok(file)
    }

    pub(super) fn path(&self, part: u32) -> PathBuf {
        self.partial().join(&self.manifest.parts[part as usize].name)
    }

    fn partial(&self) -> PathBuf {
        self.directory.join(PARTIAL_DIRECTORY)
    }

    /// Drops the file of a part from disk and from memory.
    pub(super) fn discard(&self, part: u32) -> io::Result<()> {
        let mut files = self.files.lock().expect("nobody panics with the files in hand");
        files.by_part.remove(&part);
        match fs::remove_file(self.path(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn note_new_name(&self) {
        self.has_new_names.store(true, Ordering::Relaxed);
    }

    /// Syncs parts, and only then replaces the record. What was removed meanwhile stays removed.
    pub fn persist(&self, parts: &[u32], record: &PullRecord) -> Result<(), StoreError> {
        let names: Vec<&str> =
            parts.iter().map(|part| self.manifest.parts[*part as usize].name.as_str()).collect();
        let removed = self.lock_removed();
        if *removed {
            return Ok(());
        }
        let partial = self.partial();
        let attempt = || -> io::Result<()> {
            fault::fail(Point::StagingSyncBegun)?;
            sync_files(&partial, &names)?;
            if self.has_new_names.swap(false, Ordering::Relaxed) {
                sync_directory(&partial)?;
            }
            fault::fail(Point::StagingSyncDone)
        };
        attempt().map_err(|cause| StoreError::io(format!("syncing {}", self.id), cause))?;
        let path = self.directory.join(RECORD_FILE);
        write_atomically(&path, &encode_pull_record(record), Point::StagingRecordStaged)?;
        fault::point(Point::StagingRecordWritten);
        Ok(())
    }

    /// Makes everything durable: after this the parts lie in `parts/`.
    pub fn finish(&self, record: &PullRecord) -> Result<(), StoreError> {
        let all: Vec<u32> = (0..self.manifest.parts.len() as u32).collect();
        self.note_new_name();
        self.persist(&all, record)?;
        let publish = || -> io::Result<()> {
            fault::fail(Point::StagingFinishBegun)?;
            fs::rename(self.partial(), self.directory.join(PARTS_DIRECTORY))?;
            fault::fail(Point::StagingPublished)?;
            sync_directory(&self.directory)
        };
        publish().map_err(|cause| StoreError::io(format!("publishing {}", self.id), cause))
    }

    /// Removes all of it. Later calls change nothing.
    pub fn remove(&self) -> Result<(), StoreError> {
        let mut removed = self.lock_removed();
        *removed = true;
        self.files.lock().expect("nobody panics with the files in hand").by_part.clear();
        remove_staged(&self.directory)
    }

    fn lock_removed(&self) -> MutexGuard<'_, bool> {
        self.removed.lock().expect("nobody panics with this in hand")
    }
}
