//! Entries: order, time, damage, and the genesis they follow.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use crate::codec::{
    DecodeError, decode_entry, decode_reply, decode_request, encode_entry, encode_reply,
    encode_request,
};
use crate::kv::{Family, View};
use crate::limits::REQUEST_BYTES_MAX;
use crate::proto::internal::v1 as wire;
use crate::state::testing::*;
use crate::state::{State, StateError, applied_key, decode_applied, read};
use crate::types::{
    ClusterId, Code, Command, Committed, Name, NodeId, Payload, Reply, Request, SessionSequence,
    SnapshotId,
};

#[test]
fn a_new_cluster_has_one_voter_one_namespace_and_stands_at_index_one() {
    let replica = Replica::new();
    assert_eq!((replica.state.applied(), replica.state.applied_term()), (1, 1));
    assert_eq!(replica.state.conf_state(), &members(&[1], &[]));
    assert_eq!(replica.state.cluster(), ClusterId([7; 16]));
    assert_eq!(replica.state.last_time_unix_ms(), FOUNDED_MS);
    assert_eq!(replica.state.nodes()[0].addresses, addresses("one"));
    assert!(replica.state.pins().is_empty());
    let namespaces = read::list_namespaces(&replica.view).unwrap();
    assert_eq!(namespaces[0].name.as_str(), "default");
    let cluster = read::cluster(&replica.view).unwrap();
    assert_eq!((cluster.ca_certificate, cluster.sealed_ca_key), (vec![4, 5], vec![1, 2, 3]));
    let row = replica.view.get(Family::Meta, &applied_key()).unwrap().unwrap();
    assert_eq!(decode_applied(&row).unwrap(), (1, 1));
}

#[test]
fn an_empty_store_holds_no_state() {
    let error = State::load(&MemoryView::default()).unwrap_err();
    assert_eq!(error, StateError::Missing);
}

#[test]
fn an_entry_that_is_not_the_next_one_halts() {
    let mut replica = Replica::new();
    for (index, term) in [(1, 1), (3, 1), (2, 0)] {
        let committed = Committed { index, term, payload: Payload::Empty };
        let result = replica.state.apply(&replica.view, &mut replica.batch, &committed);
        assert!(matches!(result, Err(StateError::OutOfOrder { .. })), "{index} {term}");
        assert!(replica.batch.is_empty());
    }
}

#[test]
fn every_kind_of_entry_moves_the_applied_index() {
    let mut replica = Replica::new();
    replica.apply(Payload::Empty).unwrap();
    replica.apply(Payload::Command(encode_entry(FOUNDED_MS + 5, &[]))).unwrap();
    let conf_state = members(&[1], &[]);
    replica.apply(Payload::ConfChange { context: Bytes::new(), conf_state }).unwrap();
    replica.write_batch();
    assert_eq!(read::applied(&replica.view).unwrap(), 4);
    assert_eq!(State::load(&replica.view).unwrap().applied_term(), 2);
}

#[test]
fn commit_time_never_goes_back() {
    let mut replica = Replica::new();
    for (clock, expected) in [(50, 50), (20, 50), (50, 50), (60, 60)] {
        let entry = encode_entry(FOUNDED_MS + clock, &[]);
        replica.apply(Payload::Command(entry)).unwrap();
        assert_eq!(replica.state.last_time_unix_ms(), FOUNDED_MS + expected);
    }
}

#[test]
fn the_times_family_names_the_last_index_of_each_millisecond() {
    let mut replica = Replica::new();
    for clock in [0, 7, 7, 9] {
        replica.apply(Payload::Command(encode_entry(FOUNDED_MS + clock, &[]))).unwrap();
    }
    replica.apply(Payload::Empty).unwrap();
    replica.write_batch();
    let rows: Vec<_> = replica.view.rows(Family::Times).into_iter().collect();
    let row = |ms: u64, index: u8| ((FOUNDED_MS + ms).to_be_bytes().to_vec(), vec![1, index]);
    assert_eq!(rows, [row(0, 2), row(7, 4), row(9, 6)]);
}

#[test]
fn bytes_that_no_release_reads_are_refused_by_every_replica_alike() {
    let mut replica = Replica::new();
    let mut garbled = Vec::from(encode_entry(FOUNDED_MS, b"\xff\xff\xff"));
    for entry in [garbled.clone(), garbled.split_off(garbled.len() - 3)] {
        let outcome = replica.apply(Payload::Command(entry.into())).unwrap();
        assert_refused(outcome.reply, Code::InvalidArgument);
    }
    assert_eq!(replica.state.applied(), 3);
}

