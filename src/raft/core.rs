//! The core of one node: raft-rs's RawNode, and every decision around it.
//!
//! `handle` takes one input, `advance` runs raft's Ready cycle over all inputs taken since, and
//! `poll_output` hands out what is to be done. The core does no IO and reads no clock: the same
//! inputs at the same times give the same outputs. What a command means it does not know.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb;
use raft::{Config as RaftConfig, RawNode, StateRole};
use slog::Logger;
use thiserror::Error;

use super::clients::Clients;
use super::compaction::Compaction;
use super::install::Install;
use super::io::{Input, Offer, Output, Standing};
use super::log_view::LogView;
use super::offers::Receivers;
use super::ready::Pending;
use super::shape;
use super::wire::{WireError, conf_state_from_raft, decode_message};
use super::{HardState, LogError, LogStore};
use crate::limits;
use crate::types::{
    ClusterId, ConfState, Failure, Index, Node, NodeId, Now, Pin, Role, SnapshotSource, Term,
};

/// How a core behaves. Times are in ticks of `tick_ms` or in milliseconds, as named.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Where other nodes reach its bulk endpoint.
    pub bulk_address: String,
    /// Draws election timeouts, together with node and term.
    pub seed: u64,
    /// Distinguishes this start of the node from earlier ones.
    pub boot: u64,
    /// Milliseconds between ticks.
    pub tick_ms: u64,
    /// A follower campaigns after this many to twice as many ticks without a leader.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// A client's request without an outcome is given up after this long.
    pub request_timeout_ms: u64,
    /// A receiver that says nothing for this long has no lease any more.
    pub lease_ms: u64,
    /// A pin is renewed no more often than this.
    pub pin_renewal_ms: u64,
    /// A pin that nobody renewed for this long is released.
    pub pin_age_ms_max: u64,
    /// Pinned log bytes are released over this, or over the state's size if that is more.
    pub pin_bytes_max: u64,
    /// The log is compacted once it takes more bytes than this ...
    pub log_bytes_soft: u64,
    /// ... and, over this, also past live followers that lag.
    pub log_bytes_hard: u64,
    /// The state is flushed after this many bytes of applied entries.
    pub flush_bytes: u64,
    /// A learner this close to the commit index is promoted.
    pub promotion_lag_max: u64,
    /// Learners are promoted by themselves, unless they joined to stay learners.
    pub promote: bool,
}

/// What the node found on its disk.
#[derive(Clone, Debug)]
pub struct Boot {
    /// From the raft log.
    pub hard_state: HardState,
    /// The applied index in the state.
    pub applied: Index,
    /// Membership in the state.
    pub conf_state: ConfState,
    /// Commit time of the last applied entry.
    pub time_unix_ms: u64,
    /// Live generation of the state.
    pub generation: u64,
    /// The newest snapshot in the store.
    pub offer: Option<Offer>,
    /// Pins in the state.
    pub pins: Vec<Pin>,
    /// Nodes in the state.
    pub nodes: Vec<Node>,
    /// Bytes the log takes.
    pub log_bytes: u64,
    /// Bytes the state takes.
    pub state_bytes: u64,
}

/// The node must stop: going on could lose or invent data.
#[derive(Debug, Error)]
pub enum Halt {
    /// The log cannot be read.
    #[error("the raft log failed: {0}")]
    Log(#[from] LogError),
    /// What the disk holds contradicts itself.
    #[error("log and state do not fit together: {0}")]
    Boot(String),
    /// A voter that leads knows this node to hold more than it does: acknowledged entries are gone,
    /// and going on could elect a leader without them.
    #[error(
        "node {leader} leads and counts on entry {commit} here, the raft log ends at {last}: it has \
         lost acknowledged entries"
    )]
    LogLost {
        /// Who leads.
        leader: NodeId,
        /// What it takes this node to hold.
        commit: Index,
        /// What it holds.
        last: Index,
    },
    /// raft-rs refused what it must accept.
    #[error("raft failed while {attempted}: {cause}")]
    Raft {
        /// What was being done.
        attempted: String,
        /// What raft-rs said.
        cause: String,
    },
}

