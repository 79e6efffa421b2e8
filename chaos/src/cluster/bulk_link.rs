//! Connections of the bulk lane: dialled, cut, and piece by piece on their way.
//!
//! A connection whose ends cannot reach each other stalls, and dies once it was silent for longer
//! than the lane's idle timeout. Nothing on it is lost before that.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Result;
use bytes::Bytes;
use ratoon::limits::BULK_IDLE_TIMEOUT_MS;
use ratoon::transfer::{receiver, sender};
use ratoon::types::{ByteRange, ChunkHeader, NodeId, PullRequest, PullResponse, SnapshotId};

use super::bulk_sender::FrameError;
use super::network::Lane;
use super::{Event, World};
use crate::random::Random;

/// A stalled stream is looked at again after this.
const STALL_US: u64 = 150_000;
/// A connection looks this often whether its ends still reach each other.
const KEEP_ALIVE_US: u64 = 500_000;

/// See the module.
pub struct BulkLink {
    receiver: NodeId,
    receiver_life: u64,
    /// The receiver's name for it; None once it has hung up.
    attempt: Option<u64>,
    source: NodeId,
    source_life: u64,
    is_up: bool,
    silent_since_us: Option<u64>,
    streams: BTreeMap<u64, Stream>,
}

struct Stream {
    /// The receiver's name for it; None once it is not wanted any more.
    request: Option<u64>,
    pieces: VecDeque<Piece>,
    is_pumping: bool,
    /// The source was told of what is left of a frame.
    is_announced: bool,
    /// Bytes of it that the source lets pass.
    allowed: u64,
    /// Of which snapshot it carries bytes.
    snapshot: Option<SnapshotId>,
    /// Where the next bytes of the frame under way belong: part, offset.
    arrives_at: (u32, u64),
}

/// What is on its way on a stream.
pub enum Piece {
    Response(PullResponse),
    Manifest(Bytes),
    /// Not yet read from the source's disk.
    Frame(SnapshotId, ByteRange),
    Header(ChunkHeader),
    Data(Bytes),
    /// What is left of a frame; it waits for the source's word.
    Rest(Bytes),
    /// The frame before was handed to the network whole.
    FrameEnd,
    End,
    Reset,
}

/// What happens to a connection.
#[derive(Debug)]
pub enum LinkEvent {
    Dialled,
    DialFailed,
    Asked(u64, PullRequest),
    Pump(u64),
    StreamClosed(u64),
    HungUp,
    KeepAlive,
}

impl World {
    pub(super) fn dial(&mut self, node: NodeId, attempt: u64, source: NodeId) {
        let link = BulkLink {
            receiver: node,
            receiver_life: self.machine(node).incarnation,
            attempt: Some(attempt),
            source,
            source_life: 0,
            is_up: false,
            silent_since_us: None,
            streams: BTreeMap::new(),
        };
        let name = self.name();
        self.links.insert(name, link);
        match self.stream_delay(Lane::Bulk, source, node, 0) {
            Some(delay) => self.push(2 * delay, Event::Link(name, LinkEvent::Dialled)),
            None => {
                let delay = self.random.between(100_000, 3_000_000);
                self.push(delay, Event::Link(name, LinkEvent::DialFailed));
            }
        }
    }

    fn find_link(&self, node: NodeId, attempt: u64) -> Option<u64> {
        let life = self.machine(node).incarnation;
        let named = |link: &&BulkLink| {
            (link.receiver, link.receiver_life, link.attempt) == (node, life, Some(attempt))
        };
        self.links.iter().find(|(_, link)| named(link)).map(|(name, _)| *name)
    }

    pub(super) fn hang_up(&mut self, node: NodeId, attempt: u64) {
        let Some(name) = self.find_link(node, attempt) else { return };
        let delay = self.random.interval(20_000);
        let link = self.links.get_mut(&name).expect("it was found");
        link.attempt = None;
        link.streams.values_mut().for_each(|stream| stream.request = None);
        self.push(delay, Event::Link(name, LinkEvent::HungUp));
    }

