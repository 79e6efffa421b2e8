//! The state database and its twin.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{filler, kill, options, shared};
use crate::kv::{Batch, Cursor, Family, StoreFault, View};
use crate::storage::memory::MemoryState;
use crate::storage::{Remedy, StateDb, StorageError};

/// What both stores can do, for telling the same story to both.
trait Store {
    fn write(&self, batch: &Batch);
    fn view(&self) -> Arc<dyn View>;
    fn latest(&self) -> Box<dyn View>;
    fn flush(&self);
    fn persisted(&self, family: Family, key: &[u8]) -> Option<Vec<u8>>;
    /// Crashes and comes back.
    fn crash(&mut self);
}

impl Store for MemoryState {
    fn write(&self, batch: &Batch) {
        MemoryState::write(self, batch).unwrap();
    }
    fn view(&self) -> Arc<dyn View> {
        MemoryState::view(self)
    }
    fn latest(&self) -> Box<dyn View> {
        Box::new(MemoryState::latest(self))
    }
    fn flush(&self) {
        MemoryState::flush(self).unwrap();
    }
    fn persisted(&self, family: Family, key: &[u8]) -> Option<Vec<u8>> {
        self.get_persisted(family, key).unwrap().map(Vec::from)
    }
    fn crash(&mut self) {
        MemoryState::crash(self);
    }
}

struct Disk {
    root: TempDir,
    state: StateDb,
    crashes: u32,
}

impl Disk {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = StateDb::create(&root.path().join("0"), &shared(), &options()).unwrap();
        Disk { root, state, crashes: 0 }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join(self.crashes.to_string())
    }
}

impl Store for Disk {
    fn write(&self, batch: &Batch) {
        self.state.write(batch).unwrap();
    }
    fn view(&self) -> Arc<dyn View> {
        self.state.view()
    }
    fn latest(&self) -> Box<dyn View> {
        Box::new(self.state.latest())
    }
    fn flush(&self) {
        self.state.flush().unwrap();
    }
    fn persisted(&self, family: Family, key: &[u8]) -> Option<Vec<u8>> {
        self.state.get_persisted(family, key).unwrap().map(Vec::from)
    }
    fn crash(&mut self) {
        let before = self.path();
        self.crashes += 1;
        kill(self.state.database_for_tests(), &before, &self.path());
        self.state = StateDb::open(&self.path(), &shared(), &options()).unwrap();
        fs::remove_dir_all(before).unwrap();
    }
}

type Model = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// Family by its place, key, value; no value: a delete.
type Put = (usize, Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Put>),
    Walk(usize, Vec<u8>, Vec<Move>),
    Keep,
    Flush,
    Crash,
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Next,
    Prev,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few different keys, of lengths around that of a version, so that steps meet.
    prop::collection::vec(0..3u8, 0..11)
}

fn step() -> impl Strategy<Value = Step> {
    let family = 0..Family::ALL.len();
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
    let moves = prop::collection::vec(prop_oneof![Just(Move::Next), Just(Move::Prev)], 0..12);
    prop_oneof![
        6 => prop::collection::vec((family.clone(), key(), value), 0..8).prop_map(Step::Write),
        4 => (family, key(), moves).prop_map(|(f, k, m)| Step::Walk(f, k, m)),
        1 => Just(Step::Keep),
        1 => Just(Step::Flush),
        1 => Just(Step::Crash),
    ]
}

fn batch_of(writes: &[Put], model: &mut Model) -> Batch {
    let mut batch = Batch::default();
    for (family, key, value) in writes {
        let family = Family::ALL[*family];
        match value {
            Some(value) => {
                batch.put(family, key.clone(), value.clone());
                model.insert((family, key.clone()), value.clone());
            }
            None => {
                batch.delete(family, key.clone());
                model.remove(&(family, key.clone()));
            }
        }
    }
    batch
}

fn contents(view: &dyn View) -> Model {
    let mut found = Model::new();
    for family in Family::ALL {
        let mut cursor = view.cursor(family);
        cursor.seek(b"");
        while let Some((key, value)) = cursor.entry() {
            found.insert((family, key.to_vec()), value.to_vec());
            cursor.next();
        }
        cursor.status().unwrap();
    }
    found
}

/// One family of the model as a list, and a position in it.
struct Walker {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    at: Option<usize>,
}

impl Walker {
    fn new(model: &Model, family: Family) -> Self {
        let own = model.iter().filter(|((f, _), _)| *f == family);
        Walker { entries: own.map(|((_, k), v)| (k.clone(), v.clone())).collect(), at: None }
    }

    fn check(&self, cursor: &dyn Cursor) {
        let expected = self.at.map(|at| (&self.entries[at].0[..], &self.entries[at].1[..]));
        assert_eq!(cursor.entry(), expected);
        cursor.status().unwrap();
    }

