//! Calls between nodes, and what arrives from them. As `node/calls.rs` and `node/inbound.rs` do it.

use anyhow::Result;
use ratoon::raft::{Answer, ClientRequest, Input, Waiter};
use ratoon::types::{Code, Failure, MembershipChange, NodeId, Role};

use super::clients::{Caller, Response};
use super::machine::{CallFor, MachineEvent};
use super::network::{Lane, Packet};
use super::{Ask, Event, World};

/// How often a node looks whether it is a member.
const LOOK_US: u64 = 500_000;
/// How long a node that was admitted waits for the leader's first word before it asks again.
const ADMISSION_WAIT_US: u64 = 2_000_000;
/// A member that has known no leader for so long asks whether it was removed.
const LEADERLESS_US: u64 = 5_000_000;

/// Who waits for an answer of a node's core.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A client or the operator, and which of its attempts.
    Caller(Caller, u64),
    /// A peer's call.
    Peer { from: NodeId, call: u64 },
    /// Nobody cares.
    Nobody,
}

impl World {
    /// A caller's request reaches a node's door.
    pub(super) fn arrive(&mut self, caller: Caller, attempt: u64, node: NodeId, ask: Ask) {
        let now_us = self.now_us;
        let machine = self.machine_mut(node);
        if let Some(until) = machine.paused_until(now_us) {
            return self.push_at(until, Event::Arrive { caller, attempt, node, ask });
        }
        if machine.process.is_none() {
            return self.respond(caller, attempt, Response::NeverSent);
        }
        let origin = Origin::Caller(caller, attempt);
        let waiter = machine.alive().add_waiter(origin, ask.clone());
        let input = match ask {
            Ask::Request(request) => Input::Client { waiter, request, forwarded: false },
            Ask::Get(_) => Input::Read { waiter },
        };
        self.report(node, input);
    }

    /// Hands a client's request to the leader.
    pub(super) fn forward(
        &mut self,
        node: NodeId,
        to: NodeId,
        waiter: Waiter,
        request: ClientRequest,
    ) {
        self.call(node, to, Some(request), CallFor::Waiter(waiter));
    }

    fn call(
        &mut self,
        node: NodeId,
        to: NodeId,
        request: Option<ClientRequest>,
        on_behalf: CallFor,
    ) {
        let call = self.name();
        let timeout_us = self.settings.request_timeout_ms * 1000;
        let never = |reason: &str| Failure::new(Code::Unavailable, format!("never sent: {reason}"));
        let process = self.machine_mut(node).alive();
        process.calls.insert(call, on_behalf);
        if !process.addresses.contains(&to) {
            return self.end_call(node, call, Err(never("no address")));
        }
        let is_down = self.machines.get(&to).is_none_or(|machine| machine.process.is_none());
        if is_down && self.random.chance(700) {
            return self.end_call(node, call, Err(never("the link is down")));
        }
        self.push_machine(node, timeout_us, MachineEvent::CallTimeout(call));
        self.send_on_stream(node, to, Packet::Call { call, request });
    }

    /// Sends something that arrives unless the connection breaks.
    pub(super) fn send_on_stream(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        if let Some(delay) = self.stream_delay(Lane::Raft, from, to, packet.bytes()) {
            self.push(delay, Event::Deliver { from, to, packet });
        }
    }

    pub(super) fn call_timed_out(&mut self, node: NodeId, call: u64) {
        let failure = Failure::new(Code::OutcomeUnknown, "no answer in time");
        self.end_call(node, call, Err(failure));
    }

    fn end_call(&mut self, node: NodeId, call: u64, result: Result<Answer, Failure>) {
        let Some(process) = &mut self.machine_mut(node).process else { return };
        match process.calls.remove(&call) {
            Some(CallFor::Waiter(waiter)) => {
                let result = result.map_err(|failure| match failure.code {
                    Code::Unauthenticated => Failure::new(Code::Unavailable, failure.message),
                    _ => failure,
                });
                self.report(node, Input::Forwarded { waiter, result });
            }
            Some(CallFor::Membership) => self.membership_answered(node, result),
            None => {}
        }
    }

