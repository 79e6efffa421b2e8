//! The source of snapshots, driven by events. As `node/bulk_sender.rs` does it.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use ratoon::raft::Input;
use ratoon::transfer::sender::{Input as Word, OpenFailure, OpenSnapshot, Output, Sender};
use ratoon::types::{ByteRange, ChunkHeader, NodeId, SnapshotId};

use super::World;
use super::bulk_link::Piece;
use super::machine::{Machine, MachineEvent};

/// A process's source.
pub struct BulkSender {
    pub machine: Sender,
    timer_us: Option<u64>,
}

impl BulkSender {
    /// Of a process that starts now.
    pub fn new(machine: Sender) -> Self {
        BulkSender { machine, timer_us: None }
    }
}

impl World {
    /// Tells a node's source something, and carries out what it wants.
    pub(super) fn tell_sender(&mut self, node: NodeId, word: Word) -> Result<()> {
        let now_ms = self.machine(node).now(self.now_us).monotonic_ms;
        self.machine_mut(node).alive().source.machine.handle(now_ms, word);
        self.carry_out_serving(node)
    }

    pub(super) fn sender_timer(&mut self, node: NodeId) -> Result<()> {
        let (now_us, now) = (self.now_us, self.machine(node).now(self.now_us));
        let source = &mut self.machine_mut(node).alive().source;
        if source.timer_us.take_if(|at| *at <= now_us).is_some() {
            source.machine.handle_timer(now.monotonic_ms);
        }
        self.carry_out_serving(node)
    }

    fn carry_out_serving(&mut self, node: NodeId) -> Result<()> {
        while let Some(output) = self.machine_mut(node).alive().source.machine.poll_output() {
            self.trace.say(self.now_us, node, || format!("source: {output:?}"));
            match output {
                Output::Open { snapshot } => {
                    let delay = self.about(self.settings.disk.stage_us);
                    self.push_machine(node, delay, MachineEvent::OpenStored(snapshot));
                }
                Output::Release { .. } => {}
                Output::Answer { stream, response } => {
                    self.queue_piece(stream, Piece::Response(response));
                }
                Output::SendManifest { stream, snapshot } => {
                    if let Some(stored) = self.machine(node).disk.snapshots.get(&snapshot) {
                        let encoded = stored.encoded.clone();
                        self.queue_piece(stream, Piece::Manifest(encoded));
                    }
                }
                Output::SendFrame { stream, snapshot, range } => {
                    self.queue_piece(stream, Piece::Frame(snapshot, range));
                }
                Output::SendPiece { stream, bytes } => self.send_piece(stream, bytes),
                Output::Finish { stream } => self.queue_piece(stream, Piece::End),
                Output::Reset { stream } => self.reset_stream(stream),
                Output::CheckPart { snapshot, part } => {
                    let delay = self.about(self.settings.disk.stage_us);
                    self.push_machine(node, delay, MachineEvent::CheckStored(snapshot, part));
                }
                Output::Close { connection } => self.source_closes(connection),
                Output::Fenced { snapshot: id, .. } => {
                    let is_there = self.machine(node).disk.snapshots.contains_key(&id);
                    anyhow::ensure!(!is_there, "a sound snapshot is fenced");
                    self.report(node, Input::SnapshotLost { id });
                }
            }
        }
        let now_ms = self.machine(node).now(self.now_us).monotonic_ms;
        let source = &mut self.machine_mut(node).alive().source;
        let due_ms = source.machine.next_timer_ms(now_ms);
        if let Some(due_us) = due_ms.map(|due| due * 1000)
            && source.timer_us.is_none_or(|planned| planned > due_us)
        {
            source.timer_us = Some(due_us);
            let delay = due_us.saturating_sub(self.now_us).max(1_000);
            self.push_machine(node, delay, MachineEvent::SenderTimer);
        }
        Ok(())
    }

    /// A snapshot of the store is opened for sending.
    pub(super) fn open_stored(&mut self, node: NodeId, snapshot: SnapshotId) -> Result<()> {
        let stored = self.machine(node).disk.snapshots.get(&snapshot).cloned();
        let open = stored.map(|stored| {
            let (manifest, encoded) = (stored.manifest.clone(), stored.encoded.clone());
            Arc::new(OpenSnapshot { manifest, encoded })
        });
        let result = open.ok_or(OpenFailure::Unknown);
        self.tell_sender(node, Word::Opened { snapshot, result })
    }

    /// A part of the store was read whole: simulated stores do not rot.
    pub(super) fn check_stored(
        &mut self,
        node: NodeId,
        snapshot: SnapshotId,
        part: u32,
    ) -> Result<()> {
        let is_there = self.machine(node).disk.snapshots.contains_key(&snapshot);
        let result = if is_there { Ok(true) } else { Err("it is gone".to_owned()) };
        self.tell_sender(node, Word::PartChecked { snapshot, part, result })
    }
}

impl Machine {
    /// The header and the bytes of a frame; None: the snapshot is gone.
    pub fn read_frame(&self, id: SnapshotId, range: ByteRange) -> Option<(ChunkHeader, Bytes)> {
        let content = self.disk.snapshots.get(&id)?.parts.get(range.part as usize)?;
        let bytes = content.slice(range.offset as usize..(range.offset + range.bytes) as usize);
        let header = ChunkHeader {
            part: range.part,
            offset: range.offset,
            bytes: range.bytes as u32,
            crc32c: crc32c::crc32c(&bytes),
        };
        Some((header, bytes))
    }
}
