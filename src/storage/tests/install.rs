//! The data directory, and installs that crash after each step.

use std::fs;
use std::path::Path;

use super::{entries, hard_state, options, shared};
use crate::kv::{Batch, Family, View};
use crate::raft::{HardState, LogStart, LogStore};
use crate::storage::{DataDir, Generation, InstallPlan, RaftLog, StateDb, StorageError};
use crate::types::Digest;

const OLD_HARD: HardState = HardState { term: 3, vote: 1, commit: 4 };
const NEW_START: LogStart = LogStart { index: 100, term: 5 };
const NEW_HARD: HardState = HardState { term: 6, vote: 0, commit: 100 };

fn make_state(path: &Path, content: &str) {
    let state = StateDb::create(path, &shared(), &options()).unwrap();
    let mut batch = Batch::default();
    batch.put(Family::Meta, b"content".to_vec(), content.into());
    state.write(&batch).unwrap();
    state.close().unwrap();
}

fn state_content(directory: &DataDir) -> String {
    let current = directory.current_generation().unwrap().unwrap();
    let state = StateDb::open(&directory.generation(current), &shared(), &options()).unwrap();
    let content = state.latest().get(Family::Meta, b"content").unwrap().unwrap();
    String::from_utf8(content.to_vec()).unwrap()
}

/// A node with entries 1 to 7 on an old state, and the state of a snapshot prepared beside it.
fn prepared(path: &Path) -> InstallPlan {
    let directory = DataDir::open(path).unwrap();
    let (first, first_path) = directory.next_generation().unwrap();
    assert_eq!(first, Generation(1));
    make_state(&first_path, "old");
    directory.set_first_generation(first).unwrap();
    let log = RaftLog::create(
        &directory.raft(),
        &shared(),
        &options(),
        LogStart::default(),
        HardState::default(),
    )
    .unwrap();
    let mut write = entries(1, 7, 3, 50);
    write.hard_state = Some(OLD_HARD);
    log.write(&[write]).unwrap();

    let (generation, path) = directory.next_generation().unwrap();
    make_state(&path, "new");
    InstallPlan { snapshot: Digest([9; 32]), start: NEW_START, hard_state: NEW_HARD, generation }
}

fn open_log(directory: &DataDir) -> RaftLog {
    RaftLog::open(&directory.raft(), &shared(), &options()).unwrap().0
}

/// Does the first `steps` steps of an install, then stops as a crash would.
fn install_until(path: &Path, plan: &InstallPlan, steps: usize) {
    let directory = DataDir::open(path).unwrap();
    let log = open_log(&directory);
    let actions: [&dyn Fn(); 5] = [
        &|| directory.begin_install(plan).unwrap(),
        &|| log.reset_to(plan.start, plan.hard_state).unwrap(),
        &|| directory.flip_current(plan.generation).unwrap(),
        &|| directory.remove_plan().unwrap(),
        &|| fs::remove_dir_all(directory.generation(Generation(1))).unwrap(),
    ];
    actions[..steps].iter().for_each(|action| action());
}

#[test]
fn a_crash_after_any_step_leaves_the_node_before_or_after_the_install() {
    for steps in 0..=5 {
        let root = tempfile::tempdir().unwrap();
        let plan = prepared(root.path());
        install_until(root.path(), &plan, steps);
        // Booting twice must change nothing more.
        for boot in 0..2 {
            let directory = DataDir::open(root.path()).unwrap();
            let log = open_log(&directory);
            let redone = directory.redo_install_at_boot(&log).unwrap();
            assert_eq!(redone.is_some(), boot == 0 && (1..=3).contains(&steps), "step {steps}");
            assert_eq!(directory.pending_install().unwrap(), None);
            if steps == 0 {
                assert_eq!(state_content(&directory), "old");
                assert_eq!((log.start(), log.last_index()), (LogStart::default(), 7));
                assert_eq!(log.hard_state(), OLD_HARD);
            } else {
                assert_eq!(state_content(&directory), "new");
                assert_eq!((log.start(), log.last_index()), (NEW_START, 100));
                assert_eq!(log.hard_state(), NEW_HARD);
            }
            let current = directory.current_generation().unwrap().unwrap();
            let other = Generation(3 - current.0);
            assert!(!directory.generation(other).exists(), "step {steps}: leftovers");
        }
    }
}

