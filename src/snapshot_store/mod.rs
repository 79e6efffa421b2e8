//! Snapshots at rest: the store of finished ones, and the staging area of those being pulled.
//!
//! A snapshot is a directory of immutable parts and a manifest whose digest is its name. What is
//! here under its name is whole: it got there by rename, after everything in it was synced. What
//! is damaged is moved aside, said so, and never deleted by a machine. It never decides when to
//! build or pull, and knows no network. Everything blocks: call it from threads that may wait.
//!
//! A stored snapshot is made of hard links and shares its files with the live state: a rotten block
//! is rotten in both. So every read for a receiver is checked against the manifest's CRCs, which
//! date from when the file was new.

mod build;
mod cache;
mod disk;
mod embedded;
mod files;
#[cfg(test)]
mod fuzz;
mod inspect;
mod memory;
mod pins;
mod staging;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::manifest::{Manifest, ManifestError};
use crate::types::{Digest, Index, NodeId, SnapshotId, Term};

pub use build::{BuildOptions, build_manifest};
pub use cache::DigestCache;
pub use disk::{DiskOptions, DiskSnapshotStore};
pub use embedded::{embed, stage_embedded};
pub use files::{FreeBytes, free_bytes, link_parts};
pub use memory::MemorySnapshotStore;
pub use pins::{PinPolicy, Retained};
pub use staging::{StagedPull, Staging, StagingOptions};

/// Why the store did not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system failed. Retry if the cause may pass; the snapshot is as it was before.
    #[error("{attempted}: {cause}")]
    Io {
        /// What was being done, and to what.
        attempted: String,
        /// What the system said.
        cause: io::Error,
    },
    /// No room besides the reserve. Retry when there is.
    #[error("{needed} bytes are needed, {free} are free besides the reserve")]
    DiskFull {
        /// Bytes asked for.
        needed: u64,
        /// Bytes there are.
        free: u64,
    },
    /// The store does not hold the snapshot. Reject.
    #[error("snapshot {0} is not in the store")]
    Unknown(SnapshotId),
    /// What lies on disk is not what was put there. Reject; verify or rebuild.
    #[error("{what} is damaged: {problem}")]
    Damaged {
        /// Which file or directory.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A manifest breaks its rules. Reject.
    #[error("manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// A checkpoint holds what no snapshot may hold. Reject: a defect, or a strange directory.
    #[error("a checkpoint holds {0:?}, which belongs to no snapshot")]
    Strange(String),
    /// The snapshot is too large for this way to send it. Reject; stream it.
    #[error("{bytes} bytes are over the limit of {limit} for an embedded snapshot")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
}

impl StoreError {
    /// An IO failure with what was attempted; a full disk is told apart.
    pub(crate) fn io(attempted: impl Into<String>, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::DiskFull { needed: 1, free: 0 }
            }
            _ => StoreError::Io { attempted: attempted.into(), cause },
        }
    }

    /// Whether it will pass when there is room on the disk.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, StoreError::DiskFull { .. })
    }
}

/// What is known of a stored snapshot without reading its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// Its name.
    pub id: SnapshotId,
    /// The log index it stands for.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Number of parts.
    pub parts: u32,
    /// Bytes of the encoded manifest.
    pub manifest_bytes: u64,
    /// When it was built, by its builder's clock.
    pub created_unix_ms: u64,
    /// Receivers for which it is pinned, ascending.
    pub pinned_for: Vec<NodeId>,
}

/// A manifest in both of its forms.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Decoded.
    pub manifest: Arc<Manifest>,
    /// As its digest names it.
    pub encoded: Bytes,
}

/// Where a part with a wanted digest can be had.
#[derive(Clone, Debug)]
pub enum PartSource {
    /// In a file that may be linked.
    File(PathBuf),
    /// In memory.
    Memory(Bytes),
}

/// What reading every byte of a snapshot found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifyReport {
    /// Bytes read.
    pub bytes: u64,
    /// One sentence for each part that is wrong; empty: all is well.
    pub problems: Vec<String>,
}

/// Reads one part; open for as long as it lives, even when the snapshot is removed meanwhile.
pub trait PartReader: Send + Sync {
    /// Fills `buffer` from `offset`; an end before that is an error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A place where finished snapshots are kept.
pub trait SnapshotStore: Send + Sync {
    /// Takes over a finished checkpoint directory and the manifest built from it; durable when it
    /// returns. The directory is gone afterwards. Applies the retention.
    fn save(
        &self,
        directory: &Path,
        manifest: &Manifest,
        now_ms: u64,
    ) -> Result<SnapshotMeta, StoreError>;

    /// All snapshots, newest first.
    fn list(&self) -> Vec<SnapshotMeta>;

    /// One snapshot, without its data.
    fn metadata(&self, id: SnapshotId) -> Option<SnapshotMeta>;

    /// Its manifest.
    fn manifest(&self, id: SnapshotId) -> Result<StoredManifest, StoreError>;

    /// Opens a part for reading; `part` is its position in the manifest.
    fn open_part(&self, id: SnapshotId, part: u32) -> Result<Arc<dyn PartReader>, StoreError>;

    /// Finds a part with this digest and length in any snapshot. Its bytes are not checked.
    fn find_part(&self, digest: Digest, bytes: u64) -> Option<PartSource>;

    /// Keeps a snapshot for a receiver, instead of what was kept for it before; renews the pin's
    /// life.
    fn pin(&self, id: SnapshotId, receiver: NodeId, now_ms: u64) -> Result<(), StoreError>;

    /// Ends a receiver's pin.
    fn unpin(&self, receiver: NodeId);

    /// Breaks pins that are over their budgets, then removes what is neither new nor pinned.
    fn retain(&self, now_ms: u64) -> Retained;

    /// Removes a snapshot, pinned or not.
    fn remove(&self, id: SnapshotId) -> Result<(), StoreError>;

    /// Reads and checks every byte.
    fn verify(&self, id: SnapshotId) -> Result<VerifyReport, StoreError>;

    /// Takes a damaged snapshot out of service, but keeps its bytes for people to look at.
    fn set_aside(&self, id: SnapshotId, reason: &str) -> Result<(), StoreError>;
}
