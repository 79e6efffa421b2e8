//! No byte is sent twice without need: what a receiver gets again of one chunk of one snapshot is at
//! most one chunk a stream for each cut or crash that hit the pull, and what damage or a loss of
//! power took from its disk.
//!
//! It counts what arrives, over all restarts, and never asks the receiver. What a receiver gave up
//! and removed is counted no further: that is told apart, as discarded.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ratoon::types::{NodeId, SnapshotId};

/// Names a chunk: part, and chunk within it.
pub type Place = (u32, u32);

/// See the module.
#[derive(Default)]
pub struct Resent {
    pulls: BTreeMap<(NodeId, SnapshotId), Pull>,
    /// Bytes delivered.
    pub delivered: u64,
    /// Bytes of them that had been delivered before.
    pub repeated: u64,
    /// Bytes that may have been, given the faults.
    pub allowed: u64,
}

#[derive(Default)]
struct Pull {
    /// Of each chunk, how far it was ever delivered from its beginning.
    delivered: BTreeMap<Place, u32>,
    repeated: u64,
    allowed: u64,
}

impl Resent {
    /// Bytes of a chunk reach a receiver, from `start` within the chunk.
    pub fn arrives(
        &mut self,
        node: NodeId,
        id: SnapshotId,
        place: Place,
        start: u32,
        bytes: u32,
    ) -> Result<()> {
        let pull = self.pulls.entry((node, id)).or_default();
        let before = pull.delivered.entry(place).or_default();
        let end = start + bytes;
        let repeated = u64::from((*before).min(end).saturating_sub(start));
        *before = (*before).max(end);
        pull.repeated += repeated;
        self.repeated += repeated;
        self.delivered += u64::from(bytes);
        ensure!(
            pull.repeated <= pull.allowed,
            "node {node} got {} bytes of snapshot {id} again, last of chunk {place:?}; its faults \
             account for {}",
            pull.repeated,
            pull.allowed
        );
        Ok(())
    }

    /// Something happened that excuses so many bytes.
    pub fn allow(&mut self, node: NodeId, id: SnapshotId, bytes: u64) {
        self.pulls.entry((node, id)).or_default().allowed += bytes;
        self.allowed += bytes;
    }

    /// A node removed what it had staged, or all but one snapshot of it.
    pub fn removed(&mut self, node: NodeId, is_gone: impl Fn(SnapshotId) -> bool) {
        self.pulls.retain(|(of, id), _| *of != node || !is_gone(*id));
    }
}
