//! The leader's side of snapshots: what it offers, to whom, and how long it holds the log for them.
//!
//! raft-rs pauses a peer it has sent a snapshot to. So every offer here ends: by the receiver's
//! report, by its progress in the log, or by silence. A receiver whose pull lives keeps a lease (it
//! is offered nothing else) and a replicated pin (no node drops the log it needs next).

use std::collections::BTreeMap;

use raft::{ProgressState, SnapshotStatus};

use super::clients::own_request;
use super::core::Core;
use super::io::{Answer, Offer, Output, Waiter};
use crate::limits::{BUILD_RETRY_MS, OFFER_PAUSE_MS_MAX, OFFER_PAUSE_MS_MIN};
use crate::types::{
    Code, Command, Failure, Index, MembershipChange, Node, NodeId, Pin, SnapshotId,
};

/// See the module.
#[derive(Default)]
pub(super) struct Receivers {
    /// When the receivers of an offer were heard last, while this node leads.
    heard_ms: BTreeMap<NodeId, u64>,
    /// Receivers whose pulls failed: until when they are offered nothing, and the next pause, ms.
    paused: BTreeMap<NodeId, (u64, u64)>,
    /// When this leader last proposed something about a receiver's pin.
    pin_proposed_ms: BTreeMap<NodeId, u64>,
    /// When this leader last proposed a promotion.
    promotion_proposed_ms: u64,
    /// A snapshot is being built.
    building: bool,
    /// Clients that asked for one.
    build_waiters: Vec<Waiter>,
    /// A follower needs one and there is none to offer.
    wanted: bool,
    /// None is built for a follower before this: the last one failed.
    build_not_before_ms: u64,
    /// The log is kept from here on for the snapshot that is built for a follower, and until when:
    /// a pin takes over once it is offered.
    held: Option<(Index, u64)>,
}

impl Receivers {
    /// Forgets what only a leader knows. A build goes on, and who waits for it is answered.
    pub fn cease_to_lead(&mut self) {
        self.heard_ms.clear();
        self.paused.clear();
        self.held = None;
        self.pin_proposed_ms.clear();
        self.promotion_proposed_ms = 0;
        self.wanted = false;
    }
}

impl Core {
    /// A MsgSnapshot leaves: the receiver's time to answer begins.
    pub(super) fn note_offered(&mut self, to: NodeId, index: Index) -> Option<SnapshotId> {
        let offer = self.raw.store().offering.offer.as_ref().map(|offer| offer.meta.clone());
        let id = offer.filter(|meta| meta.index == index).map(|meta| meta.id);
        slog::info!(self.logger, "offered a snapshot"; "receiver" => to.0, "index" => index,
            "snapshot" => id.map(|id| id.to_string()));
        self.receivers.heard_ms.insert(to, self.now.monotonic_ms);
        // A pin that names a snapshot moves on the receiver's word only: it may still pull that one.
        let pinned = self.pins.iter().any(|pin| pin.receiver == to && pin.snapshot.is_some());
        if let (Some(id), false) = (id, pinned) {
            self.set_pin(to, index, (id, self.config.node));
        }
        id
    }

    /// A new leader treats every pinned receiver as alive until it proves silent.
    pub(super) fn adopt_receivers(&mut self) {
        for pin in self.pins.clone() {
            if pin.snapshot.is_some() {
                self.receivers.heard_ms.insert(pin.receiver, self.now.monotonic_ms);
                self.raw.mut_store().offering.leased.insert(pin.receiver);
            }
        }
    }

    pub(super) fn handle_pull_progress(
        &mut self,
        from: NodeId,
        pull: (SnapshotId, Index, NodeId),
        wants_new_offer: bool,
    ) {
        if !self.leads() || !self.conf_state.contains(from) {
            return;
        }
        if wants_new_offer {
            slog::info!(self.logger, "a receiver asks for another snapshot"; "receiver" => from.0);
            return self.end_lease(from, SnapshotStatus::Failure);
        }
        self.receivers.heard_ms.insert(from, self.now.monotonic_ms);
        self.raw.mut_store().offering.leased.insert(from);
        self.set_pin(from, pull.1, (pull.0, pull.2));
    }

