//! The receiver's side: from MsgSnapshot to a new generation, and what must not happen on the way.

use raft::eraftpb::{Message, MessageType};
use raft::{ProgressState, StateRole};

use super::cluster::{Cluster, Letter, Task};
use crate::raft::{ClientRequest, Input, LogStore as _};
use crate::types::{Code, Committed, Digest, MembershipChange, NodeId, Payload, Role};

/// Voters 1 to 3; node 3 fell behind the log and has been offered a snapshot it may pull.
fn with_a_follower_behind() -> Cluster {
    let mut cluster = Cluster::of(3);
    cluster.isolate(3);
    // Only then the leader stops holding the log for it.
    cluster.ticks(40);
    cluster.write(1, 50, 1000);
    cluster.compact(1);
    cluster.hold(3, Task::Pull);
    cluster.cut.clear();
    cluster.ticks(20);
    assert_eq!(cluster.machine(3).pulls.len(), 1);
    assert_eq!(cluster.peer(1, 3).state, ProgressState::Snapshot);
    cluster.machine(3).installed.clear();
    cluster
}

fn message(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (from, to, term);
    message
}

/// The last snapshot that was offered to a node.
fn offered(cluster: &Cluster, to: u64) -> Message {
    let found = cluster.sent.iter().rev().find_map(|(_, receiver, letter)| match letter {
        Letter::Raft(m) if *receiver == to && m.get_msg_type() == MessageType::MsgSnapshot => {
            Some(m.clone())
        }
        _ => None,
    });
    found.unwrap()
}

#[test]
fn raft_hears_of_a_snapshot_only_when_its_data_is_here() {
    let mut cluster = with_a_follower_behind();
    let (commit, range) = (cluster.core(3).commit_index(), cluster.core(3).log_range());
    cluster.ticks(100);
    assert_eq!(cluster.core(3).log_range(), range, "its own log is kept while it pulls");
    assert_eq!(cluster.core(3).commit_index(), commit);
    assert_eq!(cluster.core(3).standing().role, Role::Follower, "the leader is known to live");
    cluster.release(3, Task::Pull);
    cluster.ticks(5);
    assert!(cluster.core(3).log_range().0 > range.1);
    cluster.assert_equal(3, 1);
}

#[test]
fn an_offer_without_data_advances_nothing() {
    let mut cluster = with_a_follower_behind();
    let mut empty = offered(&cluster, 3);
    empty.mut_snapshot().data.clear();
    cluster.machine(3).pulls.clear();
    let before = (cluster.core(3).commit_index(), cluster.core(3).applied_index());
    cluster.deliver(1, 3, &empty);
    cluster.ticks(2);
    assert_eq!((cluster.core(3).commit_index(), cluster.core(3).applied_index()), before);
    assert!(cluster.machine(3).pulls.is_empty() && cluster.machine(3).installs.is_empty());
}

#[test]
fn nothing_reaches_raft_until_an_install_is_complete() {
    let mut cluster = with_a_follower_behind();
    cluster.hold(3, Task::Install);
    cluster.release(3, Task::Pull);
    assert_eq!(cluster.machine(3).installs.len(), 1, "raft has taken the snapshot");
    // The log is gone and the state is not there: a campaign would read what neither holds.
    let term = cluster.core(3).raw.raft.term;
    cluster.deliver(1, 3, &message(MessageType::MsgTimeoutNow, 1, 3, term));
    cluster.isolate(3);
    cluster.ticks(100);
    assert_eq!(cluster.core(3).raw.raft.state, StateRole::Follower);
    assert_eq!(cluster.core(3).raw.raft.term, term);
    let waiter = cluster.client(3, ClientRequest::Propose(super::cluster::command(1)));
    let refusal = cluster.machine(3).answers[&waiter].clone().unwrap_err();
    assert_eq!(refusal.code, Code::NotReady);
    cluster.cut.clear();
    cluster.release(3, Task::Install);
    cluster.ticks(30);
    cluster.assert_equal(3, 1);
}

