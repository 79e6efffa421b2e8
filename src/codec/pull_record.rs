//! The record of a pull (`incoming/<id>/record`) and of the last finished one, to bytes and back.
//!
//! Layout: version byte, CRC32C of version and payload (big endian), bincode payload. Only this
//! node reads it. What does not decode is worth nothing but time: the receiver then judges every
//! staged chunk by the manifest.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;
use thiserror::Error;

use super::local;
use super::manifest::{decode_reference, encode_reference};
use crate::limits::PULL_RECORD_BYTES_MAX;
use crate::types::{
    ChunkSet, Digest, IncompletePart, NodeId, PartialChunk, PullCounters, PullRecord,
    TransferState, TransferStatus,
};

/// Version of the record this code writes.
const VERSION: u8 = 1;
/// Bytes before the payload.
const HEADER_BYTES: usize = 5;

/// A persisted record that cannot be used. Reject: go on without it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RecordError {
    /// Its checksum does not match, or it is cut off. Reject.
    #[error("the record is damaged: {0}")]
    Damaged(String),
    /// A newer version wrote it. Reject.
    #[error("the record has version {0}, this version reads {VERSION}")]
    Version(u8),
}

#[derive(Encode, BorrowDecode)]
struct RecordOnDisk {
    reference: Vec<u8>,
    index: u64,
    message_bytes: u64,
    counters: CountersOnDisk,
    state: u8,
    failure: String,
    finished_unix_ms: u64,
    complete: SetOnDisk,
    verified: SetOnDisk,
    incomplete: Vec<(u32, SetOnDisk)>,
    partial: Vec<(u32, u32, u32, u32)>,
}

#[derive(Encode, BorrowDecode)]
struct CountersOnDisk {
    received: u64,
    resent: u64,
    discarded: u64,
    reused: u64,
    resumed_from: u64,
    resumes: u64,
    started_unix_ms: u64,
}

#[derive(Encode, BorrowDecode)]
struct SetOnDisk {
    len: u32,
    words: Vec<u64>,
}

#[derive(Encode, BorrowDecode)]
struct StatusOnDisk {
    snapshot: [u8; 32],
    index: u64,
    receiver: u64,
    source: u64,
    state: u8,
    failure: String,
    total_bytes: u64,
    done_bytes: u64,
    counters: CountersOnDisk,
    stall_reason: String,
    message_bytes: u64,
    finished_unix_ms: u64,
}

/// Encodes a record.
pub fn encode_pull_record(record: &PullRecord) -> Bytes {
    let reference =
        encode_reference(&record.reference).expect("a reference that was decoded encodes again");
    let (state, failure) = state_to_disk(&record.state);
    frame(&RecordOnDisk {
        reference: reference.to_vec(),
        index: record.index,
        message_bytes: record.message_bytes,
        counters: counters_to_disk(&record.counters),
        state,
        failure,
        finished_unix_ms: record.finished_unix_ms,
        complete: set_to_disk(&record.complete),
        verified: set_to_disk(&record.verified),
        incomplete: record
            .incomplete
            .iter()
            .map(|entry| (entry.part, set_to_disk(&entry.chunks)))
            .collect(),
        partial: record
            .partial
            .iter()
            .map(|entry| (entry.part, entry.chunk, entry.staged, entry.delivered))
            .collect(),
    })
}

/// Decodes a record.
pub fn decode_pull_record(bytes: &[u8]) -> Result<PullRecord, RecordError> {
    let disk: RecordOnDisk = unframe(bytes)?;
    let reference = decode_reference(&disk.reference).map_err(|e| damaged(&e))?;
    let incomplete: Result<Vec<IncompletePart>, RecordError> = disk
        .incomplete
        .into_iter()
        .map(|(part, chunks)| Ok(IncompletePart { part, chunks: set_from_disk(chunks)? }))
        .collect();
    let partial = disk.partial.into_iter().map(|(part, chunk, staged, delivered)| PartialChunk {
        part,
        chunk,
        staged,
        delivered,
    });
    Ok(PullRecord {
        reference,
        index: disk.index,
        message_bytes: disk.message_bytes,
        counters: counters_from_disk(&disk.counters),
        state: state_from_disk(disk.state, disk.failure)?,
        finished_unix_ms: disk.finished_unix_ms,
        complete: set_from_disk(disk.complete)?,
        verified: set_from_disk(disk.verified)?,
        incomplete: incomplete?,
        partial: partial.collect(),
    })
}

