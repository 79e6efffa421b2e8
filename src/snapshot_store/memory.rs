//! The store in memory: for mode `embedded` and the simulation. Loses everything with its process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::disk::{compare, describe};
use super::files::{Sums, read_bounded, remove_directory};
use super::pins::{PinPolicy, Pins, Retained};
use super::{
    PartReader, PartSource, SnapshotMeta, SnapshotStore, StoreError, StoredManifest, VerifyReport,
};
use crate::codec::manifest::encode_manifest;
use crate::manifest::Manifest;
use crate::types::{Digest, NodeId, SnapshotId};

/// The store in memory.
#[derive(Default)]
pub struct MemorySnapshotStore {
    policy: PinPolicy,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    stored: BTreeMap<SnapshotId, (StoredManifest, Vec<Bytes>)>,
    pins: Pins,
}

impl MemorySnapshotStore {
    /// An empty store.
    pub fn new(policy: PinPolicy) -> Self {
        MemorySnapshotStore { policy, inner: Mutex::new(Inner::default()) }
    }

    /// Stores a snapshot whose parts are in memory already, in the manifest's order.
    pub fn insert(
        &self,
        manifest: &Manifest,
        parts: Vec<Bytes>,
        now_ms: u64,
    ) -> Result<SnapshotMeta, StoreError> {
        let (id, encoded) = encode_manifest(manifest)?;
        for (part, bytes) in manifest.parts.iter().zip(&parts) {
            if let Some(problem) = compare(part, &sum_bytes(bytes, manifest.chunk_bytes)) {
                return Err(StoreError::Damaged { what: format!("snapshot {id}"), problem });
            }
        }
        assert_eq!(parts.len(), manifest.parts.len(), "a part for each of the manifest");
        let stored = StoredManifest { manifest: Arc::new(manifest.clone()), encoded };
        self.lock().stored.insert(id, (stored, parts));
        self.retain(now_ms);
        self.metadata(id).ok_or(StoreError::Unknown(id))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with the store in hand")
    }
}

fn sum_bytes(bytes: &[u8], chunk_bytes: u32) -> Sums {
    Sums {
        bytes: bytes.len() as u64,
        digest: Digest::of(bytes),
        chunk_crc32c: bytes.chunks(chunk_bytes as usize).map(crc32c::crc32c).collect(),
    }
}

impl PartReader for Bytes {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = usize::try_from(offset).ok().and_then(|start| {
            start.checked_add(buffer.len()).filter(|end| *end <= self.len()).map(|end| start..end)
        });
        let range = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(&self[range]);
        Ok(())
    }
}

impl SnapshotStore for MemorySnapshotStore {
    fn save(
        &self,
        directory: &Path,
        manifest: &Manifest,
        now_ms: u64,
    ) -> Result<SnapshotMeta, StoreError> {
        let read = |part: &crate::manifest::Part| {
            let content = read_bounded(&directory.join(&part.name), part.bytes);
            content
                .map(Bytes::from)
                .map_err(|cause| StoreError::io(format!("reading part {}", part.name), cause))
        };
        let parts: Result<Vec<Bytes>, StoreError> = manifest.parts.iter().map(read).collect();
        let meta = self.insert(manifest, parts?, now_ms)?;
        if fs::symlink_metadata(directory).is_ok() {
            remove_directory(directory)?;
        }
        Ok(meta)
    }

    fn list(&self) -> Vec<SnapshotMeta> {
        let ids: Vec<SnapshotId> = self.lock().stored.keys().copied().collect();
        let mut list: Vec<SnapshotMeta> =
            ids.into_iter().filter_map(|id| self.metadata(id)).collect();
        list.sort_by_key(|meta| (std::cmp::Reverse(meta.index), meta.id));
        list
    }

    fn metadata(&self, id: SnapshotId) -> Option<SnapshotMeta> {
        let inner = self.lock();
        let (stored, _) = inner.stored.get(&id)?;
        Some(describe(id, stored, inner.pins.receivers_of(id)))
    }

    fn manifest(&self, id: SnapshotId) -> Result<StoredManifest, StoreError> {
        let inner = self.lock();
        let stored = inner.stored.get(&id).map(|(stored, _)| stored.clone());
        stored.ok_or(StoreError::Unknown(id))
    }

    fn open_part(&self, id: SnapshotId, part: u32) -> Result<Arc<dyn PartReader>, StoreError> {
        let inner = self.lock();
        let (_, parts) = inner.stored.get(&id).ok_or(StoreError::Unknown(id))?;
        let bytes = parts.get(part as usize).cloned();
        let bytes = bytes.ok_or_else(|| StoreError::Strange(format!("part {part}")))?;
        Ok(Arc::new(bytes))
    }

    fn find_part(&self, digest: Digest, bytes: u64) -> Option<PartSource> {
        let inner = self.lock();
        inner.stored.values().find_map(|(stored, parts)| {
            let same = |part: &crate::manifest::Part| part.digest == digest && part.bytes == bytes;
            let position = stored.manifest.parts.iter().position(same)?;
            Some(PartSource::Memory(parts[position].clone()))
        })
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
        let mut inner = self.lock();
        let stored: Vec<_> = inner
            .stored
            .iter()
            .map(|(id, (stored, _))| (*id, stored.manifest.index, stored.manifest.total_bytes()))
            .collect();
        let retained = inner.pins.retain(&self.policy, &stored, now_ms);
        for id in &retained.removed {
            inner.stored.remove(id);
            inner.pins.forget(*id);
        }
        retained
    }

    fn remove(&self, id: SnapshotId) -> Result<(), StoreError> {
        let mut inner = self.lock();
        inner.pins.forget(id);
        inner.stored.remove(&id).map(|_| ()).ok_or(StoreError::Unknown(id))
    }

    fn verify(&self, id: SnapshotId) -> Result<VerifyReport, StoreError> {
        let (stored, parts) =
            self.lock().stored.get(&id).cloned().ok_or(StoreError::Unknown(id))?;
        let chunk_bytes = stored.manifest.chunk_bytes;
        let mut report = VerifyReport::default();
        for (part, bytes) in stored.manifest.parts.iter().zip(&parts) {
            report.bytes += bytes.len() as u64;
            report.problems.extend(compare(part, &sum_bytes(bytes, chunk_bytes)));
        }
        Ok(report)
    }

    fn set_aside(&self, id: SnapshotId, _reason: &str) -> Result<(), StoreError> {
        self.remove(id)
    }
}
