//! Snapshots of a node: building, keeping, pulling.

use std::sync::Arc;

use anyhow::{Context, Result};
use ratoon::codec::manifest::encode_manifest;
use ratoon::kv::{Family, View};
use ratoon::limits::CHUNK_BYTES_MIN;
use ratoon::manifest::{Manifest, Part};
use ratoon::raft::{Input, Offer, SnapshotMeta};
use ratoon::state::{State, content_digest};
use ratoon::types::{Digest, Index, NodeId, Pin, SnapshotId, SnapshotReference};

use super::World;
use super::machine::{MachineEvent, Stored};
use super::network::Packet;

/// A source that stays away for longer is left for another offer.
const GRACE_US: u64 = 5_000_000;
/// Pause between two looks at a pull.
const PULL_STEP_US: u64 = 100_000;

/// What is staged on disk of a snapshot being pulled.
#[derive(Clone)]
pub struct Staged {
    reference: SnapshotReference,
    index: Index,
    /// What the source serves; fixed once the manifest is here.
    content: Option<Arc<Stored>>,
    /// Bytes here.
    bytes: u64,
    /// All parts are verified and durable.
    is_durable: bool,
}

impl Staged {
    /// Which snapshot.
    pub fn id(&self) -> SnapshotId {
        self.reference.id
    }

    /// The content, if it is whole.
    pub fn durable(&self, id: SnapshotId) -> Option<Arc<Stored>> {
        self.content.clone().filter(|_| self.is_durable && self.reference.id == id)
    }
}

/// The process's side of a pull.
#[derive(Default)]
pub struct Puller {
    /// A later offer, for when this one fails.
    alternative: Option<(SnapshotReference, Index)>,
    /// Since when the source has been away.
    away_since_us: Option<u64>,
    progress_due_us: u64,
    /// A step is planned.
    is_running: bool,
}

impl World {
    pub(super) fn build_snapshot(&mut self, node: NodeId) -> Result<()> {
        let fails = !self.calm && self.random.chance(self.settings.disk.build_failures);
        let salt = self.random.next();
        let kept = self.settings.snapshots_kept;
        let cluster = self.cluster;
        let machine = self.machine_mut(node);
        let live = machine.alive().live.clone().filter(|_| !fails);
        let Some((_, db)) = live else {
            let reason = "the disk failed".to_owned();
            self.report(node, Input::SnapshotFailed { reason });
            return Ok(());
        };
        let checkpoint = db.checkpoint()?;
        let view = checkpoint.view();
        let state = State::load(&*view).context("loading a checkpoint")?;
        let content = content_of(&*view, salt);
        let part = Part {
            name: "000001.sst".to_owned(),
            bytes: content.len() as u64,
            digest: Digest::of(&content),
            chunk_crc32c: content.chunks(CHUNK_BYTES_MIN as usize).map(crc32c::crc32c).collect(),
        };
        let manifest = Manifest {
            cluster,
            index: state.applied(),
            term: state.applied_term(),
            conf_state: state.conf_state().clone(),
            chunk_bytes: CHUNK_BYTES_MIN,
            parts: vec![part],
            created_unix_ms: 0,
        };
        let (id, encoded) = encode_manifest(&manifest)?;
        let meta = SnapshotMeta {
            id,
            index: manifest.index,
            term: manifest.term,
            conf_state: manifest.conf_state.clone(),
        };
        let offer = Offer {
            meta,
            total_bytes: manifest.total_bytes(),
            parts: manifest.parts.len() as u32,
            manifest_bytes: encoded.len() as u64,
        };
        self.checks.digest(node, &content_digest(&*view)?)?;
        let stored = Stored { offer: offer.clone(), manifest, encoded, checkpoint };
        let machine = self.machine_mut(node);
        machine.disk.snapshots.insert(id, Arc::new(stored));
        machine.retain_snapshots(kept);
        self.figures.snapshots_built += 1;
        self.trace.note(self.now_us, node, "built", [offer.meta.index]);
        self.report(node, Input::SnapshotBuilt(offer));
        Ok(())
    }

    pub(super) fn take_pins(&mut self, node: NodeId, pins: Vec<Pin>) {
        let kept = self.settings.snapshots_kept;
        let machine = self.machine_mut(node);
        machine.alive().pins = pins;
        machine.retain_snapshots(kept);
    }

    /// A leader offers a snapshot.
    pub(super) fn fetch_snapshot(
        &mut self,
        node: NodeId,
        reference: SnapshotReference,
        index: Index,
        _from: NodeId,
    ) {
        let machine = self.machine_mut(node);
        match &machine.disk.staged {
            Some(staged) if staged.reference.id == reference.id => {}
            Some(_) => machine.alive().puller.alternative = Some((reference, index)),
            None => self.begin_pull(node, reference, index),
        }
    }

    fn begin_pull(&mut self, node: NodeId, reference: SnapshotReference, index: Index) {
        self.figures.pulls += 1;
        self.trace.note(self.now_us, node, "pull", [index]);
        let machine = self.machine_mut(node);
        machine.disk.staged =
            Some(Staged { reference, index, content: None, bytes: 0, is_durable: false });
        machine.alive().puller = Puller::default();
        self.run_pull(node);
    }

    fn run_pull(&mut self, node: NodeId) {
        let delay = self.about(PULL_STEP_US);
        let process = self.machine_mut(node).alive();
        if !std::mem::replace(&mut process.puller.is_running, true) {
            self.push_machine(node, delay, MachineEvent::Pull);
        }
    }

    /// A staged pull was found at boot.
    pub(super) fn resume_pull(&mut self, node: NodeId) -> Result<()> {
        let Some(staged) = self.machine(node).disk.staged.clone() else { return Ok(()) };
        self.figures.pulls_resumed += 1;
        if staged.is_durable {
            self.tell_durable(node);
        } else {
            self.run_pull(node);
        }
        Ok(())
    }