    fn walk(&mut self, cursor: &mut dyn Cursor, key: &[u8], moves: &[Move]) {
        cursor.next();
        cursor.prev();
        self.check(cursor);
        cursor.seek_for_prev(key);
        self.at = self.entries.partition_point(|(k, _)| &k[..] <= key).checked_sub(1);
        self.check(cursor);
        cursor.seek(key);
        let found = self.entries.partition_point(|(k, _)| &k[..] < key);
        self.at = (found < self.entries.len()).then_some(found);
        self.check(cursor);
        for step in moves {
            match step {
                Move::Next => {
                    cursor.next();
                    self.at = self.at.map(|at| at + 1).filter(|at| *at < self.entries.len());
                }
                Move::Prev => {
                    cursor.prev();
                    self.at = self.at.and_then(|at| at.checked_sub(1));
                }
            }
            self.check(cursor);
        }
    }
}

fn run(store: &mut dyn Store, steps: &[Step]) {
    let (mut model, mut persisted) = (Model::new(), Model::new());
    let mut kept: Vec<(Arc<dyn View>, Model)> = Vec::new();
    for step in steps {
        match step {
            Step::Write(writes) => {
                let batch = batch_of(writes, &mut model);
                store.write(&batch);
                for (family, key, _) in writes {
                    let family = Family::ALL[*family];
                    let expected = model.get(&(family, key.clone())).cloned();
                    let found = store.latest().get(family, key).unwrap().map(Vec::from);
                    assert_eq!(found, expected);
                    let expected = persisted.get(&(family, key.clone())).cloned();
                    assert_eq!(store.persisted(family, key), expected);
                }
            }
            Step::Walk(family, key, moves) => {
                let family = Family::ALL[*family];
                let latest = store.latest();
                Walker::new(&model, family).walk(&mut *latest.cursor(family), key, moves);
                let view = store.view();
                Walker::new(&model, family).walk(&mut *view.cursor(family), key, moves);
            }
            Step::Keep => kept.push((store.view(), model.clone())),
            Step::Flush => {
                store.flush();
                persisted = model.clone();
            }
            Step::Crash => {
                store.crash();
                model = persisted.clone();
            }
        }
        assert_eq!(contents(&*store.latest()), model);
    }
    for (view, expected) in kept {
        assert_eq!(contents(&*view), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rocksdb_does_what_a_plain_map_does(steps in prop::collection::vec(step(), 1..25)) {
        run(&mut Disk::new(), &steps);
    }
}

proptest! {
    #[test]
    fn the_twin_does_what_a_plain_map_does(steps in prop::collection::vec(step(), 1..60)) {
        run(&mut MemoryState::new(), &steps);
    }

    #[test]
    fn the_twin_flushes_some_prefix_of_its_batches(count in 1..40u8, seed: u64) {
        let state = MemoryState::new();
        for number in 0..count {
            let mut batch = Batch::default();
            batch.put(Family::Meta, b"applied".to_vec(), vec![number]);
            batch.put(Family::Records, vec![number], vec![number]);
            state.write(&batch).unwrap();
        }
        state.flush_some(seed);
        state.crash();
        let survivors = contents(&*state.view());
        let applied = survivors.get(&(Family::Meta, b"applied".to_vec())).map(|value| value[0]);
        let records = survivors.keys().filter(|(family, _)| *family == Family::Records).count();
        prop_assert_eq!(records, applied.map_or(0, |last| usize::from(last) + 1));
    }
}

#[test]
#[should_panic(expected = "put 2 times")]
fn the_twin_finds_a_single_delete_of_a_key_put_twice() {
    let state = MemoryState::new();
    let mut batch = Batch::default();
    batch.put(Family::Records, b"key".to_vec(), b"old".to_vec());
    batch.put(Family::Records, b"key".to_vec(), b"new".to_vec());
    batch.single_delete(Family::Records, b"key".to_vec());
    // The panic comes first; there is no outcome to look at.
    let _ = state.write(&batch);
}

fn put(state: &StateDb, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(family, key.to_vec(), value.to_vec());
    state.write(&batch).unwrap();
}

#[test]
fn dropping_a_state_without_closing_it_flushes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let state = StateDb::create(&path, &shared(), &options()).unwrap();
    put(&state, Family::Meta, b"a", b"flushed");
    state.flush().unwrap();
    put(&state, Family::Meta, b"b", b"lost");
    drop(state);

    let state = StateDb::open(&path, &shared(), &options()).unwrap();
    assert_eq!(state.latest().get(Family::Meta, b"a").unwrap().unwrap(), "flushed");
    assert_eq!(state.latest().get(Family::Meta, b"b").unwrap(), None);
    assert_eq!(state.get_persisted(Family::Meta, b"a").unwrap().unwrap(), "flushed");
    put(&state, Family::Meta, b"c", b"closed");
    state.close().unwrap();
    let state = StateDb::open(&path, &shared(), &options()).unwrap();
    assert_eq!(state.latest().get(Family::Meta, b"c").unwrap().unwrap(), "closed");
}

#[test]
fn memtables_that_fill_up_flush_all_families_at_one_point() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let state = StateDb::create(&path, &shared(), &options()).unwrap();
    // Three times the memtables' size, in batches that always write two families together.
    for number in 0..6000u32 {
        let mut batch = Batch::default();
        batch.put(Family::Meta, b"applied".to_vec(), number.to_be_bytes().to_vec());
        let key = number.to_be_bytes().to_vec();
        batch.put(Family::Records, key, filler(u64::from(number), 4096));
        state.write(&batch).unwrap();
    }
    let copy = root.path().join("copy");
    kill(state.database_for_tests(), &path, &copy);
    let survivor = StateDb::open(&copy, &shared(), &options()).unwrap();
    let applied = survivor.latest().get(Family::Meta, b"applied").unwrap().unwrap();
    let applied = u32::from_be_bytes(applied[..].try_into().unwrap());
    assert!(applied > 0 && applied < 6000);
    let view = survivor.view_for_sweep();
    let mut cursor = view.cursor(Family::Records);
    cursor.seek_for_prev(&[0xff; 5]);
    assert_eq!(cursor.entry().unwrap().0, applied.to_be_bytes());
}

