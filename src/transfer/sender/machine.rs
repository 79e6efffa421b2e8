//! The source's machine: sessions and places, requests, frames in turn, fences.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::limits::{LEASES_MAX, REQUESTS_PER_RECEIVER_MAX, SENDER_FRAMES_AHEAD_MAX};
use crate::transfer::timing::TokenBucket;
use crate::types::{ByteRange, NodeId, PullRequest, PullResponse, RefusalReason, SnapshotId};

use super::{Input, Lease, OpenFailure, OpenSnapshot, Options, Output};

/// How often a receiver in line hears that it waits, ms.
const QUEUED_MS: u64 = 1_000;
/// A receiver without any request for so long gives its place up, ms.
const PLACE_IDLE_MS: u64 = 3_000;
/// A snapshot that cannot be read so often, with no read that succeeds in between, is as good as
/// damaged: it was removed, or the disk fails.
const READ_FAILURES_MAX: u32 = 3;
/// Snapshots fenced at most; beyond, the smallest id is forgotten, and found damaged anew.
const FENCED_MAX: usize = 1_024;

#[derive(Debug)]
struct Session {
    receiver: NodeId,
    streams: BTreeSet<u64>,
    /// It holds one of the places.
    has_place: bool,
    /// Its turn in line; smaller is earlier.
    waits_since: Option<u64>,
    idle_since_ms: u64,
    /// When it last took anything, on any stream: those of a slow link take turns.
    last_progress_ms: u64,
}

#[derive(Debug)]
struct Stream {
    connection: u64,
    snapshot: SnapshotId,
    work: Work,
    last_progress_ms: u64,
    queued_due_ms: u64,
}

#[derive(Debug)]
enum Work {
    /// Wants the manifest.
    Manifest,
    /// Wants bytes.
    Ranges {
        left: VecDeque<ByteRange>,
        /// The response that frames follow was sent.
        is_answered: bool,
        /// Bytes of the frames being read or sent, oldest first.
        in_flight: VecDeque<u64>,
        /// Bytes of the oldest that are ready and wait for their turn at the rate limit.
        ready: Option<u64>,
    },
    /// Wants a part checked.
    Suspect { part: u32, is_asked: bool },
}

#[derive(Debug)]
enum Shelf {
    Opening,
    Open(Arc<OpenSnapshot>),
}

/// Serves pulls.
#[derive(Debug)]
pub struct Sender {
    options: Options,
    throttle: TokenBucket,
    sessions: BTreeMap<u64, Session>,
    streams: BTreeMap<u64, Stream>,
    /// Streams with bytes to read, in turn.
    turns: VecDeque<u64>,
    /// Streams with a piece to send, in turn.
    ready: VecDeque<u64>,
    shelf: BTreeMap<SnapshotId, Shelf>,
    fenced: BTreeMap<SnapshotId, String>,
    /// Reads that failed one after another.
    read_failures: BTreeMap<SnapshotId, u32>,
    leases: BTreeMap<NodeId, Lease>,
    outputs: VecDeque<Output>,
    next_turn: u64,
    is_shutting_down: bool,
}

impl Sender {
    /// A source that serves nobody yet.
    pub fn new(options: Options) -> Self {
        Sender {
            throttle: TokenBucket::new(options.bytes_per_second),
            options,
            sessions: BTreeMap::new(),
            streams: BTreeMap::new(),
            turns: VecDeque::new(),
            ready: VecDeque::new(),
            shelf: BTreeMap::new(),
            fenced: BTreeMap::new(),
            read_failures: BTreeMap::new(),
            leases: BTreeMap::new(),
            outputs: VecDeque::new(),
            next_turn: 0,
            is_shutting_down: false,
        }
    }

    /// What to do next, if anything. Ask until None after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Receivers that pull, wait, or did so lately.
    pub fn leases(&self) -> Vec<Lease> {
        self.leases.values().cloned().collect()
    }

    /// Receivers that hold a place.
    pub fn places_taken(&self) -> usize {
        self.sessions.values().filter(|session| session.has_place).count()
    }

