//! When the state is flushed and how far the log may be dropped.
//!
//! Never past what is flushed: the log is the state's write-ahead log. Never past a pin. Past a live
//! follower only over the hard budget. Keeping the log is cheaper than a snapshot.

use raft::ProgressState;

use super::LogStart;
use super::core::{Core, Halt};
use super::io::{Answer, Output, Waiter};
use crate::types::{Index, NodeId};

/// See the module.
pub(super) struct Compaction {
    /// The state is durable up to here.
    pub flushed: Index,
    /// Bytes the log takes.
    pub log_bytes: u64,
    /// Bytes the state takes.
    pub state_bytes: u64,
    /// Bytes handed to apply since the last flush was asked for.
    unflushed_bytes: u64,
    flush_asked: bool,
    /// Clients that asked for a compaction, once the state is flushed to this index.
    forced: Vec<(Waiter, Index)>,
    due: bool,
}

impl Compaction {
    pub fn new(applied: Index, log_bytes: u64, state_bytes: u64) -> Self {
        Compaction {
            flushed: applied,
            log_bytes,
            state_bytes,
            unflushed_bytes: 0,
            flush_asked: false,
            forced: Vec::new(),
            due: false,
        }
    }

    pub fn note_handed_out(&mut self, _last: Index, bytes: u64) {
        self.unflushed_bytes += bytes;
    }

    pub fn note_installed(&mut self, index: Index) {
        self.flushed = index;
        self.unflushed_bytes = 0;
        self.log_bytes = 0;
    }
}

impl Core {
    pub(super) fn tick_compaction(&mut self) {
        self.compaction.due = true;
        if self.compaction.unflushed_bytes >= self.config.flush_bytes {
            self.ask_to_flush();
        }
    }

    fn ask_to_flush(&mut self) {
        if !self.compaction.flush_asked {
            self.compaction.flush_asked = true;
            self.compaction.unflushed_bytes = 0;
            self.outputs.push_back(Output::FlushState);
        }
    }

    pub(super) fn handle_flushed(&mut self, index: Index, state_bytes: u64) {
        self.compaction.flush_asked = false;
        self.compaction.state_bytes = state_bytes;
        // A flush of a generation that a snapshot has replaced may report an older index.
        self.compaction.flushed = self.compaction.flushed.max(index.min(self.applied));
        self.compaction.due = true;
    }

    pub(super) fn request_compaction(&mut self, waiter: Waiter) {
        self.compaction.forced.push((waiter, self.applied));
        self.compaction.due = true;
        if self.compaction.flushed < self.applied {
            self.ask_to_flush();
        }
    }

    /// Compacts if it is due and there is something to gain.
    pub(super) fn consider_compaction(&mut self) -> Result<(), Halt> {
        if !std::mem::take(&mut self.compaction.due) {
            return Ok(());
        }
        let flushed = self.compaction.flushed;
        let ready: Vec<Waiter> = self
            .compaction
            .forced
            .extract_if(.., |(_, index)| *index <= flushed)
            .map(|(waiter, _)| waiter)
            .collect();
        if !self.compaction.forced.is_empty() && flushed < self.applied {
            self.ask_to_flush();
        }
        let forced = !ready.is_empty();
        if forced || self.compaction.log_bytes > self.config.log_bytes_soft {
            self.compact(forced)?;
        }
        let start = self.raw.store().start().index;
        for waiter in ready {
            self.answer(waiter, Ok(Answer::Compacted(start)));
        }
        Ok(())
    }

    fn compact(&mut self, forced: bool) -> Result<(), Halt> {
        let start = self.raw.store().start();
        let to = self.compaction_limit(forced);
        if to <= start.index {
            return Ok(());
        }
        let term = raft::Storage::term(self.raw.store(), to)
            .map_err(|e| self.raft_error("reading the term of the log's new start", e))?;
        let start = LogStart { index: to, term };
        self.persist_commit(to);
        self.raw.mut_store().compact(start);
        self.outputs.push_back(Output::CompactLog { start });
        Ok(())
    }

    /// The last entry that may go.
    fn compaction_limit(&self, forced: bool) -> Index {
        let start = self.raw.store().start().index;
        let mut limit = self.compaction.flushed.min(self.applied);
        for pin in self.pins.iter().filter(|pin| pin.receiver != self.config.node) {
            limit = limit.min(pin.index);
        }
        if let Some(held) = self.held_for_build() {
            limit = limit.min(held);
        }
        if !forced {
            // Keep about half of the soft budget: a follower back from a restart needs no snapshot.
            let span = self.applied - start;
            let share = (self.config.log_bytes_soft / 2) as f64 / self.compaction.log_bytes as f64;
            let kept = (span as f64 * share) as u64;
            limit = limit.min(self.applied - kept.min(span));
        }
        if self.leads() && self.compaction.log_bytes < self.config.log_bytes_hard {
            for (id, progress) in self.raw.raft.prs().iter() {
                let lives = self.hears(NodeId(*id)) && progress.state != ProgressState::Snapshot;
                // A peer that matches nothing yet is about to need a snapshot, not the log.
                if *id != self.config.node.0 && lives && progress.matched > 0 {
                    limit = limit.min(progress.matched);
                }
            }
        }
        limit
    }
}
