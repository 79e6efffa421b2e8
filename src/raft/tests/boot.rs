//! Starting again from whatever a crash has left.

use raft::eraftpb::{Message, MessageType};

use super::cluster::{Cluster, Task, command, config, genesis, logger};
use super::disk::{FailingLog, Log};
use crate::raft::core::{Boot, Core, Halt};
use crate::raft::{ClientRequest, HardState, Input, LogStart, LogStore, Output};
use crate::types::{Index, MembershipChange, NodeId, Now, Role};

fn boot_with(
    hard_state: HardState,
    applied: Index,
    log: impl LogStore + 'static,
) -> Result<Core, Halt> {
    let boot = Boot {
        hard_state,
        applied,
        conf_state: genesis().conf_state,
        time_unix_ms: 0,
        generation: 1,
        offer: None,
        pins: Vec::new(),
        nodes: Vec::new(),
        log_bytes: 0,
        state_bytes: 0,
    };
    Core::new(config(1), boot, Box::new(log), Now { monotonic_ms: 0, unix_ms: 0 }, &logger())
}

#[test]
fn boot_raises_commit_to_what_is_applied() {
    // The commit index is not synced by itself; raft-rs ends the process if applied is above it.
    let mut cluster = Cluster::alone();
    cluster.write(1, 5, 10);
    let applied = cluster.core(1).applied_index();
    let log = cluster.machine(1).log.clone();
    let behind = HardState { commit: 2, ..log.hard_state() };
    let core = boot_with(behind, applied, log).unwrap();
    assert_eq!(core.applied_index(), applied);
    assert!(core.commit_index() >= applied);
}

#[test]
fn a_log_and_a_state_that_do_not_fit_are_an_error_and_no_panic() {
    let mut cluster = Cluster::alone();
    cluster.write(1, 20, 1000);
    let start = cluster.compact(1);
    let log = cluster.machine(1).log.clone();
    let last = log.last_index();
    let good = log.hard_state();
    assert!(boot_with(good, last, log.clone()).is_ok());
    let cases = [
        ("the state ends before the log begins", good, start - 1),
        ("the state ends after the log", good, last + 1),
        ("more was committed than the log holds", HardState { commit: last + 1, ..good }, last),
        ("the log begins in a later term", HardState { term: 0, ..good }, last),
    ];
    for (case, hard_state, applied) in cases {
        let error = boot_with(hard_state, applied, log.clone()).err();
        assert!(matches!(error, Some(Halt::Boot(_))), "{case}: {error:?}");
    }
    // Commit below the log's start is what a crash before a hard state leaves: it is raised.
    assert!(boot_with(HardState { commit: 0, ..good }, last, log).is_ok());
}

#[test]
fn a_log_that_fails_while_it_is_compacted_is_told_as_that() {
    let mut cluster = Cluster::alone();
    cluster.write(1, 5, 10);
    let applied = cluster.core(1).applied_index();
    let log = cluster.machine(1).log.clone();
    let (hard_state, failing) = (log.hard_state(), FailingLog::new(log));
    let mut core = boot_with(hard_state, applied, failing.clone()).unwrap();
    failing.fail();
    let now = Now { monotonic_ms: 0, unix_ms: 0 };
    let request = ClientRequest::CompactLog;
    core.handle(now, Input::Client { waiter: 1, request, forwarded: false }).unwrap();
    let halt = core.advance(now).unwrap_err();
    // Not as a failure of raft-rs, which heard only that something is unavailable.
    assert!(matches!(&halt, Halt::Log(error) if error.cause == FailingLog::CAUSE), "{halt:?}");
}

#[test]
fn a_membership_change_is_made_again_when_a_crash_took_the_state_back() {
    let mut cluster = Cluster::of(2);
    cluster.machine(1).flushed = cluster.machine(1).state.clone();
    let before = cluster.core(1).standing().conf_state.clone();
    cluster.join(3);
    cluster.ticks(20);
    let after = cluster.core(1).standing().conf_state.clone();
    assert_ne!(before, after);
    // Applied index and conf state go back together: they are one batch of the state.
    cluster.crash(1);
    assert_eq!(cluster.machine(1).boot().conf_state, before);
    cluster.start(1);
    cluster.ticks(60);
    assert_eq!(cluster.core(1).standing().conf_state, after);
    assert_eq!(cluster.machine(1).state.conf_state, after);
    cluster.assert_equal(1, 2);
}

#[test]
fn a_lone_voter_says_nothing_before_its_term_and_vote_are_durable() {
    // It wins inside `campaign`: were its messages to leave at once, a crash could let it write
    // another entry at the same index and term that a learner already has.
    let mut cluster = Cluster::alone();
    cluster.join(2);
    cluster.ticks(20);
    cluster.crash(1);
    let term = cluster.machine(1).log.hard_state().term;
    cluster.hold(1, Task::Persist);
    cluster.sent.clear();
    cluster.start(1);
    cluster.ticks(30);
    assert!(cluster.core(1).raw.raft.term > term, "it leads in memory");
    let waiter = cluster.client(1, ClientRequest::Propose(command(10)));
    let said = cluster.sent.iter().filter(|(from, ..)| *from == 1).count();
    assert_eq!(said, 0, "its new term is not durable");
    cluster.crash(1);
    assert_eq!(cluster.machine(1).log.hard_state().term, term, "and nobody has heard of it");
    cluster.start(1);
    cluster.ticks(30);
    assert!(!cluster.machine(1).answers.contains_key(&waiter));
    cluster.assert_equal(1, 2);
    assert!(cluster.sent.iter().any(|(from, ..)| *from == 1));
}

