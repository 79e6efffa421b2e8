//! The raft log and its twin.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{entries, hard_state, kill, options, shared};
use crate::limits::ENTRY_BYTES_MAX;
use crate::raft::{HardState, LogEntry, LogStart, LogStore, LogWrite};
use crate::storage::log_records::entry_key;
use crate::storage::memory::MemoryLog;
use crate::storage::{RaftLog, StorageError};

const START: LogStart = LogStart { index: 10, term: 2 };

/// What both logs can do, for telling the same story to both.
trait Log {
    fn write(&mut self, writes: &[LogWrite]);
    fn compact_to(&mut self, index: u64);
    fn reset_to(&mut self, start: LogStart, hard_state: HardState);
    /// Crashes and comes back.
    fn crash(&mut self) -> HardState;
    fn store(&self) -> &dyn LogStore;
}

impl Log for MemoryLog {
    fn write(&mut self, writes: &[LogWrite]) {
        writes.iter().for_each(|write| self.append(write));
        self.sync();
    }
    fn compact_to(&mut self, index: u64) {
        MemoryLog::compact_to(self, index);
    }
    fn reset_to(&mut self, start: LogStart, hard_state: HardState) {
        MemoryLog::reset_to(self, start, hard_state);
    }
    fn crash(&mut self) -> HardState {
        MemoryLog::crash(self, 0)
    }
    fn store(&self) -> &dyn LogStore {
        self
    }
}

struct Disk {
    root: TempDir,
    log: RaftLog,
    crashes: u32,
}

impl Disk {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let log = RaftLog::create(
            &root.path().join("0"),
            &shared(),
            &options(),
            START,
            hard_state(2, 0, START.index),
        );
        Disk { log: log.unwrap(), root, crashes: 0 }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join(self.crashes.to_string())
    }
}

impl Log for Disk {
    fn write(&mut self, writes: &[LogWrite]) {
        self.log.write(writes).unwrap();
    }
    fn compact_to(&mut self, index: u64) {
        self.log.compact_to(index).unwrap();
    }
    fn reset_to(&mut self, start: LogStart, hard_state: HardState) {
        self.log.reset_to(start, hard_state).unwrap();
    }
    fn crash(&mut self) -> HardState {
        let before = self.path();
        self.crashes += 1;
        kill(self.log.database_for_tests(), &before, &self.path());
        let (log, hard_state) = RaftLog::open(&self.path(), &shared(), &options()).unwrap();
        self.log = log;
        fs::remove_dir_all(before).unwrap();
        hard_state
    }
    fn store(&self) -> &dyn LogStore {
        &self.log
    }
}

/// Numbers that are turned into a legal step for the log as it is then.
#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, back: u64, bytes: usize, commit: Option<u64> },
    Twice { back: u64 },
    Compact(u64),
    Reset(u64),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let append = (0..6u64, 0..5u64, 1..300usize, prop::option::of(0..4u64));
    prop_oneof![
        8 => append.prop_map(|(count, back, bytes, commit)| Step::Append {
            count, back, bytes, commit
        }),
        2 => (0..4u64).prop_map(|back| Step::Twice { back }),
        2 => (0..5u64).prop_map(Step::Compact),
        1 => (0..5u64).prop_map(Step::Reset),
        2 => Just(Step::Crash),
    ]
}

#[derive(Clone)]
struct Model {
    start: LogStart,
    entries: Vec<LogEntry>,
    hard_state: HardState,
}

impl Model {
    fn last(&self) -> u64 {
        self.start.index + self.entries.len() as u64
    }

    /// A write that goes `back` entries back, but never over committed ones, in a new term.
    fn append(&mut self, count: u64, back: u64, bytes: usize, commit: Option<u64>) -> LogWrite {
        let from =
            (self.last() + 1 - back.min(self.entries.len() as u64)).max(self.hard_state.commit + 1);
        let term = self.hard_state.term + 1;
        let mut write = entries(from, from + count - 1, term, bytes);
        if count > 0 {
            self.entries.truncate((from - self.start.index - 1) as usize);
            self.entries.extend(write.entries.iter().cloned());
        }
        write.hard_state = commit.map(|ahead| {
            let commit = (self.hard_state.commit + ahead).min(self.last());
            hard_state(term, term % 3, commit)
        });
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        write
    }

