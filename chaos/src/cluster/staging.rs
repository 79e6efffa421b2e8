//! The staging area of a machine: what is pulled, in a page cache over what is synced.
//!
//! Answers the receiver's disk operations as `snapshot_store/` and `node/bulk_disk.rs` do. A crash
//! keeps the page cache (a kill) or loses any unsynced blocks (loss of power).

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use ratoon::manifest::Manifest;
use ratoon::transfer::receiver::{
    DiskOperation, DiskResult, Finding, Found, Origin, PartCheck, RecordedPart, StagedPrefix,
};
use ratoon::types::{ChunkSet, Digest, PullRecord, SnapshotId, TransferStatus};

use super::machine::{Disk, Stored};
use crate::random::Random;

/// What is lost at once when the power fails, bytes.
const BLOCK_BYTES: usize = 64;

/// See the module.
#[derive(Default)]
pub struct Staging {
    pulls: BTreeMap<SnapshotId, Pull>,
    /// How the last pull ended.
    pub last: Option<TransferStatus>,
}

/// One staged snapshot.
struct Pull {
    encoded: Bytes,
    manifest: Arc<Manifest>,
    record: Option<PullRecord>,
    parts: Vec<Part>,
    /// All parts lie under their final name.
    is_durable: bool,
}

/// A file: as it is read now, and as a loss of power leaves it at worst.
#[derive(Clone, Default)]
struct Part {
    written: Vec<u8>,
    synced: Vec<u8>,
}

impl Staging {
    /// What there is to go on with: a durable one first, then the fullest.
    pub fn found(&self) -> Option<Found> {
        let bytes = |pull: &Pull| pull.parts.iter().map(|part| part.written.len()).sum::<usize>();
        let found = self.pulls.values().filter(|pull| pull.record.is_some());
        let best = found.max_by_key(|pull| (pull.is_durable, bytes(pull)))?;
        Some(Found {
            record: best.record.clone()?,
            manifest: Some(best.encoded.clone()),
            durable: best.is_durable,
        })
    }

    /// Whether nothing is staged.
    pub fn is_empty(&self) -> bool {
        self.pulls.is_empty()
    }

    /// The manifest of a durable snapshot, after every byte of it is compared with the original.
    pub fn durable(&self, id: SnapshotId, original: &Stored) -> Result<Arc<Manifest>> {
        let pull = self.pulls.get(&id).filter(|pull| pull.is_durable);
        let pull = pull.context("it is not there")?;
        for (part, content) in pull.parts.iter().zip(&original.parts) {
            ensure!(part.written == content[..], "a durable snapshot holds wrong bytes");
        }
        Ok(pull.manifest.clone())
    }

    /// The process dies; the power may fail with it.
    pub fn crash(&mut self, random: &mut Random) {
        if random.chance(500) {
            return;
        }
        for part in self.pulls.values_mut().flat_map(|pull| &mut pull.parts) {
            if part.written == part.synced {
                continue;
            }
            let mut left = part.synced.clone();
            let length = random.between(0, part.written.len() as u64) as usize;
            left.resize(left.len().max(length), 0);
            for (block, content) in part.written.chunks(BLOCK_BYTES).enumerate() {
                let from = block * BLOCK_BYTES;
                if random.chance(500) && from + content.len() <= left.len() {
                    left[from..from + content.len()].copy_from_slice(content);
                }
            }
            *part = Part { synced: left.clone(), written: left };
        }
    }
}

impl Disk {
    /// Does what the receiver asks for.
    pub fn stage(&mut self, operation: &DiskOperation) -> DiskResult {
        match self.try_stage(operation) {
            Some(result) => result,
            None => DiskResult::Failed { reason: "it was removed".to_owned() },
        }
    }

    fn try_stage(&mut self, operation: &DiskOperation) -> Option<DiskResult> {
        let staging = &mut self.staging;
        match operation {
            DiskOperation::Open { snapshot, encoded, manifest } => {
                let empty = || Pull {
                    encoded: encoded.clone(),
                    manifest: manifest.clone(),
                    record: None,
                    parts: vec![Part::default(); manifest.parts.len()],
                    is_durable: false,
                };
                let pull = staging.pulls.entry(*snapshot).or_insert_with(empty);
                // Durable once, but it could not be used: every part is judged again.
                pull.is_durable = false;
                return Some(DiskResult::Opened { record: pull.record.clone().map(Box::new) });
            }
            DiskOperation::Inspect { snapshot, part, recorded } => {
                return self.inspect(*snapshot, *part, recorded).map(DiskResult::Inspected);
            }
            DiskOperation::CheckSpace { .. } => {}
            DiskOperation::Write { snapshot, part, offset, bytes } => {
                let file = &mut staging.pulls.get_mut(snapshot)?.parts[*part as usize];
                let (from, to) = (*offset as usize, *offset as usize + bytes.len());
                file.written.resize(file.written.len().max(to), 0);
                file.written[from..to].copy_from_slice(bytes);
            }
            DiskOperation::Persist { snapshot, parts, record } => {
                let Some(pull) = staging.pulls.get_mut(snapshot) else {
                    // What was removed meanwhile stays removed.
                    return Some(DiskResult::Done);
                };
                for part in parts {
                    let file = &mut pull.parts[*part as usize];
                    file.synced = file.written.clone();
                }
                pull.record = Some(PullRecord::clone(record));
            }
            DiskOperation::Verify { snapshot, part } => {
                let pull = staging.pulls.get_mut(snapshot)?;
                return Some(DiskResult::Checked(pull.check(*part)));
            }
            DiskOperation::Finish { snapshot, record } => {
                let pull = staging.pulls.get_mut(snapshot)?;
                for file in &mut pull.parts {
                    file.synced = file.written.clone();
                }
                pull.record = Some(PullRecord::clone(record));
                pull.is_durable = true;
            }
            DiskOperation::Remove { snapshot } => {
                staging.pulls.remove(snapshot);
            }
            DiskOperation::RemoveOthers { keep } => {
                staging.pulls.retain(|id, _| Some(id) == keep.as_ref());
            }
            DiskOperation::SaveStatus(status) => {
                staging.last = Some(TransferStatus::clone(status));
            }
        }
        Some(DiskResult::Done)
    }

