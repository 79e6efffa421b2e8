//! Mode `embedded`: a small snapshot as one piece of bytes, and back through the same staging,
//! verification and finish as a pulled one.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::staging::Staging;
use super::{SnapshotStore, StoreError};
use crate::codec::manifest::decode_manifest;
use crate::limits::EMBEDDED_BYTES_MAX;
use crate::manifest::{Manifest, ManifestError};
use crate::types::{
    ChunkSet, EmbeddedSnapshot, Index, PullCounters, PullRecord, SnapshotId, SnapshotReference,
    TransferState,
};

/// Reads a stored snapshot whole; refuses one that is too large to ride beside MsgSnapshot.
pub fn embed(store: &dyn SnapshotStore, id: SnapshotId) -> Result<EmbeddedSnapshot, StoreError> {
    let stored = store.manifest(id)?;
    let bytes = stored.manifest.total_bytes() + stored.encoded.len() as u64;
    let limit = EMBEDDED_BYTES_MAX as u64;
    if bytes > limit {
        return Err(StoreError::TooLarge { bytes, limit });
    }
    let mut parts = Vec::with_capacity(stored.manifest.parts.len());
    for (position, part) in (0..).zip(&stored.manifest.parts) {
        let mut content = BytesMut::zeroed(part.bytes as usize);
        store
            .open_part(id, position)?
            .read_at(0, &mut content)
            .map_err(|cause| StoreError::io(format!("reading part {}", part.name), cause))?;
        parts.push(content.freeze());
    }
    Ok(EmbeddedSnapshot { manifest: stored.encoded, parts })
}

/// Stages an embedded snapshot, checks every byte of it and makes it durable, as if it had been
/// pulled. Its parts then lie in `Staging::durable_parts`.
pub fn stage_embedded(
    staging: &Staging,
    reference: &SnapshotReference,
    index: Index,
    embedded: &EmbeddedSnapshot,
) -> Result<Arc<Manifest>, StoreError> {
    let id = reference.id;
    let manifest = Arc::new(decode_manifest(id, &embedded.manifest)?);
    check_shape(&manifest, reference, index, embedded)?;
    staging.check_space(manifest.total_bytes())?;
    let (staged, _) = staging.begin(id, &embedded.manifest, Arc::clone(&manifest))?;
    let result = fill_and_check(&staged, &manifest, reference, index, &embedded.parts);
    if result.is_err() {
        staged.remove()?;
    }
    result.map(|()| manifest)
}

fn check_shape(
    manifest: &Manifest,
    reference: &SnapshotReference,
    index: Index,
    embedded: &EmbeddedSnapshot,
) -> Result<(), StoreError> {
    let wrong = |problem: &str| Err(ManifestError::Malformed(problem.to_owned()).into());
    if manifest.index != index || manifest.cluster != reference.cluster {
        return wrong("the manifest is not the one that was offered");
    }
    let lengths_fit = manifest.parts.len() == embedded.parts.len()
        && manifest.parts.iter().zip(&embedded.parts).all(|(p, b)| p.bytes == b.len() as u64);
    if !lengths_fit {
        return wrong("the embedded parts do not have the manifest's lengths");
    }
    Ok(())
}

fn fill_and_check(
    staged: &super::StagedPull,
    manifest: &Manifest,
    reference: &SnapshotReference,
    index: Index,
    parts: &[Bytes],
) -> Result<(), StoreError> {
    for (position, (part, bytes)) in (0..).zip(manifest.parts.iter().zip(parts)) {
        // Writing nothing makes the file of an empty part.
        staged.write(position, 0, bytes)?;
        if staged.check(position)?.digest != part.digest {
            let what = format!("part {} of embedded snapshot {}", part.name, reference.id);
            return Err(StoreError::Damaged { what, problem: "wrong digest".to_owned() });
        }
    }
    let mut all = ChunkSet::new(manifest.parts.len() as u32);
    all.fill();
    staged.finish(&PullRecord {
        reference: reference.clone(),
        index,
        message_bytes: 0,
        counters: PullCounters::default(),
        state: TransferState::Durable,
        finished_unix_ms: 0,
        complete: all.clone(),
        verified: all,
        incomplete: Vec::new(),
        partial: Vec::new(),
    })
}
