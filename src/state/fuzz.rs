//! Fuzz targets of this room: keys and cursors, committed entries, and rows that rotted.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;

use super::key::{Key, split_version, version_row};
use super::testing::*;
use super::{RequestError, State, StateError, content_digest, read};
use crate::codec::{decode_reply, encode_entry, encode_reply, encode_request};
use crate::fuzz::{Target, Verdict, bounded, canonical};
use crate::kv::{Batch, Family};
use crate::types::{
    CollectionName, Command, Condition, NodeId, Payload, Request, ScanOptions, SessionSequence,
    WriteBatch,
};

#[test]
fn keys() {
    let collection = CollectionName::parse("prod", "users").unwrap();
    let key = Bytes::from_static(b"a\x00b");
    let (layer, index) = (6, 7);
    let keys = [
        ("applied", Key::Applied),
        ("namespace", Key::Namespace(collection.namespace.clone())),
        ("collection", Key::Collection(collection)),
        ("descriptor", Key::Descriptor { incarnation: 2, index: 1 }),
        ("counts", Key::Counts(2)),
        ("node", Key::Node(NodeId(3))),
        ("pin", Key::Pin(NodeId(3))),
        ("token", Key::Token([0xaa; 32])),
        ("session", Key::Session(4)),
        ("session-use", Key::SessionUse { index: 5, session: 4 }),
        ("record", Key::Record { layer, key: key.clone(), index }),
        ("change", Key::Change { layer, index, key }),
        ("time", Key::Time(8)),
    ];
    let examples = keys.into_iter().map(|(name, key)| (name, key.encode())).collect();
    Target::new("key", examples).run(|input| {
        if let Ok((versions, index)) = split_version(input) {
            assert_eq!(version_row(versions, index), input);
        }
        Family::ALL.into_iter().fold(Verdict::Refused, |verdict, family| {
            verdict.or(canonical(input, |bytes| Key::decode(family, bytes), Key::encode))
        })
    });
}

#[test]
fn cursors() {
    let mut replica = Replica::with_collection();
    for key in ["a", "b", "c"] {
        replica.put(key, "v");
    }
    replica.write_batch();
    let index = replica.state.applied();
    let page = |cursor: &[u8], prefix: &'static [u8]| {
        let options = ScanOptions {
            cursor: Bytes::copy_from_slice(cursor),
            prefix: Bytes::from_static(prefix),
            limit: 1,
            ..ScanOptions::default()
        };
        read::scan(&replica.view, &collection("c"), &options, index)
    };
    let first = page(b"", b"").unwrap();
    let second = page(&first.cursor, b"").unwrap();
    let examples = vec![("second", first.cursor.to_vec()), ("third", second.cursor.to_vec())];
    Target::new("cursor", examples).run(|input| {
        let mut verdict = Verdict::Refused;
        for prefix in [&b""[..], b"b", b"\xff"] {
            let result = bounded(input, || page(input, prefix));
            match &result {
                Ok(page) => {
                    let fits = page.records.iter().all(|record| record.key.starts_with(prefix));
                    assert!(fits && page.records.len() <= 1 && page.index <= index);
                }
                // A cursor is a caller's word: it never looks like damage of the state.
                Err(RequestError::State(error)) => panic!("{error}"),
                Err(RequestError::Refused(_)) => {}
            }
            verdict = verdict.or(Verdict::of(&result));
        }
        verdict
    });
}

/// Entries in a row: length (two bytes, big-endian), bytes.
fn log_of(entries: &[Vec<u8>]) -> Vec<u8> {
    let framed =
        entries.iter().map(|entry| [&(entry.len() as u16).to_be_bytes()[..], entry].concat());
    framed.collect::<Vec<_>>().concat()
}

fn parse_log(mut input: &[u8]) -> Vec<Bytes> {
    let mut found = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (entry, rest) = rest.split_at(length);
        found.push(Bytes::copy_from_slice(entry));
        input = rest;
    }
    found
}

fn logs() -> Vec<(&'static str, Vec<u8>)> {
    let entry = |session: Option<(u64, u64)>, command| {
        let session = session.map(|(session, sequence)| SessionSequence { session, sequence });
        encode_entry(FOUNDED_MS + 5, &encode_request(&Request { session, command })).to_vec()
    };
    let plain = |command| entry(None, command);
    let writes = vec![put("a", "1"), delete("b"), write("c", Condition::Absent, put_action("3"))];
    let batch = || Command::Write(WriteBatch { writes: writes.clone() });
    let secret_hash = [5; 32];
    let expires_unix_ms = FOUNDED_MS + 1_000;
    let pin = Command::SetPin { receiver: NodeId(2), index: 1, snapshot: None };
    vec![
        (
            "writes",
            log_of(&[
                plain(Command::CreateCollection(collection("c"))),
                plain(batch()),
                plain(batch()),
                plain(Command::ComputeDigest),
                plain(Command::DropCollection(collection("c"))),
            ]),
        ),
        (
            "session",
            log_of(&[
                plain(Command::CreateCollection(collection("c"))),
                plain(Command::OpenSession),
                entry(Some((3, 1)), batch()),
                entry(Some((3, 1)), batch()),
                entry(Some((3, 9)), batch()),
            ]),
        ),
        (
            "nodes",
            log_of(&[
                plain(Command::CreateToken { secret_hash, expires_unix_ms, learner: false }),
                plain(Command::RedeemToken { secret_hash, addresses: addresses("two") }),
                plain(Command::SetNodeAddresses { node: NodeId(2), addresses: addresses("x") }),
                plain(pin),
                plain(Command::ReleasePin(NodeId(2))),
                plain(Command::AddLearner(NodeId(2))),
            ]),
        ),
        ("empty", log_of(&[vec![], encode_entry(9, b"").to_vec()])),
    ]
}

