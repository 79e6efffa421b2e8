//! The rules every raft log obeys, whatever stores it.
//!
//! Pure arithmetic over where a log starts and ends. A caller that breaks a rule has a bug that
//! would lose entries, so the rules are assertions, on in release too.

use crate::limits::ENTRY_BYTES_MAX;
use crate::raft::{HardState, LogStart, LogWrite};
use crate::types::Index;

/// Where a log starts and ends, and its hard state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogBounds {
    /// The entry before the first.
    pub start: LogStart,
    /// Index of the last entry; `start.index` if there is none.
    pub last: Index,
    /// The newest hard state.
    pub hard_state: HardState,
}

impl LogBounds {
    /// Of a log that begins after `start` with no entries.
    pub fn empty(start: LogStart, hard_state: HardState) -> Self {
        assert!(
            hard_state.commit == start.index,
            "a log without entries is committed up to its start: {hard_state:?}, {start:?}"
        );
        LogBounds { start, last: start.index, hard_state }
    }

    /// The bounds once `writes` are done, in order.
    pub fn after_writes(mut self, writes: &[LogWrite]) -> Self {
        for write in writes {
            self.after_entries(write);
            if let Some(hard_state) = write.hard_state {
                assert!(
                    hard_state.term >= self.hard_state.term
                        && hard_state.commit >= self.hard_state.commit,
                    "a hard state never goes back: from {:?} to {hard_state:?}",
                    self.hard_state
                );
                assert!(
                    hard_state.term > self.hard_state.term
                        || self.hard_state.vote == 0
                        || hard_state.vote == self.hard_state.vote,
                    "a vote is given once a term: from {:?} to {hard_state:?}",
                    self.hard_state
                );
                self.hard_state = hard_state;
            }
        }
        assert!(
            self.hard_state.commit <= self.last,
            "what is committed here is in the log: {self:?}"
        );
        self
    }

    fn after_entries(&mut self, write: &LogWrite) {
        let Some(first) = write.entries.first() else { return };
        assert!(
            first.index > self.start.index && first.index <= self.last + 1,
            "entries from {} leave a hole after {self:?}",
            first.index
        );
        assert!(
            first.index > self.hard_state.commit,
            "entries from {} would replace committed ones in {self:?}",
            first.index
        );
        for (entry, expected) in write.entries.iter().zip(first.index..) {
            assert!(entry.index == expected, "entry {} where {expected} belongs", entry.index);
            assert!(
                entry.bytes.len() <= ENTRY_BYTES_MAX,
                "entry {} has {} bytes; proposals are bounded before they become entries",
                entry.index,
                entry.bytes.len()
            );
        }
        self.last = first.index + write.entries.len() as u64 - 1;
    }

    /// The bounds once the log begins after `start`, which lies in it and is applied. What is
    /// applied is committed, though the hard state may not say so yet: a commit index that moved
    /// alone is not written by itself.
    pub fn after_compaction(mut self, start: LogStart) -> Self {
        assert!(
            self.start.index <= start.index && start.index <= self.last,
            "the log cannot be compacted to {start:?}: {self:?}"
        );
        self.start = start;
        self.hard_state.commit = self.hard_state.commit.max(start.index);
        self
    }

    /// The bounds once a snapshot has replaced all entries.
    pub fn after_reset(self, start: LogStart, hard_state: HardState) -> Self {
        assert!(
            start.index >= self.start.index && hard_state.term >= self.hard_state.term,
            "a snapshot never takes a log back: from {self:?} to {start:?}, {hard_state:?}"
        );
        LogBounds::empty(start, hard_state)
    }
}