    /// Something arrives from a peer.
    pub(super) fn deliver(&mut self, from: NodeId, to: NodeId, packet: Packet) -> Result<()> {
        let now_us = self.now_us;
        let is_cut = self.network.is_cut(from, to);
        if is_cut && self.random.chance(500) {
            return Ok(());
        }
        // Enrolled, and never started.
        let Some(machine) = self.machines.get_mut(&to) else { return Ok(()) };
        if let Some(until) = machine.paused_until(now_us) {
            self.push_at(until, Event::Deliver { from, to, packet });
            return Ok(());
        }
        let Some(process) = &mut machine.process else { return Ok(()) };
        let is_refused = process.refuses(from);
        match packet {
            Packet::Call { call, request } => {
                if is_refused {
                    let failure = Failure::new(Code::Unauthenticated, "not of this cluster");
                    self.send_on_stream(to, from, Packet::Reply { call, result: Err(failure) });
                    return Ok(());
                }
                let Some(request) = request else {
                    let result = Ok(Answer::Leader(to));
                    self.send_on_stream(to, from, Packet::Reply { call, result });
                    return Ok(());
                };
                // A joiner may ask any node: a membership call is forwarded once more.
                let forwarded = !matches!(request, ClientRequest::Membership(_));
                let ask = Ask::Request(request.clone());
                let waiter = process.add_waiter(Origin::Peer { from, call }, ask);
                self.report(to, Input::Client { waiter, request, forwarded });
            }
            Packet::Reply { call, result } => self.end_call(to, call, result),
            _ if is_refused => {}
            frame => self.take_frame(from, to, frame),
        }
        Ok(())
    }

    fn take_frame(&mut self, from: NodeId, to: NodeId, frame: Packet) {
        // A node that lags far behind may be led by one it never heard of.
        self.machine_mut(to).alive().addresses.insert(from);
        let input = match frame {
            Packet::Raft(bytes) => Input::Message { from, bytes },
            Packet::Report { index, ok } => Input::SnapshotReport { from, index, ok },
            Packet::Progress { id, index, source, wants_new_offer } => {
                Input::PullProgress { from, id, index, source, wants_new_offer }
            }
            Packet::Call { .. } | Packet::Reply { .. } => unreachable!("calls are no frames"),
        };
        self.report(to, input);
    }

    /// A node that is no member asks to be made a learner; one that has known no leader for a while
    /// asks whether it was removed.
    pub(super) fn watch_membership(&mut self, node: NodeId) {
        let now_us = self.now_us;
        let seeds = self.machine(node).disk.seeds.clone();
        let process = self.machine_mut(node).alive();
        let standing = process.core.standing();
        let is_enrolled = standing.role == Role::Enrolled;
        if standing.leader.is_some() {
            process.led_at_us = now_us;
        }
        if !is_enrolled && now_us - process.led_at_us < LEADERLESS_US {
            return self.push_machine(node, LOOK_US, MachineEvent::WatchMembership);
        }
        let mut known: Vec<NodeId> = seeds.into_iter().collect();
        known.extend(process.nodes.iter().map(|known| known.id));
        known.retain(|known| *known != node);
        if known.is_empty() {
            return self.push_machine(node, LOOK_US, MachineEvent::WatchMembership);
        }
        process.admission_attempts += 1;
        let peer = known[process.admission_attempts % known.len()];
        let change = ClientRequest::Membership(MembershipChange::AddLearner(node));
        self.call(node, peer, is_enrolled.then_some(change), CallFor::Membership);
    }

    fn membership_answered(&mut self, node: NodeId, result: Result<Answer, Failure>) {
        self.trace.say(self.now_us, node, || format!("membership: {result:?}"));
        let pause_us = match result {
            Ok(_) => ADMISSION_WAIT_US,
            Err(failure) if failure.code == Code::Unauthenticated => {
                return self.turn_away(node);
            }
            Err(_) => LOOK_US,
        };
        self.push_machine(node, pause_us, MachineEvent::WatchMembership);
    }

    /// The cluster says that this node is none of its own (any more): it stops for good.
    fn turn_away(&mut self, node: NodeId) {
        self.trace.note(self.now_us, node, "turned away", []);
        self.figures.turned_away += 1;
        self.checks.turned_away(node);
        let machine = self.machine_mut(node);
        machine.is_retired = true;
        machine.process = None;
        self.checks.crash(node);
    }
}
