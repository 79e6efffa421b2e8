//! A few cores in one thread, with a network and disks that do what a test tells them.
//!
//! `settle` carries out everything that is asked for, except what a machine holds back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};
use slog::{Discard, Logger, o};

use super::disk::{Log, State, Store, Stored};
use crate::codec;
use crate::raft::core::{Boot, Config, Core, Halt};
use crate::raft::wire::{decode_message, encode_message};
use crate::raft::{
    Answer, ClientRequest, HardState, Input, InstallPlan, LogStart, LogWrite, Offer, Output,
    SnapshotMeta, Waiter,
};
use crate::types::{
    Addresses, ClusterId, Command, Committed, ConfState, Digest, Failure, Index, MembershipChange,
    Node, NodeId, Now, Request, Role, SnapshotId, SnapshotReference,
};

/// Milliseconds of a tick.
pub const TICK_MS: u64 = 100;
/// A receiver silent for so long has no lease.
pub const LEASE_MS: u64 = 5_000;
/// See `Config::pin_bytes_max`.
pub const PIN_BYTES_MAX: u64 = 64 * 1024;
/// See `Config::pin_age_ms_max`.
pub const PIN_AGE_MS_MAX: u64 = 60_000;
/// The cluster of all tests.
pub const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Work that a machine may hold back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Task {
    Persist,
    Apply,
    Build,
    Pull,
    Prepare,
    Install,
}

/// Something on its way between two machines.
#[derive(Clone, Debug)]
pub enum Letter {
    Raft(Message),
    Report(Index, bool),
    Progress((SnapshotId, Index, NodeId), bool),
}

/// One machine: what survives a crash, what it is about to do, and what it has said.
pub struct Machine {
    pub id: u64,
    pub core: Option<Core>,
    pub log: Log,
    /// Newest state, and what of it a crash leaves.
    pub state: State,
    pub flushed: State,
    pub generation: u64,
    pub boots: u64,
    pub offer: Option<Offer>,
    prepared: BTreeMap<u64, State>,
    pub held: BTreeSet<Task>,
    persists: VecDeque<(u64, LogWrite)>,
    pub applies: VecDeque<(u64, Vec<Committed>)>,
    pub builds: usize,
    pub pulls: Vec<(SnapshotReference, Index, NodeId)>,
    pub prepares: Vec<SnapshotId>,
    pub installs: Vec<InstallPlan>,
    pub discarded: Vec<SnapshotId>,
    pub installed: Vec<SnapshotId>,
    /// Builds, pulls and offers counted since the machine was made.
    pub built: usize,
    pub offered: usize,
    pub answers: BTreeMap<Waiter, Result<Answer, Failure>>,
    pub reads: BTreeMap<Waiter, Index>,
}

impl Machine {
    fn new(id: u64, log: Log, state: State) -> Machine {
        Machine {
            id,
            core: None,
            log,
            flushed: state.clone(),
            state,
            generation: 1,
            boots: 0,
            offer: None,
            prepared: BTreeMap::new(),
            held: BTreeSet::new(),
            persists: VecDeque::new(),
            applies: VecDeque::new(),
            builds: 0,
            pulls: Vec::new(),
            prepares: Vec::new(),
            installs: Vec::new(),
            discarded: Vec::new(),
            installed: Vec::new(),
            built: 0,
            offered: 0,
            answers: BTreeMap::new(),
            reads: BTreeMap::new(),
        }
    }

    pub fn boot(&self) -> Boot {
        Boot {
            hard_state: self.log.hard_state(),
            applied: self.flushed.applied,
            conf_state: self.flushed.conf_state.clone(),
            time_unix_ms: self.flushed.time_unix_ms,
            generation: self.generation,
            offer: self.offer.clone(),
            pins: self.flushed.pins.values().cloned().collect(),
            nodes: self.flushed.nodes.values().cloned().collect(),
            log_bytes: self.log.bytes(),
            state_bytes: 0,
        }
    }

    pub fn core(&mut self) -> &mut Core {
        self.core.as_mut().expect("the machine runs")
    }

    fn is_held(&self, task: Task) -> bool {
        self.held.contains(&task)
    }