    /// Tells the machine what happened.
    pub fn handle(&mut self, now_ms: u64, input: Input) {
        match input {
            Input::Connected { connection, receiver } => {
                self.handle_connected(now_ms, connection, receiver);
            }
            Input::Closed { connection } => self.handle_closed(now_ms, connection),
            Input::Request { connection, stream, request } => {
                self.handle_request(now_ms, connection, stream, request);
            }
            Input::Opened { snapshot, result } => self.handle_opened(now_ms, snapshot, result),
            Input::PieceReady { stream, bytes } => self.handle_piece_ready(now_ms, stream, bytes),
            Input::FrameSent { stream } => self.handle_frame_sent(now_ms, stream),
            Input::FrameFailed { stream, is_corrupt, reason } => {
                self.handle_frame_failed(now_ms, stream, is_corrupt, &reason);
            }
            Input::StreamClosed { stream } => self.drop_stream(now_ms, stream),
            Input::PartChecked { snapshot, part, result } => {
                self.handle_part_checked(now_ms, snapshot, part, &result);
            }
            Input::Limit(rate) => {
                self.options.bytes_per_second = rate;
                self.throttle.set_rate(now_ms, rate);
            }
            Input::Shutdown => self.handle_shutdown(now_ms),
        }
        self.advance(now_ms);
    }

    /// When `handle_timer` is to be called at the latest.
    pub fn next_timer_ms(&self, now_ms: u64) -> Option<u64> {
        let queued = self.waiting_streams().map(|(_, stream)| stream.queued_due_ms);
        let stale = self
            .streams
            .values()
            .filter(|stream| stream.is_sending())
            .map(|stream| self.stale_at_ms(stream));
        let idle = self
            .sessions
            .values()
            .filter(|session| session.has_place && session.streams.is_empty())
            .map(|session| session.idle_since_ms + PLACE_IDLE_MS);
        let throttled = (!self.ready.is_empty()).then(|| self.throttle.ready_at_ms(now_ms));
        queued.chain(stale).chain(idle).chain(throttled.flatten()).min()
    }