    pub(super) fn ask_source(
        &mut self,
        node: NodeId,
        attempt: u64,
        request: u64,
        body: PullRequest,
    ) {
        let Some(name) = self.find_link(node, attempt) else { return };
        let stream = self.name();
        let link = self.links.get_mut(&name).expect("it was found");
        let snapshot = match &body {
            PullRequest::Ranges { snapshot, .. } => Some(*snapshot),
            _ => None,
        };
        let new = Stream {
            request: Some(request),
            pieces: VecDeque::new(),
            is_pumping: false,
            is_announced: false,
            allowed: 0,
            snapshot,
            arrives_at: (0, 0),
        };
        link.streams.insert(stream, new);
        let source = link.source;
        let delay = self.stream_delay(Lane::Bulk, node, source, 0).unwrap_or(STALL_US);
        self.push(delay, Event::Link(name, LinkEvent::Asked(stream, body)));
    }

    pub(super) fn abandon(&mut self, node: NodeId, request: u64) {
        let life = self.machine(node).incarnation;
        let delay = self.random.interval(20_000);
        let mut closed = None;
        for (name, link) in &mut self.links {
            if (link.receiver, link.receiver_life) != (node, life) {
                continue;
            }
            for (stream, state) in &mut link.streams {
                if state.request == Some(request) {
                    state.request = None;
                    closed = Some((*name, *stream));
                }
            }
        }
        if let Some((name, stream)) = closed {
            self.push(delay, Event::Link(name, LinkEvent::StreamClosed(stream)));
        }
    }

    pub(super) fn link_event(&mut self, name: u64, event: LinkEvent) -> Result<()> {
        let Some(link) = self.links.get(&name) else { return Ok(()) };
        let (receiver, source) = (link.receiver, link.source);
        let receiver_lives = self.lives(receiver, link.receiver_life);
        let is_paused = |node| self.machine(node).paused_until(self.now_us).is_some();
        if !receiver_lives && !link.is_up {
            self.links.remove(&name);
            return Ok(());
        }
        if is_paused(receiver) || is_paused(source) {
            self.push(STALL_US, Event::Link(name, event));
            return Ok(());
        }
        let reaches = self.network.is_connected(receiver, source);
        match event {
            LinkEvent::DialFailed => self.break_link(name, "no answer"),
            LinkEvent::Dialled if link.attempt.is_none() => {
                self.links.remove(&name);
                Ok(())
            }
            LinkEvent::Dialled => {
                let machine = self.machine(source);
                let (is_up, life) = (machine.process.is_some(), machine.incarnation);
                if !is_up || !reaches {
                    return self.break_link(name, "refused");
                }
                self.link_up(name, life)
            }
            LinkEvent::KeepAlive => self.keep_alive(name, reaches),
            // Whatever is on its way arrives when the ends reach each other again.
            event if !reaches => {
                self.push(STALL_US, Event::Link(name, event));
                Ok(())
            }
            LinkEvent::Asked(stream, body) => {
                let word = sender::Input::Request { connection: name, stream, request: Ok(body) };
                self.tell_link_source(name, word)
            }
            LinkEvent::StreamClosed(stream) => {
                let known = self.links.get_mut(&name).and_then(|link| link.streams.remove(&stream));
                match known {
                    Some(_) => self.tell_link_source(name, sender::Input::StreamClosed { stream }),
                    None => Ok(()),
                }
            }
            LinkEvent::HungUp => {
                self.tell_link_source(name, sender::Input::Closed { connection: name })?;
                self.links.remove(&name);
                Ok(())
            }
            LinkEvent::Pump(stream) => self.pump(name, stream),
        }
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        let machine = self.machine(node);
        machine.process.is_some() && machine.incarnation == life
    }

    fn link_up(&mut self, name: u64, life: u64) -> Result<()> {
        let link = self.links.get_mut(&name).expect("it was looked up");
        (link.is_up, link.source_life) = (true, life);
        let (receiver, source, attempt) = (link.receiver, link.source, link.attempt);
        let before = self.machine_mut(receiver).alive().bulk.last_source.replace((source, life));
        let is_back = before.is_some_and(|(known, before)| known == source && before != life);
        self.figures.sources_back += u64::from(is_back);
        self.push(KEEP_ALIVE_US, Event::Link(name, LinkEvent::KeepAlive));
        self.tell_sender(source, sender::Input::Connected { connection: name, receiver })?;
        match attempt {
            Some(attempt) => self.tell_receiver(receiver, receiver::Input::Connected { attempt }),
            None => Ok(()),
        }
    }

