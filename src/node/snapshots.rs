//! Snapshots of this node, as a runtime: built, offered, pulled, linked into a generation.
//!
//! What is decided is decided in the raft core and in the transfer machines; this carries it out on
//! the blocking pool and tells the core how it went.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use slog::Logger;
use tokio::sync::mpsc;

use super::NodeError;
use super::bulk_receiver::{BulkEvent, BulkReceiver};
use super::bulk_sender::{BulkSender, Guard};
use super::members::Members;
use super::peers::Class;
use super::shared::Shared;
use crate::codec::peer::encode_envelope;
use crate::fault::{self, Point};
use crate::limits::BULK_RATE_MIN;
use crate::manifest::Manifest;
use crate::net::{Endpoint, Identity};
use crate::proto::internal::v1::{self as internal, Envelope, envelope};
use crate::proto::v1;
use crate::raft::{self, Input, Offer};
use crate::snapshot_store::{
    BuildOptions, DiskOptions, DiskSnapshotStore, PinPolicy, SnapshotMeta, SnapshotStore, Staging,
    StagingOptions, build_manifest, embed, link_parts, stage_embedded,
};
use crate::state::State;
use crate::storage::{DataDir, Generation, StateDb, StorageError};
use crate::transfer::{receiver, sender};
use crate::types::{
    Code, Digest, EmbeddedSnapshot, Failure, Index, NodeId, Pin, SnapshotId, SnapshotReference,
    TransferState, TransferStatus,
};

/// Embedded snapshots that arrived and wait for raft's word; more than one only if offers crossed.
const EMBEDDED_MAX: usize = 2;

/// How snapshots are made and moved.
#[derive(Clone, Debug)]
pub struct Options {
    /// Small snapshots ride beside MsgSnapshot instead of being pulled.
    pub embedded: bool,
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
    /// Snapshots kept beside pinned ones.
    pub keep: usize,
    /// Parallel streams of one pull.
    pub streams: usize,
    /// Limit on what this node sends and on what it receives, bytes a second; 0: none.
    pub bytes_per_second: u64,
    /// A stored snapshot's pin that nobody renewed for this long is broken.
    pub pin_age_ms_max: u64,
    /// Free bytes that pulls and snapshots leave on the disk.
    pub disk_reserve_bytes: u64,
}

pub(super) struct Snapshots {
    options: Options,
    logger: Logger,
    store: Arc<DiskSnapshotStore>,
    staging: Staging,
    endpoint: Endpoint,
    receiver: BulkReceiver,
    sender: BulkSender,
    /// Taken by `run`, once.
    events: Mutex<Option<mpsc::Receiver<BulkEvent>>>,
    memory: Mutex<Memory>,
    /// Held while a generation is made or removed.
    preparing: Mutex<()>,
}

/// Why a durable snapshot did not become a generation.
enum PrepareError {
    /// What it holds is of no use here. Reject it.
    Unfit(String),
    /// This machine failed: a full disk, too many open files. Retry.
    Local(String),
}

/// Pause before this machine tries again to open what it pulled.
const PREPARE_PAUSE: Duration = Duration::from_secs(5);

/// What is known only while the node runs.
#[derive(Default)]
struct Memory {
    /// Durable snapshots: their manifests and where their parts lie.
    durable: BTreeMap<SnapshotId, (Arc<Manifest>, PathBuf)>,
    /// Embedded snapshots that wait for the MsgSnapshot they came beside.
    embedded: BTreeMap<SnapshotId, EmbeddedSnapshot>,
    /// Receivers whose pins the store holds.
    pinned: BTreeSet<NodeId>,
}

/// The bulk lane.
pub(super) struct Bulk<'a> {
    pub endpoint: Endpoint,
    /// Drives it.
    pub runtime: &'a tokio::runtime::Handle,
    /// Whom it serves.
    pub members: &'a Members,
}

