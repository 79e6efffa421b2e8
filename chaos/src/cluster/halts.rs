//! Processes that a failing disk ends, at the very step that failed, and machines that burn down.
//!
//! The product never goes on after a failed write of the log or the state, nor without its log: it
//! halts, and is started again. What cannot be started again is replaced by the operator.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use ratoon::raft::{Core, Halt, HardState, LogStart};
use ratoon::types::{ConfState, NodeId};

use super::World;
use super::machine::Disk;

impl World {
    /// Whether the disk fails now, and the process ends with that; `times` likelier than usual.
    pub(super) fn halts(&mut self, node: NodeId, times: u64) -> Result<bool> {
        let rate = self.settings.disk.halts * times;
        if self.calm || !self.random.chance(rate) {
            return Ok(false);
        }
        self.figures.halts += 1;
        self.trace.note(self.now_us, node, "disk error", []);
        self.crash_for_a_while(node)?;
        Ok(true)
    }

    /// Tells a core something. False: it gave up, and its process with it. Only a log that cannot be
    /// read may make it, which raft-rs answers with a panic here and there.
    pub(super) fn tell_core(
        &mut self,
        node: NodeId,
        tell: impl FnOnce(&mut Core) -> Result<(), Halt>,
    ) -> Result<bool> {
        let machine = self.machine_mut(node);
        let fails = machine.disk.log_fails.load(Ordering::Relaxed);
        let core = &mut machine.alive().core;
        let told = match fails {
            false => Some(tell(core)),
            true => catch_unwind(AssertUnwindSafe(|| tell(core))).ok(),
        };
        match told {
            Some(Ok(())) => Ok(true),
            Some(Err(halt)) if !fails => bail!("it halts: {halt}"),
            Some(Err(_)) | None => {
                self.halt_by_log(node)?;
                Ok(false)
            }
        }
    }

    /// The log cannot be read.
    pub(super) fn halt_by_log(&mut self, node: NodeId) -> Result<()> {
        self.figures.log_read_halts += 1;
        self.trace.note(self.now_us, node, "log unreadable", []);
        self.crash_for_a_while(node)
    }

    /// A machine is lost with all it held, if the others can do without it: one at a time, and only
    /// while all of them agree on a membership of which it is a minority.
    pub(super) fn lose_machine(&mut self, node: NodeId) -> Result<()> {
        let may_be_lost = self.lost_members().is_empty()
            && !self.operator_removes()
            && !self.checks.is_removed(node)
            && !self.machine(node).is_retired
            && self.newest_members().is_some_and(|members| may_lose(&members, node));
        if !may_be_lost {
            return Ok(());
        }
        self.figures.machines_lost += 1;
        self.trace.note(self.now_us, node, "lost", []);
        self.checks.crash(node);
        let machine = self.machine_mut(node);
        machine.process = None;
        (machine.is_lost, machine.is_retired) = (true, true);
        machine.disk = Disk::empty(LogStart::default(), HardState::default(), BTreeSet::new());
        Ok(())
    }

    /// Machines that are lost and still count as members.
    pub(super) fn lost_members(&self) -> Vec<NodeId> {
        let lost = self.machines.iter().filter(|(_, machine)| machine.is_lost);
        lost.map(|(node, _)| *node).filter(|node| !self.checks.is_removed(*node)).collect()
    }

    /// The membership, if a process that runs has applied everything that any has.
    pub(super) fn newest_members(&self) -> Option<ConfState> {
        let newest = self.checks.committed_last();
        let cores = self.machines.values().filter_map(|machine| machine.process.as_ref());
        let mut cores = cores.map(|process| &process.core);
        let core = cores.find(|core| core.applied_index() >= newest)?;
        Some(core.standing().conf_state.clone())
    }
}

/// Whether a node is a minority of the voters, and stays one should it be promoted right now.
fn may_lose(members: &ConfState, node: NodeId) -> bool {
    match (members.voters.contains(&node.0), members.contains(node)) {
        (true, _) => members.voters.len() >= 3,
        (false, true) => members.voters.len() >= 2,
        (false, false) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_minority_may_be_lost_even_if_it_is_about_to_vote() {
        let members = |voters: &[u64]| ConfState {
            voters: voters.to_vec(),
            learners: vec![9],
            ..ConfState::default()
        };
        assert!(may_lose(&members(&[1, 2, 3]), NodeId(2)));
        assert!(!may_lose(&members(&[1, 2]), NodeId(2)));
        // A learner may be a voter before it is seen to be lost.
        assert!(may_lose(&members(&[1, 2]), NodeId(9)));
        assert!(!may_lose(&members(&[1]), NodeId(9)));
        assert!(may_lose(&members(&[1]), NodeId(8)));
    }
}
