//! The receiver's side towards its sources: dialling, asking, taking bytes in, judging answers.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::types::{
    ByteRange, ChunkHeader, Now, PullRequest, RefusalReason, SnapshotSource, TransferState,
};

use super::book::{Book, ChunkOutcome};
use super::disk::Pending;
use super::machine::Receiver;
use super::{DiskOperation, Event, Output};

/// Whole answers for one chunk that do not match before the source is asked to check itself.
const BAD_ANSWERS_MAX: u8 = 2;
/// Times a source may say that its part is good while its answers are not.
const SUSPICIONS_MAX: u8 = 2;
/// Manifests with a wrong digest before a source is left.
const MANIFEST_FAILURES_MAX: u8 = 2;
/// Requests in a row that break before their first byte, until the connection is dialled anew.
const LANE_FAILURES_MAX: u8 = 8;
/// Pause of all lanes after a request broke while its connection stands, ms.
const LANE_PAUSE_MS: u64 = 200;

/// The connection to the present source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// Not before this time.
    Waiting {
        /// Monotonic ms.
        until_ms: u64,
    },
    /// Being dialled.
    Connecting {
        /// Its name.
        attempt: u64,
    },
    /// Ready for requests.
    Up {
        /// Its name.
        attempt: u64,
    },
    /// No source is usable: another offer is needed.
    Held,
}

/// One request for bytes, under way.
#[derive(Debug)]
pub(super) struct Lane {
    request: u64,
    /// What is still to come, in order; the first shrinks from its front.
    ranges: VecDeque<ByteRange>,
    /// The frame being received.
    frame: Option<Frame>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    header: ChunkHeader,
    /// Bytes still to come.
    left: u32,
    /// CRC32C of its bytes so far.
    crc32c: u32,
}

/// Who holds the snapshot.
#[derive(Debug)]
pub(super) struct Sources {
    list: Vec<Candidate>,
    current: usize,
}

#[derive(Debug)]
struct Candidate {
    source: SnapshotSource,
    unusable: Option<Unusable>,
}

/// Why a source is not asked any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unusable {
    /// It does not have the snapshot; that may change.
    Missing,
    /// Its copy, or what it says, is wrong.
    Corrupt,
}

impl Sources {
    pub(super) fn new(sources: &[SnapshotSource]) -> Self {
        let candidate =
            |source: &SnapshotSource| Candidate { source: source.clone(), unusable: None };
        Sources { list: sources.iter().map(candidate).collect(), current: 0 }
    }

    /// The source in use.
    pub(super) fn current(&self) -> Option<&SnapshotSource> {
        self.list.get(self.current).map(|candidate| &candidate.source)
    }

    /// Takes newer addresses and new sources over; a new offer is also a new chance for a source
    /// that did not have the snapshot.
    pub(super) fn merge(&mut self, sources: &[SnapshotSource]) {
        for source in sources {
            match self.list.iter_mut().find(|known| known.source.node == source.node) {
                Some(known) => {
                    known.source = source.clone();
                    known.unusable = known.unusable.filter(|why| *why == Unusable::Corrupt);
                }
                None => self.list.push(Candidate { source: source.clone(), unusable: None }),
            }
        }
    }

    /// Goes on to the next usable source, perhaps the same; false if there is none.
    fn rotate(&mut self) -> bool {
        let count = self.list.len();
        let next = (1..=count)
            .map(|step| (self.current + step) % count)
            .find(|position| self.list[*position].unusable.is_none());
        self.current = next.unwrap_or(self.current);
        next.is_some()
    }

    fn condemn_current(&mut self, why: Unusable) {
        self.list[self.current].unusable = Some(why);
    }

    fn all_corrupt(&self) -> bool {
        self.list.iter().all(|candidate| candidate.unusable == Some(Unusable::Corrupt))
    }

    fn pardon_missing(&mut self) {
        for candidate in &mut self.list {
            candidate.unusable = candidate.unusable.filter(|why| *why == Unusable::Corrupt);
        }
    }
}

impl Receiver {
    // ---- The connection.

