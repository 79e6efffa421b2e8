//! From a data directory to a running node, and orderly to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slog::Logger;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::apply_thread::{self, Applier, ApplyError};
use super::carry::Carrier;
use super::handle::Handle;
use super::inbox::{Clock, Inbox};
use super::live::{CommitClock, Digests, Live, Prepared};
use super::members::Members;
use super::peers::{Inbound, Peers};
use super::shared::{Published, Shared};
use super::snapshots::{Bulk, Snapshots};
use super::waiters::Waiters;
use super::{calls, enroll, inbound, log_thread, raft_thread};
use crate::codec;
use crate::fault::{self, Point};
use crate::kv::KvError;
use crate::net::{self, Endpoint, Identity, Lane, NetError};
use crate::raft::{self, Boot, ClientRequest, Core, Halt, HardState, LogStart, LogStore};
use crate::snapshot_store::StoreError;
use crate::state::{self, Genesis, State, StateError};
use crate::storage::{self, DataDir, Generation, RaftLog, StateDb, StorageError};
use crate::types::{Addresses, Code, Command, Failure, NodeId, Request, Role};

/// Inbound frames and calls that wait for their task.
const INBOUND_MAX: usize = 1024;
/// How often a node looks whether it is a member.
const MEMBERSHIP_LOOK: Duration = Duration::from_millis(500);
/// How long a node that was admitted waits for the leader's first word before it asks again.
const ADMISSION_WAIT: Duration = Duration::from_secs(2);
/// A member that has known no leader for so long asks whether it was removed.
const LEADERLESS: Duration = Duration::from_secs(5);
/// The threads of a node that has failed get so long to leave the store.
const ABANDON_WAIT: Duration = Duration::from_secs(10);

/// What a node needs to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its data directory.
    pub data: PathBuf,
    /// Where the raft endpoint listens, UDP.
    pub listen_raft: SocketAddr,
    /// Where the bulk endpoint listens, UDP.
    pub listen_bulk: SocketAddr,
    /// Where others reach this node.
    pub addresses: Addresses,
    /// Nodes to ask for admission before there is a state to know them from.
    pub seeds: Vec<(NodeId, String)>,
    /// Consensus.
    pub raft: RaftOptions,
    /// RocksDB.
    pub storage: storage::Options,
    /// Snapshots and their transfer.
    pub snapshots: super::snapshots::Options,
}

impl Options {
    /// Where there is a state it knows better whom to ask, and of nodes removed since it knows that
    /// too.
    fn without_needless_seeds(self, has_state: bool) -> Options {
        let seeds = if has_state { Vec::new() } else { self.seeds };
        Options { seeds, ..self }
    }
}

/// Times and budgets of consensus; see `raft::Config`.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// Milliseconds between ticks.
    pub tick_ms: u64,
    /// Ticks without a leader before an election, at least.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// A client's request without an outcome is given up after this long.
    pub request_timeout_ms: u64,
    /// A receiver that says nothing for this long has no lease.
    pub lease_ms: u64,
    /// A pin that nobody renewed for this long is released.
    pub pin_age_ms_max: u64,
    /// Log bytes kept at most for pins, or the state's size if that is more.
    pub pin_bytes_max: u64,
    /// The log is compacted over this size ...
    pub log_bytes_soft: u64,
    /// ... and over this one also past live followers that lag.
    pub log_bytes_hard: u64,
    /// The state is flushed after this many bytes of applied entries.
    pub flush_bytes: u64,
    /// Learners are promoted by themselves.
    pub promote: bool,
}