impl Snapshots {
    /// Opens the store and the staging area, and goes on with a pull that a restart interrupted.
    /// Also returns the newest stored snapshot, to be offered.
    pub fn start(
        options: &super::Options,
        data: &DataDir,
        identity: &Identity,
        Bulk { endpoint, runtime, members }: Bulk<'_>,
        logger: &Logger,
    ) -> Result<(Self, Option<Offer>), NodeError> {
        let chosen = options.snapshots.clone();
        let policy = PinPolicy {
            keep: chosen.keep,
            pin_idle_ms_max: chosen.pin_age_ms_max,
            ..PinPolicy::default()
        };
        let reserve_bytes = chosen.disk_reserve_bytes;
        let disk_options = DiskOptions { policy, reserve_bytes, ..DiskOptions::default() };
        let staging_options = StagingOptions { reserve_bytes, ..StagingOptions::default() };
        let store = DiskSnapshotStore::open(&data.snapshots(), disk_options, logger.clone())?;
        let store = Arc::new(store);
        let staging = Staging::open(&data.incoming(), staging_options, logger.clone())?;
        let receiver_options = receiver::Options {
            streams: chosen.streams,
            bytes_per_second: chosen.bytes_per_second,
            ..receiver::Options::new(identity.node(), identity.cluster(), rand::random())
        };
        let sender_options = sender::Options {
            bytes_per_second: chosen.bytes_per_second,
            ..sender::Options::default()
        };
        let _inside = runtime.enter();
        let (receiver, events) = BulkReceiver::start(
            receiver_options,
            endpoint.clone(),
            staging.clone(),
            store.clone(),
            logger.clone(),
        )
        .map_err(|error| NodeError::Thread("bulk disk", error.to_string()))?;
        let members = members.clone();
        let guard: Guard = Arc::new(move |receiver| members.refuse_removed(receiver));
        let sender = BulkSender::start(
            sender_options,
            endpoint.clone(),
            store.clone(),
            guard,
            logger.clone(),
        );
        let offer = store.list().first().and_then(|meta| offer(&store, meta));
        let snapshots = Snapshots {
            options: chosen,
            logger: logger.clone(),
            store,
            staging,
            endpoint,
            receiver,
            sender,
            events: Mutex::new(Some(events)),
            memory: Mutex::default(),
            preparing: Mutex::default(),
        };
        Ok((snapshots, offer))
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no code panics while it holds this lock")
    }

    /// Sends a MsgSnapshot; in mode `embedded`, with the snapshot beside it if it is small.
    pub fn send_offer(&self, shared: &Arc<Shared>, to: NodeId, id: SnapshotId, message: Bytes) {
        let shared = shared.clone();
        let send = move |shared: &Shared, embedded| {
            let envelope = Envelope { body: Some(envelope::Body::Raft(message)), embedded };
            shared.peers.send(to, Class::Append, encode_envelope(&envelope));
        };
        if !self.options.embedded {
            return send(&shared, None);
        }
        shared.runtime.clone().spawn_blocking(move || {
            let embedded = match embed(&*shared.snapshots.store, id) {
                Ok(embedded) => Some(internal::EmbeddedSnapshot {
                    manifest: embedded.manifest,
                    parts: embedded.parts,
                }),
                Err(error) => {
                    slog::info!(shared.logger, "a snapshot is streamed, not embedded";
                        "snapshot" => %id, "because" => %error);
                    None
                }
            };
            send(&shared, embedded);
        });
    }

    /// Keeps what came beside a MsgSnapshot until raft speaks of it.
    pub fn take_embedded(&self, embedded: internal::EmbeddedSnapshot) {
        let id = Digest::of(&embedded.manifest);
        let mut memory = self.lock();
        if memory.embedded.len() >= EMBEDDED_MAX {
            memory.embedded.pop_first();
        }
        let embedded = EmbeddedSnapshot { manifest: embedded.manifest, parts: embedded.parts };
        memory.embedded.insert(id, embedded);
    }

    /// Builds a snapshot of the live state and reports it to the core.
    pub fn build(&self, shared: &Arc<Shared>) {
        let shared = shared.clone();
        shared.runtime.clone().spawn_blocking(move || {
            let input = match build(&shared) {
                Ok(offer) => Input::SnapshotBuilt(offer),
                Err(reason) => Input::SnapshotFailed { reason },
            };
            shared.inbox.report(input);
        });
    }

