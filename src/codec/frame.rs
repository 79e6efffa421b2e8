//! The frame around every small record that only this node reads: a version byte and a CRC32C.
//!
//! The CRC also covers the place where the record belongs (its key or its name), so that a record
//! that turns up elsewhere is found out like a damaged one. It guards against accidents, not
//! against people, and never looks inside the payload.

use thiserror::Error;

/// Bytes before the payload: version, then CRC32C, little-endian.
pub const HEADER_BYTES: usize = 5;

/// A record is not what was written. Halt: it must never be taken for data.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// Shorter than its own header.
    #[error("the record is cut off after {0} bytes")]
    Short(usize),
    /// Written by another version of this software, or damaged.
    #[error("the record has version {found}, this software reads version {expected}")]
    Version {
        /// What the first byte says.
        found: u8,
        /// What the caller reads.
        expected: u8,
    },
    /// The bytes do not match their checksum.
    #[error("the record's checksum is {found:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// As stored.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// The checksum matches and the payload makes no sense all the same.
    #[error("the record's content is malformed: {0}")]
    Malformed(String),
}

/// Frames `payload`, which belongs at `place`.
pub fn seal(version: u8, place: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEADER_BYTES + payload.len());
    framed.push(version);
    framed.extend_from_slice(&checksum(version, place, payload).to_le_bytes());
    framed.extend_from_slice(payload);
    framed
}

/// The payload of a frame found at `place`, once version and checksum hold.
pub fn open<'a>(version: u8, place: &[u8], framed: &'a [u8]) -> Result<&'a [u8], FrameError> {
    let Some((header, payload)) = framed.split_first_chunk::<HEADER_BYTES>() else {
        return Err(FrameError::Short(framed.len()));
    };
    let [found_version, crc @ ..] = *header;
    if found_version != version {
        return Err(FrameError::Version { found: found_version, expected: version });
    }
    let found = u32::from_le_bytes(crc);
    let computed = checksum(version, place, payload);
    if found != computed {
        return Err(FrameError::Checksum { found, computed });
    }
    Ok(payload)
}

/// Frames integers and nothing else, little-endian.
pub fn seal_integers<const N: usize>(version: u8, place: &[u8], integers: [u64; N]) -> Vec<u8> {
    let payload: Vec<u8> = integers.iter().flat_map(|integer| integer.to_le_bytes()).collect();
    seal(version, place, &payload)
}

/// The integers of such a frame.
pub fn open_integers<const N: usize>(
    version: u8,
    place: &[u8],
    framed: &[u8],
) -> Result<[u64; N], FrameError> {
    let payload = open(version, place, framed)?;
    let (words, rest) = payload.as_chunks::<8>();
    if words.len() != N || !rest.is_empty() {
        return Err(FrameError::Malformed(format!("{} bytes for {N} integers", payload.len())));
    }
    Ok(std::array::from_fn(|at| u64::from_le_bytes(words[at])))
}

fn checksum(version: u8, place: &[u8], payload: &[u8]) -> u32 {
    // The place's length goes in as well: otherwise a byte could move from place to payload.
    let crc = crc32c::crc32c(&[version]);
    let crc = crc32c::crc32c_append(crc, &(place.len() as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc, place);
    crc32c::crc32c_append(crc, payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_sealed_opens_at_its_place_only(
            version: u8, place: Vec<u8>, other: Vec<u8>, payload: Vec<u8>
        ) {
            let framed = seal(version, &place, &payload);
            prop_assert_eq!(open(version, &place, &framed), Ok(&payload[..]));
            prop_assert!(open(version.wrapping_add(1), &place, &framed).is_err());
            prop_assert_eq!(place == other, open(version, &other, &framed).is_ok());
        }

        #[test]
        fn a_flipped_bit_never_opens(payload: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let mut framed = seal(1, b"place", &payload);
            let at = at.index(framed.len());
            framed[at] ^= 1 << bit;
            prop_assert!(open(1, b"place", &framed).is_err());
        }
    }
}