    fn tell_durable(&mut self, node: NodeId) {
        let staged = self.machine(node).disk.staged.as_ref();
        if let Some(content) = staged.and_then(|staged| staged.durable(staged.id())) {
            let meta = content.offer.meta.clone();
            self.report(node, Input::SnapshotDurable(meta));
        }
    }

    pub(super) fn pull_step(&mut self, node: NodeId) -> Result<()> {
        self.machine_mut(node).alive().puller.is_running = false;
        let Some(mut staged) = self.machine(node).disk.staged.clone() else { return Ok(()) };
        if staged.is_durable {
            return Ok(());
        }
        let source = staged.reference.sources[0].node;
        let is_up = self.machines.get(&source).is_some_and(|machine| machine.process.is_some());
        let is_there = is_up && self.network.is_connected(node, source);
        let now_us = self.now_us;
        if is_there {
            self.machine_mut(node).alive().puller.away_since_us = None;
            let found = self.machine(source).disk.snapshots.get(&staged.id()).cloned();
            let Some(content) = found else {
                return self.pull_is_hopeless(node, "the source does not have it");
            };
            staged.content = Some(content);
            let more = self.random.magnitude(1, staged.reference.total_bytes.max(2));
            staged.bytes = (staged.bytes + more).min(staged.reference.total_bytes);
            staged.is_durable = staged.bytes == staged.reference.total_bytes;
            self.machine_mut(node).disk.staged = Some(staged.clone());
        } else {
            let puller = &mut self.machine_mut(node).alive().puller;
            let since = *puller.away_since_us.get_or_insert(now_us);
            if since + GRACE_US < now_us {
                return self.pull_is_hopeless(node, "the source is away");
            }
        }
        if staged.is_durable {
            self.figures.snapshots_pulled += 1;
            self.trace.note(now_us, node, "durable", [staged.index]);
            self.tell_durable(node);
            return Ok(());
        }
        if is_there {
            self.tell_progress(node, &staged, false);
        }
        self.run_pull(node);
        Ok(())
    }

    fn tell_progress(&mut self, node: NodeId, staged: &Staged, wants_new_offer: bool) {
        let now_us = self.now_us;
        let process = self.machine_mut(node).alive();
        let due = process.puller.progress_due_us <= now_us || wants_new_offer;
        let Some(leader) = process.core.standing().leader.filter(|leader| due && *leader != node)
        else {
            return;
        };
        process.puller.progress_due_us = now_us + 500_000;
        let source = staged.reference.sources[0].node;
        let (id, index) = (staged.id(), staged.index);
        self.send(node, leader, Packet::Progress { id, index, source, wants_new_offer });
    }

    fn pull_is_hopeless(&mut self, node: NodeId, reason: &str) -> Result<()> {
        let Some(staged) = self.machine(node).disk.staged.clone() else { return Ok(()) };
        let alternative = self.machine_mut(node).alive().puller.alternative.take();
        self.trace.say(self.now_us, node, || format!("pull is hopeless: {reason}"));
        match alternative {
            Some((reference, index)) => self.begin_pull(node, reference, index),
            None if self.random.chance(500) => {
                self.machine_mut(node).disk.staged = None;
                let (id, index, reason) = (staged.id(), staged.index, reason.to_owned());
                self.report(node, Input::PullFailed { id, index, reason });
            }
            None => {
                self.tell_progress(node, &staged, true);
                let delay = self.about(1_000_000);
                self.machine_mut(node).alive().puller.is_running = true;
                self.push_machine(node, delay, MachineEvent::Pull);
            }
        }
        Ok(())
    }

    /// The core has no more use for a pulled snapshot.
    pub(super) fn end_pull(&mut self, node: NodeId, id: SnapshotId) {
        let machine = self.machine_mut(node);
        if machine.disk.staged.as_ref().is_some_and(|staged| staged.id() == id) {
            machine.disk.staged = None;
        }
    }

    /// Receiver and source of every pull under way.
    pub(super) fn running_pulls(&self) -> Vec<(NodeId, NodeId)> {
        let staged = |node: &NodeId| self.machine(*node).disk.staged.as_ref();
        let running =
            |node: &NodeId| staged(node).map(|staged| (*node, staged.reference.sources[0].node));
        self.machines.keys().filter_map(running).collect()
    }
}

impl super::machine::Machine {
    /// Deletes what is neither pinned nor among the newest.
    fn retain_snapshots(&mut self, kept: usize) {
        let Some(process) = &self.process else { return };
        let pinned = |id: &SnapshotId| {
            process.pins.iter().any(|pin| pin.snapshot.is_some_and(|(pinned, _)| pinned == *id))
        };
        let mut indexes: Vec<Index> =
            self.disk.snapshots.values().map(|stored| stored.offer.meta.index).collect();
        indexes.sort_unstable();
        let from = indexes.len().checked_sub(kept).map_or(0, |skip| indexes[skip]);
        self.disk.snapshots.retain(|id, stored| stored.offer.meta.index >= from || pinned(id));
    }
}

/// Rows of a state as the bytes of a file. Salted, because files of two nodes differ though their
/// states are equal.
fn content_of(view: &dyn View, salt: u64) -> Vec<u8> {
    let mut content = salt.to_be_bytes().to_vec();
    for (place, family) in Family::ALL.into_iter().enumerate() {
        let mut cursor = view.cursor(family);
        cursor.seek(&[]);
        while let Some((key, value)) = cursor.entry() {
            content.push(place as u8);
            for piece in [key, value] {
                content.extend((piece.len() as u32).to_be_bytes());
                content.extend(piece);
            }
            cursor.next();
        }
    }
    content
}