/// See the module.
pub struct Core {
    pub(super) config: Config,
    pub(super) logger: Logger,
    pub(super) raw: RawNode<LogView>,
    pub(super) now: Now,
    pub(super) outputs: VecDeque<Output>,
    pub(super) generation: u64,
    /// The last index applied.
    pub(super) applied: Index,
    /// The last index handed out to be applied.
    pub(super) handed_out: Index,
    /// The last conf change handed out to be applied.
    pub(super) conf_index: Index,
    pub(super) conf_state: ConfState,
    pub(super) nodes: Vec<Node>,
    pub(super) pins: Vec<Pin>,
    ticks: u64,
    /// The tick at which each member was heard last.
    heard: BTreeMap<NodeId, u64>,
    pub(super) pending: Pending,
    pub(super) clients: Clients,
    pub(super) receivers: Receivers,
    pub(super) compaction: Compaction,
    pub(super) install: Install,
    standing: Standing,
    /// Commit times this leader stamps: the local clock when it was elected, then its monotonic one.
    pub(super) leader_clock: Option<LeaderClock>,
    /// The first entry of this leader's own term: once it is applied, so is all that went before.
    pub(super) leads_from: Index,
    /// Commit time of the newest entry that is applied: a later one never has an earlier time, or
    /// what is to expire would wait until a slow clock has caught up.
    pub(super) last_time_unix_ms: u64,
}

/// See `Core::leader_clock`.
#[derive(Clone, Copy)]
pub(super) struct LeaderClock {
    unix_ms: u64,
    monotonic_ms: u64,
}

impl Core {
    /// A core that goes on from what the disk holds. `store` must stand where `boot` says.
    pub fn new(
        config: Config,
        boot: Boot,
        store: Box<dyn LogStore>,
        now: Now,
        logger: &Logger,
    ) -> Result<Self, Halt> {
        let hard_state = check_boot(&boot, &*store)?;
        let stored_commit = boot.hard_state.commit;
        let raft_config = RaftConfig {
            id: config.node.0,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: boot.applied,
            max_size_per_msg: limits::APPEND_BYTES_MAX,
            max_inflight_msgs: limits::APPENDS_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: limits::UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: limits::COMMITTED_BYTES_PER_READY_MAX,
            ..RaftConfig::default()
        };
        let mut view = LogView::new(store, hard_state, boot.conf_state.clone());
        let source =
            SnapshotSource { node: config.node, bulk_address: config.bulk_address.clone() };
        view.offering.source = Some((config.cluster, source));
        view.offering.offer = boot.offer;
        let raw = RawNode::new(&raft_config, view, logger)
            .map_err(|e| Halt::Raft { attempted: "starting".into(), cause: e.to_string() })?;
        let mut core = Core {
            pending: Pending::new(hard_state, stored_commit),
            clients: Clients::default(),
            receivers: Receivers::default(),
            compaction: Compaction::new(boot.applied, boot.log_bytes, boot.state_bytes),
            install: Install::default(),
            standing: Standing {
                role: Role::Enrolled,
                term: 0,
                leader: None,
                conf_state: ConfState::default(),
                elections: 0,
            },
            leader_clock: None,
            leads_from: 0,
            last_time_unix_ms: boot.time_unix_ms,
            outputs: VecDeque::new(),
            generation: boot.generation,
            applied: boot.applied,
            handed_out: boot.applied,
            conf_index: boot.applied,
            conf_state: boot.conf_state,
            nodes: boot.nodes,
            pins: boot.pins,
            ticks: 0,
            heard: BTreeMap::new(),
            logger: logger.clone(),
            config,
            raw,
            now,
        };
        core.outputs.push_back(Output::Pins(core.pins.clone()));
        core.outputs.push_back(Output::Nodes(core.nodes.clone()));
        core.advance(now)?;
        if core.conf_state.voters == [core.config.node.0] && core.may_campaign() {
            // Nobody else can lead: no need to wait out an election timeout.
            core.raw.campaign().map_err(|e| core.raft_error("campaigning alone", e))?;
            core.advance(now)?;
        }
        Ok(core)
    }

