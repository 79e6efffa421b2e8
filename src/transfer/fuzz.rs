//! Fuzz targets of this room: whatever a receiver asks a source, and whatever lay on a receiver's disk
//! and comes from its source.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::simulation::{CLUSTER, Content};
use super::{receiver, sender};
use crate::codec::bulk::{
    CHUNK_HEADER_BYTES, decode_chunk_header, decode_pull_request, decode_pull_response,
    encode_chunk_header, encode_pull_request, encode_pull_response,
};
use crate::codec::pull_record::{decode_pull_record, encode_pull_record};
use crate::fuzz::{Target, Verdict};
use crate::limits::CHUNK_BYTES_MIN;
use crate::types::{
    ByteRange, ChunkHeader, ChunkSet, IncompletePart, NodeId, Now, PartialChunk, PullCounters,
    PullRecord, PullRequest, PullResponse, TransferState,
};

const CHUNK: usize = CHUNK_BYTES_MIN as usize;
/// Steps after which a machine that still has something to say goes round in circles.
const STEPS_MAX: usize = 100_000;

fn content() -> Content {
    Content::random(40, &[2 * CHUNK + 100, 600, 0], 1)
}

/// Pieces in a row: length (two bytes, big-endian), bytes.
fn frames(pieces: &[Vec<u8>]) -> Vec<u8> {
    let framed =
        pieces.iter().map(|piece| [&(piece.len() as u16).to_be_bytes()[..], piece].concat());
    framed.collect::<Vec<_>>().concat()
}

fn parse_frames(mut input: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        found.push(piece);
        input = rest;
    }
    found
}

/// Does what a source asks for, as a runtime does it.
fn serve(machine: &mut sender::Sender, content: &Content) {
    use sender::{Input, Output};
    // Of each stream the bytes left of its frames: the first is being sent.
    let mut frames: BTreeMap<u64, VecDeque<u64>> = BTreeMap::new();
    for _ in 0..STEPS_MAX {
        let Some(output) = machine.poll_output() else { return };
        let input = match output {
            Output::Open { snapshot } if snapshot == content.id => {
                let (manifest, encoded) = (content.manifest.clone(), content.encoded.clone());
                let open = sender::OpenSnapshot { manifest, encoded };
                Input::Opened { snapshot, result: Ok(Arc::new(open)) }
            }
            Output::Open { snapshot } => {
                Input::Opened { snapshot, result: Err(sender::OpenFailure::Unknown) }
            }
            Output::SendFrame { stream, range, .. } => {
                let manifest = &content.manifest;
                let chunk = manifest.chunk_at(range.offset);
                let (begin, bytes) = manifest.chunk_bounds(range.part, chunk);
                assert!(range.bytes > 0, "an empty frame");
                assert!(range.offset + range.bytes <= begin + u64::from(bytes), "{range:?}");
                let frames = frames.entry(stream).or_default();
                frames.push_back(range.bytes);
                if frames.len() > 1 {
                    continue;
                }
                Input::PieceReady { stream, bytes: range.bytes }
            }
            Output::SendPiece { stream, bytes } => {
                let frames = frames.get_mut(&stream).unwrap();
                frames[0] -= bytes;
                if frames[0] == 0 {
                    frames.pop_front();
                    machine.handle(0, Input::FrameSent { stream });
                }
                let Some(bytes) = frames.front().copied() else { continue };
                Input::PieceReady { stream, bytes }
            }
            Output::Finish { stream } | Output::Reset { stream } => Input::StreamClosed { stream },
            Output::CheckPart { snapshot, part } => {
                Input::PartChecked { snapshot, part, result: Ok(true) }
            }
            Output::Close { connection } => Input::Closed { connection },
            Output::Answer { .. }
            | Output::SendManifest { .. }
            | Output::Release { .. }
            | Output::Fenced { .. } => continue,
        };
        machine.handle(0, input);
    }
    panic!("a source that never comes to rest");
}

