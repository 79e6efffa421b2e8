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
use ratoon::types::{
    ChunkSet, Digest, NodeId, PullRecord, SnapshotId, TransferState, TransferStatus,
};

use super::World;
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
    /// Bits were flipped in it: what was verified before may be wrong now.
    has_rotted: bool,
}

/// A file: as it is read now, and as a loss of power leaves it at worst.
#[derive(Clone, Default)]
struct Part {
    written: Vec<u8>,
    synced: Vec<u8>,
    /// It shares its bytes with another file: whoever writes begins it anew.
    is_linked: bool,
}

/// A chunk of a staged snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StagedChunk {
    pub id: SnapshotId,
    pub part: u32,
    pub chunk: u32,
    /// Its length.
    pub bytes: u32,
}

impl Staging {
    /// What there is to go on with: a durable one first, then the fullest. A durable one is read
    /// whole once more: nothing looks at it again before it becomes live state.
    pub fn found(&self) -> Option<Found> {
        let found = self.pulls.values().filter(|pull| pull.record.is_some());
        let best = found.max_by_key(|pull| (pull.is_durable && pull.is_right(), pull.bytes()))?;
        Some(Found {
            record: best.record.clone()?,
            manifest: Some(best.encoded.clone()),
            durable: best.is_durable && best.is_right(),
        })
    }

    /// Whether nothing is staged.
    pub fn is_empty(&self) -> bool {
        self.pulls.is_empty()
    }

    /// Bytes of all that is staged.
    pub fn bytes(&self) -> u64 {
        self.pulls.values().map(Pull::bytes).sum()
    }

    /// Whether a snapshot lies there under its final name.
    pub fn is_staged_durably(&self, id: SnapshotId) -> bool {
        self.pulls.get(&id).is_some_and(|pull| pull.is_durable)
    }

    /// Compares every byte of a durable snapshot with the original. Ok(false): it has rotted.
    pub fn is_durable(&self, id: SnapshotId, original: &Stored) -> Result<bool> {
        let pull = self.pulls.get(&id).filter(|pull| pull.is_durable);
        let pull = pull.context("it is not there")?;
        let mut pairs = pull.parts.iter().zip(&original.parts);
        let is_right = pairs.all(|(part, content)| part.written == content[..]);
        ensure!(is_right || pull.has_rotted, "a durable snapshot holds wrong bytes");
        Ok(is_right)
    }

    /// The process dies, and the power fails with it. Answers which chunks lost something.
    pub fn lose_power(&mut self, random: &mut Random) -> Vec<StagedChunk> {
        let mut torn = Vec::new();
        for (id, pull) in &mut self.pulls {
            for (place, part) in (0..).zip(&mut pull.parts) {
                if part.written == part.synced {
                    continue;
                }
                let before = std::mem::take(&mut part.written);
                let mut left = std::mem::take(&mut part.synced);
                let length = random.between(0, before.len() as u64) as usize;
                left.resize(left.len().max(length), 0);
                for (block, content) in before.chunks(BLOCK_BYTES).enumerate() {
                    let from = block * BLOCK_BYTES;
                    if random.chance(500) && from + content.len() <= left.len() {
                        left[from..from + content.len()].copy_from_slice(content);
                    }
                }
                for chunk in 0..pull.manifest.chunks(place) {
                    let (offset, bytes) = pull.manifest.chunk_bounds(place, chunk);
                    let range = |file: &[u8]| {
                        let end = (offset as usize + bytes as usize).min(file.len());
                        file.get((offset as usize).min(end)..end).map(<[u8]>::to_vec)
                    };
                    if range(&before) != range(&left) {
                        torn.push(StagedChunk { id: *id, part: place, chunk, bytes });
                    }
                }
                *part = Part { synced: left.clone(), written: left, is_linked: part.is_linked };
            }
        }
        torn
    }

    /// A bit flips in some staged file, in the page cache and below.
    pub fn rot(&mut self, random: &mut Random) -> Option<StagedChunk> {
        let ids: Vec<SnapshotId> = self.pulls.keys().copied().collect();
        let id = *(!ids.is_empty()).then(|| random.pick(&ids))?;
        let pull = self.pulls.get_mut(&id)?;
        let full: Vec<usize> =
            (0..pull.parts.len()).filter(|part| !pull.parts[*part].written.is_empty()).collect();
        let place = *(!full.is_empty()).then(|| random.pick(&full))?;
        let part = &mut pull.parts[place];
        let at = random.below(part.written.len() as u64) as usize;
        let mask = 1 << random.below(8);
        part.written[at] ^= mask;
        if let Some(byte) = part.synced.get_mut(at) {
            *byte ^= mask;
        }
        pull.has_rotted = true;
        let (part, chunk) = (place as u32, pull.manifest.chunk_at(at as u64));
        let (_, bytes) = pull.manifest.chunk_bounds(part, chunk);
        Some(StagedChunk { id, part, chunk, bytes })
    }
}

