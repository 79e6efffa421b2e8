//! A check that cannot fail checks nothing: each one is shown a history that breaks its rule.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use ratoon::raft::{HardState, LogEntry, LogStart, LogWrite};
use ratoon::state::ContentDigest;
use ratoon::types::{
    Action, Addresses, CollectionName, Committed, Condition, Digest, Node, NodeId, Payload, Pin,
    Reply, SnapshotId, TransferState, TransferStatus, Write, WriteBatch,
};

use super::applied::Applied;
use super::bounds::{self, Resource, Usage};
use super::committed::CommittedLog;
use super::compaction;
use super::digests::Digests;
use super::elections::Elections;
use super::history::{Effect, History, Outcome};
use super::log_matching::LogMatching;
use super::message::{APPEND_RESPONSE, Message, VOTE_RESPONSE};
use super::paused::{Paused, Peer};
use super::promises::Promises;
use super::replay::Replay;
use super::resent::Resent;
use super::snapshots::Snapshots;
use super::{leader_completeness, linearizable, pins, transfers};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

#[test]
fn two_leaders_of_a_term_are_noticed() {
    let mut elections = Elections::default();
    assert!(elections.leads(ONE, 3).unwrap());
    assert!(!elections.leads(ONE, 3).unwrap());
    elections.leads(TWO, 3).unwrap_err();
}

#[test]
fn a_second_vote_in_a_term_is_noticed_even_after_a_crash() {
    let vote = Message { kind: VOTE_RESPONSE, term: 4, ..Message::default() };
    let mut promises = Promises::default();
    promises.sends(ONE, TWO, &vote, (4, 0)).unwrap();
    promises.boot(ONE, HardState { term: 4, vote: 2, commit: 0 }).unwrap();
    promises.sends(ONE, NodeId(3), &vote, (4, 0)).unwrap_err();
}

#[test]
fn a_forgotten_term_and_an_early_acknowledgement_are_noticed() {
    let ack = Message { kind: APPEND_RESPONSE, term: 4, index: 9, ..Message::default() };
    let mut promises = Promises::default();
    promises.sends(ONE, TWO, &ack, (4, 8)).unwrap_err();
    promises.sends(ONE, TWO, &ack, (3, 8)).unwrap_err();
    promises.sends(ONE, TWO, &ack, (4, 9)).unwrap();
    // A newer leader has replaced what was durable: nobody counts this any more.
    promises.sends(ONE, TWO, &ack, (5, 8)).unwrap();
    promises.boot(ONE, HardState { term: 3, vote: 0, commit: 0 }).unwrap_err();
}

fn write_of(index: u64, term: u64, content: &'static [u8]) -> LogWrite {
    let entries = vec![LogEntry { index, term, bytes: Bytes::from_static(content) }];
    LogWrite { entries, hard_state: None }
}

#[test]
fn two_contents_of_one_entry_are_noticed() {
    let mut logs = LogMatching::default();
    for node in [ONE, TWO] {
        logs.installs(node, LogStart { index: 1, term: 1 });
    }
    logs.persists(ONE, 1, &write_of(2, 1, b"a")).unwrap();
    logs.synced(ONE, 1).unwrap();
    logs.persists(TWO, 1, &write_of(2, 1, b"b")).unwrap();
    logs.synced(TWO, 1).unwrap_err();
}

#[test]
fn a_leader_without_what_was_committed_before_is_noticed() {
    let (mut logs, mut committed) = (LogMatching::default(), CommittedLog::default());
    logs.installs(ONE, LogStart { index: 1, term: 1 });
    committed.note_commit(1, 2, Some(1));
    leader_completeness::check(ONE, 1, &logs, &committed).unwrap();
    leader_completeness::check(ONE, 2, &logs, &committed).unwrap_err();
    logs.persists(ONE, 1, &write_of(2, 1, b"a")).unwrap();
    leader_completeness::check(ONE, 2, &logs, &committed).unwrap();
    logs.persists(ONE, 2, &write_of(2, 2, b"b")).unwrap();
    leader_completeness::check(ONE, 2, &logs, &committed).unwrap_err();
}