    fn check(&self, store: &dyn LogStore) {
        assert_eq!(store.start(), self.start);
        assert_eq!(store.last_index(), self.last());
        assert_eq!(store.term(self.start.index).unwrap(), Some(self.start.term));
        assert_eq!(store.term(self.last() + 1).unwrap(), None);
        if self.start.index > 0 {
            assert_eq!(store.term(self.start.index - 1).unwrap(), None);
        }
        let first = self.start.index + 1;
        assert_eq!(store.entries(first, self.last() + 1, u64::MAX).unwrap(), self.entries);
        for entry in &self.entries {
            assert_eq!(store.term(entry.index).unwrap(), Some(entry.term));
            // However little is asked for, there is one.
            let one = store.entries(entry.index, self.last() + 1, 0).unwrap();
            assert_eq!(one, std::slice::from_ref(entry));
        }
    }
}

fn run(log: &mut dyn Log, steps: &[Step]) {
    let mut model =
        Model { start: START, entries: Vec::new(), hard_state: hard_state(2, 0, START.index) };
    for step in steps {
        match step.clone() {
            Step::Append { count, back, bytes, commit } => {
                let write = model.append(count, back, bytes, commit);
                log.write(&[write]);
            }
            Step::Twice { back } => {
                // Two writes in one batch, the second replacing part of the first.
                let first = model.append(5, 0, 10, None);
                let second = model.append(1, back + 1, 10, Some(1));
                log.write(&[first, second]);
            }
            Step::Compact(ahead) => {
                let index = (model.start.index + ahead).min(model.hard_state.commit);
                let nth = (index - model.start.index) as usize;
                if nth > 0 {
                    model.start = LogStart { index, term: model.entries[nth - 1].term };
                    model.entries.drain(..nth);
                }
                log.compact_to(index);
            }
            Step::Reset(ahead) => {
                let index = model.hard_state.commit + ahead;
                let term = model.hard_state.term + 1;
                model.start = LogStart { index, term };
                model.hard_state = hard_state(term, 0, index);
                model.entries.clear();
                log.reset_to(model.start, model.hard_state);
            }
            Step::Crash => assert_eq!(log.crash(), model.hard_state),
        }
        model.check(log.store());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn rocksdb_keeps_what_was_written_through_crashes(steps in prop::collection::vec(step(), 1..25)) {
        run(&mut Disk::new(), &steps);
    }
}

proptest! {
    #[test]
    fn the_twin_keeps_what_was_written_through_crashes(steps in prop::collection::vec(step(), 1..40)) {
        run(&mut MemoryLog::create(START, hard_state(2, 0, START.index)), &steps);
    }

    #[test]
    fn the_twin_keeps_a_prefix_of_unsynced_writes(synced in 0..5u64, unsynced in 0..9u64, seed: u64) {
        let log = MemoryLog::create(START, hard_state(2, 0, START.index));
        let first = START.index + 1;
        for index in first..first + synced {
            log.append(&entries(index, index, 2, 5));
        }
        log.sync();
        for index in first + synced..first + synced + unsynced {
            log.append(&entries(index, index, 2, 5));
        }
        log.crash(seed);
        let kept = log.last_index() - START.index;
        prop_assert!(kept >= synced && kept <= synced + unsynced);
        let expected = entries(first, first + kept - 1, 2, 5).entries;
        prop_assert_eq!(log.entries(first, first + kept, u64::MAX).unwrap(), expected);
    }
}

#[test]
fn all_that_waits_costs_one_sync() {
    let mut disk = Disk::new();
    let before = disk.log.sync_count();
    let writes: Vec<_> = (11..111).map(|index| entries(index, index, 2, 100)).collect();
    disk.write(&writes);
    assert_eq!(disk.log.sync_count(), before + 1);
    disk.write(&[LogWrite::default()]);
    assert_eq!(disk.log.sync_count(), before + 1);
}

#[test]
fn bytes_fall_as_soon_as_entries_go() {
    let mut disk = Disk::new();
    disk.write(&[entries(11, 1010, 2, 1000)]);
    disk.write(&[LogWrite { hard_state: Some(hard_state(2, 0, 1000)), ..LogWrite::default() }]);
    let full = disk.log.bytes();
    assert!((1_000_000..1_100_000).contains(&full), "{full}");
    disk.compact_to(510);
    assert!((500_000..550_000).contains(&disk.log.bytes()));
    disk.crash();
    let reopened = disk.log.bytes();
    assert!((400_000..700_000).contains(&reopened), "{reopened}");
    disk.reset_to(LogStart { index: 1000, term: 2 }, hard_state(2, 0, 1000));
    assert_eq!(disk.log.bytes(), 0);
}

#[test]
fn the_largest_entry_fits() {
    let mut disk = Disk::new();
    let write = entries(11, 12, 2, ENTRY_BYTES_MAX);
    disk.write(std::slice::from_ref(&write));
    disk.crash();
    assert_eq!(disk.log.entries(11, 13, u64::MAX).unwrap(), write.entries);
}

#[test]
#[should_panic(expected = "leave a hole")]
fn a_hole_is_never_written() {
    Disk::new().write(&[entries(12, 12, 2, 1)]);
}

#[test]
#[should_panic(expected = "replace committed")]
fn committed_entries_are_never_replaced() {
    let mut disk = Disk::new();
    let mut write = entries(11, 15, 2, 1);
    write.hard_state = Some(hard_state(2, 0, 13));
    disk.write(&[write]);
    disk.write(&[entries(13, 13, 3, 1)]);
}

#[test]
#[should_panic(expected = "cannot be compacted")]
fn a_log_is_never_compacted_past_its_end() {
    let mut disk = Disk::new();
    disk.write(&[entries(11, 15, 2, 1)]);
    disk.compact_to(16);
}

#[test]
fn a_compaction_notes_the_commit_index_that_no_write_has_noted_yet() {
    fn check(log: &mut dyn Log) {
        let mut write = entries(11, 15, 2, 1);
        write.hard_state = Some(hard_state(2, 1, 12));
        log.write(&[write]);
        // In a cluster at rest the last entries are committed and applied, and nothing is written
        // after them that would say so.
        log.compact_to(14);
        assert_eq!(log.crash(), hard_state(2, 1, 14));
        assert_eq!(log.store().start(), LogStart { index: 14, term: 2 });
        assert_eq!(log.store().last_index(), 15);
    }
    check(&mut Disk::new());
    check(&mut MemoryLog::create(START, hard_state(2, 0, 10)));
}

#[test]
fn a_log_that_was_never_created_or_is_there_already_is_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("raft");
    let opened = RaftLog::open(&path, &shared(), &options());
    assert!(matches!(opened.err().unwrap(), StorageError::Missing { .. }));
    let create = || RaftLog::create(&path, &shared(), &options(), START, hard_state(2, 0, 10));
    // A crash in the middle of creation leaves only this behind, and it is in nobody's way.
    fs::create_dir(path.with_extension("creating")).unwrap();
    fs::write(path.with_extension("creating").join("CURRENT"), "half").unwrap();
    create().unwrap();
    assert!(matches!(create().err().unwrap(), StorageError::Exists { .. }));
}