    /// One piece of work that is not held back, as the input that reports it.
    fn work(&mut self, store: &mut Store) -> Option<Input> {
        if !self.is_held(Task::Persist)
            && let Some((number, write)) = self.persists.pop_front()
        {
            self.log.write(&write);
            return Some(Input::Persisted { number, log_bytes: self.log.bytes() });
        }
        if !self.is_held(Task::Apply)
            && let Some((generation, entries)) = self.applies.pop_front()
        {
            return Some(self.apply(generation, &entries));
        }
        if !self.is_held(Task::Build) && self.builds > 0 {
            self.builds -= 1;
            return Some(self.build(store));
        }
        if !self.is_held(Task::Pull)
            && let Some((reference, ..)) = self.pulls.pop()
        {
            self.pulls.clear();
            return Some(Input::SnapshotDurable(store[&reference.id].meta.clone()));
        }
        if !self.is_held(Task::Prepare)
            && let Some(id) = self.prepares.pop()
        {
            let generation = self.generation + 1 + self.prepared.len() as u64;
            self.prepared.insert(generation, store[&id].state.clone());
            return Some(Input::SnapshotPrepared { id, generation });
        }
        if !self.is_held(Task::Install)
            && let Some(plan) = self.installs.pop()
        {
            return Some(self.install(&plan));
        }
        None
    }

    fn apply(&mut self, generation: u64, entries: &[Committed]) -> Input {
        let replies = entries.iter().map(|entry| self.state.apply(entry)).collect();
        Input::Applied {
            generation,
            index: self.state.applied,
            replies,
            pins: Some(self.state.pins.values().cloned().collect()),
            nodes: Some(self.state.nodes.values().cloned().collect()),
            time_unix_ms: 0,
        }
    }

    fn build(&mut self, store: &mut Store) -> Input {
        let State { applied: index, term, conf_state, .. } = self.state.clone();
        let id = Digest::of(format!("{} at {index}", self.id).as_bytes());
        let meta = SnapshotMeta { id, index, term, conf_state };
        store.insert(id, Stored { meta: meta.clone(), state: self.state.clone() });
        let offer = Offer { meta, total_bytes: 1 << 40, parts: 9, manifest_bytes: 900 };
        self.offer = Some(offer.clone());
        self.built += 1;
        Input::SnapshotBuilt(offer)
    }

    fn install(&mut self, plan: &InstallPlan) -> Input {
        self.log.reset(plan);
        self.state = self.prepared.remove(&plan.generation).expect("it was prepared");
        self.flushed = self.state.clone();
        self.generation = plan.generation;
        Input::Installed {
            generation: plan.generation,
            pins: self.state.pins.values().cloned().collect(),
            nodes: self.state.nodes.values().cloned().collect(),
            time_unix_ms: 0,
        }
    }

    /// Sorts what the core has to say into work, letters and answers.
    fn sort_outputs(&mut self, letters: &mut VecDeque<(u64, u64, Letter)>) {
        let id = self.id;
        while let Some(output) = self.core.as_mut().and_then(Core::poll_output) {
            match output {
                Output::Send { to, bytes, offers, .. } => {
                    let message = decode_message(&bytes).expect("a core sent it");
                    self.offered += usize::from(message.get_msg_type() == MessageType::MsgSnapshot);
                    assert!(offers.is_none() || self.offered > 0);
                    letters.push_back((id, to.0, Letter::Raft(message)));
                }
                Output::SendReport { to, index, ok, .. } => {
                    letters.push_back((id, to.0, Letter::Report(index, ok)));
                }
                Output::SendProgress { to, id: snapshot, index, source, wants_new_offer } => {
                    let pull = (snapshot, index, source);
                    letters.push_back((id, to.0, Letter::Progress(pull, wants_new_offer)));
                }
                Output::Persist { number, write } => self.persists.push_back((number, write)),
                Output::Apply { generation, entries } => {
                    self.applies.push_back((generation, entries));
                }
                Output::BuildSnapshot => self.builds += 1,
                Output::FetchSnapshot { reference, index, from, .. } => {
                    self.pulls.push((reference, index, from));
                }
                Output::PrepareSnapshot { id } => self.prepares.push(id),
                Output::DiscardSnapshot { id } => self.discarded.push(id),
                Output::Install(plan) => self.installs.push(plan),
                Output::SnapshotInstalled { id } => self.installed.push(id),
                Output::Answer { waiter, result } => {
                    let earlier = self.answers.insert(waiter, result);
                    assert!(earlier.is_none(), "waiter {waiter} was answered twice");
                }
                Output::ReadReady { waiter, index } => {
                    self.reads.insert(waiter, index);
                }
                Output::CompactLog { start } => self.log.compact(start),
                other => self.do_at_once(other),
            }
        }
    }

