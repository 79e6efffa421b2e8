//! What a cluster must reach by itself once all faults have ended.

use anyhow::{Result, ensure};
use ratoon::limits::{BUILD_RETRY_MS, OFFER_PAUSE_MS_MAX};
use ratoon::state::content_digest;
use ratoon::types::{ConfState, NodeId, Role};

use super::World;
use super::machine::{Stored, Waiting};
use crate::checks::paused::Peer;
use crate::checks::{pins, transfers};

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
        let status = process.bulk.machine.status(self.machine(node).now(self.now_us));
        let is_staging_empty = self.machine(node).disk.staging.is_empty();
        transfers::check_receiver(node, status.as_ref(), is_staging_empty)
            .and_then(|()| transfers::check_source(node, process.source.machine.places_taken()))
            .and_then(|()| pins::check_released(node, &process.pins))
            .and_then(|()| self.check_compacted(node))
            .map_err(|error| error.to_string())
    }

    /// Looks at all nodes while they recover: none may be forgotten by its leader.
    pub fn look(&mut self) -> Result<()> {
        let running = || self.machines.iter().filter(|(_, machine)| machine.process.is_some());
        let leader = running().map(|(node, _)| *node).find(|node| {
            let standing = self.standing(*node);
            standing.role == Role::Leader && !self.checks.is_removed(*node)
        });
        let Some(leader) = leader else { return Ok(()) };
        let core = &self.machine(leader).process.as_ref().expect("a leader lives").core;
        let (commit, term) = (core.commit_index(), core.standing().term);
        let mut peers = Vec::new();
        for (node, matched) in core.matched_indexes() {
            let Some(machine) = self.machines.get(&node) else { continue };
            let Some(process) = machine.process.as_ref() else { continue };
            let status = process.bulk.machine.status(machine.now(self.now_us));
            let is_pulling = status.is_some_and(|status| !status.state.is_final());
            peers.push(Peer { node, matched, is_pulling });
        }
        let patience_ms = self.paused_ms_max();
        self.checks.paused.look(self.now_us / 1000, term, commit, &peers, patience_ms)
    }

    /// How long a peer may stand still before it is offered what it lacks: a lease has to run out,
    /// a pause after failures, a pause after a build that failed.
    fn paused_ms_max(&self) -> u64 {
        let settings = &self.settings;
        let election_ms = settings.tick_ms * settings.election_ticks as u64;
        OFFER_PAUSE_MS_MAX + BUILD_RETRY_MS + 2 * settings.lease_ms + 10 * election_ms
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
        let conf_state = self.newest_members();
        let stranded = |node: &&NodeId| {
            let lives = !self.machine(**node).is_retired;
            lives && conf_state.as_ref().is_some_and(|known| self.is_stranded(**node, known))
        };
        self.figures.stranded += self.machines.keys().filter(stranded).count() as u64;
        self.figures.undecided_histories += self.checks.judge(self.cluster)?;
        Ok(())
    }
}

fn members(conf_state: &ConfState) -> impl Iterator<Item = NodeId> {
    conf_state.voters.iter().chain(&conf_state.learners).map(|id| NodeId(*id))
}
