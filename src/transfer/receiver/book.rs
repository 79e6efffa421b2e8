//! The receiver's book of one snapshot: which bytes are here, on their way, wanted, or suspect.
//!
//! A chunk is believed when its CRC matches the manifest, counts as staged when the disk has
//! acknowledged its last byte, and a part is finished when its digest matches. A begun chunk keeps
//! its beginning. The book never talks to a source or a disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::limits::RANGES_PER_REQUEST_MAX;
use crate::manifest::Manifest;
use crate::types::{ByteRange, ChunkSet, IncompletePart, PartialChunk};

use super::{Finding, PartCheck, StagedPrefix};

/// Where a part stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The disk has not told yet what it holds of it.
    Uninspected,
    /// Some chunks are missing.
    Missing,
    /// All chunks are staged; the digest is to be checked.
    Complete,
    /// The digest is being checked.
    Verifying,
    /// The digest matches.
    Verified,
}

#[derive(Debug)]
struct PartEntry {
    stage: Stage,
    /// Chunks whose CRC matched and whose bytes the disk has.
    staged: ChunkSet,
    /// How often its digest did not match.
    mismatches: u8,
}

/// The received beginning of a chunk, in memory.
#[derive(Clone, Copy, Debug, Default)]
struct Partial {
    /// Received and handed to the disk, from the chunk's beginning.
    received: u32,
    /// Acknowledged by the disk.
    staged: u32,
    /// Ever delivered.
    delivered: u32,
    /// CRC32C of the received bytes.
    crc32c: u32,
    /// Grows when the beginning is thrown away, so that late acknowledgements miss.
    generation: u32,
    /// What is received now was partly received in an earlier request.
    stitched: bool,
}

/// A write that the disk has not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Writing {
    ticket: u64,
    part: u32,
    chunk: u32,
    generation: u32,
    /// Bytes of the chunk that are on disk once it is done.
    end: u32,
    bytes: u32,
    /// It completes a chunk whose CRC matched.
    completes: bool,
}

/// What came of the last byte of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ChunkOutcome {
    /// Its CRC matches the manifest.
    Good,
    /// It does not; `whole`: a single answer carried all of it, so that the source is to blame and
    /// not an earlier beginning.
    Bad {
        /// See above.
        whole: bool,
    },
}

/// The book.
#[derive(Debug)]
pub(super) struct Book {
    manifest: Arc<Manifest>,
    parts: Vec<PartEntry>,
    uninspected: u32,
    verified: u32,
    /// Ranges to ask for, in order.
    wanted: VecDeque<ByteRange>,
    wanted_bytes: u64,
    /// Chunks to ask for again, alone.
    alone: VecDeque<ByteRange>,
    partial: BTreeMap<(u32, u32), Partial>,
    writing: VecDeque<Writing>,
    unwritten_bytes: u64,
    staged_bytes: u64,
    /// Parts written to since the last persist, and how many bytes.
    dirty: BTreeSet<u32>,
    dirty_bytes: u64,
    /// Parts whose digest is to be checked.
    to_verify: VecDeque<u32>,
}

impl Book {
    pub(super) fn new(manifest: Arc<Manifest>) -> Self {
        let entry = |part: usize| PartEntry {
            stage: Stage::Uninspected,
            staged: ChunkSet::new(manifest.chunks(part as u32)),
            mismatches: 0,
        };
        Book {
            parts: (0..manifest.parts.len()).map(entry).collect(),
            uninspected: manifest.parts.len() as u32,
            manifest,
            verified: 0,
            wanted: VecDeque::new(),
            wanted_bytes: 0,
            alone: VecDeque::new(),
            partial: BTreeMap::new(),
            writing: VecDeque::new(),
            unwritten_bytes: 0,
            staged_bytes: 0,
            dirty: BTreeSet::new(),
            dirty_bytes: 0,
            to_verify: VecDeque::new(),
        }
    }

    pub(super) fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Bytes on disk that the CRCs vouch for, and begun chunks.
    pub(super) fn staged_bytes(&self) -> u64 {
        self.staged_bytes
    }