    fn do_at_once(&mut self, output: Output) {
        let report = match output {
            Output::FlushState => {
                self.flushed = self.state.clone();
                Input::Flushed { index: self.flushed.applied, state_bytes: 0 }
            }
            Output::FetchEntries { ticket, from, to, max_bytes } => {
                use crate::raft::LogStore;
                let first = self.log.start().index + 1;
                let entries = match from >= first {
                    true => self.log.entries(from, to, max_bytes).expect("it reads"),
                    false => Vec::new(),
                };
                Input::EntriesFetched { ticket, entries }
            }
            _ => return,
        };
        self.deferred(report);
    }

    fn deferred(&mut self, input: Input) {
        let now = self.core().now;
        self.tell(now, input).expect("the core goes on");
    }

    fn tell(&mut self, now: Now, input: Input) -> Result<(), Halt> {
        let core = self.core.as_mut().expect("the machine runs");
        core.handle(now, input)?;
        core.advance(now)
    }
}

/// See the module.
pub struct Cluster {
    pub now: Now,
    pub machines: BTreeMap<u64, Machine>,
    pub store: Store,
    wire: VecDeque<(u64, u64, Letter)>,
    /// Pairs whose letters are lost, in this direction.
    pub cut: BTreeSet<(u64, u64)>,
    /// Kinds of raft message that are lost, whoever sends them.
    pub lost: Vec<MessageType>,
    /// Every letter that left, for tests that replay or examine them.
    pub sent: Vec<(u64, u64, Letter)>,
    next_waiter: Waiter,
}

pub fn config(node: u64) -> Config {
    Config {
        node: NodeId(node),
        cluster: CLUSTER,
        bulk_address: format!("node{node}:7002"),
        seed: 11,
        boot: 1,
        tick_ms: TICK_MS,
        election_ticks: 10,
        heartbeat_ticks: 2,
        request_timeout_ms: 10_000,
        lease_ms: LEASE_MS,
        pin_renewal_ms: 2_000,
        pin_age_ms_max: PIN_AGE_MS_MAX,
        pin_bytes_max: PIN_BYTES_MAX,
        log_bytes_soft: 16 * 1024,
        log_bytes_hard: 32 * 1024,
        flush_bytes: 8 * 1024,
        promotion_lag_max: 100,
        promote: false,
    }
}

pub fn logger() -> Logger {
    Logger::root(Discard, o!())
}

/// The state every cluster begins with: node 1 the only voter, nodes 1 to 4 enrolled.
pub fn genesis() -> State {
    let node = |id| Node { id: NodeId(id), addresses: Addresses::default(), learner: false };
    State {
        applied: 1,
        term: 1,
        conf_state: ConfState { voters: vec![1], ..ConfState::default() },
        nodes: (1..=4).map(|id| (NodeId(id), node(id))).collect(),
        ..State::default()
    }
}

impl Cluster {
    /// Node 1 alone, leading.
    pub fn alone() -> Cluster {
        let start = LogStart { index: 1, term: 1 };
        let log = Log::new(start, HardState { term: 1, vote: 0, commit: 1 });
        let mut cluster = Cluster {
            now: Now { monotonic_ms: 0, unix_ms: 1_000_000 },
            machines: BTreeMap::from([(1, Machine::new(1, log, genesis()))]),
            store: Store::new(),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            lost: Vec::new(),
            sent: Vec::new(),
            next_waiter: 0,
        };
        cluster.start(1);
        cluster.settle();
        cluster
    }

    /// Voters 1 to `count`, node 1 leading.
    pub fn of(count: u64) -> Cluster {
        let mut cluster = Cluster::alone();
        for id in 2..=count {
            cluster.join(id);
            cluster.ticks(20);
            cluster.change(1, MembershipChange::Promote(NodeId(id)));
            cluster.ticks(5);
        }
        assert_eq!(cluster.core(1).standing().role, Role::Leader);
        cluster
    }

