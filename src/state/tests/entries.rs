//! Entries: order, time, damage, and the genesis they follow.

use bytes::Bytes;

use crate::codec::{decode_request, encode_entry, encode_request};
use crate::kv::{Family, View};
use crate::limits::REQUEST_BYTES_MAX;
use crate::state::testing::*;
use crate::state::{State, StateError, applied_key, decode_applied, read};
use crate::types::{
    Action, ClusterId, Code, Command, Committed, Condition, Payload, Reply, Request, WriteBatch,
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
    // An action kind that is not invented yet, in place of `Check`.
    let check = vec![write("k", Condition::Always, Action::Check)];
    let request = Request { session: None, command: Command::Write(WriteBatch { writes: check }) };
    let mut bytes = encode_request(&request).to_vec();
    let place = bytes.windows(2).position(|field| field == [0x28, 2]).unwrap();
    bytes[place + 1] = 77;
    let mut replica = Replica::new();
    let entry = encode_entry(FOUNDED_MS, &bytes);
    let error = replica.apply(Payload::Command(entry)).unwrap_err();
    assert!(matches!(error, StateError::TooOld { .. }));
}

#[test]
fn a_request_that_breaks_a_rule_is_refused_before_the_log_and_by_apply() {
    // CreateNamespace with the name NO.
    let bytes = Bytes::from_static(b"\x12\x04\x0a\x02NO");
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