fn entry(index: u64, content: &'static [u8]) -> Committed {
    Committed { index, term: 1, payload: Payload::Command(Bytes::from_static(content)) }
}

#[test]
fn replicas_that_apply_different_entries_are_noticed() {
    let mut committed = CommittedLog::default();
    committed.expect_next(ONE, 2);
    committed.expect_next(TWO, 2);
    assert_eq!(committed.hands_out(ONE, &[entry(2, b"a")]).unwrap(), 1);
    committed.hands_out(TWO, &[entry(2, b"b")]).unwrap_err();
    let mut committed = CommittedLog::default();
    committed.expect_next(ONE, 2);
    committed.hands_out(ONE, &[entry(3, b"a")]).unwrap_err();
}

#[test]
fn a_state_that_forgets_what_was_flushed_is_noticed() {
    let mut applied = Applied::default();
    applied.progress(ONE, 9).unwrap();
    applied.flushed(ONE, 7);
    applied.boot(ONE, 7).unwrap();
    applied.boot(ONE, 6).unwrap_err();
    applied.progress(ONE, 5).unwrap_err();
}

#[test]
fn a_log_dropped_past_the_durable_state_or_a_pin_is_noticed() {
    let start = LogStart { index: 10, term: 1 };
    let pin = |receiver, index| Pin { receiver, index, snapshot: None, renewed_unix_ms: 0 };
    compaction::check(ONE, start, 10, &[pin(TWO, 10)]).unwrap();
    compaction::check(ONE, start, 9, &[]).unwrap_err();
    compaction::check(ONE, start, 10, &[pin(TWO, 9)]).unwrap_err();
    compaction::check(TWO, start, 10, &[pin(TWO, 9)]).unwrap();
}

#[test]
fn different_content_at_one_index_is_noticed() {
    let digest = |bytes: &[u8]| content(16, bytes);
    let mut digests = Digests::default();
    digests.compare(ONE, &digest(b"a")).unwrap();
    digests.compare(TWO, &digest(b"a")).unwrap();
    digests.compare(TWO, &digest(b"b")).unwrap_err();
}

fn content(index: u64, bytes: &[u8]) -> ContentDigest {
    ContentDigest { index, digest: Digest::of(bytes), records: 1, bytes: bytes.len() as u64 }
}

#[test]
fn a_snapshot_that_is_not_the_state_at_its_index_is_noticed() {
    let id = Digest::of(b"manifest");
    let mut snapshots = Snapshots::default();
    snapshots.built(id, 9, &content(8, b"a")).unwrap_err();
    snapshots.built(id, 8, &content(8, b"a")).unwrap();
    snapshots.opened(TWO, id, &content(8, b"a")).unwrap();
    snapshots.opened(TWO, id, &content(8, b"b")).unwrap_err();
    snapshots.opened(TWO, Digest::of(b"another"), &content(8, b"a")).unwrap_err();
    let mut replay = Replay::default();
    snapshots.check_against(&replay).unwrap_err();
    replay.contents.insert(8, content(8, b"a"));
    snapshots.check_against(&replay).unwrap();
    replay.contents.insert(8, content(8, b"b"));
    snapshots.check_against(&replay).unwrap_err();
}

#[test]
fn bytes_sent_again_beyond_what_faults_excuse_are_noticed() {
    let id: SnapshotId = Digest::of(b"manifest");
    let mut resent = Resent::default();
    resent.arrives(ONE, id, (0, 0), 0, 100).unwrap();
    resent.arrives(ONE, id, (0, 0), 100, 50).unwrap();
    // Another chunk, another receiver, another snapshot: nothing comes twice.
    resent.arrives(ONE, id, (0, 1), 0, 100).unwrap();
    resent.arrives(TWO, id, (0, 0), 0, 100).unwrap();
    resent.arrives(ONE, Digest::of(b"another"), (0, 0), 0, 100).unwrap();
    resent.allow(ONE, id, 30);
    resent.arrives(ONE, id, (0, 0), 120, 40).unwrap();
    assert_eq!((resent.repeated, resent.delivered), (30, 490));
    resent.arrives(ONE, id, (0, 0), 159, 1).unwrap_err();
    // What was removed is begun anew.
    resent.removed(ONE, |gone| gone == id);
    resent.arrives(ONE, id, (0, 0), 0, 100).unwrap();
    resent.arrives(ONE, id, (0, 0), 0, 1).unwrap_err();
}