#[test]
fn requests_to_a_source() {
    let content = content();
    let snapshot = content.id;
    let range = |part, offset, bytes| ByteRange { part, offset, bytes };
    let ranges = |ranges| encode_pull_request(&PullRequest::Ranges { snapshot, ranges });
    let manifest = encode_pull_request(&PullRequest::Manifest { snapshot });
    let chunk = CHUNK as u64;
    let examples = vec![
        (
            "manifest-and-all",
            frames(&[
                manifest.clone(),
                ranges(vec![range(0, 0, 2 * chunk + 100), range(1, 0, 600)]),
            ]),
        ),
        ("resume", frames(&[ranges(vec![range(0, chunk + 5, 100), range(1, 599, 1)])])),
        (
            "suspect",
            frames(&[
                manifest,
                encode_pull_request(&PullRequest::Suspect { snapshot, part: 0, chunk: 2 }),
            ]),
        ),
    ];
    Target::new("source", examples).run(|input| {
        let mut machine = sender::Sender::new(sender::Options::default());
        machine.handle(0, sender::Input::Connected { connection: 1, receiver: NodeId(9) });
        let mut verdict = Verdict::Refused;
        for (stream, frame) in (1..).zip(parse_frames(input).into_iter().take(32)) {
            let request = decode_pull_request(frame).map_err(|error| error.to_string());
            verdict = verdict.or(Verdict::of(&request));
            machine.handle(0, sender::Input::Request { connection: 1, stream, request });
            serve(&mut machine, &content);
        }
        verdict
    });
}

/// A receiver, and what its runtime remembers.
struct Puller<'a> {
    machine: receiver::Receiver,
    content: &'a Content,
    record: Option<Box<PullRecord>>,
    /// What the source says on each further stream.
    answers: std::slice::Iter<'a, &'a [u8]>,
}

impl Puller<'_> {
    fn now() -> Now {
        Now { monotonic_ms: 5, unix_ms: 1_000_000 }
    }

    fn tell(&mut self, input: receiver::Input) {
        self.machine.handle(Self::now(), input);
    }

    /// Does what the machine asks for until it rests or the source has nothing more to say.
    fn run(&mut self) {
        use receiver::{Input, Output};
        for _ in 0..STEPS_MAX {
            match self.machine.poll_output() {
                None => return,
                Some(Output::Connect { attempt, .. }) => self.tell(Input::Connected { attempt }),
                Some(Output::Request { request, .. }) => {
                    let Some(answer) = self.answers.next() else { return };
                    let failure = self.answer(request, answer).err();
                    self.tell(Input::RequestEnded { request, failure });
                }
                Some(Output::Disk { ticket, operation }) => {
                    let result = self.disk(&operation);
                    self.tell(Input::Disk { ticket, result });
                }
                Some(_) => {}
            }
        }
        panic!("a receiver that never comes to rest");
    }

    fn disk(&mut self, operation: &receiver::DiskOperation) -> receiver::DiskResult {
        use receiver::{DiskOperation, DiskResult, Finding, PartCheck, StagedPrefix};
        match operation {
            DiskOperation::Open { .. } => DiskResult::Opened { record: self.record.take() },
            DiskOperation::Inspect { part, recorded, .. } => {
                let manifest = &self.content.manifest;
                let none = ChunkSet::new(manifest.chunks(*part));
                if let Some(chunks) = &recorded.chunks {
                    assert_eq!(chunks.len(), none.len(), "a record of another shape was believed");
                }
                let chunks = recorded.chunks.clone().unwrap_or(none);
                // As the disk judges beginnings: within their chunk, and of no staged one.
                let prefixes = recorded.partial.iter().take(1).filter_map(|entry| {
                    let fits = entry.chunk < chunks.len() && !chunks.contains(entry.chunk);
                    let length = fits.then(|| manifest.chunk_bounds(*part, entry.chunk).1)?;
                    let delivered = entry.delivered.min(length);
                    let bytes = if entry.staged >= length { 0 } else { entry.staged };
                    let chunk = entry.chunk;
                    (delivered > 0).then_some(StagedPrefix { chunk, bytes, delivered, crc32c: 0 })
                });
                let prefixes = prefixes.collect();
                DiskResult::Inspected(Finding::Staged { chunks, prefixes })
            }
            DiskOperation::Verify { part, .. } => {
                let digest = self.content.manifest.parts[*part as usize].digest;
                DiskResult::Checked(PartCheck { digest, bad_chunks: Vec::new() })
            }
            DiskOperation::Persist { record, .. } | DiskOperation::Finish { record, .. } => {
                let encoded = encode_pull_record(record);
                assert_eq!(decode_pull_record(&encoded).as_ref(), Ok(&**record));
                DiskResult::Done
            }
            _ => DiskResult::Done,
        }
    }

    /// Reads one answer of the source as a runtime does: a response, then chunks: header and bytes.
    fn answer(&mut self, request: u64, answer: &[u8]) -> Result<(), String> {
        use receiver::Input;
        let (length, rest) = answer.split_first().ok_or("nothing came")?;
        let (response, mut rest) = rest.split_at(usize::from(*length).min(rest.len()));
        match decode_pull_response(response).map_err(|error| error.to_string())? {
            PullResponse::Queued { ahead } => self.tell(Input::Queued { request, ahead }),
            PullResponse::Refused { reason, message } => {
                self.tell(Input::Refused { request, reason, message });
            }
            PullResponse::Verdict { part_is_good } => {
                self.tell(Input::Verdict { request, part_is_good });
            }
            PullResponse::ManifestFollows { bytes } => {
                // The true one where the source announces it, so that the story goes on.
                let bytes = match bytes == self.content.encoded.len() as u64 {
                    true => self.content.encoded.clone(),
                    false => Bytes::copy_from_slice(rest),
                };
                self.tell(Input::Manifest { request, bytes });
            }
            PullResponse::RangesFollow { .. } => {
                while let Some((header, data)) = rest.split_first_chunk::<CHUNK_HEADER_BYTES>() {
                    let header = decode_chunk_header(header).map_err(|error| error.to_string())?;
                    self.tell(Input::Frame { request, header });
                    let (bytes, after) = data.split_at(data.len().min(header.bytes as usize));
                    if !bytes.is_empty() {
                        let bytes = Bytes::copy_from_slice(bytes);
                        self.tell(Input::Data { request, bytes });
                    }
                    rest = after;
                }
            }
        }
        Ok(())
    }
}

