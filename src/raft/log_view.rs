//! The log as raft-rs reads it: an in-memory tail over the log store.
//!
//! Entries enter the tail before raft-rs is told that they are appended, and stay at least until
//! they are durable, so that reads never wait for the log thread. What lies before the tail comes
//! from the store: at once where raft-rs insists, and off this thread for a follower far behind.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft::eraftpb::{Entry, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, StorageError};

use super::wire::{conf_state_to_raft, decode_entry};
use super::{HardState, LogEntry, LogError, LogStart, LogStore, Offer};
use crate::codec;
use crate::kv::StoreFault;
use crate::limits::ENTRY_CACHE_BYTES_MAX;
use crate::types::{ClusterId, ConfState, Index, NodeId, SnapshotReference, SnapshotSource};

/// A read of cold entries that raft-rs waits for.
struct ColdRead {
    ticket: u64,
    from: Index,
    to: Index,
    max_bytes: u64,
    context: GetEntriesContext,
    /// It has been handed out.
    asked: bool,
}

/// What `Storage::snapshot` answers from.
#[derive(Default)]
pub(super) struct Offering {
    /// The newest snapshot of this node.
    pub offer: Option<Offer>,
    /// Who this node is and where its bulk endpoint is reached.
    pub source: Option<(ClusterId, SnapshotSource)>,
    /// Receivers whose pull lives: they are not offered another snapshot.
    pub leased: BTreeSet<NodeId>,
    /// Receivers whose last pull failed a moment ago.
    pub paused: BTreeSet<NodeId>,
}

/// raft-rs's `Storage`.
pub(super) struct LogView {
    store: Box<dyn LogStore>,
    start: LogStart,
    /// Consecutive entries; all that are not durable yet are among them.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// Index of the first entry of the tail, also while it is empty.
    tail_first: Index,
    /// The last index known to be durable.
    durable: Index,
    /// Only for raft-rs's start.
    initial: (HardState, ConfState),
    pub offering: Offering,
    /// Set when a follower needed a snapshot and there was none to offer.
    snapshot_wanted: Cell<bool>,
    cold_reads: RefCell<Vec<ColdRead>>,
    /// Answers of cold reads, consumed by the next read of the same first index.
    fetched: RefCell<BTreeMap<Index, Vec<Entry>>>,
    next_ticket: Cell<u64>,
    failure: RefCell<Option<LogError>>,
    /// See `withhold_entries`.
    withheld: bool,
}

impl LogView {
    pub fn new(store: Box<dyn LogStore>, hard_state: HardState, conf_state: ConfState) -> Self {
        let start = store.start();
        let last = store.last_index();
        LogView {
            store,
            start,
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_first: last + 1,
            durable: last,
            initial: (hard_state, conf_state),
            offering: Offering::default(),
            snapshot_wanted: Cell::new(false),
            cold_reads: RefCell::new(Vec::new()),
            fetched: RefCell::new(BTreeMap::new()),
            next_ticket: Cell::new(1),
            failure: RefCell::new(None),
            withheld: false,
        }
    }

    pub fn start(&self) -> LogStart {
        self.start
    }

    pub fn last(&self) -> Index {
        self.tail_first + self.tail.len() as u64 - 1
    }