    /// Pulls what a leader offers, or takes what came beside the offer.
    pub fn fetch(
        &self,
        shared: &Arc<Shared>,
        reference: SnapshotReference,
        index: Index,
        from: NodeId,
        message_bytes: u64,
    ) {
        let embedded = self.lock().embedded.remove(&reference.id);
        if let Some(embedded) = embedded {
            let shared = shared.clone();
            shared.runtime.clone().spawn_blocking(move || {
                let snapshots = &shared.snapshots;
                match stage_embedded(&snapshots.staging, &reference, index, &embedded) {
                    Ok(manifest) => {
                        let parts = snapshots.staging.durable_parts(reference.id);
                        snapshots.durable(&shared, reference.id, manifest, parts);
                    }
                    Err(error) => {
                        let (id, reason) = (reference.id, error.to_string());
                        shared.inbox.report(Input::PullFailed { id, index, reason });
                    }
                }
            });
            return;
        }
        if !self.receiver.offer(reference, index, message_bytes) {
            slog::warn!(self.logger, "an offer was dropped: too much waits"; "from" => from.0,
                "index" => index);
        }
    }

    /// A snapshot is whole on disk: the core decides what becomes of it.
    fn durable(&self, shared: &Shared, id: SnapshotId, manifest: Arc<Manifest>, parts: PathBuf) {
        let meta = raft::SnapshotMeta {
            id,
            index: manifest.index,
            term: manifest.term,
            conf_state: manifest.conf_state.clone(),
        };
        self.lock().durable.insert(id, (manifest, parts));
        shared.inbox.report(Input::SnapshotDurable(meta));
    }

    /// Links a durable snapshot into the next generation, opens and checks it. What fails on this
    /// machine's account is tried until it succeeds: the bytes are good, and were paid for.
    pub fn prepare(&self, shared: &Arc<Shared>, id: SnapshotId) {
        let shared = shared.clone();
        shared.runtime.clone().spawn(async move {
            let input = loop {
                let attempt = shared.clone();
                let prepared = tokio::task::spawn_blocking(move || prepare(&attempt, id)).await;
                match prepared {
                    Ok(Ok(generation)) => break Input::SnapshotPrepared { id, generation },
                    Ok(Err(PrepareError::Local(reason))) => {
                        slog::error!(shared.logger, "a pulled snapshot cannot be opened yet";
                            "snapshot" => %id, "error" => reason);
                        tokio::time::sleep(PREPARE_PAUSE).await;
                    }
                    Ok(Err(PrepareError::Unfit(reason))) => {
                        let rejected = shared.snapshots.receiver.rejected(id, reason.clone());
                        shared.snapshots.note_told(rejected);
                        break Input::PrepareFailed { id, reason };
                    }
                    Err(error) if error.is_panic() => {
                        break Input::PrepareFailed { id, reason: error.to_string() };
                    }
                    // The node is shutting down.
                    Err(_) => return,
                }
            };
            shared.inbox.report(input);
        });
    }

    /// Deletes the staging of a snapshot that is not needed.
    pub fn discard(&self, shared: &Arc<Shared>, id: SnapshotId) {
        self.lock().durable.remove(&id);
        let told = self.receiver.superseded(id);
        self.note_told(told);
        let shared = shared.clone();
        shared.runtime.clone().spawn_blocking(move || {
            let snapshots = &shared.snapshots;
            let one = snapshots.preparing.lock().expect("no code panics while it holds this lock");
            shared.prepared.clear(id);
            if shared.prepared.is_empty() {
                // The generation holds links to what was pulled: the room it takes is free only now.
                if let Err(error) = shared.data.next_generation() {
                    slog::debug!(shared.logger, "an unused generation stays for now";
                        "error" => %error);
                }
            }
            drop(one);
            snapshots.remove_embedded(id);
        });
    }

    /// Raft has taken the snapshot; the install begins.
    pub fn stepped(&self, id: SnapshotId) {
        let told = self.receiver.stepped(id);
        self.note_told(told);
    }

