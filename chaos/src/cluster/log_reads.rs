//! The log as a core reads it: the twin of the storage, on a disk whose reads may fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ratoon::kv::StoreFault;
use ratoon::raft::{LogEntry, LogError, LogStart, LogStore};
use ratoon::storage::memory::MemoryLog;
use ratoon::types::{Index, Term};

/// See the module.
pub struct LogReads {
    log: MemoryLog,
    fails: Arc<AtomicBool>,
}

impl LogReads {
    /// Reads of `log`, which fail while `fails` says so.
    pub fn new(log: MemoryLog, fails: Arc<AtomicBool>) -> Self {
        LogReads { log, fails }
    }

    fn attempt(&self, attempted: &str) -> Result<(), LogError> {
        match self.fails.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(LogError {
                attempted: attempted.to_owned(),
                cause: "the disk failed".to_owned(),
                fault: StoreFault::Other,
            }),
        }
    }
}

impl LogStore for LogReads {
    fn start(&self) -> LogStart {
        self.log.start()
    }

    fn last_index(&self) -> Index {
        self.log.last_index()
    }

    fn term(&self, index: Index) -> Result<Option<Term>, LogError> {
        self.attempt("reading a term")?;
        self.log.term(index)
    }

    fn entries(&self, from: Index, to: Index, max_bytes: u64) -> Result<Vec<LogEntry>, LogError> {
        self.attempt("reading entries")?;
        self.log.entries(from, to, max_bytes)
    }
}
