//! The raft thread: inputs into the core, outputs to whoever carries them out. As
//! `node/raft_thread.rs` and `node/carry.rs` do it.

use anyhow::{Result, bail};
use ratoon::raft::{Answer, Core, Input, Output, Waiter};
use ratoon::state::read;
use ratoon::transfer::receiver::Input as Word;
use ratoon::types::{Code, Failure, NodeId};

use super::calls::Origin;
use super::clients::{Response, collection};
use super::machine::{ApplyJob, LogJob, MachineEvent, Waiting};
use super::network::{Lane, Packet};
use super::tasks::Task;
use super::{Ask, Event, World};
use crate::checks::committed::removes;
use crate::checks::message;

impl World {
    pub(super) fn tick(&mut self, node: NodeId) -> Result<()> {
        let tick_us = self.machine(node).tick_us;
        self.push_machine(node, tick_us, MachineEvent::Tick);
        self.check_bounds(node)?;
        self.run_core(node, true)
    }

    pub(super) fn wake(&mut self, node: NodeId) -> Result<()> {
        self.machine_mut(node).alive().awake = false;
        self.run_core(node, false)
    }

    fn run_core(&mut self, node: NodeId, tick: bool) -> Result<()> {
        let at_once = match self.random.chance(500) {
            true => 1 + self.random.below(3) as usize,
            false => 1024,
        };
        let now_us = self.now_us;
        let now = self.machine(node).now(now_us);
        for _ in 0..at_once {
            let Some(input) = self.machine_mut(node).alive().inbox.pop_front() else { break };
            self.note_input(node, &input)?;
            if !self.tell_core(node, |core| core.handle(now, input))? {
                return Ok(());
            }
        }
        let ends = |core: &mut Core| {
            if tick {
                core.handle(now, Input::Tick)?;
            }
            core.advance(now)
        };
        if !self.tell_core(node, ends)? {
            return Ok(());
        }
        let process = self.machine_mut(node).alive();
        let more = !process.inbox.is_empty() && !std::mem::replace(&mut process.awake, true);
        if more {
            let delay = self.random.interval(self.settings.disk.wake_us);
            self.push_machine(node, delay, MachineEvent::Wake);
        }
        self.carry_all(node)
    }

    pub(super) fn carry_all(&mut self, node: NodeId) -> Result<()> {
        while let Some(output) = self.machine_mut(node).alive().core.poll_output() {
            self.carry(node, output)?;
        }
        let core = &self.machine_mut(node).alive().core;
        let (commit, applied, term) =
            (core.commit_index(), core.applied_index(), core.standing().term);
        self.checks.progress(node, term, commit, applied)
    }

    fn carry(&mut self, node: NodeId, output: Output) -> Result<()> {
        self.note_output(node, &output)?;
        match output {
            Output::Send { to, bytes, .. } => self.send(node, to, Packet::Raft(bytes)),
            Output::SendProgress { to, id, index, source, wants_new_offer } => {
                self.send(node, to, Packet::Progress { id, index, source, wants_new_offer });
            }
            Output::SendReport { to, index, ok, .. } => {
                self.send(node, to, Packet::Report { index, ok });
            }
            Output::Persist { number, write } => self.log_job(node, LogJob::Write(number, write)),
            Output::CompactLog { start } => self.log_job(node, LogJob::Compact(start)),
            Output::Install(plan) => {
                self.tell_receiver(node, Word::Stepped(plan.id))?;
                self.log_job(node, LogJob::Install(plan));
            }
            Output::Apply { generation, entries } => {
                self.apply_job(node, ApplyJob::Apply(generation, entries));
            }
            Output::FlushState => self.start_task(node, self.settings.disk.flush_us, Task::Flush),
            Output::FetchEntries { ticket, from, to, max_bytes } => {
                let task = Task::Read { ticket, from, to, max_bytes };
                self.start_task(node, self.settings.disk.read_us, task);
            }
            Output::BuildSnapshot => {
                self.start_task(node, self.settings.disk.build_us, Task::Build);
            }
            Output::PrepareSnapshot { id } => {
                self.start_task(node, self.settings.disk.prepare_us, Task::Prepare(id));
            }
            Output::Forward { to, waiter, request } => self.forward(node, to, waiter, request),
            Output::Answer { waiter, result } => {
                let waiting = self.end_waiting(node, waiter)?;
                self.finish(node, waiting, result);
            }
            Output::ReadReady { waiter, index } => {
                let waiting = self.end_waiting(node, waiter)?;
                self.serve_read(node, waiting, index)?;
            }
            Output::FetchSnapshot { reference, index, message_bytes, .. } => {
                self.fetch_snapshot(node, reference, index, message_bytes)?;
            }
            Output::DiscardSnapshot { id } => {
                self.figures.pulls_overtaken += 1;
                self.machine_mut(node).alive().prepared = None;
                self.tell_receiver(node, Word::Superseded(id))?;
            }
            Output::SnapshotInstalled { id } => {
                self.figures.snapshots_installed += 1;
                self.tell_receiver(node, Word::Installed(id))?;
            }
            Output::Pins(pins) => self.take_pins(node, pins),
            Output::Nodes(nodes) => {
                let process = self.machine_mut(node).alive();
                // What `Peers` does: known addresses follow the list, once there is one.
                if !nodes.is_empty() {
                    let old: Vec<NodeId> = process.nodes.iter().map(|node| node.id).collect();
                    process.addresses.retain(|id| !old.contains(id));
                    process.addresses.extend(nodes.iter().map(|node| node.id));
                }
                process.nodes = nodes;
            }
            Output::Changed(standing) => {
                self.trace.say(self.now_us, node, || format!("{standing:?}"));
            }
        }
        Ok(())
    }