    fn keep_alive(&mut self, name: u64, reaches: bool) -> Result<()> {
        let now_us = self.now_us;
        let link = &self.links[&name];
        let both_live = self.lives(link.receiver, link.receiver_life)
            && self.lives(link.source, link.source_life);
        let link = self.links.get_mut(&name).expect("it was looked up");
        if reaches && both_live {
            link.silent_since_us = None;
        } else {
            let since = *link.silent_since_us.get_or_insert(now_us);
            if since + BULK_IDLE_TIMEOUT_MS * 1000 <= now_us {
                return self.break_link(name, "silence");
            }
        }
        self.push(KEEP_ALIVE_US, Event::Link(name, LinkEvent::KeepAlive));
        Ok(())
    }

    /// The connection is gone; both ends hear of it.
    fn break_link(&mut self, name: u64, reason: &str) -> Result<()> {
        self.tell_link_source(name, sender::Input::Closed { connection: name })?;
        let Some(link) = self.links.remove(&name) else { return Ok(()) };
        if !self.lives(link.receiver, link.receiver_life) {
            return Ok(());
        }
        if link.is_up && link.attempt.is_some() {
            self.excuse_cut(link.receiver);
        }
        for request in link.streams.into_values().filter_map(|stream| stream.request) {
            let failure = Some(reason.to_owned());
            let word = receiver::Input::RequestEnded { request, failure };
            self.tell_receiver(link.receiver, word)?;
        }
        match link.attempt {
            Some(attempt) => {
                let reason = reason.to_owned();
                let word = receiver::Input::Disconnected { attempt, reason };
                self.tell_receiver(link.receiver, word)
            }
            None => Ok(()),
        }
    }

    /// A pull was cut or its process died: that may cost it a chunk for each of its streams. Small
    /// parts are chunks of their own, so that more of them may wait for the disk.
    pub(super) fn excuse_cut(&mut self, receiver: NodeId) {
        let machine = self.machine(receiver);
        let Some(process) = &machine.process else { return };
        let mut unwritten = process.bulk.unwritten_bytes();
        // A pull that has ended may have left its writes behind, and not yet be removed.
        if let Some(status) = process.bulk.machine.status(machine.now(self.now_us)) {
            unwritten.entry(status.snapshot).or_default();
        }
        let streams = self.settings.transfer.streams;
        for (id, waiting) in unwritten {
            let Some(stored) = self.contents.get(&id) else { continue };
            let manifest = &stored.manifest;
            let mut lengths: Vec<u32> = (0..manifest.parts.len() as u32)
                .flat_map(|part| (0..manifest.chunks(part)).map(move |chunk| (part, chunk)))
                .map(|(part, chunk)| manifest.chunk_bounds(part, chunk).1)
                .collect();
            lengths.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
            let begun: u64 = lengths.into_iter().take(streams).map(u64::from).sum();
            let most = u64::from(manifest.chunk_bytes) * streams as u64;
            self.checks.resent.allow(receiver, id, (begun + waiting).min(most));
        }
    }

    /// Whether somebody is being sent bytes of a node's snapshot.
    pub(super) fn is_served(&self, node: NodeId, id: SnapshotId) -> bool {
        let mut links = self.links.values().filter(|link| link.source == node);
        links.any(|link| link.streams.values().any(|stream| stream.snapshot == Some(id)))
    }

    /// Bytes of chunks that a source has read, or is to read, ahead of the network, and for how many
    /// receivers.
    pub(super) fn bytes_read_ahead(&self, node: NodeId) -> (u64, u64) {
        let (mut bytes, mut receivers) = (0, 0);
        for link in self.links.values().filter(|link| link.source == node && link.is_up) {
            let mut of_link = 0;
            for stream in link.streams.values() {
                let Some(stored) = stream.snapshot.and_then(|id| self.contents.get(&id)) else {
                    continue;
                };
                let manifest = &stored.manifest;
                for piece in &stream.pieces {
                    if let Piece::Frame(_, range) = piece {
                        let chunk = manifest.chunk_at(range.offset);
                        of_link += u64::from(manifest.chunk_bounds(range.part, chunk).1);
                    }
                }
            }
            bytes += of_link;
            receivers += u64::from(of_link > 0);
        }
        (bytes, receivers)
    }

    fn tell_link_source(&mut self, name: u64, word: sender::Input) -> Result<()> {
        let Some(link) = self.links.get(&name) else { return Ok(()) };
        let (source, life, is_up) = (link.source, link.source_life, link.is_up);
        match is_up && self.lives(source, life) {
            true => self.tell_sender(source, word),
            false => Ok(()),
        }
    }

    /// The source closes a connection: an older one of a receiver that has a newer.
    pub(super) fn source_closes(&mut self, name: u64) {
        if self.links.contains_key(&name) {
            self.push(1_000, Event::Link(name, LinkEvent::DialFailed));
        }
    }