/// Applies a log, all entries in one batch or each in its own; None where a newer release is asked for.
fn apply_log(entries: &[Bytes], one_batch: bool) -> Option<(Replica, bool)> {
    let mut replica = Replica::new();
    let mut any = false;
    for entry in entries {
        match replica.apply(Payload::Command(entry.clone())) {
            Ok(outcome) => {
                any |= outcome.reply.is_ok();
                if let Ok(reply) = outcome.reply {
                    assert_eq!(decode_reply(encode_reply(&reply)).unwrap(), reply);
                }
            }
            Err(StateError::TooOld { .. }) => return None,
            Err(error) => panic!("{error}"),
        }
        if !one_batch {
            replica.write_batch();
        }
    }
    replica.write_batch();
    Some((replica, any))
}

#[test]
fn committed_entries() {
    Target::new("log", logs()).run(|input| {
        let entries = parse_log(input);
        let Some((one, any)) = apply_log(&entries, true) else { return Verdict::Refused };
        let (other, _) = apply_log(&entries, false).unwrap();
        // Replicas are equal whatever the boundaries of their batches, and load what they wrote.
        assert_eq!(one.view, other.view);
        let loaded = State::load(&one.view).unwrap();
        assert_eq!(loaded.applied(), one.state.applied());
        content_digest(&one.view).unwrap();
        if any { Verdict::Accepted } else { Verdict::Refused }
    });
}

/// A replica with rows of most kinds.
fn full_replica() -> Replica {
    let mut replica = Replica::with_collection();
    let node = replica.enrol("two");
    replica.conf_change(Command::AddLearner(node), members(&[1], &[2]));
    let pin = Command::SetPin { receiver: node, index: 3, snapshot: None };
    replica.run(pin).unwrap();
    replica.run(Command::OpenSession).unwrap();
    let session = replica.state.applied();
    replica.run_in(session, 1, Command::DropCollection(collection("nope"))).reply.unwrap_err();
    replica.put("a", "1");
    replica.write(vec![delete("a"), put("b", "2")]).unwrap();
    replica.write_batch();
    replica
}

/// Reads and writes about everything. What comes of it is an answer or an error.
fn exercise(replica: &mut Replica) -> Result<(), RequestError> {
    replica.state = State::load(&replica.view)?;
    let view = &replica.view;
    read::list_namespaces(view)?;
    read::list_collections(view, None)?;
    read::cluster(view)?;
    read::removed_nodes(view)?;
    read::get(view, &collection("c"), b"a")?;
    read::describe(view, &collection("c"))?;
    read::scan(view, &collection("c"), &ScanOptions::default(), replica.state.applied())?;
    content_digest(view)?;
    if replica.state.applied() == u64::MAX {
        // Nothing follows the last index there is, and no log offers more.
        return Ok(());
    }
    let secret_hash = [5; 32];
    let expires_unix_ms = replica.state.last_time_unix_ms().saturating_add(5);
    for command in [
        Command::Write(WriteBatch { writes: vec![put("a", "3"), delete("b")] }),
        Command::OpenSession,
        Command::CreateToken { secret_hash, expires_unix_ms, learner: false },
        Command::RedeemToken { secret_hash, addresses: addresses("four") },
        Command::DropCollection(collection("c")),
    ] {
        let request = Request { session: None, command };
        replica.apply(Payload::Command(encode_entry(0, &encode_request(&request))))?;
    }
    Ok(())
}

/// A row put into the state: family, length of its key, key, value.
fn row(family: Family, key: &[u8], value: &[u8]) -> Vec<u8> {
    let number = Family::ALL.iter().position(|other| *other == family).unwrap();
    [&[number as u8, key.len() as u8][..], key, value].concat()
}

#[test]
fn rotten_rows() {
    let full = full_replica();
    let mut examples = Vec::new();
    for (family, name) in
        [(Family::Meta, "meta"), (Family::Records, "records"), (Family::Changes, "changes")]
    {
        for (number, (key, value)) in full.view.rows(family).into_iter().enumerate() {
            let name = format!("{name}-{number:02}");
            // Names of examples live as long as the tests.
            examples.push((&*name.leak(), row(family, &key, &value)));
        }
    }
    Target::new("rotten-row", examples).run(|input| {
        let Some(([family, length], rest)) = input.split_first_chunk() else {
            return Verdict::Refused;
        };
        let Some(family) = Family::ALL.get(usize::from(*family)) else { return Verdict::Refused };
        let (key, value) = rest.split_at(usize::from(*length).min(rest.len()));
        let mut replica = full_replica();
        let mut batch = Batch::default();
        batch.put(*family, key.to_vec(), value.to_vec());
        replica.view.write(&batch);
        Verdict::of(&exercise(&mut replica))
    });
}