    /// Tells the checks and the trace what comes out of a core.
    fn note_output(&mut self, node: NodeId, output: &Output) -> Result<()> {
        let (now, trace) = (self.now_us, &mut self.trace);
        match output {
            Output::Send { to, bytes, .. } => {
                let message = message::peek(bytes);
                trace.note(now, node, message.kind(), [to.0, message.term, message.index]);
                trace.say(now, node, || format!("{message:?}"));
                let disk = &self.machine(node).disk;
                let log = (disk.log.hard_state().term, disk.synced_last);
                self.checks.sends(node, *to, &message, log)?;
                self.figures.messages += 1;
            }
            Output::Persist { number, write } => {
                let last = write.entries.last().map_or(0, |entry| entry.index);
                trace.note(now, node, "persist", [*number, last]);
                self.checks.persists(node, *number, write)?;
            }
            Output::Apply { generation, entries } => {
                let (first, last) = (entries[0].index, entries[entries.len() - 1].index);
                trace.note(now, node, "apply", [*generation, first, last]);
                self.figures.entries += self.checks.hands_out(node, entries)?;
                self.figures.own_removals += u64::from(removes(node, entries));
            }
            Output::CompactLog { start } => {
                trace.note(now, node, "compact", [start.index, start.term]);
                self.figures.compactions += 1;
                let persisted = self.machine(node).disk.persisted_index()?;
                let pins = self.machine_mut(node).alive().pins.clone();
                self.checks.compacts(node, *start, persisted, &pins)?;
            }
            Output::Install(plan) => {
                trace.note(now, node, "install", [plan.start.index, plan.generation]);
                self.checks.installs(node, plan)?;
            }
            Output::Answer { waiter, result } => {
                trace.note(now, node, "answer", [*waiter, u64::from(result.is_ok())]);
                trace.say(now, node, || format!("{output:?}"));
            }
            Output::ReadReady { waiter, index } => {
                trace.note(now, node, "read ready", [*waiter, *index]);
            }
            Output::FetchSnapshot { index, from, .. } => {
                trace.note(now, node, "fetch snapshot", [*index, from.0]);
            }
            Output::Changed(standing) => {
                trace.note(
                    now,
                    node,
                    "changed",
                    [standing.term, standing.leader.map_or(0, |l| l.0)],
                );
                self.figures.elections += self.checks.standing(node, standing)?;
            }
            other => trace.say(now, node, || format!("{other:?}")),
        }
        Ok(())
    }

    fn note_input(&mut self, node: NodeId, input: &Input) -> Result<()> {
        let (now, trace) = (self.now_us, &mut self.trace);
        match input {
            Input::Persisted { number, .. } => trace.note(now, node, "persisted", [*number]),
            Input::Applied { index, .. } => trace.note(now, node, "applied", [*index]),
            Input::Flushed { index, .. } => {
                trace.note(now, node, "flushed", [*index]);
                self.checks.flushed(node, *index);
            }
            Input::Installed { generation, .. } => {
                trace.note(now, node, "installed", [*generation]);
            }
            Input::Message { from, bytes } => {
                trace.say(now, node, || format!("from {from}: {:?}", message::peek(bytes)));
            }
            other => trace.say(now, node, || format!("{other:?}")),
        }
        Ok(())
    }

    /// Sends something that may be lost.
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        let process = self.machine_mut(from).alive();
        if !process.addresses.contains(&to) {
            return self.report(from, Input::Unreachable(to));
        }
        let is_down = self.machines.get(&to).is_none_or(|machine| machine.process.is_none());
        if (is_down || self.network.is_cut(from, to)) && self.random.chance(50) {
            self.report(from, Input::Unreachable(to));
        }
        if self.network.is_congested(self.now_us, from, to) {
            self.figures.congestion_drops += 1;
            return;
        }
        let wait = self.network.pass(self.now_us, (Lane::Raft, from, to), packet.bytes());
        for delay in self.network.datagram(&mut self.random, from, to) {
            self.push(wait + delay, Event::Deliver { from, to, packet: packet.clone() });
        }
    }

    /// A waiter is answered once.
    fn end_waiting(&mut self, node: NodeId, waiter: Waiter) -> Result<Waiting> {
        match self.machine_mut(node).alive().waiters.remove(&waiter) {
            Some(waiting) => Ok(waiting),
            None => bail!("waiter {waiter} is answered twice"),
        }
    }

    /// Tells whoever waited what came of it.
    pub(super) fn finish(
        &mut self,
        node: NodeId,
        waiting: Waiting,
        result: Result<Answer, Failure>,
    ) {
        match waiting.origin {
            Origin::Caller(caller, attempt) => {
                self.respond(caller, attempt, Response::Answer(result));
            }
            Origin::Peer { from, call } => {
                self.send_on_stream(node, from, Packet::Reply { call, result });
            }
            Origin::Nobody => {}
        }
    }

    fn serve_read(&mut self, node: NodeId, waiting: Waiting, index: u64) -> Result<()> {
        let (Ask::Get(key), Origin::Caller(caller, attempt)) = (&waiting.ask, &waiting.origin)
        else {
            bail!("a request is answered like a read");
        };
        let Some((_, db)) = &self.machine_mut(node).alive().live else {
            let failure = Failure::new(Code::NotReady, "no state yet");
            self.finish(node, waiting, Err(failure));
            return Ok(());
        };
        let view = db.view();
        let applied = read::applied(&*view)?;
        if applied < index {
            bail!("a read at index {index} is let go while the state is at {applied}");
        }
        let response = match read::get(&*view, &collection(), key) {
            Ok(record) => Response::Value(applied, record),
            Err(error) => bail!("a read failed: {error}"),
        };
        self.respond(*caller, *attempt, response);
        Ok(())
    }
}
