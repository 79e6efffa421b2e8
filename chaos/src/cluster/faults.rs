//! Faults: what begins, what ends, and the end of them all.

use std::sync::atomic::Ordering;

use anyhow::Result;
use ratoon::raft::{ClientRequest, Input};
use ratoon::types::{NodeId, SnapshotId};

use super::calls::Origin;
use super::staging::StagedChunk;
use super::{Ask, Event, World};

/// Something that goes wrong, or comes right again.
#[derive(Clone, Debug)]
pub enum Fault {
    Crash,
    Massacre,
    Partition,
    OneWay,
    Clog,
    Pause,
    Clock,
    Pull,
    ByHand,
    /// A bit flips in what a machine keeps of snapshots.
    Rot,
    /// A machine's log cannot be read any more.
    LogRead,
    /// A machine is lost for good.
    Loss,
    /// These links carry again.
    Heal(Vec<(NodeId, NodeId)>),
    /// These links are quick again.
    Unclog(Vec<(NodeId, NodeId)>),
}

impl World {
    /// Plans the first fault of each kind.
    pub(super) fn plan_faults(&mut self) {
        for fault in [
            Fault::Crash,
            Fault::Massacre,
            Fault::Partition,
            Fault::OneWay,
            Fault::Clog,
            Fault::Pause,
            Fault::Clock,
            Fault::Pull,
            Fault::ByHand,
            Fault::Rot,
            Fault::LogRead,
            Fault::Loss,
        ] {
            self.plan_fault(fault);
        }
    }