    /// Takes one input. Call `advance` after one or many.
    pub fn handle(&mut self, now: Now, input: Input) -> Result<(), Halt> {
        self.now = now;
        match input {
            Input::Tick => self.handle_tick(),
            Input::Message { from, bytes } => self.handle_message(from, bytes)?,
            Input::Client { waiter, request, forwarded } => {
                self.handle_client(waiter, request, forwarded)
            }
            Input::Forwarded { waiter, result } => self.handle_forwarded(waiter, result),
            Input::Read { waiter } => self.handle_read(waiter),
            Input::Persisted { number, log_bytes } => self.handle_persisted(number, log_bytes),
            Input::Applied { generation, index, replies, pins, nodes, time_unix_ms } => {
                self.last_time_unix_ms = self.last_time_unix_ms.max(time_unix_ms);
                self.handle_applied(generation, index, replies, pins, nodes)
            }
            Input::Flushed { index, state_bytes } => self.handle_flushed(index, state_bytes),
            Input::Compacted { log_bytes } => self.compaction.log_bytes = log_bytes,
            Input::EntriesFetched { ticket, entries } => {
                self.handle_entries_fetched(ticket, &entries)
            }
            Input::SnapshotBuilt(offer) => self.handle_snapshot_built(offer),
            Input::SnapshotFailed { reason } => self.handle_snapshot_failed(&reason),
            Input::SnapshotLost { id } => self.handle_snapshot_lost(id),
            Input::SnapshotReport { from, index, ok } => {
                self.handle_snapshot_report(from, index, ok)
            }
            Input::PullProgress { from, id, index, source, wants_new_offer } => {
                self.handle_pull_progress(from, (id, index, source), wants_new_offer)
            }
            Input::Pulling { id, index, source, wants_new_offer } => {
                self.handle_pulling((id, index, source), wants_new_offer);
            }
            Input::SnapshotDurable(meta) => self.handle_snapshot_durable(meta),
            Input::PullFailed { id, index, reason } => self.handle_pull_failed(id, index, reason),
            Input::SnapshotPrepared { id, generation } => {
                self.handle_snapshot_prepared(id, generation)
            }
            Input::PrepareFailed { id, reason } => self.handle_prepare_failed(id, &reason),
            Input::Installed { generation, pins, nodes, time_unix_ms } => {
                self.last_time_unix_ms = self.last_time_unix_ms.max(time_unix_ms);
                self.handle_installed(generation, pins, nodes)?
            }
            Input::Unreachable(node) => {
                if self.install.is_idle() {
                    self.raw.report_unreachable(node.0);
                }
            }
        }
        Ok(())
    }