    fn stream_mut(&mut self, stream: u64) -> Option<(u64, &mut Stream)> {
        let mut links = self.links.iter_mut();
        links.find_map(|(name, link)| link.streams.get_mut(&stream).map(|state| (*name, state)))
    }

    pub(super) fn queue_piece(&mut self, stream: u64, piece: Piece) {
        let Some((name, state)) = self.stream_mut(stream) else { return };
        state.pieces.push_back(piece);
        if !std::mem::replace(&mut state.is_pumping, true) {
            self.plan_pump(name, stream);
        }
    }

    pub(super) fn reset_stream(&mut self, stream: u64) {
        if let Some((_, state)) = self.stream_mut(stream) {
            state.pieces.clear();
        }
        self.queue_piece(stream, Piece::Reset);
    }

    /// The source lets the next bytes of a frame pass.
    pub(super) fn send_piece(&mut self, stream: u64, bytes: u64) {
        let Some((name, state)) = self.stream_mut(stream) else { return };
        (state.allowed, state.is_announced) = (bytes, false);
        if !std::mem::replace(&mut state.is_pumping, true) {
            self.plan_pump(name, stream);
        }
    }

    fn plan_pump(&mut self, name: u64, stream: u64) {
        let link = &self.links[&name];
        let (receiver, source) = (link.receiver, link.source);
        let bytes = match link.streams.get(&stream).and_then(|state| state.pieces.front()) {
            Some(Piece::Data(bytes) | Piece::Manifest(bytes)) => bytes.len(),
            _ => 0,
        };
        let delay = self.stream_delay(Lane::Bulk, source, receiver, bytes).unwrap_or(STALL_US);
        self.push(delay, Event::Link(name, LinkEvent::Pump(stream)));
    }

    /// The next piece of a stream arrives, if its receiver reads.
    fn pump(&mut self, name: u64, stream: u64) -> Result<()> {
        let link = &self.links[&name];
        let (receiver, source) = (link.receiver, link.source);
        if !self.lives(receiver, link.receiver_life) || !self.lives(source, link.source_life) {
            return Ok(());
        }
        let now = self.machine(receiver).now(self.now_us);
        let reads = self.machine_mut(receiver).alive().bulk.machine.reads_at_ms(now);
        if reads.is_none_or(|at| at > now.monotonic_ms) {
            self.push(STALL_US / 10, Event::Link(name, LinkEvent::Pump(stream)));
            return Ok(());
        }
        let link = self.links.get_mut(&name).expect("it was looked up");
        let Some(state) = link.streams.get_mut(&stream) else { return Ok(()) };
        let Some(piece) = state.pieces.pop_front() else {
            state.is_pumping = false;
            return Ok(());
        };
        let request = state.request;
        if let Piece::Rest(bytes) = piece {
            if state.allowed == 0 {
                let length = bytes.len() as u64;
                state.pieces.push_front(Piece::Rest(bytes));
                state.is_pumping = false;
                return match std::mem::replace(&mut state.is_announced, true) {
                    true => Ok(()),
                    false => {
                        let word = sender::Input::PieceReady { stream, bytes: length };
                        self.tell_link_source(name, word)
                    }
                };
            }
            state.cut_rest(&mut self.random, bytes);
            self.plan_pump(name, stream);
            return Ok(());
        }
        self.plan_pump(name, stream);
        self.arrive_piece(name, stream, request, piece)
    }

    fn arrive_piece(
        &mut self,
        name: u64,
        stream: u64,
        request: Option<u64>,
        piece: Piece,
    ) -> Result<()> {
        use receiver::Input as Word;
        let receiver = self.links[&name].receiver;
        if let Piece::FrameEnd = piece {
            return self.tell_link_source(name, sender::Input::FrameSent { stream });
        }
        if let Piece::Frame(id, range) = piece {
            return self.read_frame(name, stream, id, range);
        }
        let Some(request) = request else { return Ok(()) };
        match piece {
            Piece::Response(PullResponse::Queued { ahead }) => {
                self.tell_receiver(receiver, Word::Queued { request, ahead })
            }
            Piece::Response(PullResponse::Refused { reason, message }) => {
                self.tell_receiver(receiver, Word::Refused { request, reason, message })?;
                self.end_request(name, stream, None)
            }
            Piece::Response(PullResponse::Verdict { part_is_good }) => {
                self.tell_receiver(receiver, Word::Verdict { request, part_is_good })?;
                self.end_request(name, stream, None)
            }
            Piece::Response(_) => Ok(()),
            Piece::Manifest(bytes) => {
                self.tell_receiver(receiver, Word::Manifest { request, bytes })?;
                self.end_request(name, stream, None)
            }
            Piece::Header(header) => {
                if let Some((_, state)) = self.stream_mut(stream) {
                    state.arrives_at = (header.part, header.offset);
                }
                self.tell_receiver(receiver, Word::Frame { request, header })
            }
            Piece::Data(bytes) => {
                self.count_arrival(receiver, stream, bytes.len() as u32)?;
                self.tell_receiver(receiver, Word::Data { request, bytes })
            }
            Piece::End => self.end_request(name, stream, None),
            Piece::Reset => self.end_request(name, stream, Some("reset".to_owned())),
            Piece::Frame(..) | Piece::Rest(_) | Piece::FrameEnd => unreachable!("handled before"),
        }
    }

