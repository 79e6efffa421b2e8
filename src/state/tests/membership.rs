//! Conf changes and pins.

use bytes::Bytes;

use crate::codec::encode_entry;
use crate::state::testing::*;
use crate::state::{State, read};
use crate::types::{Code, Command, ConfState, NodeId, Payload, Pin, Reply, SnapshotId};

const TWO: NodeId = NodeId(2);

fn with_learner() -> Replica {
    let mut replica = Replica::new();
    replica.enrol("two");
    let outcome = replica.conf_change(Command::AddLearner(TWO), members(&[1], &[2]));
    assert_eq!(outcome.reply, Ok(Reply::Done));
    replica
}

fn set_pin(index: u64, snapshot: Option<(SnapshotId, NodeId)>) -> Command {
    Command::SetPin { receiver: TWO, index, snapshot }
}

#[test]
fn adding_a_learner_pins_the_log_from_that_entry_on() {
    let mut replica = Replica::new();
    replica.enrol("two");
    replica.clock_ms += 8;
    let outcome = replica.conf_change(Command::AddLearner(TWO), members(&[1], &[2]));
    assert!(outcome.pins_changed);
    let pin = Pin {
        receiver: TWO,
        index: outcome.index,
        snapshot: None,
        renewed_unix_ms: FOUNDED_MS + 8,
    };
    assert_eq!(replica.state.pins(), std::slice::from_ref(&pin));
    replica.write_batch();
    let loaded = State::load(&replica.view).unwrap();
    assert_eq!(loaded.pins(), [pin]);
    assert_eq!(loaded.conf_state(), &members(&[1], &[2]));
    assert_eq!(read::conf_state(&replica.view).unwrap(), members(&[1], &[2]));
}

#[test]
fn adding_a_member_again_takes_no_new_pin() {
    let mut replica = with_learner();
    replica.run(Command::ReleasePin(TWO)).unwrap();
    let outcome = replica.conf_change(Command::AddLearner(TWO), members(&[1], &[2]));
    assert_eq!((outcome.reply, outcome.pins_changed), (Ok(Reply::Done), false));
    assert!(replica.state.pins().is_empty());
}

#[test]
fn a_promoted_node_keeps_its_record_and_its_pin() {
    let mut replica = with_learner();
    let outcome = replica.conf_change(Command::PromoteNode(TWO), members(&[1, 2], &[]));
    assert_eq!(outcome.reply, Ok(Reply::Done));
    assert_eq!(replica.state.conf_state(), &members(&[1, 2], &[]));
    assert_eq!(replica.state.nodes().len(), 2);
    assert_eq!(replica.state.pins().len(), 1);
}

#[test]
fn a_removed_node_leaves_no_pin_and_is_remembered_as_removed() {
    let mut replica = with_learner();
    let outcome = replica.conf_change(Command::RemoveNode(TWO), members(&[1], &[]));
    assert!(outcome.pins_changed && outcome.nodes_changed);
    assert_eq!(replica.state.nodes().len(), 1);
    assert!(replica.state.pins().is_empty());
    assert_refused(replica.run(set_pin(1, None)), Code::NodeNotFound);
    replica.write_batch();
    assert_eq!(read::removed_nodes(&replica.view).unwrap(), [(TWO, outcome.index)]);
    assert_eq!(read::nodes(&replica.view).unwrap().len(), 1);
    assert!(read::pins(&replica.view).unwrap().is_empty());
}

#[test]
fn raft_s_own_conf_change_is_stored_sorted() {
    let mut replica = Replica::new();
    let conf_state = ConfState {
        voters: vec![3, 1],
        learners: vec![9, 4],
        voters_outgoing: vec![2, 1],
        learners_next: vec![8, 5],
        auto_leave: true,
    };
    replica.apply(Payload::ConfChange { context: Bytes::new(), conf_state }).unwrap();
    let sorted = ConfState {
        voters: vec![1, 3],
        learners: vec![4, 9],
        voters_outgoing: vec![1, 2],
        learners_next: vec![5, 8],
        auto_leave: true,
    };
    replica.write_batch();
    assert_eq!(State::load(&replica.view).unwrap().conf_state(), &sorted);
}

