//! Requests that wait: proposals, forwards, reads, leadership transfers.
//!
//! Every waiter gets exactly one answer: the outcome, a refusal, or an honest 'unknown'.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::ReadState;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

use super::core::Core;
use super::io::{Answer, AppliedReply, ClientRequest, Output, Waiter};
use crate::codec;
use crate::limits;
use crate::types::{Code, Command, Failure, Index, MembershipChange, NodeId, Reply, Request, Term};

/// Batches of reads on their way through raft at once.
const READ_BATCHES_MAX: usize = 4;
/// A read index that raft-rs dropped in silence is asked for again after this many ticks.
const READ_RETRY_TICKS: u64 = 6;

/// See the module.
#[derive(Default)]
pub(super) struct Clients {
    /// Proposed here, by index.
    proposed: BTreeMap<Index, Proposed>,
    /// With the leader; the value is the deadline.
    forwarded: BTreeMap<Waiter, u64>,
    /// Waiting for a leader to be known.
    parked: VecDeque<Parked>,
    /// Reads not yet given to raft.
    reads: Vec<Reading>,
    /// Reads given to raft, by the counter in their context.
    asked: BTreeMap<u64, AskedReads>,
    next_read: u64,
    /// Reads whose index is known and not yet applied.
    resolved: BTreeMap<Index, Vec<Reading>>,
    reads_waiting: usize,
    transfer: Option<Transfer>,
}

struct Proposed {
    term: Term,
    waiter: Waiter,
    deadline_ms: u64,
}

struct Parked {
    waiter: Waiter,
    request: ClientRequest,
    deadline_ms: u64,
}

#[derive(Clone, Copy)]
struct Reading {
    waiter: Waiter,
    deadline_ms: u64,
}

struct AskedReads {
    readings: Vec<Reading>,
    asked_ms: u64,
}

struct Transfer {
    to: NodeId,
    waiter: Waiter,
    deadline_ms: u64,
}

fn unavailable(message: &str) -> Failure {
    Failure::new(Code::Unavailable, message).hint("try again; see `ratoon status`")
}

fn unknown(message: &str) -> Failure {
    Failure::new(Code::OutcomeUnknown, message)
        .hint("retry in the same session, or read back before you retry")
}

impl Core {
    pub(super) fn handle_client(
        &mut self,
        waiter: Waiter,
        request: ClientRequest,
        forwarded: bool,
    ) {
        match request {
            ClientRequest::CompactLog => return self.request_compaction(waiter),
            ClientRequest::BuildSnapshot => return self.request_snapshot_build(waiter),
            _ => {}
        }
        if !self.install.is_idle() {
            let failure = Failure::new(Code::NotReady, "the node is installing a snapshot");
            return self.answer(waiter, Err(failure));
        }
        if self.leads() {
            return self.execute(waiter, request);
        }
        if forwarded {
            return self.answer(waiter, Err(unavailable("the node that was asked leads no more")));
        }
        let deadline_ms = self.deadline();
        match self.known_leader() {
            Some(to) => self.forward(to, waiter, request, deadline_ms),
            None if self.clients.parked.len() < limits::PROPOSALS_WAITING_MAX => {
                self.clients.parked.push_back(Parked { waiter, request, deadline_ms });
            }
            None => self.answer(waiter, Err(unavailable("no leader is known"))),
        }
    }

    fn known_leader(&self) -> Option<NodeId> {
        let leader = NodeId(self.raw.raft.leader_id);
        (leader.0 != 0 && leader != self.config.node).then_some(leader)
    }

    fn deadline(&self) -> u64 {
        self.now.monotonic_ms + self.config.request_timeout_ms
    }

