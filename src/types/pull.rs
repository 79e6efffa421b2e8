//! The words of a pull: what a receiver asks of a source, what comes back, and what it remembers.

use bytes::Bytes;

use super::{Index, SnapshotId, SnapshotReference, TransferState};

/// A run of bytes of one part. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteRange {
    /// Position of the part in the manifest.
    pub part: u32,
    /// First byte.
    pub offset: u64,
    /// Number of bytes, at least 1.
    pub bytes: u64,
}

/// What a receiver asks, one stream each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PullRequest {
    /// The manifest's encoded bytes.
    Manifest {
        /// Of which snapshot.
        snapshot: SnapshotId,
    },
    /// Runs of bytes, sent in this order.
    Ranges {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// At least one, at most `RANGES_PER_REQUEST_MAX`.
        ranges: Vec<ByteRange>,
    },
    /// Two answers for one chunk did not match its CRC: the source shall check its own part.
    Suspect {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Position of the part in the manifest.
        part: u32,
        /// Position of the chunk in the part.
        chunk: u32,
    },
}

/// What a source answers before any raw bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PullResponse {
    /// The manifest's bytes follow.
    ManifestFollows {
        /// How many.
        bytes: u64,
    },
    /// Chunk frames follow.
    RangesFollow {
        /// How many.
        frames: u32,
    },
    /// Still waiting for a place; another response follows.
    Queued {
        /// Receivers before this one.
        ahead: u32,
    },
    /// The request is not served.
    Refused {
        /// Why, for machines.
        reason: RefusalReason,
        /// Why, for people.
        message: String,
    },
    /// The source has checked the part it was asked to check.
    Verdict {
        /// Whether its bytes have the digest that the manifest names.
        part_is_good: bool,
    },
}

/// Why a source does not serve a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalReason {
    /// The source has no such snapshot (any more).
    UnknownSnapshot,
    /// A part, offset or length outside the snapshot.
    OutOfRange,
    /// The source found its own copy damaged and serves it to nobody.
    Fenced,
    /// The request breaks a rule of the protocol.
    Malformed,
    /// The source is shutting down.
    ShuttingDown,
    /// The source could not read its disk.
    ReadFailed,
}

/// The fixed header before the data of one chunk frame: from `offset` to the end of its chunk or of
/// the requested range, whichever comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHeader {
    /// Position of the part in the manifest.
    pub part: u32,
    /// First byte within the part.
    pub offset: u64,
    /// Bytes of data that follow; 1 to `CHUNK_BYTES_MAX`.
    pub bytes: u32,
    /// CRC32C of these bytes.
    pub crc32c: u32,
}

/// A set of chunk (or part) positions in 0..len.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChunkSet {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl ChunkSet {
    /// An empty set over `0..len`.
    pub fn new(len: u32) -> Self {
        ChunkSet { words: vec![0; (len as usize).div_ceil(64)], len, count: 0 }
    }

    /// The set over `0..len` that `words` spell, lowest bit first; None if they do not fit `len`.
    pub fn from_words(len: u32, words: Vec<u64>) -> Option<Self> {
        if words.len() != (len as usize).div_ceil(64) {
            return None;
        }
        let tail = len % 64;
        if tail != 0 && words.last().is_some_and(|last| last >> tail != 0) {
            return None;
        }
        let count = words.iter().map(|word| word.count_ones()).sum();
        Some(ChunkSet { words, len, count })
    }

    /// The bits, lowest first; those past `len` are 0.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Positions there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no positions at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether every position is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// Whether `position` is in the set; false outside.
    pub fn contains(&self, position: u32) -> bool {
        position < self.len && self.words[position as usize / 64] >> (position % 64) & 1 == 1
    }

    /// Adds `position`; says whether it is new.
    pub fn insert(&mut self, position: u32) -> bool {
        assert!(position < self.len, "chunk {position} outside a set of {}", self.len);
        let new = !self.contains(position);
        self.words[position as usize / 64] |= 1 << (position % 64);
        self.count += u32::from(new);
        new
    }

    /// Takes `position` out; says whether it was in.
    pub fn remove(&mut self, position: u32) -> bool {
        let was_in = self.contains(position);
        if was_in {
            self.words[position as usize / 64] &= !(1 << (position % 64));
            self.count -= 1;
        }
        was_in
    }

    /// Adds every position.
    pub fn fill(&mut self) {
        (0..self.len).for_each(|position| {
            self.insert(position);
        });
    }
}

/// The received beginning of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialChunk {
    /// Position of the part in the manifest.
    pub part: u32,
    /// Position of the chunk in the part.
    pub chunk: u32,
    /// Bytes of it that are staged and synced, from its beginning.
    pub staged: u32,
    /// Bytes of it that were ever delivered, from its beginning; at least `staged`.
    pub delivered: u32,
}

/// A part of which some chunks are staged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IncompletePart {
    /// Position of the part in the manifest.
    pub part: u32,
    /// Its staged chunks.
    pub chunks: ChunkSet,
}

/// What a pull has counted since its first offer, over restarts and changes of snapshot. All bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PullCounters {
    /// Payload received.
    pub received: u64,
    /// Received more than once for one (snapshot, part, chunk).
    pub resent: u64,
    /// Pulled and given up for another snapshot.
    pub discarded: u64,
    /// Taken from parts already here.
    pub reused: u64,
    /// Staged when it last resumed.
    pub resumed_from: u64,
    /// How often it resumed; not bytes.
    pub resumes: u64,
    /// When the first offer came; Unix ms, not bytes.
    pub started_unix_ms: u64,
}

/// What a receiver remembers of a pull over its own restart. Claims nothing that is not synced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PullRecord {
    /// What was offered: id, sizes, sources.
    pub reference: SnapshotReference,
    /// The log index that the snapshot stands for.
    pub index: Index,
    /// Bytes of the MsgSnapshot that offered it.
    pub message_bytes: u64,
    /// Counters so far.
    pub counters: PullCounters,
    /// Where it stood. Only final states and `Durable` say more than the staged bytes do.
    pub state: TransferState,
    /// When it ended; 0 while it runs.
    pub finished_unix_ms: u64,
    /// Parts whose every chunk is staged.
    pub complete: ChunkSet,
    /// Those of them whose digest was checked.
    pub verified: ChunkSet,
    /// Parts with some chunks staged, ascending.
    pub incomplete: Vec<IncompletePart>,
    /// Begun chunks, ascending.
    pub partial: Vec<PartialChunk>,
}

/// A small snapshot as it travels beside MsgSnapshot in mode `embedded`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmbeddedSnapshot {
    /// The encoded manifest.
    pub manifest: Bytes,
    /// Every part whole, in the manifest's order.
    pub parts: Vec<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_counts_what_it_holds() {
        let mut set = ChunkSet::new(70);
        assert!(set.insert(0) && set.insert(69) && !set.insert(69));
        assert_eq!(set.count(), 2);
        assert!(set.contains(69) && !set.contains(70) && !set.contains(5));
        assert!(set.remove(0) && !set.remove(0));
        set.fill();
        assert!(set.is_full());
        assert_eq!(ChunkSet::from_words(70, set.words().to_vec()), Some(set));
    }

    #[test]
    fn bits_past_the_end_are_refused() {
        assert_eq!(ChunkSet::from_words(3, vec![0b1000]), None);
        assert_eq!(ChunkSet::from_words(65, vec![1]), None);
        assert!(ChunkSet::from_words(0, vec![]).is_some_and(|set| set.is_full()));
    }
}
