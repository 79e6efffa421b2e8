//! What travels on a bulk stream: requests and responses (protobuf in frames) and the fixed header
//! of a chunk frame (`docs/protocol.md`, section 'Bulk lane').
//!
//! Decoding checks every number against `limits.rs`; whether a range lies inside a snapshot is the
//! source's question, not this file's.

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use crate::limits::{
    BULK_FRAME_BYTES_MAX, CHUNK_BYTES_MAX, MANIFEST_BYTES_MAX, RANGES_PER_REQUEST_MAX,
};
use crate::proto::internal::v1 as wire;
use crate::types::{
    ByteRange, ChunkHeader, Digest, PullRequest, PullResponse, RefusalReason, SnapshotId,
};

/// Version of the chunk header this code writes and reads.
pub const CHUNK_HEADER_VERSION: u8 = 1;
/// Bytes of a chunk header.
pub const CHUNK_HEADER_BYTES: usize = 28;
/// Encoding of the data: as it lies in the part. Offsets always count decoded bytes.
const ENCODING_RAW: u8 = 0;
/// Longest message of a refusal that is kept, bytes.
const REFUSAL_MESSAGE_BYTES_MAX: usize = 512;

/// Bytes of a bulk stream that break the protocol. Reject: close the stream and ask again.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BulkError {
    /// Not the expected message. Reject.
    #[error("malformed {what}: {problem}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A chunk header of a newer version, or of an encoding this version does not read. Reject.
    #[error("chunk header of version {version} and encoding {encoding} is unknown to this version")]
    Unknown {
        /// Its version.
        version: u8,
        /// Its encoding.
        encoding: u8,
    },
    /// The header's own CRC is wrong. Reject.
    #[error("chunk header is damaged: its checksum does not match")]
    HeaderChecksum,
}

/// Encodes a request as one frame's content.
pub fn encode_pull_request(request: &PullRequest) -> Vec<u8> {
    use wire::pull_request::Body;
    let id = |snapshot: &SnapshotId| Bytes::copy_from_slice(&snapshot.0);
    let body = match request {
        PullRequest::Manifest { snapshot } => {
            Body::Manifest(wire::ManifestRequest { snapshot_id: id(snapshot) })
        }
        PullRequest::Ranges { snapshot, ranges } => {
            assert!(!ranges.is_empty() && ranges.len() <= RANGES_PER_REQUEST_MAX);
            let ranges = ranges.iter().map(|range| wire::ByteRange {
                part: range.part,
                offset: range.offset,
                length: range.bytes,
            });
            Body::Range(wire::RangeRequest { snapshot_id: id(snapshot), ranges: ranges.collect() })
        }
        PullRequest::Suspect { snapshot, part, chunk } => Body::Suspect(wire::SuspectPart {
            snapshot_id: id(snapshot),
            part: *part,
            chunk: *chunk,
        }),
    };
    let bytes = wire::PullRequest { body: Some(body) }.encode_to_vec();
    assert!(bytes.len() <= BULK_FRAME_BYTES_MAX, "a request outgrew its frame");
    bytes
}

/// Decodes one frame's content as a request.
pub fn decode_pull_request(bytes: &[u8]) -> Result<PullRequest, BulkError> {
    use wire::pull_request::Body;
    let bad = |problem: &str| malformed("pull request", problem);
    check_frame("pull request", bytes)?;
    let message = wire::PullRequest::decode(bytes).map_err(|e| bad(&e.to_string()))?;
    Ok(match message.body.ok_or_else(|| bad("it asks for nothing this version knows"))? {
        Body::Manifest(request) => {
            PullRequest::Manifest { snapshot: snapshot_id(&request.snapshot_id)? }
        }
        Body::Range(request) => {
            if request.ranges.is_empty() || request.ranges.len() > RANGES_PER_REQUEST_MAX {
                return Err(bad("it names no range, or too many"));
            }
            if request.ranges.iter().any(|range| range.length == 0) {
                return Err(bad("a range is empty"));
            }
            let ranges = request.ranges.iter().map(|range| ByteRange {
                part: range.part,
                offset: range.offset,
                bytes: range.length,
            });
            PullRequest::Ranges {
                snapshot: snapshot_id(&request.snapshot_id)?,
                ranges: ranges.collect(),
            }
        }
        Body::Suspect(request) => PullRequest::Suspect {
            snapshot: snapshot_id(&request.snapshot_id)?,
            part: request.part,
            chunk: request.chunk,
        },
    })
}