    fn forward(&mut self, to: NodeId, waiter: Waiter, request: ClientRequest, deadline_ms: u64) {
        if self.clients.forwarded.len() >= limits::PROPOSALS_WAITING_MAX {
            let failure = Failure::new(Code::Overloaded, "too many requests wait for the leader");
            return self.answer(waiter, Err(failure));
        }
        self.clients.forwarded.insert(waiter, deadline_ms);
        self.outputs.push_back(Output::Forward { to, waiter, request });
    }

    pub(super) fn handle_forwarded(&mut self, waiter: Waiter, result: Result<Answer, Failure>) {
        if self.clients.forwarded.remove(&waiter).is_some() {
            self.answer(waiter, result);
        }
    }

    /// A leader is known again: what waited for one goes to it.
    pub(super) fn leader_known(&mut self) {
        for parked in std::mem::take(&mut self.clients.parked) {
            self.handle_client(parked.waiter, parked.request, false);
        }
        // Reads asked of the leader before are lost with it.
        for (_, asked) in std::mem::take(&mut self.clients.asked) {
            self.clients.reads.extend(asked.readings);
        }
        let leader = NodeId(self.raw.raft.leader_id);
        if let Some(transfer) = self.clients.transfer.take_if(|transfer| transfer.to == leader) {
            self.answer(transfer.waiter, Ok(Answer::Leader(leader)));
        }
    }

    fn execute(&mut self, waiter: Waiter, request: ClientRequest) {
        match request {
            ClientRequest::Propose(bytes) => {
                if self.clients.proposed.len() >= limits::PROPOSALS_WAITING_MAX {
                    let failure = Failure::new(Code::Overloaded, "too many commands are under way");
                    return self.answer(waiter, Err(failure));
                }
                match self.propose(&bytes) {
                    Ok(index) => self.await_index(waiter, index),
                    Err(failure) => self.answer(waiter, Err(failure)),
                }
            }
            ClientRequest::Membership(change) => match self.propose_membership(change) {
                Ok(Some(index)) => self.await_index(waiter, index),
                Ok(None) => {
                    let answer = Answer::Applied(self.applied, Reply::Done);
                    self.answer(waiter, Ok(answer));
                }
                Err(failure) => self.answer(waiter, Err(failure)),
            },
            ClientRequest::TransferLeader(to) => self.transfer_leader(waiter, to),
            ClientRequest::CompactLog | ClientRequest::BuildSnapshot => {
                unreachable!("handled before")
            }
        }
    }

    fn await_index(&mut self, waiter: Waiter, index: Index) {
        let proposed = Proposed { term: self.raw.raft.term, waiter, deadline_ms: self.deadline() };
        // This node led before, proposed for the same place, and lost it: elsewhere that entry may
        // still be committed.
        if let Some(previous) = self.clients.proposed.insert(index, proposed) {
            self.answer(previous.waiter, Err(unknown("leadership moved before it was committed")));
        }
    }

    /// Appends a command to the log; its index is the answer.
    pub(super) fn propose(&mut self, request: &[u8]) -> Result<Index, Failure> {
        if request.len() > limits::REQUEST_BYTES_MAX {
            let message = format!("the command has {} bytes", request.len());
            return Err(Failure::new(Code::BatchTooLarge, message)
                .hint(format!("the limit is {}", limits::REQUEST_BYTES_MAX)));
        }
        let entry = codec::encode_entry(self.commit_time(), request);
        let proposed = self.raw.propose(Vec::new(), entry.to_vec());
        self.proposed_index(proposed)
    }

    fn proposed_index(&mut self, proposed: raft::Result<()>) -> Result<Index, Failure> {
        match proposed {
            Ok(()) => Ok(self.raw.raft.raft_log.last_index()),
            Err(raft::Error::ProposalDropped) if self.raw.raft.lead_transferee.is_some() => {
                Err(unavailable("leadership is being handed over"))
            }
            Err(raft::Error::ProposalDropped) => {
                Err(Failure::new(Code::Overloaded, "too many bytes wait to be committed")
                    .hint("slow down and try again"))
            }
            Err(error) => Err(Failure::new(Code::Internal, format!("raft: {error}"))),
        }
    }

