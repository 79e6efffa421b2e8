//! Requests, entries and replies on the wire: round trips, golden bytes, damage.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::{
    Action, Addresses, CollectionName, Command, Condition, Name, NodeId, SessionSequence,
    SnapshotId, Write, WriteBatch,
};

fn collection() -> CollectionName {
    CollectionName::parse("default", "c").unwrap()
}

fn addresses() -> Addresses {
    Addresses { raft: "a:1".into(), bulk: "a:2".into(), api: "a:3".into() }
}

fn write(key: &'static str, condition: Condition, action: Action) -> Write {
    Write { collection: collection(), key: Bytes::from(key), condition, action }
}

fn put(value: &'static str) -> Action {
    Action::Put { value: Bytes::from(value), content_type: "text/plain".into() }
}

fn all_commands() -> Vec<Command> {
    let namespace = Name::parse("namespace", "n").unwrap();
    let snapshot = Some((SnapshotId::of(b"manifest"), NodeId(4)));
    vec![
        Command::CreateNamespace(namespace.clone()),
        Command::DropNamespace(namespace),
        Command::CreateCollection(collection()),
        Command::DropCollection(collection()),
        Command::Write(WriteBatch {
            writes: vec![
                write("a", Condition::Always, put("1")),
                write("b", Condition::Always, Action::Delete),
                write("c", Condition::Absent, Action::Check),
                write("d", Condition::Version(9), put("")),
            ],
        }),
        Command::OpenSession,
        Command::CreateToken { secret_hash: [3; 32], expires_unix_ms: 9, learner: true },
        Command::RedeemToken { secret_hash: [3; 32], addresses: addresses() },
        Command::SetNodeAddresses { node: NodeId(2), addresses: addresses() },
        Command::AddLearner(NodeId(2)),
        Command::PromoteNode(NodeId(2)),
        Command::RemoveNode(NodeId(2)),
        Command::SetPin { receiver: NodeId(2), index: 8, snapshot },
        Command::SetPin { receiver: NodeId(2), index: 0, snapshot: None },
        Command::ReleasePin(NodeId(2)),
        Command::ComputeDigest,
    ]
}

#[test]
fn every_command_and_reply_survives_the_wire() {
    for command in all_commands() {
        for session in [None, Some(SessionSequence { session: 5, sequence: 6 })] {
            let request = Request { session, command: command.clone() };
            assert_eq!(decode_request(encode_request(&request)), Ok(request));
        }
    }
    for reply in [
        Reply::Done,
        Reply::Written { existed: vec![true, false] },
        Reply::Session(3),
        Reply::Node(NodeId(4)),
        Reply::CollectionCreated { incarnation: 5, created_unix_ms: 6 },
    ] {
        assert_eq!(decode_reply(encode_reply(&reply)), Ok(reply));
    }
    let entry = encode_entry(77, b"request");
    assert_eq!(decode_entry(entry), Ok((77, Bytes::from_static(b"request"))));
}

#[test]
fn an_entry_keeps_its_bytes() {
    let request = encode_request(&Request {
        session: Some(SessionSequence { session: 5, sequence: 6 }),
        command: Command::Write(WriteBatch {
            writes: vec![write("k", Condition::Always, put("v"))],
        }),
    });
    let hex = data_encoding::HEXLOWER.encode(&encode_entry(1, &request));
    assert_eq!(
        hex,
        "0801122a\
         0a0408051006\
         32220a200a0c0a0764656661756c74120163\
         12016b320176\
         3a0a746578742f706c61696e"
    );
}
