//! raft-rs's Ready cycle: what leaves at once, what waits for the disk, what is applied.

use std::collections::VecDeque;

use protobuf::Message as _;
use raft::StateRole;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType};

use super::core::{Core, Halt};
use super::io::{AppliedReply, Output};
use super::wire::{encode_entry, encode_message};
use super::{HardState, LogWrite};
use crate::limits;
use crate::types::{Committed, Index, Node, NodeId, Payload, Pin};

/// What waits for the log thread.
pub(super) struct Pending {
    /// As raft has it now; a change of the commit index alone rides along with the next write.
    pub hard_state: HardState,
    /// The last write asked for and the last one known to be durable.
    asked: u64,
    durable: u64,
    /// The commit index in the last write asked for.
    asked_commit: Index,
    /// Writes under way.
    writes: VecDeque<Write>,
    /// The last write that changed term or vote.
    vote_write: u64,
    /// Messages that leave once a write is durable, in order.
    gated: VecDeque<(u64, Message)>,
    /// Hand-outs that wait for a write, in order: see `hand_out`.
    held: VecDeque<(u64, Output)>,
    /// Bytes handed to apply and not reported applied: index past the last of each hand-out.
    applying: VecDeque<(Index, usize)>,
    applying_bytes: usize,
}

/// A write on its way to the disk.
struct Write {
    number: u64,
    /// The newest Ready whose entries and hard state it holds.
    ready: u64,
    /// Its last entry that no later write has replaced; 0: it has none.
    last: Index,
}

impl Pending {
    /// `stored_commit` is the commit index on disk; `hard_state` may know more.
    pub fn new(hard_state: HardState, stored_commit: Index) -> Self {
        Pending {
            hard_state,
            asked: 0,
            durable: 0,
            asked_commit: stored_commit,
            writes: VecDeque::new(),
            vote_write: 0,
            gated: VecDeque::new(),
            held: VecDeque::new(),
            applying: VecDeque::new(),
            applying_bytes: 0,
        }
    }

    /// Whether every write asked for is durable.
    pub fn is_durable(&self) -> bool {
        self.durable == self.asked
    }

    /// The install of a snapshot wrote this, durably.
    pub fn note_installed(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
        self.asked_commit = hard_state.commit;
    }

    /// Whether so much waits to be applied that no more is handed out.
    pub fn is_full(&self) -> bool {
        self.applying_bytes as u64 >= 4 * limits::COMMITTED_BYTES_PER_READY_MAX
    }

    fn note_applied(&mut self, index: Index) {
        while let Some(&(last, bytes)) = self.applying.front() {
            if last > index {
                break;
            }
            self.applying.pop_front();
            self.applying_bytes -= bytes;
        }
    }
}

impl Core {
    pub(super) fn process_ready(&mut self) -> Result<(), Halt> {
        while self.has_more_to_say() {
            // raft-rs hands out committed entries with every Ready; while much waits to be applied
            // it finds none.
            self.raw.mut_store().withhold_entries(self.pending.is_full());
            let mut ready = self.raw.ready();
            self.raw.mut_store().withhold_entries(false);
            assert!(ready.snapshot().get_metadata().index == 0, "a snapshot outside an install");
            let ready_number = ready.number();
            let read_states = ready.take_read_states();
            let entries = ready.take_entries();
            let hard_state = ready.hs().cloned();
            let at_once = ready.take_messages();
            let after_write = ready.take_persisted_messages();
            let committed = ready.take_committed_entries();

            self.raw.mut_store().append(&entries);
            let mut vote_changed = false;
            if let Some(hs) = hard_state {
                let next = HardState { term: hs.term, vote: hs.vote, commit: hs.commit };
                let before = self.pending.hard_state;
                vote_changed = (next.term, next.vote) != (before.term, before.vote);
                self.pending.hard_state = next;
            }
            if !entries.is_empty() || vote_changed {
                self.ask_to_persist(ready_number, &entries);
            }
            if vote_changed {
                self.pending.vote_write = self.pending.asked;
            }
            self.raw.advance_append_async(ready);
            if self.pending.is_durable() {
                self.raw.on_persist_ready(ready_number);
            }

            // A lone voter wins inside `campaign` and speaks as leader in the same Ready; its term
            // must be durable before anyone hears of it.
            let vote_write = self.pending.vote_write;
            at_once.into_iter().for_each(|message| self.send_after(vote_write, message));
            let asked = self.pending.asked;
            after_write.into_iter().for_each(|message| self.send_after(asked, message));
            self.resolve_reads(read_states);
            self.hand_out(committed)?;
        }
        Ok(())
    }

