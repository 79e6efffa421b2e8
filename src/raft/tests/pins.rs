//! What the log is kept for, and what it is not kept for.

use raft::ProgressState;

use super::cluster::{Cluster, PIN_AGE_MS_MAX, PIN_BYTES_MAX, TICK_MS, Task};
use crate::raft::ClientRequest;
use crate::types::{MembershipChange, NodeId, Role};

/// Voters 1 and 2; learner 3 pulls its first snapshot.
fn with_a_pull_under_way() -> Cluster {
    let mut cluster = Cluster::of(2);
    cluster.place(3);
    cluster.hold(3, Task::Pull);
    cluster.change(1, MembershipChange::AddLearner(NodeId(3)));
    cluster.ticks(20);
    assert_eq!(cluster.machine(3).pulls.len(), 1);
    cluster.progress(1, 3, 1, false);
    cluster
}

#[test]
fn a_log_compacted_during_the_transfer_brings_no_second_snapshot() {
    let mut cluster = with_a_pull_under_way();
    let (built, offered) = (cluster.machine(1).built, cluster.machine(1).offered);
    cluster.write(1, 30, 1000);
    let pinned = cluster.machine(3).pulls[0].1;
    for id in [1, 2] {
        assert!(cluster.compact(id) <= pinned, "node {id} keeps what the receiver needs next");
    }
    cluster.release(3, Task::Pull);
    cluster.ticks(5);
    assert_eq!(cluster.peer(1, 3).state, ProgressState::Replicate);
    assert_eq!((cluster.machine(1).built, cluster.machine(1).offered), (built, offered));
    cluster.assert_equal(3, 1);
    cluster.ticks(30);
    assert!(cluster.machine(1).state.pins.is_empty(), "it needs the log no more");
    assert!(cluster.compact(1) > pinned);
}

#[test]
fn a_new_leader_honours_the_pins_of_the_one_before() {
    let mut cluster = with_a_pull_under_way();
    cluster.write(1, 30, 1000);
    let pinned = cluster.machine(3).pulls[0].1;
    cluster.isolate(1);
    // Two voters of which one is gone elect nobody: the old one comes back as a follower.
    cluster.cut.clear();
    cluster.client(1, ClientRequest::TransferLeader(NodeId(2)));
    cluster.ticks(10);
    assert_eq!(cluster.core(2).standing().role, Role::Leader);
    assert!(cluster.compact(2) <= pinned);
    cluster.ticks(10);
    assert_eq!(cluster.machine(2).offered, 0, "the receiver's pull lives on");
    cluster.release(3, Task::Pull);
    cluster.ticks(10);
    assert_eq!(cluster.machine(3).installed.len(), 1);
    assert_eq!(cluster.peer(2, 3).state, ProgressState::Replicate);
    assert_eq!(cluster.machine(2).offered, 0);
}

#[test]
fn a_restart_forgets_no_pin() {
    let mut cluster = with_a_pull_under_way();
    let pinned = cluster.machine(3).pulls[0].1;
    cluster.write(1, 30, 1000);
    for id in [1, 2] {
        cluster.machine(id).flushed = cluster.machine(id).state.clone();
        cluster.crash(id);
        cluster.start(id);
        // Before anything is applied again, only what it found on disk can tell.
        cluster.hold(id, Task::Apply);
        assert!(cluster.compact(id) <= pinned, "node {id}");
        cluster.release(id, Task::Apply);
    }
    cluster.ticks(40);
    cluster.release(3, Task::Pull);
    cluster.ticks(10);
    assert_eq!(cluster.machine(3).installed.len(), 1);
    let leader = cluster.leader().unwrap();
    cluster.assert_equal(leader, 3);
}

#[test]
fn a_receiver_that_is_too_slow_loses_its_pin_to_the_byte_budget() {
    let mut cluster = with_a_pull_under_way();
    let pinned = cluster.machine(3).pulls[0].1;
    for _ in 0..10 {
        cluster.write(1, 10, 1000);
        cluster.progress(1, 3, 1, false);
        cluster.ticks(11);
    }
    assert!(cluster.machine(1).log.bytes() <= PIN_BYTES_MAX + 12_000);
    assert!(cluster.compact(1) > pinned, "its pin has not filled the disk");
}

#[test]
fn a_pin_that_nobody_renews_is_released() {
    let mut cluster = with_a_pull_under_way();
    let pinned = cluster.machine(3).pulls[0].1;
    cluster.crash(3);
    cluster.write(1, 30, 1000);
    cluster.ticks((PIN_AGE_MS_MAX / TICK_MS) as usize / 2);
    assert!(cluster.compact(1) <= pinned, "it may come back");
    cluster.ticks((PIN_AGE_MS_MAX / TICK_MS) as usize);
    assert!(cluster.machine(1).state.pins.is_empty());
    assert!(cluster.compact(1) > pinned);
}
