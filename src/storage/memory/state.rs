//! The state database's twin: what is not flushed is lost in a crash, to the last flush at once.
//!
//! `flush_some` flushes as RocksDB does on its own, up to some earlier write. A `SingleDelete` of a
//! key that was not put exactly once is a panic here, where RocksDB would bring old data back to
//! life at a time of its choosing.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::map::{Entry, Map};
use crate::kv::{Batch, Cursor, Family, KvError, Op, View};

/// After this many unflushed batches the oldest flush by themselves: real memtables are bounded too.
const UNFLUSHED_BATCHES_MAX: usize = 1024;

/// A state database in memory. Clones share it, like those of `StateDb`.
#[derive(Clone, Default)]
pub struct MemoryState {
    inner: Arc<Mutex<Inner>>,
}

/// The content of a state at one moment.
#[derive(Clone, Default)]
pub struct MemoryCheckpoint {
    families: Families,
}

type Families = [Map; Family::ALL.len()];

#[derive(Default)]
struct Inner {
    /// What a crash leaves.
    persisted: Families,
    /// What each batch since then has made of it, oldest first.
    unflushed: Vec<Families>,
}

impl Inner {
    fn newest(&self) -> &Families {
        self.unflushed.last().unwrap_or(&self.persisted)
    }

    /// Makes the first `count` unflushed batches durable.
    fn flush_batches(&mut self, count: usize) {
        if let Some(last) = self.unflushed.drain(..count).next_back() {
            self.persisted = last;
        }
    }
}

impl MemoryState {
    /// An empty state.
    pub fn new() -> Self {
        MemoryState::default()
    }

    /// A state that holds what the checkpoint holds, durably.
    pub fn from_checkpoint(checkpoint: &MemoryCheckpoint) -> Self {
        let inner = Inner { persisted: checkpoint.families.clone(), unflushed: Vec::new() };
        MemoryState { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The state as it is now, unchanging.
    pub fn view(&self) -> Arc<dyn View> {
        Arc::new(MemoryView { families: self.lock().newest().clone() })
    }

    /// The newest data at each call.
    pub fn latest(&self) -> impl View + use<> {
        LatestMemoryView { state: self.clone() }
    }

    /// Applies a batch at once; a crash forgets it until it is flushed.
    pub fn write(&self, batch: &Batch) -> Result<(), KvError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut inner = self.lock();
        let mut families = inner.newest().clone();
        for op in batch.ops() {
            apply(&mut families, op);
        }
        inner.unflushed.push(families);
        if inner.unflushed.len() > UNFLUSHED_BATCHES_MAX {
            inner.flush_batches(UNFLUSHED_BATCHES_MAX / 2);
        }
        Ok(())
    }

    /// Makes everything durable.
    pub fn flush(&self) -> Result<(), KvError> {
        let mut inner = self.lock();
        let all = inner.unflushed.len();
        inner.flush_batches(all);
        Ok(())
    }

    /// Makes some of the oldest unflushed batches durable, possibly none or all, as the seed has it.
    pub fn flush_some(&self, seed: u64) {
        let mut inner = self.lock();
        let choices = inner.unflushed.len() as u64 + 1;
        inner.flush_batches((mix(seed) % choices) as usize);
    }

    /// Forgets everything that is not flushed. Views made before stay as they are.
    pub fn crash(&self) {
        self.lock().unflushed.clear();
    }

    /// The value a crash at this moment would leave.
    pub fn get_persisted(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(get(&self.lock().persisted, family, key))
    }

    /// The state as it is now, flushed first like a real checkpoint. Costs nothing.
    pub fn checkpoint(&self) -> Result<MemoryCheckpoint, KvError> {
        self.flush()?;
        Ok(MemoryCheckpoint { families: self.lock().newest().clone() })
    }

    /// Bytes of all keys and values.
    pub fn approximate_bytes(&self) -> Result<u64, KvError> {
        Ok(self.lock().newest().iter().map(Map::bytes).sum())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no operation of the twin panics half-way through a change")
    }
}

impl MemoryCheckpoint {
    /// Reads the checkpoint.
    pub fn view(&self) -> Arc<dyn View> {
        Arc::new(MemoryView { families: self.families.clone() })
    }
}

fn apply(families: &mut Families, op: &Op) {
    match op {
        Op::Put(family, key, value) => families[place(*family)].put(key, value),
        Op::Delete(family, key) => families[place(*family)].remove(key),
        Op::SingleDelete(family, key) => {
            let map = &mut families[place(*family)];
            let puts = map.get(key).map_or(1, |entry| entry.puts);
            assert!(puts == 1, "a single delete of {family:?} {key:?}, which was put {puts} times");
            map.remove(key);
        }
    }
}

fn get(families: &Families, family: Family, key: &[u8]) -> Option<Bytes> {
    families[place(family)].get(key).map(|entry| entry.value.clone())
}

fn place(family: Family) -> usize {
    Family::ALL.iter().position(|other| *other == family).expect("ALL holds every family")
}

/// Spreads a seed over all bits (the finaliser of splitmix64).
pub(super) fn mix(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

struct MemoryView {
    families: Families,
}

impl View for MemoryView {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(get(&self.families, family, key))
    }

    fn cursor<'a>(&'a self, family: Family) -> Box<dyn Cursor + 'a> {
        Box::new(MemoryCursor { map: self.families[place(family)].clone(), here: None })
    }
}

struct LatestMemoryView {
    state: MemoryState,
}

impl View for LatestMemoryView {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(get(self.state.lock().newest(), family, key))
    }

    fn cursor<'a>(&'a self, family: Family) -> Box<dyn Cursor + 'a> {
        let map = self.state.lock().newest()[place(family)].clone();
        Box::new(MemoryCursor { map, here: None })
    }
}

struct MemoryCursor {
    map: Map,
    here: Option<Entry>,
}

impl Cursor for MemoryCursor {
    fn seek(&mut self, key: &[u8]) {
        self.here = self.map.first_from(key, true).cloned();
    }

    fn seek_for_prev(&mut self, key: &[u8]) {
        self.here = self.map.last_to(key, true).cloned();
    }

    fn next(&mut self) {
        self.here =
            self.here.take().and_then(|entry| self.map.first_from(&entry.key, false).cloned());
    }

    fn prev(&mut self) {
        self.here = self.here.take().and_then(|entry| self.map.last_to(&entry.key, false).cloned());
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.here.as_ref().map(|entry| (&entry.key[..], &entry.value[..]))
    }

    fn status(&self) -> Result<(), KvError> {
        Ok(())
    }
}