    /// Starts an empty machine and makes it a learner, without waiting for what follows.
    pub fn join(&mut self, id: u64) {
        self.place(id);
        self.change(1, MembershipChange::AddLearner(NodeId(id)));
    }

    /// Puts an empty machine in its place and starts it.
    pub fn place(&mut self, id: u64) {
        let log = Log::new(LogStart::default(), HardState::default());
        self.machines.insert(id, Machine::new(id, log, State::default()));
        self.start(id);
    }

    pub fn try_start(&mut self, id: u64) -> Result<(), Halt> {
        let machine = self.machines.get_mut(&id).expect("the machine is there");
        machine.boots += 1;
        let config = Config { boot: machine.boots, ..config(id) };
        machine.state = machine.flushed.clone();
        let store = Box::new(machine.log.clone());
        machine.core = Some(Core::new(config, machine.boot(), store, self.now, &logger())?);
        machine.sort_outputs(&mut self.wire);
        Ok(())
    }

    pub fn start(&mut self, id: u64) {
        self.try_start(id).expect("the machine starts");
    }

    /// Takes a machine down; what was not durable is lost.
    pub fn crash(&mut self, id: u64) {
        let machine = self.machines.get_mut(&id).expect("the machine is there");
        let fresh = Machine::new(id, machine.log.clone(), machine.flushed.clone());
        let Machine { generation, boots, offer, built, offered, .. } = machine;
        let (generation, boots, built, offered) = (*generation, *boots, *built, *offered);
        let offer = offer.take();
        *machine = Machine { generation, boots, offer, built, offered, ..fresh };
        self.wire.retain(|(_, to, _)| *to != id);
    }

    pub fn machine(&mut self, id: u64) -> &mut Machine {
        self.machines.get_mut(&id).expect("the machine is there")
    }

    pub fn core(&mut self, id: u64) -> &mut Core {
        self.machine(id).core()
    }

    pub fn hold(&mut self, id: u64, task: Task) {
        self.machine(id).held.insert(task);
    }

    pub fn release(&mut self, id: u64, task: Task) {
        self.machine(id).held.remove(&task);
        self.settle();
    }

    /// Gives one input to a core and carries out what it asks for.
    pub fn tell(&mut self, id: u64, input: Input) {
        self.try_tell(id, input).expect("the core goes on");
    }

    /// The same, for what may make the core halt.
    pub fn try_tell(&mut self, id: u64, input: Input) -> Result<(), Halt> {
        let now = self.now;
        self.machine(id).tell(now, input)?;
        self.settle();
        Ok(())
    }

    /// The same as `deliver`, for what may make the core halt.
    pub fn try_deliver(&mut self, from: u64, to: u64, message: &Message) -> Result<(), Halt> {
        let bytes = encode_message(message);
        self.try_tell(to, Input::Message { from: NodeId(from), bytes })
    }

    /// Hands a raft message to a machine as if it had come over the wire.
    pub fn deliver(&mut self, from: u64, to: u64, message: &Message) {
        self.try_deliver(from, to, message).expect("the core goes on");
    }

