//! The receiver of snapshots, driven by events. As `node/bulk_receiver.rs` and `node/bulk_disk.rs`
//! do it.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context, Result};
use ratoon::raft::{self, Input};
use ratoon::transfer::receiver::{
    DiskOperation, DiskResult, Event, Input as Word, Options, Output, Receiver,
};
use ratoon::types::{
    Index, NodeId, Now, SnapshotId, SnapshotReference, TransferState, TransferStatus,
};

use super::World;
use super::machine::MachineEvent;

/// The threads of the disk: operations of one are done in order.
const WRITER: usize = 0;
const SYNCER: usize = 1;
const READER: usize = 2;

/// A process's receiver and its disk threads.
pub struct BulkReceiver {
    pub machine: Receiver,
    threads: [VecDeque<(u64, DiskOperation)>; 3],
    /// Operations that found the disk full, by thread.
    full: BTreeMap<usize, u64>,
    /// When the machine's timer is planned.
    timer_us: Option<u64>,
    /// The source it was connected to last, and which of its lives that was.
    pub last_source: Option<(NodeId, u64)>,
}

impl BulkReceiver {
    /// Of a process that starts now.
    pub fn new(options: Options, last: Option<TransferStatus>, now: Now) -> Self {
        BulkReceiver {
            machine: Receiver::new(options, last, now),
            threads: Default::default(),
            full: BTreeMap::new(),
            timer_us: None,
            last_source: None,
        }
    }

    /// Received bytes that wait for the disk.
    pub fn unwritten_bytes(&self) -> BTreeMap<SnapshotId, u64> {
        let mut unwritten = BTreeMap::new();
        for (_, operation) in &self.threads[WRITER] {
            if let DiskOperation::Write { snapshot, bytes, .. } = operation {
                *unwritten.entry(*snapshot).or_default() += bytes.len() as u64;
            }
        }
        unwritten
    }
}

impl World {
    /// Goes on with a pull that a crash interrupted.
    pub(super) fn resume_pull(&mut self, node: NodeId) -> Result<()> {
        match self.machine(node).disk.staging.found() {
            Some(found) => {
                self.figures.pulls_resumed += u64::from(!found.record.state.is_final());
                self.figures.durable_resumed += u64::from(found.durable);
                self.tell_receiver(node, Word::Resume(Box::new(found)))
            }
            None => self.carry_out_pull(node),
        }
    }

    /// A leader offers a snapshot.
    pub(super) fn fetch_snapshot(
        &mut self,
        node: NodeId,
        reference: SnapshotReference,
        index: Index,
        message_bytes: u64,
    ) -> Result<()> {
        self.figures.pulls += 1;
        self.tell_receiver(node, Word::Offer { reference, index, message_bytes })
    }

    /// Tells a node's receiver something, and carries out what it wants.
    pub(super) fn tell_receiver(&mut self, node: NodeId, word: Word) -> Result<()> {
        let now = self.machine(node).now(self.now_us);
        self.machine_mut(node).alive().bulk.machine.handle(now, word);
        self.carry_out_pull(node)
    }

    pub(super) fn receiver_timer(&mut self, node: NodeId) -> Result<()> {
        let (now_us, now) = (self.now_us, self.machine(node).now(self.now_us));
        let bulk = &mut self.machine_mut(node).alive().bulk;
        if bulk.timer_us.take_if(|at| *at <= now_us).is_some() {
            bulk.machine.handle_timer(now);
        }
        self.carry_out_pull(node)
    }

    fn carry_out_pull(&mut self, node: NodeId) -> Result<()> {
        while let Some(output) = self.machine_mut(node).alive().bulk.machine.poll_output() {
            self.trace.say(self.now_us, node, || {
                let mut words = format!("receiver: {output:?}");
                words.truncate(words.floor_char_boundary(160));
                words
            });
            match output {
                Output::Connect { attempt, source } => self.dial(node, attempt, source.node),
                Output::Disconnect { attempt } => self.hang_up(node, attempt),
                Output::Request { attempt, request, body } => {
                    self.ask_source(node, attempt, request, body);
                }
                Output::Abandon { request } => self.abandon(node, request),
                Output::Disk { ticket, operation } => self.queue_disk(node, ticket, operation),
                Output::RetryDisk { ticket } => self.nudge_disk(node, ticket, true),
                Output::DropDisk { ticket } => self.nudge_disk(node, ticket, false),
                Output::Event(event) => self.pull_event(node, event)?,
            }
        }
        let now = self.machine(node).now(self.now_us);
        let bulk = &mut self.machine_mut(node).alive().bulk;
        let due_ms = bulk.machine.next_timer_ms(now);
        if let Some(due_us) = due_ms.map(|due| due * 1000)
            && bulk.timer_us.is_none_or(|planned| planned > due_us)
        {
            bulk.timer_us = Some(due_us);
            let delay = due_us.saturating_sub(self.now_us).max(1_000);
            self.push_machine(node, delay, MachineEvent::ReceiverTimer);
        }
        Ok(())
    }