    pub(super) fn handle_connected(&mut self, now: Now, attempt: u64) {
        let Some(pull) = self.active_mut() else { return };
        if pull.link != (Link::Connecting { attempt }) {
            return;
        }
        pull.link = Link::Up { attempt };
        pull.last_progress_ms = now.monotonic_ms;
        pull.queued_ahead = None;
        let staged = pull.book.as_ref().map_or(0, Book::staged_bytes);
        if std::mem::take(&mut pull.was_cut) && staged > 0 {
            pull.counters.resumes += 1;
            pull.counters.resumed_from = staged;
            pull.persist_soon = true;
        }
    }

    pub(super) fn handle_disconnected(&mut self, now: Now, attempt: u64, reason: &str) {
        let Some(pull) = self.active_mut() else { return };
        let was_up = pull.link == Link::Up { attempt };
        if !was_up && pull.link != (Link::Connecting { attempt }) {
            return;
        }
        if was_up {
            pull.was_cut = true;
        }
        self.trouble(reason);
        self.drop_lanes();
        self.redial(now);
    }

    /// Dials the next usable source after a pause.
    fn redial(&mut self, now: Now) {
        let Receiver { pull, random, .. } = self;
        let pull = pull.as_mut().expect("the caller has seen a pull");
        pull.gone_since_ms.get_or_insert(now.monotonic_ms);
        let before = pull.sources.current;
        pull.sources.rotate();
        if pull.sources.current != before {
            pull.bad_answers.clear();
            pull.suspicions = 0;
        }
        let until_ms = now.monotonic_ms + pull.backoff.pause_ms(random);
        pull.link = Link::Waiting { until_ms };
    }

    /// Closes the connection, if there is one, and takes back what was asked for.
    pub(super) fn close_link(&mut self) {
        self.drop_lanes();
        let pull = self.expect_pull_mut();
        if let Link::Up { attempt } | Link::Connecting { attempt } = pull.link {
            self.outputs.push_back(Output::Disconnect { attempt });
        }
        self.expect_pull_mut().link = Link::Waiting { until_ms: 0 };
    }

    /// Forgets all requests; a chunk's beginning stays in the book.
    fn drop_lanes(&mut self) {
        let pull = self.expect_pull_mut();
        let lanes = std::mem::take(&mut pull.lanes);
        let suspects = std::mem::take(&mut pull.suspects);
        pull.queued_ahead = None;
        let mut abandoned: Vec<u64> = lanes.iter().map(|lane| lane.request).collect();
        abandoned.extend(suspects.keys());
        abandoned.extend(pull.manifest_request.take());
        if let Some(book) = pull.book.as_mut() {
            for lane in lanes.into_iter().rev() {
                book.give_back(lane.ranges.into_iter());
            }
            for (part, chunk) in suspects.into_values() {
                book.want_alone(part, chunk);
            }
        }
        self.outputs.extend(abandoned.into_iter().map(|request| Output::Abandon { request }));
    }

    /// Bytes came, or a word that our turn will come.
    fn progress(&mut self, now: Now) {
        let pull = self.expect_pull_mut();
        pull.last_progress_ms = now.monotonic_ms;
        pull.gone_since_ms = None;
        pull.asked_for_new_offer = false;
        pull.backoff.reset();
        pull.trouble.clear();
    }

    /// The present source is of no use; goes on with another, another offer, or fails.
    fn leave_source(&mut self, now: Now, why: Unusable, reason: String) {
        self.close_link();
        let pull = self.expect_pull_mut();
        pull.sources.condemn_current(why);
        pull.bad_answers.clear();
        pull.suspicions = 0;
        pull.manifest_failures = 0;
        pull.lane_failures = 0;
        pull.trouble = reason.clone();
        if pull.sources.rotate() {
            pull.link = Link::Waiting { until_ms: now.monotonic_ms };
        } else if self.alternative.is_some() {
            self.switch_to_alternative(now);
        } else if self.expect_pull().sources.all_corrupt() {
            // Staged parts matched their CRCs: a newer offer may reuse them by digest.
            self.fail(now, format!("no source is left: {reason}"), false);
        } else {
            self.hold(now);
        }
    }