#[test]
fn an_install_without_a_crash_leaves_only_the_new_state() {
    let root = tempfile::tempdir().unwrap();
    let plan = prepared(root.path());
    let directory = DataDir::open(root.path()).unwrap();
    let log = open_log(&directory);
    directory.begin_install(&plan).unwrap();
    let twice = directory.begin_install(&plan).unwrap_err();
    assert!(matches!(twice, StorageError::Refused { .. }));
    assert!(matches!(directory.next_generation().unwrap_err(), StorageError::Refused { .. }));
    log.reset_to(plan.start, plan.hard_state).unwrap();
    assert_eq!(directory.finish_install().unwrap(), plan.generation);
    assert_eq!(state_content(&directory), "new");
    // The next may be in the making while the old one is removed.
    let next = directory.generation(Generation(3));
    fs::create_dir(&next).unwrap();
    directory.remove_old_generations(plan.generation).unwrap();
    assert!(!directory.generation(Generation(1)).exists());
    assert!(directory.generation(plan.generation).exists() && next.exists());
    assert!(matches!(directory.finish_install().unwrap_err(), StorageError::Refused { .. }));
    assert_eq!(directory.next_generation().unwrap().0, Generation(3));
}

#[test]
fn a_plan_that_came_back_from_the_dead_does_not_touch_a_log_that_has_grown() {
    let root = tempfile::tempdir().unwrap();
    let plan = prepared(root.path());
    install_until(root.path(), &plan, 3);
    // The plan's removal is lost, say; the node had gone on meanwhile.
    let directory = DataDir::open(root.path()).unwrap();
    let log = open_log(&directory);
    log.write(&[entries(101, 105, 6, 10)]).unwrap();
    assert_eq!(directory.redo_install_at_boot(&log).unwrap(), Some(plan));
    assert_eq!(log.last_index(), 105);
}

#[test]
fn a_damaged_plan_or_current_is_an_error_and_deletes_nothing() {
    for name in ["PLAN", "CURRENT"] {
        for damage in [0, 3, 20] {
            let root = tempfile::tempdir().unwrap();
            let plan = prepared(root.path());
            install_until(root.path(), &plan, 2);
            let path = root.path().join("state").join(name);
            let mut bytes = fs::read(&path).unwrap();
            match bytes.get_mut(damage) {
                Some(byte) => *byte ^= 0x10,
                None => bytes.clear(),
            }
            fs::write(&path, bytes).unwrap();
            let directory = DataDir::open(root.path()).unwrap();
            let log = open_log(&directory);
            let error = directory.redo_install_at_boot(&log).unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
            let error = directory.next_generation().unwrap_err();
            assert!(!matches!(error, StorageError::Missing { .. }), "{error}");
            assert!(directory.generation(Generation(1)).exists());
            assert!(directory.generation(Generation(2)).exists());
        }
    }
}

#[test]
fn a_lost_current_file_does_not_lead_to_the_deletion_of_the_only_state() {
    let root = tempfile::tempdir().unwrap();
    prepared(root.path());
    fs::remove_file(root.path().join("state/CURRENT")).unwrap();
    let directory = DataDir::open(root.path()).unwrap();
    let log = open_log(&directory);
    directory.redo_install_at_boot(&log).unwrap();
    let error = directory.check_current(&log).unwrap_err();
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
    assert!(directory.generation(Generation(1)).exists());
}

#[test]
fn a_plan_older_than_the_log_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut plan = prepared(root.path());
    plan.hard_state.term = 2;
    install_until(root.path(), &plan, 1);
    let directory = DataDir::open(root.path()).unwrap();
    let log = open_log(&directory);
    let error = directory.redo_install_at_boot(&log).unwrap_err();
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
    assert_eq!(log.hard_state(), hard_state(3, 1, 4));
}

#[test]
fn a_node_that_lost_acknowledged_entries_is_refused_at_every_later_start() {
    let root = tempfile::tempdir().unwrap();
    {
        let directory = DataDir::open(root.path()).unwrap();
        directory.check_not_lost().unwrap();
        directory.mark_lost("node 1 counts on entry 9").unwrap();
    }
    for text in [&b"node 1 counts on entry 9"[..], b"", b"\xff\xfe"] {
        fs::write(root.path().join("LOST"), text).unwrap();
        let error = DataDir::open(root.path()).unwrap().check_not_lost().unwrap_err();
        assert!(matches!(error, StorageError::Lost { .. }), "{error}");
        assert!(error.to_string().contains("remove this node and join anew"), "{error}");
    }
}

#[test]
fn one_process_holds_the_directory() {
    let root = tempfile::tempdir().unwrap();
    let held = DataDir::open(root.path()).unwrap();
    let error = DataDir::open(root.path()).unwrap_err();
    assert!(matches!(error, StorageError::InUse { .. }), "{error}");
    assert!(held.free_bytes().unwrap() > 0);
    drop(held);
    DataDir::open(root.path()).unwrap();
}
