//! The receiver's disk: page cache over synced bytes, one operation at a time, room that may end.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::codec::pull_record::{decode_pull_record, encode_pull_record};
use crate::manifest::Manifest;
use crate::transfer::receiver::{
    DiskOperation, DiskResult, Finding, Found, Origin, PartCheck, RecordedPart, StagedPrefix,
};
use crate::types::{ChunkSet, Digest, SnapshotId, TransferStatus};

/// One staged snapshot.
#[derive(Clone, Default)]
pub(super) struct Staged {
    encoded: Bytes,
    manifest: Option<Manifest>,
    record: Option<Bytes>,
    /// Content of parts as any process sees it.
    pub(super) cached: BTreeMap<u32, Vec<u8>>,
    /// Content of parts as power loss leaves it.
    synced: BTreeMap<u32, Vec<u8>>,
    pub(super) durable: bool,
}

/// The disk.
#[derive(Default)]
pub(super) struct SimulatedDisk {
    pub(super) staged: BTreeMap<SnapshotId, Staged>,
    queue: VecDeque<(u64, DiskOperation)>,
    /// Waits for a word because there was no room.
    stuck: Option<u64>,
    /// Writes that are let through before the disk is full; None: no end.
    pub(super) room: Option<u64>,
    pub(super) last: Option<TransferStatus>,
    /// Snapshots of this node's own store.
    pub(super) store: Vec<super::Content>,
    /// Parts whose check is to find rot, once each.
    pub(super) rot: Vec<u32>,
}

impl SimulatedDisk {
    pub(super) fn push(&mut self, ticket: u64, operation: DiskOperation) {
        self.queue.push_back((ticket, operation));
    }

    pub(super) fn retry(&mut self, ticket: u64) {
        if self.stuck == Some(ticket) {
            self.stuck = None;
        }
    }

