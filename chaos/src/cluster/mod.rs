//! A whole cluster in one thread: the queue of events and what each of them sets off.
//!
//! Time is a number that jumps from event to event. What `node/` does with threads, sockets and
//! files is done here with events: the core cannot tell the difference.

mod apply_thread;
mod boot;
mod bounds;
mod bulk_link;
mod bulk_receiver;
mod bulk_sender;
mod calls;
mod carry;
mod clients;
mod faults;
mod halts;
mod log_reads;
mod log_thread;
mod machine;
mod network;
mod operator;
mod recovery;
mod snapshots;
mod staging;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use ratoon::raft::{ClientRequest, Input};
use ratoon::types::{ClusterId, NodeId, SnapshotId};
use slog::Logger;

use crate::checks::Checks;
use crate::figures::Figures;
use crate::random::Random;
use crate::settings::Settings;
use crate::trace::Trace;

pub use boot::genesis;
use bulk_link::{BulkLink, LinkEvent};
pub use clients::{Caller, Response};
use clients::{Client, ClientEvent};
use faults::Fault;
use machine::{Machine, MachineEvent, Stored};
use network::{Lane, Network, Packet};
use operator::Operator;

/// Milliseconds since the epoch at which every run begins.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// What a caller asks of a node.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Something for the core.
    Request(ClientRequest),
    /// The value of a key, linearizable.
    Get(Vec<u8>),
}

/// Something that is due.
#[derive(Debug)]
enum Event {
    /// Inside one life of a node's process.
    Machine(NodeId, u64, MachineEvent),
    /// A node's process starts.
    Boot(NodeId),
    /// A packet arrives.
    Deliver { from: NodeId, to: NodeId, packet: Packet },
    /// A caller's request arrives at a node.
    Arrive { caller: Caller, attempt: u64, node: NodeId, ask: Ask },
    /// A node's answer arrives at its caller.
    Respond { caller: Caller, attempt: u64, response: Response },
    /// Something happens to a connection of the bulk lane.
    Link(u64, LinkEvent),
    /// A client goes on.
    Client(usize, ClientEvent),
    /// The operator goes on.
    Operator,
    /// A fault begins or ends.
    Fault(Fault),
}

/// See the module.
pub struct World {
    pub settings: Settings,
    pub trace: Trace,
    pub figures: Figures,
    pub checks: Checks,
    /// Faults have ended for good; the cluster has to recover.
    pub calm: bool,
    random: Random,
    logger: Logger,
    cluster: ClusterId,
    now_us: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    machines: BTreeMap<NodeId, Machine>,
    network: Network,
    links: BTreeMap<u64, BulkLink>,
    /// Every snapshot ever built.
    contents: BTreeMap<SnapshotId, Arc<Stored>>,
    /// Of all of them.
    snapshot_bytes_max: u64,
    clients: Vec<Client>,
    operator: Operator,
    next_name: u64,
}

impl World {
    /// A cluster of one node that boots now.
    pub fn new(seed: u64, trace: Trace, logger: Logger) -> Self {
        let mut random = Random::new(seed);
        let settings = Settings::draw(&mut random);
        let checks = Checks::default();
        let cluster = ClusterId([7; 16]);
        let clients = (0..settings.load.clients)
            .map(|_| Client::new(random.chance(settings.load.sessions)))
            .collect();
        let mut world = World {
            network: Network::new(settings.network.clone()),
            operator: Operator::default(),
            figures: Figures { seeds: 1, ..Figures::default() },
            calm: false,
            now_us: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            machines: BTreeMap::new(),
            links: BTreeMap::new(),
            contents: BTreeMap::new(),
            snapshot_bytes_max: 0,
            next_name: 0,
            settings,
            trace,
            checks,
            random,
            logger,
            cluster,
            clients,
        };
        world.found();
        world.push(1_000, Event::Operator);
        world.plan_faults();
        world
    }

    /// What has happened so far.
    pub fn count(&self) -> Figures {
        let mut figures = self.figures.clone();
        figures.simulated_ms = self.now_us / 1000;
        figures.digests_compared = self.checks.digests_compared();
        let resent = &self.checks.resent;
        figures.bytes_pulled = resent.delivered;
        figures.bytes_resent = resent.repeated;
        figures.bytes_resent_max = resent.allowed;
        figures
    }

