//! Bytes that only this node's own releases read: values in RocksDB and small local files.
//!
//! One version byte, then bincode (variable-length integers, little endian). Decoding refuses
//! another version, a length beyond the limit before it allocates, and trailing bytes.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Encode};

use super::DecodeError;
use crate::limits::STORED_ROW_BYTES_MAX;

const CONFIGURATION: Configuration<LittleEndian, Varint, Limit<STORED_ROW_BYTES_MAX>> =
    bincode::config::standard().with_limit::<STORED_ROW_BYTES_MAX>();

/// `value` behind the byte `version`.
pub fn encode<T: Encode>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(version);
    bincode::encode_into_std_write(value, &mut bytes, CONFIGURATION)
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
            let (value, used) = bincode::borrow_decode_from_slice(payload, CONFIGURATION)
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
}
