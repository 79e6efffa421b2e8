//! The manifest of a snapshot: what it stands for, and every part with its digest and chunk CRCs.
//!
//! The digest of the encoded manifest is the snapshot's id, so whoever holds the id can check
//! everything else. Nothing here reads a part; builders and receivers do.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::limits::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, MANIFEST_BYTES_MAX, MANIFEST_PARTS_MAX, NODES_MAX,
};
use crate::types::{ClusterId, ConfState, Digest, Index, SnapshotId, Term};

/// Format of the manifest this code writes.
pub const MANIFEST_FORMAT: u32 = 1;

/// Longest part name, bytes.
pub const PART_NAME_BYTES_MAX: usize = 32;

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

/// Why bytes are no manifest or no reference to a snapshot. Reject: the same bytes stay wrong.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ManifestError {
    /// Not the expected protobuf message, or a field of a wrong shape. Reject.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Written by a newer version. Reject; upgrade this node.
    #[error("format {found} is unknown to this version, which reads format {MANIFEST_FORMAT}")]
    Format {
        /// The format it names.
        found: u32,
    },
    /// Over a bound. Reject.
    #[error("{what}: {found} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A snapshot without content would stand for a state that nobody had. Reject.
    #[error("it has no content: {0}")]
    Empty(&'static str),
    /// A part's name is not one of a checkpoint's files. Reject.
    #[error("part name {0:?} is not one of a checkpoint's files")]
    PartName(String),
    /// Two parts of one name. Reject.
    #[error("part {0} is named twice")]
    DuplicatePart(String),
    /// Chunk size outside its bounds. Reject.
    #[error("chunks of {0} bytes are outside {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}")]
    ChunkBytes(u32),
    /// The number of CRCs does not fit a part's length. Reject.
    #[error("part {name} has {expected} chunks but {found} checksums")]
    ChunkCount {
        /// The part.
        name: String,
        /// Chunks that its length makes.
        expected: u64,
        /// CRCs that it lists.
        found: u64,
    },
    /// An empty part whose digest is not that of nothing. Reject.
    #[error("part {0} is empty but its digest is that of some content")]
    EmptyPartDigest(String),
    /// The bytes are not those that the id names. Reject; ask again or elsewhere.
    #[error("the manifest's digest is {found}, the snapshot's id is {expected}")]
    Digest {
        /// The id asked for.
        expected: SnapshotId,
        /// The digest found.
        found: SnapshotId,
    },
}

impl Manifest {
    /// Bytes of all parts.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Number of chunks of `part`, a position in `parts`.
    pub fn chunks(&self, part: u32) -> u32 {
        self.parts[part as usize].chunk_crc32c.len() as u32
    }

    /// Position of the chunk that holds byte `offset` of a part.
    pub fn chunk_at(&self, offset: u64) -> u32 {
        (offset / u64::from(self.chunk_bytes)) as u32
    }

    /// First byte and length of a chunk; the last of a part may be short.
    pub fn chunk_bounds(&self, part: u32, chunk: u32) -> (u64, u32) {
        let bytes = self.parts[part as usize].bytes;
        let offset = u64::from(chunk) * u64::from(self.chunk_bytes);
        assert!(offset < bytes, "chunk {chunk} lies past part {part}");
        (offset, (bytes - offset).min(u64::from(self.chunk_bytes)) as u32)
    }

    /// CRC32C of a chunk.
    pub fn chunk_crc32c(&self, part: u32, chunk: u32) -> u32 {
        self.parts[part as usize].chunk_crc32c[chunk as usize]
    }

    /// Checks every rule that a receiver relies on.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.index == 0 {
            return Err(ManifestError::Malformed("it stands for index 0".to_owned()));
        }
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes) {
            return Err(ManifestError::ChunkBytes(self.chunk_bytes));
        }
        bounded("parts", self.parts.len() as u64, MANIFEST_PARTS_MAX as u64)?;
        let conf = &self.conf_state;
        for list in [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next] {
            bounded("members", list.len() as u64, NODES_MAX as u64)?;
        }
        let mut names = BTreeSet::new();
        let mut total: u64 = 0;
        for part in &self.parts {
            part.validate(self.chunk_bytes)?;
            if !names.insert(part.name.as_str()) {
                return Err(ManifestError::DuplicatePart(part.name.clone()));
            }
            total = total
                .checked_add(part.bytes)
                .ok_or_else(|| ManifestError::Malformed("its sizes overflow".to_owned()))?;
        }
        if total == 0 {
            return Err(ManifestError::Empty("the parts hold no byte"));
        }
        Ok(())
    }
}

impl Part {
    fn validate(&self, chunk_bytes: u32) -> Result<(), ManifestError> {
        if !is_part_name(&self.name) {
            // What a stranger wrote is shown only so far.
            let shown = self.name.chars().take(PART_NAME_BYTES_MAX).collect();
            return Err(ManifestError::PartName(shown));
        }
        let expected = self.bytes.div_ceil(u64::from(chunk_bytes));
        let found = self.chunk_crc32c.len() as u64;
        if expected != found {
            return Err(ManifestError::ChunkCount { name: self.name.clone(), expected, found });
        }
        if self.bytes == 0 && self.digest != Digest::of(b"") {
            return Err(ManifestError::EmptyPartDigest(self.name.clone()));
        }
        Ok(())
    }
}

/// Whether `name` is one of the files that a RocksDB checkpoint consists of: `CURRENT`,
/// `MANIFEST-n`, `OPTIONS-n` or `n.sst`, n of at least six digits. Admits no separator and no dot
/// at the start, so that it never leads out of its directory.
pub fn is_part_name(name: &str) -> bool {
    let number = |digits: &str| digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit());
    name.len() <= PART_NAME_BYTES_MAX
        && (name == "CURRENT"
            || name.strip_prefix("MANIFEST-").is_some_and(number)
            || name.strip_prefix("OPTIONS-").is_some_and(number)
            || name.strip_suffix(".sst").is_some_and(number))
}

/// Refuses an encoded manifest by its length alone, before anything is allocated for it.
pub fn check_encoded_length(bytes: u64) -> Result<(), ManifestError> {
    bounded("encoded manifest", bytes, MANIFEST_BYTES_MAX as u64)
}

fn bounded(what: &'static str, found: u64, limit: u64) -> Result<(), ManifestError> {
    if found > limit {
        return Err(ManifestError::TooLarge { what, found, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_checkpoint_files_are_part_names() {
        for good in ["CURRENT", "000012.sst", "1234567890.sst", "MANIFEST-000005", "OPTIONS-000007"]
        {
            assert!(is_part_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../000012.sst",
            "a/000012.sst",
            "00012.sst",
            "000012.sst\0",
            "000012.SST",
            "000012.log",
            "CURRENT.tmp",
            "MANIFEST-",
            "MANIFEST-00000x",
            "0000000000000000000000000000000000.sst",
            "٠٠٠٠٠٠.sst",
        ] {
            assert!(!is_part_name(bad), "{bad}");
        }
    }
}
