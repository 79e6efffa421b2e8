//! The receiver's side of snapshots, from MsgSnapshot to a new generation of the state.
//!
//! Data first, then `step`: a MsgSnapshot is taken out of the message stream, its data is pulled and
//! prepared, and only then raft hears of it. From there to the end of the install no tick and no
//! message reaches raft: it would campaign over a log that is gone.

use raft::eraftpb::{Message, MessageType, Snapshot};
use raft::{Ready, StateRole};

use super::core::{Core, Halt};
use super::io::{InstallPlan, Output, SnapshotMeta};
use super::wire::{conf_state_from_raft, conf_state_to_raft};
use super::{HardState, LogStart};
use crate::codec;
use crate::types::{Index, Node, NodeId, Pin, SnapshotId};

/// Where the install of a snapshot stands.
#[derive(Default)]
pub(super) struct Install {
    /// Whole on disk, being linked into a generation; one at a time.
    preparing: Option<SnapshotMeta>,
    phase: Phase,
    /// What became of a snapshot, for the leader to hear as soon as one is known.
    unreported: Option<(SnapshotId, Index, Result<(), String>)>,
}

#[derive(Default)]
enum Phase {
    /// Raft runs.
    #[default]
    Idle,
    /// A generation is ready; waiting for a leader.
    Prepared(SnapshotMeta, u64),
    /// Nothing new is taken; waiting until all that was begun is durable and applied.
    Draining(SnapshotMeta, u64),
    /// Raft has the snapshot; the plan is being carried out.
    Stepped(SnapshotMeta, u64, Box<Ready>),
}

impl Install {
    /// Whether this snapshot is past being durable.
    fn holds(&self, id: SnapshotId) -> bool {
        let held = match &self.phase {
            Phase::Idle => self.preparing.as_ref(),
            Phase::Prepared(meta, _) | Phase::Draining(meta, _) | Phase::Stepped(meta, ..) => {
                Some(meta)
            }
        };
        held.is_some_and(|meta| meta.id == id)
    }

    /// Whether raft runs as usual.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Prepared(..))
    }

    /// Whether raft holds a Ready that only the end of the install may give back.
    pub fn is_stepped(&self) -> bool {
        matches!(self.phase, Phase::Stepped(..))
    }
}

impl Core {
    pub(super) fn handle_snapshot_message(
        &mut self,
        from: NodeId,
        message: Message,
        message_bytes: usize,
    ) {
        if message.term < self.raw.raft.term {
            // raft-rs would drop it with a log line and no answer, too.
            return;
        }
        let metadata = message.get_snapshot().get_metadata().clone();
        let index = metadata.index;
        let log = &self.raw.raft.raft_log;
        let not_needed = index < log.committed || log.match_term(index, metadata.term);
        let conf_state = conf_state_from_raft(metadata.get_conf_state());
        if not_needed || !conf_state.contains(self.config.node) {
            // raft-rs answers by itself that it is past this, or refuses one without this node.
            self.step_quietly(message);
            return;
        }
        // Heard from a leader: raft must know, without the snapshot. A heartbeat says just that.
        let mut heartbeat = Message::default();
        heartbeat.set_msg_type(MessageType::MsgHeartbeat);
        (heartbeat.from, heartbeat.to, heartbeat.term) = (message.from, message.to, message.term);
        self.step_quietly(heartbeat);
        match codec::manifest::decode_reference(&message.get_snapshot().data) {
            Ok(reference) => self.outputs.push_back(Output::FetchSnapshot {
                reference,
                index,
                from,
                message_bytes: message_bytes as u64,
            }),
            Err(error) => {
                slog::warn!(self.logger, "refused an offered snapshot"; "peer" => from.0,
                    "index" => index, "error" => %error);
            }
        }
    }

    fn step_quietly(&mut self, message: Message) {
        let kind = message.get_msg_type();
        if let Err(error) = self.raw.step(message) {
            slog::debug!(self.logger, "raft dropped a message"; "kind" => ?kind, "error" => %error);
        }
    }

