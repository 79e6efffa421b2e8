//! The operator: creates the collection, enrols nodes, removes them, moves leadership.

use std::collections::{BTreeSet, VecDeque};

use anyhow::{Result, bail};
use ratoon::raft::{Answer, ClientRequest};
use ratoon::types::{Code, Command, MembershipChange, NodeId, Reply, Retry, SessionSequence};

use super::boot::addresses;
use super::clients::{Caller, Response, collection, propose};
use super::{Ask, EPOCH_MS, Event, World};

/// How long the operator waits for an answer.
const PATIENCE_US: u64 = 8_000_000;

/// See the module.
#[derive(Default)]
pub struct Operator {
    session: Option<u64>,
    sequence: u64,
    attempt: u64,
    waits_since_us: Option<u64>,
    doing: Option<Step>,
    /// Steps that follow.
    next: VecDeque<Step>,
    began: bool,
    tokens: u64,
    next_node: u64,
    /// A removal was refused, and an earlier attempt of it may be carried out all the same.
    removal_in_doubt: bool,
}

/// One request of the operator.
#[derive(Clone, Debug)]
enum Step {
    OpenSession,
    CreateCollection,
    CreateToken { number: u64, learner: bool },
    RedeemToken { number: u64 },
    Remove(NodeId),
    Promote(NodeId),
    Transfer(NodeId),
}

impl World {
    pub(super) fn operate(&mut self) -> Result<()> {
        let now_us = self.now_us;
        if let Some(since) = self.operator.waits_since_us {
            if since + PATIENCE_US > now_us {
                self.push(1_000_000, Event::Operator);
                return Ok(());
            }
            self.operator.waits_since_us = None;
        }
        if !std::mem::replace(&mut self.operator.began, true) {
            self.operator.next = [Step::OpenSession, Step::CreateCollection].into();
        }
        if self.operator.doing.is_none() {
            self.operator.doing = self.operator.next.pop_front();
            if self.operator.doing.is_none() {
                self.plan_steps();
                self.operator.doing = self.operator.next.pop_front();
            }
            self.operator.sequence += u64::from(self.operator.doing.is_some());
        }
        if let Some(step) = self.operator.doing.clone() {
            self.operator.attempt += 1;
            self.operator.waits_since_us = Some(now_us);
            let (attempt, request) = (self.operator.attempt, self.request_of(&step));
            let node = self.some_node();
            self.trace.say(now_us, node, || format!("operator: {step:?}"));
            self.ask(Caller::Operator, attempt, node, Ask::Request(request));
        }
        let pause = match (self.calm, self.members().len() as u64) {
            (true, _) => 200_000,
            (_, members) if members < self.settings.members_wanted => 100_000,
            _ => match self.settings.faults.operator_ms {
                0 => 500_000,
                mean => self.random.interval(mean * 1000),
            },
        };
        self.push(pause, Event::Operator);
        Ok(())
    }

    /// Whether the operator has nothing under way.
    pub(super) fn operator_is_idle(&self) -> bool {
        let is_idle = self.operator.doing.is_none() && self.operator.next.is_empty();
        is_idle && self.lost_members().is_empty()
    }

    /// Whether a removal is under way, or may still come of one that was given up.
    pub(super) fn operator_removes(&self) -> bool {
        let mut steps = self.operator.doing.iter().chain(&self.operator.next);
        self.operator.removal_in_doubt || steps.any(|step| matches!(step, Step::Remove(_)))
    }

    /// Machines that are, or are going to be, in the cluster.
    pub(super) fn members(&self) -> Vec<NodeId> {
        let alive = self.machines.iter().filter(|(_, machine)| !machine.is_retired);
        alive.map(|(node, _)| *node).filter(|node| !self.checks.is_removed(*node)).collect()
    }

