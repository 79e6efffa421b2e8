//! Founding, booting and crashing of nodes: what `node/start.rs` does, on the twins of the storage.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, ensure};
use ratoon::raft::{Boot, Config, Core, HardState, LogStart, LogStore};
use ratoon::state::{self, Genesis, State};
use ratoon::storage::memory::{MemoryLog, MemoryState};
use ratoon::transfer::{Sender, receiver, sender};
use ratoon::types::{Addresses, Node, NodeId};

use super::bulk_receiver::BulkReceiver;
use super::bulk_sender::BulkSender;
use super::calls::Origin;
use super::clients::Response;
use super::log_reads::LogReads;
use super::machine::{Disk, Machine, MachineEvent, Process};
use super::staging::{StagedChunk, Staging};
use super::{EPOCH_MS, Event, World};

/// The node that every cluster begins with.
pub const FOUNDER: NodeId = NodeId(1);

/// Where a node is reached.
pub fn addresses(node: u64) -> Addresses {
    let at = |port: u16| format!("node{node}:{port}");
    Addresses { raft: at(1), bulk: at(2), api: at(3) }
}

/// The founding state.
pub fn genesis(cluster: ratoon::types::ClusterId) -> Genesis {
    Genesis {
        cluster,
        node: Node { id: FOUNDER, addresses: addresses(1), learner: false },
        sealed_ca_key: b"sealed".to_vec(),
        ca_certificate: b"certificate".to_vec(),
        created_unix_ms: EPOCH_MS,
    }
}

impl World {
    /// The first node: state at index 1, and a log that begins after it.
    pub(super) fn found(&mut self) {
        let state = MemoryState::new();
        state.write(&state::genesis(&genesis(self.cluster))).expect("memory does not fail");
        state.flush().expect("memory does not fail");
        let start = LogStart { index: 1, term: 1 };
        let hard_state = HardState { term: 1, vote: 0, commit: 1 };
        let mut disk = Disk::empty(start, hard_state, BTreeSet::new());
        disk.current = Some(1);
        disk.generations.insert(1, state);
        self.add_machine(FOUNDER, disk);
    }

    /// An enrolled node with an empty disk that boots soon.
    pub(super) fn add_joiner(&mut self, node: NodeId, seeds: BTreeSet<NodeId>) {
        self.add_machine(node, Disk::empty(LogStart::default(), HardState::default(), seeds));
    }

    fn add_machine(&mut self, node: NodeId, disk: Disk) {
        let drift = self.random.between(950, 1050);
        let machine = Machine {
            disk,
            process: None,
            incarnation: 0,
            paused_until_us: 0,
            skew_ms: 0,
            tick_us: self.settings.tick_ms * drift,
            is_retired: false,
            is_lost: false,
            boots_at_us: None,
        };
        self.machines.insert(node, machine);
        self.boot_after(node, 1);
    }

    /// Boots a node after a while, if it is down.
    pub(super) fn boot_after(&mut self, node: NodeId, delay_us: u64) {
        let at = self.now_us + delay_us;
        let machine = self.machine_mut(node);
        if machine.process.is_some() || machine.is_retired || machine.boots_at_us.is_some() {
            return;
        }
        machine.boots_at_us = Some(at);
        self.push(delay_us, Event::Boot(node));
    }

