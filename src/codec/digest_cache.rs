//! The persisted digests of SST files (`snapshots/digests`), to bytes and back.
//!
//! Framed like the record of a pull. What does not decode is forgotten: the files are read again.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::pull_record::{RecordError, frame, unframe};

/// Sums of one file and what identifies it. This struct is the format on disk: changing it takes a
/// new version byte.
#[derive(Clone, PartialEq, Eq, Debug, Encode, BorrowDecode)]
pub struct CachedSums {
    /// File name.
    pub name: String,
    /// Generation of the state it belongs to.
    pub generation: u64,
    /// Its length.
    pub bytes: u64,
    /// Its inode, which its hard links share.
    pub inode: u64,
    /// When its content last changed, ns since the Unix epoch.
    pub changed_ns: i128,
    /// Chunk size of the CRCs.
    pub chunk_bytes: u32,
    /// BLAKE3 of its content.
    pub digest: [u8; 32],
    /// CRC32C of each chunk.
    pub chunk_crc32c: Vec<u32>,
}

/// Encodes the cache.
pub fn encode_digest_cache(entries: &Vec<CachedSums>) -> Bytes {
    frame(entries)
}

/// Decodes the cache.
pub fn decode_digest_cache(bytes: &[u8]) -> Result<Vec<CachedSums>, RecordError> {
    unframe(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<CachedSums> {
        vec![CachedSums {
            name: "000012.sst".to_owned(),
            generation: 1,
            bytes: 2,
            inode: 3,
            changed_ns: -4,
            chunk_bytes: 5,
            digest: [6; 32],
            chunk_crc32c: vec![7, 8],
        }]
    }

    #[test]
    fn version_1_of_the_cache_is_read_for_ever() {
        let bytes = encode_digest_cache(&sample());
        assert_eq!(decode_digest_cache(&bytes).unwrap(), sample());
        let golden = concat!(
            "0174b45de0010a3030303031322e73737401020307050606060606060606060606060606",
            "060606060606060606060606060606060606020708",
        );
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), golden);
    }

    proptest! {
        #[test]
        fn a_damaged_cache_is_refused(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut bytes = encode_digest_cache(&sample()).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode_digest_cache(&bytes).is_err());
        }
    }
}