    /// Takes entries into the tail; they replace what stood at their index and after.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.start.index, "entry {} is compacted", first.index);
        assert!(first.index <= self.last() + 1, "hole before entry {}", first.index);
        if first.index <= self.last() {
            self.void_cold_reads();
        }
        if first.index < self.tail_first {
            // Everything in memory is replaced; the store still holds the old entries and is not
            // asked for them, since the tail begins at the first new one.
            self.tail.clear();
            self.tail_bytes = 0;
            self.tail_first = first.index;
        }
        while self.last() >= first.index {
            let dropped = self.tail.pop_back().expect("the tail reaches over first.index");
            self.tail_bytes -= entry_bytes(&dropped);
        }
        self.durable = self.durable.min(first.index - 1);
        for entry in entries {
            assert_eq!(entry.index, self.last() + 1, "entries are consecutive");
            self.tail_bytes += entry_bytes(entry);
            self.tail.push_back(entry.clone());
        }
    }

    /// Everything up to `index` is durable unless it was replaced meanwhile.
    pub fn set_durable(&mut self, index: Index) {
        self.durable = self.durable.max(index.min(self.last()));
        self.shrink();
    }

    /// Forgets durable entries over the cache's budget, oldest first.
    fn shrink(&mut self) {
        while self.tail_bytes > ENTRY_CACHE_BYTES_MAX && self.tail_first <= self.durable {
            let Some(dropped) = self.tail.pop_front() else { break };
            self.tail_bytes -= entry_bytes(&dropped);
            self.tail_first += 1;
        }
    }

    /// Moves the start; entries up to it are gone for raft-rs at once.
    pub fn compact(&mut self, start: LogStart) {
        assert!(start.index >= self.start.index && start.index <= self.durable);
        self.start = start;
        while self.tail_first <= start.index && !self.tail.is_empty() {
            let dropped = self.tail.pop_front().expect("not empty");
            self.tail_bytes -= entry_bytes(&dropped);
            self.tail_first += 1;
        }
        self.tail_first = self.tail_first.max(start.index + 1);
    }

    /// The whole log is replaced by a snapshot.
    pub fn reset(&mut self, start: LogStart) {
        self.start = start;
        self.tail.clear();
        self.tail_bytes = 0;
        self.tail_first = start.index + 1;
        self.durable = start.index;
        self.void_cold_reads();
    }

    /// While set, reads of entries find none. Only around a call that reads nothing but what it
    /// would hand out to be applied, and that takes less for an answer.
    pub fn withhold_entries(&mut self, withheld: bool) {
        self.withheld = withheld;
    }

    pub fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    /// Reads to be done, each handed out once: ticket, from, to, bytes at most.
    pub fn ask_cold_reads(&self) -> Vec<(u64, Index, Index, u64)> {
        let mut reads = self.cold_reads.borrow_mut();
        let unasked = reads.iter_mut().filter(|read| !read.asked);
        let ask = |read: &mut ColdRead| {
            read.asked = true;
            (read.ticket, read.from, read.to, read.max_bytes)
        };
        unasked.map(ask).collect()
    }

    /// A read is done. None: it has been voided meanwhile, and what it read may be outdated.
    pub fn finish_cold_read(&self, ticket: u64) -> Option<GetEntriesContext> {
        let mut reads = self.cold_reads.borrow_mut();
        let at = reads.iter().position(|read| read.ticket == ticket)?;
        Some(reads.swap_remove(at).context)
    }

    /// Entries under way from the disk are not to be believed any more: the log changed behind
    /// them, or this node leads no more.
    pub fn void_cold_reads(&self) {
        self.cold_reads.borrow_mut().clear();
        self.fetched.borrow_mut().clear();
    }

    /// The log store failed; raft cannot go on.
    pub fn take_failure(&self) -> Option<LogError> {
        self.failure.borrow_mut().take()
    }

    /// Keeps the answer of a cold read for raft-rs's next try.
    pub fn put_fetched(&self, entries: &[LogEntry]) {
        let decoded: Result<Vec<Entry>, _> = entries.iter().map(decode_entry).collect();
        match decoded {
            Ok(list) if !list.is_empty() => {
                let mut fetched = self.fetched.borrow_mut();
                // Bounded: one answer a follower, and few followers.
                if fetched.len() >= 16 {
                    fetched.pop_first();
                }
                fetched.insert(list[0].index, list);
            }
            Ok(_) => {}
            Err(error) => self.fail(format!("decode a fetched entry: {error}")),
        }
    }

    fn fail(&self, cause: String) {
        let attempted = "read the raft log".to_owned();
        self.fail_with(LogError { attempted, cause, fault: StoreFault::Corrupt });
    }

    fn fail_with(&self, error: LogError) {
        self.failure.borrow_mut().get_or_insert(error);
    }

    /// Entries before the tail, from the store, on this thread.
    fn read_store(&self, from: Index, to: Index, max_bytes: u64) -> raft::Result<Vec<Entry>> {
        let stored = self.store.entries(from, to, max_bytes).map_err(|error| {
            self.fail_with(error);
            Error::Store(StorageError::Unavailable)
        })?;
        let mut entries = Vec::with_capacity(stored.len());
        for (entry, expected) in stored.iter().zip(from..) {
            let decoded = decode_entry(entry).map_err(|error| {
                self.fail(format!("entry {}: {error}", entry.index));
                Error::Store(StorageError::Unavailable)
            })?;
            assert_eq!(decoded.index, expected, "the log store answered out of order");
            entries.push(decoded);
        }
        Ok(entries)
    }

    /// Queues a read off this thread, unless one from there is under way. raft-rs asks again at each
    /// answer of the follower; every read's end asks once more, so that a second read of the same
    /// range would never cease to be one. Another follower at the same place asks again later.
    fn read_cold(&self, from: Index, to: Index, max_bytes: u64, context: GetEntriesContext) {
        if self.cold_reads.borrow().iter().any(|read| read.from == from) {
            return;
        }
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        let read = ColdRead { ticket, from, to, max_bytes, context, asked: false };
        self.cold_reads.borrow_mut().push(read);
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 64
}