    /// Runs raft over all inputs taken, until it has nothing more to say.
    pub fn advance(&mut self, now: Now) -> Result<(), Halt> {
        self.now = now;
        self.try_install()?;
        if self.install.is_idle() {
            self.draw_election_timeout();
            loop {
                self.issue_reads();
                self.process_ready()?;
                // A new leader proposes what waited for one.
                self.note_standing();
                if !self.has_more_to_say() {
                    break;
                }
            }
            self.draw_election_timeout();
            self.queue_cold_reads();
            self.consider_snapshot();
            self.consider_compaction()?;
        }
        match self.raw.store().take_failure() {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What this node is at the moment.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// First and last index of the log.
    pub fn log_range(&self) -> (Index, Index) {
        let store = self.raw.store();
        (store.start().index + 1, store.last())
    }

    /// The highest index known to be committed.
    pub fn commit_index(&self) -> Index {
        self.raw.raft.raft_log.committed
    }

    /// The last index applied.
    pub fn applied_index(&self) -> Index {
        self.applied
    }

    /// The newest index that needs no replay after a crash.
    pub fn flushed_index(&self) -> Index {
        self.compaction.flushed
    }

    /// Bytes the log takes.
    pub fn log_bytes(&self) -> u64 {
        self.compaction.log_bytes
    }

    /// What each member is known to hold, as the leader sees it; empty elsewhere.
    pub fn matched_indexes(&self) -> Vec<(NodeId, Index)> {
        if self.raw.raft.state != StateRole::Leader {
            return Vec::new();
        }
        let mut list: Vec<_> =
            self.raw.raft.prs().iter().map(|(id, p)| (NodeId(*id), p.matched)).collect();
        list.sort_unstable();
        list
    }

    fn handle_tick(&mut self) {
        self.ticks += 1;
        self.expire_clients();
        if self.install.is_idle() {
            let raft = &self.raw.raft;
            let campaigns = raft.state != StateRole::Leader
                && raft.election_elapsed + 1 >= raft.randomized_election_timeout();
            if !campaigns || self.may_campaign() {
                self.raw.tick();
            }
            self.repeat_transfer();
            self.tick_receivers();
            self.tick_compaction();
        }
    }

    fn handle_message(&mut self, from: NodeId, bytes: bytes::Bytes) -> Result<(), Halt> {
        if !self.install.is_idle() {
            // Until the install is done raft may neither campaign nor move its log; peers repeat.
            return Ok(());
        }
        let Some(message) = self.checked_message(from, &bytes)? else { return Ok(()) };
        if self.conf_state.contains(from) {
            self.heard.insert(from, self.ticks);
        }
        use eraftpb::MessageType as T;
        let kind = message.get_msg_type();
        match kind {
            T::MsgSnapshot => self.handle_snapshot_message(from, message, bytes.len()),
            // Forwarding of proposals and of leadership transfers goes through `Output::Forward`.
            T::MsgPropose | T::MsgTransferLeader => return Ok(()),
            T::MsgTimeoutNow if !self.may_campaign() => return Ok(()),
            T::MsgAppendResponse if self.is_stale_rejection(&message) => return Ok(()),
            _ => {
                if let Err(error) = self.raw.step(message) {
                    slog::debug!(self.logger, "raft dropped a message"; "peer" => from.0,
                        "kind" => ?kind, "error" => %error);
                }
            }
        }
        if matches!(kind, T::MsgAppendResponse | T::MsgHeartbeatResponse) {
            self.resume_receiver(from);
        }
        Ok(())
    }

    /// Whether a member was heard within an election timeout. What raft-rs notes of that it forgets at
    /// the end of each such time, and for a moment all seem gone.
    pub(super) fn hears(&self, node: NodeId) -> bool {
        let heard = self.heard.get(&node);
        heard.is_some_and(|heard| heard + self.config.election_ticks as u64 >= self.ticks)
    }

    /// The message that `bytes` hold, if a correct peer can have sent it.
    fn checked_message(
        &self,
        from: NodeId,
        bytes: &bytes::Bytes,
    ) -> Result<Option<eraftpb::Message>, Halt> {
        let message = match decode_message(bytes) {
            Ok(message) => message,
            Err(error) => {
                self.refuse_message(from, &error);
                return Ok(None);
            }
        };
        let own_id = self.config.node;
        if message.from != from.0 || message.to != own_id.0 || from == own_id {
            slog::warn!(self.logger, "dropped a raft message with a false address";
                "peer" => from.0, "from" => message.from, "to" => message.to);
            return Ok(None);
        }
        let own = shape::Own {
            term: self.raw.raft.term,
            last: self.raw.raft.raft_log.last_index(),
            leads: self.raw.raft.state == StateRole::Leader,
        };
        if let Err(problem) = shape::check(&message, own) {
            slog::warn!(self.logger, "dropped a raft message that no correct node sends";
                "peer" => from.0, "kind" => ?message.get_msg_type(), "problem" => problem);
            return Ok(None);
        }
        // Of an older term raft takes nothing but the chance to say so.
        let counts_on_more = message.get_msg_type() == eraftpb::MessageType::MsgHeartbeat
            && message.term >= own.term
            && message.commit > own.last;
        if !counts_on_more {
            return Ok(Some(message));
        }
        let voters = &self.conf_state.voters;
        if voters.is_empty() || voters.contains(&from.0) {
            let (leader, commit) = (from, message.commit);
            return Err(Halt::LogLost { leader, commit, last: own.last });
        }
        slog::warn!(self.logger, "dropped a heartbeat of a node that cannot lead";
            "peer" => from.0, "commit" => message.commit);
        Ok(None)
    }

    /// A peer refuses entries after one that it has confirmed since: the refusal came twice or late.
    /// raft-rs 0.7 would move its next index behind what is known to match.
    fn is_stale_rejection(&self, message: &eraftpb::Message) -> bool {
        message.reject
            && message.term == self.raw.raft.term
            && self.raw.raft.prs().get(message.from).is_some_and(|p| message.index <= p.matched)
    }

    fn refuse_message(&self, from: NodeId, error: &WireError) {
        slog::warn!(self.logger, "dropped a malformed raft message"; "peer" => from.0,
            "error" => %error);
    }

    fn queue_cold_reads(&mut self) {
        for (ticket, from, to, max_bytes) in self.raw.store().ask_cold_reads() {
            self.outputs.push_back(Output::FetchEntries { ticket, from, to, max_bytes });
        }
    }

    fn handle_entries_fetched(&mut self, ticket: u64, entries: &[super::LogEntry]) {
        let Some(context) = self.raw.store().finish_cold_read(ticket) else { return };
        if self.install.is_idle() {
            self.raw.store().put_fetched(entries);
            self.raw.on_entries_fetched(context);
        }
    }

    /// raft-rs draws election timeouts from an ambient random generator; a run must replay.
    fn draw_election_timeout(&mut self) {
        let mut mixed = self.config.seed ^ self.config.node.0.rotate_left(32) ^ self.raw.raft.term;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let ticks = self.config.election_ticks;
        let drawn = ticks + (mixed % ticks as u64) as usize;
        let drawn = if self.may_campaign() { drawn } else { 2 * ticks - 1 };
        self.raw.raft.set_randomized_election_timeout(drawn);
    }

    /// A campaign begins with a search for membership changes in all that is committed and not
    /// applied, read at once. While that may be more than is handed out, none is begun: the last tick
    /// before it is left out, and the timeout is long enough that this node may vote for others.
    fn may_campaign(&self) -> bool {
        !self.pending.is_full()
    }

    /// Tells of changes of role, term, leader and membership.
    pub(super) fn note_standing(&mut self) {
        let raft = &self.raw.raft;
        let id = self.config.node;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.conf_state.voters.contains(&id.0) => Role::Follower,
            StateRole::Follower if self.conf_state.contains(id) => Role::Learner,
            StateRole::Follower => Role::Enrolled,
        };
        let leader = (raft.leader_id != 0).then_some(NodeId(raft.leader_id));
        let term: Term = raft.term;
        let previous = self.standing.clone();
        let elected = leader.is_some() && (leader != previous.leader || term != previous.term);
        let elections = previous.elections + u64::from(elected);
        let conf_state = self.conf_state.clone();
        let standing = Standing { role, term, leader, conf_state, elections };
        if standing == previous {
            return;
        }
        self.standing = standing.clone();
        self.outputs.push_back(Output::Changed(standing));
        if role == Role::Leader && previous.role != Role::Leader {
            self.begin_to_lead();
        } else if role != Role::Leader && previous.role == Role::Leader {
            self.cease_to_lead();
        }
        if leader.is_some() && (leader, term) != (previous.leader, previous.term) {
            self.leader_known();
        }
    }

    fn begin_to_lead(&mut self) {
        let unix_ms = self.now.unix_ms.max(self.last_time_unix_ms);
        self.leader_clock = Some(LeaderClock { unix_ms, monotonic_ms: self.now.monotonic_ms });
        self.leads_from = self.raw.store().last();
        self.adopt_receivers();
    }

    fn cease_to_lead(&mut self) {
        self.leader_clock = None;
        self.receivers.cease_to_lead();
        self.raw.store().void_cold_reads();
        self.raw.mut_store().offering.leased.clear();
    }

    /// Whether raft leads and this room has taken note of it.
    pub(super) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader && self.leader_clock.is_some()
    }