/// Encodes a response as one frame's content.
pub fn encode_pull_response(response: &PullResponse) -> Vec<u8> {
    use wire::pull_refusal::Reason;
    use wire::pull_response::Body;
    let body = match response {
        PullResponse::ManifestFollows { bytes } => {
            Body::Manifest(wire::ManifestFollows { bytes: *bytes })
        }
        PullResponse::RangesFollow { frames } => {
            Body::Range(wire::RangeFollows { frames: *frames })
        }
        PullResponse::Queued { ahead } => Body::Queued(wire::Queued { ahead: *ahead }),
        PullResponse::Refused { reason, message } => {
            let reason = match reason {
                RefusalReason::UnknownSnapshot => Reason::UnknownSnapshot,
                RefusalReason::OutOfRange => Reason::OutOfRange,
                RefusalReason::Fenced => Reason::Fenced,
                RefusalReason::Malformed => Reason::Malformed,
                RefusalReason::ShuttingDown => Reason::ShuttingDown,
                RefusalReason::ReadFailed => Reason::ReadFailed,
            };
            let message = shortened(message);
            Body::Refusal(wire::PullRefusal { reason: reason.into(), message })
        }
        PullResponse::Verdict { part_is_good } => {
            Body::Verdict(wire::SuspectVerdict { part_is_good: *part_is_good })
        }
    };
    wire::PullResponse { body: Some(body) }.encode_to_vec()
}

/// Decodes one frame's content as a response.
pub fn decode_pull_response(bytes: &[u8]) -> Result<PullResponse, BulkError> {
    use wire::pull_refusal::Reason;
    use wire::pull_response::Body;
    let bad = |problem: &str| malformed("pull response", problem);
    check_frame("pull response", bytes)?;
    let message = wire::PullResponse::decode(bytes).map_err(|e| bad(&e.to_string()))?;
    Ok(match message.body.ok_or_else(|| bad("it says nothing this version knows"))? {
        Body::Manifest(response) => {
            if response.bytes == 0 || response.bytes > MANIFEST_BYTES_MAX as u64 {
                return Err(bad("the manifest's length is out of bounds"));
            }
            PullResponse::ManifestFollows { bytes: response.bytes }
        }
        Body::Range(response) => PullResponse::RangesFollow { frames: response.frames },
        Body::Queued(response) => PullResponse::Queued { ahead: response.ahead },
        Body::Refusal(response) => {
            let reason = match Reason::try_from(response.reason) {
                Ok(Reason::UnknownSnapshot) => RefusalReason::UnknownSnapshot,
                Ok(Reason::OutOfRange) => RefusalReason::OutOfRange,
                Ok(Reason::Fenced) => RefusalReason::Fenced,
                Ok(Reason::Malformed) => RefusalReason::Malformed,
                Ok(Reason::ShuttingDown) => RefusalReason::ShuttingDown,
                Ok(Reason::ReadFailed) => RefusalReason::ReadFailed,
                Err(_) => return Err(bad("its reason is unknown to this version")),
            };
            PullResponse::Refused { reason, message: shortened(&response.message) }
        }
        Body::Verdict(response) => PullResponse::Verdict { part_is_good: response.part_is_good },
    })
}