    pub(super) fn drop_operation(&mut self, ticket: u64) {
        if self.stuck == Some(ticket) {
            self.stuck = None;
            self.queue.pop_front();
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.stuck.is_none() && !self.queue.is_empty()
    }

    /// The process is gone, and with it what it had not handed over.
    pub(super) fn kill(&mut self) {
        self.queue.clear();
        self.stuck = None;
    }

    /// The machine is gone, and with it what was not synced.
    pub(super) fn lose_power(&mut self) {
        self.kill();
        for staged in self.staged.values_mut() {
            staged.cached = staged.synced.clone();
        }
    }

    /// What a process finds at its start.
    pub(super) fn found(&self) -> Option<Found> {
        let staged = self.staged.values().filter(|staged| staged.record.is_some());
        let fullest = staged.max_by_key(|s| s.cached.values().map(Vec::len).sum::<usize>())?;
        let record = decode_pull_record(fullest.record.as_ref()?).expect("a whole record");
        let manifest = Some(fullest.encoded.clone());
        Some(Found { record, manifest, durable: fullest.durable })
    }

    /// Executes one operation.
    pub(super) fn step(&mut self) -> Option<(u64, DiskResult)> {
        let (ticket, operation) = self.queue.front()?.clone();
        let result = self.execute(operation);
        if matches!(result, DiskResult::Full { .. }) {
            self.stuck = Some(ticket);
        } else {
            self.queue.pop_front();
        }
        Some((ticket, result))
    }

    fn execute(&mut self, operation: DiskOperation) -> DiskResult {
        match operation {
            DiskOperation::Open { snapshot, encoded, manifest } => {
                let staged = self.staged.entry(snapshot).or_default();
                staged.encoded = encoded;
                staged.manifest = Some((*manifest).clone());
                staged.durable = false;
                let record = staged.record.as_ref();
                let record = record.map(|bytes| decode_pull_record(bytes).expect("whole"));
                return DiskResult::Opened { record: record.map(Box::new) };
            }
            DiskOperation::Inspect { snapshot, part, recorded } => {
                return DiskResult::Inspected(self.inspect(snapshot, part, &recorded));
            }
            DiskOperation::Write { snapshot, part, offset, bytes } => {
                if let Some(room) = &mut self.room {
                    if *room < bytes.len() as u64 {
                        return DiskResult::Full { reason: "simulated".to_owned() };
                    }
                    *room -= bytes.len() as u64;
                }
                let staged = self.staged.get_mut(&snapshot).expect("it is open");
                let content = staged.cached.entry(part).or_default();
                let end = offset as usize + bytes.len();
                content.resize(content.len().max(end), 0);
                content[offset as usize..end].copy_from_slice(&bytes);
            }
            DiskOperation::Persist { snapshot, parts, record } => {
                let staged = self.staged.get_mut(&snapshot).expect("it is open");
                staged.sync(parts.into_iter());
                staged.record = Some(encode_pull_record(&record));
            }
            DiskOperation::Verify { snapshot, part } => {
                return DiskResult::Checked(self.check(snapshot, part));
            }
            DiskOperation::Finish { snapshot, record } => {
                let staged = self.staged.get_mut(&snapshot).expect("it is open");
                let all: Vec<u32> = staged.cached.keys().copied().collect();
                staged.sync(all.into_iter());
                staged.record = Some(encode_pull_record(&record));
                staged.durable = true;
            }
            DiskOperation::Remove { snapshot } => {
                self.staged.remove(&snapshot);
            }
            DiskOperation::RemoveOthers { keep } => self.staged.retain(|id, _| Some(*id) == keep),
            DiskOperation::SaveStatus(status) => self.last = Some(*status),
            DiskOperation::CheckSpace { bytes } => {
                if self.room.is_some_and(|room| room < bytes) {
                    return DiskResult::Full { reason: format!("no room for {bytes}") };
                }
            }
        }
        DiskResult::Done
    }

    fn inspect(&mut self, snapshot: SnapshotId, part: u32, recorded: &RecordedPart) -> Finding {
        let manifest = self.staged[&snapshot].manifest.clone().expect("it is open");
        let known = &manifest.parts[part as usize];
        let stored = self.store.iter().flat_map(|content| &content.parts);
        let partial = self.staged.iter().filter(|(id, _)| **id != snapshot);
        let partial = partial.flat_map(|(_, staged)| staged.cached.values());
        let mut elsewhere = stored
            .map(|bytes| (Origin::Store, bytes.to_vec()))
            .chain(partial.map(|bytes| (Origin::OtherPartial, bytes.clone())));
        let here = self.staged[&snapshot].cached.contains_key(&part);
        if known.bytes == 0 {
            self.staged.get_mut(&snapshot).expect("open").cached.insert(part, Vec::new());
            return Finding::Verified(Origin::Here);
        }
        let reused = elsewhere.find(|(_, bytes)| Digest::of(bytes) == known.digest);
        if let (false, Some((origin, bytes))) = (here, reused) {
            let staged = self.staged.get_mut(&snapshot).expect("it is open");
            staged.cached.insert(part, bytes);
            staged.sync([part].into_iter());
            return Finding::Verified(origin);
        }
        let nothing = Vec::new();
        let content = self.staged[&snapshot].cached.get(&part).unwrap_or(&nothing);
        if recorded.verified && content.len() as u64 == known.bytes {
            return Finding::Verified(Origin::Here);
        }
        scan(&manifest, part, content, recorded)
    }

    fn check(&mut self, snapshot: SnapshotId, part: u32) -> PartCheck {
        let staged = self.staged.get_mut(&snapshot).expect("it is open");
        let content = staged.cached.entry(part).or_default();
        if let Some(position) = self.rot.iter().position(|rotten| *rotten == part) {
            self.rot.remove(position);
            content[17] ^= 0x40;
        }
        let manifest = staged.manifest.as_ref().expect("it is open");
        let crcs = content.chunks(manifest.chunk_bytes as usize).map(crc32c::crc32c);
        let bad = (0..)
            .zip(crcs)
            .filter(|(chunk, crc)| *crc != manifest.chunk_crc32c(part, *chunk))
            .map(|(chunk, _)| chunk);
        PartCheck { digest: Digest::of(content), bad_chunks: bad.collect() }
    }
}

impl Staged {
    fn sync(&mut self, parts: impl Iterator<Item = u32>) {
        for part in parts {
            if let Some(content) = self.cached.get(&part) {
                self.synced.insert(part, content.clone());
            }
        }
    }
}

/// The judgement of staged bytes, as `snapshot_store` does it on files.
fn scan(manifest: &Manifest, part: u32, content: &[u8], recorded: &RecordedPart) -> Finding {
    let mut chunks = ChunkSet::new(manifest.chunks(part));
    let mut prefixes = Vec::new();
    for chunk in 0..chunks.len() {
        let (offset, length) = manifest.chunk_bounds(part, chunk);
        let mut bytes: Vec<u8> =
            content.iter().skip(offset as usize).take(length as usize).copied().collect();
        bytes.resize(length as usize, 0);
        let known =
            recorded.complete || recorded.chunks.as_ref().is_some_and(|c| c.contains(chunk));
        if known || crc32c::crc32c(&bytes) == manifest.chunk_crc32c(part, chunk) {
            chunks.insert(chunk);
            continue;
        }
        let extent = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u32 + 1);
        let partial = recorded.partial.iter().find(|entry| entry.chunk == chunk);
        let (staged, delivered) = partial.map_or((0, 0), |entry| (entry.staged, entry.delivered));
        let keep = if staged.max(extent) >= length { 0 } else { staged.max(extent) };
        let delivered = delivered.max(extent);
        if delivered > 0 {
            let crc32c = crc32c::crc32c(&bytes[..keep as usize]);
            prefixes.push(StagedPrefix { chunk, bytes: keep, delivered, crc32c });
        }
    }
    Finding::Staged { chunks, prefixes }
}
