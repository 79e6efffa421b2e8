//! Messages that no correct peer sends. raft-rs would index into empty lists, slice beyond their
//! ends, or give up over numbers; a panic ends the process.

use bytes::Bytes;
use proptest::prelude::*;
use raft::eraftpb::{Entry, Message, MessageType};

use super::cluster::Cluster;
use crate::codec::encode_entry as encode_command;
use crate::limits::{ENTRY_BYTES_MAX, REQUEST_BYTES_MAX, TERM_LEAP_MAX};
use crate::raft::core::Halt;
use crate::raft::shape::{Own, READ_CONTEXT_BYTES, check};
use crate::raft::wire::encode_entry;
use crate::raft::{ClientRequest, Input};
use crate::types::{Code, Index, NodeId, Term};

fn message(kind: MessageType, from: u64, to: u64, term: Term) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (from, to, term);
    message
}

fn entry(index: Index, term: Term, data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (index, term, Bytes::from(data));
    entry
}

#[test]
fn entries_that_do_not_follow_one_another_are_dropped() {
    let mut cluster = Cluster::of(3);
    let term = cluster.core(3).raw.raft.term;
    let last = cluster.core(3).log_range().1;
    let mut append = message(MessageType::MsgAppend, 1, 3, term);
    (append.index, append.log_term) = (last, term);
    append.mut_entries().push(entry(last + 9, term, vec![]));
    cluster.deliver(1, 3, &append);
    append.mut_entries()[0] = entry(last + 1, term + 1, vec![]);
    cluster.deliver(1, 3, &append);
    assert_eq!(cluster.core(3).log_range().1, last);
    cluster.write(1, 3, 10);
    cluster.assert_equal(3, 1);
}

#[test]
fn an_append_holds_entries_in_order_of_its_term_or_before_that_fit_the_log() {
    let own = Own { term: 3, last: 4, leads: false };
    let mut append = message(MessageType::MsgAppend, 1, 3, 3);
    (append.index, append.log_term) = (4, 2);
    append.mut_entries().push(entry(5, 2, vec![]));
    append.mut_entries().push(entry(6, 3, vec![]));
    check(&append, own).unwrap();
    for spoil in [
        (|m: &mut Message| m.mut_entries()[1].index = 7) as fn(&mut Message),
        |m| m.mut_entries()[0].index = 6,
        |m| m.mut_entries()[0].term = 1,
        |m| m.mut_entries()[0].term = 0,
        |m| m.mut_entries()[1].term = 4,
        |m| m.mut_entries()[1].data = Bytes::from(vec![0; ENTRY_BYTES_MAX]),
        |m| m.index = u64::MAX,
        |m| (m.index, m.entries) = (u64::MAX, Vec::new().into()),
    ] {
        let mut spoiled = append.clone();
        spoil(&mut spoiled);
        assert!(check(&spoiled, own).is_err(), "{spoiled:?}");
    }
}

#[test]
fn a_term_out_of_all_proportion_is_dropped() {
    let mut cluster = Cluster::of(3);
    let term = cluster.core(3).raw.raft.term;
    for leap in [term + TERM_LEAP_MAX + 1, u64::MAX] {
        cluster.deliver(2, 3, &message(MessageType::MsgHeartbeat, 2, 3, leap));
        cluster.deliver(2, 3, &message(MessageType::MsgRequestVote, 2, 3, leap));
    }
    assert_eq!(cluster.core(3).raw.raft.term, term);
    cluster.write(1, 3, 10);
    cluster.assert_equal(3, 1);
}

#[test]
fn an_acknowledgement_of_what_the_leader_has_not_is_dropped() {
    let mut cluster = Cluster::of(3);
    let term = cluster.core(1).raw.raft.term;
    let mut response = message(MessageType::MsgAppendResponse, 3, 1, term);
    for index in [cluster.core(1).log_range().1 + 1, u64::MAX] {
        response.index = index;
        cluster.deliver(3, 1, &response);
    }
    cluster.write(1, 3, 10);
    cluster.assert_equal(3, 1);
}