    /// Waits for a new offer, and looks again at the sources after a grace period.
    fn hold(&mut self, now: Now) {
        let pull = self.expect_pull_mut();
        pull.gone_since_ms.get_or_insert(now.monotonic_ms);
        pull.link = Link::Held;
        self.ask_for_new_offer();
    }

    fn ask_for_new_offer(&mut self) {
        let pull = self.expect_pull_mut();
        if !std::mem::replace(&mut pull.asked_for_new_offer, true) {
            let (id, index) = (pull.offer.reference.id, pull.offer.index);
            let reason = pull.trouble.clone();
            self.emit(Event::WantsNewOffer { id, index, reason });
        }
    }

    // ---- Time.

    /// Whether nothing may be read for a reason that is not the source's.
    fn is_blocked(&self) -> bool {
        self.paused || !self.expect_pull().stuck.is_empty()
    }

    pub(super) fn link_timer_ms(&self, now: Now) -> Option<u64> {
        let pull = self.active()?;
        if !pull.needs_source() {
            return None;
        }
        if let Some(since_ms) = pull.blocked_since_ms {
            let is_open = matches!(pull.link, Link::Up { .. } | Link::Connecting { .. });
            return is_open.then_some(since_ms + self.options.no_progress_ms);
        }
        let grace = pull.gone_since_ms.map(|since| since + self.options.grace_ms);
        let link = match pull.link {
            Link::Waiting { until_ms } => Some(until_ms),
            Link::Connecting { .. } => Some(pull.last_progress_ms + self.options.no_progress_ms),
            Link::Up { .. } => {
                let silent = pull.last_progress_ms + self.options.no_progress_ms;
                let held = Some(pull.lanes_hold_until_ms).filter(|until| *until > now.monotonic_ms);
                Some(held.map_or(silent, |until| until.min(silent)))
            }
            Link::Held => None,
        };
        [grace, link].into_iter().flatten().min()
    }

    pub(super) fn handle_link_timer(&mut self, now: Now) {
        let no_progress_ms = self.options.no_progress_ms;
        let may_read = self.reads_at_ms(now).is_some_and(|at| at <= now.monotonic_ms);
        let Some(pull) = self.active_mut() else { return };
        if !pull.needs_source() {
            return;
        }
        if let Some(since_ms) = pull.blocked_since_ms {
            // The source's place is for others while we cannot use it.
            let is_up = matches!(pull.link, Link::Up { .. });
            if since_ms + no_progress_ms <= now.monotonic_ms {
                pull.was_cut |= is_up;
                self.close_link();
            }
            return;
        }
        self.handle_grace(now);
        let Some(pull) = self.active_mut() else { return };
        let waits = match pull.link {
            Link::Connecting { .. } => true,
            Link::Up { .. } => pull.awaits_source(),
            Link::Waiting { .. } | Link::Held => false,
        };
        let has_book = pull.book.is_some();
        if !waits || (has_book && !may_read && matches!(pull.link, Link::Up { .. })) {
            // We do not read, so that silence is not the source's fault.
            pull.last_progress_ms = now.monotonic_ms;
        } else if pull.last_progress_ms + no_progress_ms <= now.monotonic_ms {
            let reason = format!("nothing came for {} s", no_progress_ms.div_ceil(1000));
            pull.was_cut |= matches!(pull.link, Link::Up { .. });
            self.close_link();
            self.trouble(&reason);
            self.redial(now);
        }
    }

    /// Leaves a source that has been gone for too long, if there is another offer.
    fn handle_grace(&mut self, now: Now) {
        let grace_ms = self.options.grace_ms;
        let Some(pull) = self.active_mut() else { return };
        let Some(since_ms) = pull.gone_since_ms else { return };
        if since_ms + grace_ms > now.monotonic_ms {
            return;
        }
        if self.alternative.is_some() {
            return self.switch_to_alternative(now);
        }
        let pull = self.expect_pull_mut();
        pull.gone_since_ms = Some(now.monotonic_ms);
        // Each grace period anew: the word may have got lost, and the source may have changed.
        pull.asked_for_new_offer = false;
        pull.sources.pardon_missing();
        if pull.link == Link::Held {
            pull.link = Link::Waiting { until_ms: now.monotonic_ms };
        }
        self.ask_for_new_offer();
    }

