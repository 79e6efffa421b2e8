//! Snapshots of a node: building and keeping.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use ratoon::codec::manifest::encode_manifest;
use ratoon::kv::{Family, View};
use ratoon::manifest::{Manifest, Part};
use ratoon::raft::{Input, Offer, SnapshotMeta};
use ratoon::state::{State, content_digest};
use ratoon::types::{Digest, Index, NodeId, Pin, SnapshotId};

use super::World;
use super::machine::Stored;
use crate::settings::BALLAST_BYTES;

impl World {
    pub(super) fn build_snapshot(&mut self, node: NodeId) -> Result<()> {
        let fails = !self.calm && self.random.chance(self.settings.disk.build_failures);
        let (salt, built_us) = (self.random.next(), self.now_us);
        let kept = self.settings.snapshots_kept;
        let (cluster, ballast) = (self.cluster, self.settings.ballast);
        let chunk_bytes = self.settings.chunk_bytes;
        let machine = self.machine_mut(node);
        let live = machine.alive().live.clone().filter(|_| !fails);
        let Some((_, db)) = live else {
            let reason = "the disk failed".to_owned();
            self.report(node, Input::SnapshotFailed { reason });
            return Ok(());
        };
        let checkpoint = db.checkpoint()?;
        let view = checkpoint.view();
        let state = State::load(&*view).context("loading a checkpoint")?;
        let parts = contents_of(&*view, salt, ballast);
        let manifest = Manifest {
            cluster,
            index: state.applied(),
            term: state.applied_term(),
            conf_state: state.conf_state().clone(),
            chunk_bytes,
            parts: (0..).zip(&parts).map(|(at, part)| describe(at, part, chunk_bytes)).collect(),
            created_unix_ms: 0,
        };
        let (id, encoded) = encode_manifest(&manifest)?;
        let meta = SnapshotMeta {
            id,
            index: manifest.index,
            term: manifest.term,
            conf_state: manifest.conf_state.clone(),
        };
        let offer = Offer {
            meta,
            total_bytes: manifest.total_bytes(),
            parts: manifest.parts.len() as u32,
            manifest_bytes: encoded.len() as u64,
        };
        self.checks.built(node, id, offer.meta.index, &content_digest(&*view)?)?;
        let stored = Arc::new(Stored {
            offer: offer.clone(),
            built_us,
            manifest,
            encoded,
            parts,
            checkpoint,
        });
        self.contents.insert(id, stored.clone());
        self.snapshot_bytes_max = self.snapshot_bytes_max.max(stored.offer.total_bytes);
        let machine = self.machine_mut(node);
        machine.disk.snapshots.insert(id, stored);
        machine.retain_snapshots(kept);
        self.figures.snapshots_built += 1;
        self.trace.note(self.now_us, node, "built", [offer.meta.index]);
        self.report(node, Input::SnapshotBuilt(offer));
        Ok(())
    }

    pub(super) fn take_pins(&mut self, node: NodeId, pins: Vec<Pin>) {
        let kept = self.settings.snapshots_kept;
        let machine = self.machine_mut(node);
        machine.alive().pins = pins;
        machine.retain_snapshots(kept);
    }
}

impl super::machine::Machine {
    /// Deletes what is neither pinned nor among the newest.
    fn retain_snapshots(&mut self, kept: usize) {
        let Some(process) = &self.process else { return };
        let pinned = |id: &SnapshotId| {
            process.pins.iter().any(|pin| pin.snapshot.is_some_and(|(pinned, _)| pinned == *id))
        };
        let age = |stored: &Stored| (stored.offer.meta.index, stored.built_us);
        let mut ages: Vec<(Index, u64)> =
            self.disk.snapshots.values().map(|stored| age(stored)).collect();
        ages.sort_unstable();
        let from = ages.len().checked_sub(kept).map_or((0, 0), |skip| ages[skip]);
        self.disk.snapshots.retain(|id, stored| age(stored) >= from || pinned(id));
    }
}

/// Rows of a state as the bytes of files, one a family; equal rows make equal files. The first is
/// salted, because files of two nodes mostly differ though their states are equal.
fn contents_of(view: &dyn View, salt: u64, ballast: bool) -> Vec<Bytes> {
    let mut first = salt.to_be_bytes().to_vec();
    if ballast {
        first.resize(BALLAST_BYTES, salt as u8 | 1);
    }
    let mut contents = vec![Bytes::from(first)];
    for family in Family::ALL {
        let mut content = Vec::new();
        let mut cursor = view.cursor(family);
        cursor.seek(&[]);
        while let Some((key, value)) = cursor.entry() {
            for piece in [key, value] {
                content.extend((piece.len() as u32).to_be_bytes());
                content.extend(piece);
            }
            cursor.next();
        }
        contents.push(Bytes::from(content));
    }
    contents
}

fn describe(at: usize, content: &Bytes, chunk_bytes: u32) -> Part {
    Part {
        name: format!("{at:06}.sst"),
        bytes: content.len() as u64,
        digest: Digest::of(content),
        chunk_crc32c: content.chunks(chunk_bytes as usize).map(crc32c::crc32c).collect(),
    }
}