#[test]
fn a_snapshot_waits_until_all_that_was_begun_is_durable_and_applied() {
    for held in [Task::Apply, Task::Persist] {
        let mut cluster = with_a_follower_behind();
        let (reference, ..) = cluster.machine(3).pulls.pop().unwrap();
        cluster.hold(3, held);
        // What the old log still had for it arrives while the snapshot is being pulled.
        let last = cluster.machine(3).log.last_index();
        let (term, vote) = {
            let hard_state = cluster.machine(3).log.hard_state();
            (hard_state.term, hard_state.vote)
        };
        let mut append = message(MessageType::MsgAppend, 1, 3, term);
        append.index = last;
        append.log_term = cluster.machine(3).log.term(last).unwrap().unwrap();
        append.commit = last + 1;
        let mut entry = raft::eraftpb::Entry::default();
        (entry.index, entry.term) = (last + 1, term);
        append.mut_entries().push(entry);
        cluster.deliver(1, 3, &append);
        let meta = cluster.store[&reference.id].meta.clone();
        cluster.tell(3, Input::SnapshotDurable(meta.clone()));
        assert!(cluster.machine(3).installs.is_empty(), "{held:?} is under way");
        cluster.hold(3, Task::Install);
        cluster.release(3, held);
        let plan = cluster.machine(3).installs[0].clone();
        // Commit, vote and the log's new start become durable together, or not at all.
        assert_eq!((plan.start.index, plan.hard_state.commit), (meta.index, meta.index));
        assert_eq!((plan.hard_state.term, plan.hard_state.vote), (term, vote));
        cluster.release(3, Task::Install);
        cluster.ticks(5);
        assert_eq!(cluster.core(3).applied_index(), cluster.core(1).applied_index());
    }
}

#[test]
fn results_of_a_replaced_state_are_dropped() {
    let mut cluster = with_a_follower_behind();
    let before = cluster.machine(3).generation;
    cluster.release(3, Task::Pull);
    cluster.ticks(5);
    let applied = cluster.core(3).applied_index();
    assert!(cluster.machine(3).generation > before);
    // An index below the snapshot's would end the process inside raft-rs.
    let late = Input::Applied {
        generation: before,
        index: 3,
        replies: Vec::new(),
        pins: Some(Vec::new()),
        nodes: Some(Vec::new()),
        time_unix_ms: 0,
    };
    cluster.tell(3, late);
    assert_eq!(cluster.core(3).applied_index(), applied);
    assert!(!cluster.core(3).nodes.is_empty(), "nor does it bring old nodes back");
}

#[test]
fn a_snapshot_pulled_under_an_old_leader_is_taken_under_a_new_one() {
    // raft-rs drops a MsgSnapshot of a lower term with a log line.
    let mut cluster = with_a_follower_behind();
    let term = cluster.core(3).raw.raft.term;
    cluster.isolate(1);
    for _ in 0..100 {
        cluster.ticks(1);
        if cluster.core(2).standing().role == Role::Leader {
            break;
        }
    }
    cluster.ticks(10);
    assert_eq!(cluster.core(3).standing().leader, Some(NodeId(2)));
    assert!(cluster.core(3).raw.raft.term > term);
    cluster.release(3, Task::Pull);
    cluster.ticks(20);
    assert_eq!(cluster.machine(3).installed.len(), 1);
    assert_eq!(cluster.peer(2, 3).state, ProgressState::Replicate);
    cluster.assert_equal(3, 2);
}

#[test]
fn an_offer_of_a_lower_term_is_not_pulled() {
    let mut cluster = with_a_follower_behind();
    let mut stale = offered(&cluster, 3);
    cluster.machine(3).pulls.clear();
    stale.term -= 1;
    cluster.deliver(1, 3, &stale);
    assert!(cluster.machine(3).pulls.is_empty());
    stale.term += 1;
    cluster.deliver(1, 3, &stale);
    assert_eq!(cluster.machine(3).pulls.len(), 1, "of the own term it is");
}

