//! What `node/` does on the blocking pool: flushes, cold reads, snapshots built and prepared.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use ratoon::kv::Family;
use ratoon::raft::{Input, LogStore};
use ratoon::state::{self, State};
use ratoon::storage::memory::MemoryState;
use ratoon::transfer::receiver::Input as Word;
use ratoon::types::{Index, NodeId, SnapshotId};

use super::World;
use super::machine::{Disk, MachineEvent};

/// Pause before a snapshot is opened again.
const PREPARE_PAUSE_US: u64 = 5_000_000;

/// Work under way.
#[derive(Debug)]
pub enum Task {
    Flush,
    Read { ticket: u64, from: Index, to: Index, max_bytes: u64 },
    Build,
    Prepare(SnapshotId),
}

impl World {
    pub(super) fn start_task(&mut self, node: NodeId, mean_us: u64, task: Task) {
        let delay = self.about(mean_us);
        self.push_machine(node, delay, MachineEvent::Task(task));
    }

    pub(super) fn finish_task(&mut self, node: NodeId, task: Task) -> Result<()> {
        match task {
            Task::Flush => self.flush(node),
            Task::Read { ticket, from, to, max_bytes } => {
                self.read_entries(node, ticket, from, to, max_bytes)
            }
            Task::Build => self.build_snapshot(node),
            Task::Prepare(id) => self.prepare_snapshot(node, id),
        }
    }

    fn flush(&mut self, node: NodeId) -> Result<()> {
        if self.halts(node, 1)? {
            return Ok(());
        }
        let machine = self.machine_mut(node);
        let (index, state_bytes) = match machine.alive().live.clone() {
            Some((_, db)) => {
                db.flush()?;
                (persisted_index(&db)?, db.approximate_bytes()?)
            }
            None => (0, 0),
        };
        self.report(node, Input::Flushed { index, state_bytes });
        Ok(())
    }

    fn read_entries(
        &mut self,
        node: NodeId,
        ticket: u64,
        from: Index,
        to: Index,
        max_bytes: u64,
    ) -> Result<()> {
        let disk = &self.machine(node).disk;
        if disk.log_fails.load(Ordering::Relaxed) {
            return self.halt_by_log(node);
        }
        let log = disk.log.clone();
        // The real log answers with an error what was compacted meanwhile.
        let entries = match from > log.start().index && to <= log.last_index() + 1 {
            true => log.entries(from, to, max_bytes)?,
            false => Vec::new(),
        };
        self.figures.cold_reads += 1;
        self.trace.note(self.now_us, node, "cold read", [from, to, entries.len() as u64]);
        self.report(node, Input::EntriesFetched { ticket, entries });
        Ok(())
    }

    fn prepare_snapshot(&mut self, node: NodeId, id: SnapshotId) -> Result<()> {
        if !self.calm && self.random.chance(self.settings.disk.prepare_failures) {
            // This machine's fault, not the snapshot's: it is tried again.
            self.figures.prepare_retries += 1;
            self.push_machine(node, PREPARE_PAUSE_US, MachineEvent::Task(Task::Prepare(id)));
            return Ok(());
        }
        let stored = self.contents.get(&id).context("nobody ever built it")?.clone();
        let staging = &self.machine(node).disk.staging;
        if !staging.is_staged_durably(id) || !staging.is_durable(id, &stored)? {
            self.figures.prepares_rejected += 1;
            let reason = "it cannot be opened".to_owned();
            self.tell_receiver(node, Word::Rejected(id, reason.clone()))?;
            self.report(node, Input::PrepareFailed { id, reason });
            return Ok(());
        }
        let machine = self.machine_mut(node);
        ensure!(machine.disk.plan.is_none(), "a generation is prepared while one is installed");
        let db = MemoryState::from_checkpoint(&stored.checkpoint);
        let state = State::load(&*db.view()).context("loading a pulled state")?;
        let meta = stored.offer.meta.clone();
        ensure!(state.applied() == meta.index, "the pulled state is at another index");
        ensure!(state.applied_term() == meta.term, "the pulled state is of another term");
        ensure!(*state.conf_state() == meta.conf_state, "the pulled state has other members");
        // As `DataDir::next_generation`: leftovers of an install that never began are removed.
        let current = machine.disk.current;
        machine.disk.generations.retain(|generation, _| Some(*generation) == current);
        let generation = current.unwrap_or(0) + 1;
        machine.disk.generations.insert(generation, db.clone());
        machine.alive().prepared = Some((generation, db.clone(), state));
        self.checks.opened(node, id, &state::content_digest(&*db.view())?)?;
        self.trace.note(self.now_us, node, "prepared", [generation, meta.index]);
        self.report(node, Input::SnapshotPrepared { id, generation });
        Ok(())
    }
}

impl Disk {
    /// The applied index that a crash at this moment would leave.
    pub fn persisted_index(&self) -> Result<Index> {
        match self.current.and_then(|current| self.generations.get(&current)) {
            Some(db) => persisted_index(db),
            None => Ok(0),
        }
    }
}

fn persisted_index(db: &MemoryState) -> Result<Index> {
    let row = db.get_persisted(Family::Meta, &state::applied_key())?;
    let (index, _) = state::decode_applied(&row.context("no applied index is durable")?)?;
    Ok(index)
}