    /// The node runs on the snapshot.
    pub fn installed(&self, shared: &Arc<Shared>, id: SnapshotId) {
        self.lock().durable.remove(&id);
        let told = self.receiver.installed(id);
        self.note_told(told);
        let shared = shared.clone();
        shared.runtime.clone().spawn_blocking(move || shared.snapshots.remove_embedded(id));
    }

    /// The receiver removes the staging of what it pulled; what came embedded it never knew.
    fn remove_embedded(&self, id: SnapshotId) {
        if self.receiver.status().is_some_and(|status| status.snapshot == id) {
            return;
        }
        if let Err(error) = self.staging.remove(id) {
            slog::warn!(self.logger, "staging was not removed"; "snapshot" => %id,
                "error" => %error);
        }
    }

    fn note_told(&self, told: bool) {
        if !told {
            slog::warn!(self.logger, "the receiver has too much to do and missed a word");
        }
    }

    /// The store keeps what the replicated pins name and this node has.
    pub fn set_pins(&self, shared: &Arc<Shared>, pins: &[Pin]) {
        let here = |pin: &&Pin| pin.snapshot.is_some_and(|(_, source)| source == shared.id());
        let wanted: BTreeMap<NodeId, SnapshotId> = pins
            .iter()
            .filter(here)
            .filter_map(|pin| pin.snapshot.map(|(id, _)| (pin.receiver, id)))
            .collect();
        let now = unix_ms();
        let mut memory = self.lock();
        for receiver in std::mem::take(&mut memory.pinned) {
            if !wanted.contains_key(&receiver) {
                self.store.unpin(receiver);
            }
        }
        for (receiver, id) in wanted {
            match self.store.pin(id, receiver, now) {
                Ok(()) => {
                    memory.pinned.insert(receiver);
                }
                Err(error) => {
                    slog::info!(self.logger, "a pinned snapshot is not here";
                        "receiver" => receiver.0, "error" => %error);
                }
            }
        }
        drop(memory);
        let store = self.store.clone();
        shared.runtime.spawn_blocking(move || store.retain(now));
    }

    /// The pull under way, or the last one.
    pub fn transfers(&self) -> Vec<v1::Transfer> {
        self.receiver.status().iter().map(transfer_to_proto).collect()
    }

    /// Everything in the store, newest first.
    pub fn list(&self) -> Vec<v1::Snapshot> {
        self.store.list().iter().map(snapshot_to_proto).collect()
    }

    /// Reads and checks every byte of a stored snapshot.
    pub async fn verify(&self, id: &str) -> Result<v1::VerifySnapshotResponse, Failure> {
        let id: SnapshotId = id.parse().map_err(|problem: String| {
            Failure::new(Code::InvalidArgument, problem)
                .hint("`ratoon snapshot list` shows the ids")
        })?;
        if self.store.metadata(id).is_none() {
            return Err(Failure::new(Code::SnapshotNotFound, format!("no snapshot {id} is here"))
                .hint("`ratoon snapshot list` shows the ids"));
        }
        let store = self.store.clone();
        let report = tokio::task::spawn_blocking(move || store.verify(id))
            .await
            .map_err(|error| Failure::new(Code::Internal, error.to_string()))?
            .map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        Ok(v1::VerifySnapshotResponse {
            ok: report.problems.is_empty(),
            problems: report.problems,
            bytes: report.bytes,
        })
    }

    /// Gives up the pull under way.
    pub fn cancel(&self) -> Result<(), Failure> {
        let running = self.receiver.status().is_some_and(|status| !status.state.is_final());
        if !running {
            return Err(Failure::new(Code::TransferNotFound, "no transfer is under way here"));
        }
        if !self.receiver.cancel() {
            return Err(Failure::new(Code::Overloaded, "the receiver has too much to do"));
        }
        Ok(())
    }

