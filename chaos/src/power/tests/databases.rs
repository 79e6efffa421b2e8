//! The product's databases on this file system: what they acknowledged as durable survives a kill and a
//! power loss, and what they did not is really lost.

use std::path::Path;

use bytes::Bytes;
use ratoon::kv::{Batch, Family};
use ratoon::raft::{HardState, LogEntry, LogStart, LogStore, LogWrite};
use ratoon::storage::{Options, RaftLog, Shared, StateDb};
use slog::{Discard, Logger, o};

use super::child;
use super::{mount, pattern, sync};
use crate::random::Random;

/// Kills and losses of the whole story.
const LOSSES: u64 = 24;

#[test]
fn what_the_databases_made_durable_survives_kills_and_power_losses() {
    let Some(mounted) = mount() else { return };
    let mut kept = Durable::default();
    let (mut blocks_lost, mut survived_by_luck) = (0, 0);
    for seed in 0..LOSSES {
        let story = "power::tests::databases::writes_and_reports_until_it_is_killed";
        let told = child::kill_after(story, &mounted.at, 10 + Random::new(seed).below(150));
        kept.log = kept.log.max(told.get("log").copied().unwrap_or(0));
        kept.state = kept.state.max(told.get("state").copied().unwrap_or(0));
        blocks_lost += mounted.power.lose_power(seed).unwrap().blocks_lost;
        let found = open_and_check(&mounted.at);
        assert!(found.log >= kept.log, "seed {seed}: {found:?} after {kept:?}");
        assert!(found.state >= kept.state, "seed {seed}: {found:?} after {kept:?}");
        survived_by_luck += found.log - kept.log;
        // Closing it flushed what it held.
        kept.state = found.state;
    }
    println!(
        "{kept:?}; {survived_by_luck} entries more were found; {blocks_lost} blocks were lost"
    );
    assert!(kept.log > 10 * LOSSES && kept.state > 0, "{kept:?}");
    assert!(blocks_lost > 0, "nothing was at stake");
}

/// What is durable, as last indices.
#[derive(Clone, Copy, Default, Debug)]
struct Durable {
    /// Of the raft log.
    log: u64,
    /// Of the state.
    state: u64,
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "writes for ever; the story above starts it"]
fn writes_and_reports_until_it_is_killed() {
    let Some(directory) = child::directory() else { return };
    let (log, state) = open(&directory);
    // As a node does: what the state has not is replayed from the log.
    for index in state_last(&state) + 1..=log.last_index() {
        write_state(&state, index);
    }
    let mut checkpoints = 0;
    for index in log.last_index() + 1.. {
        let hard_state = HardState { term: 1, vote: 1, commit: index - 1 };
        log.write(&[LogWrite { entries: vec![entry(index)], hard_state: Some(hard_state) }])
            .unwrap();
        println!("log {index}");
        write_state(&state, index);
        if index % 16 == 0 {
            state.flush().unwrap();
            println!("state {index}");
        }
        if index % 40 == 0 {
            checkpoints += 1;
            let name = format!("checkpoint-{}-{checkpoints}", std::process::id());
            state.checkpoint(&directory.join(name)).unwrap();
            println!("state {index}");
        }
        if index % 100 == 0 {
            log.compact_to(index - 50).unwrap();
        }
    }
}

fn options() -> Options {
    Options { memtable_bytes: 1 << 20, raft_memtable_bytes: 64 << 10, ..Options::small() }
}

fn open(directory: &Path) -> (RaftLog, StateDb) {
    let options = options();
    let shared = Shared::new(&options, Logger::root(Discard, o!()));
    let (log_path, state_path) = (directory.join("raft"), directory.join("state"));
    if !state_path.exists() || !log_path.exists() {
        let start = LogStart { index: 0, term: 0 };
        if state_path.exists() {
            std::fs::remove_dir_all(&state_path).unwrap();
        }
        StateDb::create(&state_path, &shared, &options).unwrap().close().unwrap();
        sync(directory);
        RaftLog::create(&log_path, &shared, &options, start, HardState::default()).unwrap();
    }
    let (log, _) = RaftLog::open(&log_path, &shared, &options).unwrap();
    (log, StateDb::open(&state_path, &shared, &options).unwrap())
}

/// Opens both, reads all they hold, and says how far they reach.
fn open_and_check(directory: &Path) -> Durable {
    let (log, state) = open(directory);
    let (first, last) = (log.start().index + 1, log.last_index());
    let entries = log.entries(first, last + 1, u64::MAX).unwrap();
    assert_eq!(entries, (first..=last).map(entry).collect::<Vec<_>>());
    let state_last = state_last(&state);
    state.close().unwrap();
    Durable { log: last, state: state_last }
}

fn write_state(state: &StateDb, index: u64) {
    let mut batch = Batch::default();
    batch.put(Family::Records, key(index), pattern(index, 3_000));
    state.write(&batch).unwrap();
}

/// The last record of the state; it and those before it are as they were written.
fn state_last(state: &StateDb) -> u64 {
    let view = state.view();
    let get = |index| view.get(Family::Records, &key(index)).unwrap();
    let end = (1..).find(|index| get(*index).is_none()).unwrap();
    assert!((1..end).all(|index| get(index).unwrap() == pattern(index, 3_000)));
    end - 1
}

fn entry(index: u64) -> LogEntry {
    LogEntry { index, term: 1, bytes: Bytes::from(pattern(index, 2_000)) }
}

fn key(index: u64) -> Vec<u8> {
    index.to_be_bytes().to_vec()
}
