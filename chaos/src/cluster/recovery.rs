//! What a cluster must reach by itself once all faults have ended.

use anyhow::{Result, ensure};
use ratoon::state::content_digest;
use ratoon::types::{ConfState, NodeId, Role};

use super::World;
use super::machine::{Stored, Waiting};

impl World {
    /// How long recovery may take, ms of calm.
    pub fn recovery_ms_max(&self) -> u64 {
        let settings = &self.settings;
        let election_ms = settings.tick_ms * settings.election_ticks as u64;
        60_000
            + 40 * election_ms
            + 4 * settings.lease_ms
            + 4 * settings.pin_age_ms_max
            + 6 * settings.request_timeout_ms
            + self.transfers_ms_max()
    }

    /// How long all nodes may take to pull a snapshot, one after the other, at the limit's rate.
    fn transfers_ms_max(&self) -> u64 {
        let bytes_of = |stored: &Stored| stored.parts.iter().map(|part| part.len() as u64).sum();
        let largest: u64 = self.contents.values().map(|stored| bytes_of(stored)).max().unwrap_or(0);
        match self.settings.transfer.bytes_per_second {
            0 => 0,
            rate => 2 * self.machines.len() as u64 * largest * 1000 / rate,
        }
    }

    /// Whether all is well; Err: what is missing.
    pub fn is_recovered(&self) -> Result<(), String> {
        let nodes: Vec<NodeId> = self
            .machines
            .iter()
            .filter(|(node, machine)| !machine.is_retired && !self.checks.is_removed(**node))
            .map(|(node, _)| *node)
            .collect();
        let leader = self.leader(&nodes)?;
        let conf_state = self.standing(leader).conf_state.clone();
        for node in nodes.iter().filter(|node| !self.is_stranded(**node, &conf_state)) {
            self.has_converged(*node, leader, &conf_state)?;
        }
        if let Some(member) = members(&conf_state).find(|member| !nodes.contains(member)) {
            return Err(format!("node {member} is a member and gone"));
        }
        let leads = self.machine(leader).process.as_ref().expect("a leader lives");
        if let Some(pin) = leads.pins.first() {
            return Err(format!("{pin:?} is not released"));
        }
        if !self.clients_are_idle() || !self.operator_is_idle() {
            return Err("a client still waits".to_owned());
        }
        Ok(())
    }

    /// It never was a member, and everybody it was told of when it enrolled is gone: nobody can
    /// tell it where the cluster is now.
    fn is_stranded(&self, node: NodeId, conf_state: &ConfState) -> bool {
        let machine = self.machine(node);
        machine.disk.current.is_none()
            && !conf_state.contains(node)
            && !machine.disk.seeds.iter().any(|seed| conf_state.contains(*seed))
    }

    fn standing(&self, node: NodeId) -> &ratoon::raft::Standing {
        self.machine(node).process.as_ref().expect("it lives").core.standing()
    }

    fn leader(&self, nodes: &[NodeId]) -> Result<NodeId, String> {
        for node in nodes {
            if self.machine(*node).process.is_none() {
                return Err(format!("node {node} is down"));
            }
        }
        let leads = |node: &&NodeId| self.standing(**node).role == Role::Leader;
        let leaders: Vec<NodeId> = nodes.iter().filter(leads).copied().collect();
        match leaders[..] {
            [leader] => Ok(leader),
            _ => Err(format!("{leaders:?} lead")),
        }
    }

    fn has_converged(
        &self,
        node: NodeId,
        leader: NodeId,
        conf_state: &ConfState,
    ) -> Result<(), String> {
        let process = self.machine(node).process.as_ref().expect("it lives");
        let (core, leads) = (&process.core, &self.machine(leader).process);
        let applied = leads.as_ref().expect("it lives").core.applied_index();
        let standing = core.standing();
        let learner = process.nodes.iter().any(|known| known.id == node && known.learner);
        let is_member = match standing.role {
            Role::Leader | Role::Follower => true,
            Role::Learner => learner,
            Role::Candidate | Role::Enrolled => false,
        };
        if !is_member || standing.leader != Some(leader) || standing.conf_state != *conf_state {
            return Err(format!("node {node} stands at {standing:?}, node {leader} leads"));
        }
        if core.applied_index() != applied || core.commit_index() != applied {
            let own = core.applied_index();
            return Err(format!("node {node} is at index {own}, the leader at {applied}"));
        }
        if let Some((waiter, waiting)) = process.waiters.first_key_value() {
            let Waiting { origin, ask } = waiting;
            return Err(format!(
                "node {node} has not answered waiter {waiter}, {origin:?}: {ask:?}"
            ));
        }
        if !self.machine(node).disk.staging.is_empty() {
            return Err(format!("the pull of node {node} has not ended"));
        }
        Ok(())
    }

    /// Judges the run as a whole, once the cluster has recovered.
    pub fn judge(&mut self) -> Result<()> {
        for (node, machine) in &self.machines {
            let Some(process) = &machine.process else { continue };
            if let Some((_, db)) = &process.live
                && !self.checks.is_removed(*node)
            {
                self.checks.digest(*node, &content_digest(&*db.view())?)?;
            }
        }
        ensure!(self.figures.entries > 0, "nothing was ever committed");
        self.figures.undecided_histories += self.checks.judge(self.cluster)?;
        Ok(())
    }
}

fn members(conf_state: &ConfState) -> impl Iterator<Item = NodeId> {
    conf_state.voters.iter().chain(&conf_state.learners).map(|id| NodeId(*id))
}
