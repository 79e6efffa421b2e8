//! Raft messages and entries to bytes and back.
//!
//! raft-rs brings protobuf 2.28, whose parser recurses without bound on unknown groups
//! (RUSTSEC-2024-0437). So nothing is parsed before `refuse_groups` has walked it.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb;
use thiserror::Error;

use super::LogEntry;
use crate::limits::APPEND_ENTRIES_MAX;
use crate::proto::fields::count_nested;
use crate::types::ConfState;

/// Field number of `Message.entries`.
const ENTRIES_FIELD: u32 = 7;

/// Bytes that are no raft message. Reject: the peer is broken or hostile; drop what it sent.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// Not protobuf, or cut off.
    #[error("malformed protobuf: {0}")]
    Malformed(String),
    /// It holds a group, a wire type raft never uses.
    #[error("a protobuf group where none may be")]
    Group,
}

/// Parses a message of a peer. What it says, `shape` judges.
pub fn decode_message(bytes: &Bytes) -> Result<eraftpb::Message, WireError> {
    refuse_groups(bytes, message_fields)?;
    let entries = count_nested(bytes, &[], ENTRIES_FIELD, APPEND_ENTRIES_MAX);
    if entries.map_err(WireError::Malformed)? > APPEND_ENTRIES_MAX {
        return Err(WireError::Malformed(format!("more than {APPEND_ENTRIES_MAX} entries")));
    }
    let mut message = eraftpb::Message::default();
    message.merge_from_bytes(bytes).map_err(|e| WireError::Malformed(e.to_string()))?;
    for entry in message.get_entries() {
        if entry.get_entry_type() != eraftpb::EntryType::EntryNormal {
            refuse_groups(entry.get_data(), conf_change_fields)?;
        }
    }
    Ok(message)
}

/// Serializes a message for a peer.
pub fn encode_message(message: &eraftpb::Message) -> Bytes {
    Bytes::from(message.write_to_bytes().expect("a raft message has no required fields"))
}

/// Parses a stored entry.
pub fn decode_entry(stored: &LogEntry) -> Result<eraftpb::Entry, WireError> {
    refuse_groups(&stored.bytes, |_, _| false)?;
    let mut entry = eraftpb::Entry::default();
    entry.merge_from_bytes(&stored.bytes).map_err(|e| WireError::Malformed(e.to_string()))?;
    if entry.index != stored.index || entry.term != stored.term {
        return Err(WireError::Malformed(format!(
            "entry {}/{} stored under {}/{}",
            entry.index, entry.term, stored.index, stored.term
        )));
    }
    Ok(entry)
}

/// Serializes an entry for the log.
pub fn encode_entry(entry: &eraftpb::Entry) -> LogEntry {
    let bytes = entry.write_to_bytes().expect("a raft entry has no required fields");
    LogEntry { index: entry.index, term: entry.term, bytes: Bytes::from(bytes) }
}

/// The domain's form of a conf state, with sorted lists.
pub fn conf_state_from_raft(from: &eraftpb::ConfState) -> ConfState {
    let sorted = |list: &[u64]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    ConfState {
        voters: sorted(from.get_voters()),
        learners: sorted(from.get_learners()),
        voters_outgoing: sorted(from.get_voters_outgoing()),
        learners_next: sorted(from.get_learners_next()),
        auto_leave: from.auto_leave,
    }
}

/// Raft's form of a conf state.
pub fn conf_state_to_raft(from: &ConfState) -> eraftpb::ConfState {
    let mut to = eraftpb::ConfState::default();
    to.set_voters(from.voters.clone());
    to.set_learners(from.learners.clone());
    to.set_voters_outgoing(from.voters_outgoing.clone());
    to.set_learners_next(from.learners_next.clone());
    to.auto_leave = from.auto_leave;
    to
}

/// Walks protobuf fields without recursion and refuses group tags. `is_message(depth, field)` says
/// which length-delimited fields the schema nests messages in; the parser descends into no others.
fn refuse_groups(bytes: &[u8], is_message: fn(usize, u64) -> bool) -> Result<(), WireError> {
    let mut pending: Vec<(&[u8], usize)> = vec![(bytes, 0)];
    while let Some((mut rest, depth)) = pending.pop() {
        while !rest.is_empty() {
            let tag = varint(&mut rest)?;
            match tag & 7 {
                0 => {
                    varint(&mut rest)?;
                }
                1 => skip(&mut rest, 8)?,
                5 => skip(&mut rest, 4)?,
                2 => {
                    let length = usize::try_from(varint(&mut rest)?)
                        .map_err(|_| WireError::Malformed("length overflows".into()))?;
                    let field = rest;
                    skip(&mut rest, length)?;
                    if is_message(depth, tag >> 3) {
                        pending.push((&field[..length], depth + 1));
                    }
                }
                3 | 4 => return Err(WireError::Group),
                other => return Err(WireError::Malformed(format!("wire type {other}"))),
            }
        }
    }
    Ok(())
}

/// Message: entries 7, snapshot 9 > metadata 2 > conf_state 1.
fn message_fields(depth: usize, field: u64) -> bool {
    matches!((depth, field), (0, 7 | 9) | (1, 2) | (2, 1))
}

/// ConfChangeV2: changes 2. ConfChange has no nested message.
fn conf_change_fields(depth: usize, field: u64) -> bool {
    matches!((depth, field), (0, 2))
}

fn varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let Some((&byte, after)) = rest.split_first() else {
            return Err(WireError::Malformed("number is cut off".into()));
        };
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::Malformed("number is too long".into()))
}

fn skip(rest: &mut &[u8], bytes: usize) -> Result<(), WireError> {
    if rest.len() < bytes {
        return Err(WireError::Malformed("field is cut off".into()));
    }
    *rest = &rest[bytes..];
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_round_trip() {
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgSnapshot);
        message.to = 7;
        message.mut_snapshot().mut_metadata().index = 99;
        message.mut_snapshot().mut_metadata().mut_conf_state().set_voters(vec![1, 2, 3]);
        message.mut_snapshot().data = Bytes::from_static(b"reference");
        let mut entry = eraftpb::Entry::default();
        entry.data = Bytes::from(vec![0x0b; 100]);
        message.mut_entries().push(entry);
        assert_eq!(decode_message(&encode_message(&message)).unwrap(), message);
    }

    #[test]
    fn nested_groups_are_refused_before_the_parser_recurses() {
        // 100,000 nested start-group tags of an unknown field would overflow protobuf 2.28's stack.
        let hostile =
            Bytes::from(vec![0xfb; 1].into_iter().chain(vec![0x0b; 100_000]).collect::<Vec<_>>());
        assert!(decode_message(&hostile).is_err());
        let top = Bytes::from(vec![0x0b; 100_000]);
        assert_eq!(decode_message(&top), Err(WireError::Group));
        let mut inside_an_entry = vec![0x3a, 0x90, 0x4e];
        inside_an_entry.extend(vec![0x0b; 10_000]);
        assert_eq!(decode_message(&Bytes::from(inside_an_entry)), Err(WireError::Group));
    }
}
