//! What a machine of the tests keeps: its log, its state, its snapshots. All of it plain data.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::codec;
use crate::kv::StoreFault;
use crate::raft::{
    AppliedReply, HardState, InstallPlan, LogEntry, LogError, LogStart, LogStore, LogWrite,
    SnapshotMeta,
};
use crate::types::{
    Command, Committed, ConfState, Index, Node, NodeId, Payload, Pin, Reply, SnapshotId, Term,
};

/// A raft log that holds what was made durable and nothing else. Clones share it.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Image>>);

struct Image {
    start: LogStart,
    entries: Vec<LogEntry>,
    hard_state: HardState,
}

impl Log {
    pub fn new(start: LogStart, hard_state: HardState) -> Log {
        Log(Arc::new(Mutex::new(Image { start, entries: Vec::new(), hard_state })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Image) -> T) -> T {
        act(&mut self.0.lock().expect("a test has panicked"))
    }

    pub fn write(&self, write: &LogWrite) {
        self.with(|image| {
            if let Some(first) = write.entries.first() {
                let kept = first.index.checked_sub(image.start.index + 1).expect("after the start");
                assert!(kept as usize <= image.entries.len(), "a hole before {}", first.index);
                image.entries.truncate(kept as usize);
                image.entries.extend(write.entries.iter().cloned());
            }
            image.hard_state = write.hard_state.unwrap_or(image.hard_state);
        });
    }

    pub fn compact(&self, start: LogStart) {
        self.with(|image| {
            image.entries.drain(..(start.index - image.start.index) as usize);
            image.start = start;
        });
    }

    pub fn reset(&self, plan: &InstallPlan) {
        self.with(|image| {
            *image = Image { start: plan.start, entries: Vec::new(), hard_state: plan.hard_state };
        });
    }

    pub fn hard_state(&self) -> HardState {
        self.with(|image| image.hard_state)
    }

    pub fn bytes(&self) -> u64 {
        self.with(|image| image.entries.iter().map(|entry| entry.bytes.len() as u64).sum())
    }
}

impl LogStore for Log {
    fn start(&self) -> LogStart {
        self.with(|image| image.start)
    }

    fn last_index(&self) -> Index {
        self.with(|image| image.start.index + image.entries.len() as u64)
    }

    fn term(&self, index: Index) -> Result<Option<Term>, LogError> {
        Ok(self.with(|image| match index.checked_sub(image.start.index)? {
            0 => Some(image.start.term),
            nth => image.entries.get(nth as usize - 1).map(|entry| entry.term),
        }))
    }

    fn entries(&self, from: Index, to: Index, max_bytes: u64) -> Result<Vec<LogEntry>, LogError> {
        Ok(self.with(|image| {
            let skip = (from - image.start.index - 1) as usize;
            let mut bytes = 0;
            let entries = image.entries.iter().skip(skip).take((to - from) as usize).enumerate();
            let fitting = entries.take_while(|(nth, entry)| {
                bytes += entry.bytes.len() as u64;
                *nth == 0 || bytes <= max_bytes
            });
            fitting.map(|(_, entry)| entry.clone()).collect()
        }))
    }
}

/// A log on a disk that fails once it is told to. Clones share it.
#[derive(Clone)]
pub struct FailingLog {
    log: Log,
    fails: Arc<AtomicBool>,
}

impl FailingLog {
    /// What the disk says.
    pub const CAUSE: &str = "input/output error";

    pub fn new(log: Log) -> FailingLog {
        FailingLog { log, fails: Arc::default() }
    }

    /// Every read fails from now on.
    pub fn fail(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    fn attempt(&self) -> Result<(), LogError> {
        let (attempted, cause) = ("reading the log".to_owned(), Self::CAUSE.to_owned());
        match self.fails.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(LogError { attempted, cause, fault: StoreFault::Other }),
        }
    }
}

impl LogStore for FailingLog {
    fn start(&self) -> LogStart {
        self.log.start()
    }

    fn last_index(&self) -> Index {
        self.log.last_index()
    }

    fn term(&self, index: Index) -> Result<Option<Term>, LogError> {
        self.attempt()?;
        self.log.term(index)
    }

    fn entries(&self, from: Index, to: Index, max_bytes: u64) -> Result<Vec<LogEntry>, LogError> {
        self.attempt()?;
        self.log.entries(from, to, max_bytes)
    }
}

/// As much of the replicated state as the core looks at.
#[derive(Clone, Default, Debug)]
pub struct State {
    pub applied: Index,
    pub term: Term,
    pub time_unix_ms: u64,
    pub conf_state: ConfState,
    pub nodes: BTreeMap<NodeId, Node>,
    pub pins: BTreeMap<NodeId, Pin>,
    /// Every command applied, in order: what replicas must agree on.
    pub history: Vec<(Index, Command)>,
}

impl State {
    pub fn apply(&mut self, entry: &Committed) -> AppliedReply {
        assert_eq!(entry.index, self.applied + 1, "entries are applied without gaps");
        (self.applied, self.term) = (entry.index, entry.term);
        let bytes = match &entry.payload {
            Payload::Empty => None,
            Payload::Command(bytes) => Some(bytes.clone()),
            Payload::ConfChange { context, conf_state } => {
                self.conf_state = conf_state.clone();
                (!context.is_empty()).then(|| context.clone())
            }
        };
        if let Some(bytes) = bytes {
            let (time, request) = codec::decode_entry(bytes).expect("the core encoded it");
            self.time_unix_ms = time.max(self.time_unix_ms);
            let request = codec::decode_request(request).expect("the tests encoded it");
            self.execute(entry.index, request.command);
        }
        let executed_at = entry.index;
        AppliedReply { index: executed_at, term: entry.term, executed_at, reply: Ok(Reply::Done) }
    }

    fn execute(&mut self, at: Index, command: Command) {
        let renewed_unix_ms = self.time_unix_ms;
        let mut pin = |receiver, index, snapshot| {
            self.pins.insert(receiver, Pin { receiver, index, snapshot, renewed_unix_ms });
        };
        match command.clone() {
            Command::AddLearner(node) => pin(node, at, None),
            Command::SetPin { receiver, index, snapshot } => pin(receiver, index, snapshot),
            Command::ReleasePin(node) => {
                self.pins.remove(&node);
            }
            Command::RemoveNode(node) => {
                self.pins.remove(&node);
                self.nodes.remove(&node);
            }
            _ => {}
        }
        self.history.push((at, command));
    }
}

/// A snapshot, wherever it is stored.
#[derive(Clone)]
pub struct Stored {
    pub meta: SnapshotMeta,
    pub state: State,
}

/// All snapshots of the cluster: a machine names one and has it.
pub type Store = BTreeMap<SnapshotId, Stored>;