#[test]
fn the_conf_state_is_stored_whatever_came_with_it() {
    let garbage = Bytes::from_static(b"\xff\xff");
    for context in [encode_entry(FOUNDED_MS, &garbage), garbage] {
        let mut replica = Replica::new();
        let conf_state = members(&[1], &[5]);
        let outcome = replica.apply(Payload::ConfChange { context, conf_state }).unwrap();
        assert_refused(outcome.reply, Code::InvalidArgument);
        assert_eq!(replica.state.conf_state(), &members(&[1], &[5]));
    }
    let mut replica = Replica::new();
    let outcome = replica.conf_change(Command::AddLearner(NodeId(5)), members(&[1], &[5]));
    assert_refused(outcome.reply, Code::NodeNotFound);
    assert!(replica.state.conf_state().contains(NodeId(5)));
    let outcome = replica.conf_change(Command::OpenSession, members(&[1], &[]));
    assert_refused(outcome.reply, Code::InvalidArgument);
}

#[test]
fn membership_commands_outside_of_conf_changes_are_refused() {
    let mut replica = with_learner();
    for command in [Command::AddLearner(TWO), Command::PromoteNode(TWO), Command::RemoveNode(TWO)] {
        assert_refused(replica.run(command), Code::InvalidArgument);
    }
    assert_eq!(replica.state.nodes().len(), 2);
}

#[test]
fn a_pin_moves_forward_unless_the_snapshot_is_another() {
    let mut replica = with_learner();
    for number in 0..10 {
        replica.clock_ms += number;
        replica.apply(Payload::Empty).unwrap();
    }
    let first = Some((SnapshotId::of(b"first"), NodeId(1)));
    let second = Some((SnapshotId::of(b"second"), NodeId(1)));
    let start = replica.state.pins()[0].index;
    // Each step: what is set, and index and snapshot afterwards.
    let steps = [
        ((start + 3, first), (start + 3, first)),
        ((start + 1, first), (start + 3, first)),
        ((start + 5, first), (start + 5, first)),
        ((start + 6, None), (start + 6, first)),
        ((start + 2, None), (start + 6, first)),
        ((start + 2, second), (start + 2, second)),
    ];
    for ((index, snapshot), expected) in steps {
        replica.clock_ms += 1;
        replica.run(set_pin(index, snapshot)).unwrap();
        let pin = replica.state.pins()[0].clone();
        assert_eq!((pin.index, pin.snapshot), expected);
        assert_eq!(pin.renewed_unix_ms, replica.clock_ms);
    }
    replica.write_batch();
    assert_eq!(State::load(&replica.view).unwrap().pins(), replica.state.pins());
}

#[test]
fn pins_ahead_of_the_log_and_of_strangers_are_refused() {
    let mut replica = with_learner();
    let next = replica.state.applied() + 1;
    assert_refused(replica.run(set_pin(next + 1, None)), Code::InvalidArgument);
    let stranger = Command::SetPin { receiver: NodeId(9), index: 1, snapshot: None };
    assert_refused(replica.run(stranger), Code::NodeNotFound);
    assert_eq!(replica.state.pins().len(), 1);
}

#[test]
fn releasing_a_pin_twice_is_harmless() {
    let mut replica = with_learner();
    assert_eq!(replica.run(Command::ReleasePin(TWO)), Ok(Reply::Done));
    assert_eq!(replica.run(Command::ReleasePin(TWO)), Ok(Reply::Done));
    replica.write_batch();
    assert!(State::load(&replica.view).unwrap().pins().is_empty());
    // A member that falls behind later is pinned anew.
    replica.run(set_pin(1, None)).unwrap();
    assert_eq!(replica.state.pins()[0].index, 1);
}
