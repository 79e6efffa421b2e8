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
                    let disk = &self.machine(node).disk;
                    let has_rotted = disk.rot.iter().any(|(rotten, ..)| *rotten == id);
                    let is_excused = has_rotted || self.settings.disk.serving_errors > 0;
                    let is_there = disk.snapshots.contains_key(&id);
                    anyhow::ensure!(is_excused || !is_there, "a sound snapshot is fenced");
                    self.figures.fenced += u64::from(is_there);
                    self.set_aside(node, id);
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

    /// Whether a read of a stored snapshot fails now.
    pub(super) fn reading_fails(&mut self) -> bool {
        let fails = !self.calm && self.random.chance(self.settings.disk.serving_errors);
        self.figures.serving_errors += u64::from(fails);
        fails
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

    /// Nobody finds a stored snapshot any more, and it is offered to nobody.
    pub(super) fn set_aside(&mut self, node: NodeId, id: SnapshotId) {
        self.figures.lost_while_served += u64::from(self.is_served(node, id));
        self.machine_mut(node).disk.snapshots.remove(&id);
        self.report(node, Input::SnapshotLost { id });
    }

    /// A part of the store was read whole.
    pub(super) fn check_stored(
        &mut self,
        node: NodeId,
        snapshot: SnapshotId,
        part: u32,
    ) -> Result<()> {
        self.figures.parts_suspected += 1;
        let disk = &self.machine(node).disk;
        let has_rotted = disk.has_rotted(snapshot, part, 0, u64::MAX);
        let is_there = disk.snapshots.contains_key(&snapshot);
        let result = match is_there && !self.reading_fails() {
            true => Ok(!has_rotted),
            false => Err("it cannot be read".to_owned()),
        };
        self.tell_sender(node, Word::PartChecked { snapshot, part, result })
    }
}

/// Why a frame cannot be sent.
pub enum FrameError {
    /// The snapshot is not in the store any more.
    Gone,
    /// The chunk does not have its checksum.
    Corrupt,
}

impl Machine {
    /// The header and the bytes of a frame. The chunk that holds them is read and checked whole.
    pub fn read_frame(
        &self,
        id: SnapshotId,
        range: ByteRange,
    ) -> Result<(ChunkHeader, Bytes), FrameError> {
        let stored = self.disk.snapshots.get(&id).ok_or(FrameError::Gone)?;
        let manifest = &stored.manifest;
        let (start, length) = manifest.chunk_bounds(range.part, manifest.chunk_at(range.offset));
        if self.disk.has_rotted(id, range.part, start, start + u64::from(length)) {
            return Err(FrameError::Corrupt);
        }
        let content = &stored.parts[range.part as usize];
        let bytes = content.slice(range.offset as usize..(range.offset + range.bytes) as usize);
        let header = ChunkHeader {
            part: range.part,
            offset: range.offset,
            bytes: range.bytes as u32,
            crc32c: crc32c::crc32c(&bytes),
        };
        Ok((header, bytes))
    }
}
