//! One machine: its disk, which survives crashes, and its process, which does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ratoon::manifest::Manifest;
use ratoon::raft::{Core, Input, InstallPlan, LogStart, LogWrite, Offer, Waiter};
use ratoon::state::{State, read};
use ratoon::storage::memory::{MemoryCheckpoint, MemoryLog, MemoryState};
use ratoon::types::{Committed, Index, Node, NodeId, Now, Pin, SnapshotId};

use super::bulk_receiver::BulkReceiver;
use super::bulk_sender::BulkSender;
use super::calls::Origin;
use super::staging::Staging;
use super::tasks::Task;
use super::{Ask, EPOCH_MS};

/// See the module.
pub struct Machine {
    pub disk: Disk,
    pub process: Option<Process>,
    /// Counts the lives of the process.
    pub incarnation: u64,
    /// The process is stopped until then.
    pub paused_until_us: u64,
    /// How far the wall clock is off.
    pub skew_ms: i64,
    /// Microseconds between two ticks of this machine's clock.
    pub tick_us: u64,
    /// It was removed from the cluster, turned away, or lost: it never boots again.
    pub is_retired: bool,
    /// It burnt down with all it held.
    pub is_lost: bool,
    /// A boot is under way.
    pub boots_at_us: Option<u64>,
}

/// What survives a crash.
pub struct Disk {
    pub log: MemoryLog,
    /// Reads of the log fail until the process is started again.
    pub log_fails: Arc<AtomicBool>,
    /// Index of the last entry that is certainly durable.
    pub synced_last: Index,
    pub current: Option<u64>,
    pub generations: BTreeMap<u64, MemoryState>,
    /// An install that has begun.
    pub plan: Option<InstallPlan>,
    pub snapshots: BTreeMap<SnapshotId, Arc<Stored>>,
    /// Bits that flipped in stored snapshots: part, and offset in it.
    pub rot: BTreeSet<(SnapshotId, u32, u64)>,
    pub staging: Staging,
    /// Nodes it was told of when it enrolled.
    pub seeds: BTreeSet<NodeId>,
}

/// A snapshot in the store.
pub struct Stored {
    pub offer: Offer,
    /// Of two at one index the later built is the newer.
    pub built_us: u64,
    pub manifest: Manifest,
    pub encoded: bytes::Bytes,
    /// Contents of the parts.
    pub parts: Vec<bytes::Bytes>,
    pub checkpoint: MemoryCheckpoint,
}

/// What a crash ends.
pub struct Process {
    pub core: Core,
    pub inbox: VecDeque<Input>,
    /// A wake-up is on its way.
    pub awake: bool,
    pub log_jobs: VecDeque<LogJob>,
    pub log_work: Option<LogWork>,
    pub apply_jobs: VecDeque<ApplyJob>,
    pub apply_work: Option<ApplyWork>,
    pub state: Option<State>,
    pub live: Option<(u64, MemoryState)>,
    pub prepared: Option<(u64, MemoryState, State)>,
    pub nodes: Vec<Node>,
    pub pins: Vec<Pin>,
    /// Nodes whose address is known.
    pub addresses: BTreeSet<NodeId>,
    pub waiters: BTreeMap<Waiter, Waiting>,
    pub next_waiter: Waiter,
    /// Calls under way, and whose they are.
    pub calls: BTreeMap<u64, CallFor>,
    pub admission_attempts: usize,
    /// When a leader was known last.
    pub led_at_us: u64,
    pub bulk: BulkReceiver,
    pub source: BulkSender,
}

/// Someone who waits for the core's answer.
pub struct Waiting {
    pub origin: Origin,
    pub ask: Ask,
}

/// On whose behalf a call was made.
pub enum CallFor {
    /// A forwarded request of this waiter.
    Waiter(Waiter),
    /// This node asks for admission, or whether it was removed.
    Membership,
}

/// Work for the log thread, done in order.
pub enum LogJob {
    Write(u64, LogWrite),
    Compact(LogStart),
    Install(InstallPlan),
}

/// What the log thread is doing.
pub enum LogWork {
    Sync(u64),
    Compact(LogStart),
}

/// Work for the apply thread, done in order.
pub enum ApplyJob {
    Apply(u64, Vec<Committed>),
    Install(InstallPlan),
}

/// What the apply thread is doing.
pub enum ApplyWork {
    Apply(u64, Vec<Committed>),
    Install(InstallPlan, InstallStep),
}

/// The steps of an install, each durable by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstallStep {
    WritePlan,
    ResetLog,
    FlipCurrent,
    RemovePlan,
}

/// What may happen inside a process.
#[derive(Debug)]
pub enum MachineEvent {
    Tick,
    Wake,
    LogWork,
    ApplyWork,
    Task(Task),
    CallTimeout(u64),
    WatchMembership,
    ReceiverTimer,
    SenderTimer,
    StagingDone(usize),
    OpenStored(SnapshotId),
    CheckStored(SnapshotId, u32),
}

impl Machine {
    /// The time as this machine reads it.
    pub fn now(&self, now_us: u64) -> Now {
        let monotonic_ms = now_us / 1000;
        let unix_ms = (EPOCH_MS + monotonic_ms).saturating_add_signed(self.skew_ms);
        Now { monotonic_ms, unix_ms }
    }

    /// When a pause ends that lasts now.
    pub fn paused_until(&self, now_us: u64) -> Option<u64> {
        (self.paused_until_us > now_us).then_some(self.paused_until_us)
    }

    /// The process; only to be called where it is known to live.
    pub fn alive(&mut self) -> &mut Process {
        self.process.as_mut().expect("events of a dead process are dropped")
    }
}

impl Disk {
    /// Whether bits of a part, from `from` up to `to`, have flipped.
    pub fn has_rotted(&self, id: SnapshotId, part: u32, from: u64, to: u64) -> bool {
        self.rot.range((id, part, from)..(id, part, to)).next().is_some()
    }
}

impl Process {
    /// A new waiter.
    pub fn add_waiter(&mut self, origin: Origin, ask: Ask) -> Waiter {
        self.next_waiter += 1;
        self.waiters.insert(self.next_waiter, Waiting { origin, ask });
        self.next_waiter
    }

    /// Whether frames and calls of a node are refused: this one knows that it was removed.
    pub fn refuses(&self, from: NodeId) -> bool {
        let Some((_, db)) = &self.live else { return false };
        !self.nodes.iter().any(|node| node.id == from)
            && matches!(read::removed_at(&*db.view(), from), Ok(Some(_)))
    }
}