    pub(super) fn boot(&mut self, node: NodeId) -> Result<()> {
        let boot_seed = self.random.next();
        let (now_us, settings) = (self.now_us, self.settings.clone());
        let config = config(&settings, node, self.cluster, boot_seed);
        let machine = self.machine_mut(node);
        machine.boots_at_us = None;
        if machine.is_retired {
            return Ok(());
        }
        ensure!(machine.process.is_none(), "it runs already");
        machine.incarnation += 1;
        machine.paused_until_us = 0;
        machine.disk.log_fails.store(false, Ordering::Relaxed);
        let redone = machine.disk.redo_install();
        let live = machine.disk.open_live();
        let state = match &live {
            Some((_, db)) => Some(State::load(&*db.view()).context("loading the state")?),
            None => None,
        };
        let now = machine.now(now_us);
        let boot = machine.disk.boot(state.as_ref(), live.as_ref())?;
        let log = machine.disk.log.clone();
        let reads = LogReads::new(log.clone(), machine.disk.log_fails.clone());
        let is_back = machine.incarnation > 1;
        self.checks.boot(node, log.hard_state(), &boot)?;
        self.checks.mirror_log(node, &log)?;
        self.trace.note(now_us, node, "boot", [boot.applied, boot.hard_state.term]);
        self.figures.installs_redone += u64::from(redone);
        let is_alone = boot.conf_state.voters == [node.0];
        self.figures.lone_voter_boots += u64::from(is_back && is_alone);
        let logger = self.logger.new(slog::o!("node" => node.0));
        let core = Core::new(config, boot, Box::new(reads), now, &logger)
            .map_err(|halt| anyhow!("it halts at boot: {halt}"))?;
        let transfer = self.transfer_machines(node, boot_seed);
        let machine = self.machine_mut(node);
        machine.disk.synced_last = machine.disk.log.last_index();
        let seeds = machine.disk.seeds.clone();
        machine.process = Some(Process::new(core, state, live, &seeds, transfer, now_us));
        let tick_us = machine.tick_us;
        self.push_machine(node, tick_us, MachineEvent::Tick);
        self.push_machine(node, 1_000, MachineEvent::WatchMembership);
        self.carry_all(node)?;
        self.resume_pull(node)
    }

    fn transfer_machines(&self, node: NodeId, seed: u64) -> (BulkReceiver, BulkSender) {
        let settings = &self.settings.transfer;
        let options = receiver::Options {
            streams: settings.streams,
            bytes_per_second: settings.bytes_per_second,
            grace_ms: settings.grace_ms,
            leftovers_ms: settings.leftovers_ms,
            unwritten_bytes_max: settings.unwritten_bytes_max,
            run_bytes_min: settings.run_bytes,
            run_bytes_max: settings.run_bytes,
            ..receiver::Options::new(node, self.cluster, seed)
        };
        let last = self.machine(node).disk.staging.last.clone();
        let source = sender::Options {
            pulls_max: settings.pulls_max,
            bytes_per_second: settings.bytes_per_second,
            buffer_bytes_max: settings.buffer_bytes_max,
            ..sender::Options::default()
        };
        let now = self.machine(node).now(self.now_us);
        (BulkReceiver::new(options, last, now), BulkSender::new(Sender::new(source)))
    }

    /// The process dies at once: what it did not sync or flush may be gone.
    pub(super) fn crash(&mut self, node: NodeId) -> Result<()> {
        let (log_seed, state_seed) = (self.random.next(), self.random.next());
        self.excuse_cut(node);
        if self.random.chance(500) {
            self.lose_power(node);
        }
        let machine = self.machine_mut(node);
        let Some(process) = machine.process.take() else { return Ok(()) };
        // A group of writes is one record of the real log, so that a torn one is forgotten whole: a
        // prefix of the writes is all that a crash can leave.
        machine.disk.log.crash(log_seed);
        for state in machine.disk.generations.values() {
            state.flush_some(state_seed);
            state.crash();
        }
        self.figures.crashes += 1;
        self.trace.note(self.now_us, node, "crash", []);
        self.checks.crash(node);
        for waiting in process.waiters.into_values() {
            match waiting.origin {
                // A connection that breaks is noticed, mostly.
                Origin::Caller(caller, attempt) => {
                    if self.random.chance(700) {
                        self.respond(caller, attempt, Response::Lost);
                    }
                }
                Origin::Peer { .. } | Origin::Nobody => {}
            }
        }
        Ok(())
    }
}

impl World {
    /// The page cache of a machine goes with its process.
    fn lose_power(&mut self, node: NodeId) {
        let mut random = self.random.fork();
        let torn = self.machine_mut(node).disk.staging.lose_power(&mut random);
        self.figures.power_losses += 1;
        for StagedChunk { id, bytes, .. } in torn {
            // What is left looks like a beginning, and is thrown away with what is fetched after it.
            self.checks.resent.allow(node, id, 2 * u64::from(bytes));
        }
    }
}