    fn pull_event(&mut self, node: NodeId, event: Event) -> Result<()> {
        match event {
            Event::Progress(status) => self.report_pull(node, &status, false),
            Event::Durable { id, manifest, index } => {
                self.figures.snapshots_pulled += 1;
                let now = self.machine(node).now(self.now_us);
                let status = self.machine_mut(node).alive().bulk.machine.status(now);
                if status.is_some_and(|status| status.resumes > 0) {
                    self.figures.pulled_through_faults += 1;
                    self.figures.seeds_through_faults = 1;
                }
                self.trace.note(self.now_us, node, "durable", [index]);
                let original = self.contents.get(&id).context("nobody ever built it")?.clone();
                // What rotted since it was verified is found when it is opened.
                self.machine(node).disk.staging.is_durable(id, &original)?;
                let meta = raft::SnapshotMeta {
                    id,
                    index: manifest.index,
                    term: manifest.term,
                    conf_state: manifest.conf_state.clone(),
                };
                self.report(node, Input::SnapshotDurable(meta));
            }
            Event::Failed { id, index, reason } => {
                self.figures.pulls_failed += 1;
                self.report(node, Input::PullFailed { id, index, reason });
            }
            Event::WantsNewOffer { .. } => {
                self.figures.new_offers_wanted += 1;
                let now = self.machine(node).now(self.now_us);
                let status = self.machine_mut(node).alive().bulk.machine.status(now);
                if let Some(status) = status {
                    self.report_pull(node, &status, true);
                }
            }
        }
        Ok(())
    }

    fn report_pull(&mut self, node: NodeId, status: &TransferStatus, wants_new_offer: bool) {
        let (id, index, source) = (status.snapshot, status.index, status.source);
        self.report(node, Input::Pulling { id, index, source, wants_new_offer });
    }

    /// The receiver and the source of every pull under way.
    pub(super) fn running_pulls(&mut self) -> Vec<(NodeId, NodeId)> {
        let now_us = self.now_us;
        let mut running = Vec::new();
        for (node, machine) in &self.machines {
            let Some(process) = &machine.process else { continue };
            let Some(status) = process.bulk.machine.status(machine.now(now_us)) else { continue };
            let ended = status.state.is_final() || status.state == TransferState::Durable;
            if !ended && self.machines.contains_key(&status.source) {
                running.push((*node, status.source));
            }
        }
        running
    }

    fn queue_disk(&mut self, node: NodeId, ticket: u64, operation: DiskOperation) {
        let thread = match operation {
            DiskOperation::Persist { .. } => SYNCER,
            DiskOperation::Inspect { .. } | DiskOperation::Verify { .. } => READER,
            _ => WRITER,
        };
        let queue = &mut self.machine_mut(node).alive().bulk.threads[thread];
        queue.push_back((ticket, operation));
        if queue.len() == 1 {
            self.start_disk(node, thread);
        }
    }

    fn start_disk(&mut self, node: NodeId, thread: usize) {
        let delay = self.about(self.settings.disk.stage_us);
        self.push_machine(node, delay, MachineEvent::StagingDone(thread));
    }

    /// The first operation of a thread is done.
    pub(super) fn staging_done(&mut self, node: NodeId, thread: usize) -> Result<()> {
        let full = !self.calm && self.random.chance(self.settings.disk.full);
        let fails = !self.calm && self.random.chance(self.settings.disk.staging_errors);
        let machine = self.machine_mut(node);
        let Some((ticket, operation)) = machine.alive().bulk.threads[thread].front().cloned()
        else {
            return Ok(());
        };
        let may_be_full = matches!(
            operation,
            DiskOperation::Open { .. }
                | DiskOperation::CheckSpace { .. }
                | DiskOperation::Write { .. }
                | DiskOperation::Persist { .. }
                | DiskOperation::Finish { .. }
        );
        if full && may_be_full {
            machine.alive().bulk.full.insert(thread, ticket);
            self.figures.disk_full += 1;
            let reason = "no room".to_owned();
            return self
                .tell_receiver(node, Word::Disk { ticket, result: DiskResult::Full { reason } });
        }
        let result = match fails {
            true => self.fail_staging(node, &operation),
            false => machine.disk.stage(&operation),
        };
        self.note_staging(node, &operation, &result);
        let machine = self.machine_mut(node);
        let queue = &mut machine.alive().bulk.threads[thread];
        queue.pop_front();
        if !queue.is_empty() {
            self.start_disk(node, thread);
        }
        self.tell_receiver(node, Word::Disk { ticket, result })
    }

    /// The disk fails during an operation. What cannot be read is thrown away, what cannot be written
    /// ends the pull, and what only tidies up is left undone.
    fn fail_staging(&mut self, node: NodeId, operation: &DiskOperation) -> DiskResult {
        self.figures.staged_errors += 1;
        let disk = &mut self.machine_mut(node).disk;
        match operation {
            DiskOperation::Inspect { snapshot, part, .. }
            | DiskOperation::Verify { snapshot, part } => {
                if let Some(bytes) = disk.discard_staged(*snapshot, *part) {
                    self.checks.resent.allow(node, *snapshot, bytes);
                }
                self.machine_mut(node).disk.stage(operation)
            }
            DiskOperation::Open { .. }
            | DiskOperation::CheckSpace { .. }
            | DiskOperation::Write { .. }
            | DiskOperation::Persist { .. }
            | DiskOperation::Finish { .. } => {
                DiskResult::Failed { reason: "the disk failed".to_owned() }
            }
            DiskOperation::Remove { .. }
            | DiskOperation::RemoveOthers { .. }
            | DiskOperation::SaveStatus(_) => disk.stage(operation),
        }
    }

    /// An operation that found the disk full is tried again, or forgotten.
    fn nudge_disk(&mut self, node: NodeId, ticket: u64, retry: bool) {
        let bulk = &mut self.machine_mut(node).alive().bulk;
        let Some(thread) = bulk.full.iter().find(|(_, full)| **full == ticket).map(|(t, _)| *t)
        else {
            return;
        };
        bulk.full.remove(&thread);
        let dropped = if retry { None } else { bulk.threads[thread].pop_front() };
        let is_idle = bulk.threads[thread].is_empty();
        if let Some((_, DiskOperation::Write { snapshot, bytes, .. })) = dropped {
            // It came and is not there, should the same snapshot ever be pulled again.
            self.checks.resent.allow(node, snapshot, bytes.len() as u64);
        }
        if !is_idle {
            self.start_disk(node, thread);
        }
    }
}
