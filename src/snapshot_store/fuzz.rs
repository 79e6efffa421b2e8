//! Fuzz targets of this room: what a crash or rot may leave in the staging area.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;

use slog::{Discard, Logger, o};

use super::*;
use crate::codec::digest_cache::{CachedSums, encode_digest_cache};
use crate::codec::manifest::encode_manifest;
use crate::codec::pull_record::{encode_last_status, encode_pull_record};
use crate::fuzz::{Target, Verdict, bounded};
use crate::limits::CHUNK_BYTES_MIN;
use crate::manifest::{Manifest, Part};
use crate::transfer::receiver::{Finding, RecordedPart};
use crate::types::{
    ChunkSet, ClusterId, ConfState, Digest, IncompletePart, NodeId, PartialChunk, PullCounters,
    PullRecord, SnapshotReference, SnapshotSource, TransferState, TransferStatus,
};

const CLUSTER: ClusterId = ClusterId([3; 16]);
const CONTENT: &[u8] = b"a part of one chunk, staged in part";

fn manifest() -> Manifest {
    let part = |name: &str| Part {
        name: name.to_owned(),
        bytes: CONTENT.len() as u64,
        digest: Digest::of(CONTENT),
        chunk_crc32c: vec![crc32c::crc32c(CONTENT)],
    };
    Manifest {
        cluster: CLUSTER,
        index: 9,
        term: 2,
        conf_state: ConfState { voters: vec![1], ..ConfState::default() },
        chunk_bytes: CHUNK_BYTES_MIN,
        parts: vec![part("000010.sst"), part("CURRENT")],
        created_unix_ms: 1,
    }
}

fn record(id: Digest, manifest_bytes: usize) -> PullRecord {
    PullRecord {
        reference: SnapshotReference {
            id,
            cluster: CLUSTER,
            total_bytes: 2 * CONTENT.len() as u64,
            parts: 2,
            manifest_bytes: manifest_bytes as u64,
            sources: vec![SnapshotSource { node: NodeId(1), bulk_address: "n1:7401".to_owned() }],
        },
        index: 9,
        message_bytes: 100,
        counters: PullCounters { received: 10, ..PullCounters::default() },
        state: TransferState::Pulling,
        finished_unix_ms: 0,
        complete: ChunkSet::new(2),
        verified: ChunkSet::new(2),
        incomplete: vec![IncompletePart { part: 0, chunks: ChunkSet::new(1) }],
        partial: vec![PartialChunk { part: 0, chunk: 0, staged: 7, delivered: 9 }],
    }
}

fn status(id: Digest) -> TransferStatus {
    TransferStatus {
        snapshot: id,
        index: 9,
        receiver: NodeId(2),
        source: NodeId(1),
        state: TransferState::Installed,
        total_bytes: 70,
        done_bytes: 70,
        bytes_per_second: 0,
        resumed_from_bytes: 0,
        resumes: 0,
        resent_bytes: 0,
        discarded_bytes: 0,
        reused_bytes: 0,
        received_bytes: 70,
        stall_reason: String::new(),
        message_bytes: 100,
        started_unix_ms: 1,
        finished_unix_ms: 2,
    }
}

/// The same content behind a right checksum.
fn sealed(input: &[u8]) -> Vec<u8> {
    let payload = &input[input.len().min(5)..];
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[1]), payload);
    [&[1][..], &checksum.to_be_bytes(), payload].concat()
}

#[test]
fn files_of_the_staging_area() {
    let root = tempfile::tempdir().unwrap();
    let options = StagingOptions { reserve_bytes: 0, ..StagingOptions::default() };
    let staging = Staging::open(root.path(), options, Logger::root(Discard, o!())).unwrap();
    let (id, encoded) = encode_manifest(&manifest()).unwrap();
    let (staged, _) = staging.begin(id, &encoded, Arc::new(manifest())).unwrap();
    staged.write(0, 0, &CONTENT[..9]).unwrap();
    let directory = root.path().join(id.to_string());
    let cache = root.path().join("digests");
    let sums = CachedSums {
        name: "000012.sst".to_owned(),
        generation: 1,
        bytes: 2,
        inode: 3,
        changed_ns: -4,
        chunk_bytes: 5,
        digest: [6; 32],
        chunk_crc32c: vec![7, 8],
    };
    let examples = vec![
        ("record", encode_pull_record(&record(id, encoded.len())).to_vec()),
        ("status", encode_last_status(&status(id)).to_vec()),
        ("manifest", encoded.to_vec()),
        ("digests", encode_digest_cache(&vec![sums]).to_vec()),
    ];
    Target::new("staging", examples).run(|input| {
        let mut verdict = Verdict::Refused;
        for content in [input, &sealed(input)] {
            fs::write(directory.join("record"), content).unwrap();
            fs::write(root.path().join("last-status"), content).unwrap();
            fs::write(&cache, content).unwrap();
            DigestCache::open(&cache);
            let last = bounded(content, || staging.last_status());
            let found = bounded(content, || staging.found());
            assert!(found.iter().all(|found| found.record.reference.id == id && !found.durable));
            if last.is_some() || !found.is_empty() {
                verdict = Verdict::Accepted;
            }
            for found in found {
                let recorded = RecordedPart {
                    verified: found.record.verified.contains(0),
                    complete: found.record.complete.contains(0),
                    chunks: found.record.incomplete.first().map(|entry| entry.chunks.clone()),
                    partial: found.record.partial,
                };
                // Nine bytes are there: whatever the record says, they are no whole chunk.
                match staged.inspect(0, &recorded, &[]).unwrap() {
                    Finding::Staged { chunks, prefixes } => {
                        assert_eq!((chunks.len(), chunks.count()), (1, 0));
                        assert!(prefixes.iter().all(|it| it.bytes < CONTENT.len() as u32));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        // A manifest is what its name says, or nothing.
        fs::write(directory.join("record"), b"").unwrap();
        fs::write(directory.join("manifest"), input).unwrap();
        let parts = staging.parts_of_others(Digest([0; 32]));
        assert!(parts.is_empty() || *input == *encoded);
        fs::write(directory.join("manifest"), &encoded).unwrap();
        let is_other =
            *input == *encoded || crate::codec::digest_cache::decode_digest_cache(input).is_ok();
        verdict.or(if is_other { Verdict::Accepted } else { Verdict::Refused })
    });
}
