//! Manifests and snapshot references to protobuf bytes and back.
//!
//! A manifest may be 64 MiB long, and an empty part takes two bytes of it but a hundred in memory:
//! its outermost fields are counted before anything is decoded. Never reads a part.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::limits::{
    ADDRESS_BYTES_MAX, EMBEDDED_BYTES_MAX, KIB, MANIFEST_BYTES_MAX, MANIFEST_PARTS_MAX, MIB,
    NODES_MAX, SNAPSHOT_REFERENCE_BYTES_MAX,
};
use crate::manifest::{MANIFEST_FORMAT, Manifest, ManifestError, Part, check_encoded_length};
use crate::proto::internal::v1 as wire;
use crate::types::{
    ClusterId, ConfState, Digest, EmbeddedSnapshot, NodeId, SnapshotId, SnapshotReference,
    SnapshotSource,
};

/// Field number of `Manifest.parts`.
const PARTS_FIELD: u32 = 7;
/// Field number of `EmbeddedSnapshot.parts`.
const EMBEDDED_PARTS_FIELD: u32 = 2;
/// Longest outermost field of a manifest other than a part, bytes.
const OTHER_FIELD_BYTES_MAX: u64 = 8 * KIB as u64;

/// Encodes a manifest and names it by its digest.
pub fn encode_manifest(manifest: &Manifest) -> Result<(SnapshotId, Bytes), ManifestError> {
    manifest.validate()?;
    let parts = manifest.parts.iter().map(|part| wire::Part {
        name: part.name.clone(),
        bytes: part.bytes,
        digest: Bytes::copy_from_slice(&part.digest.0),
        chunk_crc32c: part.chunk_crc32c.clone(),
    });
    let message = wire::Manifest {
        format: MANIFEST_FORMAT,
        cluster_id: Bytes::copy_from_slice(&manifest.cluster.0),
        index: manifest.index,
        term: manifest.term,
        conf_state: Some(wire::ConfState::from(&manifest.conf_state)),
        chunk_bytes: manifest.chunk_bytes,
        parts: parts.collect(),
        created_unix_ms: manifest.created_unix_ms,
    };
    let bytes = Bytes::from(message.encode_to_vec());
    check_encoded_length(bytes.len() as u64)?;
    Ok((Digest::of(&bytes), bytes))
}

/// Decodes and validates the manifest that `id` names.
pub fn decode_manifest(id: SnapshotId, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    check_encoded_length(bytes.len() as u64)?;
    let found = Digest::of(bytes);
    if found != id {
        return Err(ManifestError::Digest { expected: id, found });
    }
    decode_unnamed(bytes)
}

fn decode_unnamed(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    count_fields(bytes, PARTS_FIELD, OTHER_FIELD_BYTES_MAX)?;
    let message = wire::Manifest::decode(bytes).map_err(malformed)?;
    if message.format != MANIFEST_FORMAT {
        return Err(ManifestError::Format { found: message.format });
    }
    let conf_state = message
        .conf_state
        .ok_or_else(|| ManifestError::Malformed("it has no conf state".to_owned()))?;
    let parts: Result<Vec<Part>, ManifestError> = message.parts.into_iter().map(part).collect();
    let manifest = Manifest {
        cluster: ClusterId(fixed("cluster id", &message.cluster_id)?),
        index: message.index,
        term: message.term,
        conf_state: ConfState::try_from(conf_state)
            .map_err(|error| ManifestError::Malformed(error.to_string()))?,
        chunk_bytes: message.chunk_bytes,
        parts: parts?,
        created_unix_ms: message.created_unix_ms,
    };
    manifest.validate()?;
    Ok(manifest)
}

fn part(message: wire::Part) -> Result<Part, ManifestError> {
    Ok(Part {
        digest: Digest(fixed("digest of a part", &message.digest)?),
        name: message.name,
        bytes: message.bytes,
        chunk_crc32c: message.chunk_crc32c,
    })
}

