//! The receiver's machine: offers, states, timers, counters. Links to sources stand in `link.rs`,
//! the disk in `disk.rs`, the bytes in `book.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::manifest::decode_manifest;
use crate::limits::PULL_STREAMS_MAX;
use crate::manifest::Manifest;
use crate::transfer::timing::{Backoff, Random, RateMeter, TokenBucket};
use crate::types::{
    Index, NodeId, Now, PullCounters, PullRecord, SnapshotId, SnapshotReference, TransferState,
    TransferStatus,
};

use super::book::Book;
use super::disk::Pending;
use super::link::{Lane, Link, Sources};
use super::{DiskOperation, Event, Found, Input, Options, Output, may_follow};

/// How often the node is told where the pull stands, ms.
const PROGRESS_MS: u64 = 1_000;

/// Runs one pull at a time, from offer to durable bytes.
#[derive(Debug)]
pub struct Receiver {
    pub(super) options: Options,
    pub(super) random: Random,
    pub(super) throttle: TokenBucket,
    pub(super) paused: bool,
    pub(super) outputs: VecDeque<Output>,
    pub(super) pull: Option<Pull>,
    /// The newest offer of another snapshot than the one being pulled.
    pub(super) alternative: Option<Offer>,
    /// Status of the last finished pull, from before this boot.
    last: Option<TransferStatus>,
    /// Since when nothing is pulled, while what earlier pulls left may still be staged.
    leftovers_since_ms: Option<u64>,
    /// Names given so far: tickets, attempts and requests share one sequence.
    pub(super) names: u64,
}

/// What was offered.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) reference: SnapshotReference,
    pub(super) index: Index,
    pub(super) message_bytes: u64,
}

/// The pull of one snapshot.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) offer: Offer,
    pub(super) state: TransferState,
    pub(super) counters: PullCounters,
    pub(super) finished_unix_ms: u64,
    pub(super) rate: RateMeter,
    pub(super) progress_due_ms: u64,
    /// Bytes received and parts looked at when progress was last told.
    told_life: (u64, u32),

    // The source, see `link.rs`.
    pub(super) sources: Sources,
    pub(super) link: Link,
    pub(super) backoff: Backoff,
    /// When bytes, or a word that we wait in line, came last.
    pub(super) last_progress_ms: u64,
    /// Since when nothing may be read, by an operator's word or for lack of disk.
    pub(super) blocked_since_ms: Option<u64>,
    /// Since when the source has been gone.
    pub(super) gone_since_ms: Option<u64>,
    /// The next connection goes on where another one ended.
    pub(super) was_cut: bool,
    pub(super) trouble: String,
    pub(super) queued_ahead: Option<u32>,
    pub(super) manifest_request: Option<u64>,
    pub(super) manifest_failures: u8,
    pub(super) lanes: Vec<Lane>,
    pub(super) lanes_hold_until_ms: u64,
    pub(super) lane_failures: u8,
    /// Whole answers for a chunk that did not match, from the present source.
    pub(super) bad_answers: BTreeMap<(u32, u32), u8>,
    /// Requests that ask the source to check a part.
    pub(super) suspects: BTreeMap<u64, (u32, u32)>,
    pub(super) suspicions: u8,
    pub(super) asked_for_new_offer: bool,

    // The disk, see `disk.rs`.
    pub(super) manifest: Option<Arc<Manifest>>,
    pub(super) book: Option<Book>,
    pub(super) record: Option<Box<PullRecord>>,
    pub(super) next_inspect: u32,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// Operations that found the disk full.
    pub(super) stuck: BTreeSet<u64>,
    pub(super) disk_retry_due_ms: u64,
    pub(super) disk_reason: String,
    pub(super) persist_due_ms: Option<u64>,
    /// A counter changed that is to outlive the next crash.
    pub(super) persist_soon: bool,
    pub(super) persisting: bool,
    pub(super) verifying: usize,
    pub(super) finishing: bool,
}

impl Receiver {
    /// An idle receiver; `last` is the persisted status of the last finished pull.
    pub fn new(options: Options, last: Option<TransferStatus>, now: Now) -> Self {
        assert!((1..=PULL_STREAMS_MAX).contains(&options.streams));
        Receiver {
            random: Random::new(options.seed),
            throttle: TokenBucket::new(options.bytes_per_second),
            paused: false,
            outputs: VecDeque::new(),
            pull: None,
            alternative: None,
            last,
            leftovers_since_ms: Some(now.monotonic_ms),
            names: 0,
            options,
        }
    }