    /// Dials and asks for whatever has become possible.
    pub(super) fn advance_link(&mut self, now: Now) {
        if self.active().is_none() {
            return;
        }
        let is_blocked = self.is_blocked();
        let pull = self.expect_pull_mut();
        pull.blocked_since_ms =
            is_blocked.then(|| pull.blocked_since_ms.unwrap_or(now.monotonic_ms));
        if !pull.needs_source() || is_blocked {
            return;
        }
        match pull.link {
            Link::Waiting { until_ms } if until_ms <= now.monotonic_ms => self.dial(now),
            Link::Up { attempt } => match self.expect_pull().state {
                TransferState::Offered | TransferState::FetchingManifest => {
                    self.ask_manifest(now, attempt);
                }
                TransferState::Pulling => self.fill_lanes(now, attempt),
                _ => {}
            },
            _ => {}
        }
    }

    fn dial(&mut self, now: Now) {
        let attempt = self.name();
        let pull = self.expect_pull_mut();
        let Some(source) = pull.sources.current().cloned() else { return };
        pull.link = Link::Connecting { attempt };
        pull.last_progress_ms = now.monotonic_ms;
        if pull.state == TransferState::Offered {
            self.enter(TransferState::FetchingManifest);
        }
        self.outputs.push_back(Output::Connect { attempt, source });
    }

    // ---- The manifest.

    fn ask_manifest(&mut self, now: Now, attempt: u64) {
        let pull = self.expect_pull();
        if pull.manifest_request.is_some() || pull.lanes_hold_until_ms > now.monotonic_ms {
            return;
        }
        let snapshot = pull.offer.reference.id;
        let request = self.name();
        self.expect_pull_mut().manifest_request = Some(request);
        let body = PullRequest::Manifest { snapshot };
        self.outputs.push_back(Output::Request { attempt, request, body });
    }

    pub(super) fn handle_manifest(&mut self, now: Now, request: u64, bytes: Bytes) {
        let Some(pull) = self.active_mut() else { return };
        if pull.manifest_request != Some(request) {
            return;
        }
        pull.manifest_request = None;
        pull.counters.received += bytes.len() as u64;
        if let Err(reason) = self.accept_manifest(bytes) {
            let pull = self.expect_pull_mut();
            pull.manifest_failures += 1;
            if pull.manifest_failures >= MANIFEST_FAILURES_MAX {
                self.leave_source(now, Unusable::Corrupt, format!("wrong manifest: {reason}"));
            }
            return;
        }
        self.progress(now);
    }

    // ---- Requests and their bytes.

    fn fill_lanes(&mut self, now: Now, attempt: u64) {
        let streams = self.options.streams;
        let (smallest, largest) = (self.options.run_bytes_min, self.options.run_bytes_max);
        loop {
            let pull = self.expect_pull_mut();
            if pull.lanes.len() >= streams || pull.lanes_hold_until_ms > now.monotonic_ms {
                return;
            }
            let book = pull.book.as_mut().expect("pulling has a book");
            // Long runs first, short ones at the end, so that all lanes end at about the same time.
            let share = book.wanted_bytes() / (2 * streams as u64);
            let ranges = book.take(share.clamp(smallest, largest));
            if ranges.is_empty() {
                return;
            }
            let snapshot = pull.offer.reference.id;
            if pull.lanes.is_empty() {
                pull.last_progress_ms = now.monotonic_ms;
            }
            let request = self.name();
            let lane = Lane { request, ranges: ranges.iter().copied().collect(), frame: None };
            self.expect_pull_mut().lanes.push(lane);
            let body = PullRequest::Ranges { snapshot, ranges };
            self.outputs.push_back(Output::Request { attempt, request, body });
        }
    }

