//! Keys and values of the raft log on disk.
//!
//! | key | value |
//! |---|---|
//! | `e` index (8 bytes, big-endian) | frame 1: term (8 bytes), encoded raft entry |
//! | `h` | frame 1: term, vote, commit (8 bytes each) |
//! | `s` | frame 1: index, term (8 bytes each) |
//!
//! Integers in values are little-endian. A frame (`codec::frame`) is a version byte and a CRC32C
//! that covers the key too. The meta keys sort after the entries, so that table files of new entries
//! do not overlap those of old ones.

use bytes::Bytes;

use crate::codec::frame::{self, FrameError};
use crate::raft::{HardState, LogEntry, LogStart};
use crate::types::{Index, Term};

/// Format of all values this code writes.
const VERSION: u8 = 1;

/// Key of the hard state.
pub const HARD_STATE_KEY: &[u8] = b"h";
/// Key of the log's start.
pub const START_KEY: &[u8] = b"s";
/// The first key after those of all entries.
pub const ENTRIES_END: &[u8] = b"f";

/// Key of the entry at `index`.
pub fn entry_key(index: Index) -> [u8; 9] {
    let mut key = [b'e'; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The index that an entry's key names; None for any other key.
pub fn entry_index(key: &[u8]) -> Option<Index> {
    let (b'e', index) = key.split_first().map(|(tag, rest)| (*tag, rest))? else { return None };
    Some(Index::from_be_bytes(index.try_into().ok()?))
}

/// Value of an entry.
pub fn encode_entry(entry: &LogEntry) -> Vec<u8> {
    let mut payload = Vec::with_capacity(8 + entry.bytes.len());
    payload.extend_from_slice(&entry.term.to_le_bytes());
    payload.extend_from_slice(&entry.bytes);
    frame::seal(VERSION, &entry_key(entry.index), &payload)
}

/// The entry at `index` from its value.
pub fn decode_entry(index: Index, value: &[u8]) -> Result<LogEntry, FrameError> {
    let (term, bytes) = split_entry(index, value)?;
    Ok(LogEntry { index, term, bytes: Bytes::copy_from_slice(bytes) })
}

/// Term of the entry at `index`, without a copy of its bytes.
pub fn decode_entry_term(index: Index, value: &[u8]) -> Result<Term, FrameError> {
    split_entry(index, value).map(|(term, _)| term)
}

fn split_entry(index: Index, value: &[u8]) -> Result<(Term, &[u8]), FrameError> {
    let payload = frame::open(VERSION, &entry_key(index), value)?;
    let (term, bytes) = payload
        .split_first_chunk::<8>()
        .ok_or_else(|| FrameError::Malformed("an entry without a term".to_owned()))?;
    Ok((Term::from_le_bytes(*term), bytes))
}

/// Value of the hard state.
pub fn encode_hard_state(state: &HardState) -> Vec<u8> {
    frame::seal_integers(VERSION, HARD_STATE_KEY, [state.term, state.vote, state.commit])
}

/// The hard state from its value.
pub fn decode_hard_state(value: &[u8]) -> Result<HardState, FrameError> {
    let [term, vote, commit] = frame::open_integers(VERSION, HARD_STATE_KEY, value)?;
    Ok(HardState { term, vote, commit })
}

/// Value of the log's start.
pub fn encode_start(start: &LogStart) -> Vec<u8> {
    frame::seal_integers(VERSION, START_KEY, [start.index, start.term])
}

/// The log's start from its value.
pub fn decode_start(value: &[u8]) -> Result<LogStart, FrameError> {
    let [index, term] = frame::open_integers(VERSION, START_KEY, value)?;
    Ok(LogStart { index, term })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn version_1_reads_and_writes_its_golden_bytes() {
        let entry = LogEntry { index: 258, term: 3, bytes: Bytes::from_static(b"payload") };
        assert_eq!(HEXLOWER.encode(&entry_key(258)), "650000000000000102");
        let golden = "01a546230603000000000000007061796c6f6164";
        assert_eq!(HEXLOWER.encode(&encode_entry(&entry)), golden);
        assert_eq!(decode_entry(258, &HEXLOWER.decode(golden.as_bytes()).unwrap()), Ok(entry));

        let state = HardState { term: 4, vote: 2, commit: 258 };
        let golden = "014f7a7408040000000000000002000000000000000201000000000000";
        assert_eq!(HEXLOWER.encode(&encode_hard_state(&state)), golden);
        assert_eq!(decode_hard_state(&HEXLOWER.decode(golden.as_bytes()).unwrap()), Ok(state));

        let start = LogStart { index: 1, term: 1 };
        let golden = "018575b80701000000000000000100000000000000";
        assert_eq!(HEXLOWER.encode(&encode_start(&start)), golden);
        assert_eq!(decode_start(&HEXLOWER.decode(golden.as_bytes()).unwrap()), Ok(start));
    }

    #[test]
    fn an_entry_under_another_index_is_refused() {
        let entry = LogEntry { index: 7, term: 3, bytes: Bytes::new() };
        assert!(decode_entry(8, &encode_entry(&entry)).is_err());
    }

    proptest! {
        #[test]
        fn keys_sort_like_indexes(a: u64, b: u64) {
            prop_assert_eq!(entry_key(a).cmp(&entry_key(b)), a.cmp(&b));
            prop_assert_eq!(entry_index(&entry_key(a)), Some(a));
            prop_assert!(entry_key(a).as_slice() < ENTRIES_END);
        }
    }
}
