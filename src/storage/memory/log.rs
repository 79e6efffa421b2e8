//! The raft log's twin: writing and syncing are two steps, and a crash may come between them.
//!
//! A crash keeps some prefix of the unsynced writes, as a disk may. It obeys and enforces the same
//! rules as `RaftLog` (`log_bounds.rs`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use super::state::mix;
use crate::raft::{HardState, LogEntry, LogError, LogStart, LogStore, LogWrite};
use crate::storage::log_bounds::LogBounds;
use crate::types::{Index, Term};

/// A raft log in memory. Clones share it, like those of `RaftLog`.
#[derive(Clone)]
pub struct MemoryLog {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    /// What a crash certainly leaves.
    synced: Image,
    /// Writes since then, oldest first.
    unsynced: Vec<LogWrite>,
    /// What readers see: all of it.
    newest: Image,
    /// Syncs that had something to do.
    syncs: u64,
}

#[derive(Clone)]
struct Image {
    bounds: LogBounds,
    /// Entries from `bounds.start.index + 1` to `bounds.last`.
    entries: VecDeque<LogEntry>,
}

impl Image {
    fn write(&mut self, write: &LogWrite) {
        let after = self.bounds.after_writes(std::slice::from_ref(write));
        if let Some(first) = write.entries.first() {
            self.entries.truncate((first.index - self.bounds.start.index - 1) as usize);
            self.entries.extend(write.entries.iter().cloned());
        }
        self.bounds = after;
    }

    fn compact_to(&mut self, index: Index) {
        let term = self.term(index).expect("the log cannot be compacted to where it has nothing");
        let after = self.bounds.after_compaction(LogStart { index, term });
        self.entries.drain(..(index - self.bounds.start.index) as usize);
        self.bounds = after;
    }

    fn reset_to(&mut self, start: LogStart, hard_state: HardState) {
        self.bounds = self.bounds.after_reset(start, hard_state);
        self.entries.clear();
    }

    fn term(&self, index: Index) -> Option<Term> {
        let start = self.bounds.start;
        match index.checked_sub(start.index)? {
            0 => Some(start.term),
            nth => self.entries.get(nth as usize - 1).map(|entry| entry.term),
        }
    }
}

impl MemoryLog {
    /// A log without entries that begins after `start`, durably.
    pub fn create(start: LogStart, hard_state: HardState) -> Self {
        let image = Image { bounds: LogBounds::empty(start, hard_state), entries: VecDeque::new() };
        let inner = Inner { synced: image.clone(), unsynced: Vec::new(), newest: image, syncs: 0 };
        MemoryLog { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Hands a write over; readers see it at once. The rules are those of `RaftLog::write`.
    pub fn append(&self, write: &LogWrite) {
        let mut inner = self.lock();
        inner.newest.write(write);
        inner.unsynced.push(write.clone());
    }

    /// Makes all writes durable.
    pub fn sync(&self) {
        let mut inner = self.lock();
        let all = inner.unsynced.len();
        inner.syncs += u64::from(all > 0);
        inner.keep(all);
    }

    /// Forgets all unsynced writes but some of the first, as the seed has it. Returns the hard
    /// state that is left, as opening a log does.
    pub fn crash(&self, seed: u64) -> HardState {
        let mut inner = self.lock();
        let choices = inner.unsynced.len() as u64 + 1;
        inner.keep((mix(seed) % choices) as usize);
        inner.unsynced.clear();
        inner.newest = inner.synced.clone();
        inner.synced.bounds.hard_state
    }

    /// Drops entries up to and including `index`, durably, and all writes before it become so. They
    /// must be applied, which says that they are committed.
    pub fn compact_to(&self, index: Index) {
        self.sync();
        let mut inner = self.lock();
        inner.newest.compact_to(index);
        inner.synced.compact_to(index);
    }

    /// Drops all entries, durably: a snapshot stands for them.
    pub fn reset_to(&self, start: LogStart, hard_state: HardState) {
        self.sync();
        let mut inner = self.lock();
        inner.newest.reset_to(start, hard_state);
        inner.synced.reset_to(start, hard_state);
    }

    /// The newest hard state, synced or not.
    pub fn hard_state(&self) -> HardState {
        self.lock().newest.bounds.hard_state
    }

    /// Bytes of all entries.
    pub fn bytes(&self) -> u64 {
        self.lock().newest.entries.iter().map(|entry| entry.bytes.len() as u64).sum()
    }

    /// How many syncs there were that had something to do.
    pub fn sync_count(&self) -> u64 {
        self.lock().syncs
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a panic inside the twin has ended the simulation")
    }
}

impl Inner {
    /// Makes the first `count` unsynced writes durable.
    fn keep(&mut self, count: usize) {
        for write in self.unsynced.drain(..count) {
            self.synced.write(&write);
        }
    }
}

impl LogStore for MemoryLog {
    fn start(&self) -> LogStart {
        self.lock().newest.bounds.start
    }

    fn last_index(&self) -> Index {
        self.lock().newest.bounds.last
    }

    fn term(&self, index: Index) -> Result<Option<Term>, LogError> {
        Ok(self.lock().newest.term(index))
    }

    fn entries(&self, from: Index, to: Index, max_bytes: u64) -> Result<Vec<LogEntry>, LogError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let inner = self.lock();
        let LogBounds { start, last, .. } = inner.newest.bounds;
        assert!(
            from > start.index && to <= last + 1,
            "entries {from}..{to} lie outside of {start:?} to {last}"
        );
        let (skip, take) = ((from - start.index - 1) as usize, (to - from) as usize);
        let mut bytes = 0;
        let entries = inner.newest.entries.iter().skip(skip).take(take);
        let fitting = entries.enumerate().take_while(|(nth, entry)| {
            bytes += entry.bytes.len() as u64;
            *nth == 0 || bytes <= max_bytes
        });
        Ok(fitting.map(|(_, entry)| entry.clone()).collect())
    }
}