    /// Lets everything happen that is due.
    pub fn handle_timer(&mut self, now_ms: u64) {
        let stale: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.is_sending() && self.stale_at_ms(stream) <= now_ms)
            .map(|(name, _)| *name)
            .collect();
        for stream in stale {
            self.reset(now_ms, stream);
        }
        for session in self.sessions.values_mut() {
            if session.streams.is_empty() && session.idle_since_ms + PLACE_IDLE_MS <= now_ms {
                session.has_place = false;
            }
        }
        self.advance(now_ms);
        self.say_queued(now_ms);
    }

    // ---- Sessions and places.

    fn handle_connected(&mut self, now_ms: u64, connection: u64, receiver: NodeId) {
        let older: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.receiver == receiver)
            .map(|(name, _)| *name)
            .collect();
        for connection in older {
            // A receiver has one connection: the older one is cut, though nobody has noticed yet.
            self.handle_closed(now_ms, connection);
            self.outputs.push_back(Output::Close { connection });
        }
        let session = Session {
            receiver,
            streams: BTreeSet::new(),
            has_place: false,
            waits_since: None,
            idle_since_ms: now_ms,
            last_progress_ms: now_ms,
        };
        self.sessions.insert(connection, session);
        if self.is_shutting_down {
            self.handle_closed(now_ms, connection);
            self.outputs.push_back(Output::Close { connection });
        }
    }

    fn handle_closed(&mut self, now_ms: u64, connection: u64) {
        let Some(session) = self.sessions.remove(&connection) else { return };
        for stream in session.streams {
            // Whoever writes it may wait for our word.
            self.reset(now_ms, stream);
        }
        if let Some(lease) = self.leases.get_mut(&session.receiver) {
            lease.is_connected = false;
            lease.is_queued = false;
        }
    }

    fn handle_shutdown(&mut self, now_ms: u64) {
        self.is_shutting_down = true;
        let connections: Vec<u64> = self.sessions.keys().copied().collect();
        for connection in connections {
            self.handle_closed(now_ms, connection);
            self.outputs.push_back(Output::Close { connection });
        }
    }

    /// Gives free places to those who wait longest.
    fn admit(&mut self) {
        while self.places_taken() < self.options.pulls_max {
            let first = self
                .sessions
                .values_mut()
                .filter(|session| session.waits_since.is_some())
                .min_by_key(|session| session.waits_since);
            let Some(session) = first else { return };
            session.has_place = true;
            session.waits_since = None;
            if let Some(lease) = self.leases.get_mut(&session.receiver) {
                lease.is_queued = false;
            }
        }
    }

    fn waiting_streams(&self) -> impl Iterator<Item = (u64, &Stream)> {
        let waits = |stream: &&Stream| {
            let session = self.sessions.get(&stream.connection);
            session.is_some_and(|session| session.waits_since.is_some())
                && matches!(stream.work, Work::Ranges { .. })
        };
        self.streams.iter().map(|(name, stream)| (*name, stream)).filter(move |(_, s)| waits(s))
    }

    fn say_queued(&mut self, now_ms: u64) {
        let mut turns: Vec<u64> = self.sessions.values().filter_map(|s| s.waits_since).collect();
        turns.sort_unstable();
        let due: Vec<(u64, u64)> = self
            .waiting_streams()
            .filter(|(_, stream)| stream.queued_due_ms <= now_ms)
            .map(|(name, stream)| (name, stream.connection))
            .collect();
        for (name, connection) in due {
            let session = &self.sessions[&connection];
            let turn = session.waits_since.expect("it waits");
            let ahead = turns.partition_point(|other| *other < turn) as u32;
            if let Some(lease) = self.leases.get_mut(&session.receiver) {
                // Waiting in line is life.
                lease.last_progress_ms = now_ms;
            }
            self.streams.get_mut(&name).expect("it was listed").queued_due_ms = now_ms + QUEUED_MS;
            let response = PullResponse::Queued { ahead };
            self.outputs.push_back(Output::Answer { stream: name, response });
        }
    }

    // ---- Requests.

    fn handle_request(
        &mut self,
        now_ms: u64,
        connection: u64,
        stream: u64,
        request: Result<PullRequest, String>,
    ) {
        let Some(session) = self.sessions.get_mut(&connection) else {
            return self.outputs.push_back(Output::Reset { stream });
        };
        if session.streams.len() >= REQUESTS_PER_RECEIVER_MAX {
            let message = format!("more than {REQUESTS_PER_RECEIVER_MAX} requests at once");
            return self.refuse(stream, RefusalReason::Malformed, message);
        }
        let request = match request {
            Ok(request) => request,
            Err(problem) => return self.refuse(stream, RefusalReason::Malformed, problem),
        };
        let (snapshot, work) = match request {
            PullRequest::Manifest { snapshot } => (snapshot, Work::Manifest),
            PullRequest::Ranges { snapshot, ranges } => {
                let left = ranges.into();
                let in_flight = VecDeque::new();
                (snapshot, Work::Ranges { left, is_answered: false, in_flight, ready: None })
            }
            PullRequest::Suspect { snapshot, part, .. } => {
                (snapshot, Work::Suspect { part, is_asked: false })
            }
        };
        if let Some(reason) = self.fenced.get(&snapshot).cloned() {
            return self.refuse(stream, RefusalReason::Fenced, reason);
        }
        let receiver = session.receiver;
        session.streams.insert(stream);
        if matches!(work, Work::Ranges { .. }) && !session.has_place {
            session.waits_since.get_or_insert(self.next_turn);
            self.next_turn += 1;
        }
        let is_queued = session.waits_since.is_some();
        let entry =
            Stream { connection, snapshot, work, last_progress_ms: now_ms, queued_due_ms: now_ms };
        self.streams.insert(stream, entry);
        self.renew_lease(now_ms, receiver, snapshot, 0);
        if let Some(lease) = self.leases.get_mut(&receiver) {
            lease.is_queued = is_queued;
        }
        if let Entry::Vacant(place) = self.shelf.entry(snapshot) {
            place.insert(Shelf::Opening);
            self.outputs.push_back(Output::Open { snapshot });
        } else {
            self.begin_stream(now_ms, stream);
        }
        self.admit();
        self.say_queued(now_ms);
    }

    fn handle_opened(
        &mut self,
        now_ms: u64,
        snapshot: SnapshotId,
        result: Result<Arc<OpenSnapshot>, OpenFailure>,
    ) {
        let waiting = self.streams_of(snapshot);
        match result {
            Ok(open) => {
                self.shelf.insert(snapshot, Shelf::Open(open));
                for stream in waiting {
                    self.begin_stream(now_ms, stream);
                }
            }
            Err(failure) => {
                self.shelf.remove(&snapshot);
                let (reason, message) = match failure {
                    OpenFailure::Unknown => {
                        (RefusalReason::UnknownSnapshot, "the store does not hold it".to_owned())
                    }
                    OpenFailure::Damaged(message) => {
                        return self.fence(now_ms, snapshot, message);
                    }
                    OpenFailure::Unreadable(message) => (RefusalReason::ReadFailed, message),
                };
                for stream in waiting {
                    self.refuse(stream, reason, message.clone());
                    self.drop_stream(now_ms, stream);
                }
            }
        }
    }

    /// Checks a request against the manifest, now that it is known, and begins to serve it.
    fn begin_stream(&mut self, now_ms: u64, name: u64) {
        let Some(stream) = self.streams.get_mut(&name) else { return };
        let Some(Shelf::Open(open)) = self.shelf.get(&stream.snapshot) else { return };
        let (snapshot, manifest) = (stream.snapshot, &open.manifest);
        let inside = |range: &ByteRange| {
            let part = manifest.parts.get(range.part as usize);
            let end = range.offset.checked_add(range.bytes);
            range.bytes > 0 && part.is_some_and(|part| end.is_some_and(|end| end <= part.bytes))
        };
        let problem = match &mut stream.work {
            Work::Manifest => {
                let response = PullResponse::ManifestFollows { bytes: open.encoded.len() as u64 };
                self.outputs.push_back(Output::Answer { stream: name, response });
                self.outputs.push_back(Output::SendManifest { stream: name, snapshot });
                self.outputs.push_back(Output::Finish { stream: name });
                return;
            }
            Work::Ranges { left, .. } => (!left.iter().all(inside)).then_some("a range"),
            Work::Suspect { part, is_asked } => {
                let part = *part;
                let is_inside = (part as usize) < manifest.parts.len();
                if is_inside && !std::mem::replace(is_asked, true) {
                    self.outputs.push_back(Output::CheckPart { snapshot, part });
                }
                (!is_inside).then_some("a part")
            }
        };
        if let Some(what) = problem {
            let message = format!("{what} lies outside the snapshot");
            self.refuse(name, RefusalReason::OutOfRange, message);
            self.drop_stream(now_ms, name);
        }
    }

    // ---- Frames.

    /// Reads ahead for the streams in turn, as far as memory allows.
    fn feed(&mut self) {
        self.answer_admitted();
        let mut skipped = 0;
        while skipped < self.turns.len() {
            let name = self.turns.pop_front().expect("it is not empty");
            let in_flight_bytes = self.in_flight_bytes();
            let is_starving = !self.has_bytes_in_flight(name);
            let Some(stream) = self.streams.get_mut(&name) else { continue };
            let Some(Shelf::Open(open)) = self.shelf.get(&stream.snapshot) else { continue };
            let Work::Ranges { left, in_flight, .. } = &mut stream.work else { continue };
            let Some(front) = left.front_mut() else { continue };
            let manifest = &open.manifest;
            let (start, length) =
                manifest.chunk_bounds(front.part, manifest.chunk_at(front.offset));
            let bytes = front.bytes.min(start + u64::from(length) - front.offset);
            // A chunk is read whole, so that its CRC can be checked, whatever is sent of it.
            let buffered = u64::from(length);
            let is_full = in_flight.len() >= SENDER_FRAMES_AHEAD_MAX
                || (!is_starving && in_flight_bytes + buffered > self.options.buffer_bytes_max);
            self.turns.push_back(name);
            if is_full {
                skipped += 1;
                continue;
            }
            skipped = 0;
            let range = ByteRange { part: front.part, offset: front.offset, bytes };
            front.offset += bytes;
            front.bytes -= bytes;
            if front.bytes == 0 {
                left.pop_front();
            }
            in_flight.push_back(buffered);
            let snapshot = stream.snapshot;
            self.outputs.push_back(Output::SendFrame { stream: name, snapshot, range });
        }
    }

    /// Sends pieces, in turn, as far as the rate allows: small ones at a small rate, so that no
    /// receiver takes its turn for silence.
    fn send_ready(&mut self, now_ms: u64) {
        while self.throttle.ready_at_ms(now_ms).is_none() {
            let Some(name) = self.ready.pop_front() else { return };
            let piece_max = self.throttle.piece_bytes();
            let stream = self.streams.get_mut(&name).expect("a stream in turn is served");
            let Work::Ranges { ready, .. } = &mut stream.work else { unreachable!("it sends") };
            let bytes = ready.take().expect("it is in turn").min(piece_max);
            stream.last_progress_ms = now_ms;
            let (snapshot, connection) = (stream.snapshot, stream.connection);
            self.throttle.take(now_ms, bytes);
            let receiver = self.sessions[&connection].receiver;
            self.renew_lease(now_ms, receiver, snapshot, bytes);
            self.outputs.push_back(Output::SendPiece { stream: name, bytes });
        }
    }

    fn handle_piece_ready(&mut self, now_ms: u64, name: u64, bytes: u64) {
        let Some(stream) = self.streams.get_mut(&name) else { return };
        let Work::Ranges { in_flight, ready, .. } = &mut stream.work else { return };
        self.read_failures.remove(&stream.snapshot);
        if bytes == 0 || in_flight.is_empty() || ready.is_some() {
            return;
        }
        *ready = Some(bytes);
        self.ready.push_back(name);
        let connection = stream.connection;
        self.note_taken(now_ms, connection);
    }

    /// Tells the streams whose receiver has a place that frames follow, and gives them a turn.
    fn answer_admitted(&mut self) {
        for (name, stream) in &mut self.streams {
            let Some(Shelf::Open(open)) = self.shelf.get(&stream.snapshot) else { continue };
            let has_place = self.sessions.get(&stream.connection).is_some_and(|s| s.has_place);
            let Work::Ranges { left, is_answered, .. } = &mut stream.work else { continue };
            if !has_place || std::mem::replace(is_answered, true) {
                continue;
            }
            let frames_of = |range: &ByteRange| {
                let first = open.manifest.chunk_at(range.offset);
                u64::from(open.manifest.chunk_at(range.offset + range.bytes - 1) - first) + 1
            };
            let frames: u64 = left.iter().map(frames_of).sum();
            let frames = u32::try_from(frames).unwrap_or(u32::MAX);
            let response = PullResponse::RangesFollow { frames };
            self.outputs.push_back(Output::Answer { stream: *name, response });
            self.turns.push_back(*name);
        }
    }

    /// When a stream is reset unless its receiver takes something.
    fn stale_at_ms(&self, stream: &Stream) -> u64 {
        let session = self.sessions.get(&stream.connection);
        let taken_ms = session.map_or(0, |session| session.last_progress_ms);
        stream.last_progress_ms.max(taken_ms) + self.options.no_progress_ms
    }

    fn note_taken(&mut self, now_ms: u64, connection: u64) {
        if let Some(session) = self.sessions.get_mut(&connection) {
            session.last_progress_ms = now_ms;
        }
    }

    /// Whether the receiver of a stream has bytes on their way, on any stream.
    fn has_bytes_in_flight(&self, name: u64) -> bool {
        let connection = self.streams.get(&name).map(|stream| stream.connection);
        self.streams.values().any(|stream| {
            Some(stream.connection) == connection
                && matches!(&stream.work, Work::Ranges { in_flight, .. } if !in_flight.is_empty())
        })
    }

    fn in_flight_bytes(&self) -> u64 {
        let of = |stream: &Stream| match &stream.work {
            Work::Ranges { in_flight, .. } => in_flight.iter().sum(),
            _ => 0,
        };
        self.streams.values().map(of).sum()
    }

    fn handle_frame_sent(&mut self, now_ms: u64, name: u64) {
        let Some(stream) = self.streams.get_mut(&name) else { return };
        let Work::Ranges { left, in_flight, ready: None, .. } = &mut stream.work else { return };
        stream.last_progress_ms = now_ms;
        in_flight.pop_front();
        let (snapshot, connection) = (stream.snapshot, stream.connection);
        let is_done = left.is_empty() && in_flight.is_empty();
        self.note_taken(now_ms, connection);
        if is_done {
            self.outputs.push_back(Output::Finish { stream: name });
            self.drop_stream(now_ms, name);
        }
        let receiver = self.sessions[&connection].receiver;
        self.renew_lease(now_ms, receiver, snapshot, 0);
    }

    fn handle_frame_failed(&mut self, now_ms: u64, name: u64, is_corrupt: bool, reason: &str) {
        let Some(stream) = self.streams.get(&name) else { return };
        let snapshot = stream.snapshot;
        if is_corrupt {
            return self.fence(now_ms, snapshot, reason.to_owned());
        }
        self.reset(now_ms, name);
        let failures = self.read_failures.entry(snapshot).or_default();
        *failures += 1;
        if *failures >= READ_FAILURES_MAX {
            self.fence(now_ms, snapshot, reason.to_owned());
        }
    }

    // ---- Damage.

    fn handle_part_checked(
        &mut self,
        now_ms: u64,
        snapshot: SnapshotId,
        part: u32,
        result: &Result<bool, String>,
    ) {
        let asks = |stream: &Stream| matches!(stream.work, Work::Suspect { part: asked, .. } if asked == part);
        let waiting: Vec<u64> =
            self.streams_of(snapshot).into_iter().filter(|s| asks(&self.streams[s])).collect();
        for stream in waiting {
            match result {
                Ok(part_is_good) => {
                    let response = PullResponse::Verdict { part_is_good: *part_is_good };
                    self.outputs.push_back(Output::Answer { stream, response });
                    self.outputs.push_back(Output::Finish { stream });
                }
                Err(message) => self.refuse(stream, RefusalReason::ReadFailed, message.clone()),
            }
            self.drop_stream(now_ms, stream);
        }
        if *result == Ok(false) {
            self.fence(now_ms, snapshot, format!("part {part} does not have its digest"));
        }
    }

    /// Serves a damaged snapshot to nobody from now on.
    fn fence(&mut self, now_ms: u64, snapshot: SnapshotId, reason: String) {
        if self.fenced.len() >= FENCED_MAX {
            self.fenced.pop_first();
        }
        self.fenced.insert(snapshot, reason.clone());
        self.read_failures.remove(&snapshot);
        self.outputs.push_back(Output::Fenced { snapshot, reason: reason.clone() });
        for name in self.streams_of(snapshot) {
            let is_answered =
                matches!(self.streams[&name].work, Work::Ranges { is_answered: true, .. });
            if is_answered {
                self.reset(now_ms, name);
            } else {
                self.refuse(name, RefusalReason::Fenced, reason.clone());
                self.drop_stream(now_ms, name);
            }
        }
    }

    // ---- Small helpers.

    fn advance(&mut self, now_ms: u64) {
        self.admit();
        self.feed();
        self.send_ready(now_ms);
        let used: BTreeSet<SnapshotId> = self.streams.values().map(|s| s.snapshot).collect();
        let is_served = |snapshot: &SnapshotId| {
            used.contains(snapshot)
                || self
                    .leases
                    .values()
                    .any(|lease| lease.is_connected && lease.snapshot == *snapshot)
        };
        let unused: Vec<SnapshotId> = self
            .shelf
            .iter()
            .filter(|(id, shelf)| matches!(shelf, Shelf::Open(_)) && !is_served(id))
            .map(|(id, _)| *id)
            .collect();
        for snapshot in unused {
            self.shelf.remove(&snapshot);
            self.outputs.push_back(Output::Release { snapshot });
        }
    }

    fn refuse(&mut self, stream: u64, reason: RefusalReason, message: String) {
        let response = PullResponse::Refused { reason, message };
        self.outputs.push_back(Output::Answer { stream, response });
        self.outputs.push_back(Output::Finish { stream });
    }

    fn reset(&mut self, now_ms: u64, stream: u64) {
        self.outputs.push_back(Output::Reset { stream });
        self.drop_stream(now_ms, stream);
    }

    fn drop_stream(&mut self, now_ms: u64, name: u64) {
        self.turns.retain(|turn| *turn != name);
        self.ready.retain(|turn| *turn != name);
        let Some(stream) = self.streams.remove(&name) else { return };
        let Some(session) = self.sessions.get_mut(&stream.connection) else { return };
        session.streams.remove(&name);
        session.idle_since_ms = now_ms;
        if session.streams.is_empty() {
            // Whoever has nothing to ask does not stand in line.
            session.waits_since = None;
        }
    }

    fn streams_of(&self, snapshot: SnapshotId) -> Vec<u64> {
        let of = self.streams.iter().filter(|(_, stream)| stream.snapshot == snapshot);
        of.map(|(name, _)| *name).collect()
    }

    fn renew_lease(&mut self, now_ms: u64, receiver: NodeId, snapshot: SnapshotId, bytes: u64) {
        if !self.leases.contains_key(&receiver) && self.leases.len() >= LEASES_MAX {
            let stalest = self.leases.values().min_by_key(|lease| lease.last_progress_ms);
            if let Some(stalest) = stalest.map(|lease| lease.receiver) {
                self.leases.remove(&stalest);
            }
        }
        let lease = self.leases.entry(receiver).or_insert_with(|| Lease {
            receiver,
            snapshot,
            last_progress_ms: now_ms,
            sent_bytes: 0,
            is_queued: false,
            is_connected: true,
        });
        if lease.snapshot != snapshot {
            lease.snapshot = snapshot;
            lease.sent_bytes = 0;
        }
        lease.last_progress_ms = now_ms;
        lease.sent_bytes += bytes;
        lease.is_connected = true;
    }
}

impl Stream {
    /// Whether bytes of it are with the disk or the network. What waits for the rate limit is not.
    fn is_sending(&self) -> bool {
        matches!(&self.work, Work::Ranges { in_flight, ready: None, .. } if !in_flight.is_empty())
    }
}