    /// Proposes a change of membership. None: it is so already.
    pub(super) fn propose_membership(
        &mut self,
        change: MembershipChange,
    ) -> Result<Option<Index>, Failure> {
        let (kind, node, command) = match change {
            MembershipChange::AddLearner(node) => {
                (ConfChangeType::AddLearnerNode, node, Command::AddLearner(node))
            }
            MembershipChange::Promote(node) => {
                (ConfChangeType::AddNode, node, Command::PromoteNode(node))
            }
            MembershipChange::Remove(node) => {
                (ConfChangeType::RemoveNode, node, Command::RemoveNode(node))
            }
        };
        if !self.judge_membership(change)? {
            return Ok(None);
        }
        if self.raw.raft.has_pending_conf() {
            let message = "another membership change is under way";
            return Err(Failure::new(Code::MembershipBusy, message).hint("try again"));
        }
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = node.0;
        let mut conf_change = ConfChangeV2::default();
        conf_change.mut_changes().push(single);
        let request = codec::encode_request(&Request { session: None, command });
        conf_change.context = codec::encode_entry(self.commit_time(), &request);
        let proposed = self.raw.propose_conf_change(Vec::new(), conf_change);
        self.proposed_index(proposed).map(Some)
    }

    /// Whether the change is to be proposed; false if it is so already.
    fn judge_membership(&self, change: MembershipChange) -> Result<bool, Failure> {
        let refused = |message: String, hint: &str| {
            Err(Failure::new(Code::MembershipRefused, message).hint(hint))
        };
        let known = |node: NodeId| self.nodes.iter().any(|known| known.id == node);
        let voters = &self.conf_state.voters;
        match change {
            MembershipChange::AddLearner(node)
            | MembershipChange::Promote(node)
            | MembershipChange::Remove(node)
                if !known(node) && !self.conf_state.contains(node) =>
            {
                // A leader that is new, or led once and does not know it, may not have heard of
                // a node yet; and a joiner that is told so gives up. Ids are given in order.
                let newest = self.nodes.iter().map(|known| known.id).max();
                let joins = matches!(change, MembershipChange::AddLearner(_));
                if self.applied < self.leads_from || (joins && Some(node) > newest) {
                    return Err(unavailable(&format!("node {node} is not known here yet")));
                }
                Err(Failure::new(Code::NodeNotFound, format!("no node {node} is enrolled"))
                    .hint("`ratoon node list` shows the nodes"))
            }
            MembershipChange::AddLearner(node) => Ok(!self.conf_state.contains(node)),
            MembershipChange::Promote(node) if voters.contains(&node.0) => Ok(false),
            MembershipChange::Promote(node) if !self.conf_state.contains(node) => refused(
                format!("node {node} has not started yet"),
                "start it with `ratoon start`; it becomes a learner by itself",
            ),
            MembershipChange::Promote(node) if !self.is_caught_up(node) => {
                Err(Failure::new(Code::NotCaughtUp, format!("node {node} lags behind"))
                    .hint("wait until its applied index is near the leader's"))
            }
            MembershipChange::Promote(_) => Ok(true),
            MembershipChange::Remove(node) if node == self.config.node => refused(
                format!("node {node} is the leader"),
                "hand leadership over first: `ratoon node transfer-leader ID`",
            ),
            MembershipChange::Remove(node) => {
                let remaining: Vec<u64> =
                    voters.iter().copied().filter(|voter| *voter != node.0).collect();
                let alive =
                    |voter: &&u64| **voter == self.config.node.0 || self.hears(NodeId(**voter));
                let reachable = remaining.iter().filter(alive).count();
                if voters.contains(&node.0) && reachable * 2 <= remaining.len() {
                    return refused(
                        format!("without node {node} the reachable voters are no majority"),
                        "bring the other voters back, or add one, before removing this one",
                    );
                }
                Ok(true)
            }
        }
    }