impl Disk {
    pub(super) fn empty(start: LogStart, hard_state: HardState, seeds: BTreeSet<NodeId>) -> Self {
        Disk {
            log: MemoryLog::create(start, hard_state),
            log_fails: Arc::default(),
            synced_last: start.index,
            current: None,
            generations: BTreeMap::new(),
            plan: None,
            snapshots: BTreeMap::new(),
            rot: BTreeSet::new(),
            staging: Staging::default(),
            seeds,
        }
    }

    /// What `DataDir::redo_install_at_boot` does.
    fn redo_install(&mut self) -> bool {
        let plan = self.plan.take();
        if let Some(plan) = &plan
            && self.current != Some(plan.generation)
        {
            self.log.reset_to(plan.start, plan.hard_state);
            self.current = Some(plan.generation);
        }
        let current = self.current;
        self.generations.retain(|generation, _| Some(*generation) == current);
        plan.is_some()
    }

    fn open_live(&self) -> Option<(u64, MemoryState)> {
        let current = self.current?;
        Some((current, self.generations.get(&current).expect("CURRENT names one").clone()))
    }

    fn boot(&self, state: Option<&State>, live: Option<&(u64, MemoryState)>) -> Result<Boot> {
        let newest =
            self.snapshots.values().max_by_key(|stored| (stored.offer.meta.index, stored.built_us));
        Ok(Boot {
            hard_state: self.log.hard_state(),
            applied: state.map_or(0, State::applied),
            conf_state: state.map(|state| state.conf_state().clone()).unwrap_or_default(),
            time_unix_ms: state.map_or(0, State::last_time_unix_ms),
            generation: live.map_or(0, |(generation, _)| *generation),
            offer: newest.map(|stored| stored.offer.clone()),
            pins: state.map(State::pins).unwrap_or_default(),
            nodes: state.map(State::nodes).unwrap_or_default(),
            log_bytes: self.log.bytes(),
            state_bytes: match live {
                Some((_, db)) => db.approximate_bytes()?,
                None => 0,
            },
        })
    }
}

impl Process {
    fn new(
        core: Core,
        state: Option<State>,
        live: Option<(u64, MemoryState)>,
        seeds: &BTreeSet<NodeId>,
        (bulk, source): (BulkReceiver, BulkSender),
        now_us: u64,
    ) -> Self {
        Process {
            core,
            inbox: VecDeque::new(),
            awake: false,
            log_jobs: VecDeque::new(),
            log_work: None,
            apply_jobs: VecDeque::new(),
            apply_work: None,
            nodes: state.as_ref().map(State::nodes).unwrap_or_default(),
            pins: state.as_ref().map(State::pins).unwrap_or_default(),
            state,
            live,
            prepared: None,
            addresses: seeds.clone(),
            waiters: BTreeMap::new(),
            next_waiter: 0,
            calls: BTreeMap::new(),
            admission_attempts: 0,
            led_at_us: now_us,
            bulk,
            source,
        }
    }
}

fn config(
    settings: &crate::settings::Settings,
    node: NodeId,
    cluster: ratoon::types::ClusterId,
    boot: u64,
) -> Config {
    Config {
        node,
        cluster,
        bulk_address: addresses(node.0).bulk,
        seed: boot,
        boot,
        tick_ms: settings.tick_ms,
        election_ticks: settings.election_ticks,
        heartbeat_ticks: settings.heartbeat_ticks,
        request_timeout_ms: settings.request_timeout_ms,
        lease_ms: settings.lease_ms,
        pin_renewal_ms: settings.pin_age_ms_max / 4,
        pin_age_ms_max: settings.pin_age_ms_max,
        pin_bytes_max: settings.pin_bytes_max,
        log_bytes_soft: settings.log_bytes_soft,
        log_bytes_hard: settings.log_bytes_hard,
        flush_bytes: settings.flush_bytes,
        promotion_lag_max: settings.promotion_lag_max,
        promote: true,
    }
}