/// Encodes the header that precedes a chunk frame's data.
pub fn encode_chunk_header(header: &ChunkHeader) -> [u8; CHUNK_HEADER_BYTES] {
    let mut bytes = [0; CHUNK_HEADER_BYTES];
    bytes[0] = CHUNK_HEADER_VERSION;
    bytes[1] = ENCODING_RAW;
    bytes[4..8].copy_from_slice(&header.part.to_be_bytes());
    bytes[8..16].copy_from_slice(&header.offset.to_be_bytes());
    bytes[16..20].copy_from_slice(&header.bytes.to_be_bytes());
    bytes[20..24].copy_from_slice(&header.crc32c.to_be_bytes());
    let checksum = crc32c::crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Decodes the header of a chunk frame and bounds its length.
pub fn decode_chunk_header(bytes: &[u8; CHUNK_HEADER_BYTES]) -> Result<ChunkHeader, BulkError> {
    let four =
        |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if four(24) != crc32c::crc32c(&bytes[..24]) {
        return Err(BulkError::HeaderChecksum);
    }
    if bytes[0] != CHUNK_HEADER_VERSION || bytes[1] != ENCODING_RAW || bytes[2..4] != [0, 0] {
        return Err(BulkError::Unknown { version: bytes[0], encoding: bytes[1] });
    }
    let header = ChunkHeader {
        part: four(4),
        offset: u64::from(four(8)) << 32 | u64::from(four(12)),
        bytes: four(16),
        crc32c: four(20),
    };
    if header.bytes == 0 || header.bytes > CHUNK_BYTES_MAX {
        return Err(malformed("chunk header", "its length is out of bounds"));
    }
    Ok(header)
}

fn check_frame(what: &'static str, bytes: &[u8]) -> Result<(), BulkError> {
    if bytes.len() > BULK_FRAME_BYTES_MAX {
        return Err(malformed(what, "the frame is too long"));
    }
    Ok(())
}

fn snapshot_id(bytes: &[u8]) -> Result<SnapshotId, BulkError> {
    bytes.try_into().map(Digest).map_err(|_| malformed("pull request", "the id has not 32 bytes"))
}

fn shortened(message: &str) -> String {
    let end = message.floor_char_boundary(REFUSAL_MESSAGE_BYTES_MAX.min(message.len()));
    message[..end].to_owned()
}

fn malformed(what: &'static str, problem: &str) -> BulkError {
    BulkError::Malformed { what, problem: problem.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_digest() -> impl Strategy<Value = SnapshotId> {
        any::<[u8; 32]>().prop_map(Digest)
    }

    fn any_request() -> impl Strategy<Value = PullRequest> {
        let range = (any::<u32>(), any::<u64>(), 1..u64::MAX)
            .prop_map(|(part, offset, bytes)| ByteRange { part, offset, bytes });
        prop_oneof![
            any_digest().prop_map(|snapshot| PullRequest::Manifest { snapshot }),
            (any_digest(), proptest::collection::vec(range, 1..RANGES_PER_REQUEST_MAX))
                .prop_map(|(snapshot, ranges)| PullRequest::Ranges { snapshot, ranges }),
            (any_digest(), any::<u32>(), any::<u32>())
                .prop_map(|(snapshot, part, chunk)| PullRequest::Suspect { snapshot, part, chunk }),
        ]
    }

    #[test]
    fn the_largest_request_fits_its_frame() {
        let ranges = vec![
            ByteRange { part: u32::MAX, offset: u64::MAX, bytes: u64::MAX };
            RANGES_PER_REQUEST_MAX
        ];
        let request = PullRequest::Ranges { snapshot: Digest([255; 32]), ranges };
        assert_eq!(decode_pull_request(&encode_pull_request(&request)), Ok(request));
    }

    #[test]
    fn every_response_survives_its_bytes() {
        for response in [
            PullResponse::ManifestFollows { bytes: 77 },
            PullResponse::RangesFollow { frames: 3 },
            PullResponse::Queued { ahead: 2 },
            PullResponse::Refused { reason: RefusalReason::Fenced, message: "rot".to_owned() },
            PullResponse::Verdict { part_is_good: true },
        ] {
            assert_eq!(decode_pull_response(&encode_pull_response(&response)), Ok(response));
        }
    }

    #[test]
    fn a_manifest_of_impossible_length_is_refused() {
        for bytes in [0, MANIFEST_BYTES_MAX as u64 + 1, u64::MAX] {
            let frame = encode_pull_response(&PullResponse::ManifestFollows { bytes });
            assert!(decode_pull_response(&frame).is_err(), "{bytes}");
        }
    }

    #[test]
    fn the_chunk_header_keeps_its_layout() {
        let header =
            ChunkHeader { part: 1, offset: 0x0203_0405_0607, bytes: 0x0001_0000, crc32c: 9 };
        let bytes = encode_chunk_header(&header);
        assert_eq!(
            bytes[..24],
            [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 3, 4, 5, 6, 7, 0, 1, 0, 0, 0, 0, 0, 9]
        );
        assert_eq!(decode_chunk_header(&bytes), Ok(header));
    }

    #[test]
    fn a_damaged_chunk_header_is_refused_at_every_byte() {
        let good = encode_chunk_header(&ChunkHeader { part: 7, offset: 9, bytes: 11, crc32c: 13 });
        for at in 0..CHUNK_HEADER_BYTES {
            let mut bytes = good;
            bytes[at] ^= 0x10;
            assert_eq!(decode_chunk_header(&bytes), Err(BulkError::HeaderChecksum), "byte {at}");
        }
    }

    #[test]
    fn a_chunk_longer_than_any_chunk_is_refused() {
        for bytes in [0, CHUNK_BYTES_MAX + 1] {
            let header = ChunkHeader { part: 0, offset: 0, bytes, crc32c: 0 };
            let error = decode_chunk_header(&encode_chunk_header(&header)).unwrap_err();
            assert!(matches!(error, BulkError::Malformed { .. }));
        }
    }

    proptest! {
        #[test]
        fn every_request_survives_its_bytes(request in any_request()) {
            prop_assert_eq!(decode_pull_request(&encode_pull_request(&request)), Ok(request));
        }
    }
}