    fn plan_steps(&mut self) {
        if let Some(lost) = self.lost_members().first() {
            // Whatever else there is to do, what is gone counts as a member no longer.
            self.operator.next.push_back(Step::Remove(*lost));
            return;
        }
        if self.calm {
            return;
        }
        let members = self.members();
        let count = members.len() as u64;
        let settings = &self.settings;
        let may_change = settings.faults.operator_ms > 0;
        let enrol = count < settings.members_wanted
            || (may_change && count < settings.members_max && self.random.chance(400));
        if enrol {
            self.operator.tokens += 1;
            let number = self.operator.tokens;
            let learner = self.random.chance(settings.learners);
            let steps = [Step::CreateToken { number, learner }, Step::RedeemToken { number }];
            self.operator.next.extend(steps);
        } else if may_change {
            let node = *self.random.pick(&members);
            let step = match self.random.below(4) {
                0 if count > 2 => Step::Remove(node),
                1 => Step::Promote(node),
                _ => Step::Transfer(node),
            };
            self.operator.next.push_back(step);
        }
    }

    fn request_of(&self, step: &Step) -> ClientRequest {
        let operator = &self.operator;
        let in_session = |command| {
            let session = operator.session.unwrap_or(0);
            propose(Some(SessionSequence { session, sequence: operator.sequence }), command)
        };
        let secret = |number: u64| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            hash
        };
        match step {
            Step::OpenSession => propose(None, Command::OpenSession),
            Step::CreateCollection => in_session(Command::CreateCollection(collection())),
            Step::CreateToken { number, learner } => in_session(Command::CreateToken {
                secret_hash: secret(*number),
                // The leader's clock may be off by hours.
                expires_unix_ms: EPOCH_MS + 3 * 24 * 3_600_000,
                learner: *learner,
            }),
            Step::RedeemToken { number } => in_session(Command::RedeemToken {
                secret_hash: secret(*number),
                addresses: addresses(operator.next_node + 2),
            }),
            Step::Remove(node) => ClientRequest::Membership(MembershipChange::Remove(*node)),
            Step::Promote(node) => ClientRequest::Membership(MembershipChange::Promote(*node)),
            Step::Transfer(node) => ClientRequest::TransferLeader(*node),
        }
    }

    pub(super) fn operator_response(&mut self, attempt: u64, response: Response) -> Result<()> {
        if self.operator.attempt != attempt || self.operator.waits_since_us.take().is_none() {
            return Ok(());
        }
        self.trace.say(self.now_us, NodeId(0), || format!("operator hears {response:?}"));
        let Some(step) = self.operator.doing.clone() else { return Ok(()) };
        match response {
            Response::Answer(Ok(answer)) => self.step_done(&step, answer)?,
            Response::Answer(Err(failure)) if failure.retry == Retry::Never => {
                let is_fine =
                    matches!(step, Step::Remove(_) | Step::Promote(_) | Step::Transfer(_))
                        && matches!(failure.code, Code::MembershipRefused | Code::NodeNotFound);
                if !is_fine {
                    bail!("the operator's {step:?} was refused: {failure}");
                }
                if let Step::Remove(node) = step {
                    // An earlier attempt may be in somebody's log.
                    self.operator.removal_in_doubt |= !self.machine(node).is_lost;
                }
                self.operator.doing = None;
            }
            // The same again, unless it is a matter of the moment.
            _ if matches!(step, Step::Promote(_) | Step::Transfer(_)) => {
                self.operator.doing = None;
            }
            _ => {}
        }
        Ok(())
    }

    fn step_done(&mut self, step: &Step, answer: Answer) -> Result<()> {
        match (step, answer) {
            (Step::OpenSession, Answer::Applied(_, Reply::Session(session))) => {
                self.operator.session = Some(session);
                self.operator.sequence = 0;
            }
            (Step::CreateCollection, Answer::Applied(..)) => self.start_clients(),
            (Step::Remove(node), Answer::Applied(..)) => {
                self.figures.machines_replaced += u64::from(self.machine(*node).is_lost);
            }
            (Step::RedeemToken { .. }, Answer::Applied(_, Reply::Node(node))) => {
                self.operator.next_node += 1;
                let seeds: BTreeSet<NodeId> = self.members().into_iter().collect();
                self.add_joiner(node, seeds);
                self.figures.clusters_of_seven += u64::from(self.members().len() == 7);
            }
            (Step::CreateToken { .. } | Step::Promote(_), Answer::Applied(..))
            | (Step::Transfer(_), Answer::Leader(_)) => {}
            (step, answer) => bail!("the operator's {step:?} was answered with {answer:?}"),
        }
        self.operator.doing = None;
        Ok(())
    }
}
