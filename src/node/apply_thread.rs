//! The thread that applies committed entries to the state database, and switches it on install.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use slog::Logger;
use thiserror::Error;
use tokio::runtime::Handle;

use super::inbox::Inbox;
use super::live::{CommitClock, Digests, Live, Prepared};
use crate::kv::{Batch, KvError};
use crate::limits::MIB;
use crate::raft::{AppliedReply, Input, InstallPlan};
use crate::state::{State, StateError};
use crate::storage::{
    DataDir, Generation, InstallPlan as DiskPlan, RaftLog, StateDb, StorageError,
};
use crate::types::Committed;

/// A batch is written once it holds this much.
const BATCH_BYTES: usize = 4 * MIB;
/// Hand-outs applied before one report.
const GROUP_MAX: usize = 64;

/// Work for the apply thread, done in order.
pub(super) enum Job {
    /// Apply, then report `Applied`.
    Apply(u64, Vec<Committed>),
    /// Carry out, then report `Installed`.
    Install(InstallPlan),
    /// Finish.
    Stop,
}

/// The node must stop: its state may lack what it has promised.
#[derive(Debug, Error)]
pub(super) enum ApplyError {
    /// The entry cannot be applied.
    #[error("the state machine failed: {0}")]
    State(#[from] StateError),
    /// The state database failed.
    #[error("the state database failed: {0}")]
    Kv(#[from] KvError),
    /// The switch to a new generation failed.
    #[error("the install of a snapshot failed: {0}")]
    Storage(#[from] StorageError),
    /// A plan for a generation nobody prepared.
    #[error("no generation {0} was prepared")]
    NotPrepared(u64),
}

/// What the thread works with.
pub(super) struct Applier {
    pub state: Option<State>,
    pub live: Arc<Live>,
    pub digests: Arc<Digests>,
    pub prepared: Arc<Prepared>,
    pub data: Arc<DataDir>,
    pub log: RaftLog,
    pub inbox: Inbox,
    pub commit_clock: Arc<CommitClock>,
    pub logger: Logger,
    pub runtime: Handle,
}

impl Applier {
    /// Runs until told to stop; an error halts the node.
    pub fn run(&mut self, jobs: &Receiver<Job>) -> Result<(), ApplyError> {
        let mut held_back = None;
        loop {
            let Some(job) = held_back.take().or_else(|| jobs.recv().ok()) else { return Ok(()) };
            match job {
                Job::Apply(generation, mut entries) => {
                    for _ in 0..GROUP_MAX {
                        match jobs.try_recv() {
                            Ok(Job::Apply(_, more)) => entries.extend(more),
                            Ok(other) => {
                                held_back = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.apply(generation, &entries)?;
                }
                Job::Install(plan) => self.install(&plan)?,
                Job::Stop => return Ok(()),
            }
        }
    }

    fn apply(&mut self, generation: u64, entries: &[Committed]) -> Result<(), ApplyError> {
        let (_, db) = self.live.current().ok_or(ApplyError::NotPrepared(generation))?;
        let state = self.state.as_mut().ok_or(ApplyError::NotPrepared(generation))?;
        let latest = db.latest();
        let mut batch = Batch::default();
        let mut replies = Vec::with_capacity(entries.len());
        let (mut pins, mut nodes) = (false, false);
        for entry in entries {
            let outcome = state.apply(&latest, &mut batch, entry)?;
            pins |= outcome.pins_changed;
            nodes |= outcome.nodes_changed;
            if batch.bytes() >= BATCH_BYTES || outcome.digest_due {
                db.write(&batch)?;
                batch = Batch::default();
            }
            if outcome.digest_due {
                // The entry fixes the index: this view holds it and nothing after.
                self.digests.start(entry.index, &db);
            }
            replies.push(AppliedReply {
                index: entry.index,
                term: entry.term,
                executed_at: outcome.index,
                reply: outcome.reply,
            });
        }
        if !batch.is_empty() {
            db.write(&batch)?;
        }
        self.commit_clock.note(state.last_time_unix_ms());
        self.inbox.report(Input::Applied {
            generation,
            index: state.applied(),
            replies,
            pins: pins.then(|| state.pins()),
            nodes: nodes.then(|| state.nodes()),
            time_unix_ms: state.last_time_unix_ms(),
        });
        Ok(())
    }

    /// Every step is redone at boot if a crash comes between: see `DataDir`.
    fn install(&mut self, plan: &InstallPlan) -> Result<(), ApplyError> {
        let (db, state) =
            self.prepared.take(plan.generation).ok_or(ApplyError::NotPrepared(plan.generation))?;
        let generation = Generation(plan.generation);
        self.data.begin_install(&DiskPlan {
            snapshot: plan.id,
            start: plan.start,
            hard_state: plan.hard_state,
            generation,
        })?;
        self.log.reset_to(plan.start, plan.hard_state)?;
        let (pins, nodes) = (state.pins(), state.nodes());
        let time_unix_ms = state.last_time_unix_ms();
        self.commit_clock.note(time_unix_ms);
        self.state = Some(state);
        let old = self.live.switch(generation, db);
        self.data.finish_install()?;
        self.inbox.report(Input::Installed {
            generation: plan.generation,
            pins,
            nodes,
            time_unix_ms,
        });
        self.remove_old(generation, old.map(|(_, db)| db));
        Ok(())
    }

    /// On the blocking pool: neither raft nor the next entries wait for the files of a whole state to
    /// be deleted.
    fn remove_old(&self, live: Generation, old: Option<StateDb>) {
        let (data, logger) = (self.data.clone(), self.logger.clone());
        self.runtime.spawn_blocking(move || {
            if let Some(old) = old {
                old.discard();
            }
            if let Err(error) = data.remove_old_generations(live) {
                slog::warn!(logger, "old generations of the state are left until the next start";
                    "error" => %error);
            }
        });
    }
}
