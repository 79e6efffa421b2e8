//! Reading the state database: point-in-time views, the newest data, and cursors over both.
//!
//! A read that fails marks the database as failed, so that the node stops instead of going on with
//! a state it cannot read. Never writes.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DBRawIterator, ReadOptions};

use super::owned_snapshot::OwnedSnapshot;
use super::state_db::Inner;
use crate::kv::{Cursor, Family, KvError, View};
use crate::limits::MIB;

/// How a view will be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Gets and short scans: what is read may well be read again.
    Serving,
    /// Everything once, in order: reads far ahead, and leaves the cache to those who serve.
    Sweeping,
}

/// How far a sweep reads ahead in each table file.
const SWEEP_READAHEAD_BYTES: usize = 2 * MIB;

/// The state at one moment; stays so for as long as it is held.
pub(super) struct SnapshotView {
    snapshot: OwnedSnapshot<Inner>,
    purpose: Purpose,
}

impl SnapshotView {
    pub(super) fn new(inner: Arc<Inner>, purpose: Purpose) -> Self {
        SnapshotView { snapshot: OwnedSnapshot::new(inner), purpose }
    }
}

impl View for SnapshotView {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let inner = self.snapshot.owner();
        inner.check()?;
        self.snapshot
            .snapshot()
            .get_pinned_cf_opt(inner.family(family), key, read_options(self.purpose))
            .map(|value| value.map(|slice| Bytes::copy_from_slice(&slice)))
            .map_err(|error| inner.fail("reading a key of the state", error))
    }

    fn cursor<'a>(&'a self, family: Family) -> Box<dyn Cursor + 'a> {
        let inner = self.snapshot.owner();
        let options = read_options(self.purpose);
        let iterator = self.snapshot.snapshot().raw_iterator_cf_opt(inner.family(family), options);
        Box::new(RocksCursor { iterator, inner })
    }
}

/// Always the newest data: for the one who writes it. Each cursor sees one moment, the one it was
/// made at.
pub struct LatestView {
    inner: Arc<Inner>,
}

impl LatestView {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        LatestView { inner }
    }
}

impl View for LatestView {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.check()?;
        let options = read_options(Purpose::Serving);
        self.inner
            .database()
            .get_pinned_cf_opt(self.inner.family(family), key, &options)
            .map(|value| value.map(|slice| Bytes::copy_from_slice(&slice)))
            .map_err(|error| self.inner.fail("reading a key of the state", error))
    }

    fn cursor<'a>(&'a self, family: Family) -> Box<dyn Cursor + 'a> {
        let options = read_options(Purpose::Serving);
        let iterator =
            self.inner.database().raw_iterator_cf_opt(self.inner.family(family), options);
        Box::new(RocksCursor { iterator, inner: &self.inner })
    }
}

fn read_options(purpose: Purpose) -> ReadOptions {
    let mut options = ReadOptions::default();
    // Records has a prefix extractor; without this, an iterator could stop at the prefix's end.
    options.set_total_order_seek(true);
    if purpose == Purpose::Sweeping {
        options.fill_cache(false);
        options.set_readahead_size(SWEEP_READAHEAD_BYTES);
    }
    options
}

struct RocksCursor<'a> {
    iterator: DBRawIterator<'a>,
    inner: &'a Inner,
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) {
        self.iterator.seek(key);
    }

    fn seek_for_prev(&mut self, key: &[u8]) {
        self.iterator.seek_for_prev(key);
    }

    fn next(&mut self) {
        // RocksDB may crash when an iterator that stands nowhere is moved.
        if self.iterator.valid() {
            self.iterator.next();
        }
    }

    fn prev(&mut self) {
        if self.iterator.valid() {
            self.iterator.prev();
        }
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.iterator.item()
    }

    fn status(&self) -> Result<(), KvError> {
        self.inner.check()?;
        self.iterator
            .status()
            .map_err(|error| self.inner.fail("walking the keys of the state", error))
    }
}
