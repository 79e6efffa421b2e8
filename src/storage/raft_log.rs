//! The raft log on disk: entries, hard state and start, in a RocksDB whose WAL is on and synced.
//!
//! It is the write-ahead log of the whole node: a write that returned is durable, whatever happens.
//! One writer at a time; `write` takes all that waits, one batch and one fsync for all of it.
//! Readers go on meanwhile. What RocksDB really does at the end of a WAL, and the rule by which a
//! torn tail is repaired, is told in `wal_check.rs`. After the first failed write nothing is
//! written any more: what reached the disk is unknown, and a failed fsync must not be tried again.
//! Never deletes a log that it cannot read.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rocksdb::{DB, DBRawIterator, Range, ReadOptions, WriteBatch, WriteOptions};
use slog::warn;

use super::log_bounds::LogBounds;
use super::log_records::{
    ENTRIES_END, HARD_STATE_KEY, START_KEY, decode_entry, decode_entry_term, decode_hard_state,
    decode_start, encode_entry, encode_hard_state, encode_start, entry_index, entry_key,
};
use super::log_size::LogSize;
use super::wal_check::witness::Witness;
use super::{Options, Shared, StorageError, durable_file, options, wal_check};
use crate::fault::{self, Point};
use crate::kv::StoreFault;
use crate::limits::{RAFT_LOG_CHECK_BYTES, RAFT_LOG_PROBES};
use crate::raft::{HardState, LogEntry, LogError, LogStart, LogStore, LogWrite};
use crate::types::{Index, Term};

/// One open raft log. Clones share it; each is a reader and may be the writer.
#[derive(Clone)]
pub struct RaftLog {
    inner: Arc<Inner>,
}

struct Inner {
    database: DB,
    /// What the store holds. Changed under `writer`, after the write; read without waiting for it.
    bounds: RwLock<LogBounds>,
    writer: Mutex<Writer>,
    syncs: AtomicU64,
    bytes: AtomicU64,
}

struct Writer {
    witness: Witness,
    size: LogSize,
    /// The first failure; nothing is written after it.
    failed: Option<String>,
}

impl RaftLog {
    /// A new log in `directory`, which must be absent: no entries, beginning after `start`. It is
    /// there whole once this returns, and absent if it does not.
    pub fn create(
        directory: &Path,
        shared: &Shared,
        options: &Options,
        start: LogStart,
        hard_state: HardState,
    ) -> Result<RaftLog, StorageError> {
        if directory.exists() {
            return Err(StorageError::Exists { path: directory.to_owned() });
        }
        let bounds = LogBounds::empty(start, hard_state);
        let unfinished = directory.with_extension("creating");
        durable_file::remove_directory(&unfinished)?;
        let failed = StorageError::io_at("creating the raft log in", &unfinished);
        fault::fail(Point::LogCreationBegun).map_err(failed)?;
        {
            let settings = options::raft_database(options, shared, true)?;
            let database = DB::open(&settings, &unfinished)
                .map_err(|error| StorageError::rocksdb("creating the raft log", error))?;
            let mut batch = WriteBatch::new();
            batch.put(START_KEY, encode_start(&bounds.start));
            batch.put(HARD_STATE_KEY, encode_hard_state(&bounds.hard_state));
            database
                .write_opt(batch, &synced())
                .map_err(|error| StorageError::rocksdb("creating the raft log", error))?;
        }
        durable_file::sync_directory(&unfinished)?;
        fault::point(Point::LogCreationWritten);
        durable_file::rename(&unfinished, directory)?;
        fault::point(Point::LogCreationNamed);
        Self::open(directory, shared, options).map(|(log, _)| log)
    }

    /// The log in `directory` and its hard state. `Missing` if it was never created; `Corrupt` if
    /// it is not what was synced, except for a torn tail, which nobody was promised.
    pub fn open(
        directory: &Path,
        shared: &Shared,
        options: &Options,
    ) -> Result<(RaftLog, HardState), StorageError> {
        if !directory.join("CURRENT").exists() {
            return Err(StorageError::Missing { what: "raft log", path: directory.to_owned() });
        }
        let (witness, noted) = Witness::open(directory)?;
        if let Some(repair) = wal_check::check_and_repair(directory, noted)? {
            warn!(shared.logger(), "cut a torn write off the raft log's end";
                "file" => repair.path.display().to_string(),
                "kept_bytes" => repair.kept_bytes, "cut_bytes" => repair.cut_bytes);
        }
        let settings = options::raft_database(options, shared, false)?;
        let database = DB::open(&settings, directory).map_err(|error| {
            StorageError::rocksdb(format!("opening the raft log in {}", directory.display()), error)
        })?;
        let found = database.latest_sequence_number();
        if noted.is_some_and(|noted| noted > found) {
            return Err(corrupt(format!(
                "write {noted:?} was synced, and the log ends with write {found}"
            )));
        }
        let bounds = load_bounds(&database)?;
        check_entries(&database, &bounds)?;
        let size = LogSize::estimated(
            bounds.start.index + 1,
            bounds.last,
            stored_bytes(&database, &bounds),
        );
        let inner = Inner {
            database,
            bounds: RwLock::new(bounds),
            syncs: AtomicU64::new(0),
            bytes: AtomicU64::new(size.bytes()),
            writer: Mutex::new(Writer { witness, size, failed: None }),
        };
        Ok((RaftLog { inner: Arc::new(inner) }, bounds.hard_state))
    }