    fn inspect(&mut self, id: SnapshotId, part: u32, recorded: &RecordedPart) -> Option<Finding> {
        let known = self.staging.pulls.get(&id)?.manifest.parts[part as usize].digest;
        let finding = self.staging.pulls.get_mut(&id)?.inspect(part, recorded);
        if matches!(&finding, Finding::Staged { chunks, .. } if chunks.is_full())
            || matches!(finding, Finding::Verified(_))
        {
            return Some(finding);
        }
        let elsewhere = self.whole_part(id, known);
        let Some((origin, content)) = elsewhere else { return Some(finding) };
        let file = &mut self.staging.pulls.get_mut(&id)?.parts[part as usize];
        *file = Part { written: content.clone(), synced: content };
        Some(Finding::Verified(origin))
    }

    /// A part with this digest that lies somewhere else on this disk.
    fn whole_part(&self, not_in: SnapshotId, digest: Digest) -> Option<(Origin, Vec<u8>)> {
        for (id, pull) in self.staging.pulls.iter().filter(|(id, _)| **id != not_in) {
            debug_assert_ne!(*id, not_in);
            for (known, file) in pull.manifest.parts.iter().zip(&pull.parts) {
                if known.digest == digest && Digest::of(&file.written) == digest {
                    return Some((Origin::OtherPartial, file.written.clone()));
                }
            }
        }
        for stored in self.snapshots.values() {
            let mut parts = stored.manifest.parts.iter().zip(&stored.parts);
            if let Some((_, content)) = parts.find(|(known, _)| known.digest == digest) {
                return Some((Origin::Store, content.to_vec()));
            }
        }
        None
    }
}

impl Pull {
    fn inspect(&mut self, part: u32, recorded: &RecordedPart) -> Finding {
        let known = &self.manifest.parts[part as usize];
        let file = &self.parts[part as usize].written;
        if known.bytes == 0 || (recorded.verified && file.len() as u64 == known.bytes) {
            return Finding::Verified(Origin::Here);
        }
        let mut chunks = ChunkSet::new(self.manifest.chunks(part));
        let mut prefixes = Vec::new();
        for chunk in 0..chunks.len() {
            let (offset, bytes) = self.manifest.chunk_bounds(part, chunk);
            let (from, to) = (offset as usize, offset as usize + bytes as usize);
            let is_synced = recorded.complete
                || recorded.chunks.as_ref().is_some_and(|known| known.contains(chunk));
            let whole = file.get(from..to);
            let is_right =
                |content: &[u8]| crc32c::crc32c(content) == self.manifest.chunk_crc32c(part, chunk);
            if whole.is_some_and(|content| is_synced || is_right(content)) {
                chunks.insert(chunk);
                continue;
            }
            let content = &file[from.min(file.len())..to.min(file.len())];
            let entry = recorded.partial.iter().find(|entry| entry.chunk == chunk);
            let (staged, delivered) = entry.map_or((0, 0), |e| (e.staged, e.delivered));
            let extent = content.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1) as u32;
            let kept = staged.max(extent);
            let kept = if kept >= bytes { 0 } else { kept.min(content.len() as u32) };
            let delivered = delivered.max(extent).min(bytes);
            if delivered > 0 {
                let crc32c = crc32c::crc32c(&content[..kept as usize]);
                prefixes.push(StagedPrefix { chunk, bytes: kept, delivered, crc32c });
            }
        }
        Finding::Staged { chunks, prefixes }
    }

    fn check(&mut self, part: u32) -> PartCheck {
        let known = &self.manifest.parts[part as usize];
        let file = &mut self.parts[part as usize];
        if file.written.len() as u64 != known.bytes {
            *file = Part::default();
            let bad_chunks = (0..self.manifest.chunks(part)).collect();
            return PartCheck { digest: Digest([0; 32]), bad_chunks };
        }
        let chunks = file.written.chunks(self.manifest.chunk_bytes as usize);
        let bad = chunks.map(crc32c::crc32c).zip(&known.chunk_crc32c).zip(0..);
        let bad_chunks = bad.filter(|((found, right), _)| found != *right).map(|(_, n)| n);
        PartCheck { digest: Digest::of(&file.written), bad_chunks: bad_chunks.collect() }
    }
}