#[test]
fn a_checkpoint_is_the_state_of_one_moment_and_opens_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDb::create(&root.path().join("state"), &shared(), &options()).unwrap();
    for number in 0..100u32 {
        put(&state, Family::Records, &number.to_be_bytes(), &filler(1, 1000));
    }
    let checkpoint = root.path().join("checkpoint");
    state.checkpoint(&checkpoint).unwrap();
    put(&state, Family::Records, b"later", b"not in it");
    let error = state.checkpoint(&checkpoint).unwrap_err();
    assert!(matches!(error, StorageError::Exists { .. }));

    // Nothing but files a snapshot may carry, and no WAL with data in it.
    for entry in fs::read_dir(&checkpoint).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let length = entry.metadata().unwrap().len();
        assert!(
            ["CURRENT", "MANIFEST-", "OPTIONS-"].iter().any(|prefix| name.starts_with(prefix))
                || name.ends_with(".sst")
                || (name.ends_with(".log") && length == 0),
            "{name}, {length} bytes"
        );
    }
    let names: Vec<_> = state.live_files().unwrap().into_iter().map(|file| file.name).collect();
    assert!(!names.is_empty() && names.iter().all(|name| checkpoint.join(name).exists()));

    let copy = StateDb::open(&checkpoint, &shared(), &options()).unwrap();
    assert_eq!(contents(&*copy.view()).len(), 100);
    assert_eq!(contents(&*state.view()).len(), 101);
    assert!(state.approximate_bytes().unwrap() > 100_000);
    assert!(state.memory_use().unwrap().memtables_bytes > 0);
}

#[test]
fn what_cannot_be_opened_says_why_and_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let open = || StateDb::open(&path, &shared(), &options()).err().unwrap();
    assert!(matches!(open(), StorageError::Missing { .. }));
    assert!(!path.exists(), "looking for a state must not make one");

    let state = StateDb::create(&path, &shared(), &options()).unwrap();
    put(&state, Family::Meta, b"key", &filler(1, 5000));
    state.flush().unwrap();
    let file = state.live_files().unwrap()[0].name.clone();
    drop(state);
    let again = StateDb::create(&path, &shared(), &options()).err().unwrap();
    assert!(matches!(again, StorageError::Exists { .. }));

    let file = path.join(file);
    let whole = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(matches!(open(), StorageError::Corrupt { .. }), "{}", open());
    assert_eq!(open().remedy(), Remedy::Halt);

    let mut rotten = whole;
    rotten[1000] ^= 1;
    fs::write(&file, rotten).unwrap();
    let state = StateDb::open(&path, &shared(), &options()).unwrap();
    let error = state.view().get(Family::Meta, b"key").unwrap_err();
    assert_eq!(error.fault, StoreFault::Corrupt, "{error}");
    // From now on it refuses everything, reads of sound keys too.
    assert!(state.latest().get(Family::Meta, b"other").is_err());
    assert!(state.write(&Batch::default()).is_err());
}

#[test]
fn a_flush_that_failed_is_never_forgiven() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let state = StateDb::create(&path, &shared(), &options()).unwrap();
    put(&state, Family::Meta, b"key", b"value");
    let aside = root.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    assert!(state.flush().is_err());
    fs::rename(&aside, &path).unwrap();
    assert!(state.flush().is_err());
    let mut batch = Batch::default();
    batch.put(Family::Meta, b"key".to_vec(), b"value".to_vec());
    assert!(state.write(&batch).is_err());
    assert!(state.view().get(Family::Meta, b"key").is_err());
}

#[test]
fn a_view_outlives_all_handles_and_ends_with_the_close() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDb::create(&root.path().join("state"), &shared(), &options()).unwrap();
    put(&state, Family::Meta, b"key", b"value");
    let view = state.view();
    drop(state);
    assert_eq!(view.get(Family::Meta, b"key").unwrap().unwrap(), "value");

    let state = StateDb::create(&root.path().join("other"), &shared(), &options()).unwrap();
    let other = state.clone();
    let view = state.view();
    state.close().unwrap();
    assert!(other.write(&Batch::default()).is_err());
    // Whoever reads it has done nothing wrong, and asks again.
    assert_eq!(view.get(Family::Meta, b"key").unwrap_err().fault, StoreFault::Closed);
}