    pub(super) fn handle_frame(&mut self, now: Now, request: u64, header: ChunkHeader) {
        let Some(pull) = self.active_mut() else { return };
        let Some(lane) = pull.lanes.iter_mut().find(|lane| lane.request == request) else { return };
        let book = pull.book.as_mut().expect("a lane has a book");
        let manifest = book.manifest();
        let expected = lane.ranges.front().map(|range| {
            let (start, length) =
                manifest.chunk_bounds(range.part, manifest.chunk_at(range.offset));
            let to_chunk_end = start + u64::from(length) - range.offset;
            (range.part, range.offset, to_chunk_end.min(range.bytes))
        });
        let found = (header.part, header.offset, u64::from(header.bytes));
        if lane.frame.is_some() || expected != Some(found) {
            let reason = format!("it sent {found:?} where {expected:?} was due");
            return self.leave_source(now, Unusable::Corrupt, reason);
        }
        book.stitch(header.part, header.offset);
        lane.frame = Some(Frame { header, left: header.bytes, crc32c: 0 });
    }

    pub(super) fn handle_data(&mut self, now: Now, request: u64, bytes: Bytes) {
        let ticket = self.name();
        let Some(pull) = self.active_mut() else { return };
        let Some(position) = pull.lanes.iter().position(|lane| lane.request == request) else {
            return;
        };
        let lane = &mut pull.lanes[position];
        let Some(frame) = lane.frame.as_mut() else { return };
        assert!(!bytes.is_empty() && bytes.len() <= frame.left as usize, "data past its frame");
        let front = lane.ranges.front_mut().expect("a frame belongs to a range");
        let length = bytes.len() as u64;
        let piece = ByteRange { part: front.part, offset: front.offset, bytes: length };
        frame.crc32c = crc32c::crc32c_append(frame.crc32c, &bytes);
        frame.left -= bytes.len() as u32;
        front.offset += length;
        front.bytes -= length;
        if front.bytes == 0 {
            lane.ranges.pop_front();
        }
        let ended = (frame.left == 0).then_some(frame.crc32c == frame.header.crc32c);
        if ended.is_some() {
            lane.frame = None;
        }
        if lane.ranges.is_empty() {
            pull.lanes.swap_remove(position);
        }
        let book = pull.book.as_mut().expect("a lane has a book");
        pull.counters.resent += book.receive(ticket, piece, &bytes);
        pull.counters.received += length;
        pull.rate.add(now.monotonic_ms, length);
        pull.queued_ahead = None;
        pull.lane_failures = 0;
        pull.pending.insert(ticket, Pending::Write);
        let snapshot = pull.offer.reference.id;
        let ByteRange { part, offset, .. } = piece;
        let operation = DiskOperation::Write { snapshot, part, offset, bytes };
        self.outputs.push_back(Output::Disk { ticket, operation });
        self.throttle.take(now.monotonic_ms, length);
        self.progress(now);
        if let Some(frame_is_good) = ended {
            self.handle_chunk_end(now, piece, frame_is_good);
        }
    }

    fn handle_chunk_end(&mut self, now: Now, last: ByteRange, frame_is_good: bool) {
        let pull = self.expect_pull_mut();
        let book = pull.book.as_mut().expect("a lane has a book");
        let chunk = book.manifest().chunk_at(last.offset);
        let key = (last.part, chunk);
        let whole = match book.end_chunk(last.part, chunk, frame_is_good) {
            ChunkOutcome::Good => {
                pull.bad_answers.remove(&key);
                return;
            }
            ChunkOutcome::Bad { whole } => whole,
        };
        let answers = pull.bad_answers.entry(key).or_default();
        *answers += u8::from(whole);
        if *answers < BAD_ANSWERS_MAX {
            return book.want_alone(last.part, chunk);
        }
        *answers = 0;
        let (snapshot, link) = (pull.offer.reference.id, pull.link);
        let Link::Up { attempt } = link else {
            return self.leave_source(now, Unusable::Corrupt, "two bad answers".to_owned());
        };
        let request = self.name();
        self.expect_pull_mut().suspects.insert(request, key);
        let body = PullRequest::Suspect { snapshot, part: last.part, chunk };
        self.outputs.push_back(Output::Request { attempt, request, body });
    }