#[test]
fn a_second_snapshot_does_not_take_the_first_ones_place_before_it_is_applied() {
    let mut cluster = with_a_follower_behind();
    let (first, ..) = cluster.machine(3).pulls.pop().unwrap();
    cluster.write(1, 3, 10);
    cluster.client(1, ClientRequest::BuildSnapshot);
    let second = cluster.machine(1).offer.clone().unwrap().meta;
    assert_ne!(second.id, first.id);
    cluster.hold(3, Task::Install);
    cluster.tell(3, Input::SnapshotDurable(cluster.store[&first.id].meta.clone()));
    let plan = cluster.machine(3).installs[0].clone();
    cluster.tell(3, Input::SnapshotDurable(second.clone()));
    assert_eq!(cluster.machine(3).installs, [plan], "one install at a time");
    cluster.hold(3, Task::Prepare);
    cluster.release(3, Task::Install);
    assert_eq!(cluster.machine(3).installed, [first.id]);
    cluster.release(3, Task::Prepare);
    cluster.ticks(5);
    cluster.assert_equal(3, 1);
}

#[test]
fn one_snapshot_is_prepared_at_a_time() {
    let mut cluster = with_a_follower_behind();
    let (first, ..) = cluster.machine(3).pulls.pop().unwrap();
    cluster.write(1, 3, 10);
    cluster.client(1, ClientRequest::BuildSnapshot);
    let second = cluster.machine(1).offer.clone().unwrap().meta;
    cluster.hold(3, Task::Prepare);
    cluster.tell(3, Input::SnapshotDurable(cluster.store[&first.id].meta.clone()));
    cluster.tell(3, Input::SnapshotDurable(second.clone()));
    cluster.tell(3, Input::SnapshotDurable(second));
    assert_eq!(cluster.machine(3).prepares, [first.id]);
    cluster.release(3, Task::Prepare);
    cluster.ticks(5);
    assert_eq!(cluster.machine(3).installed[0], first.id);
    cluster.assert_equal(3, 1);
}

#[test]
fn a_snapshot_the_log_has_overtaken_is_dropped() {
    let mut cluster = with_a_follower_behind();
    let (reference, ..) = cluster.machine(3).pulls[0].clone();
    // One that holds no more than what is committed here already.
    let mut old = cluster.store[&reference.id].meta.clone();
    old.index = cluster.core(3).commit_index();
    old.id = Digest([7; 32]);
    cluster.tell(3, Input::SnapshotDurable(old.clone()));
    assert_eq!(cluster.machine(3).discarded, [old.id]);
    assert!(cluster.machine(3).prepares.is_empty());
    cluster.ticks(10);
    cluster.release(3, Task::Pull);
    cluster.ticks(10);
    cluster.assert_equal(3, 1);
}

#[test]
fn what_became_of_a_snapshot_is_told_to_the_first_leader_a_start_hears_of() {
    let mut cluster = with_a_follower_behind();
    let (reference, ..) = cluster.machine(3).pulls[0].clone();
    // The node died while it installed, and its next start has ended the install: what is staged
    // holds no more than the log does, and the leader still waits to hear of it.
    let mut meta = cluster.store[&reference.id].meta.clone();
    meta.index = cluster.core(3).commit_index();
    cluster.crash(3);
    cluster.isolate(3);
    cluster.start(3);
    let before = cluster.sent.len();
    let told = |cluster: &Cluster| {
        cluster.sent[before..].iter().find_map(|(from, _, letter)| match letter {
            Letter::Report(_, ok) if *from == 3 => Some(*ok),
            _ => None,
        })
    };
    cluster.tell(3, Input::SnapshotDurable(meta));
    assert_eq!(told(&cluster), None, "it knows nobody to tell");
    cluster.cut.clear();
    cluster.ticks(20);
    assert_eq!(told(&cluster), Some(false), "what it had staged is not needed any more");
    cluster.assert_equal(3, 1);
}