/// Why a node does not start, or had to stop.
#[derive(Debug, Error)]
pub enum NodeError {
    /// Disk or data directory: the operator must act.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state database failed: halt.
    #[error("the state database failed: {0}")]
    Kv(#[from] KvError),
    /// The replicated state failed: halt.
    #[error("the state machine failed: {0}")]
    State(#[from] StateError),
    /// Raft had to halt.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// An endpoint or the identity: the operator must act.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The snapshot store: the operator must act.
    #[error("the snapshot store failed: {0}")]
    Snapshots(#[from] StoreError),
    /// The apply thread was told to go on with a state that nobody prepared, a defect: halt.
    #[error("{0}")]
    Apply(String),
    /// A thread of the node could not be started, or ended without a word: halt.
    #[error("thread {0}: {1}")]
    Thread(&'static str, String),
    /// This node was removed from its cluster.
    #[error("this node was removed from the cluster")]
    Removed,
}

impl From<ApplyError> for NodeError {
    /// Keeps the cause, because the operator acts on it.
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::State(error) => NodeError::State(error),
            ApplyError::Kv(error) => NodeError::Kv(error),
            ApplyError::Storage(error) => NodeError::Storage(error),
            ApplyError::NotPrepared(_) => NodeError::Apply(error.to_string()),
        }
    }
}

/// Creates the first node of a new cluster: state at index 1, and a log that begins after it. The
/// directory holds neither; the caller looks, because what a cut off attempt left is to be emptied.
pub fn create_first(
    data: &DataDir,
    options: &storage::Options,
    genesis: &Genesis,
    logger: &Logger,
) -> Result<(), NodeError> {
    let databases = storage::Shared::new(options, logger.clone());
    let (generation, directory) = data.next_generation()?;
    let db = StateDb::create(&directory, &databases, options)?;
    db.write(&state::genesis(genesis))?;
    db.flush()?;
    db.close()?;
    fault::point(Point::GenesisFlushed);
    data.set_first_generation(generation)?;
    let start = LogStart { index: 1, term: 1 };
    let hard_state = HardState { term: 1, vote: 0, commit: 1 };
    RaftLog::create(&data.raft(), &databases, options, start, hard_state)?;
    slog::info!(logger, "created the first node"; "generation" => generation.0);
    Ok(())
}

/// Creates the empty log of a node that is about to join, before it has an identity: a node with an
/// identity and no log has lost what it promised. Done again after a crash it changes nothing;
/// refused if the directory holds what another node left.
pub fn create_joiner(
    data: &DataDir,
    options: &storage::Options,
    logger: &Logger,
) -> Result<(), NodeError> {
    data.check_not_lost()?;
    let databases = storage::Shared::new(options, logger.clone());
    if !data.raft().exists() {
        let (start, hard_state) = (LogStart::default(), HardState::default());
        RaftLog::create(&data.raft(), &databases, options, start, hard_state)?;
    }
    let (log, hard_state) = RaftLog::open(&data.raft(), &databases, options)?;
    let is_new = hard_state == HardState::default() && log.last_index() == 0;
    if !is_new || data.current_generation()?.is_some() {
        return Err(StorageError::Exists { path: data.raft() }.into());
    }
    Ok(())
}

/// A running node.
pub struct Node {
    handle: Handle,
    failures: mpsc::UnboundedReceiver<NodeError>,
    threads: Vec<(&'static str, JoinHandle<()>)>,
    log_jobs: std::sync::mpsc::Sender<log_thread::Job>,
    apply_jobs: std::sync::mpsc::Sender<apply_thread::Job>,
    stop: CancellationToken,
}

impl Node {
    /// Starts the node that lives in `options.data`. `bulk_runtime` drives the bulk endpoint, the
    /// calling runtime everything else.
    pub async fn start(
        options: Options,
        data: Arc<DataDir>,
        identity: Identity,
        bulk_runtime: &tokio::runtime::Handle,
        logger: Logger,
    ) -> Result<Node, NodeError> {
        let disk = open_disk(&options, &data, &logger)?;
        let bind = |lane, address| {
            Endpoint::bind(lane, address, &identity, net::Options { logger: logger.clone() })
        };
        let raft_endpoint = bind(Lane::Raft, options.listen_raft)?;
        let bulk_endpoint = {
            let _inside = bulk_runtime.enter();
            bind(Lane::Bulk, options.listen_bulk)?
        };
        let runtime = tokio::runtime::Handle::current();
        let (failures, failures_receiver) = mpsc::unbounded_channel();
        let (inbox, inbox_receiver) = Inbox::new();
        let (inbound_sender, inbound_receiver) = mpsc::channel::<Inbound>(INBOUND_MAX);
        let peers = Peers::start(raft_endpoint, logger.clone(), inbound_sender);
        let options = options.without_needless_seeds(disk.state.is_some());
        options.seeds.iter().for_each(|(node, address)| peers.set_address(*node, address));
        let stop = CancellationToken::new();
        let nodes = disk.state.as_ref().map(State::nodes).unwrap_or_default();
        let nodes = watch::Sender::new(nodes);
        let live = disk.generation.map(|generation| (generation, disk.db.clone()));
        let live = live.and_then(|(generation, db)| db.map(|db| (generation, db)));
        let live = Arc::new(Live::new(live));
        let members = Members::new(nodes.subscribe(), live.clone());
        let lane = Bulk { endpoint: bulk_endpoint, runtime: bulk_runtime, members: &members };
        let (snapshots, offer) = Snapshots::start(&options, &data, &identity, lane, &logger)?;
        let clock = Clock::new();
        let core = start_core(&options, &identity, &disk, offer, clock, &logger)?;
        let published = published(&core);
        let last_time_unix_ms = disk.state.as_ref().map_or(0, State::last_time_unix_ms);
        let shared = Arc::new(Shared {
            digests: Arc::new(Digests::new(logger.clone(), runtime.clone())),
            live,
            members,
            prepared: Arc::new(Prepared::default()),
            commit_clock: Arc::new(CommitClock::new(last_time_unix_ms)),
            waiters: Waiters::default(),
            published: watch::Sender::new(published),
            nodes,
            log: disk.log.clone(),
            databases: disk.databases.clone(),
            started: Instant::now(),
            logger,
            options,
            identity,
            data,
            inbox,
            peers,
            snapshots,
            failures,
            runtime,
        });
        let mut node = Node {
            handle: Handle { shared: shared.clone(), clock },
            failures: failures_receiver,
            threads: Vec::new(),
            log_jobs: channel().0,
            apply_jobs: channel().0,
            stop,
        };
        node.start_threads(&shared, disk, core, inbox_receiver, clock)?;
        node.start_tasks(&shared, inbound_receiver);
        Ok(node)
    }

    /// What the doors ask the node.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns once the node cannot go on.
    pub async fn failed(&mut self) -> NodeError {
        self.failures.recv().await.unwrap_or(NodeError::Thread("node", "ended".into()))
    }

    /// Ends the node in order: leadership is handed over, queues run empty, the state is flushed.
    pub async fn stop(mut self) -> Result<(), NodeError> {
        let shared = self.handle.shared.clone();
        hand_over_leadership(&self.handle).await;
        self.end_threads().await?;
        if let Ok(error) = self.failures.try_recv() {
            // A thread failed while the doors were closing.
            return Err(error);
        }
        shared.waiters.abandon();
        shared.peers.shutdown().await;
        shared.snapshots.shutdown().await;
        let flushing = shared.clone();
        let flushed = tokio::task::spawn_blocking(move || super::flush::flush(&flushing));
        let (index, _) = flushed.await.map_err(|e| NodeError::Thread("stop", e.to_string()))??;
        slog::info!(shared.logger, "stopped"; "flushed_index" => index);
        Ok(())
    }

    /// Ends what is left of a node that has failed. Nothing is flushed: its disk is as the last
    /// fsync left it. But its threads leave the store, because the end of the process takes the
    /// store's locks away from whoever is inside.
    pub async fn abandon(mut self) {
        let logger = self.handle.shared.logger.clone();
        match tokio::time::timeout(ABANDON_WAIT, self.end_threads()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => slog::warn!(logger, "a thread did not end"; "error" => %error),
            Err(_) => slog::warn!(logger, "a thread still works, and is left behind"),
        }
    }

    async fn end_threads(&mut self) -> Result<(), NodeError> {
        self.stop.cancel();
        self.handle.shared.inbox.stop();
        let threads = std::mem::take(&mut self.threads);
        let (log_jobs, apply_jobs) = (self.log_jobs.clone(), self.apply_jobs.clone());
        let joined = tokio::task::spawn_blocking(move || {
            for (name, thread) in threads {
                // In the order of the threads: raft feeds log, log feeds apply.
                match name {
                    "log" if log_jobs.send(log_thread::Job::Stop).is_err() => {}
                    "apply" if apply_jobs.send(apply_thread::Job::Stop).is_err() => {}
                    _ => {}
                }
                if thread.join().is_err() {
                    return Err(NodeError::Thread(name, "it panicked".into()));
                }
            }
            Ok(())
        });
        joined.await.map_err(|e| NodeError::Thread("stop", e.to_string()))?
    }

    fn start_threads(
        &mut self,
        shared: &Arc<Shared>,
        disk: Disk,
        core: Core,
        inbox: std::sync::mpsc::Receiver<super::inbox::Item>,
        clock: Clock,
    ) -> Result<(), NodeError> {
        let (log_jobs, log_receiver) = channel();
        let (apply_jobs, apply_receiver) = channel();
        self.log_jobs = log_jobs.clone();
        self.apply_jobs = apply_jobs.clone();
        let tick = Duration::from_millis(shared.options.raft.tick_ms);
        let mut carrier = Carrier::new(shared.clone(), log_jobs, apply_jobs.clone());
        self.spawn("raft", shared, move |shared| {
            let ended = raft_thread::run(core, &inbox, &mut carrier, clock, tick);
            if let Err(halt @ Halt::LogLost { .. }) = &ended {
                remember_loss(shared, halt);
            }
            ended.map_err(NodeError::from)
        })?;
        self.spawn("log", shared, move |shared| {
            log_thread::run(&log_receiver, &shared.log, &shared.inbox, &apply_jobs)
                .map_err(NodeError::from)
        })?;
        let mut applier = Applier {
            state: disk.state,
            live: shared.live.clone(),
            digests: shared.digests.clone(),
            prepared: shared.prepared.clone(),
            data: shared.data.clone(),
            log: shared.log.clone(),
            inbox: shared.inbox.clone(),
            commit_clock: shared.commit_clock.clone(),
            logger: shared.logger.clone(),
            runtime: shared.runtime.clone(),
        };
        self.spawn("apply", shared, move |_| applier.run(&apply_receiver).map_err(NodeError::from))
    }

    fn spawn(
        &mut self,
        name: &'static str,
        shared: &Arc<Shared>,
        run: impl FnOnce(&Shared) -> Result<(), NodeError> + Send + 'static,
    ) -> Result<(), NodeError> {
        let shared = shared.clone();
        let body = move || {
            if let Err(error) = run(&shared) {
                shared.fail(error);
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        let thread = thread.map_err(|error| NodeError::Thread(name, error.to_string()))?;
        self.threads.push((name, thread));
        Ok(())
    }

    fn start_tasks(&self, shared: &Arc<Shared>, inbound: mpsc::Receiver<Inbound>) {
        let stop = self.stop.clone();
        let until_stopped = |task: futures::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = task => {}
                    () = stop.cancelled() => {}
                }
            });
        };
        until_stopped(Box::pin(inbound::run(shared.clone(), inbound)));
        until_stopped(Box::pin(super::snapshots::run(shared.clone())));
        until_stopped(Box::pin(watch_membership(shared.clone())));
        until_stopped(Box::pin(tell_addresses(shared.clone())));
    }
}

/// What `open_disk` found.
struct Disk {
    databases: storage::Shared,
    log: RaftLog,
    hard_state: HardState,
    generation: Option<Generation>,
    db: Option<StateDb>,
    state: Option<State>,
}

/// A node that lost acknowledged entries may not vote: another start would, before the leader's next
/// heartbeat finds it out again.
fn remember_loss(shared: &Shared, halt: &Halt) {
    if let Err(error) = shared.data.mark_lost(&halt.to_string()) {
        // It halts all the same; only the next start has to find out anew.
        slog::error!(shared.logger, "the loss is not noted on disk: do not start this node again";
            "error" => %error);
    }
}

/// Opens log and state, after finishing an install that a crash interrupted.
fn open_disk(options: &Options, data: &DataDir, logger: &Logger) -> Result<Disk, NodeError> {
    data.check_not_lost()?;
    let databases = storage::Shared::new(&options.storage, logger.clone());
    // Whoever has an identity has a log: starting over under the same id a node would deny votes and
    // entries that others have counted.
    let (log, mut hard_state) = RaftLog::open(&data.raft(), &databases, &options.storage)?;
    if let Some(plan) = data.redo_install_at_boot(&log)? {
        slog::info!(logger, "finished an install that a crash interrupted";
            "index" => plan.start.index, "generation" => plan.generation.0);
        hard_state = log.hard_state();
    }
    data.check_current(&log)?;
    let generation = data.current_generation()?;
    let mut disk = Disk { databases, log, hard_state, generation, db: None, state: None };
    if let Some(generation) = generation {
        let directory = data.generation(generation);
        let db = StateDb::open(&directory, &disk.databases, &options.storage)?;
        disk.state = Some(State::load(&*db.view())?);
        disk.db = Some(db);
    }
    Ok(disk)
}

fn start_core(
    options: &Options,
    identity: &Identity,
    disk: &Disk,
    offer: Option<raft::Offer>,
    clock: Clock,
    logger: &Logger,
) -> Result<Core, NodeError> {
    let raft = &options.raft;
    let now = clock.now();
    let config = raft::Config {
        node: identity.node(),
        cluster: identity.cluster(),
        bulk_address: options.addresses.bulk.clone(),
        seed: rand::random(),
        boot: now.unix_ms,
        tick_ms: raft.tick_ms,
        election_ticks: raft.election_ticks,
        heartbeat_ticks: raft.heartbeat_ticks,
        request_timeout_ms: raft.request_timeout_ms,
        lease_ms: raft.lease_ms,
        pin_renewal_ms: raft.pin_age_ms_max / 4,
        pin_age_ms_max: raft.pin_age_ms_max,
        pin_bytes_max: raft.pin_bytes_max,
        log_bytes_soft: raft.log_bytes_soft,
        log_bytes_hard: raft.log_bytes_hard,
        flush_bytes: raft.flush_bytes,
        promotion_lag_max: 1000,
        promote: raft.promote,
    };
    let state = disk.state.as_ref();
    let state_bytes = match &disk.db {
        Some(db) => db.approximate_bytes()?,
        None => 0,
    };
    let boot = Boot {
        hard_state: disk.hard_state,
        applied: state.map_or(0, State::applied),
        conf_state: state.map(|state| state.conf_state().clone()).unwrap_or_default(),
        time_unix_ms: state.map_or(0, State::last_time_unix_ms),
        generation: disk.generation.map_or(0, |generation| generation.0),
        offer,
        pins: state.map(State::pins).unwrap_or_default(),
        nodes: state.map(State::nodes).unwrap_or_default(),
        log_bytes: disk.log.bytes(),
        state_bytes,
    };
    Ok(Core::new(config, boot, Box::new(disk.log.clone()), now, logger)?)
}

fn published(core: &Core) -> Published {
    let (first_index, last_index) = core.log_range();
    Published {
        standing: core.standing().clone(),
        first_index,
        last_index,
        commit_index: core.commit_index(),
        applied_index: core.applied_index(),
        flushed_index: core.flushed_index(),
        log_bytes: core.log_bytes(),
        matched: Vec::new(),
    }
}

/// Sees to it that this node is a member: one that is not yet asks to be made a learner; one that
/// has known no leader for a while asks whether it was removed.
async fn watch_membership(shared: Arc<Shared>) {
    let mut led_at = Instant::now();
    for attempt in 0usize.. {
        let standing = shared.published.borrow().standing.clone();
        let enrolled = standing.role == Role::Enrolled;
        if standing.leader.is_some() {
            led_at = Instant::now();
        }
        let mut pause = MEMBERSHIP_LOOK;
        if enrolled || led_at.elapsed() >= LEADERLESS {
            match ask_known_node(&shared, attempt, enrolled).await {
                Ok(()) => pause = ADMISSION_WAIT,
                Err(failure) if failure.code == Code::Unauthenticated => {
                    slog::error!(shared.logger, "this node was removed"; "told" => %failure);
                    return shared.fail(NodeError::Removed);
                }
                Err(failure) if enrolled => {
                    slog::info!(shared.logger, "not admitted yet"; "error" => %failure);
                }
                // Nobody can be reached: so it is no wonder that there is no leader.
                Err(_) => {}
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Asks one of the other nodes that this one knows, another at each attempt. A node that was removed
/// is told so, whatever it asks; and the call lets the other hear where this node is.
async fn ask_known_node(shared: &Shared, attempt: usize, enrolled: bool) -> Result<(), Failure> {
    let mut known: Vec<NodeId> = shared.nodes.borrow().iter().map(|node| node.id).collect();
    if known.is_empty() {
        // There is no state yet.
        known = shared.options.seeds.iter().map(|seed| seed.0).collect();
    }
    known.retain(|node| *node != shared.id());
    if known.is_empty() {
        return Ok(());
    }
    let peer = known[attempt % known.len()];
    if enrolled {
        return calls::ask_admission(shared, peer).await;
    }
    calls::status_of(shared, peer).await.map(|_| ())
}

/// Tells the cluster where this node listens, if that is not what the cluster knows.
async fn tell_addresses(shared: Arc<Shared>) {
    let mut nodes = shared.nodes.subscribe();
    loop {
        let known = nodes.borrow_and_update().iter().find(|node| node.id == shared.id()).cloned();
        let stale = known.is_some_and(|node| node.addresses != shared.options.addresses);
        if stale {
            let command = Command::SetNodeAddresses {
                node: shared.id(),
                addresses: shared.options.addresses.clone(),
            };
            let told = tell(&shared, &Request { session: None, command }).await;
            if let Err(failure) = told {
                slog::info!(shared.logger, "the cluster does not know the new addresses yet";
                    "error" => %failure);
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        }
        if nodes.changed().await.is_err() {
            return;
        }
    }
}

/// Brings a request to the leader. Where none is known, every other node is asked to pass it on: the
/// leader may look for this node where it was before.
async fn tell(shared: &Shared, request: &Request) -> Result<(), Failure> {
    let leader = shared.published.borrow().standing.leader;
    if leader.is_some() {
        return enroll::execute(shared, request).await.map(|_| ());
    }
    let bytes = codec::encode_request(request);
    let mut last = Failure::new(Code::Unavailable, "no other node is known");
    let others: Vec<NodeId> = shared.nodes.borrow().iter().map(|node| node.id).collect();
    for node in others.into_iter().filter(|node| *node != shared.id()) {
        match calls::forward(shared, node, ClientRequest::Propose(bytes.clone())).await {
            Ok(_) => return Ok(()),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// A leader that stops makes another voter lead first, so that clients hardly notice.
async fn hand_over_leadership(handle: &Handle) {
    let published = handle.shared.published.borrow().clone();
    if published.standing.role != Role::Leader {
        return;
    }
    let voters = &published.standing.conf_state.voters;
    let best = published
        .matched
        .iter()
        .filter(|(node, _)| *node != handle.shared.id() && voters.contains(&node.0))
        .max_by_key(|(_, index)| *index);
    let Some((to, _)) = best else { return };
    let transfer = tokio::time::timeout(Duration::from_secs(2), handle.transfer_leader(*to));
    let result: Result<(), Failure> = match transfer.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::new(Code::Unavailable, "it took too long")),
    };
    if let Err(failure) = result {
        slog::info!(handle.shared.logger, "leadership was not handed over"; "to" => to.0,
            "error" => %failure);
    }
}