impl raft::Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let (hard_state, conf_state) = &self.initial;
        let mut raft_hard_state = raft::eraftpb::HardState::default();
        raft_hard_state.term = hard_state.term;
        raft_hard_state.vote = hard_state.vote;
        raft_hard_state.commit = hard_state.commit;
        Ok(RaftState::new(raft_hard_state, conf_state_to_raft(conf_state)))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if self.withheld {
            return Ok(Vec::new());
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        if low <= self.start.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "raft asked for entries past the last");
        let mut entries = Vec::new();
        if low < self.tail_first {
            let to = high.min(self.tail_first);
            if let Some(list) = self.fetched.borrow_mut().remove(&low) {
                entries = list.into_iter().take_while(|entry| entry.index < to).collect();
            } else if context.can_async() {
                self.read_cold(low, to, max_bytes, context);
                return Err(Error::Store(StorageError::LogTemporarilyUnavailable));
            } else {
                entries = self.read_store(low, to, max_bytes)?;
            }
            if (entries.len() as u64) < to - low {
                return Ok(entries);
            }
        }
        let from = low.max(self.tail_first);
        if from < high {
            let skip = (from - self.tail_first) as usize;
            let count = (high - from) as usize;
            let mut bytes: u64 = entries.iter().map(|entry| entry_bytes(entry) as u64).sum();
            for entry in self.tail.iter().skip(skip).take(count) {
                bytes = bytes.saturating_add(entry_bytes(entry) as u64);
                if bytes > max_bytes && !entries.is_empty() {
                    break;
                }
                entries.push(entry.clone());
            }
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.start.index {
            return Ok(self.start.term);
        }
        if index < self.start.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        if index >= self.tail_first {
            return Ok(self.tail[(index - self.tail_first) as usize].term);
        }
        match self.store.term(index) {
            Ok(Some(term)) => Ok(term),
            Ok(None) => {
                self.fail(format!("no term of entry {index}"));
                Err(Error::Store(StorageError::Unavailable))
            }
            Err(error) => {
                self.fail_with(error);
                Err(Error::Store(StorageError::Unavailable))
            }
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// O(1), from what is ready. raft-rs panics on any error but `SnapshotTemporarilyUnavailable`.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let unavailable = Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        let to = NodeId(to);
        if self.offering.leased.contains(&to) || self.offering.paused.contains(&to) {
            return unavailable;
        }
        let (Some(offer), Some((cluster, source))) = (&self.offering.offer, &self.offering.source)
        else {
            self.snapshot_wanted.set(true);
            return unavailable;
        };
        let meta = &offer.meta;
        let fits = meta.index >= request_index
            && meta.index >= self.start.index
            && meta.index > 0
            && meta.conf_state.contains(to);
        if !fits {
            self.snapshot_wanted.set(true);
            return unavailable;
        }
        let reference = SnapshotReference {
            id: meta.id,
            cluster: *cluster,
            total_bytes: offer.total_bytes,
            parts: offer.parts,
            manifest_bytes: offer.manifest_bytes,
            sources: vec![source.clone()],
        };
        let mut snapshot = Snapshot::default();
        snapshot.data =
            codec::manifest::encode_reference(&reference).expect("one source fits a reference");
        let metadata = snapshot.mut_metadata();
        metadata.index = meta.index;
        metadata.term = meta.term;
        metadata.set_conf_state(conf_state_to_raft(&meta.conf_state));
        Ok(snapshot)
    }
}