#[test]
fn a_pull_that_the_log_has_overtaken_ends() {
    let mut cluster = with_a_follower_behind();
    let (reference, index, source) = cluster.machine(3).pulls[0].clone();
    let id = reference.id;
    let life = |id, index| Input::Pulling { id, index, source, wants_new_offer: true };
    cluster.tell(3, life(id, index));
    assert!(cluster.machine(3).discarded.is_empty(), "it is needed");
    // What is committed here already nobody has to pull, whoever offered it.
    let committed = cluster.core(3).commit_index();
    cluster.tell(3, life(Digest([7; 32]), committed));
    assert_eq!(cluster.machine(3).discarded, [Digest([7; 32])]);
    // What is being installed is committed, too; it is not to be taken away.
    cluster.hold(3, Task::Install);
    cluster.release(3, Task::Pull);
    assert_eq!(cluster.machine(3).installs.len(), 1);
    cluster.tell(3, life(id, index));
    assert_eq!(cluster.machine(3).discarded.len(), 1);
    cluster.release(3, Task::Install);
    // Nor does a word that comes after the end make a success a failure.
    cluster.tell(3, life(id, index));
    cluster.ticks(10);
    let failed = |letter: &Letter| matches!(letter, Letter::Report(_, false));
    assert!(!cluster.sent.iter().any(|(.., letter)| failed(letter)), "a failure was reported");
    cluster.assert_equal(3, 1);
}

#[test]
fn a_joiner_learns_of_its_addition_by_snapshot_and_never_from_the_log() {
    // With an empty conf state raft-rs could not apply its own addition: 'removed all voters'.
    let mut cluster = Cluster::alone();
    assert_eq!(cluster.core(1).log_range().0, 2, "the log begins after the genesis state");
    cluster.place(2);
    cluster.hold(2, Task::Pull);
    let waiter = cluster.change(1, MembershipChange::AddLearner(NodeId(2)));
    cluster.ticks(10);
    assert!(cluster.machine(1).answers[&waiter].is_ok());
    assert_eq!(cluster.core(2).log_range(), (1, 0), "nothing but a snapshot is sent");
    cluster.release(2, Task::Pull);
    cluster.ticks(5);
    let conf_state = cluster.core(2).standing().conf_state.clone();
    assert_eq!((conf_state.voters, conf_state.learners), (vec![1], vec![2]));
    let replayed = |entry: &Committed| matches!(entry.payload, Payload::ConfChange { .. });
    assert!(!cluster.machine(2).applies.iter().any(|(_, entries)| entries.iter().any(replayed)));
}

#[test]
fn waiters_whose_entries_a_snapshot_covered_are_answered() {
    let mut cluster = Cluster::of(3);
    // Node 1 proposes alone; the others go on without it and compact.
    cluster.isolate(1);
    let waiter = cluster.client(1, ClientRequest::Propose(super::cluster::command(10)));
    for _ in 0..100 {
        cluster.ticks(1);
        if matches!(cluster.core(2).standing().role, Role::Leader)
            || matches!(cluster.core(3).standing().role, Role::Leader)
        {
            break;
        }
    }
    let leader = if cluster.core(2).standing().role == Role::Leader { 2 } else { 3 };
    cluster.ticks(5);
    cluster.write(leader, 50, 1000);
    cluster.compact(leader);
    assert!(!cluster.machine(1).answers.contains_key(&waiter), "it may still be committed");
    cluster.cut.clear();
    cluster.ticks(20);
    assert_eq!(cluster.machine(1).installed.len(), 1);
    let failure = cluster.machine(1).answers[&waiter].clone().unwrap_err();
    assert_eq!(failure.code, Code::OutcomeUnknown);
}