#[test]
fn after_a_failed_write_nothing_is_written_any_more() {
    let mut disk = Disk::new();
    disk.write(&[entries(11, 11, 2, 1)]);
    let reader = disk.log.clone();
    disk.log.fail_for_tests();
    assert!(disk.log.write(&[entries(12, 12, 2, 1)]).is_err());
    assert!(disk.log.compact_to(10).is_err());
    assert_eq!(reader.last_index(), 11);
    assert_eq!(reader.term(11).unwrap(), Some(2));
}

#[test]
fn a_hole_a_damaged_entry_or_a_commit_beyond_the_end_refuses_to_open() {
    let damages: [&dyn Fn(&rocksdb::DB); 4] = [
        &|database| database.delete(entry_key(14)).unwrap(),
        &|database| database.put(entry_key(14), b"not an entry").unwrap(),
        &|database| database.delete(entry_key(20)).unwrap(),
        &|database| database.put(entry_key(9), b"before the start").unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let mut disk = Disk::new();
        let mut write = entries(11, 20, 2, 100);
        write.hard_state = Some(hard_state(2, 0, 20));
        disk.write(&[write]);
        damage(disk.log.database_for_tests());
        let path = disk.root.path().join("damaged");
        kill(disk.log.database_for_tests(), &disk.path(), &path);
        let error = RaftLog::open(&path, &shared(), &options()).err().unwrap();
        assert!(matches!(error, StorageError::Corrupt { .. }), "{number}: {error}");
    }
}

#[test]
fn readers_never_take_a_replaced_suffix_for_damage() {
    let mut disk = Disk::new();
    disk.write(&[entries(11, 500, 2, 10)]);
    let reader = disk.log.clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // 400 is always there; what lies above comes and goes.
                let last = reader.last_index();
                assert!(reader.term(last).is_ok());
                let read = reader.entries(300, 401, u64::MAX).unwrap();
                assert_eq!(read.len(), 101);
                assert!(read.is_sorted_by_key(|entry| entry.index));
            }
        });
        for round in 0..200 {
            let (from, to) = if round % 2 == 0 { (401, 402) } else { (403, 500) };
            disk.log.write(&[entries(from, to, 3 + round, 10)]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}
