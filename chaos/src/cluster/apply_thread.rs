//! The apply thread: committed entries into the state, and the steps of an install. As
//! `node/apply_thread.rs` does it.

use anyhow::{Context, Result, anyhow, ensure};
use ratoon::kv::Batch;
use ratoon::raft::{AppliedReply, Input, InstallPlan};
use ratoon::state::content_digest;
use ratoon::types::{Committed, NodeId, Payload};

use super::World;
use super::machine::{ApplyJob, ApplyWork, InstallStep, MachineEvent};
use crate::checks::DIGEST_EVERY;

/// How much likelier a step of an install ends its process than other work.
const INSTALL_HALTS: u64 = 30;
/// Hand-outs applied before one report, at most.
const GROUP_MAX: usize = 64;

impl World {
    pub(super) fn apply_job(&mut self, node: NodeId, job: ApplyJob) {
        self.machine_mut(node).alive().apply_jobs.push_back(job);
        self.start_apply_work(node);
    }

    pub(super) fn start_apply_work(&mut self, node: NodeId) {
        let group = 1 + self.random.below(GROUP_MAX as u64) as usize;
        let process = self.machine_mut(node).alive();
        if process.apply_work.is_some() {
            return;
        }
        let work = match process.apply_jobs.pop_front() {
            None => return,
            Some(ApplyJob::Install(plan)) => ApplyWork::Install(plan, InstallStep::WritePlan),
            Some(ApplyJob::Apply(generation, mut entries)) => {
                for _ in 1..group {
                    match process.apply_jobs.front_mut() {
                        Some(ApplyJob::Apply(_, more)) => entries.append(more),
                        _ => break,
                    }
                    process.apply_jobs.pop_front();
                }
                ApplyWork::Apply(generation, entries)
            }
        };
        self.do_apply_work(node, work);
    }

    fn do_apply_work(&mut self, node: NodeId, work: ApplyWork) {
        let mean = match &work {
            ApplyWork::Apply(..) => self.settings.disk.apply_us,
            ApplyWork::Install(..) => self.settings.disk.install_us,
        };
        let delay = self.about(mean);
        self.machine_mut(node).alive().apply_work = Some(work);
        self.push_machine(node, delay, MachineEvent::ApplyWork);
    }

    pub(super) fn finish_apply_work(&mut self, node: NodeId) -> Result<()> {
        match self.machine_mut(node).alive().apply_work.take() {
            None => return Ok(()),
            Some(ApplyWork::Apply(generation, entries)) => {
                self.apply(node, generation, &entries)?;
            }
            Some(ApplyWork::Install(plan, step)) => {
                if let Some(next) = self.install_step(node, &plan, step)? {
                    self.do_apply_work(node, ApplyWork::Install(plan, next));
                    return Ok(());
                }
            }
        }
        if self.machine(node).process.is_some() {
            self.start_apply_work(node);
        }
        Ok(())
    }

    fn apply(&mut self, node: NodeId, generation: u64, entries: &[Committed]) -> Result<()> {
        let (batch_max, early) =
            (self.settings.disk.batch_entries_max, self.settings.disk.early_flushes);
        let mut random = self.random.fork();
        let checks = &mut self.checks;
        let machine = self.machines.get_mut(&node).context("no such machine")?;
        let process = machine.alive();
        let (_, db) = process.live.clone().context("entries before there is a state")?;
        let state = process.state.as_mut().context("entries before there is a state")?;
        let latest = db.latest();
        let (mut batch, mut replies) = (Batch::default(), Vec::new());
        let (mut pins, mut nodes) = (false, false);
        for entry in entries {
            let outcome = state
                .apply(&latest, &mut batch, entry)
                .with_context(|| format!("applying entry {}", entry.index))?;
            pins |= outcome.pins_changed;
            nodes |= outcome.nodes_changed;
            let digest = outcome.digest_due || entry.index.is_multiple_of(DIGEST_EVERY);
            if digest || random.below(batch_max) == 0 {
                db.write(&batch)?;
                batch = Batch::default();
            }
            if digest {
                checks.digest(node, &content_digest(&*db.view())?)?;
            }
            if matches!(entry.payload, Payload::ConfChange { .. }) {
                self.figures.membership_changes += 1;
            }
            replies.push(AppliedReply {
                index: entry.index,
                term: entry.term,
                executed_at: outcome.index,
                reply: outcome.reply,
            });
        }
        db.write(&batch)?;
        let input = Input::Applied {
            generation,
            index: state.applied(),
            replies,
            pins: pins.then(|| state.pins()),
            nodes: nodes.then(|| state.nodes()),
            time_unix_ms: state.last_time_unix_ms(),
        };
        if random.chance(early) {
            db.flush_some(random.next());
        }
        self.report(node, input);
        Ok(())
    }

    /// Does one step of an install; answers with the next.
    fn install_step(
        &mut self,
        node: NodeId,
        plan: &InstallPlan,
        step: InstallStep,
    ) -> Result<Option<InstallStep>> {
        self.trace.note(self.now_us, node, "install step", [step as u64]);
        if self.halts(node, INSTALL_HALTS)? {
            return Ok(None);
        }
        let machine = self.machine_mut(node);
        Ok(match step {
            InstallStep::WritePlan => {
                ensure!(machine.disk.plan.is_none(), "another install is not finished");
                ensure!(machine.disk.current.unwrap_or(0) < plan.generation, "generations grow");
                machine.disk.plan = Some(plan.clone());
                Some(InstallStep::ResetLog)
            }
            InstallStep::ResetLog => {
                machine.disk.log.reset_to(plan.start, plan.hard_state);
                machine.disk.synced_last = plan.start.index;
                Some(InstallStep::FlipCurrent)
            }
            InstallStep::FlipCurrent => {
                machine.disk.current = Some(plan.generation);
                let (generation, db, state) = machine
                    .alive()
                    .prepared
                    .take()
                    .filter(|(generation, ..)| *generation == plan.generation)
                    .ok_or_else(|| anyhow!("generation {} is not prepared", plan.generation))?;
                let process = machine.alive();
                process.live = Some((generation, db));
                process.state = Some(state);
                Some(InstallStep::RemovePlan)
            }
            InstallStep::RemovePlan => {
                machine.disk.plan = None;
                machine.disk.generations.retain(|generation, _| *generation == plan.generation);
                let state = machine.alive().state.as_ref().context("the plan put one there")?;
                let (pins, nodes) = (state.pins(), state.nodes());
                let (generation, time_unix_ms) = (plan.generation, state.last_time_unix_ms());
                let input = Input::Installed { generation, pins, nodes, time_unix_ms };
                self.report(node, input);
                None
            }
        })
    }
}
