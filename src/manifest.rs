//! The manifest of a snapshot: what it stands for, and every part with its digest and chunk CRCs.
//!
//! The digest of the encoded manifest is the snapshot's id, so whoever holds the id can check
//! everything else. Nothing here reads a part; builders and receivers do.

use crate::types::{ClusterId, ConfState, Digest, Index, Term};

/// Format of the manifest this code writes.
pub const MANIFEST_FORMAT: u32 = 1;

/// A snapshot, described down to its chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// The log index it stands for: all entries up to it are inside, none after.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// Membership at that index.
    pub conf_state: ConfState,
    /// Bytes of each chunk but a part's last.
    pub chunk_bytes: u32,
    /// Files, in a fixed order; never empty.
    pub parts: Vec<Part>,
    /// When it was built, by its builder's clock.
    pub created_unix_ms: u64,
}

/// One file of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// File name inside the state directory; matches a strict pattern.
    pub name: String,
    /// Its length; may be 0.
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub digest: Digest,
    /// CRC32C of each chunk.
    pub chunk_crc32c: Vec<u32>,
}

impl Manifest {
    /// Bytes of all parts.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}