    /// What to do next, if anything. Ask until None after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Tells the machine what happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Offer { reference, index, message_bytes } => {
                self.handle_offer(now, Offer { reference, index, message_bytes });
            }
            Input::Resume(found) => self.handle_resume(now, *found),
            Input::Limit(rate) => {
                self.options.bytes_per_second = rate;
                self.throttle.set_rate(now.monotonic_ms, rate);
            }
            Input::Pause(paused) => self.paused = paused,
            Input::Cancel => self.handle_cancel(now),
            Input::Stepped(id) => {
                if self.is_in(id, &TransferState::Durable) {
                    self.enter(TransferState::Stepped);
                }
            }
            Input::Installed(id) => self.handle_end(now, id, TransferState::Installed),
            Input::Superseded(id) => self.handle_end(now, id, TransferState::Superseded),
            Input::Rejected(id, reason) => {
                if self.active().is_some_and(|pull| pull.offer.reference.id == id) {
                    self.fail(now, reason, true);
                }
            }
            Input::Disk { ticket, result } => self.handle_disk(now, ticket, result),
            Input::Connected { attempt } => self.handle_connected(now, attempt),
            Input::Disconnected { attempt, reason } => {
                self.handle_disconnected(now, attempt, &reason);
            }
            Input::Heard { request } => self.handle_heard(now, request),
            Input::Queued { request, ahead } => self.handle_queued(now, request, ahead),
            Input::Refused { request, reason, message } => {
                self.handle_refused(now, request, reason, &message);
            }
            Input::Manifest { request, bytes } => self.handle_manifest(now, request, bytes),
            Input::Frame { request, header } => self.handle_frame(now, request, header),
            Input::Data { request, bytes } => self.handle_data(now, request, bytes),
            Input::Verdict { request, part_is_good } => {
                self.handle_verdict(now, request, part_is_good);
            }
            Input::RequestEnded { request, failure } => {
                self.handle_request_ended(now, request, failure);
            }
        }
        self.advance(now);
    }

    /// When `handle_timer` is to be called at the latest, on the monotonic clock.
    pub fn next_timer_ms(&self, now: Now) -> Option<u64> {
        let Some(pull) = self.active() else {
            return self.leftovers_since_ms.map(|since| since + self.options.leftovers_ms);
        };
        let mut due = vec![pull.progress_due_ms];
        due.extend(pull.persist_due_ms.filter(|_| !pull.persisting));
        due.extend((!pull.stuck.is_empty()).then_some(pull.disk_retry_due_ms));
        due.extend(self.link_timer_ms(now));
        due.into_iter().min()
    }

    /// Lets everything happen that is due.
    pub fn handle_timer(&mut self, now: Now) {
        if self.active().is_none() {
            return self.remove_leftovers(now);
        }
        self.handle_disk_timer(now);
        self.handle_link_timer(now);
        let status = self.status(now);
        if let (Some(pull), Some(status)) = (self.active_mut(), status)
            && pull.progress_due_ms <= now.monotonic_ms
        {
            pull.progress_due_ms = now.monotonic_ms + PROGRESS_MS;
            // Only life is told: it renews the lease and the pins that every node honours. A pull
            // that stands still, on a full disk for instance, must not hold them for ever.
            let life = (pull.counters.received, pull.next_inspect);
            let moved = std::mem::replace(&mut pull.told_life, life) != life;
            let lives = moved || pull.must_finish() || pull.queued_ahead.is_some();
            // What came last may take a while to pay for, at a small rate.
            let waits_for_rate = self.throttle.ready_at_ms(now.monotonic_ms).is_some();
            if lives || waits_for_rate {
                self.emit(Event::Progress(Box::new(status)));
            }
        }
        self.advance(now);
    }

    /// What was pulled and belongs to no pull is kept for a while, for the next offer may share it.
    fn remove_leftovers(&mut self, now: Now) {
        let due = |since: &mut u64| *since + self.options.leftovers_ms <= now.monotonic_ms;
        if self.leftovers_since_ms.take_if(due).is_some() {
            let (ticket, operation) = (self.name(), DiskOperation::RemoveOthers { keep: None });
            self.outputs.push_back(Output::Disk { ticket, operation });
        }
    }

    /// When anything may be taken from the streams: a time that is not in the future means now; None
    /// means not before another input. Whoever reads nonetheless breaks the limits, nothing else.
    pub fn reads_at_ms(&self, now: Now) -> Option<u64> {
        let Some(pull) = self.active() else { return Some(now.monotonic_ms) };
        // What is lost with the process was delivered and is not staged. One half of a chunk a
        // stream may wait here for the disk, the other half for this machine in its runtime.
        let unwritten_max = pull.manifest.as_ref().map_or(u64::MAX, |manifest| {
            let half = u64::from(manifest.chunk_bytes) * self.options.streams as u64 / 2;
            half.min(self.options.unwritten_bytes_max)
        });
        let unwritten = pull.book.as_ref().map_or(0, Book::unwritten_bytes);
        if self.paused || !pull.stuck.is_empty() || unwritten >= unwritten_max {
            return None;
        }
        Some(self.throttle.ready_at_ms(now.monotonic_ms).unwrap_or(now.monotonic_ms))
    }

    /// Where the present pull stands, or how the last one ended.
    pub fn status(&self, now: Now) -> Option<TransferStatus> {
        let Some(pull) = &self.pull else { return self.last.clone() };
        let reference = &pull.offer.reference;
        let done_bytes = match (&pull.state, &pull.book) {
            (TransferState::Durable | TransferState::Stepped | TransferState::Installed, _) => {
                reference.total_bytes
            }
            (_, book) => book.as_ref().map_or(0, Book::staged_bytes),
        };
        Some(TransferStatus {
            snapshot: reference.id,
            index: pull.offer.index,
            receiver: self.options.receiver,
            source: pull.sources.current().map_or(NodeId(0), |source| source.node),
            state: pull.state.clone(),
            total_bytes: reference.total_bytes,
            done_bytes,
            bytes_per_second: pull.rate.bytes_per_second(now.monotonic_ms),
            resumed_from_bytes: pull.counters.resumed_from,
            resumes: pull.counters.resumes,
            resent_bytes: pull.counters.resent,
            discarded_bytes: pull.counters.discarded,
            reused_bytes: pull.counters.reused,
            received_bytes: pull.counters.received,
            stall_reason: self.stall_reason(now),
            message_bytes: pull.offer.message_bytes,
            started_unix_ms: pull.counters.started_unix_ms,
            finished_unix_ms: pull.finished_unix_ms,
        })
    }

    fn stall_reason(&self, now: Now) -> String {
        let Some(pull) = self.active() else { return String::new() };
        if !pull.stuck.is_empty() {
            return format!("disk full: {}", pull.disk_reason);
        }
        if !pull.needs_source() {
            return String::new();
        }
        if self.paused {
            return "paused".to_owned();
        }
        let source = pull.sources.current().map_or(NodeId(0), |source| source.node);
        match pull.link {
            Link::Held => format!("no source can serve the snapshot: {}", pull.trouble),
            Link::Waiting { .. } | Link::Connecting { .. } if !pull.trouble.is_empty() => {
                format!("source {source} is out of reach: {}", pull.trouble)
            }
            Link::Waiting { .. } | Link::Connecting { .. } => format!("dialling source {source}"),
            Link::Up { .. } => match pull.queued_ahead {
                Some(ahead) => format!("waiting in line at source {source}, {ahead} before us"),
                None => {
                    let silent_ms = now.monotonic_ms.saturating_sub(pull.last_progress_ms);
                    if silent_ms < 2_000 {
                        return String::new();
                    }
                    format!("nothing came from source {source} for {} s", silent_ms / 1000)
                }
            },
        }
    }

    // ---- Offers and ends.

    fn handle_offer(&mut self, now: Now, offer: Offer) {
        let id = offer.reference.id;
        if offer.reference.cluster != self.options.cluster {
            let reason = format!("it is of cluster {}, not ours", offer.reference.cluster);
            return self.emit(Event::Failed { id, index: offer.index, reason });
        }
        if offer.reference.sources.is_empty() {
            let reason = "the offer names no source".to_owned();
            return self.emit(Event::Failed { id, index: offer.index, reason });
        }
        let Some(pull) = self.active_mut() else {
            return self.begin(now, offer, PullCounters::default());
        };
        if pull.offer.reference.id == id {
            // The same bytes, perhaps at other addresses: the running pull is adopted.
            if pull.state == TransferState::Durable {
                let manifest = pull.manifest.clone().expect("durable with a manifest");
                return self.emit(Event::Durable { id, index: offer.index, manifest });
            }
            pull.offer.message_bytes = offer.message_bytes;
            pull.sources.merge(&offer.reference.sources);
            pull.offer.reference.sources = offer.reference.sources;
            pull.asked_for_new_offer = false;
            if matches!(pull.link, Link::Held) {
                pull.link = Link::Waiting { until_ms: now.monotonic_ms };
            }
            return;
        }
        if pull.must_finish() {
            self.alternative = Some(offer);
            return;
        }
        let nothing_to_lose = pull.gone_since_ms.is_some()
            && matches!(pull.state, TransferState::Offered | TransferState::FetchingManifest);
        let hopeless = matches!(pull.link, Link::Held);
        self.alternative = Some(offer);
        if nothing_to_lose || hopeless {
            self.switch_to_alternative(now);
        }
    }

    fn begin(&mut self, now: Now, offer: Offer, mut counters: PullCounters) {
        if counters.started_unix_ms == 0 {
            counters.started_unix_ms = now.unix_ms;
        }
        let backoff = Backoff::new(self.options.backoff_ms_min, self.options.backoff_ms_max);
        self.pull = Some(Pull::new(now, offer, counters, backoff));
    }

    fn handle_resume(&mut self, now: Now, found: Found) {
        if self.active().is_some() || found.record.reference.cluster != self.options.cluster {
            return;
        }
        if found.record.state.is_final() {
            // It lies there to be reused by digest; nobody waits for it.
            return;
        }
        let PullRecord { reference, index, message_bytes, counters, .. } = found.record;
        let offer = Offer { reference, index, message_bytes };
        self.begin(now, offer, counters);
        let Some(encoded) = found.manifest else { return };
        if found.durable {
            self.resume_durable(now, &encoded);
        } else if let Err(reason) = self.accept_manifest(encoded) {
            // A damaged manifest is fetched again.
            self.trouble(&reason);
        }
    }

    fn resume_durable(&mut self, now: Now, encoded: &Bytes) {
        let id = self.expect_pull().offer.reference.id;
        match decode_manifest(id, encoded) {
            Ok(manifest) => {
                let index = self.expect_pull().offer.index;
                let manifest = Arc::new(manifest);
                self.enter(TransferState::Durable);
                self.expect_pull_mut().manifest = Some(Arc::clone(&manifest));
                self.emit(Event::Durable { id, index, manifest });
            }
            Err(error) => self.fail(now, format!("its stored manifest is damaged: {error}"), true),
        }
    }

    /// Takes the manifest in and begins to plan; Err: it is not the one that was offered.
    pub(super) fn accept_manifest(&mut self, encoded: Bytes) -> Result<(), String> {
        let offer = &self.expect_pull().offer;
        let id = offer.reference.id;
        let manifest = decode_manifest(id, &encoded).map_err(|error| error.to_string())?;
        let said = (offer.reference.cluster, offer.index, offer.reference.total_bytes);
        let is = (manifest.cluster, manifest.index, manifest.total_bytes());
        if said != is || offer.reference.parts as usize != manifest.parts.len() {
            return Err(format!("the manifest says {is:?}, the offer said {said:?}"));
        }
        let manifest = Arc::new(manifest);
        self.enter(TransferState::Planning);
        let pull = self.expect_pull_mut();
        pull.manifest = Some(Arc::clone(&manifest));
        pull.manifest_request = None;
        let operation = DiskOperation::Open { snapshot: id, encoded, manifest };
        self.disk(Pending::Open, operation);
        Ok(())
    }

    fn handle_cancel(&mut self, now: Now) {
        self.alternative = None;
        // What raft has taken cannot be taken back.
        let state_allows = |pull: &&mut Pull| pull.state != TransferState::Stepped;
        if let Some(pull) = self.active_mut().filter(state_allows) {
            let staged = pull.book.as_ref().map_or(0, Book::staged_bytes);
            pull.counters.discarded += staged;
            self.fail(now, "cancelled by an operator".to_owned(), true);
        }
    }

    fn handle_end(&mut self, now: Now, id: SnapshotId, state: TransferState) {
        let Some(pull) = self.active() else { return };
        if pull.offer.reference.id != id || !may_follow(&pull.state, &state) {
            return;
        }
        // The node has what it needs; an older or other offer is not worth a pull.
        self.alternative = None;
        self.close_link();
        self.enter(state);
        self.expect_pull_mut().finished_unix_ms = now.unix_ms;
        self.drop_pending();
        self.disk(Pending::Other, DiskOperation::Remove { snapshot: id });
        self.save_status(now);
        self.leftovers_since_ms = Some(now.monotonic_ms);
    }

    /// Gives the pull up; goes on with another offer if there is one.
    pub(super) fn fail(&mut self, now: Now, reason: String, remove: bool) {
        let Some(pull) = self.active() else { return };
        let (id, index) = (pull.offer.reference.id, pull.offer.index);
        let is_staged = pull.book.is_some();
        self.close_link();
        self.enter(TransferState::Failed(reason.clone()));
        self.expect_pull_mut().finished_unix_ms = now.unix_ms;
        self.drop_pending();
        if remove {
            self.disk(Pending::Other, DiskOperation::Remove { snapshot: id });
        } else if is_staged {
            // Kept for its parts; the record says that nobody waits for it.
            self.persist_end();
        }
        self.save_status(now);
        self.leftovers_since_ms = Some(now.monotonic_ms);
        self.emit(Event::Failed { id, index, reason });
        if let Some(offer) = self.alternative.take() {
            self.begin(now, offer, PullCounters::default());
        }
    }

    /// Gives the present snapshot up for the other offer and counts what is lost.
    pub(super) fn switch_to_alternative(&mut self, now: Now) {
        let Some(offer) = self.alternative.take() else { return };
        self.close_link();
        let pull = self.expect_pull_mut();
        let staged = pull.book.as_ref().map_or(0, Book::staged_bytes);
        let mut counters = pull.counters;
        counters.discarded += staged;
        let is_staged = pull.book.is_some();
        self.enter(TransferState::Superseded);
        self.drop_pending();
        if is_staged {
            self.persist_end();
        }
        self.begin(now, offer, counters);
    }

    fn save_status(&mut self, now: Now) {
        let mut status = self.status(now).expect("a pull has just ended");
        status.bytes_per_second = 0;
        self.disk(Pending::Other, DiskOperation::SaveStatus(Box::new(status)));
    }

    // ---- Small helpers.

    /// Changes the state; the table decides whether that is possible.
    pub(super) fn enter(&mut self, state: TransferState) {
        let pull = self.expect_pull_mut();
        assert!(
            may_follow(&pull.state, &state),
            "{} cannot follow {}",
            state.name(),
            pull.state.name()
        );
        pull.state = state;
    }

    fn is_in(&self, id: SnapshotId, state: &TransferState) -> bool {
        self.active().is_some_and(|pull| pull.offer.reference.id == id && pull.state == *state)
    }

    /// The pull, unless it has ended.
    pub(super) fn active(&self) -> Option<&Pull> {
        self.pull.as_ref().filter(|pull| !pull.state.is_final())
    }

    pub(super) fn active_mut(&mut self) -> Option<&mut Pull> {
        self.pull.as_mut().filter(|pull| !pull.state.is_final())
    }

    pub(super) fn expect_pull(&self) -> &Pull {
        self.pull.as_ref().expect("the caller has seen a pull")
    }

    pub(super) fn expect_pull_mut(&mut self) -> &mut Pull {
        self.pull.as_mut().expect("the caller has seen a pull")
    }

    pub(super) fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn trouble(&mut self, reason: &str) {
        self.expect_pull_mut().trouble = reason.to_owned();
    }

    /// Does whatever has become possible.
    fn advance(&mut self, now: Now) {
        self.advance_disk(now);
        self.advance_link(now);
    }
}