    /// The time, microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Lets the next event happen. False: nothing will ever happen any more.
    pub fn step(&mut self) -> Result<bool> {
        let Some(((at, _), event)) = self.queue.pop_first() else { return Ok(false) };
        ensure!(at >= self.now_us, "time went back");
        self.now_us = at;
        self.figures.steps += 1;
        let what = || format!("at {:.3} ms", at as f64 / 1000.0);
        self.happen(event).with_context(what)?;
        Ok(true)
    }

    fn happen(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Machine(node, incarnation, event) => {
                let machine = self.machine(node);
                if machine.incarnation != incarnation || machine.process.is_none() {
                    return Ok(());
                }
                if let Some(until) = machine.paused_until(at_us(self)) {
                    self.push_at(until, Event::Machine(node, incarnation, event));
                    return Ok(());
                }
                self.machine_event(node, event).with_context(|| format!("node {node}"))
            }
            Event::Boot(node) => self.boot(node).with_context(|| format!("booting node {node}")),
            Event::Deliver { from, to, packet } => self.deliver(from, to, packet),
            Event::Arrive { caller, attempt, node, ask } => {
                self.arrive(caller, attempt, node, ask);
                Ok(())
            }
            Event::Respond { caller, attempt, response } => {
                self.take_response(caller, attempt, response)
            }
            Event::Link(name, event) => self.link_event(name, event),
            Event::Client(client, event) => self.client_event(client, event),
            Event::Operator => self.operate(),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    fn machine_event(&mut self, node: NodeId, event: MachineEvent) -> Result<()> {
        match event {
            MachineEvent::Tick => self.tick(node),
            MachineEvent::Wake => self.wake(node),
            MachineEvent::LogWork => self.finish_log_work(node),
            MachineEvent::ApplyWork => self.finish_apply_work(node),
            MachineEvent::Task(task) => self.finish_task(node, task),
            MachineEvent::CallTimeout(call) => {
                self.call_timed_out(node, call);
                Ok(())
            }
            MachineEvent::WatchMembership => {
                self.watch_membership(node);
                Ok(())
            }
            MachineEvent::ReceiverTimer => self.receiver_timer(node),
            MachineEvent::SenderTimer => self.sender_timer(node),
            MachineEvent::StagingDone(thread) => self.staging_done(node, thread),
            MachineEvent::OpenStored(id) => self.open_stored(node, id),
            MachineEvent::CheckStored(id, part) => self.check_stored(node, id, part),
        }
    }

    fn push(&mut self, delay_us: u64, event: Event) {
        self.push_at(self.now_us + delay_us, event);
    }

    fn push_at(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at_us, self.sequence), event);
    }

    fn push_machine(&mut self, node: NodeId, delay_us: u64, event: MachineEvent) {
        let incarnation = self.machine(node).incarnation;
        self.push(delay_us, Event::Machine(node, incarnation, event));
    }

    fn machine(&self, node: NodeId) -> &Machine {
        self.machines.get(&node).expect("machines are never removed")
    }

    fn machine_mut(&mut self, node: NodeId) -> &mut Machine {
        self.machines.get_mut(&node).expect("machines are never removed")
    }

    /// Puts an input into the queue of a node's core, if its process lives.
    fn report(&mut self, node: NodeId, input: Input) {
        let delay = self.random.interval(self.settings.disk.wake_us);
        let machine = self.machine_mut(node);
        let Some(process) = &mut machine.process else { return };
        process.inbox.push_back(input);
        if !std::mem::replace(&mut process.awake, true) {
            self.push_machine(node, delay, MachineEvent::Wake);
        }
    }

    /// When something sent on a reliable stream arrives; None: the connection breaks.
    fn stream_delay(&mut self, lane: Lane, from: NodeId, to: NodeId, bytes: usize) -> Option<u64> {
        let delay = self.network.stream(&mut self.random, from, to)?;
        Some(delay + self.network.pass(self.now_us, (lane, from, to), bytes))
    }

    /// A number that nothing else in this run is named by.
    fn name(&mut self) -> u64 {
        self.next_name += 1;
        self.next_name
    }

    /// Around `mean`, never 0.
    fn about(&mut self, mean_us: u64) -> u64 {
        match self.calm {
            true => self.random.between(1, mean_us.min(20_000) + 1),
            false => self.random.interval(mean_us),
        }
    }
}

fn at_us(world: &World) -> u64 {
    world.now_us
}