    /// The pull lives: its leader is to know, unless the log has brought what it would bring.
    pub(super) fn handle_pulling(
        &mut self,
        (id, index, source): (SnapshotId, Index, NodeId),
        wants_new_offer: bool,
    ) {
        if index <= self.commit_index() && !self.install.holds(id) {
            // Without a report: a word of life may come late, after that of success.
            slog::debug!(self.logger, "a pull is not needed any more"; "snapshot" => %id);
            return self.outputs.push_back(Output::DiscardSnapshot { id });
        }
        if let Some(to) = self.other_leader() {
            let progress = Output::SendProgress { to, id, index, source, wants_new_offer };
            self.outputs.push_back(progress);
        }
    }

    pub(super) fn handle_snapshot_durable(&mut self, meta: SnapshotMeta) {
        if self.install.holds(meta.id) {
            // Told again.
            return;
        }
        if meta.index <= self.commit_index() || !meta.conf_state.contains(self.config.node) {
            return self.discard(meta.id, meta.index, "the log has caught up");
        }
        if self.install.preparing.is_some() || !matches!(self.install.phase, Phase::Idle) {
            return self.discard(meta.id, meta.index, "another snapshot is being installed");
        }
        self.outputs.push_back(Output::PrepareSnapshot { id: meta.id });
        self.install.preparing = Some(meta);
    }

    pub(super) fn handle_prepare_failed(&mut self, id: SnapshotId, reason: &str) {
        if let Some(meta) = self.install.preparing.take_if(|meta| meta.id == id) {
            slog::error!(self.logger, "a pulled snapshot cannot be used"; "error" => reason,
                "snapshot" => %id);
            self.discard(id, meta.index, reason);
        }
    }

    pub(super) fn handle_snapshot_prepared(&mut self, id: SnapshotId, generation: u64) {
        assert!(generation > self.generation, "generations grow");
        let meta = self.install.preparing.take().expect("it was asked to be prepared");
        assert_eq!(meta.id, id, "one snapshot is prepared at a time");
        self.install.phase = Phase::Prepared(meta, generation);
    }

    pub(super) fn handle_pull_failed(&mut self, id: SnapshotId, index: Index, reason: String) {
        self.report_to_leader(id, index, Err(reason));
    }

    fn discard(&mut self, id: SnapshotId, index: Index, reason: &str) {
        slog::info!(self.logger, "dropping a snapshot"; "snapshot" => %id, "because" => reason);
        self.outputs.push_back(Output::DiscardSnapshot { id });
        self.report_to_leader(id, index, Err(reason.to_owned()));
    }

    fn report_to_leader(&mut self, id: SnapshotId, index: Index, outcome: Result<(), String>) {
        let Some(to) = self.other_leader() else {
            // A node that has just started knows none. Untold, whoever leads would wait for its word
            // until the lease is over.
            self.install.unreported = Some((id, index, outcome));
            return;
        };
        let (ok, reason) = match outcome {
            Ok(()) => (true, String::new()),
            Err(reason) => (false, reason),
        };
        self.outputs.push_back(Output::SendReport { to, index, id, ok, reason });
    }

    fn other_leader(&self) -> Option<NodeId> {
        let leader = NodeId(self.raw.raft.leader_id);
        (leader.0 != 0 && leader != self.config.node).then_some(leader)
    }