#[test]
fn a_command_of_a_newer_release_halts() {
    let mut replica = Replica::new();
    // Field 99 of Request: a command that is not invented yet.
    let entry = encode_entry(FOUNDED_MS, &[0x9a, 0x06, 0x00]);
    let error = replica.apply(Payload::Command(entry)).unwrap_err();
    assert!(matches!(error, StateError::TooOld { .. }));
    let write = wire::WriteOp { action: 77, ..wire::WriteOp::from(&put("k", "v")) };
    let batch = wire::WriteBatch { writes: vec![write] };
    let request =
        wire::Request { session: None, command: Some(wire::request::Command::Write(batch)) };
    let mut replica = Replica::new();
    let entry = encode_entry(FOUNDED_MS, &request.encode_to_vec());
    let error = replica.apply(Payload::Command(entry)).unwrap_err();
    assert!(matches!(error, StateError::TooOld { .. }));
}

#[test]
fn a_request_that_breaks_a_rule_is_refused_before_the_log_and_by_apply() {
    let create = wire::CreateNamespace { name: "NO".into() };
    let request = wire::Request {
        session: None,
        command: Some(wire::request::Command::CreateNamespace(create)),
    };
    let bytes = Bytes::from(request.encode_to_vec());
    assert_refused(decode_request(bytes.clone()), Code::InvalidName);
    let mut replica = Replica::new();
    let outcome = replica.apply(Payload::Command(encode_entry(FOUNDED_MS, &bytes))).unwrap();
    assert_refused(outcome.reply, Code::InvalidName);
    let long = Bytes::from(vec![0; REQUEST_BYTES_MAX + 1]);
    assert_refused(decode_request(long), Code::BatchTooLarge);
}

#[test]
fn compute_digest_changes_nothing_but_the_index() {
    let mut replica = Replica::new();
    assert_eq!(replica.run(Command::ComputeDigest), Ok(Reply::Done));
    let loaded = State::load(&replica.view).unwrap();
    assert_eq!(replica.state.nodes(), loaded.nodes());
    assert_eq!(replica.batch.ops().len(), 2, "the applied row and the time");
}

fn all_commands() -> Vec<Command> {
    let namespace = Name::parse("namespace", "n").unwrap();
    let snapshot = Some((SnapshotId::of(b"manifest"), NodeId(4)));
    vec![
        Command::CreateNamespace(namespace.clone()),
        Command::DropNamespace(namespace),
        Command::CreateCollection(collection("c")),
        Command::DropCollection(collection("c")),
        Command::Write(crate::types::WriteBatch {
            writes: vec![
                put("a", "1"),
                delete("b"),
                write("c", crate::types::Condition::Absent, crate::types::Action::Check),
                write("d", crate::types::Condition::Version(9), put_action("")),
            ],
        }),
        Command::OpenSession,
        Command::CreateToken { secret_hash: [3; 32], expires_unix_ms: 9, learner: true },
        Command::RedeemToken { secret_hash: [3; 32], addresses: addresses("two") },
        Command::SetNodeAddresses { node: NodeId(2), addresses: addresses("three") },
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
        command: Command::Write(crate::types::WriteBatch { writes: vec![put("k", "v")] }),
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

proptest! {
    #[test]
    fn no_bytes_make_decoding_a_request_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        if let Ok(request) = decode_request(bytes.clone()) {
            prop_assert_eq!(decode_request(encode_request(&request)), Ok(request));
        }
        if let Err(error) = decode_entry(bytes.clone()) {
            prop_assert!(matches!(error, DecodeError::Malformed { .. }), "entries have no rules");
        }
        if let Ok(reply) = decode_reply(bytes) {
            prop_assert_eq!(decode_reply(encode_reply(&reply)), Ok(reply));
        }
    }

    /// Damage to a real request: a cut or a changed byte gives another request or an error.
    #[test]
    fn damaged_requests_do_not_panic(
        which in 0..16_usize, cut in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let request = Request { session: None, command: all_commands().swap_remove(which) };
        let mut bytes = Vec::from(encode_request(&request));
        let place = cut.index(bytes.len());
        prop_assert!(decode_request(Bytes::copy_from_slice(&bytes[..place])) != Ok(request.clone()));
        bytes[place] = byte;
        if let Ok(other) = decode_request(bytes.into()) {
            prop_assert_eq!(decode_request(encode_request(&other)), Ok(other));
        }
    }
}
