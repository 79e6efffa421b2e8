//! What can go wrong with the disk, and who must act.
//!
//! One enum for the room. Errors name what was attempted and carry the cause as it was given; they
//! are logged where they are handled, never here.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::kv::{KvError, StoreFault};
use crate::raft::LogError;

/// Who must act on an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// The same call may succeed later; nothing has changed.
    Retry,
    /// The request does not fit the state of things; nothing has changed.
    Reject,
    /// The node must stop: its disk does not do what it is told, or holds damaged data.
    Halt,
}

/// A storage operation failed.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Retry: another process holds the data directory.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// Reject: what was to be opened is not there.
    #[error("there is no {what} at {}", path.display())]
    Missing {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// Reject: what was to be created is there already.
    #[error("there is something at {} already", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Reject: the call does not fit the present state.
    #[error("{attempted}: refused: {reason}")]
    Refused {
        /// What was attempted.
        attempted: String,
        /// Why not.
        reason: String,
    },
    /// Halt: stored bytes are damaged or missing. The node is rebuilt under a new raft id; nothing
    /// is ever deleted for it.
    #[error("{attempted}: corrupt: {cause}")]
    Corrupt {
        /// What was attempted.
        attempted: String,
        /// What is wrong with the bytes.
        cause: String,
    },
    /// Halt for ever: this node has lost entries that it had acknowledged, and may not vote again. It
    /// is rebuilt under a new raft id.
    #[error("{} says: {reason}; remove this node and join anew", path.display())]
    Lost {
        /// The mark that it left when it found out.
        path: PathBuf,
        /// How it found out.
        reason: String,
    },
    /// Halt: no room on the disk. A restart may succeed once there is.
    #[error("{attempted}: the disk is full: {cause}")]
    DiskFull {
        /// What was attempted.
        attempted: String,
        /// What the system said.
        cause: String,
    },
    /// Halt: the disk or the store failed in another way.
    #[error("{attempted}: {cause}")]
    Failed {
        /// What was attempted.
        attempted: String,
        /// What the system or the store said.
        cause: String,
    },
}

impl StorageError {
    /// Who must act.
    pub fn remedy(&self) -> Remedy {
        match self {
            StorageError::InUse { .. } => Remedy::Retry,
            StorageError::Missing { .. }
            | StorageError::Exists { .. }
            | StorageError::Refused { .. } => Remedy::Reject,
            StorageError::Corrupt { .. }
            | StorageError::Lost { .. }
            | StorageError::DiskFull { .. }
            | StorageError::Failed { .. } => Remedy::Halt,
        }
    }

    pub(super) fn corrupt(attempted: impl Into<String>, cause: impl ToString) -> Self {
        StorageError::Corrupt { attempted: attempted.into(), cause: cause.to_string() }
    }

    pub(super) fn io(attempted: impl Into<String>, error: io::Error) -> Self {
        let (attempted, cause) = (attempted.into(), error.to_string());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StorageError::DiskFull { attempted, cause }
            }
            _ => StorageError::Failed { attempted, cause },
        }
    }

    /// For `map_err` after a call about one path.
    pub(super) fn io_at(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let attempted = format!("{verb} {}", path.display());
        move |error| StorageError::io(attempted, error)
    }

    /// RocksDB tells its kinds of error by the message alone.
    pub(super) fn rocksdb(attempted: impl Into<String>, error: rocksdb::Error) -> Self {
        let (attempted, kind, cause) = (attempted.into(), error.kind(), error.into_string());
        if kind == rocksdb::ErrorKind::Corruption {
            StorageError::Corrupt { attempted, cause }
        } else if cause.contains("No space left on device") || cause.contains("Disk quota") {
            StorageError::DiskFull { attempted, cause }
        } else {
            StorageError::Failed { attempted, cause }
        }
    }
}

impl From<StorageError> for KvError {
    fn from(error: StorageError) -> Self {
        let (attempted, cause, fault) = split(error);
        KvError { attempted, cause, fault }
    }
}

impl From<StorageError> for LogError {
    fn from(error: StorageError) -> Self {
        let (attempted, cause, fault) = split(error);
        LogError { attempted, cause, fault }
    }
}

/// Its kind of failure is what an operator acts on, so it must survive the way up.
fn split(error: StorageError) -> (String, String, StoreFault) {
    match error {
        StorageError::Corrupt { attempted, cause } => (attempted, cause, StoreFault::Corrupt),
        StorageError::DiskFull { attempted, cause } => (attempted, cause, StoreFault::DiskFull),
        StorageError::Failed { attempted, cause }
        | StorageError::Refused { attempted, reason: cause } => {
            (attempted, cause, StoreFault::Other)
        }
        other => ("using the data directory".to_owned(), other.to_string(), StoreFault::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_still_one_after_it_has_passed_through_log_and_state() {
        let full = || StorageError::io("writing", io::ErrorKind::StorageFull.into());
        assert_eq!(KvError::from(full()).fault, StoreFault::DiskFull);
        assert_eq!(LogError::from(full()).fault, StoreFault::DiskFull);
        let damaged = || StorageError::corrupt("reading", "bad checksum");
        assert_eq!(KvError::from(damaged()).fault, StoreFault::Corrupt);
        assert_eq!(LogError::from(damaged()).fault, StoreFault::Corrupt);
    }
}