    fn transfer_leader(&mut self, waiter: Waiter, to: NodeId) {
        if to == self.config.node {
            return self.answer(waiter, Ok(Answer::Leader(to)));
        }
        if !self.conf_state.voters.contains(&to.0) {
            let failure =
                Failure::new(Code::MembershipRefused, format!("node {to} is not a voter"))
                    .hint("`ratoon node list` shows the voters");
            return self.answer(waiter, Err(failure));
        }
        let deadline_ms = self.deadline();
        if let Some(previous) = self.clients.transfer.replace(Transfer { to, waiter, deadline_ms })
        {
            self.answer(previous.waiter, Err(unavailable("another transfer took over")));
        }
        self.repeat_transfer();
    }

    /// Answers whoever proposed the entries now applied.
    pub(super) fn answer_proposals(&mut self, applied: Index, replies: Vec<AppliedReply>) {
        for applied in replies {
            let Some(proposed) = self.clients.proposed.remove(&applied.index) else { continue };
            let result = if proposed.term == applied.term {
                applied.reply.map(|reply| Answer::Applied(applied.executed_at, reply))
            } else {
                Err(unavailable("another leader took over before the command was committed"))
            };
            self.answer(proposed.waiter, result);
        }
        // Entries without a reply (a new leader's empty one) took the place of these.
        let later = self.clients.proposed.split_off(&(applied + 1));
        for (_, proposed) in std::mem::replace(&mut self.clients.proposed, later) {
            let failure = unavailable("another leader took over before the command was committed");
            self.answer(proposed.waiter, Err(failure));
        }
    }

    /// A snapshot took the place of entries whose outcome is now nowhere to be seen.
    pub(super) fn forget_proposals(&mut self, up_to: Index) {
        let later = self.clients.proposed.split_off(&(up_to + 1));
        for (_, proposed) in std::mem::replace(&mut self.clients.proposed, later) {
            self.answer(proposed.waiter, Err(unknown("a snapshot covers the command's entry")));
        }
    }

    pub(super) fn handle_read(&mut self, waiter: Waiter) {
        if !self.install.is_idle() {
            let failure = Failure::new(Code::NotReady, "the node is installing a snapshot");
            return self.answer(waiter, Err(failure));
        }
        if self.clients.reads_waiting >= limits::READS_WAITING_MAX {
            let failure = Failure::new(Code::Overloaded, "too many reads are under way");
            return self.answer(waiter, Err(failure));
        }
        self.clients.reads_waiting += 1;
        let deadline_ms = self.deadline();
        self.clients.reads.push(Reading { waiter, deadline_ms });
    }

    /// Gives all waiting reads to raft as one.
    pub(super) fn issue_reads(&mut self) {
        let clients = &mut self.clients;
        if clients.reads.is_empty()
            || clients.asked.len() >= READ_BATCHES_MAX
            || self.raw.raft.leader_id == 0
        {
            return;
        }
        clients.next_read += 1;
        let counter = clients.next_read;
        let readings = std::mem::take(&mut clients.reads);
        clients.asked.insert(counter, AskedReads { readings, asked_ms: self.now.monotonic_ms });
        let mut context = Vec::with_capacity(24);
        context.extend(self.config.node.0.to_be_bytes());
        context.extend(self.config.boot.to_be_bytes());
        context.extend(counter.to_be_bytes());
        self.raw.read_index(context);
    }

    /// Raft knows the index that a batch of reads must see.
    pub(super) fn resolve_reads(&mut self, states: Vec<ReadState>) {
        for state in states {
            let Some(counter) = self.own_read_counter(&state.request_ctx) else { continue };
            let Some(asked) = self.clients.asked.remove(&counter) else { continue };
            self.clients.resolved.entry(state.index).or_default().extend(asked.readings);
        }
        self.release_reads();
    }