/// Walks the outermost fields without allocating, and refuses too many parts (fields numbered
/// `parts_field`) or another field of more than `other_bytes_max`.
fn count_fields(
    mut bytes: &[u8],
    parts_field: u32,
    other_bytes_max: u64,
) -> Result<(), ManifestError> {
    let mut parts: u64 = 0;
    while bytes.has_remaining() {
        let (field, wire_type) = decode_key(&mut bytes).map_err(malformed)?;
        let length = match wire_type {
            WireType::Varint => {
                decode_varint(&mut bytes).map_err(malformed)?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => decode_varint(&mut bytes).map_err(malformed)?,
            WireType::StartGroup | WireType::EndGroup => {
                return Err(ManifestError::Malformed("it holds a group".to_owned()));
            }
        };
        if length > bytes.remaining() as u64 {
            return Err(ManifestError::Malformed("it is cut off".to_owned()));
        }
        if field == parts_field {
            parts += 1;
            let limit = MANIFEST_PARTS_MAX as u64;
            if parts > limit {
                return Err(ManifestError::TooLarge { what: "parts", found: parts, limit });
            }
        } else if length > other_bytes_max {
            let limit = other_bytes_max;
            return Err(ManifestError::TooLarge { what: "a field", found: length, limit });
        }
        bytes.advance(length as usize);
    }
    Ok(())
}

/// Encodes a small snapshot that travels beside MsgSnapshot.
pub fn encode_embedded(embedded: &EmbeddedSnapshot) -> Bytes {
    let message = wire::EmbeddedSnapshot {
        manifest: embedded.manifest.clone(),
        parts: embedded.parts.clone(),
    };
    Bytes::from(message.encode_to_vec())
}

/// Decodes a small snapshot; the manifest in it is still to be checked.
pub fn decode_embedded(bytes: &Bytes) -> Result<EmbeddedSnapshot, ManifestError> {
    let limit = (EMBEDDED_BYTES_MAX + 2 * MIB) as u64;
    if bytes.len() as u64 > limit {
        let found = bytes.len() as u64;
        return Err(ManifestError::TooLarge { what: "embedded snapshot", found, limit });
    }
    count_fields(bytes, EMBEDDED_PARTS_FIELD, limit)?;
    let message = wire::EmbeddedSnapshot::decode(bytes.clone()).map_err(malformed)?;
    Ok(EmbeddedSnapshot { manifest: message.manifest, parts: message.parts })
}

/// Encodes what MsgSnapshot carries; fails if it does not stay under its 4 KiB.
pub fn encode_reference(reference: &SnapshotReference) -> Result<Bytes, ManifestError> {
    let sources = reference.sources.iter().map(|source| wire::SnapshotSource {
        node: source.node.0,
        bulk_address: source.bulk_address.clone(),
    });
    let message = wire::SnapshotReference {
        format: MANIFEST_FORMAT,
        snapshot_id: Bytes::copy_from_slice(&reference.id.0),
        cluster_id: Bytes::copy_from_slice(&reference.cluster.0),
        total_bytes: reference.total_bytes,
        parts: reference.parts,
        manifest_bytes: reference.manifest_bytes,
        sources: sources.collect(),
    };
    let bytes = Bytes::from(message.encode_to_vec());
    check_reference(reference, bytes.len())?;
    Ok(bytes)
}

/// Decodes and validates what MsgSnapshot carries.
pub fn decode_reference(bytes: &[u8]) -> Result<SnapshotReference, ManifestError> {
    if bytes.len() > SNAPSHOT_REFERENCE_BYTES_MAX {
        let (found, limit) = (bytes.len() as u64, SNAPSHOT_REFERENCE_BYTES_MAX as u64);
        return Err(ManifestError::TooLarge { what: "encoded reference", found, limit });
    }
    let message = wire::SnapshotReference::decode(bytes).map_err(malformed)?;
    if message.format != MANIFEST_FORMAT {
        return Err(ManifestError::Format { found: message.format });
    }
    let sources = message.sources.into_iter().map(|source| SnapshotSource {
        node: NodeId(source.node),
        bulk_address: source.bulk_address,
    });
    let reference = SnapshotReference {
        id: Digest(fixed("snapshot id", &message.snapshot_id)?),
        cluster: ClusterId(fixed("cluster id", &message.cluster_id)?),
        total_bytes: message.total_bytes,
        parts: message.parts,
        manifest_bytes: message.manifest_bytes,
        sources: sources.collect(),
    };
    check_reference(&reference, bytes.len())?;
    Ok(reference)
}

fn check_reference(reference: &SnapshotReference, bytes: usize) -> Result<(), ManifestError> {
    let bounds: [(&'static str, u64, usize); 4] = [
        ("encoded reference", bytes as u64, SNAPSHOT_REFERENCE_BYTES_MAX),
        ("parts", u64::from(reference.parts), MANIFEST_PARTS_MAX),
        ("encoded manifest", reference.manifest_bytes, MANIFEST_BYTES_MAX),
        ("sources", reference.sources.len() as u64, NODES_MAX),
    ];
    for (what, found, limit) in bounds {
        if found > limit as u64 {
            return Err(ManifestError::TooLarge { what, found, limit: limit as u64 });
        }
    }
    if reference.parts == 0 || reference.total_bytes == 0 || reference.manifest_bytes == 0 {
        return Err(ManifestError::Empty("the reference names no bytes"));
    }
    if reference.sources.is_empty() {
        return Err(ManifestError::Empty("the reference names no source"));
    }
    for source in &reference.sources {
        let length = source.bulk_address.len();
        if source.node.0 == 0 || length == 0 || length > ADDRESS_BYTES_MAX {
            return Err(ManifestError::Malformed("a source is no node with an address".to_owned()));
        }
    }
    Ok(())
}

fn fixed<const N: usize>(what: &str, bytes: &[u8]) -> Result<[u8; N], ManifestError> {
    bytes.try_into().map_err(|_| {
        ManifestError::Malformed(format!("{what} has {} bytes, expected {N}", bytes.len()))
    })
}

fn malformed(error: prost::DecodeError) -> ManifestError {
    ManifestError::Malformed(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::limits::CHUNK_BYTES_MIN;

    fn sample() -> Manifest {
        let chunk = u64::from(CHUNK_BYTES_MIN);
        let part = |name: &str, bytes: u64| Part {
            name: name.to_owned(),
            bytes,
            digest: Digest::of(if bytes == 0 { b"" } else { name.as_bytes() }),
            chunk_crc32c: (0..bytes.div_ceil(chunk) as u32).collect(),
        };
        Manifest {
            cluster: ClusterId([7; 16]),
            index: 42,
            term: 3,
            conf_state: ConfState { voters: vec![1, 2], learners: vec![3], ..Default::default() },
            chunk_bytes: CHUNK_BYTES_MIN,
            parts: vec![
                part("000012.sst", 3 * chunk + 5),
                part("000013.sst", 2 * chunk),
                part("CURRENT", 16),
                part("OPTIONS-000007", 0),
            ],
            created_unix_ms: 1_700_000_000_000,
        }
    }

    fn reference() -> SnapshotReference {
        SnapshotReference {
            id: Digest([1; 32]),
            cluster: ClusterId([7; 16]),
            total_bytes: 10 << 30,
            parts: 170,
            manifest_bytes: 60_000,
            sources: vec![SnapshotSource {
                node: NodeId(2),
                bulk_address: "10.0.0.2:7302".to_owned(),
            }],
        }
    }

    #[test]
    fn a_manifest_survives_its_bytes() {
        let (id, bytes) = encode_manifest(&sample()).unwrap();
        assert_eq!(decode_manifest(id, &bytes).unwrap(), sample());
    }

    #[test]
    fn a_manifest_keeps_its_name_for_ever() {
        // The id of a released format: a change of the encoding would orphan stored snapshots.
        let (id, bytes) = encode_manifest(&sample()).unwrap();
        assert_eq!(bytes.len(), 283);
        assert_eq!(
            id.to_string(),
            "1b6892b7814f4e5be97a704a6814a4734e1cc830ae61d51426d43b2db0bbd30d"
        );
    }

    #[test]
    fn a_manifest_under_a_wrong_name_is_refused() {
        let (id, bytes) = encode_manifest(&sample()).unwrap();
        let mut bytes = bytes.to_vec();
        bytes[20] ^= 1;
        assert!(matches!(decode_manifest(id, &bytes), Err(ManifestError::Digest { .. })));
    }

    #[test]
    fn chunks_cover_every_byte_once() {
        let manifest = sample();
        for part in 0..manifest.parts.len() as u32 {
            let mut next = 0;
            for chunk in 0..manifest.chunks(part) {
                let (offset, bytes) = manifest.chunk_bounds(part, chunk);
                assert_eq!((offset, manifest.chunk_at(offset)), (next, chunk));
                next += u64::from(bytes);
                assert_eq!(manifest.chunk_at(next - 1), chunk);
            }
            assert_eq!(next, manifest.parts[part as usize].bytes);
        }
    }

    #[test]
    fn each_rule_broken_is_refused() {
        type Break = (fn(&mut Manifest), fn(&ManifestError) -> bool);
        let breaks: [Break; 11] = [
            (|m| m.index = 0, |e| matches!(e, ManifestError::Malformed(_))),
            (|m| m.parts.clear(), |e| matches!(e, ManifestError::Empty(_))),
            (|m| m.parts.drain(..3).for_each(drop), |e| matches!(e, ManifestError::Empty(_))),
            (|m| m.parts[0].name = "../x".into(), |e| matches!(e, ManifestError::PartName(_))),
            (
                |m| m.parts[1].name = "CURRENT".into(),
                |e| matches!(e, ManifestError::DuplicatePart(_)),
            ),
            (|m| m.chunk_bytes = 1, |e| matches!(e, ManifestError::ChunkBytes(1))),
            (|m| m.chunk_bytes = u32::MAX, |e| matches!(e, ManifestError::ChunkBytes(_))),
            (
                |m| m.parts[0].chunk_crc32c.push(1),
                |e| matches!(e, ManifestError::ChunkCount { expected: 4, found: 5, .. }),
            ),
            (|m| m.parts[0].bytes = u64::MAX, |e| matches!(e, ManifestError::ChunkCount { .. })),
            (
                |m| m.parts[3].digest = Digest([0; 32]),
                |e| matches!(e, ManifestError::EmptyPartDigest(_)),
            ),
            (
                |m| m.conf_state.voters = vec![1; NODES_MAX + 1],
                |e| matches!(e, ManifestError::TooLarge { what: "members", .. }),
            ),
        ];
        for (position, (spoil, expected)) in breaks.into_iter().enumerate() {
            let mut manifest = sample();
            spoil(&mut manifest);
            let error = encode_manifest(&manifest).unwrap_err();
            assert!(expected(&error), "rule {position}: {error}");
        }
    }

    #[test]
    fn a_flood_of_empty_parts_is_refused_before_it_is_decoded() {
        let bytes: Vec<u8> = [0x3a, 0x00].repeat(MANIFEST_PARTS_MAX + 1);
        let error = decode_manifest(Digest::of(&bytes), &bytes).unwrap_err();
        assert!(matches!(error, ManifestError::TooLarge { what: "parts", .. }), "{error}");
    }

    #[test]
    fn a_reference_stays_small_and_survives_its_bytes() {
        let bytes = encode_reference(&reference()).unwrap();
        assert!(bytes.len() < 256);
        assert_eq!(decode_reference(&bytes).unwrap(), reference());
        let mut large = reference();
        large.sources =
            vec![
                SnapshotSource { node: NodeId(1), bulk_address: "h".repeat(ADDRESS_BYTES_MAX) };
                NODES_MAX
            ];
        assert!(encode_reference(&large).is_err());
    }

    #[test]
    fn a_reference_to_nothing_is_refused() {
        let empties: [fn(&mut SnapshotReference); 4] = [
            |r| r.parts = 0,
            |r| r.total_bytes = 0,
            |r| r.manifest_bytes = 0,
            |r| r.sources.clear(),
        ];
        for spoil in empties {
            let mut reference = reference();
            spoil(&mut reference);
            assert!(matches!(encode_reference(&reference), Err(ManifestError::Empty(_))));
        }
    }
}