fn status(state: TransferState) -> TransferStatus {
    TransferStatus {
        snapshot: Digest::of(b"manifest"),
        index: 8,
        receiver: ONE,
        source: TWO,
        state,
        total_bytes: 1,
        done_bytes: 0,
        bytes_per_second: 0,
        resumed_from_bytes: 0,
        resumes: 0,
        resent_bytes: 0,
        discarded_bytes: 0,
        reused_bytes: 0,
        received_bytes: 0,
        stall_reason: String::new(),
        message_bytes: 0,
        started_unix_ms: 0,
        finished_unix_ms: 0,
    }
}

#[test]
fn a_transfer_that_does_not_end_is_noticed_on_both_sides() {
    transfers::check_receiver(ONE, None, true).unwrap();
    transfers::check_receiver(ONE, Some(&status(TransferState::Installed)), true).unwrap();
    transfers::check_receiver(ONE, Some(&status(TransferState::Pulling)), true).unwrap_err();
    transfers::check_receiver(ONE, Some(&status(TransferState::Durable)), true).unwrap_err();
    transfers::check_receiver(ONE, Some(&status(TransferState::Superseded)), false).unwrap_err();
    transfers::check_source(ONE, 0).unwrap();
    transfers::check_source(ONE, 1).unwrap_err();
}

#[test]
fn a_pin_that_does_not_end_or_belongs_to_nobody_is_noticed() {
    let pin = |receiver| Pin { receiver, index: 7, snapshot: None, renewed_unix_ms: 0 };
    let address = String::new;
    let addresses = Addresses { raft: address(), bulk: address(), api: address() };
    let nodes = [Node { id: TWO, addresses, learner: false }];
    pins::check(ONE, &[pin(TWO)], &nodes).unwrap();
    pins::check(ONE, &[pin(TWO), pin(TWO)], &nodes).unwrap_err();
    pins::check(ONE, &[pin(NodeId(3))], &nodes).unwrap_err();
    pins::check_released(ONE, &[]).unwrap();
    pins::check_released(ONE, &[pin(TWO)]).unwrap_err();
}

#[test]
fn a_peer_that_stands_still_and_pulls_nothing_is_noticed() {
    let peer = |matched, is_pulling| [Peer { node: TWO, matched, is_pulling }];
    let mut paused = Paused::default();
    paused.look(0, 1, 9, &peer(5, false), 100).unwrap();
    paused.look(100, 1, 9, &peer(5, false), 100).unwrap();
    paused.look(101, 1, 9, &peer(5, false), 100).unwrap_err();
    // It moved; it pulls; it has everything; another leader has to find out anew.
    paused.look(500, 1, 9, &peer(6, false), 100).unwrap();
    paused.look(900, 1, 9, &peer(6, true), 100).unwrap();
    paused.look(1_000, 1, 9, &peer(6, false), 100).unwrap();
    paused.look(1_100, 1, 9, &peer(9, false), 100).unwrap();
    paused.look(1_900, 1, 9, &peer(9, false), 100).unwrap();
    paused.look(2_000, 2, 12, &peer(9, false), 100).unwrap();
    paused.look(2_101, 2, 12, &peer(9, false), 100).unwrap_err();
}

#[test]
fn what_grows_over_its_bound_is_noticed() {
    let usage = |used| Usage { resource: Resource::Inputs, used, bound: 5 };
    bounds::check(&[usage(0), usage(5)]).unwrap();
    let error = bounds::check(&[usage(5), usage(6)]).unwrap_err();
    assert!(error.to_string().contains("Inputs reaches 6"));
}

fn put(value: &'static str, condition: Condition) -> Effect {
    let value = Bytes::from_static(value.as_bytes());
    Effect::Write(WriteBatch {
        writes: vec![Write {
            collection: CollectionName::parse("default", "quarrel").unwrap(),
            key: Bytes::from_static(b"key"),
            condition,
            action: Action::Put { value, content_type: String::new() },
        }],
    })
}

