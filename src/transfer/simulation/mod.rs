//! Receiver and source of a pull over a link that cuts and corrupts, on disks that crash, from a seed.
//!
//! Checks after each run that the bytes are equal, that no byte was delivered more often than the
//! bound allows, and, while it runs, that nothing waits for ever.

mod disk;
mod places;
mod source;
mod stories;
mod world;

use bytes::Bytes;

use crate::codec::manifest::encode_manifest;
use crate::limits::CHUNK_BYTES_MIN;
use crate::manifest::{Manifest, Part};
use crate::transfer::timing::Random;
use crate::types::{
    ClusterId, ConfState, Digest, NodeId, SnapshotId, SnapshotReference, SnapshotSource,
};

/// The cluster of all simulated nodes.
pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);

/// A snapshot with its bytes.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) id: SnapshotId,
    pub(super) manifest: Manifest,
    pub(super) encoded: Bytes,
    pub(super) parts: Vec<Bytes>,
}

impl Content {
    /// A snapshot at `index` of these parts.
    pub(super) fn new(index: u64, parts: Vec<Bytes>) -> Self {
        let describe = |(number, bytes): (usize, &Bytes)| Part {
            name: format!("{:06}.sst", number + 10),
            bytes: bytes.len() as u64,
            digest: Digest::of(bytes),
            chunk_crc32c: bytes.chunks(CHUNK_BYTES_MIN as usize).map(crc32c::crc32c).collect(),
        };
        let manifest = Manifest {
            cluster: CLUSTER,
            index,
            term: 2,
            conf_state: ConfState { voters: vec![1], learners: vec![9], ..Default::default() },
            chunk_bytes: CHUNK_BYTES_MIN,
            parts: parts.iter().enumerate().map(describe).collect(),
            created_unix_ms: 1,
        };
        let (id, encoded) = encode_manifest(&manifest).expect("a valid manifest");
        Content { id, manifest, encoded, parts }
    }

    /// Parts of these lengths with bytes from a seed.
    pub(super) fn random(index: u64, lengths: &[usize], seed: u64) -> Self {
        let mut random = Random::new(seed);
        Content::new(index, lengths.iter().map(|bytes| noise(&mut random, *bytes)).collect())
    }

    /// What a leader would offer.
    pub(super) fn reference(&self, nodes: &[u64]) -> SnapshotReference {
        let source = |node: &u64| SnapshotSource {
            node: NodeId(*node),
            bulk_address: format!("node-{node}:1"),
        };
        SnapshotReference {
            id: self.id,
            cluster: CLUSTER,
            total_bytes: self.manifest.total_bytes(),
            parts: self.parts.len() as u32,
            manifest_bytes: self.encoded.len() as u64,
            sources: nodes.iter().map(source).collect(),
        }
    }
}

/// Random bytes without zeros at the end of a chunk, so that lengths show on disk.
pub(super) fn noise(random: &mut Random, bytes: usize) -> Bytes {
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        content.extend_from_slice(&random.next().to_le_bytes());
    }
    content.truncate(bytes);
    Bytes::from(content)
}