    /// The commit time to stamp on the next entry.
    pub(super) fn commit_time(&self) -> u64 {
        match self.leader_clock {
            Some(clock) => clock.unix_ms + (self.now.monotonic_ms - clock.monotonic_ms),
            None => self.now.unix_ms,
        }
    }

    /// Why raft cannot go on. What the log said comes first: raft-rs only knows it as unavailable.
    pub(super) fn raft_error(&self, attempted: &str, cause: raft::Error) -> Halt {
        match self.raw.store().take_failure() {
            Some(failure) => Halt::Log(failure),
            None => Halt::Raft { attempted: attempted.into(), cause: cause.to_string() },
        }
    }

    pub(super) fn answer(&mut self, waiter: super::Waiter, result: Result<super::Answer, Failure>) {
        self.outputs.push_back(Output::Answer { waiter, result });
    }

    /// Takes the membership that raft has after a change.
    pub(super) fn take_conf_state(&mut self, from: &eraftpb::ConfState) -> ConfState {
        self.conf_state = conf_state_from_raft(from);
        self.heard.retain(|node, _| self.conf_state.contains(*node));
        self.conf_state.clone()
    }
}

/// Log and state were written apart; whatever crash lies between, this must hold.
fn check_boot(boot: &Boot, store: &dyn LogStore) -> Result<HardState, Halt> {
    let (start, last) = (store.start(), store.last_index());
    if boot.applied < start.index || boot.applied > last {
        return Err(Halt::Boot(format!(
            "the state is at index {}, the log spans {}..={last}",
            boot.applied,
            start.index + 1
        )));
    }
    let mut hard_state = boot.hard_state;
    hard_state.commit = hard_state.commit.max(boot.applied);
    if hard_state.commit > last {
        return Err(Halt::Boot(format!(
            "index {} was committed, the log ends at {last}",
            hard_state.commit
        )));
    }
    if hard_state.term < start.term {
        return Err(Halt::Boot(format!(
            "the term is {}, the log begins in term {}",
            hard_state.term, start.term
        )));
    }
    Ok(hard_state)
}