fn read(history: &mut History, called: u64, ended: u64, seen: Option<(u64, &'static str)>) {
    let id = history.begin(called, Effect::Get(b"key".to_vec()));
    let value = seen.map(|(version, value)| (version, Bytes::from_static(value.as_bytes())));
    history.end(id, ended, Outcome::Read(version_of(&value), value));
}

fn version_of(seen: &Option<(u64, Bytes)>) -> u64 {
    seen.as_ref().map_or(1, |(version, _)| *version)
}

fn wrote(
    history: &mut History,
    called: u64,
    ended: u64,
    effect: Effect,
    index: u64,
    existed: bool,
) {
    let id = history.begin(called, effect);
    history.end(id, ended, Outcome::Applied(index, Reply::Written { existed: vec![existed] }));
}

#[test]
fn a_stale_read_is_no_linearizable_history() {
    let mut history = History::default();
    wrote(&mut history, 1, 2, put("a", Condition::Always), 5, false);
    wrote(&mut history, 3, 4, put("b", Condition::Always), 6, true);
    read(&mut history, 5, 6, Some((5, "a")));
    linearizable::check(&history).unwrap_err();
}

#[test]
fn a_read_beside_a_write_may_see_it_or_not() {
    for seen in [Some((5, "a")), Some((6, "b"))] {
        let mut history = History::default();
        wrote(&mut history, 1, 2, put("a", Condition::Always), 5, false);
        wrote(&mut history, 3, 7, put("b", Condition::Always), 6, true);
        read(&mut history, 5, 6, seen);
        assert_eq!(linearizable::check(&history).unwrap(), 0);
    }
}

#[test]
fn a_write_without_an_answer_may_take_effect_late_or_never() {
    for seen in [None, Some((9, "a"))] {
        let mut history = History::default();
        let id = history.begin(1, put("a", Condition::Always));
        history.end(id, 2, Outcome::Unknown);
        read(&mut history, 3, 4, None);
        read(&mut history, 5, 6, seen);
        assert_eq!(linearizable::check(&history).unwrap(), 0);
    }
    // But not before it was asked for.
    let mut history = History::default();
    read(&mut history, 1, 2, Some((9, "a")));
    let id = history.begin(3, put("a", Condition::Always));
    history.end(id, 4, Outcome::Unknown);
    linearizable::check(&history).unwrap_err();
}

#[test]
fn two_conditional_writes_that_both_won_are_noticed() {
    let mut history = History::default();
    wrote(&mut history, 1, 4, put("a", Condition::Absent), 5, false);
    wrote(&mut history, 2, 3, put("b", Condition::Absent), 6, false);
    linearizable::check(&history).unwrap_err();
}

#[test]
fn an_acknowledged_write_that_the_log_does_not_hold_is_noticed() {
    let mut history = History::default();
    wrote(&mut history, 1, 2, put("a", Condition::Always), 5, false);
    history.check_against(&Replay::default()).unwrap_err();
}

#[test]
fn a_write_that_was_refused_and_done_all_the_same_is_noticed() {
    let mut history = History::default();
    let effect = put("a", Condition::Always);
    let Effect::Write(batch) = effect.clone() else { unreachable!() };
    let id = history.begin(1, effect);
    history.end(id, 2, Outcome::NotDone);
    history.check_against(&Replay::default()).unwrap();
    let mut replay = Replay::default();
    replay.executed.insert(5, (batch, Ok(Reply::Done)));
    history.check_against(&replay).unwrap_err();
}

#[test]
fn an_order_that_contradicts_the_clients_clock_is_noticed() {
    let mut history = History::default();
    let mut replay = Replay::default();
    for (called, ended, index) in [(1, 2, 8), (3, 4, 7)] {
        let value = if index == 8 { "a" } else { "b" };
        let effect = put(value, Condition::Always);
        let Effect::Write(batch) = effect.clone() else { unreachable!() };
        let reply = Reply::Written { existed: vec![false] };
        replay.executed.insert(index, (batch, Ok(reply)));
        wrote(&mut history, called, ended, effect, index, false);
    }
    history.check_against(&replay).unwrap_err();
}
