//! The store at `DATA/snapshots/`: one directory a snapshot, `<id>/manifest` and `<id>/parts/`.
//!
//! A directory gets its name, the id, last, by rename. At start everything under another name is
//! either a leftover of this store (removed) or left alone; what is damaged under its name is moved
//! aside to `damaged-<n>-<id>` and never deleted here. Nothing found at start ever blocks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use slog::{Logger, info, warn};

use super::cache::DigestCache;
use super::files::{
    FreeBytes, free_bytes, move_aside, open_part_file, read_bounded, remove_directory, sum_file,
    sync_directory, sync_files, write_atomically,
};
use super::pins::{PinPolicy, Pins, Retained};
use super::{
    PartReader, PartSource, SnapshotMeta, SnapshotStore, StoreError, StoredManifest, VerifyReport,
};
use crate::codec::manifest::{decode_manifest, encode_manifest};
use crate::fault::{self, Point};
use crate::limits::{DISK_RESERVE_BYTES_DEFAULT, MANIFEST_BYTES_MAX};
use crate::manifest::Manifest;
use crate::types::{Digest, NodeId, SnapshotId};

/// File with the encoded manifest.
pub(super) const MANIFEST_FILE: &str = "manifest";
/// Directory with the parts.
pub(super) const PARTS_DIRECTORY: &str = "parts";
/// File with the digests of SST files.
const DIGESTS_FILE: &str = "digests";
/// How a directory begins in which a snapshot is being built.
const BUILDING: &str = "building-";
/// How a directory begins that is being removed.
const REMOVING: &str = "removing-";

/// What an operator may set, and what tests do.
#[derive(Clone)]
pub struct DiskOptions {
    /// How much is kept.
    pub policy: PinPolicy,
    /// Bytes that stay free: no snapshot is built below.
    pub reserve_bytes: u64,
    /// Tells the free bytes of the disk.
    pub free_bytes: FreeBytes,
}

impl Default for DiskOptions {
    fn default() -> Self {
        DiskOptions {
            policy: PinPolicy::default(),
            reserve_bytes: DISK_RESERVE_BYTES_DEFAULT,
            free_bytes: Arc::new(free_bytes),
        }
    }
}

/// The store on disk. Clone the `Arc` it lives in.
pub struct DiskSnapshotStore {
    root: PathBuf,
    options: DiskOptions,
    digests: DigestCache,
    logger: Logger,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    stored: BTreeMap<SnapshotId, StoredManifest>,
    by_digest: BTreeSet<(Digest, SnapshotId, u32)>,
    pins: Pins,
    builds: u64,
}

impl DiskSnapshotStore {
    /// Opens the store, making its directory if need be.
    pub fn open(root: &Path, options: DiskOptions, logger: Logger) -> Result<Self, StoreError> {
        let failed = |cause| StoreError::io(format!("opening {}", root.display()), cause);
        fs::create_dir_all(root).map_err(failed)?;
        let store = DiskSnapshotStore {
            root: root.to_owned(),
            options,
            digests: DigestCache::open(&root.join(DIGESTS_FILE)),
            logger,
            inner: Mutex::new(Inner::default()),
        };
        for entry in fs::read_dir(root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            store.take_in(&name);
        }
        Ok(store)
    }

    /// A directory that does not exist yet, for a checkpoint that `save` shall take over. Fails when
    /// the disk is down to its reserve.
    pub fn building_directory(&self) -> Result<PathBuf, StoreError> {
        let free = (self.options.free_bytes)(&self.root)
            .map_err(|cause| StoreError::io("asking for free space", cause))?;
        if free < self.options.reserve_bytes {
            return Err(StoreError::DiskFull { needed: self.options.reserve_bytes, free });
        }
        let mut inner = self.lock();
        inner.builds += 1;
        let path = self.root.join(format!("{BUILDING}{}", inner.builds));
        drop(inner);
        remove_directory(&path)?;
        Ok(path)
    }

    /// Removes what a build that failed has left; the next start would, too.
    pub fn remove_building(&self, directory: &Path) {
        if let Err(error) = remove_directory(directory) {
            warn!(self.logger, "a build's leftovers stay"; "error" => %error);
        }
    }

    /// The digests of SST files, for `build_manifest`.
    pub fn digests(&self) -> &DigestCache {
        &self.digests
    }

    /// The directory of a snapshot's parts.
    pub fn parts_directory(&self, id: SnapshotId) -> Result<PathBuf, StoreError> {
        self.manifest(id)?;
        Ok(self.directory(id).join(PARTS_DIRECTORY))
    }

