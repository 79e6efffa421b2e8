//! Bytes that only this node's own releases read: values in RocksDB and small local files.
//!
//! One version byte, then bincode (variable-length integers, little endian). Decoding refuses
//! another version, a length that its bytes cannot hold before it allocates, and trailing bytes.

use bincode::error::DecodeError as Malformed;
use bincode::{BorrowDecode, Encode, borrow_decode_from_slice, config};

use super::DecodeError;
use crate::limits::{KIB, MIB, PULL_RECORD_BYTES_MAX};

/// No payload takes more memory than this many times its bytes: an empty bitmap has three bytes and
/// forty in memory.
const MEMORY_FACTOR: usize = 16;

/// `value` behind the byte `version`.
pub fn encode<T: Encode>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(version);
    bincode::encode_into_std_write(value, &mut bytes, config::standard())
        .expect("plain data always encodes, and writing to memory does not fail");
    bytes
}

/// The value that `encode` wrote with `version`; may borrow from `bytes`.
pub fn decode<'a, T: BorrowDecode<'a, ()>>(
    what: &'static str,
    version: u8,
    bytes: &'a [u8],
) -> Result<T, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::malformed(what, "it is empty")),
        Some((found, _)) if *found != version => {
            Err(DecodeError::unknown(what, format!("of format {found}")))
        }
        Some((_, payload)) => {
            let (value, used) = decode_bounded(payload)
                .map_err(|error| DecodeError::malformed(what, error.to_string()))?;
            if used != payload.len() {
                return Err(DecodeError::malformed(
                    what,
                    format!("{} bytes follow its end", payload.len() - used),
                ));
            }
            Ok(value)
        }
    }
}

/// The value at the beginning of `payload`, and how many bytes it took.
///
/// bincode believes a length up to its limit, which is a constant: a few damaged bytes could ask for
/// all of it. So the limit grows with the payload, in steps.
pub(super) fn decode_bounded<'a, T: BorrowDecode<'a, ()>>(
    payload: &'a [u8],
) -> Result<(T, usize), Malformed> {
    const SMALL: usize = 4 * KIB;
    const MEDIUM: usize = 64 * KIB;
    const LARGE: usize = MIB;
    const LARGEST: usize = PULL_RECORD_BYTES_MAX;
    let standard = config::standard();
    let bytes = payload.len();
    if bytes <= SMALL {
        borrow_decode_from_slice(payload, standard.with_limit::<{ MEMORY_FACTOR * SMALL }>())
    } else if bytes <= MEDIUM {
        borrow_decode_from_slice(payload, standard.with_limit::<{ MEMORY_FACTOR * MEDIUM }>())
    } else if bytes <= LARGE {
        borrow_decode_from_slice(payload, standard.with_limit::<{ MEMORY_FACTOR * LARGE }>())
    } else {
        borrow_decode_from_slice(payload, standard.with_limit::<{ MEMORY_FACTOR * LARGEST }>())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_anything_else_is_refused() {
        let bytes = encode(3, &(7_u64, "seven".to_owned()));
        assert_eq!(bytes, b"\x03\x07\x05seven");
        assert_eq!(decode::<(u64, &str)>("pair", 3, &bytes).unwrap(), (7, "seven"));
        let unknown = decode::<(u64, &str)>("pair", 4, &bytes);
        assert!(matches!(unknown, Err(DecodeError::Unknown { .. })));
        let mut long = bytes.clone();
        long.push(0);
        let trailing = decode::<(u64, &str)>("pair", 3, &long);
        assert!(matches!(trailing, Err(DecodeError::Malformed { .. })));
        for cut in 0..bytes.len() {
            assert!(decode::<(u64, &str)>("pair", 3, &bytes[..cut]).is_err());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_memory_is_taken() {
        let mut bytes = vec![1, 253];
        bytes.extend_from_slice(&(1_u64 << 62).to_le_bytes());
        let refused = decode::<Vec<u8>>("blob", 1, &bytes);
        assert!(matches!(refused, Err(DecodeError::Malformed { .. })));
    }

    #[test]
    fn a_few_damaged_bytes_take_no_megabytes() {
        // Each claims as many numbers as the limit of the largest record would allow.
        for claimed in [[251, 0xff, 0xff, 0, 0], [252, 0, 0, 0x10, 0]] {
            let bytes = [&[1][..], &claimed].concat();
            let refused = crate::fuzz::bounded(&bytes, || decode::<Vec<u64>>("numbers", 1, &bytes));
            assert!(matches!(refused, Err(DecodeError::Malformed { .. })));
        }
    }

    #[test]
    fn what_has_its_bytes_is_decoded_whatever_its_length() {
        for length in [0_u64, 1, 4_000, 5_000, 60_000, 70_000, 900_000, 2_000_000] {
            let numbers: Vec<u64> = (0..length).map(|number| number % 250).collect();
            let bytes = encode(1, &numbers);
            assert_eq!(decode::<Vec<u64>>("numbers", 1, &bytes).unwrap(), numbers);
        }
    }
}