    /// Makes all of `writes` durable, in order, with one fsync; nothing to write costs none.
    ///
    /// The first entry of a write may lie at or below the last index: that entry and all after it
    /// are replaced, and entries above the new last one are gone for good. A hole is a panic.
    pub fn write(&self, writes: &[LogWrite]) -> Result<(), StorageError> {
        let mut writer = self.inner.lock_writer()?;
        let before = self.inner.bounds();
        let after = before.after_writes(writes);
        let mut batch = WriteBatch::new();
        // The highest index that a reader of the store could find, whatever was replaced since.
        let mut highest = before.last;
        for write in writes {
            for entry in &write.entries {
                batch.put(entry_key(entry.index), encode_entry(entry));
                highest = highest.max(entry.index);
            }
        }
        if highest > after.last {
            batch.delete_range(entry_key(after.last + 1).as_slice(), ENTRIES_END);
        }
        if let Some(hard_state) = writes.iter().rev().find_map(|write| write.hard_state) {
            batch.put(HARD_STATE_KEY, encode_hard_state(&hard_state));
        }
        if batch.is_empty() {
            return Ok(());
        }
        let attempted = "writing entries to the raft log";
        self.inner.commit(&mut writer, batch, after, (attempted, Point::LogAppendBegun))?;
        fault::point(Point::LogAppendDone);
        let mut last = before.last;
        for entry in writes.iter().flat_map(|write| &write.entries) {
            if entry.index <= last {
                writer.size.cut_end(entry.index, last);
            }
            writer.size.push(entry.index, stored_len(entry));
            last = entry.index;
        }
        self.inner.bytes.store(writer.size.bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Drops all entries up to and including `index`, durably; the log then starts there. They must
    /// be applied, which says that they are committed, and the hard state says so from then on.
    /// Panics unless `start <= index <= last`.
    pub fn compact_to(&self, index: Index) -> Result<(), StorageError> {
        let mut writer = self.inner.lock_writer()?;
        let before = self.inner.bounds();
        if index == before.start.index {
            return Ok(());
        }
        assert!(
            before.start.index < index && index <= before.last,
            "the log cannot be compacted to {index}: {before:?}"
        );
        let start = LogStart { index, term: self.inner.entry_term(index)? };
        let after = before.after_compaction(start);
        let mut batch = WriteBatch::new();
        batch.put(START_KEY, encode_start(&start));
        batch.delete_range(entry_key(before.start.index + 1), entry_key(index + 1));
        if after.hard_state != before.hard_state {
            batch.put(HARD_STATE_KEY, encode_hard_state(&after.hard_state));
        }
        // Synced although nobody waits for it: the tail-repair rule rests on every write being so.
        let attempted = "compacting the raft log";
        self.inner.commit(&mut writer, batch, after, (attempted, Point::LogCompactionBegun))?;
        fault::point(Point::LogCompactionDone);
        writer.size.cut_beginning(before.start.index + 1, index);
        self.inner.bytes.store(writer.size.bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Drops all entries, durably, because a snapshot stands for them: the log starts anew after
    /// `start`. Doing it again changes nothing.
    pub fn reset_to(&self, start: LogStart, hard_state: HardState) -> Result<(), StorageError> {
        let mut writer = self.inner.lock_writer()?;
        let after = self.inner.bounds().after_reset(start, hard_state);
        let mut batch = WriteBatch::new();
        batch.delete_range(entry_key(0).as_slice(), ENTRIES_END);
        batch.put(START_KEY, encode_start(&start));
        batch.put(HARD_STATE_KEY, encode_hard_state(&hard_state));
        let attempted = "resetting the raft log to a snapshot";
        self.inner.commit(&mut writer, batch, after, (attempted, Point::LogResetBegun))?;
        fault::point(Point::LogResetDone);
        writer.size = LogSize::default();
        self.inner.bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// The database itself, for tests of what it does on its own.
    #[cfg(test)]
    pub(super) fn database_for_tests(&self) -> &DB {
        &self.inner.database
    }

    /// Makes it look as if a write had failed.
    #[cfg(test)]
    pub(super) fn fail_for_tests(&self) {
        let mut writer = self.inner.lock_writer().expect("no write has failed yet");
        writer.failed = Some("for a test".to_owned());
    }

    /// The newest hard state.
    pub fn hard_state(&self) -> HardState {
        self.inner.bounds().hard_state
    }

    /// Bytes of all entries, roughly; falls as soon as entries are dropped.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes.load(Ordering::Relaxed)
    }

    /// How many synced writes were made since it was opened.
    pub fn sync_count(&self) -> u64 {
        self.inner.syncs.load(Ordering::Relaxed)
    }
}

impl LogStore for RaftLog {
    fn start(&self) -> LogStart {
        self.inner.bounds().start
    }

    fn last_index(&self) -> Index {
        self.inner.bounds().last
    }

    fn term(&self, index: Index) -> Result<Option<Term>, LogError> {
        let bounds = self.inner.bounds();
        if index == bounds.start.index {
            return Ok(Some(bounds.start.term));
        }
        if index < bounds.start.index || index > bounds.last {
            return Ok(None);
        }
        match self.inner.entry_term(index) {
            Ok(term) => Ok(Some(term)),
            Err(_) => {
                // It may have been dropped since the bounds were read: ask again with no writer.
                let _writer = self.inner.lock_writer()?;
                let bounds = self.inner.bounds();
                if index == bounds.start.index {
                    Ok(Some(bounds.start.term))
                } else if index < bounds.start.index || index > bounds.last {
                    Ok(None)
                } else {
                    Ok(Some(self.inner.entry_term(index)?))
                }
            }
        }
    }

    fn entries(&self, from: Index, to: Index, max_bytes: u64) -> Result<Vec<LogEntry>, LogError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let outside = |bounds: LogBounds| {
            let is_outside = from <= bounds.start.index || to > bounds.last + 1;
            is_outside.then(|| LogError {
                attempted: format!("reading entries {from}..{to} of the raft log"),
                cause: format!("they were dropped meanwhile; now it has {bounds:?}"),
                fault: StoreFault::Other,
            })
        };
        // A read off the raft thread may come after a compaction that was asked for later.
        if let Some(error) = outside(self.inner.bounds()) {
            return Err(error);
        }
        match self.inner.entries(from, to, max_bytes) {
            Ok(entries) => Ok(entries),
            Err(_) => {
                // Entries may have been dropped under our feet: ask again with no writer.
                let _writer = self.inner.lock_writer()?;
                if let Some(error) = outside(self.inner.bounds()) {
                    return Err(error);
                }
                Ok(self.inner.entries(from, to, max_bytes)?)
            }
        }
    }
}

impl Inner {
    fn bounds(&self) -> LogBounds {
        // A panic elsewhere cannot have left the bounds half-written: they are one assignment.
        *self.bounds.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one writer, unless an earlier write failed.
    fn lock_writer(&self) -> Result<MutexGuard<'_, Writer>, StorageError> {
        let writer = self.writer.lock().map_err(|_| StorageError::Failed {
            attempted: "using the raft log".to_owned(),
            cause: "an earlier write panicked".to_owned(),
        })?;
        match &writer.failed {
            None => Ok(writer),
            Some(cause) => Err(StorageError::Failed {
                attempted: "using the raft log after a failed write".to_owned(),
                cause: cause.clone(),
            }),
        }
    }

    /// Writes and syncs `batch`; then the log has the bounds `after`. `begun` is passed before that.
    fn commit(
        &self,
        writer: &mut Writer,
        batch: WriteBatch,
        after: LogBounds,
        (attempted, begun): (&str, Point),
    ) -> Result<(), StorageError> {
        let pass = |point| fault::fail(point).map_err(|error| StorageError::io(attempted, error));
        let written = pass(begun)
            .and_then(|()| {
                let written = self.database.write_opt(batch, &synced());
                written.map_err(|error| StorageError::rocksdb(attempted, error))
            })
            .and_then(|()| pass(Point::LogBatchSynced))
            .and_then(|()| writer.witness.note(self.database.latest_sequence_number()));
        if let Err(error) = written {
            writer.failed = Some(error.to_string());
            return Err(error);
        }
        *self.bounds.write().unwrap_or_else(PoisonError::into_inner) = after;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn entry_term(&self, index: Index) -> Result<Term, StorageError> {
        let value = self
            .database
            .get_pinned(entry_key(index))
            .map_err(|error| StorageError::rocksdb("reading an entry's term", error))?
            .ok_or_else(|| corrupt(format!("entry {index} is missing")))?;
        decode_entry_term(index, &value).map_err(|error| corrupt(format!("entry {index}: {error}")))
    }

    fn entries(
        &self,
        from: Index,
        to: Index,
        bytes_max: u64,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(entry_key(to).as_slice());
        let mut iterator = self.database.raw_iterator_opt(options);
        iterator.seek(entry_key(from));
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut bytes = 0;
        for index in from..to {
            let entry = expect_entry(&iterator, index)?;
            bytes += entry.bytes.len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
            iterator.next();
        }
        Ok(entries)
    }
}

/// The entry at the iterator, which must be that of `index`.
fn expect_entry(iterator: &DBRawIterator<'_>, index: Index) -> Result<LogEntry, StorageError> {
    let Some((key, value)) = iterator.item() else {
        iterator
            .status()
            .map_err(|error| StorageError::rocksdb("walking the raft log's entries", error))?;
        return Err(corrupt(format!("entry {index} is missing")));
    };
    match entry_index(key) {
        Some(found) if found == index => {}
        found => return Err(corrupt(format!("{found:?} stands where entry {index} belongs"))),
    }
    decode_entry(index, value).map_err(|error| corrupt(format!("entry {index}: {error}")))
}

fn load_bounds(database: &DB) -> Result<LogBounds, StorageError> {
    let read = |key: &[u8], name: &str| {
        database
            .get(key)
            .map_err(|error| StorageError::rocksdb(format!("reading the log's {name}"), error))?
            .ok_or_else(|| corrupt(format!("the {name} is missing")))
    };
    let start = decode_start(&read(START_KEY, "start")?)
        .map_err(|error| corrupt(format!("start: {error}")))?;
    let hard_state = decode_hard_state(&read(HARD_STATE_KEY, "hard state")?)
        .map_err(|error| corrupt(format!("hard state: {error}")))?;
    let mut iterator = database.raw_iterator();
    iterator.seek_for_prev(ENTRIES_END);
    iterator
        .status()
        .map_err(|error| StorageError::rocksdb("looking for the last entry", error))?;
    let last = iterator.key().and_then(entry_index).unwrap_or(start.index);
    let bounds = LogBounds { start, last, hard_state };
    if last < start.index || hard_state.commit < start.index || hard_state.commit > last {
        return Err(corrupt(format!("its parts do not fit together: {bounds:?}")));
    }
    Ok(bounds)
}

/// Looks for holes and damage: everything near the end, where a crash could do harm, and samples of
/// the rest, which may be as large as the state. (Every byte of the WAL was checked before.)
fn check_entries(database: &DB, bounds: &LogBounds) -> Result<(), StorageError> {
    let first = bounds.start.index + 1;
    let mut iterator = database.raw_iterator();
    iterator.seek(entry_key(0));
    if let Some(found) = iterator.key().and_then(entry_index)
        && found < first
    {
        return Err(corrupt(format!("entry {found} is there, and the log starts at {first}")));
    }
    if bounds.last < first {
        return Ok(());
    }
    let mut index = bounds.last;
    let mut bytes = 0;
    let mut term_above = Term::MAX;
    iterator.seek(entry_key(index));
    loop {
        let entry = expect_entry(&iterator, index)?;
        if entry.term > term_above {
            return Err(corrupt(format!("the term falls after entry {index}")));
        }
        term_above = entry.term;
        bytes += stored_len(&entry);
        if index == first || bytes > RAFT_LOG_CHECK_BYTES {
            break;
        }
        index -= 1;
        iterator.prev();
    }
    let rest = index - first;
    for probe in 0..RAFT_LOG_PROBES.min(rest) {
        let place =
            first + (u128::from(rest) * u128::from(probe) / u128::from(RAFT_LOG_PROBES)) as u64;
        iterator.seek(entry_key(place));
        expect_entry(&iterator, place)?;
    }
    if bounds.start.term > term_above && index == first {
        return Err(corrupt("the first entry's term is older than the log's start"));
    }
    Ok(())
}

/// Bytes of table files that hold the log's entries; at open everything is in table files.
fn stored_bytes(database: &DB, bounds: &LogBounds) -> u64 {
    let (from, to) = (entry_key(bounds.start.index + 1), entry_key(bounds.last + 1));
    database.get_approximate_sizes(&[Range::new(&from, &to)]).into_iter().sum()
}

/// Bytes an entry takes on disk.
fn stored_len(entry: &LogEntry) -> u64 {
    encoded_overhead() + entry.bytes.len() as u64
}

const fn encoded_overhead() -> u64 {
    // Key, frame, term.
    (9 + crate::codec::frame::HEADER_BYTES + 8) as u64
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

fn corrupt(cause: impl ToString) -> StorageError {
    StorageError::corrupt("checking the raft log", cause)
}