impl Pull {
    fn new(now: Now, offer: Offer, counters: PullCounters, backoff: Backoff) -> Self {
        Pull {
            sources: Sources::new(&offer.reference.sources),
            offer,
            state: TransferState::Offered,
            counters,
            finished_unix_ms: 0,
            rate: RateMeter::default(),
            progress_due_ms: now.monotonic_ms + PROGRESS_MS,
            told_life: (0, 0),
            link: Link::Waiting { until_ms: now.monotonic_ms },
            backoff,
            last_progress_ms: now.monotonic_ms,
            blocked_since_ms: None,
            gone_since_ms: None,
            was_cut: false,
            trouble: String::new(),
            queued_ahead: None,
            manifest_request: None,
            manifest_failures: 0,
            lanes: Vec::new(),
            lanes_hold_until_ms: 0,
            lane_failures: 0,
            bad_answers: BTreeMap::new(),
            suspects: BTreeMap::new(),
            suspicions: 0,
            asked_for_new_offer: false,
            manifest: None,
            book: None,
            record: None,
            next_inspect: 0,
            pending: BTreeMap::new(),
            stuck: BTreeSet::new(),
            disk_retry_due_ms: 0,
            disk_reason: String::new(),
            persist_due_ms: None,
            persist_soon: false,
            persisting: false,
            verifying: 0,
            finishing: false,
        }
    }

    /// Whether bytes are still wanted from a source.
    pub(super) fn needs_source(&self) -> bool {
        match self.state {
            TransferState::Offered | TransferState::FetchingManifest | TransferState::Pulling => {
                true
            }
            // Dialling while planning saves time, but only when bytes may be missing.
            TransferState::Planning => true,
            _ => false,
        }
    }

    /// All bytes are here: no source matters any more.
    fn must_finish(&self) -> bool {
        matches!(
            self.state,
            TransferState::Verifying | TransferState::Durable | TransferState::Stepped
        )
    }
}