#[test]
fn a_leader_that_counts_on_entries_this_node_has_not_halts_it_and_a_stranger_does_not() {
    let mut cluster = Cluster::of(3);
    let term = cluster.core(3).raw.raft.term;
    let mut heartbeat = message(MessageType::MsgHeartbeat, 4, 3, term);
    heartbeat.commit = cluster.core(3).log_range().1 + 1;
    cluster.deliver(4, 3, &heartbeat);
    heartbeat.from = 1;
    let halt = cluster.try_deliver(1, 3, &heartbeat).unwrap_err();
    assert!(matches!(halt, Halt::LogLost { .. }), "{halt}");
}

#[test]
fn a_command_that_no_entry_can_hold_is_refused_before_it_is_proposed() {
    let mut cluster = Cluster::alone();
    let last = cluster.core(1).log_range().1;
    for bytes in [REQUEST_BYTES_MAX + 1, ENTRY_BYTES_MAX] {
        let request = ClientRequest::Propose(Bytes::from(vec![7; bytes]));
        let waiter = cluster.client(1, request);
        let answer = &cluster.machine(1).answers[&waiter];
        assert_eq!(answer.as_ref().unwrap_err().code, Code::BatchTooLarge);
    }
    assert_eq!(cluster.core(1).log_range().1, last);
    // What the entry adds to the largest one has room.
    let data = encode_command(u64::MAX, &vec![7; REQUEST_BYTES_MAX]);
    let stored = encode_entry(&entry(u64::MAX, u64::MAX, data.to_vec()));
    assert!(stored.bytes.len() <= ENTRY_BYTES_MAX);
}

#[test]
fn a_read_needs_one_context_and_it_must_be_the_readers_own() {
    let own = Own { term: 3, last: 9, leads: true };
    let mut read = message(MessageType::MsgReadIndex, 2, 1, 0);
    assert!(check(&read, own).is_err(), "raft-rs would index into an empty list");
    let mut context = 2u64.to_be_bytes().to_vec();
    context.resize(READ_CONTEXT_BYTES, 0);
    read.mut_entries().push(entry(0, 0, context));
    assert!(check(&read, own).is_ok());
    read.from = 3;
    assert!(check(&read, own).is_err());
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..16u64, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

prop_compose! {
    fn any_message(to: u64)(
        // By number, as on the wire.
        kind in 0..=18,
        from in prop_oneof![Just(1u64), Just(2), Just(4), Just(9)],
        numbers in proptest::collection::vec(any_number(), 8),
        reject in any::<bool>(),
        entries in proptest::collection::vec((any_number(), any_number(), 0..30usize), 0..4),
        context in proptest::collection::vec(any::<u8>(), 0..30),
    ) -> Message {
        let kind: Option<MessageType> = protobuf::ProtobufEnum::from_i32(kind);
        let kind = kind.expect("all kinds are numbered");
        let mut message = message(kind, from, to, numbers[0]);
        (message.log_term, message.index, message.commit) = (numbers[1], numbers[2], numbers[3]);
        (message.commit_term, message.request_snapshot) = (numbers[4], numbers[5]);
        (message.reject, message.reject_hint) = (reject, numbers[6]);
        message.context = Bytes::from(context);
        for (index, term, bytes) in entries {
            message.mut_entries().push(entry(index, term, vec![2; bytes]));
        }
        if kind == MessageType::MsgSnapshot {
            let metadata = message.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (numbers[2], numbers[7]);
            metadata.mut_conf_state().set_voters(vec![to, numbers[7]]);
        }
        message
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_message_makes_a_node_panic(
        messages in (1..=3u64)
            .prop_flat_map(|to| proptest::collection::vec(any_message(to), 1..12)),
    ) {
        let mut cluster = Cluster::of(3);
        for message in messages {
            let from = NodeId(message.from);
            let bytes = crate::raft::wire::encode_message(&message);
            let now = cluster.now;
            // Alone: what a liar makes a node say to the others is their business.
            let core = cluster.core(message.to);
            let result = core.handle(now, Input::Message { from, bytes }).and_then(|()| core.advance(now));
            match result {
                Ok(()) => {}
                Err(Halt::LogLost { .. }) => return Ok(()),
                Err(halt) => panic!("halted: {halt}"),
            }
        }
    }
}