fn record(content: &Content) -> PullRecord {
    let mut chunks = ChunkSet::new(3);
    chunks.insert(1);
    PullRecord {
        reference: content.reference(&[1, 2]),
        index: 40,
        message_bytes: 100,
        counters: PullCounters { received: CHUNK as u64 + 100, resumes: 1, ..Default::default() },
        state: TransferState::Pulling,
        finished_unix_ms: 0,
        complete: ChunkSet::new(3),
        verified: ChunkSet::new(3),
        incomplete: vec![IncompletePart { part: 0, chunks }],
        partial: vec![PartialChunk { part: 0, chunk: 2, staged: 50, delivered: 60 }],
    }
}

/// A record behind a right checksum, as only bits that rot behind the checksum's back would leave it.
fn sealed(input: &[u8]) -> Vec<u8> {
    let payload = &input[input.len().min(5)..];
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[1]), payload);
    [&[1][..], &checksum.to_be_bytes(), payload].concat()
}

#[test]
fn records_and_answers_at_a_receiver() {
    let content = content();
    let say = |response: &PullResponse| {
        let response = encode_pull_response(response);
        [vec![response.len() as u8], response].concat()
    };
    let manifest = say(&PullResponse::ManifestFollows { bytes: content.encoded.len() as u64 });
    let chunk = |part: u32, offset: u64, bytes: u32| {
        let data = &content.parts[part as usize][offset as usize..][..bytes as usize];
        let header = ChunkHeader { part, offset, bytes, crc32c: crc32c::crc32c(data) };
        [&encode_chunk_header(&header)[..], data].concat()
    };
    let ranges = say(&PullResponse::RangesFollow { frames: 1 });
    let small = [ranges.clone(), chunk(1, 0, 600)].concat();
    let end = [ranges, chunk(0, 2 * CHUNK as u64, 100)].concat();
    let stored = encode_pull_record(&record(&content)).to_vec();
    let examples = vec![
        ("resume", frames(&[stored.clone(), manifest.clone(), end, small.clone()])),
        ("fresh", frames(&[vec![], manifest.clone(), small])),
        ("queued", frames(&[stored, say(&PullResponse::Queued { ahead: 2 }), manifest.clone()])),
        (
            "verdict",
            frames(&[vec![], manifest, say(&PullResponse::Verdict { part_is_good: true })]),
        ),
    ];
    Target::new("receiver", examples).run(|input| {
        let pieces = parse_frames(input);
        let Some((first, answers)) = pieces.split_first() else { return Verdict::Refused };
        let options =
            receiver::Options { streams: 2, ..receiver::Options::new(NodeId(9), CLUSTER, 1) };
        let found = decode_pull_record(&sealed(first));
        let mut puller = Puller {
            machine: receiver::Receiver::new(options, None, Puller::now()),
            content: &content,
            record: found.clone().ok().map(Box::new),
            answers: answers.iter(),
        };
        let manifest = Some(content.encoded.clone());
        match found.clone() {
            Ok(record) if record.reference.id == content.id => {
                let found = receiver::Found { record, manifest, durable: false };
                puller.tell(receiver::Input::Resume(Box::new(found)));
            }
            _ => puller.tell(receiver::Input::Offer {
                reference: content.reference(&[1, 2]),
                index: 40,
                message_bytes: 100,
            }),
        }
        puller.run();
        // What the node shows and asks for stays well defined.
        puller.machine.status(Puller::now());
        puller.machine.next_timer_ms(Puller::now());
        match found.is_ok() || first.is_empty() {
            true => Verdict::Accepted,
            false => Verdict::Refused,
        }
    });
}