    /// Moves a prepared snapshot on as far as it can go now.
    pub(super) fn try_install(&mut self) -> Result<(), Halt> {
        if self.other_leader().is_some()
            && let Some((id, index, outcome)) = self.install.unreported.take()
        {
            self.report_to_leader(id, index, outcome);
        }
        if let Phase::Prepared(meta, _) = &self.install.phase {
            if meta.index <= self.commit_index() {
                let (id, index) = (meta.id, meta.index);
                self.install.phase = Phase::Idle;
                self.discard(id, index, "the log has caught up");
                return Ok(());
            }
            // Only a follower of a known leader may step a snapshot.
            let raft = &self.raw.raft;
            if raft.state == StateRole::Follower && raft.leader_id != 0 {
                // What raft has begun to say is finished first; nothing new is taken from here on.
                self.process_ready()?;
                if let Phase::Prepared(meta, generation) = std::mem::take(&mut self.install.phase) {
                    self.install.phase = Phase::Draining(meta, generation);
                }
            }
        }
        if matches!(self.install.phase, Phase::Draining(..)) {
            self.process_ready()?;
            if self.pending.is_durable() && self.applied == self.handed_out {
                self.step_snapshot()?;
            }
        }
        Ok(())
    }

    fn step_snapshot(&mut self) -> Result<(), Halt> {
        let Phase::Draining(meta, generation) = std::mem::take(&mut self.install.phase) else {
            unreachable!("called while draining");
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = meta.index;
        metadata.term = meta.term;
        metadata.set_conf_state(conf_state_to_raft(&meta.conf_state));
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        message.from = self.raw.raft.leader_id;
        message.to = self.config.node.0;
        message.term = self.raw.raft.term;
        message.set_snapshot(snapshot);
        self.step_quietly(message);
        if self.raw.snap().is_none_or(|snapshot| snapshot.get_metadata().index != meta.index) {
            // The log caught up, or this node has left the configuration meanwhile.
            self.discard(meta.id, meta.index, "raft does not take it");
            return Ok(());
        }
        let ready = self.raw.ready();
        assert_eq!(ready.snapshot().get_metadata().index, meta.index);
        assert!(ready.entries().is_empty() && ready.committed_entries().is_empty());
        let now = self.raw.raft.hard_state();
        let hard_state = HardState { term: now.term, vote: now.vote, commit: meta.index };
        let start = LogStart { index: meta.index, term: meta.term };
        slog::info!(self.logger, "installing a snapshot"; "index" => meta.index,
            "snapshot" => %meta.id, "generation" => generation);
        let plan = InstallPlan { id: meta.id, start, hard_state, generation };
        self.outputs.push_back(Output::Install(plan));
        self.install.phase = Phase::Stepped(meta, generation, Box::new(ready));
        Ok(())
    }

    pub(super) fn handle_installed(
        &mut self,
        generation: u64,
        pins: Vec<Pin>,
        nodes: Vec<Node>,
    ) -> Result<(), Halt> {
        let Phase::Stepped(meta, expected, ready) = std::mem::take(&mut self.install.phase) else {
            return Err(Halt::Boot(format!("generation {generation} was installed unasked")));
        };
        assert_eq!(generation, expected, "another generation was installed");
        let mut ready = *ready;
        let at_once = ready.take_messages();
        let after_write = ready.take_persisted_messages();
        self.raw.mut_store().reset(LogStart { index: meta.index, term: meta.term });
        let now = self.raw.raft.hard_state();
        let hard_state = HardState { term: now.term, vote: now.vote, commit: meta.index };
        self.pending.note_installed(hard_state);
        let mut light = self.raw.advance_append(ready);
        assert!(light.committed_entries().is_empty(), "entries after a snapshot");
        self.raw.advance_apply_to(meta.index);
        self.generation = generation;
        (self.applied, self.handed_out, self.conf_index) = (meta.index, meta.index, meta.index);
        self.conf_state = meta.conf_state.clone();
        self.set_nodes(nodes);
        self.compaction.note_installed(meta.index);
        self.set_pins(pins);
        let messages = at_once.into_iter().chain(after_write).chain(light.take_messages());
        messages.collect::<Vec<_>>().into_iter().for_each(|message| self.send_after(0, message));
        self.forget_proposals(meta.index);
        self.release_reads();
        self.outputs.push_back(Output::SnapshotInstalled { id: meta.id });
        self.report_to_leader(meta.id, meta.index, Ok(()));
        Ok(())
    }
}