    /// Bytes received that the disk has not acknowledged.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        self.unwritten_bytes
    }

    /// Bytes written since the last persist.
    pub(super) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// Bytes that no request has been made for.
    pub(super) fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes + self.alone.iter().map(|range| range.bytes).sum::<u64>()
    }

    pub(super) fn is_inspected(&self) -> bool {
        self.uninspected == 0
    }

    pub(super) fn is_verified(&self) -> bool {
        self.verified as usize == self.parts.len()
    }

    /// Enters what the disk holds of a part.
    pub(super) fn inspected(&mut self, part: u32, finding: &Finding) {
        let entry = &mut self.parts[part as usize];
        assert_eq!(entry.stage, Stage::Uninspected, "part {part} was inspected twice");
        self.uninspected -= 1;
        let bytes = self.manifest.parts[part as usize].bytes;
        match finding {
            Finding::Verified(_) => {
                entry.staged.fill();
                entry.stage = Stage::Verified;
                self.verified += 1;
                self.staged_bytes += bytes;
            }
            Finding::Staged { chunks, prefixes } | Finding::Adopted { chunks, prefixes } => {
                assert_eq!(chunks.len(), entry.staged.len(), "a finding of another manifest");
                entry.staged = chunks.clone();
                entry.stage = Stage::Missing;
                for chunk in (0..chunks.len()).filter(|chunk| chunks.contains(*chunk)) {
                    self.staged_bytes += u64::from(self.manifest.chunk_bounds(part, chunk).1);
                }
                for prefix in prefixes {
                    self.enter_prefix(part, prefix);
                }
                self.want_missing(part);
                self.settle(part);
            }
        }
    }

    fn enter_prefix(&mut self, part: u32, prefix: &StagedPrefix) {
        let (_, length) = self.manifest.chunk_bounds(part, prefix.chunk);
        assert!(prefix.bytes < length && prefix.delivered <= length, "a prefix is no whole chunk");
        let partial = Partial {
            received: prefix.bytes,
            staged: prefix.bytes,
            delivered: prefix.delivered.max(prefix.bytes),
            crc32c: prefix.crc32c,
            generation: 0,
            stitched: prefix.bytes > 0,
        };
        self.staged_bytes += u64::from(prefix.bytes);
        self.partial.insert((part, prefix.chunk), partial);
    }

    /// Queues every missing byte of a part, adjacent chunks as one range.
    fn want_missing(&mut self, part: u32) {
        let mut run: Option<ByteRange> = None;
        for chunk in 0..self.manifest.chunks(part) {
            if self.parts[part as usize].staged.contains(chunk) {
                continue;
            }
            let (offset, length) = self.manifest.chunk_bounds(part, chunk);
            let kept = self.partial.get(&(part, chunk)).map_or(0, |partial| partial.received);
            let start = offset + u64::from(kept);
            let bytes = u64::from(length - kept);
            match &mut run {
                Some(run) if run.offset + run.bytes == start => run.bytes += bytes,
                _ => {
                    if let Some(done) = run.replace(ByteRange { part, offset: start, bytes }) {
                        self.push_wanted(done);
                    }
                }
            }
        }
        if let Some(done) = run {
            self.push_wanted(done);
        }
    }

    fn push_wanted(&mut self, range: ByteRange) {
        self.wanted_bytes += range.bytes;
        self.wanted.push_back(range);
    }

    /// Takes the next ranges to ask for on one stream: a suspect chunk alone, or a run of up to
    /// about `bytes`, cut at a chunk's end.
    pub(super) fn take(&mut self, bytes: u64) -> Vec<ByteRange> {
        if let Some(range) = self.alone.pop_front() {
            return vec![range];
        }
        let mut taken = Vec::new();
        let mut left = bytes.max(1);
        while left > 0 && taken.len() < RANGES_PER_REQUEST_MAX {
            let Some(mut range) = self.wanted.pop_front() else { break };
            self.wanted_bytes -= range.bytes;
            if range.bytes > left {
                let chunk_bytes = u64::from(self.manifest.chunk_bytes);
                let end = (range.offset + left).div_ceil(chunk_bytes) * chunk_bytes;
                let bytes = range.bytes.min(end - range.offset);
                if bytes < range.bytes {
                    let rest = ByteRange {
                        part: range.part,
                        offset: range.offset + bytes,
                        bytes: range.bytes - bytes,
                    };
                    self.wanted_bytes += rest.bytes;
                    self.wanted.push_front(rest);
                    range.bytes = bytes;
                }
            }
            left = left.saturating_sub(range.bytes);
            taken.push(range);
        }
        taken
    }

    /// Takes back what a request did not deliver, to be asked for first.
    pub(super) fn give_back(&mut self, ranges: impl DoubleEndedIterator<Item = ByteRange>) {
        for range in ranges.rev().filter(|range| range.bytes > 0) {
            self.wanted_bytes += range.bytes;
            self.wanted.push_front(range);
        }
    }

    /// Enters received bytes, which lie within one chunk and continue it. Returns how many of them
    /// had been delivered before.
    pub(super) fn receive(&mut self, ticket: u64, range: ByteRange, bytes: &[u8]) -> u64 {
        assert_eq!(range.bytes, bytes.len() as u64);
        let chunk = self.manifest.chunk_at(range.offset);
        let (offset, length) = self.manifest.chunk_bounds(range.part, chunk);
        let partial = self.partial.entry((range.part, chunk)).or_default();
        let start = (range.offset - offset) as u32;
        assert_eq!(start, partial.received, "bytes of a chunk came out of order");
        let end = start + bytes.len() as u32;
        assert!(end <= length, "bytes past their chunk");
        let resent = partial.delivered.min(end).saturating_sub(start);
        partial.crc32c = crc32c::crc32c_append(partial.crc32c, bytes);
        partial.received = end;
        partial.delivered = partial.delivered.max(end);
        self.unwritten_bytes += range.bytes;
        self.writing.push_back(Writing {
            ticket,
            part: range.part,
            chunk,
            generation: partial.generation,
            end,
            bytes: bytes.len() as u32,
            completes: false,
        });
        u64::from(resent)
    }

    /// Judges the chunk that ends at the byte received last. `frame_is_good`: the frame's own CRC
    /// matched its bytes.
    pub(super) fn end_chunk(&mut self, part: u32, chunk: u32, frame_is_good: bool) -> ChunkOutcome {
        let (_, length) = self.manifest.chunk_bounds(part, chunk);
        let partial = self.partial[&(part, chunk)];
        assert_eq!(partial.received, length, "a chunk is judged before its end");
        if frame_is_good && partial.crc32c == self.manifest.chunk_crc32c(part, chunk) {
            let last = self.writing.back_mut().expect("its last bytes wait for the disk");
            assert_eq!((last.part, last.chunk), (part, chunk));
            last.completes = true;
            return ChunkOutcome::Good;
        }
        self.forget_chunk(part, chunk);
        ChunkOutcome::Bad { whole: !partial.stitched || !frame_is_good }
    }

    /// Marks that the next bytes of a chunk come in another request than the first ones.
    pub(super) fn stitch(&mut self, part: u32, offset: u64) {
        let chunk = self.manifest.chunk_at(offset);
        if let Some(partial) = self.partial.get_mut(&(part, chunk)) {
            partial.stitched = partial.received > 0;
        }
    }

    /// Throws the beginning of a chunk away, but remembers that it was delivered.
    fn forget_chunk(&mut self, part: u32, chunk: u32) {
        if let Some(partial) = self.partial.get_mut(&(part, chunk)) {
            self.staged_bytes -= u64::from(partial.staged);
            *partial = Partial {
                delivered: partial.delivered,
                generation: partial.generation + 1,
                ..Partial::default()
            };
        }
    }

    /// Queues a chunk to be asked for again, alone and before anything else.
    pub(super) fn want_alone(&mut self, part: u32, chunk: u32) {
        let (offset, length) = self.manifest.chunk_bounds(part, chunk);
        self.alone.push_back(ByteRange { part, offset, bytes: u64::from(length) });
    }

    /// Enters the disk's acknowledgement of a write.
    pub(super) fn written(&mut self, ticket: u64) {
        let writing = self.writing.pop_front().expect("a write is acknowledged once");
        assert_eq!(writing.ticket, ticket, "the disk acknowledges writes in their order");
        self.unwritten_bytes -= u64::from(writing.bytes);
        let key = (writing.part, writing.chunk);
        let Some(partial) = self.partial.get_mut(&key) else { return };
        if partial.generation != writing.generation {
            return;
        }
        self.dirty.insert(writing.part);
        self.dirty_bytes += u64::from(writing.bytes);
        self.staged_bytes += u64::from(writing.end - partial.staged);
        partial.staged = writing.end;
        if writing.completes {
            self.partial.remove(&key);
            self.parts[writing.part as usize].staged.insert(writing.chunk);
            self.settle(writing.part);
        }
    }

    fn settle(&mut self, part: u32) {
        let entry = &mut self.parts[part as usize];
        if entry.stage == Stage::Missing && entry.staged.is_full() {
            entry.stage = Stage::Complete;
            self.to_verify.push_back(part);
        }
    }

    /// The next part whose digest is to be checked; it counts as being checked from now on.
    pub(super) fn take_to_verify(&mut self) -> Option<u32> {
        let part = self.to_verify.pop_front()?;
        self.parts[part as usize].stage = Stage::Verifying;
        Some(part)
    }

    /// Enters what the check of a part found. Returns how often it has failed; 0: it is good.
    pub(super) fn checked(&mut self, part: u32, check: &PartCheck) -> u8 {
        assert_eq!(self.parts[part as usize].stage, Stage::Verifying);
        if check.digest == self.manifest.parts[part as usize].digest {
            self.parts[part as usize].stage = Stage::Verified;
            self.verified += 1;
            // Its bits and its verdict are persisted together.
            self.dirty.insert(part);
            return 0;
        }
        let all: Vec<u32>;
        // Every chunk matches and the whole does not: none of them can be believed.
        let bad = if check.bad_chunks.is_empty() {
            all = (0..self.manifest.chunks(part)).collect();
            &all
        } else {
            &check.bad_chunks
        };
        for chunk in bad {
            let (_, length) = self.manifest.chunk_bounds(part, *chunk);
            assert!(self.parts[part as usize].staged.remove(*chunk));
            self.staged_bytes -= u64::from(length);
            self.partial
                .insert((part, *chunk), Partial { delivered: length, ..Partial::default() });
            self.want_alone(part, *chunk);
        }
        let entry = &mut self.parts[part as usize];
        entry.stage = Stage::Missing;
        entry.mismatches += 1;
        entry.mismatches
    }

    /// Parts to sync before a record of now is true; forgets them.
    pub(super) fn take_dirty(&mut self) -> Vec<u32> {
        self.dirty_bytes = 0;
        std::mem::take(&mut self.dirty).into_iter().collect()
    }

    /// Whether a record of now would say more than the last one.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What a record may claim once the dirty parts are synced: complete parts, verified parts,
    /// incomplete parts, begun chunks.
    pub(super) fn claims(&self) -> (ChunkSet, ChunkSet, Vec<IncompletePart>, Vec<PartialChunk>) {
        let mut complete = ChunkSet::new(self.parts.len() as u32);
        let mut verified = ChunkSet::new(self.parts.len() as u32);
        let mut incomplete = Vec::new();
        for (part, entry) in (0..).zip(&self.parts) {
            if entry.stage == Stage::Verified {
                verified.insert(part);
            }
            if entry.stage != Stage::Uninspected && entry.staged.is_full() {
                complete.insert(part);
            } else if entry.staged.count() > 0 {
                incomplete.push(IncompletePart { part, chunks: entry.staged.clone() });
            }
        }
        let begun = self.partial.iter().filter(|(_, partial)| partial.delivered > 0);
        let partial = begun.map(|(&(part, chunk), partial)| PartialChunk {
            part,
            chunk,
            staged: partial.staged,
            delivered: partial.delivered,
        });
        (complete, verified, incomplete, partial.collect())
    }
}
