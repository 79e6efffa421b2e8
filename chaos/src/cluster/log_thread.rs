//! The log thread: group commit. As `node/log_thread.rs` does it.

use anyhow::Result;
use ratoon::raft::{Input, LogStore};
use ratoon::types::NodeId;

use super::World;
use super::machine::{ApplyJob, LogJob, LogWork, MachineEvent};

impl World {
    pub(super) fn log_job(&mut self, node: NodeId, job: LogJob) {
        self.machine_mut(node).alive().log_jobs.push_back(job);
        self.start_log_work(node);
    }

    fn start_log_work(&mut self, node: NodeId) {
        let delay = self.about(self.settings.disk.sync_us);
        let machine = self.machine_mut(node);
        let log = machine.disk.log.clone();
        let process = machine.alive();
        if process.log_work.is_some() {
            return;
        }
        let work = match process.log_jobs.pop_front() {
            None => return,
            Some(LogJob::Write(number, write)) => {
                log.append(&write);
                let mut last = number;
                while let Some(LogJob::Write(number, write)) = process.log_jobs.front() {
                    log.append(write);
                    last = *number;
                    process.log_jobs.pop_front();
                }
                LogWork::Sync(last)
            }
            Some(LogJob::Compact(start)) => LogWork::Compact(start),
            // Nothing before it is unfinished: the apply thread carries the plan out.
            Some(LogJob::Install(plan)) => {
                process.apply_jobs.push_back(ApplyJob::Install(plan));
                self.start_apply_work(node);
                return self.start_log_work(node);
            }
        };
        process.log_work = Some(work);
        self.push_machine(node, delay, MachineEvent::LogWork);
    }

    pub(super) fn finish_log_work(&mut self, node: NodeId) -> Result<()> {
        if self.halts(node, 1)? {
            return Ok(());
        }
        let machine = self.machine_mut(node);
        let log = machine.disk.log.clone();
        let Some(work) = machine.alive().log_work.take() else { return Ok(()) };
        let input = match work {
            LogWork::Sync(number) => {
                log.sync();
                machine.disk.synced_last = log.last_index();
                Input::Persisted { number, log_bytes: log.bytes() }
            }
            LogWork::Compact(start) => {
                log.compact_to(start.index);
                Input::Compacted { log_bytes: log.bytes() }
            }
        };
        if let Input::Persisted { number, .. } = input {
            self.checks.synced(node, number)?;
        }
        self.report(node, input);
        self.start_log_work(node);
        Ok(())
    }
}