    fn plan_fault(&mut self, fault: Fault) {
        let faults = &self.settings.faults;
        let mean_ms = match fault {
            Fault::Crash => faults.crash_ms,
            Fault::Massacre => faults.massacre_ms,
            Fault::Partition => faults.partition_ms,
            Fault::OneWay => faults.one_way_ms,
            Fault::Clog => faults.clog_ms,
            Fault::Pause => faults.pause_ms,
            Fault::Clock => faults.clock_ms,
            Fault::Pull => faults.pull_ms,
            Fault::ByHand => faults.by_hand_ms,
            Fault::Rot => faults.rot_ms,
            Fault::LogRead => faults.log_read_ms,
            Fault::Loss => faults.loss_ms,
            Fault::Heal(_) | Fault::Unclog(_) => 0,
        };
        if mean_ms > 0 {
            let delay = self.random.interval(mean_ms * 1000);
            self.push(delay, Event::Fault(fault));
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Result<()> {
        if self.calm {
            return Ok(());
        }
        self.trace.say(self.now_us, NodeId(0), || format!("fault: {fault:?}"));
        self.plan_fault(fault.clone());
        let nodes: Vec<NodeId> = self.machines.keys().copied().collect();
        match fault {
            Fault::Crash => {
                let node = *self.random.pick(&nodes);
                self.crash_for_a_while(node)?;
            }
            Fault::Massacre => {
                let share = *self.random.pick(&[300, 600, 1000]);
                for node in nodes {
                    if self.random.chance(share) {
                        self.crash_for_a_while(node)?;
                    }
                }
            }
            Fault::Partition => {
                let links = self.links_between_halves(&nodes);
                self.cut(links);
            }
            Fault::OneWay => {
                let links = self.some_links(&nodes);
                self.cut(links);
            }
            Fault::Clog => {
                let links = self.some_links(&nodes);
                for (from, to) in &links {
                    let delay = self.random.magnitude(10_000, 2_000_000);
                    self.network.clog(*from, *to, delay);
                }
                let length = self.fault_length();
                self.push(length, Event::Fault(Fault::Unclog(links)));
            }
            Fault::Pause => {
                let node = *self.random.pick(&nodes);
                let until = self.now_us + self.fault_length();
                self.machine_mut(node).paused_until_us = until;
                self.figures.pauses += 1;
            }
            Fault::Clock => {
                let node = *self.random.pick(&nodes);
                let jump = self.random.magnitude(1, 3_600_000) as i64;
                let jump = if self.random.chance(500) { jump } else { -jump };
                self.machine_mut(node).skew_ms = jump;
            }
            Fault::Pull => self.disturb_a_pull()?,
            Fault::ByHand => {
                let node = *self.random.pick(&nodes);
                self.do_by_hand(node);
            }
            Fault::Rot | Fault::LogRead | Fault::Loss => {
                let node = *self.random.pick(&nodes);
                self.damage(node, &fault)?;
            }
            Fault::Heal(links) => {
                links.into_iter().for_each(|(from, to)| self.network.heal(from, to))
            }
            Fault::Unclog(links) => {
                links.into_iter().for_each(|(from, to)| self.network.unclog(from, to));
            }
        }
        Ok(())
    }

    /// All links from either half of the nodes to the other, of two halves that chance draws.
    fn links_between_halves(&mut self, nodes: &[NodeId]) -> Vec<(NodeId, NodeId)> {
        let side: Vec<bool> = nodes.iter().map(|_| self.random.chance(500)).collect();
        let mut links = Vec::new();
        for (one, first) in nodes.iter().zip(&side) {
            let others = nodes.iter().zip(&side).filter(|(_, second)| *second != first);
            links.extend(others.map(|(other, _)| (*one, *other)));
        }
        links
    }

    /// Something happens to what a machine keeps.
    fn damage(&mut self, node: NodeId, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Rot => self.rot(node),
            Fault::LogRead => self.machine(node).disk.log_fails.store(true, Ordering::Relaxed),
            _ => self.lose_machine(node)?,
        }
        Ok(())
    }

    /// All faults end, and whoever is down comes back.
    pub fn calm_down(&mut self) {
        self.calm = true;
        self.network.calm_down();
        let nodes: Vec<NodeId> = self.machines.keys().copied().collect();
        for node in nodes {
            let now_us = self.now_us;
            let machine = self.machine_mut(node);
            machine.paused_until_us = machine.paused_until_us.min(now_us + 1_000_000);
            machine.skew_ms = 0;
            machine.disk.log_fails.store(false, Ordering::Relaxed);
            self.boot_after(node, 100_000);
        }
    }

    fn fault_length(&mut self) -> u64 {
        self.random.interval(self.settings.faults.length_ms * 1000)
    }

    pub(super) fn crash_for_a_while(&mut self, node: NodeId) -> Result<()> {
        self.crash(node)?;
        let length = self.fault_length();
        self.boot_after(node, length);
        Ok(())
    }

    fn some_links(&mut self, nodes: &[NodeId]) -> Vec<(NodeId, NodeId)> {
        let count = 1 + self.random.below(2 * nodes.len() as u64);
        let mut links = Vec::new();
        for _ in 0..count {
            let link = (*self.random.pick(nodes), *self.random.pick(nodes));
            if link.0 != link.1 {
                links.push(link);
            }
        }
        links
    }

    pub(super) fn cut(&mut self, links: Vec<(NodeId, NodeId)>) {
        let new = links.iter().filter(|(from, to)| self.network.cut(*from, *to)).count();
        self.figures.cuts += new as u64;
        let length = self.fault_length();
        self.push(length, Event::Fault(Fault::Heal(links)));
    }

    /// The receiver or the source of a pull crashes, or the link between them fails.
    fn disturb_a_pull(&mut self) -> Result<()> {
        let pulls = self.running_pulls();
        if pulls.is_empty() {
            return Ok(());
        }
        let (receiver, source) = *self.random.pick(&pulls);
        match self.random.below(3) {
            0 => self.crash_for_a_while(receiver)?,
            1 => self.crash_for_a_while(source)?,
            _ => self.cut(vec![(receiver, source), (source, receiver)]),
        }
        Ok(())
    }

    /// The newest snapshot of a node turns out to be damaged and is set aside.
    fn lose_a_snapshot(&mut self, node: NodeId) {
        let machine = self.machine_mut(node);
        let newest = machine.disk.snapshots.values().max_by_key(|stored| stored.offer.meta.index);
        let Some(id) = newest.map(|stored| stored.offer.meta.id) else { return };
        if machine.process.is_some() {
            self.set_aside(node, id);
        }
    }

    /// A bit flips in something that is staged, or in a part of a stored snapshot.
    fn rot(&mut self, node: NodeId) {
        let mut random = self.random.fork();
        let disk = &mut self.machine_mut(node).disk;
        if random.chance(500) {
            let Some(StagedChunk { id, part, chunk, bytes }) = disk.staging.rot(&mut random) else {
                return;
            };
            self.figures.staged_flips += 1;
            let numbers = [u64::from(part), u64::from(chunk)];
            self.trace.note(self.now_us, node, "staged bit flips", numbers);
            // It may have been taken for a good beginning, so that what follows is lost with it.
            return self.checks.resent.allow(node, id, 2 * u64::from(bytes));
        }
        let ids: Vec<SnapshotId> = disk.snapshots.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = *random.pick(&ids);
        let parts = &disk.snapshots[&id].parts;
        let part = random.below(parts.len() as u64) as usize;
        let bytes = parts[part].len() as u64;
        if bytes > 0 {
            disk.rot.insert((id, part as u32, random.below(bytes)));
            self.figures.stored_flips += 1;
            self.trace.note(self.now_us, node, "stored bit flips", [part as u64]);
        }
    }

    fn do_by_hand(&mut self, node: NodeId) {
        let request = match self.random.below(5) {
            0 => return self.lose_a_snapshot(node),
            1 | 2 => ClientRequest::CompactLog,
            _ => ClientRequest::BuildSnapshot,
        };
        let Some(process) = &mut self.machine_mut(node).process else { return };
        let waiter = process.add_waiter(Origin::Nobody, Ask::Request(request.clone()));
        self.report(node, Input::Client { waiter, request, forwarded: false });
    }
}