    /// Limits what is sent and what is received, bytes a second; 0: no limit.
    pub fn limit(&self, bytes_per_second: u64) -> Result<(), Failure> {
        if (1..BULK_RATE_MIN).contains(&bytes_per_second) {
            let problem = format!("{bytes_per_second} bytes a second is no limit of transfers");
            return Err(Failure::new(Code::InvalidArgument, problem)
                .hint(format!("the smallest is {BULK_RATE_MIN}; 0 lifts the limit")));
        }
        if self.receiver.limit(bytes_per_second) && self.sender.limit(bytes_per_second) {
            return Ok(());
        }
        Err(Failure::new(Code::Overloaded, "the transfers have too much to do").hint("try again"))
    }

    /// Closes the bulk endpoint.
    pub async fn shutdown(&self) {
        self.endpoint.close().await;
    }
}

fn pulling(status: &TransferStatus, wants_new_offer: bool) -> Input {
    let TransferStatus { snapshot: id, index, source, .. } = *status;
    Input::Pulling { id, index, source, wants_new_offer }
}

/// Takes the receiver's events to the core, until the receiver ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let snapshots = &shared.snapshots;
    let events = snapshots.events.lock().expect("no code panics while it holds this lock").take();
    let Some(mut events) = events else { return };
    let mut fenced = snapshots.sender.fenced();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            Ok(()) = fenced.changed() => {
                // The store has them no more, or will not have them: the next offer is a new one.
                for id in fenced.borrow_and_update().iter() {
                    shared.inbox.report(Input::SnapshotLost { id: *id });
                }
                continue;
            }
        };
        let Some(event) = event else { return };
        match event {
            BulkEvent::Progress(status) => shared.inbox.report(pulling(&status, false)),
            BulkEvent::Durable { id, manifest, parts, .. } => {
                snapshots.durable(&shared, id, manifest, parts);
            }
            BulkEvent::Failed { id, index, reason } => {
                slog::error!(shared.logger, "a pull failed"; "snapshot" => %id, "error" => &reason);
                shared.inbox.report(Input::PullFailed { id, index, reason });
            }
            BulkEvent::WantsNewOffer { id, reason, .. } => {
                slog::warn!(shared.logger, "another snapshot is needed"; "snapshot" => %id,
                    "because" => reason);
                if let Some(status) = snapshots.receiver.status() {
                    shared.inbox.report(pulling(&status, true));
                }
            }
        }
    }
}

/// A checkpoint, its manifest, and its place in the store. Blocks.
fn build(shared: &Shared) -> Result<Offer, String> {
    let snapshots = &shared.snapshots;
    let (generation, db) = shared.live.current().ok_or("there is no state yet")?;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let directory = snapshots.store.building_directory().map_err(|e| text(&e))?;
    let built = build_in(shared, generation, &db, &directory);
    if built.is_err() {
        // Its links keep alive what compactions have replaced since.
        snapshots.store.remove_building(&directory);
    }
    built
}

fn build_in(
    shared: &Shared,
    generation: Generation,
    db: &StateDb,
    directory: &Path,
) -> Result<Offer, String> {
    let snapshots = &shared.snapshots;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    db.checkpoint(directory).map_err(|e| text(&e))?;
    let facts = {
        let options = &shared.options.storage;
        let checkpoint = StateDb::read_checkpoint(directory, &shared.databases, options)
            .map_err(|e| text(&e))?;
        State::load(&*checkpoint.view()).map_err(|e| text(&e))?
    };
    let options = BuildOptions {
        cluster: facts.cluster(),
        index: facts.applied(),
        term: facts.applied_term(),
        conf_state: facts.conf_state().clone(),
        chunk_bytes: snapshots.options.chunk_bytes,
        generation: generation.0,
        created_unix_ms: unix_ms(),
    };
    let manifest =
        build_manifest(directory, options, snapshots.store.digests()).map_err(|e| text(&e))?;
    fault::point(Point::SnapshotDescribed);
    let meta = snapshots.store.save(directory, &manifest, unix_ms()).map_err(|e| text(&e))?;
    slog::info!(shared.logger, "built a snapshot"; "snapshot" => %meta.id, "index" => meta.index,
        "bytes" => meta.bytes, "parts" => meta.parts);
    offer(&snapshots.store, &meta).ok_or_else(|| "the snapshot just built is gone".to_owned())
}