#[test]
fn a_candidates_vote_is_durable_before_it_asks_for_others() {
    let mut cluster = Cluster::of(3);
    cluster.isolate(1);
    for id in [2, 3] {
        cluster.hold(id, Task::Persist);
    }
    cluster.sent.clear();
    cluster.ticks(60);
    let asked = cluster.sent.iter().any(|(_, _, letter)| {
        matches!(letter, super::cluster::Letter::Raft(m)
            if m.get_msg_type() == MessageType::MsgRequestVote)
    });
    assert!(!asked, "a vote that a crash may take back was made known");
    for id in [2, 3] {
        cluster.release(id, Task::Persist);
    }
    cluster.ticks(60);
    let leads = |cluster: &mut Cluster, id| cluster.core(id).standing().role == Role::Leader;
    assert!(leads(&mut cluster, 2) || leads(&mut cluster, 3));
}

#[test]
fn a_wiped_node_under_its_old_id_halts() {
    // Why ids are never used again: the leader knows what the node had, and says so.
    let mut cluster = Cluster::of(2);
    cluster.write(1, 5, 10);
    cluster.place(2);
    let mut heartbeat = Message::default();
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    (heartbeat.from, heartbeat.to) = (1, 2);
    heartbeat.term = cluster.core(1).raw.raft.term;
    heartbeat.commit = cluster.peer(1, 2).matched;
    let halt = cluster.try_deliver(1, 2, &heartbeat).unwrap_err();
    assert!(matches!(halt, Halt::LogLost { .. }), "{halt}");
}

#[test]
fn a_wiped_node_comes_back_under_a_new_id() {
    let mut cluster = Cluster::of(3);
    cluster.write(1, 5, 10);
    cluster.crash(3);
    cluster.change(1, MembershipChange::Remove(NodeId(3)));
    cluster.machines.remove(&3);
    cluster.join(4);
    cluster.ticks(20);
    cluster.assert_equal(4, 1);
    assert_eq!(cluster.core(1).standing().conf_state.voters, [1, 2]);
}

#[test]
fn a_learner_that_read_of_its_own_addition_in_the_log_would_have_to_stop() {
    // Why the log of a cluster begins after its first state, and every joiner with a snapshot: with
    // an empty conf state raft-rs cannot apply its own addition ('removed all voters').
    let mut cluster = Cluster::alone();
    cluster.place(2);
    let mut change = raft::eraftpb::ConfChangeV2::default();
    let mut single = raft::eraftpb::ConfChangeSingle::default();
    single.set_change_type(raft::eraftpb::ConfChangeType::AddLearnerNode);
    single.node_id = 2;
    change.mut_changes().push(single);
    let mut entry = raft::eraftpb::Entry::default();
    entry.set_entry_type(raft::eraftpb::EntryType::EntryConfChangeV2);
    (entry.index, entry.term) = (1, 1);
    entry.data = protobuf::Message::write_to_bytes(&change).unwrap().into();
    let mut append = Message::default();
    append.set_msg_type(MessageType::MsgAppend);
    (append.from, append.to, append.term, append.commit) = (1, 2, 1, 1);
    append.mut_entries().push(entry);
    let bytes = crate::raft::wire::encode_message(&append);
    let now = cluster.now;
    let core = cluster.core(2);
    core.handle(now, Input::Message { from: NodeId(1), bytes }).unwrap();
    core.advance(now).unwrap();
    let number = loop {
        match core.poll_output().unwrap() {
            Output::Persist { number, .. } => break number,
            _ => continue,
        }
    };
    core.handle(now, Input::Persisted { number, log_bytes: 0 }).unwrap();
    let halt = core.advance(now).err().unwrap();
    assert!(halt.to_string().contains("removed all voters"), "{halt}");
}

#[test]
fn what_is_replayed_at_boot_is_handed_out_in_portions() {
    // raft-rs hands out committed entries as fast as it is asked, whatever waits already.
    let log = Log::new(LogStart { index: 1, term: 1 }, HardState { term: 1, vote: 0, commit: 1 });
    let mut cluster = Cluster::alone();
    cluster.machine(1).log = log.clone();
    let entries: Vec<_> = (2..=201)
        .map(|index| {
            let mut entry = raft::eraftpb::Entry::default();
            (entry.index, entry.term) = (index, 1);
            entry.data = crate::codec::encode_entry(0, &command(1 << 20));
            crate::raft::wire::encode_entry(&entry)
        })
        .collect();
    let hard_state = HardState { term: 1, vote: 0, commit: 201 };
    log.write(&crate::raft::LogWrite { entries, hard_state: Some(hard_state) });
    let now = Now { monotonic_ms: 0, unix_ms: 0 };
    let mut core = boot_with(hard_state, 1, log).unwrap();
    let (mut waiting, mut most, mut applied) = (std::collections::VecDeque::new(), 0, 1);
    loop {
        while let Some(output) = core.poll_output() {
            match output {
                Output::Apply { entries, .. } => waiting.push_back(entries.last().unwrap().index),
                Output::Persist { number, .. } => {
                    core.handle(now, Input::Persisted { number, log_bytes: 0 }).unwrap();
                    core.advance(now).unwrap();
                }
                _ => {}
            }
        }
        most = most.max(waiting.back().map_or(0, |last| last - applied));
        let Some(index) = waiting.pop_front() else { break };
        applied = index;
        let (replies, pins, nodes) = (Vec::new(), None, None);
        let input = Input::Applied { generation: 1, index, replies, pins, nodes, time_unix_ms: 0 };
        core.handle(now, input).unwrap();
        core.advance(now).unwrap();
    }
    assert!(applied >= 201);
    assert!(most <= 90, "{most} MiB waited to be applied at once");
}