    pub(super) fn handle_snapshot_report(&mut self, from: NodeId, index: Index, ok: bool) {
        if !self.leads() {
            return;
        }
        let pending = self.raw.raft.prs().get(from.0).and_then(|progress| {
            (progress.state == ProgressState::Snapshot).then_some(progress.pending_snapshot)
        });
        slog::info!(self.logger, "a receiver reports its snapshot"; "receiver" => from.0,
            "index" => index, "installed" => ok);
        self.raw.mut_store().offering.leased.remove(&from);
        self.receivers.heard_ms.remove(&from);
        self.pause_offers(from, ok);
        // Another snapshot than the one raft waits for has ended: the receiver pulls nothing now and
        // has dropped what was offered meanwhile, so that is offered again.
        if let Some(pending) = pending {
            let is_done = ok && pending == index;
            let status = if is_done { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
            self.raw.report_snapshot(from.0, status);
        }
    }

    /// Whatever made a pull fail will most likely make the next one fail: the pauses between offers
    /// grow until one succeeds.
    fn pause_offers(&mut self, receiver: NodeId, succeeded: bool) {
        let offering = &mut self.raw.mut_store().offering;
        if succeeded {
            self.receivers.paused.remove(&receiver);
            offering.paused.remove(&receiver);
            return;
        }
        let pause = self.receivers.paused.entry(receiver).or_insert((0, OFFER_PAUSE_MS_MIN));
        *pause = (self.now.monotonic_ms + pause.1, (2 * pause.1).min(OFFER_PAUSE_MS_MAX));
        offering.paused.insert(receiver);
    }

    /// A receiver has told us how far its log goes. If it may go on from there although it waits for
    /// a snapshot, let it: it installed that one and died before its report left, or an older one.
    pub(super) fn resume_receiver(&mut self, from: NodeId) {
        let first = self.raw.store().start().index + 1;
        let Some(progress) = self.raw.raft.prs().get(from.0) else { return };
        if progress.state != ProgressState::Snapshot {
            return;
        }
        if progress.committed_index >= progress.pending_snapshot {
            self.end_lease(from, SnapshotStatus::Finish);
        } else if first <= progress.matched + 1 {
            self.end_lease(from, SnapshotStatus::Failure);
        }
    }

    fn end_lease(&mut self, receiver: NodeId, status: SnapshotStatus) {
        self.receivers.heard_ms.remove(&receiver);
        self.raw.mut_store().offering.leased.remove(&receiver);
        let waits = self
            .raw
            .raft
            .prs()
            .get(receiver.0)
            .is_some_and(|progress| progress.state == ProgressState::Snapshot);
        if waits {
            self.raw.report_snapshot(receiver.0, status);
        }
    }

    pub(super) fn tick_receivers(&mut self) {
        if !self.leads() {
            return;
        }
        let now = self.now.monotonic_ms;
        let lease_ms = self.config.lease_ms;
        let silent: Vec<NodeId> = self
            .receivers
            .heard_ms
            .iter()
            .filter(|(_, heard_ms)| **heard_ms + lease_ms <= now)
            .map(|(node, _)| *node)
            .collect();
        for node in silent {
            slog::info!(self.logger, "a receiver fell silent"; "receiver" => node.0);
            self.end_lease(node, SnapshotStatus::Failure);
        }
        let paused = &self.receivers.paused;
        let offering = &mut self.raw.mut_store().offering;
        offering.paused.retain(|node| paused.get(node).is_some_and(|(until, _)| *until > now));
        self.review_pins();
        self.promote_learners();
    }

    /// Proposes to set or renew a pin, unless that was done a short while ago.
    fn set_pin(&mut self, receiver: NodeId, index: Index, snapshot: (SnapshotId, NodeId)) {
        if index < self.raw.store().start().index {
            // What it would hold is gone; it would only keep everybody from compacting further.
            return;
        }
        let same =
            self.pins.iter().any(|pin| pin.receiver == receiver && pin.snapshot == Some(snapshot));
        let interval = if same { self.config.pin_renewal_ms } else { 1000 };
        let command = Command::SetPin { receiver, index, snapshot: Some(snapshot) };
        self.propose_about_pin(receiver, interval, command);
    }

    /// False: something was proposed a short while ago, or cannot be now.
    fn propose_about_pin(&mut self, receiver: NodeId, interval_ms: u64, command: Command) -> bool {
        let now = self.now.monotonic_ms;
        let proposed = self.receivers.pin_proposed_ms.get(&receiver);
        if proposed.is_some_and(|at| at + interval_ms > now) {
            return false;
        }
        self.receivers.pin_proposed_ms.insert(receiver, now);
        let proposed = self.propose(&own_request(command));
        if let Err(failure) = &proposed {
            // It is proposed again at the receiver's next word or at the next review.
            slog::debug!(self.logger, "a pin was not proposed"; "error" => %failure);
        }
        proposed.is_ok()
    }

    /// Releases pins that nobody needs or that cost too much.
    fn review_pins(&mut self) {
        let budget = self.config.pin_bytes_max.max(self.compaction.state_bytes);
        let over_budget = self.compaction.log_bytes > budget.max(self.config.log_bytes_hard);
        let oldest = self.pins.iter().map(|pin| pin.index).min();
        let time = self.commit_time();
        for pin in self.pins.clone() {
            let leased = self.raw.store().offering.leased.contains(&pin.receiver);
            let reason = if self.has_caught_up(&pin) {
                "its receiver caught up"
            } else if !leased && pin.renewed_unix_ms + self.config.pin_age_ms_max <= time {
                "nobody renewed it"
            } else if over_budget && Some(pin.index) == oldest {
                "the log it holds is over the budget"
            } else {
                continue;
            };
            if self.propose_about_pin(pin.receiver, 1000, Command::ReleasePin(pin.receiver)) {
                slog::info!(self.logger, "releasing a pin"; "receiver" => pin.receiver.0,
                    "index" => pin.index, "because" => reason);
            }
        }
    }

    fn has_caught_up(&self, pin: &Pin) -> bool {
        let progress = self.raw.raft.prs().get(pin.receiver.0);
        progress.is_some_and(|progress| progress.matched >= pin.index)
            && self.is_caught_up(pin.receiver)
    }

    /// Whether `node` takes entries and is near the commit index. While nothing is written raft-rs
    /// leaves a peer that has just installed a snapshot in Probe.
    pub(super) fn is_caught_up(&self, node: NodeId) -> bool {
        let committed = self.commit_index();
        self.raw.raft.prs().get(node.0).is_some_and(|progress| {
            progress.state != ProgressState::Snapshot
                && progress.matched > 0
                && self.hears(node)
                && progress.matched + self.config.promotion_lag_max >= committed
        })
    }

    fn promote_learners(&mut self) {
        let now = self.now.monotonic_ms;
        let candidate = self.nodes.iter().find(|node| {
            self.config.promote
                && !node.learner
                && self.conf_state.learners.contains(&node.id.0)
                && self.is_caught_up(node.id)
        });
        let Some(node) = candidate.map(|node| node.id) else { return };
        if self.raw.raft.has_pending_conf() || self.receivers.promotion_proposed_ms + 1000 > now {
            return;
        }
        self.receivers.promotion_proposed_ms = now;
        match self.propose_membership(MembershipChange::Promote(node)) {
            Ok(_) => slog::info!(self.logger, "promoting a learner"; "node" => node.0),
            Err(failure) => {
                slog::info!(self.logger, "a learner is not promoted yet"; "node" => node.0,
                    "error" => %failure);
            }
        }
    }

    /// Takes the pins of the state; the snapshot store obeys the same list.
    pub(super) fn set_pins(&mut self, pins: Vec<Pin>) {
        self.pins = pins;
        self.outputs.push_back(Output::Pins(self.pins.clone()));
    }

    /// Takes the nodes of the state; the runtime's address book follows.
    pub(super) fn set_nodes(&mut self, nodes: Vec<Node>) {
        self.nodes = nodes;
        self.outputs.push_back(Output::Nodes(self.nodes.clone()));
    }

    pub(super) fn request_snapshot_build(&mut self, waiter: Waiter) {
        self.receivers.build_waiters.push(waiter);
        self.start_build();
    }

    /// Builds a snapshot if a follower needs one that contains it.
    pub(super) fn consider_snapshot(&mut self) {
        self.receivers.wanted |= self.raw.store().take_snapshot_wanted();
        // Before the last membership change is applied the state's conf state would lack the very
        // node that asks.
        let may_build = self.applied >= self.conf_index
            && self.leads()
            && self.receivers.build_not_before_ms <= self.now.monotonic_ms;
        if self.receivers.wanted && may_build {
            self.receivers.wanted = false;
            if !self.receivers.building {
                self.receivers.held = Some((self.applied, u64::MAX));
            }
            self.start_build();
        }
    }

    /// Where the log must begin at the latest for the snapshot that is built or about to be offered.
    pub(super) fn held_for_build(&self) -> Option<Index> {
        let (index, until_ms) = self.receivers.held?;
        let budget = self.config.pin_bytes_max.max(self.compaction.state_bytes);
        let holds = self.now.monotonic_ms < until_ms && self.compaction.log_bytes < budget;
        holds.then_some(index)
    }

    fn start_build(&mut self) {
        if !self.receivers.building {
            self.receivers.building = true;
            self.outputs.push_back(Output::BuildSnapshot);
        }
    }

    pub(super) fn handle_snapshot_built(&mut self, offer: Offer) {
        self.receivers.building = false;
        if let Some((_, until_ms)) = &mut self.receivers.held {
            *until_ms = self.now.monotonic_ms + self.config.lease_ms;
        }
        let index = offer.meta.index;
        let newest =
            self.raw.store().offering.offer.as_ref().is_none_or(|old| old.meta.index <= index);
        if newest {
            self.raw.mut_store().offering.offer = Some(offer);
        }
        for waiter in std::mem::take(&mut self.receivers.build_waiters) {
            self.answer(waiter, Ok(Answer::Snapshot(index)));
        }
    }

    /// Without this its receivers would be offered the same damaged bytes for ever.
    pub(super) fn handle_snapshot_lost(&mut self, id: SnapshotId) {
        let offer = &mut self.raw.mut_store().offering.offer;
        if offer.as_ref().is_some_and(|offer| offer.meta.id == id) {
            slog::warn!(self.logger, "a lost snapshot is not offered any more"; "snapshot" => %id);
            *offer = None;
        }
    }

    pub(super) fn handle_snapshot_failed(&mut self, reason: &str) {
        self.receivers.building = false;
        self.receivers.held = None;
        self.receivers.build_not_before_ms = self.now.monotonic_ms + BUILD_RETRY_MS;
        slog::error!(self.logger, "no snapshot could be built"; "error" => reason);
        for waiter in std::mem::take(&mut self.receivers.build_waiters) {
            let failure =
                Failure::new(Code::Internal, format!("no snapshot could be built: {reason}"))
                    .hint("see the node's log");
            self.answer(waiter, Err(failure));
        }
    }
}