    fn own_read_counter(&self, context: &[u8]) -> Option<u64> {
        let words: Vec<u64> = context
            .chunks_exact(8)
            .map(|word| u64::from_be_bytes(word.try_into().expect("eight bytes")))
            .collect();
        match words[..] {
            [node, boot, counter] if node == self.config.node.0 && boot == self.config.boot => {
                Some(counter)
            }
            _ => None,
        }
    }

    /// Reads whose index is applied may go.
    pub(super) fn release_reads(&mut self) {
        let later = self.clients.resolved.split_off(&(self.applied + 1));
        for (_, readings) in std::mem::replace(&mut self.clients.resolved, later) {
            self.clients.reads_waiting -= readings.len();
            for reading in readings {
                let index = self.applied;
                self.outputs.push_back(Output::ReadReady { waiter: reading.waiter, index });
            }
        }
    }

    /// Begins a transfer once its target is ready, and begins it again when raft-rs has given it up
    /// after one election timeout, for instance because the target had a membership change to apply
    /// first. While one is under way no write gets through, so a target that is down or lags must not
    /// begin it.
    pub(super) fn repeat_transfer(&mut self) {
        let Some(to) = self.clients.transfer.as_ref().map(|transfer| transfer.to) else { return };
        if self.leads() && self.raw.raft.lead_transferee.is_none() && self.may_lead(to) {
            self.raw.transfer_leader(to.0);
        }
    }

    /// Whether a voter answers and is near the commit index.
    fn may_lead(&self, node: NodeId) -> bool {
        self.conf_state.voters.contains(&node.0) && self.is_caught_up(node)
    }

    /// Gives up on what waited too long.
    pub(super) fn expire_clients(&mut self) {
        let now = self.now.monotonic_ms;
        let late = |deadline: u64| deadline <= now;
        let clients = &mut self.clients;
        let mut failed: Vec<(Waiter, Failure)> = Vec::new();

        let expired = clients.proposed.extract_if(.., |_, p| late(p.deadline_ms));
        failed.extend(
            expired.map(|(_, p)| (p.waiter, unknown("the command was not committed in time"))),
        );
        let expired = clients.forwarded.extract_if(.., |_, deadline| late(*deadline));
        failed.extend(
            expired.map(|(waiter, _)| (waiter, unknown("the leader did not answer in time"))),
        );
        while clients.parked.front().is_some_and(|parked| late(parked.deadline_ms)) {
            let parked = clients.parked.pop_front().expect("front was there");
            failed.push((parked.waiter, unavailable("no leader is known")));
        }
        if let Some(transfer) = clients.transfer.take_if(|transfer| late(transfer.deadline_ms)) {
            failed.push((transfer.waiter, unavailable("leadership did not move in time")));
        }

        let retry_ms = READ_RETRY_TICKS * self.config.tick_ms;
        let lost = clients.asked.extract_if(.., |_, asked| asked.asked_ms + retry_ms <= now);
        let lost: Vec<Reading> = lost.flat_map(|(_, asked)| asked.readings).collect();
        clients.reads.extend(lost);
        let mut expire = |readings: &mut Vec<Reading>| {
            let expired = readings.extract_if(.., |reading| late(reading.deadline_ms));
            let before = failed.len();
            failed.extend(
                expired.map(|r| (r.waiter, unavailable("no leader confirmed the read in time"))),
            );
            clients.reads_waiting -= failed.len() - before;
        };
        expire(&mut clients.reads);
        clients.resolved.values_mut().for_each(&mut expire);
        clients.resolved.retain(|_, readings| !readings.is_empty());

        for (waiter, failure) in failed {
            self.answer(waiter, Err(failure));
        }
    }
}

/// The bytes of a request the core proposes on its own behalf.
pub(super) fn own_request(command: Command) -> Bytes {
    codec::encode_request(&Request { session: None, command })
}