    fn directory(&self, id: SnapshotId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// Takes one entry of the root in at start, or deals with it.
    fn take_in(&self, name: &str) {
        let path = self.root.join(name);
        if name.starts_with(BUILDING) || name.starts_with(REMOVING) {
            // Never had a name of its own, or had lost it: nobody can refer to it.
            info!(self.logger, "removing a leftover of the snapshot store"; "name" => name);
            if let Err(error) = remove_directory(&path) {
                warn!(self.logger, "a leftover stays"; "name" => name, "error" => %error);
            }
            return;
        }
        let Ok(id) = name.parse::<SnapshotId>() else { return };
        match load(&path, id) {
            Ok(stored) => self.lock().insert(id, stored),
            Err(problem) => {
                warn!(self.logger, "a stored snapshot cannot be used and is moved aside";
                    "snapshot" => %id, "problem" => &problem);
                if let Err(error) = move_aside(&path) {
                    // It stays where it is and is not served; the next start tries again.
                    warn!(self.logger, "it cannot be moved"; "snapshot" => %id, "error" => %error);
                }
            }
        }
    }

    fn place(&self, directory: &Path, manifest: &Manifest) -> Result<SnapshotId, StoreError> {
        let (id, encoded) = encode_manifest(manifest)?;
        if self.lock().stored.contains_key(&id) {
            remove_directory(directory)?;
            return Ok(id);
        }
        let frame = {
            let mut inner = self.lock();
            inner.builds += 1;
            self.root.join(format!("{BUILDING}{}", inner.builds))
        };
        remove_directory(&frame)?;
        let placed = self.publish(&frame, directory, manifest, (id, &encoded));
        if placed.is_err() {
            self.remove_building(&frame);
        }
        placed?;
        self.lock().insert(id, StoredManifest { manifest: Arc::new(manifest.clone()), encoded });
        Ok(id)
    }

    fn publish(
        &self,
        frame: &Path,
        directory: &Path,
        manifest: &Manifest,
        (id, encoded): (SnapshotId, &[u8]),
    ) -> Result<(), StoreError> {
        let parts = frame.join(PARTS_DIRECTORY);
        let attempt = || -> std::io::Result<()> {
            fs::create_dir(frame)?;
            fault::fail(Point::SnapshotFrameMade)?;
            fs::rename(directory, &parts)?;
            fault::fail(Point::SnapshotPartsMoved)?;
            remove_strangers(&parts, manifest)?;
            let names: Vec<&str> = manifest.parts.iter().map(|part| part.name.as_str()).collect();
            sync_files(&parts, &names)?;
            sync_directory(&parts)?;
            fault::fail(Point::SnapshotPartsSynced)
        };
        attempt().map_err(|cause| StoreError::io("saving a snapshot", cause))?;
        let manifest = frame.join(MANIFEST_FILE);
        write_atomically(&manifest, encoded, Point::SnapshotManifestStaged)?;
        let rename = || -> std::io::Result<()> {
            fault::fail(Point::SnapshotManifestWritten)?;
            fs::rename(frame, self.directory(id))?;
            fault::fail(Point::SnapshotPublished)?;
            sync_directory(&self.root)
        };
        rename().map_err(|cause| StoreError::io("publishing a snapshot", cause))
    }

    /// Takes the name away first, so that a crash leaves no half of a snapshot under it.
    fn delete(&self, id: SnapshotId) -> Result<(), StoreError> {
        let doomed = self.root.join(format!("{REMOVING}{id}"));
        remove_directory(&doomed)?;
        fs::rename(self.directory(id), &doomed)
            .map_err(|cause| StoreError::io(format!("removing snapshot {id}"), cause))?;
        self.lock().forget(id);
        fault::point(Point::SnapshotRemovalRenamed);
        remove_directory(&doomed)?;
        fault::point(Point::SnapshotRemovalDone);
        Ok(())
    }

    /// Finds the files of a damaged snapshot that rotted: the live state may share them.
    fn note_rotten(&self, id: SnapshotId, manifest: &Manifest) {
        let parts = self.directory(id).join(PARTS_DIRECTORY);
        for part in &manifest.parts {
            // What cannot be read says so by itself when it is to be linked or summed.
            let Ok(file) = open_part_file(&parts.join(&part.name)) else { continue };
            let (Ok(sums), Ok(metadata)) = (sum_file(&file, manifest.chunk_bytes), file.metadata())
            else {
                continue;
            };
            if compare(part, &sums).is_some() {
                self.digests.note_rotten(&metadata);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with the store in hand")
    }
}

impl SnapshotStore for DiskSnapshotStore {
    fn save(
        &self,
        directory: &Path,
        manifest: &Manifest,
        now_ms: u64,
    ) -> Result<SnapshotMeta, StoreError> {
        let id = self.place(directory, manifest)?;
        if let Err(error) = self.digests.save() {
            // Costs the next start time, nothing else.
            warn!(self.logger, "the digests of SST files were not saved"; "error" => %error);
        }
        self.retain(now_ms);
        self.metadata(id).ok_or(StoreError::Unknown(id))
    }

    fn list(&self) -> Vec<SnapshotMeta> {
        let inner = self.lock();
        let mut list: Vec<SnapshotMeta> =
            inner.stored.keys().filter_map(|id| inner.metadata(*id)).collect();
        list.sort_by_key(|meta| (std::cmp::Reverse((meta.index, meta.created_unix_ms)), meta.id));
        list
    }

    fn metadata(&self, id: SnapshotId) -> Option<SnapshotMeta> {
        self.lock().metadata(id)
    }

    fn manifest(&self, id: SnapshotId) -> Result<StoredManifest, StoreError> {
        self.lock().stored.get(&id).cloned().ok_or(StoreError::Unknown(id))
    }

    fn open_part(&self, id: SnapshotId, part: u32) -> Result<Arc<dyn PartReader>, StoreError> {
        let stored = self.manifest(id)?;
        let name = match stored.manifest.parts.get(part as usize) {
            Some(part) => &part.name,
            None => return Err(StoreError::Strange(format!("part {part}"))),
        };
        let path = self.directory(id).join(PARTS_DIRECTORY).join(name);
        let file = open_part_file(&path)
            .map_err(|cause| StoreError::io(format!("opening part {name} of {id}"), cause))?;
        Ok(Arc::new(file))
    }

    fn find_part(&self, digest: Digest, bytes: u64) -> Option<PartSource> {
        let inner = self.lock();
        let from = (digest, Digest([0; 32]), 0);
        let (found, id, part) = inner.by_digest.range(from..).next()?;
        let part = &inner.stored.get(id)?.manifest.parts[*part as usize];
        (*found == digest && part.bytes == bytes)
            .then(|| PartSource::File(self.directory(*id).join(PARTS_DIRECTORY).join(&part.name)))
    }

    fn pin(&self, id: SnapshotId, receiver: NodeId, now_ms: u64) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if !inner.stored.contains_key(&id) {
            return Err(StoreError::Unknown(id));
        }
        inner.pins.pin(id, receiver, now_ms);
        Ok(())
    }

    fn unpin(&self, receiver: NodeId) {
        self.lock().pins.unpin(receiver);
    }

    fn retain(&self, now_ms: u64) -> Retained {
        let retained = self.lock().retain(&self.options.policy, now_ms);
        for (receiver, snapshot) in &retained.broken {
            warn!(self.logger, "a pin is over its budget and is broken";
                "receiver" => receiver.0, "snapshot" => %snapshot);
        }
        for id in &retained.removed {
            if let Err(error) = self.delete(*id) {
                // It is tried again with the next snapshot.
                warn!(self.logger, "an old snapshot stays"; "snapshot" => %id, "error" => %error);
            }
        }
        retained
    }

    fn remove(&self, id: SnapshotId) -> Result<(), StoreError> {
        self.manifest(id)?;
        self.delete(id)
    }

    fn verify(&self, id: SnapshotId) -> Result<VerifyReport, StoreError> {
        let manifest = self.manifest(id)?.manifest;
        let parts = self.directory(id).join(PARTS_DIRECTORY);
        let mut report = VerifyReport::default();
        for part in &manifest.parts {
            let sums = open_part_file(&parts.join(&part.name))
                .and_then(|file| sum_file(&file, manifest.chunk_bytes));
            match sums {
                Ok(sums) => {
                    report.bytes += sums.bytes;
                    report.problems.extend(compare(part, &sums));
                }
                Err(error) => report.problems.push(format!("part {}: {error}", part.name)),
            }
        }
        Ok(report)
    }

    fn set_aside(&self, id: SnapshotId, reason: &str) -> Result<(), StoreError> {
        let manifest = self.manifest(id)?.manifest;
        self.note_rotten(id, &manifest);
        let place = move_aside(&self.directory(id))
            .map_err(|cause| StoreError::io(format!("moving snapshot {id} aside"), cause))?;
        self.lock().forget(id);
        warn!(self.logger, "a damaged snapshot is moved aside";
            "snapshot" => %id, "reason" => reason, "to" => %place.display());
        Ok(())
    }
}

impl Inner {
    fn insert(&mut self, id: SnapshotId, stored: StoredManifest) {
        for (position, part) in (0..).zip(&stored.manifest.parts) {
            self.by_digest.insert((part.digest, id, position));
        }
        self.stored.insert(id, stored);
    }

    fn forget(&mut self, id: SnapshotId) {
        if let Some(stored) = self.stored.remove(&id) {
            for (position, part) in (0..).zip(&stored.manifest.parts) {
                self.by_digest.remove(&(part.digest, id, position));
            }
        }
        self.pins.forget(id);
    }

    fn metadata(&self, id: SnapshotId) -> Option<SnapshotMeta> {
        let stored = self.stored.get(&id)?;
        Some(describe(id, stored, self.pins.receivers_of(id)))
    }

    fn retain(&mut self, policy: &PinPolicy, now_ms: u64) -> Retained {
        // Of two at one index the one built last is the newer.
        let mut newest_first: Vec<(&SnapshotId, &StoredManifest)> = self.stored.iter().collect();
        newest_first.sort_by_key(|(_, stored)| {
            std::cmp::Reverse((stored.manifest.index, stored.manifest.created_unix_ms))
        });
        let stored: Vec<_> = newest_first
            .into_iter()
            .map(|(id, stored)| (*id, stored.manifest.index, stored.manifest.total_bytes()))
            .collect();
        self.pins.retain(policy, &stored, now_ms)
    }
}

pub(super) fn describe(
    id: SnapshotId,
    stored: &StoredManifest,
    pinned_for: Vec<NodeId>,
) -> SnapshotMeta {
    let manifest = &stored.manifest;
    SnapshotMeta {
        id,
        index: manifest.index,
        term: manifest.term,
        bytes: manifest.total_bytes(),
        parts: manifest.parts.len() as u32,
        manifest_bytes: stored.encoded.len() as u64,
        created_unix_ms: manifest.created_unix_ms,
        pinned_for,
    }
}

/// What is wrong with a part, given what it reads as.
pub(super) fn compare(part: &crate::manifest::Part, sums: &super::files::Sums) -> Option<String> {
    if sums.digest == part.digest && sums.bytes == part.bytes {
        return None;
    }
    let pairs = sums.chunk_crc32c.iter().zip(&part.chunk_crc32c);
    let bad: Vec<String> = pairs
        .enumerate()
        .filter(|(_, (found, expected))| found != expected)
        .take(8)
        .map(|(chunk, _)| chunk.to_string())
        .collect();
    let (name, found, expected) = (&part.name, sums.bytes, part.bytes);
    Some(if found != expected {
        format!("part {name} has {found} bytes instead of {expected}")
    } else {
        format!("part {name} does not have its digest; bad chunks: {}", bad.join(", "))
    })
}

/// Reads a snapshot's manifest and checks that its parts are there, without reading them.
fn load(path: &Path, id: SnapshotId) -> Result<StoredManifest, String> {
    let encoded = read_bounded(&path.join(MANIFEST_FILE), MANIFEST_BYTES_MAX as u64)
        .map_err(|error| format!("its manifest cannot be read: {error}"))?;
    let manifest = decode_manifest(id, &encoded).map_err(|error| error.to_string())?;
    check_lengths(&path.join(PARTS_DIRECTORY), &manifest)?;
    Ok(StoredManifest { manifest: Arc::new(manifest), encoded: encoded.into() })
}

/// Checks that every part is a file of its length.
pub(super) fn check_lengths(parts: &Path, manifest: &Manifest) -> Result<(), String> {
    for part in &manifest.parts {
        let metadata = fs::symlink_metadata(parts.join(&part.name))
            .map_err(|error| format!("part {}: {error}", part.name))?;
        if !metadata.is_file() || metadata.len() != part.bytes {
            let (name, found, expected) = (&part.name, metadata.len(), part.bytes);
            return Err(format!("part {name} has {found} bytes instead of {expected}"));
        }
    }
    Ok(())
}

fn remove_strangers(parts: &Path, manifest: &Manifest) -> std::io::Result<()> {
    let names: BTreeSet<&str> = manifest.parts.iter().map(|part| part.name.as_str()).collect();
    for entry in fs::read_dir(parts)? {
        let entry = entry?;
        if !names.contains(entry.file_name().to_string_lossy().as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
