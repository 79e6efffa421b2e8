//! Fuzz targets of this room: what peers send, and what the log holds.

use bytes::Bytes;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType,
};

use super::cluster::Cluster;
use crate::fuzz::{Target, Verdict, bounded, survives};
use crate::raft::core::Halt;
use crate::raft::shape::{Own, READ_CONTEXT_BYTES, check};
use crate::raft::wire::{decode_entry, decode_message, encode_entry, encode_message};
use crate::raft::{Input, LogEntry};
use crate::types::NodeId;

fn message(kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    // A place and a term as they are in a fresh cluster of three.
    (message.from, message.to, message.term) = (1, 2, 2);
    (message.index, message.log_term, message.commit) = (6, 2, 6);
    message
}

fn entry(index: u64, kind: EntryType, data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    entry.set_entry_type(kind);
    (entry.index, entry.term, entry.data) = (index, 2, Bytes::from(data));
    entry
}

fn conf_change() -> Vec<u8> {
    use protobuf::Message as _;
    let mut single = ConfChangeSingle::default();
    single.node_id = 4;
    let mut change = ConfChangeV2::default();
    change.mut_changes().push(single);
    change.context = Bytes::from_static(b"command");
    change.write_to_bytes().unwrap()
}

fn messages() -> Vec<(&'static str, Message)> {
    let mut append = message(MessageType::MsgAppend);
    append.mut_entries().push(entry(7, EntryType::EntryNormal, b"command".to_vec()));
    append.mut_entries().push(entry(8, EntryType::EntryConfChangeV2, conf_change()));
    let mut snapshot = message(MessageType::MsgSnapshot);
    snapshot.mut_snapshot().data = Bytes::from_static(b"reference");
    let metadata = snapshot.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (9, 2);
    let mut conf_state = ConfState::default();
    conf_state.set_voters(vec![1, 2, 3]);
    metadata.set_conf_state(conf_state);
    let mut read = message(MessageType::MsgReadIndex);
    let mut context = 1_u64.to_be_bytes().to_vec();
    context.resize(READ_CONTEXT_BYTES, 0);
    read.mut_entries().push(entry(0, EntryType::EntryNormal, context));
    let mut read_answer = read.clone();
    read_answer.set_msg_type(MessageType::MsgReadIndexResp);
    let mut rejection = message(MessageType::MsgAppendResponse);
    (rejection.reject, rejection.reject_hint) = (true, 3);
    vec![
        ("append", append),
        ("append-empty", message(MessageType::MsgAppend)),
        ("append-response", message(MessageType::MsgAppendResponse)),
        ("rejection", rejection),
        ("snapshot", snapshot),
        ("read-index", read),
        ("read-index-response", read_answer),
        ("heartbeat", message(MessageType::MsgHeartbeat)),
        ("heartbeat-response", message(MessageType::MsgHeartbeatResponse)),
        ("request-vote", message(MessageType::MsgRequestVote)),
        ("request-vote-response", message(MessageType::MsgRequestVoteResponse)),
        ("request-pre-vote", message(MessageType::MsgRequestPreVote)),
        ("transfer-leader", message(MessageType::MsgTransferLeader)),
        ("timeout-now", message(MessageType::MsgTimeoutNow)),
    ]
}

#[test]
fn messages_of_peers() {
    let examples = messages();
    let examples =
        examples.iter().map(|(name, message)| (*name, encode_message(message).to_vec())).collect();
    Target::new("raft-message", examples).run(|input| {
        let decode = |bytes: &[u8]| decode_message(&Bytes::copy_from_slice(bytes));
        if let Ok(message) = decode(input) {
            for own in [
                Own { term: 2, last: 6, leads: false },
                Own { term: u64::MAX, last: u64::MAX, leads: true },
            ] {
                // Its answer depends on who asks; the point is that there is one.
                bounded(input, || check(&message, own).is_ok());
            }
        }
        survives(input, decode, encode_message)
    });
}

#[test]
fn entries_of_the_log() {
    let normal = entry(7, EntryType::EntryNormal, b"command".to_vec());
    let change = entry(7, EntryType::EntryConfChangeV2, conf_change());
    let examples = vec![
        ("normal", encode_entry(&normal).bytes.to_vec()),
        ("conf-change", encode_entry(&change).bytes.to_vec()),
    ];
    Target::new("raft-entry", examples).run(|input| {
        let stored =
            |bytes: &[u8]| LogEntry { index: 7, term: 2, bytes: Bytes::copy_from_slice(bytes) };
        let decode = |bytes: &[u8]| decode_entry(&stored(bytes));
        survives(input, decode, |entry| encode_entry(entry).bytes)
    });
}

/// Messages in a row: to whom (a byte), length (two bytes, big-endian), bytes.
fn conversation(messages: &[(u8, Message)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (to, message) in messages {
        let message = encode_message(message);
        bytes.push(*to);
        bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&message);
    }
    bytes
}

fn parse_conversation(mut input: &[u8]) -> Vec<(u64, Bytes)> {
    let mut found = Vec::new();
    while let Some(([to, high, low], rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (message, rest) = rest.split_at(length);
        found.push((u64::from(*to % 3) + 1, Bytes::copy_from_slice(message)));
        input = rest;
    }
    found
}

#[test]
fn conversations_with_a_node() {
    let all = messages();
    let one = |name: &str, to: u8| {
        let mut message = all.iter().find(|(other, _)| *other == name).unwrap().1.clone();
        message.to = u64::from(to) + 1;
        (to, message)
    };
    let examples = vec![
        ("appends", conversation(&[one("append", 1), one("append-empty", 1), one("heartbeat", 1)])),
        (
            "to-the-leader",
            conversation(&[one("append-response", 0), one("rejection", 0), one("read-index", 0)]),
        ),
        (
            "campaign",
            conversation(&[
                one("timeout-now", 2),
                one("request-vote", 1),
                one("request-pre-vote", 0),
            ]),
        ),
        ("offer", conversation(&[one("snapshot", 2), one("heartbeat", 2), one("append", 2)])),
    ];
    Target::new("raft-conversation", examples).run(|input| {
        let messages = parse_conversation(input);
        let mut verdict = Verdict::Refused;
        let mut cluster = Cluster::of(3);
        for (to, bytes) in messages.into_iter().take(32) {
            let from = decode_message(&bytes).map_or(1, |message| message.from);
            let now = cluster.now;
            // Alone: what a liar makes a node say to the others is their business.
            let core = cluster.core(to);
            let input = Input::Message { from: NodeId(from), bytes };
            match core.handle(now, input).and_then(|()| core.advance(now)) {
                Ok(()) => verdict = Verdict::Accepted,
                Err(Halt::LogLost { .. }) => return verdict,
                Err(halt) => panic!("halted: {halt}"),
            }
        }
        verdict
    });
}