fn offer(store: &DiskSnapshotStore, meta: &SnapshotMeta) -> Option<Offer> {
    let stored = store.manifest(meta.id).ok()?;
    Some(Offer {
        meta: raft::SnapshotMeta {
            id: meta.id,
            index: meta.index,
            term: meta.term,
            conf_state: stored.manifest.conf_state.clone(),
        },
        total_bytes: meta.bytes,
        parts: meta.parts,
        manifest_bytes: meta.manifest_bytes,
    })
}

/// Everything that can fail happens here, before raft hears of the snapshot. Blocks.
fn prepare(shared: &Shared, id: SnapshotId) -> Result<u64, PrepareError> {
    let snapshots = &shared.snapshots;
    let _one = snapshots.preparing.lock().expect("no code panics while it holds this lock");
    let known = snapshots.lock().durable.get(&id).cloned();
    let (manifest, parts) =
        known.ok_or_else(|| PrepareError::Unfit("its parts are not known".to_owned()))?;
    let local = |error: &dyn std::fmt::Display| PrepareError::Local(error.to_string());
    let unfit = |reason: String| Err(PrepareError::Unfit(reason));
    let (generation, directory) = shared.data.next_generation().map_err(|e| local(&e))?;
    fault::fail(Point::PrepareBegun)
        .and_then(|()| std::fs::create_dir(&directory))
        .map_err(|e| PrepareError::Local(format!("{}: {e}", directory.display())))?;
    fault::point(Point::PrepareDirectoryMade);
    link_parts(&parts, &manifest, &directory).map_err(|e| local(&e))?;
    let options = &shared.options.storage;
    let db = match StateDb::open(&directory, &shared.databases, options) {
        Ok(db) => db,
        Err(error @ (StorageError::Corrupt { .. } | StorageError::Missing { .. })) => {
            return unfit(error.to_string());
        }
        Err(error) => return Err(local(&error)),
    };
    fault::point(Point::PrepareOpened);
    let state = State::load(&*db.view()).map_err(|e| PrepareError::Unfit(e.to_string()))?;
    let told = (manifest.index, manifest.term, &manifest.conf_state);
    let found = (state.applied(), state.applied_term(), state.conf_state());
    if told != found {
        return unfit(format!("it says {told:?} and holds {found:?}"));
    }
    if state.cluster() != shared.identity.cluster() {
        return unfit(format!("it is of cluster {}", state.cluster()));
    }
    shared.prepared.put(id, generation.0, db, state);
    Ok(generation.0)
}

fn snapshot_to_proto(meta: &SnapshotMeta) -> v1::Snapshot {
    v1::Snapshot {
        id: meta.id.to_string(),
        index: meta.index,
        term: meta.term,
        bytes: meta.bytes,
        parts: meta.parts,
        created_unix_ms: meta.created_unix_ms,
        pinned_for: meta.pinned_for.iter().map(|node| node.0).collect(),
    }
}

fn transfer_to_proto(status: &TransferStatus) -> v1::Transfer {
    let left = status.total_bytes.saturating_sub(status.done_bytes);
    let eta_ms = left.saturating_mul(1000).checked_div(status.bytes_per_second).unwrap_or(0);
    let failure = match &status.state {
        TransferState::Failed(reason) => reason.clone(),
        _ => String::new(),
    };
    v1::Transfer {
        snapshot_id: status.snapshot.to_string(),
        receiver: status.receiver.0,
        source: status.source.0,
        state: status.state.name().to_owned(),
        total_bytes: status.total_bytes,
        done_bytes: status.done_bytes,
        bytes_per_second: status.bytes_per_second,
        eta_ms: if status.state.is_final() { 0 } else { eta_ms },
        resumed_from_bytes: status.resumed_from_bytes,
        resumes: status.resumes,
        resent_bytes: status.resent_bytes,
        discarded_bytes: status.discarded_bytes,
        reused_bytes: status.reused_bytes,
        received_bytes: status.received_bytes,
        stall_reason: status.stall_reason.clone(),
        message_bytes: status.message_bytes,
        failure,
        started_unix_ms: status.started_unix_ms,
        finished_unix_ms: status.finished_unix_ms,
        index: status.index,
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