/// Encodes the status of a finished pull.
pub fn encode_last_status(status: &TransferStatus) -> Bytes {
    let (state, failure) = state_to_disk(&status.state);
    frame(&StatusOnDisk {
        snapshot: status.snapshot.0,
        index: status.index,
        receiver: status.receiver.0,
        source: status.source.0,
        state,
        failure,
        total_bytes: status.total_bytes,
        done_bytes: status.done_bytes,
        counters: CountersOnDisk {
            received: status.received_bytes,
            resent: status.resent_bytes,
            discarded: status.discarded_bytes,
            reused: status.reused_bytes,
            resumed_from: status.resumed_from_bytes,
            resumes: status.resumes,
            started_unix_ms: status.started_unix_ms,
        },
        stall_reason: status.stall_reason.clone(),
        message_bytes: status.message_bytes,
        finished_unix_ms: status.finished_unix_ms,
    })
}

/// Decodes the status of a finished pull.
pub fn decode_last_status(bytes: &[u8]) -> Result<TransferStatus, RecordError> {
    let disk: StatusOnDisk = unframe(bytes)?;
    Ok(TransferStatus {
        snapshot: Digest(disk.snapshot),
        index: disk.index,
        receiver: NodeId(disk.receiver),
        source: NodeId(disk.source),
        state: state_from_disk(disk.state, disk.failure)?,
        total_bytes: disk.total_bytes,
        done_bytes: disk.done_bytes,
        bytes_per_second: 0,
        resumed_from_bytes: disk.counters.resumed_from,
        resumes: disk.counters.resumes,
        resent_bytes: disk.counters.resent,
        discarded_bytes: disk.counters.discarded,
        reused_bytes: disk.counters.reused,
        received_bytes: disk.counters.received,
        stall_reason: disk.stall_reason,
        message_bytes: disk.message_bytes,
        started_unix_ms: disk.counters.started_unix_ms,
        finished_unix_ms: disk.finished_unix_ms,
    })
}

pub(super) fn frame<T: Encode>(value: &T) -> Bytes {
    let payload = bincode::encode_to_vec(value, bincode::config::standard())
        .expect("plain structs always encode");
    let mut bytes = vec![VERSION, 0, 0, 0, 0];
    bytes.extend_from_slice(&payload);
    let checksum = checksum(&bytes);
    bytes[1..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
    Bytes::from(bytes)
}

pub(super) fn unframe<T: for<'a> BorrowDecode<'a, ()>>(bytes: &[u8]) -> Result<T, RecordError> {
    if bytes.len() < HEADER_BYTES || bytes.len() > PULL_RECORD_BYTES_MAX {
        return Err(RecordError::Damaged(format!("it has {} bytes", bytes.len())));
    }
    let stored = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    if stored != checksum(bytes) {
        return Err(RecordError::Damaged("its checksum does not match".to_owned()));
    }
    if bytes[0] != VERSION {
        return Err(RecordError::Version(bytes[0]));
    }
    let (value, used) = local::decode_bounded(&bytes[HEADER_BYTES..]).map_err(|e| damaged(&e))?;
    if used + HEADER_BYTES != bytes.len() {
        return Err(RecordError::Damaged("bytes are left over".to_owned()));
    }
    Ok(value)
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..1]), &bytes[HEADER_BYTES..])
}

fn damaged(error: &dyn std::error::Error) -> RecordError {
    RecordError::Damaged(error.to_string())
}

fn set_to_disk(set: &ChunkSet) -> SetOnDisk {
    SetOnDisk { len: set.len(), words: set.words().to_vec() }
}

fn set_from_disk(disk: SetOnDisk) -> Result<ChunkSet, RecordError> {
    ChunkSet::from_words(disk.len, disk.words)
        .ok_or_else(|| RecordError::Damaged("a bitmap does not fit its length".to_owned()))
}

fn counters_to_disk(counters: &PullCounters) -> CountersOnDisk {
    CountersOnDisk {
        received: counters.received,
        resent: counters.resent,
        discarded: counters.discarded,
        reused: counters.reused,
        resumed_from: counters.resumed_from,
        resumes: counters.resumes,
        started_unix_ms: counters.started_unix_ms,
    }
}