impl World {
    /// Counts what came of an operation on staged parts, and tells the checks what it removed.
    pub(super) fn note_staging(
        &mut self,
        node: NodeId,
        operation: &DiskOperation,
        result: &DiskResult,
    ) {
        let resent = &mut self.checks.resent;
        match operation {
            DiskOperation::Remove { snapshot } => resent.removed(node, |id| id == *snapshot),
            DiskOperation::RemoveOthers { keep } => resent.removed(node, |id| Some(id) != *keep),
            DiskOperation::Persist { record, .. } if record.state == TransferState::Superseded => {
                self.figures.pulls_switched += 1;
            }
            _ => {}
        }
        match result {
            DiskResult::Inspected(Finding::Verified(Origin::Store | Origin::OtherPartial)) => {
                self.figures.parts_reused += 1;
            }
            DiskResult::Inspected(Finding::Adopted { .. }) => {
                self.figures.parts_adopted += 1;
                // Whatever hit the snapshot it was begun for may have hit it.
                if let DiskOperation::Inspect { snapshot, part, .. } = operation {
                    let bytes = self.contents[snapshot].manifest.parts[*part as usize].bytes;
                    self.checks.resent.allow(node, *snapshot, 2 * bytes);
                }
            }
            DiskResult::Checked(check) if !check.bad_chunks.is_empty() => {
                self.figures.staged_rot_found += 1;
            }
            _ => {}
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
                    has_rotted: false,
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
                if file.is_linked {
                    *file = Part::default();
                }
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

    /// A staged part cannot be read: it is worth as little as a missing one, and is thrown away.
    /// Answers how long it was to become.
    pub fn discard_staged(&mut self, id: SnapshotId, part: u32) -> Option<u64> {
        let pull = self.staging.pulls.get_mut(&id)?;
        pull.parts[part as usize] = Part::default();
        Some(pull.manifest.parts[part as usize].bytes)
    }

    fn inspect(&mut self, id: SnapshotId, part: u32, recorded: &RecordedPart) -> Option<Finding> {
        let known = self.staging.pulls.get(&id)?.manifest.parts[part as usize].digest;
        let finding = self.staging.pulls.get_mut(&id)?.inspect(part, recorded);
        let Finding::Staged { chunks, prefixes } = &finding else { return Some(finding) };
        if chunks.is_full() {
            return Some(finding);
        }
        if let Some((origin, content)) = self.whole_part(id, known) {
            let file = &mut self.staging.pulls.get_mut(&id)?.parts[part as usize];
            *file = Part { written: content.clone(), synced: content, is_linked: true };
            return Some(Finding::Verified(origin));
        }
        if chunks.count() > 0 || !prefixes.is_empty() {
            return Some(finding);
        }
        match self.begun_part(id, known) {
            None => Some(finding),
            Some(begun) => {
                let pull = self.staging.pulls.get_mut(&id)?;
                pull.parts[part as usize] = begun;
                Some(match pull.inspect(part, &RecordedPart::default()) {
                    Finding::Staged { chunks, prefixes } => Finding::Adopted { chunks, prefixes },
                    verified => verified,
                })
            }
        }
    }

    /// A part with this digest that lies somewhere else on this disk, whole and right.
    fn whole_part(&mut self, not_in: SnapshotId, digest: Digest) -> Option<(Origin, Vec<u8>)> {
        for pull in self.staging.pulls.iter_mut().filter(|(id, _)| **id != not_in).map(|(_, p)| p) {
            for (known, file) in pull.manifest.parts.iter().zip(&mut pull.parts) {
                if known.digest == digest && Digest::of(&file.written) == digest {
                    file.is_linked = true;
                    return Some((Origin::OtherPartial, file.written.clone()));
                }
            }
        }
        for (id, stored) in &self.snapshots {
            let mut parts = (0..).zip(&stored.manifest.parts).zip(&stored.parts);
            let found = parts.find(|((_, known), _)| known.digest == digest);
            if let Some(((part, _), content)) = found
                && !self.rot.iter().any(|(rotten, of, _)| (rotten, *of) == (id, part))
            {
                return Some((Origin::Store, content.to_vec()));
            }
        }
        None
    }

    /// Takes over what another staged snapshot, which is given up, has begun of a part.
    fn begun_part(&mut self, not_in: SnapshotId, digest: Digest) -> Option<Part> {
        let others = self.staging.pulls.iter_mut().filter(|(id, _)| **id != not_in);
        for pull in others.map(|(_, pull)| pull) {
            for (known, file) in pull.manifest.parts.iter().zip(&mut pull.parts) {
                if known.digest == digest && !file.written.is_empty() && !file.is_linked {
                    return Some(std::mem::take(file));
                }
            }
        }
        None
    }
}

impl Pull {
    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.written.len() as u64).sum()
    }

    /// Whether every part has its digest.
    fn is_right(&self) -> bool {
        let mut parts = self.manifest.parts.iter().zip(&self.parts);
        parts.all(|(known, file)| known.digest == Digest::of(&file.written))
    }

    fn inspect(&mut self, part: u32, recorded: &RecordedPart) -> Finding {
        let known = &self.manifest.parts[part as usize];
        let file = &self.parts[part as usize].written;
        let is_verified = recorded.verified && Digest::of(file) == known.digest;
        if known.bytes == 0 || is_verified {
            return Finding::Verified(Origin::Here);
        }
        let mut chunks = ChunkSet::new(self.manifest.chunks(part));
        let mut prefixes = Vec::new();
        for chunk in 0..chunks.len() {
            let (offset, bytes) = self.manifest.chunk_bounds(part, chunk);
            let (from, to) = (offset as usize, offset as usize + bytes as usize);
            // What was verified and is not any more has rotted: only the CRCs tell where.
            let is_synced = !recorded.verified
                && (recorded.complete
                    || recorded.chunks.as_ref().is_some_and(|known| known.contains(chunk)));
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
