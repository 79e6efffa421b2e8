//! What the core needs of a raft log on disk, and what it asks to have written to it.
//!
//! Reading is a trait because two stores stand behind it: RocksDB and the adversarial twin of the
//! simulation. Writing is data: the core says what must become durable, a runtime does it and
//! answers with `Persisted`.

use bytes::Bytes;
use thiserror::Error;

use crate::kv::StoreFault;
use crate::types::{Index, Term};

/// One entry as stored: its place, and the encoded raft entry, opaque below this room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Place in the log.
    pub index: Index,
    /// Term of the leader that wrote it.
    pub term: Term,
    /// The encoded raft entry.
    pub bytes: Bytes,
}

/// What raft must not forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// Newest term seen.
    pub term: Term,
    /// Whom this node voted for in it; 0: nobody.
    pub vote: u64,
    /// Highest index known to be committed.
    pub commit: Index,
}

/// The entry before the first one kept: everything up to it lives in the state alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStart {
    /// Its index; the first kept entry is `index + 1`.
    pub index: Index,
    /// Its term.
    pub term: Term,
}

/// Writes that must become durable together, in order with those before and after.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogWrite {
    /// Consecutive entries. The first may lie at or below the last index stored: that entry and
    /// all after it are replaced.
    pub entries: Vec<LogEntry>,
    /// Replaces the hard state.
    pub hard_state: Option<HardState>,
}

/// The log could not be read. Halt: raft cannot go on without its log.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{attempted}: {cause}")]
pub struct LogError {
    /// What was being done.
    pub attempted: String,
    /// What the store said.
    pub cause: String,
    /// What kind of failure it is.
    pub fault: StoreFault,
}

/// A readable raft log. Reads see at least every write that was reported durable; what is not
/// durable yet the core serves from memory.
pub trait LogStore: Send {
    /// The entry before the first.
    fn start(&self) -> LogStart;
    /// Index of the last entry; `start().index` if there is none.
    fn last_index(&self) -> Index;
    /// Term of an entry in `start().index ..= last_index()`; None outside.
    fn term(&self, index: Index) -> Result<Option<Term>, LogError>;
    /// Entries `from .. to` (exclusive), in order, cut short after `max_bytes` but never empty when
    /// `from < to`. The caller keeps inside `start().index + 1 ..= last_index() + 1`.
    fn entries(&self, from: Index, to: Index, max_bytes: u64) -> Result<Vec<LogEntry>, LogError>;
}
