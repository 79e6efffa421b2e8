//! Messages that come twice, late, or never.

use raft::ProgressState;
use raft::eraftpb::MessageType;

use super::cluster::{Cluster, Letter};
use crate::raft::{ClientRequest, Input};
use crate::types::{Code, MembershipChange, NodeId, Role};

#[test]
fn a_read_index_that_raft_dropped_in_silence_is_asked_for_again() {
    let mut cluster = Cluster::of(3);
    cluster.lost = vec![MessageType::MsgReadIndex];
    let waiter = cluster.read(2);
    cluster.ticks(3);
    assert!(!cluster.machine(2).reads.contains_key(&waiter));
    cluster.lost.clear();
    cluster.ticks(10);
    assert!(cluster.machine(2).reads.contains_key(&waiter), "nobody had to ask twice");
}

#[test]
fn an_answer_to_a_read_of_an_earlier_start_is_not_taken() {
    let mut cluster = Cluster::of(3);
    let first = cluster.read(2);
    assert!(cluster.machine(2).reads.contains_key(&first));
    let answer = cluster.sent.iter().rev().find_map(|(_, to, letter)| match letter {
        Letter::Raft(m) if *to == 2 && m.get_msg_type() == MessageType::MsgReadIndexResp => {
            Some(m.clone())
        }
        _ => None,
    });
    cluster.crash(2);
    cluster.start(2);
    cluster.ticks(10);
    // Counters begin anew with each start, so the context must tell the starts apart.
    cluster.lost = vec![MessageType::MsgReadIndex];
    let second = cluster.read(2);
    cluster.deliver(1, 2, &answer.unwrap());
    assert!(!cluster.machine(2).reads.contains_key(&second));
    cluster.lost.clear();
    cluster.ticks(10);
    assert!(cluster.machine(2).reads.contains_key(&second));
}

#[test]
fn a_rejection_that_comes_twice_takes_no_peer_back_behind_what_it_has() {
    let mut cluster = Cluster::of(3);
    cluster.write(1, 10, 10);
    let matched = cluster.peer(1, 3).matched;
    // From when the leader had just begun to probe: 'I end at 4'.
    let mut rejection = raft::eraftpb::Message::default();
    rejection.set_msg_type(MessageType::MsgAppendResponse);
    (rejection.from, rejection.to) = (3, 1);
    rejection.term = cluster.core(1).raw.raft.term;
    (rejection.index, rejection.reject, rejection.reject_hint) = (matched, true, 4);
    cluster.cut.extend([(1, 3), (3, 1)]);
    cluster.tell(1, Input::Unreachable(NodeId(3)));
    assert_eq!(cluster.peer(1, 3).state, ProgressState::Probe);
    cluster.deliver(3, 1, &rejection);
    let peer = cluster.peer(1, 3);
    assert!(peer.next_idx > peer.matched, "next {} <= matched {}", peer.next_idx, peer.matched);
    cluster.cut.clear();
    cluster.write(1, 3, 10);
    cluster.ticks(10);
    assert_eq!(cluster.peer(1, 3).state, ProgressState::Replicate);
    cluster.assert_equal(3, 1);
}

#[test]
fn a_node_far_behind_in_applying_does_not_campaign() {
    // raft-rs would read all that is committed and not applied, at once, to look for a membership
    // change in it.
    let mut cluster = Cluster::of(3);
    cluster.hold(3, super::cluster::Task::Apply);
    cluster.write(1, 100, 1 << 20);
    let term = cluster.core(3).raw.raft.term;
    let behind = cluster.core(3).commit_index() - cluster.core(3).applied_index();
    assert!(behind >= 100, "{behind}");
    let handed_out: usize = cluster.machine(3).applies.iter().map(|(_, list)| list.len()).sum();
    assert!(handed_out <= 90, "{handed_out} MiB wait to be applied at once");
    let mut now = raft::eraftpb::Message::default();
    now.set_msg_type(MessageType::MsgTimeoutNow);
    (now.from, now.to, now.term) = (1, 3, term);
    cluster.deliver(1, 3, &now);
    cluster.cut.extend([(1, 3), (3, 1), (2, 3), (3, 2)]);
    cluster.ticks(60);
    assert_eq!(cluster.core(3).raw.raft.term, term);
    assert_eq!(cluster.core(3).standing().role, Role::Follower);
    cluster.release(3, super::cluster::Task::Apply);
    cluster.ticks(60);
    assert_eq!(cluster.core(3).standing().role, Role::Candidate, "once it has caught up it does");
}

#[test]
fn a_node_that_is_there_counts_as_there_at_every_moment() {
    // raft-rs forgets who was active at the end of each election timeout of its leader.
    let mut cluster = Cluster::of(3);
    let mut forgotten = 0;
    for round in 0..70 {
        // A few heartbeats are lost, never all of an election timeout.
        cluster.lost = if round % 7 < 4 { vec![MessageType::MsgHeartbeat] } else { Vec::new() };
        cluster.ticks(1);
        forgotten += usize::from(!cluster.peer(1, 2).recent_active);
        assert!(cluster.core(1).hears(NodeId(2)));
    }
    assert!(forgotten > 0, "raft-rs no longer forgets: `hears` may go");
    cluster.lost.clear();
    // With node 3 away node 2 must stay, or one voter of two would be left; node 3 may go.
    cluster.isolate(3);
    cluster.ticks(20);
    assert!(!cluster.core(1).hears(NodeId(3)));
    let remove = MembershipChange::Remove(NodeId(2));
    let refused = cluster.client(1, ClientRequest::Membership(remove));
    let answer = cluster.machine(1).answers[&refused].clone();
    assert_eq!(answer.unwrap_err().code, Code::MembershipRefused);
    let done = cluster.change(1, MembershipChange::Remove(NodeId(3)));
    cluster.ticks(2);
    assert!(cluster.machine(1).answers[&done].is_ok());
}