    /// Bytes of a part reach a receiver: the checks count what comes twice.
    fn count_arrival(&mut self, receiver: NodeId, stream: u64, bytes: u32) -> Result<()> {
        let Some((_, state)) = self.stream_mut(stream) else { return Ok(()) };
        let (part, offset) = state.arrives_at;
        state.arrives_at.1 += u64::from(bytes);
        let Some(id) = state.snapshot else { return Ok(()) };
        let manifest = &self.contents[&id].manifest;
        let chunk = manifest.chunk_at(offset);
        let start = (offset - manifest.chunk_bounds(part, chunk).0) as u32;
        self.checks.resent.arrives(receiver, id, (part, chunk), start, bytes)
    }

    fn end_request(&mut self, name: u64, stream: u64, failure: Option<String>) -> Result<()> {
        let Some(link) = self.links.get_mut(&name) else { return Ok(()) };
        let receiver = link.receiver;
        let Some(state) = link.streams.get_mut(&stream) else { return Ok(()) };
        let Some(request) = state.request.take() else { return Ok(()) };
        self.push(1_000, Event::Link(name, LinkEvent::StreamClosed(stream)));
        self.tell_receiver(receiver, receiver::Input::RequestEnded { request, failure })
    }

    /// A frame is read from the source's disk.
    fn read_frame(
        &mut self,
        name: u64,
        stream: u64,
        id: SnapshotId,
        range: ByteRange,
    ) -> Result<()> {
        let (source, receiver) = (self.links[&name].source, self.links[&name].receiver);
        let read = match self.reading_fails() {
            true => Err(FrameError::Gone),
            false => self.machine(source).read_frame(id, range),
        };
        let (header, mut bytes) = match read {
            Ok(frame) => frame,
            Err(error) => {
                let is_corrupt = matches!(error, FrameError::Corrupt);
                let reason = "it cannot be read".to_owned();
                let word = sender::Input::FrameFailed { stream, is_corrupt, reason };
                return self.tell_link_source(name, word);
            }
        };
        if !self.calm && self.random.chance(self.settings.network.corruption) {
            self.figures.frames_damaged += 1;
            let manifest = &self.contents[&id].manifest;
            let (_, length) = manifest.chunk_bounds(range.part, manifest.chunk_at(range.offset));
            // Once for the damage, and once if what is left of it is taken for a good beginning.
            self.checks.resent.allow(receiver, id, 2 * u64::from(length));
            let mut damaged = bytes.to_vec();
            let place = self.random.below(damaged.len() as u64) as usize;
            damaged[place] ^= 1 << self.random.below(8);
            bytes = damaged.into();
        }
        if let Some((_, state)) = self.stream_mut(stream) {
            state.pieces.push_front(Piece::Rest(bytes));
            state.pieces.push_front(Piece::Header(header));
        }
        Ok(())
    }
}

impl Stream {
    /// What the source lets pass, broken into pieces of any size.
    fn cut_rest(&mut self, random: &mut Random, mut rest: Bytes) {
        let allowed = std::mem::take(&mut self.allowed) as usize;
        let mut bytes = rest.split_to(rest.len().min(allowed));
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let most = bytes.len() as u64;
            let length = random.magnitude((most / 4).max(1), most) as usize;
            pieces.push(Piece::Data(bytes.split_to(length)));
        }
        pieces.push(if rest.is_empty() { Piece::FrameEnd } else { Piece::Rest(rest) });
        for piece in pieces.into_iter().rev() {
            self.pieces.push_front(piece);
        }
    }
}
