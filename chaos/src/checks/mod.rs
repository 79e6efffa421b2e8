//! What must hold, one invariant a file. A check knows the history, never the code.

pub mod applied;
pub mod bounds;
pub mod committed;
pub mod compaction;
pub mod digests;
pub mod elections;
pub mod history;
pub mod leader_completeness;
pub mod linearizable;
pub mod log_matching;
pub mod message;
pub mod paused;
pub mod pins;
pub mod promises;
pub mod replay;
pub mod resent;
pub mod snapshots;
pub mod transfers;

#[cfg(test)]
mod tests;

use anyhow::{Result, ensure};
use ratoon::raft::{Boot, HardState, InstallPlan, LogStart, LogWrite, Standing};
use ratoon::state::ContentDigest;
use ratoon::storage::memory::MemoryLog;
use ratoon::types::{Committed, Index, NodeId, Pin, Role, SnapshotId, Term};

use history::{History, OperationId, Outcome};
use message::Message;

/// Replicas compute a digest whenever the index is a multiple of this.
pub const DIGEST_EVERY: Index = 16;

/// All checks of a run.
#[derive(Default)]
pub struct Checks {
    elections: elections::Elections,
    log_matching: log_matching::LogMatching,
    committed: committed::CommittedLog,
    promises: promises::Promises,
    applied: applied::Applied,
    digests: digests::Digests,
    snapshots: snapshots::Snapshots,
    /// What receivers were sent more than once.
    pub resent: resent::Resent,
    /// Peers that stand still in the calm phase.
    pub paused: paused::Paused,
    /// What clients did and saw.
    pub history: History,
    /// Found where no error could be returned.
    complaint: Option<String>,
}

impl Checks {
    /// A process is about to start from what its disk holds.
    pub fn boot(&mut self, node: NodeId, hard_state: HardState, boot: &Boot) -> Result<()> {
        self.promises.boot(node, hard_state)?;
        self.committed.expect_next(node, boot.applied + 1);
        self.applied.boot(node, boot.applied)
    }

    /// What the log holds at boot.
    pub fn mirror_log(&mut self, node: NodeId, log: &MemoryLog) -> Result<()> {
        self.log_matching.boot(node, log)
    }

    /// What a node wrote to its log is durable, up to a write's number.
    pub fn synced(&mut self, node: NodeId, number: u64) -> Result<()> {
        self.log_matching.synced(node, number)
    }

    /// A process died.
    pub fn crash(&mut self, node: NodeId) {
        self.elections.crash(node);
    }

    /// A message leaves a core; its log is of a term, and durable up to an index.
    pub fn sends(
        &mut self,
        node: NodeId,
        to: NodeId,
        sent: &Message,
        log: (Term, Index),
    ) -> Result<()> {
        self.promises.sends(node, to, sent, log)
    }

    /// A core asks for a write to its log.
    pub fn persists(&mut self, node: NodeId, number: u64, write: &LogWrite) -> Result<()> {
        self.log_matching.persists(node, number, write)
    }

    /// A core hands entries to apply. Answers how many are news to everybody.
    pub fn hands_out(&mut self, node: NodeId, entries: &[Committed]) -> Result<u64> {
        self.committed.hands_out(node, entries)
    }

    /// A core drops the beginning of its log.
    pub fn compacts(
        &mut self,
        node: NodeId,
        start: LogStart,
        persisted: Index,
        pins: &[Pin],
    ) -> Result<()> {
        compaction::check(node, start, persisted, pins)
    }

    /// A core replaces its log by a snapshot.
    pub fn installs(&mut self, node: NodeId, plan: &InstallPlan) -> Result<()> {
        self.log_matching.installs(node, plan.start);
        self.committed.expect_next(node, plan.start.index + 1);
        Ok(())
    }

    /// A core's role, term, leader or membership changed. Answers how many elections were won.
    pub fn standing(&mut self, node: NodeId, standing: &Standing) -> Result<u64> {
        if standing.role != Role::Leader {
            return Ok(0);
        }
        let is_new = self.elections.leads(node, standing.term)?;
        if is_new {
            let (logs, committed) = (&self.log_matching, &self.committed);
            leader_completeness::check(node, standing.term, logs, committed)?;
        }
        Ok(u64::from(is_new))
    }

    /// Where a core stands after each round.
    pub fn progress(
        &mut self,
        node: NodeId,
        term: Term,
        commit: Index,
        applied: Index,
    ) -> Result<()> {
        ensure!(applied <= commit, "index {applied} is applied, {commit} committed");
        self.applied.progress(node, applied)?;
        let entry_term = self.log_matching.term(node, commit);
        self.committed.note_commit(term, commit, entry_term);
        Ok(())
    }

    /// A core was told that its state is durable up to here.
    pub fn flushed(&mut self, node: NodeId, index: Index) {
        self.applied.flushed(node, index);
    }

    /// The content of a replica at an index.
    pub fn digest(&mut self, node: NodeId, digest: &ContentDigest) -> Result<()> {
        self.digests.compare(node, digest)
    }

    /// A node built a snapshot that says it stands for `index`.
    pub fn built(
        &mut self,
        node: NodeId,
        id: SnapshotId,
        index: Index,
        content: &ContentDigest,
    ) -> Result<()> {
        self.snapshots.built(id, index, content)?;
        self.digests.compare(node, content)
    }

    /// A node opened a snapshot that it pulled.
    pub fn opened(&mut self, node: NodeId, id: SnapshotId, content: &ContentDigest) -> Result<()> {
        self.snapshots.opened(node, id, content)?;
        self.digests.compare(node, content)
    }

    /// A node was told that it is not of the cluster.
    pub fn turned_away(&mut self, node: NodeId) {
        if !self.committed.is_removed(node) {
            self.complaint = Some(format!("node {node} was turned away though nobody removed it"));
        }
    }

    /// Whether an entry that removes a node was committed.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.committed.is_removed(node)
    }

    /// The last entry that anybody handed out.
    pub fn committed_last(&self) -> Index {
        self.committed.last_index()
    }

    /// A client's operation ended.
    pub fn end_operation(&mut self, id: OperationId, at_us: u64, outcome: Outcome) -> Result<()> {
        if let Outcome::Broken(what) = &outcome {
            anyhow::bail!("{:?} was answered with {what}", self.history.effect(id));
        }
        self.history.end(id, at_us, outcome);
        Ok(())
    }

    /// Fails if a check found something where it could not say so.
    pub fn complain(&mut self) -> Result<()> {
        match self.complaint.take() {
            Some(complaint) => Err(anyhow::anyhow!(complaint)),
            None => Ok(()),
        }
    }

    /// Digests compared so far.
    pub fn digests_compared(&self) -> u64 {
        self.digests.compared
    }

    /// Judges the whole run. Answers how many histories were too tangled to judge.
    pub fn judge(&mut self, cluster: ratoon::types::ClusterId) -> Result<u64> {
        let (entries, indexes) = (self.committed.entries(), self.snapshots.indexes());
        let replay = replay::Replay::run(cluster, entries, &self.digests, &indexes)?;
        self.snapshots.check_against(&replay)?;
        self.history.check_against(&replay)?;
        linearizable::check(&self.history)
    }
}