    pub(super) fn handle_verdict(&mut self, now: Now, request: u64, part_is_good: bool) {
        let Some(pull) = self.active_mut() else { return };
        let Some((part, chunk)) = pull.suspects.remove(&request) else { return };
        pull.book.as_mut().expect("a suspect has a book").want_alone(part, chunk);
        pull.suspicions += 1;
        if !part_is_good {
            let reason = format!("its part {part} is damaged");
            self.leave_source(now, Unusable::Corrupt, reason);
        } else if pull.suspicions >= SUSPICIONS_MAX {
            let reason = format!("it calls its part {part} good, but its answers do not match");
            self.leave_source(now, Unusable::Corrupt, reason);
        } else {
            self.progress(now);
        }
    }

    pub(super) fn handle_heard(&mut self, now: Now, request: u64) {
        if self.active().is_some_and(|pull| pull.knows(request)) {
            self.progress(now);
        }
    }

    pub(super) fn handle_queued(&mut self, now: Now, request: u64, ahead: u32) {
        if self.active().is_some_and(|pull| pull.knows(request)) {
            self.progress(now);
            self.expect_pull_mut().queued_ahead = Some(ahead);
        }
    }

    pub(super) fn handle_refused(
        &mut self,
        now: Now,
        request: u64,
        reason: RefusalReason,
        message: &str,
    ) {
        if !self.active().is_some_and(|pull| pull.knows(request)) {
            return;
        }
        match reason {
            RefusalReason::UnknownSnapshot => {
                let reason = format!("it does not have the snapshot: {message}");
                self.leave_source(now, Unusable::Missing, reason);
            }
            RefusalReason::Fenced | RefusalReason::OutOfRange | RefusalReason::Malformed => {
                let reason = format!("it refuses ({reason:?}): {message}");
                self.leave_source(now, Unusable::Corrupt, reason);
            }
            RefusalReason::ShuttingDown => {
                self.close_link();
                self.trouble("it is shutting down");
                self.redial(now);
            }
            RefusalReason::ReadFailed => self.break_request(now, request, message),
        }
    }

    pub(super) fn handle_request_ended(&mut self, now: Now, request: u64, failure: Option<String>) {
        // A request that got all it asked for is forgotten by now.
        if self.active().is_some_and(|pull| pull.knows(request)) {
            let reason = failure.unwrap_or_else(|| "its answer ended early".to_owned());
            self.break_request(now, request, &reason);
        }
    }

    /// A request broke while its connection stands: takes back what it did not deliver.
    fn break_request(&mut self, now: Now, request: u64, reason: &str) {
        self.trouble(reason);
        let pull = self.expect_pull_mut();
        if let Some(position) = pull.lanes.iter().position(|lane| lane.request == request) {
            let lane = pull.lanes.remove(position);
            pull.book.as_mut().expect("a lane has a book").give_back(lane.ranges.into_iter());
        } else if let Some((part, chunk)) = pull.suspects.remove(&request) {
            pull.book.as_mut().expect("a suspect has a book").want_alone(part, chunk);
        } else {
            pull.manifest_request = None;
        }
        pull.lanes_hold_until_ms = now.monotonic_ms + LANE_PAUSE_MS;
        pull.lane_failures += 1;
        if pull.lane_failures >= LANE_FAILURES_MAX {
            pull.lane_failures = 0;
            pull.was_cut = true;
            self.close_link();
            self.redial(now);
        }
    }
}

impl super::machine::Pull {
    /// Whether a request of this name is under way.
    fn knows(&self, request: u64) -> bool {
        self.manifest_request == Some(request)
            || self.suspects.contains_key(&request)
            || self.lanes.iter().any(|lane| lane.request == request)
    }

    /// Whether the source owes an answer.
    fn awaits_source(&self) -> bool {
        self.manifest_request.is_some() || !self.suspects.is_empty() || !self.lanes.is_empty()
    }
}