    /// Whether a Ready would hold anything. Committed entries alone wait while there is no room for
    /// them; the report of what was applied brings the next chance.
    pub(super) fn has_more_to_say(&self) -> bool {
        let raft = &self.raw.raft;
        self.raw.has_ready()
            && (!self.pending.is_full()
                || !raft.msgs.is_empty()
                || !raft.read_states.is_empty()
                || !raft.raft_log.unstable_entries().is_empty())
    }

    fn ask_to_persist(&mut self, ready: u64, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            // What an earlier write holds from here on has been replaced.
            for write in &mut self.pending.writes {
                write.last = write.last.min(first.index - 1);
            }
        }
        self.pending.asked += 1;
        let number = self.pending.asked;
        let last = entries.last().map_or(0, |entry| entry.index);
        self.pending.writes.push_back(Write { number, ready, last });
        self.pending.asked_commit = self.pending.hard_state.commit;
        let write = LogWrite {
            entries: entries.iter().map(encode_entry).collect(),
            hard_state: Some(self.pending.hard_state),
        };
        self.outputs.push_back(Output::Persist { number, write });
    }

    /// Asks for a write that says that `index` is committed, unless an earlier one says so: a log
    /// never begins after what it knows to be committed.
    pub(super) fn persist_commit(&mut self, index: Index) {
        if self.pending.asked_commit < index {
            // Of no Ready: raft-rs has nothing to hear of it.
            self.ask_to_persist(0, &[]);
        }
    }

    pub(super) fn handle_persisted(&mut self, number: u64, log_bytes: u64) {
        assert!(number <= self.pending.asked, "write {number} was never asked for");
        self.compaction.log_bytes = log_bytes;
        self.pending.durable = self.pending.durable.max(number);
        let mut ready = 0;
        while self.pending.writes.front().is_some_and(|write| write.number <= number) {
            let write = self.pending.writes.pop_front().expect("front was there");
            ready = ready.max(write.ready);
            self.raw.mut_store().set_durable(write.last);
        }
        if self.install.is_stepped() {
            return;
        }
        self.raw.on_persist_ready(ready);
        while self.pending.gated.front().is_some_and(|(write, _)| *write <= number) {
            let (_, message) = self.pending.gated.pop_front().expect("front was there");
            self.send(message);
        }
        while self.pending.held.front().is_some_and(|(write, _)| *write <= number) {
            let (_, output) = self.pending.held.pop_front().expect("front was there");
            self.outputs.push_back(output);
        }
    }

    /// Sends `message` once write number `write` is durable; in the order of the calls.
    pub(super) fn send_after(&mut self, write: u64, message: Message) {
        if write <= self.pending.durable {
            self.send(message);
        } else {
            self.pending.gated.push_back((write, message));
        }
    }

    fn send(&mut self, message: Message) {
        let to = NodeId(message.to);
        let kind = message.get_msg_type();
        let mut offers = None;
        if kind == MessageType::MsgSnapshot {
            let reference_bytes = message.get_snapshot().data.len();
            assert!(reference_bytes <= limits::SNAPSHOT_REFERENCE_BYTES_MAX);
            offers = self.note_offered(to, message.get_snapshot().get_metadata().index);
        }
        let urgent = !matches!(kind, MessageType::MsgAppend | MessageType::MsgSnapshot);
        self.outputs.push_back(Output::Send {
            to,
            urgent,
            bytes: encode_message(&message),
            offers,
        });
    }

    /// Hands committed entries to apply, taking membership changes on the way.
    ///
    /// A membership change is not handed out before it is durable here that it is committed: when
    /// two voters become one, the one that is left would, after a crash, ask for the vote of the
    /// one that has gone.
    fn hand_out(&mut self, entries: Vec<Entry>) -> Result<(), Halt> {
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
        assert_eq!(entries[0].index, self.handed_out + 1, "committed entries have no gaps");
        let mut bytes = 0;
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            bytes += entry.data.len() + 64;
            committed.push(self.take_committed(entry)?);
        }
        self.handed_out = last;
        self.pending.applying.push_back((last, bytes));
        self.pending.applying_bytes += bytes;
        self.compaction.note_handed_out(last, bytes as u64);
        let changes = |entry: &Committed| matches!(entry.payload, Payload::ConfChange { .. });
        let last_change = committed.iter().rfind(|entry| changes(entry)).map(|entry| entry.index);
        let output = Output::Apply { generation: self.generation, entries: committed };
        if let Some(index) = last_change {
            self.persist_commit(index);
        }
        let wait = last_change.is_some() && !self.pending.is_durable();
        match self.pending.held.back() {
            None if !wait => self.outputs.push_back(output),
            Some((write, _)) if !wait => self.pending.held.push_back((*write, output)),
            _ => self.pending.held.push_back((self.pending.asked, output)),
        }
        Ok(())
    }

    fn take_committed(&mut self, entry: Entry) -> Result<Committed, Halt> {
        let (index, term) = (entry.index, entry.term);
        let payload = match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => Payload::Empty,
            EntryType::EntryNormal => Payload::Command(entry.data),
            EntryType::EntryConfChangeV2 => self.change_conf(&entry)?,
            EntryType::EntryConfChange => {
                return Err(Halt::Raft {
                    attempted: format!("applying index {index}"),
                    cause: "a form of membership change that ratoon never writes".into(),
                });
            }
        };
        Ok(Committed { index, term, payload })
    }

    fn change_conf(&mut self, entry: &Entry) -> Result<Payload, Halt> {
        let halt = |cause: String| Halt::Raft {
            attempted: format!("applying the membership change at index {}", entry.index),
            cause,
        };
        let mut change = ConfChangeV2::default();
        change.merge_from_bytes(&entry.data).map_err(|e| halt(e.to_string()))?;
        let conf_state = self.raw.apply_conf_change(&change).map_err(|e| halt(e.to_string()))?;
        let conf_state = self.take_conf_state(&conf_state);
        self.conf_index = entry.index;
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && !conf_state.voters.contains(&self.config.node.0) {
            // raft-rs would go on to lead and panic at its next commit. The others may not know
            // yet that this entry is committed.
            raft.bcast_append();
            let term = raft.term;
            raft.become_follower(term, 0);
        }
        Ok(Payload::ConfChange { context: change.take_context(), conf_state })
    }

    pub(super) fn handle_applied(
        &mut self,
        generation: u64,
        index: Index,
        replies: Vec<AppliedReply>,
        pins: Option<Vec<Pin>>,
        nodes: Option<Vec<Node>>,
    ) {
        if generation != self.generation {
            // Of a state that a snapshot has replaced since.
            return;
        }
        assert!(index > self.applied && index <= self.handed_out, "applied out of order");
        self.applied = index;
        self.pending.note_applied(index);
        if !self.install.is_stepped() {
            self.raw.advance_apply_to(index);
        }
        if let Some(nodes) = nodes {
            self.set_nodes(nodes);
        }
        if let Some(pins) = pins {
            self.set_pins(pins);
        }
        self.answer_proposals(index, replies);
        self.release_reads();
    }
}
