//! Sessions: retries execute once, and the table is bounded.

use crate::limits::SESSIONS_MAX;
use crate::state::testing::*;
use crate::state::{State, read};
use crate::types::{Code, Command, Condition, Reply, WriteBatch};

fn open(replica: &mut Replica) -> u64 {
    match replica.run(Command::OpenSession).unwrap() {
        Reply::Session(session) => session,
        other => panic!("opening a session gave {other:?}"),
    }
}

fn write_command(writes: Vec<crate::types::Write>) -> Command {
    Command::Write(WriteBatch { writes })
}

#[test]
fn a_retry_is_answered_as_the_first_time_and_not_executed_again() {
    for writes_between in [false, true] {
        let mut replica = Replica::with_collection();
        let session = open(&mut replica);
        let command = write_command(vec![put("k", "1")]);
        let first = replica.run_in(session, 1, command.clone());
        replica.put("k", "2");
        if writes_between {
            replica.write_batch();
            replica.state = State::load(&replica.view).unwrap();
        }
        let retried = replica.run_in(session, 1, command);
        assert_eq!(retried, first, "the version is that of the first execution");
        replica.write_batch();
        let record = read::get(&replica.view, &collection("c"), b"k").unwrap().unwrap();
        assert_eq!(&record.value[..], b"2");
    }
}

#[test]
fn a_refusal_is_remembered_too() {
    let mut replica = Replica::with_collection();
    let session = open(&mut replica);
    let version = replica.put("k", "1");
    let command = write_command(vec![write("k", Condition::Absent, put_action("2"))]);
    let first = replica.run_in(session, 1, command.clone());
    assert_refused(first.reply.clone(), Code::ConditionFailed);
    replica.write(vec![delete("k")]).unwrap();
    let retried = replica.run_in(session, 1, command.clone());
    assert_eq!(retried, first, "it would succeed now, and must not");
    assert!(version < first.index);
    assert!(replica.run_in(session, 2, command).reply.is_ok());
}

#[test]
fn sequences_may_skip_but_not_go_back() {
    let mut replica = Replica::with_collection();
    let session = open(&mut replica);
    let command = write_command(vec![put("k", "1")]);
    assert!(replica.run_in(session, 5, command.clone()).reply.is_ok());
    assert_refused(replica.run_in(session, 4, command.clone()).reply, Code::SequenceStale);
    assert!(replica.run_in(session, 6, command).reply.is_ok());
}

#[test]
fn another_command_under_a_used_number_is_neither_executed_nor_answered_as_the_first() {
    let mut replica = Replica::with_collection();
    let session = open(&mut replica);
    let first = write_command(vec![put("k", "1")]);
    let answered = replica.run_in(session, 1, first.clone());
    let other = write_command(vec![put("k", "2")]);
    assert_refused(replica.run_in(session, 1, other).reply, Code::InvalidArgument);
    assert_eq!(replica.run_in(session, 1, first), answered, "the true retry is answered still");
    replica.write_batch();
    let record = read::get(&replica.view, &collection("c"), b"k").unwrap().unwrap();
    assert_eq!(&record.value[..], b"1");
}

#[test]
fn a_command_of_an_unknown_session_is_not_executed() {
    let mut replica = Replica::with_collection();
    let outcome = replica.run_in(77, 1, write_command(vec![put("k", "1")]));
    assert_refused(outcome.reply, Code::SessionExpired);
    replica.write_batch();
    assert_eq!(read::get(&replica.view, &collection("c"), b"k").unwrap(), None);
}

#[test]
fn the_least_recently_used_session_is_evicted_first() {
    let mut replica = Replica::with_collection();
    let sessions: Vec<u64> = (0..SESSIONS_MAX).map(|_| open(&mut replica)).collect();
    replica.write_batch();
    let touch = |replica: &mut Replica, session, sequence| {
        replica.run_in(session, sequence, Command::ComputeDigest).reply
    };
    // The oldest is used again: by a command, then the second by a mere retry.
    touch(&mut replica, sessions[0], 1).unwrap();
    touch(&mut replica, sessions[1], 1).unwrap();
    touch(&mut replica, sessions[0], 1).unwrap();
    open(&mut replica);
    assert_refused(touch(&mut replica, sessions[2], 1), Code::SessionExpired);
    touch(&mut replica, sessions[0], 1).unwrap();
    touch(&mut replica, sessions[1], 1).unwrap();
    touch(&mut replica, sessions[3], 1).unwrap();
    assert_eq!(replica.state.facts.counters.sessions, SESSIONS_MAX as u64);
    // A session that opens another at the limit does not evict itself.
    let fourth = sessions[4];
    replica.run_in(fourth, 1, Command::OpenSession).reply.unwrap();
    touch(&mut replica, fourth, 2).unwrap();
    assert_refused(touch(&mut replica, sessions[5], 1), Code::SessionExpired);
}

#[test]
fn an_evicted_session_stays_expired() {
    let mut replica = Replica::with_collection();
    let session = open(&mut replica);
    let command = write_command(vec![put("k", "1")]);
    replica.run_in(session, 1, command.clone()).reply.unwrap();
    // As if the table were full: this one is the only candidate.
    replica.state.facts.counters.sessions = SESSIONS_MAX as u64;
    open(&mut replica);
    assert_refused(replica.run_in(session, 1, command).reply, Code::SessionExpired);
}
