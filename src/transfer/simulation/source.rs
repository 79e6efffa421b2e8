//! A source: the sender's machine, its store, and the streams it writes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::Content;
use crate::codec::bulk::{
    decode_chunk_header, decode_pull_response, encode_chunk_header, encode_pull_response,
};
use crate::transfer::sender::{Input, OpenFailure, OpenSnapshot, Options, Output, Sender};
use crate::types::{ByteRange, ChunkHeader, Digest, PullResponse, SnapshotId};

/// What travels on a stream towards the receiver.
#[derive(Clone, Debug)]
pub(super) enum Down {
    Response(PullResponse),
    Manifest(Bytes),
    Header(ChunkHeader),
    Data(Bytes),
    /// Told to the source when this has left.
    Sent,
    End(Option<String>),
}

/// A node that serves snapshots.
pub(super) struct Source {
    pub(super) machine: Sender,
    pub(super) store: BTreeMap<SnapshotId, Content>,
    /// Streams by the source's name for them.
    pub(super) streams: BTreeMap<u64, VecDeque<Down>>,
    /// Frames that a stream's writer has, oldest first: its header until that is sent, and the bytes
    /// that are left.
    writers: BTreeMap<u64, VecDeque<(Option<ChunkHeader>, Bytes)>>,
    pub(super) is_up: bool,
    /// (snapshot, part, byte): rot that its reads find.
    pub(super) rot: BTreeSet<(SnapshotId, u32, u64)>,
    /// Answers that the machine will hear next.
    soon: VecDeque<Input>,
    pub(super) closed: Vec<u64>,
}

impl Source {
    pub(super) fn new(contents: Vec<Content>) -> Self {
        Source {
            machine: Sender::new(Options::default()),
            store: contents.into_iter().map(|content| (content.id, content)).collect(),
            streams: BTreeMap::new(),
            writers: BTreeMap::new(),
            is_up: true,
            rot: BTreeSet::new(),
            soon: VecDeque::new(),
            closed: Vec::new(),
        }
    }

    pub(super) fn kill(&mut self) {
        self.machine = Sender::new(Options::default());
        self.streams.clear();
        self.writers.clear();
        self.soon.clear();
        self.is_up = false;
    }

    pub(super) fn handle(&mut self, now_ms: u64, input: Input) {
        self.machine.handle(now_ms, input);
        self.settle(now_ms);
    }

    pub(super) fn settle(&mut self, now_ms: u64) {
        loop {
            while let Some(output) = self.machine.poll_output() {
                self.carry_out(output);
            }
            match self.soon.pop_front() {
                Some(input) => self.machine.handle(now_ms, input),
                None => return,
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Open { snapshot } => {
                let result = match self.store.get(&snapshot) {
                    Some(content) => Ok(Arc::new(OpenSnapshot {
                        manifest: content.manifest.clone(),
                        encoded: content.encoded.clone(),
                    })),
                    None => Err(OpenFailure::Unknown),
                };
                self.soon.push_back(Input::Opened { snapshot, result });
            }
            Output::Answer { stream, response } => {
                let bytes = encode_pull_response(&response);
                let response = decode_pull_response(&bytes).expect("it survives its bytes");
                self.push(stream, Down::Response(response));
            }
            Output::SendManifest { stream, snapshot } => {
                let encoded = self.store[&snapshot].encoded.clone();
                self.push(stream, Down::Manifest(encoded));
            }
            Output::SendFrame { stream, snapshot, range } => {
                self.send_frame(stream, snapshot, range);
            }
            Output::SendPiece { stream, bytes } => self.send_piece(stream, bytes),
            Output::Finish { stream } => self.push(stream, Down::End(None)),
            Output::Reset { stream } => {
                self.writers.remove(&stream);
                if let Some(queue) = self.streams.get_mut(&stream) {
                    queue.clear();
                    queue.push_back(Down::End(Some("reset".to_owned())));
                }
            }
            Output::CheckPart { snapshot, part } => {
                let is_rotten = self.rot.iter().any(|rot| (rot.0, rot.1) == (snapshot, part));
                let result = Ok(!is_rotten);
                self.soon.push_back(Input::PartChecked { snapshot, part, result });
            }
            Output::Close { connection } => self.closed.push(connection),
            Output::Release { .. } | Output::Fenced { .. } => {}
        }
    }

    fn push(&mut self, stream: u64, down: Down) {
        if let Some(queue) = self.streams.get_mut(&stream) {
            queue.push_back(down);
        }
    }

    fn send_frame(&mut self, stream: u64, snapshot: SnapshotId, range: ByteRange) {
        let content = &self.store[&snapshot];
        let manifest = &content.manifest;
        let chunk = manifest.chunk_at(range.offset);
        let (start, length) = manifest.chunk_bounds(range.part, chunk);
        let mut bytes = content.parts[range.part as usize].to_vec();
        for (_, _, at) in self.rot.iter().filter(|rot| (rot.0, rot.1) == (snapshot, range.part)) {
            bytes[*at as usize] ^= 1;
        }
        let whole = &bytes[start as usize..start as usize + length as usize];
        if crc32c::crc32c(whole) != manifest.chunk_crc32c(range.part, chunk) {
            let reason = "rotten".to_owned();
            return self.soon.push_back(Input::FrameFailed { stream, is_corrupt: true, reason });
        }
        let data = Bytes::copy_from_slice(
            &bytes[range.offset as usize..(range.offset + range.bytes) as usize],
        );
        let header = ChunkHeader {
            part: range.part,
            offset: range.offset,
            bytes: range.bytes as u32,
            crc32c: crc32c::crc32c(&data),
        };
        let header = decode_chunk_header(&encode_chunk_header(&header)).expect("it is well formed");
        let frames = self.writers.entry(stream).or_default();
        frames.push_back((Some(header), data));
        if frames.len() == 1 {
            self.soon.push_back(Input::PieceReady { stream, bytes: range.bytes });
        }
    }

    fn send_piece(&mut self, stream: u64, bytes: u64) {
        let frames = self.writers.get_mut(&stream).expect("a piece of a frame");
        let (header, left) = frames.front_mut().expect("a piece of a frame");
        let piece = left.split_to(bytes as usize);
        let header = header.take().map(Down::Header);
        for down in header.into_iter().chain([Down::Data(piece), Down::Sent]) {
            self.push(stream, down);
        }
    }

    /// A piece has left.
    pub(super) fn sent(&mut self, now_ms: u64, stream: u64) {
        let Some(frames) = self.writers.get_mut(&stream) else { return };
        if frames.front().is_some_and(|(_, left)| left.is_empty()) {
            frames.pop_front();
            self.soon.push_back(Input::FrameSent { stream });
        }
        if let Some((_, left)) = frames.front() {
            self.soon.push_back(Input::PieceReady { stream, bytes: left.len() as u64 });
        }
        self.settle(now_ms);
    }
}

/// Digest of all parts, to compare stores with.
pub(super) fn digest_of(parts: &[Bytes]) -> Vec<Digest> {
    parts.iter().map(|part| Digest::of(part)).collect()
}