fn counters_from_disk(disk: &CountersOnDisk) -> PullCounters {
    PullCounters {
        received: disk.received,
        resent: disk.resent,
        discarded: disk.discarded,
        reused: disk.reused,
        resumed_from: disk.resumed_from,
        resumes: disk.resumes,
        started_unix_ms: disk.started_unix_ms,
    }
}

fn state_to_disk(state: &TransferState) -> (u8, String) {
    let number = match state {
        TransferState::Offered => 0,
        TransferState::FetchingManifest => 1,
        TransferState::Planning => 2,
        TransferState::Pulling => 3,
        TransferState::Verifying => 4,
        TransferState::Durable => 5,
        TransferState::Stepped => 6,
        TransferState::Installed => 7,
        TransferState::Superseded => 8,
        TransferState::Failed(reason) => return (9, reason.clone()),
    };
    (number, String::new())
}

fn state_from_disk(number: u8, failure: String) -> Result<TransferState, RecordError> {
    Ok(match number {
        0 => TransferState::Offered,
        1 => TransferState::FetchingManifest,
        2 => TransferState::Planning,
        3 => TransferState::Pulling,
        4 => TransferState::Verifying,
        5 => TransferState::Durable,
        6 => TransferState::Stepped,
        7 => TransferState::Installed,
        8 => TransferState::Superseded,
        9 => TransferState::Failed(failure),
        other => return Err(RecordError::Damaged(format!("state {other} is unknown"))),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, SnapshotReference, SnapshotSource};

    fn sample() -> PullRecord {
        let mut chunks = ChunkSet::new(70);
        chunks.insert(3);
        chunks.insert(69);
        let mut complete = ChunkSet::new(3);
        complete.insert(0);
        PullRecord {
            reference: SnapshotReference {
                id: Digest([1; 32]),
                cluster: ClusterId([2; 16]),
                total_bytes: 3,
                parts: 3,
                manifest_bytes: 5,
                sources: vec![SnapshotSource { node: NodeId(6), bulk_address: "a:7".to_owned() }],
            },
            index: 8,
            message_bytes: 9,
            counters: PullCounters { received: 10, resumes: 2, ..Default::default() },
            state: TransferState::Failed("x".to_owned()),
            finished_unix_ms: 11,
            verified: ChunkSet::new(3),
            complete,
            incomplete: vec![IncompletePart { part: 1, chunks }],
            partial: vec![PartialChunk { part: 1, chunk: 4, staged: 100, delivered: 200 }],
        }
    }

    #[test]
    fn a_record_survives_its_bytes() {
        assert_eq!(decode_pull_record(&encode_pull_record(&sample())), Ok(sample()));
    }

    #[test]
    fn version_1_of_the_record_is_read_for_ever() {
        let golden = concat!(
            "01dd567c3d450801122001010101010101010101010101010101010101010101010101010101",
            "010101011a10020202020202020202020202020202022003280330053a0708061203613a3708090a00",
            "00000002000901780b03010103010001014602082001010464c8",
        );
        assert_eq!(data_encoding::HEXLOWER.encode(&encode_pull_record(&sample())), golden);
        let bytes = data_encoding::HEXLOWER.decode(golden.as_bytes()).unwrap();
        assert_eq!(decode_pull_record(&bytes), Ok(sample()));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let good = encode_pull_record(&sample());
        for at in 0..good.len() {
            let mut bytes = good.to_vec();
            bytes[at] ^= 0x20;
            assert!(
                matches!(decode_pull_record(&bytes), Err(RecordError::Damaged(_))),
                "byte {at}"
            );
        }
        assert!(decode_pull_record(&good[..good.len() - 1]).is_err());
        assert!(decode_pull_record(b"").is_err());
    }

    #[test]
    fn a_status_survives_its_bytes() {
        let status = TransferStatus {
            snapshot: Digest([1; 32]),
            index: 2,
            receiver: NodeId(3),
            source: NodeId(4),
            state: TransferState::Installed,
            total_bytes: 5,
            done_bytes: 6,
            bytes_per_second: 0,
            resumed_from_bytes: 7,
            resumes: 8,
            resent_bytes: 9,
            discarded_bytes: 10,
            reused_bytes: 11,
            received_bytes: 12,
            stall_reason: String::new(),
            message_bytes: 13,
            started_unix_ms: 14,
            finished_unix_ms: 15,
        };
        assert_eq!(decode_last_status(&encode_last_status(&status)), Ok(status));
    }
}