    /// Carries out and delivers until nothing moves.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the cluster never comes to rest");
    }

    fn step(&mut self) -> bool {
        let now = self.now;
        for machine in self.machines.values_mut().filter(|machine| machine.core.is_some()) {
            machine.sort_outputs(&mut self.wire);
            if let Some(input) = machine.work(&mut self.store) {
                machine.tell(now, input).expect("the core goes on");
                return true;
            }
        }
        let Some((from, to, letter)) = self.wire.pop_front() else { return false };
        self.sent.push((from, to, letter.clone()));
        let input = match letter {
            Letter::Raft(message) if self.lost.contains(&message.get_msg_type()) => return true,
            Letter::Raft(message) => {
                Input::Message { from: NodeId(from), bytes: encode_message(&message) }
            }
            Letter::Report(index, ok) => Input::SnapshotReport { from: NodeId(from), index, ok },
            Letter::Progress((id, index, source), wants_new_offer) => {
                let from = NodeId(from);
                Input::PullProgress { from, id, index, source, wants_new_offer }
            }
        };
        let receiver = self.machines.get_mut(&to).filter(|machine| machine.core.is_some());
        if let Some(machine) = receiver.filter(|_| !self.cut.contains(&(from, to))) {
            machine.tell(now, input).expect("the core goes on");
        }
        true
    }

    /// Lets time pass for every machine that runs.
    pub fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.now.monotonic_ms += TICK_MS;
            self.now.unix_ms += TICK_MS;
            let running: Vec<u64> =
                self.machines.values().filter(|m| m.core.is_some()).map(|m| m.id).collect();
            for id in running {
                self.tell(id, Input::Tick);
            }
        }
    }

    /// Cuts a machine off, both ways.
    pub fn isolate(&mut self, id: u64) {
        for other in 1..=4 {
            self.cut.extend([(id, other), (other, id)]);
        }
    }

    pub fn client(&mut self, id: u64, request: ClientRequest) -> Waiter {
        self.next_waiter += 1;
        let waiter = self.next_waiter;
        self.tell(id, Input::Client { waiter, request, forwarded: false });
        waiter
    }

    /// Proposes a membership change at a leader.
    pub fn change(&mut self, leader: u64, change: MembershipChange) -> Waiter {
        let waiter = self.client(leader, ClientRequest::Membership(change));
        if let Some(Err(failure)) = self.machine(leader).answers.get(&waiter) {
            panic!("{change:?} was refused: {failure:?}");
        }
        waiter
    }

    /// Proposes `count` commands of about `bytes` bytes each, and returns their waiters.
    pub fn write(&mut self, leader: u64, count: usize, bytes: usize) -> Vec<Waiter> {
        (0..count).map(|_| self.client(leader, ClientRequest::Propose(command(bytes)))).collect()
    }

    /// Drops the leader's log as far as it may go.
    pub fn compact(&mut self, id: u64) -> Index {
        let waiter = self.client(id, ClientRequest::CompactLog);
        match self.machine(id).answers[&waiter] {
            Ok(Answer::Compacted(index)) => index,
            ref other => panic!("{other:?}"),
        }
    }

    pub fn read(&mut self, id: u64) -> Waiter {
        self.next_waiter += 1;
        let waiter = self.next_waiter;
        self.tell(id, Input::Read { waiter });
        waiter
    }

    /// The receiver's word that its pull lives, at the leader.
    pub fn progress(&mut self, leader: u64, receiver: u64, source: u64, wants_new_offer: bool) {
        let (id, index) = {
            let (reference, index, _) = self.machine(receiver).pulls.last().expect("it pulls");
            (reference.id, *index)
        };
        let source = NodeId(source);
        self.tell(receiver, Input::Pulling { id, index, source, wants_new_offer });
        assert_eq!(self.core(leader).standing().role, Role::Leader);
    }

    /// Both have applied the same.
    pub fn assert_equal(&self, one: u64, other: u64) {
        let (one, other) = (&self.machines[&one].state, &self.machines[&other].state);
        assert_eq!(one.applied, other.applied);
        assert!(one.history == other.history, "histories differ");
    }

    /// How the leader sees a peer.
    pub fn peer(&mut self, leader: u64, peer: u64) -> raft::Progress {
        self.core(leader).raw.raft.prs().get(peer).expect("it is a member").clone()
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |machine: &&Machine| {
            machine.core.as_ref().is_some_and(|core| core.standing().role == Role::Leader)
        };
        self.machines.values().find(leads).map(|machine| machine.id)
    }
}

/// A request of about `bytes` bytes.
pub fn command(bytes: usize) -> Bytes {
    use crate::types::{Action, CollectionName, Condition, Name, Write, WriteBatch};
    let name = |what, text| Name::parse(what, text).expect("a constant");
    let write = Write {
        collection: CollectionName {
            namespace: name("namespace", "default"),
            name: name("collection", "c"),
        },
        key: Bytes::from_static(b"key"),
        condition: Condition::Always,
        action: Action::Put { value: Bytes::from(vec![7; bytes]), content_type: String::new() },
    };
    let command = Command::Write(WriteBatch { writes: vec![write] });
    codec::encode_request(&Request { session: None, command })
}
