//! The replicated state on disk: one RocksDB a generation, a column family for each `Family`.
//!
//! Its write-ahead log is off: the raft log is one already. What is not flushed is forgotten by a
//! crash, atomically, and replayed from the raft log. It holds nothing that is not replicated, so
//! that a checkpoint of it is exactly a snapshot. After the first error it never works again: a
//! state that may have lost a write must not be served.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    ColumnFamily, DB, FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions, properties,
};

use super::owned_snapshot::HoldsDatabase;
use super::state_view::{LatestView, Purpose, SnapshotView};
use super::{Options, Shared, StorageError, durable_file, options};
use crate::fault::{self, Point};
use crate::kv::{Batch, Family, KvError, Op, StoreFault, View};

/// A table file that is part of the state now. Files never change once written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveFile {
    /// File name inside the state's directory, such as `000012.sst`.
    pub name: String,
    /// Its length, bytes.
    pub bytes: u64,
    /// The column family it belongs to, by name.
    pub family: String,
    /// Its level in the tree; 0 is the newest.
    pub level: i32,
}

/// Memory that the state database uses now. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryUse {
    /// All memtables, also those being flushed or pinned by readers.
    pub memtables_bytes: u64,
    /// Memtables that are not flushed yet.
    pub unflushed_bytes: u64,
    /// Table readers outside the block cache.
    pub readers_bytes: u64,
    /// The block cache, which all databases of the node share.
    pub block_cache_bytes: u64,
}

/// One open state database. Clones share it; it closes with the last of them and of its views.
#[derive(Clone)]
pub struct StateDb {
    inner: Arc<Inner>,
}

/// The database and whether it may still be used.
pub(super) struct Inner {
    database: DB,
    shared: Shared,
    /// The first failure, or that it was closed: every call after it repeats this.
    failed: OnceLock<KvError>,
}

impl HoldsDatabase for Inner {
    fn database(&self) -> &DB {
        &self.database
    }
}

impl Inner {
    pub(super) fn database(&self) -> &DB {
        &self.database
    }

    pub(super) fn family(&self, family: Family) -> &ColumnFamily {
        self.database.cf_handle(family.name()).expect("every family is opened with the database")
    }

    /// The first failure again, if there was one.
    pub(super) fn check(&self) -> Result<(), KvError> {
        match self.failed.get() {
            None => Ok(()),
            Some(failure) => Err(failure.clone()),
        }
    }

    /// Remembers a failure for all later calls and returns it.
    pub(super) fn fail(&self, attempted: &str, error: rocksdb::Error) -> KvError {
        let failure: KvError = StorageError::rocksdb(attempted, error).into();
        self.failed.get_or_init(|| failure.clone());
        failure
    }

    /// Fails if a flush or compaction failed behind our back, even if RocksDB would go on.
    fn check_background(&self) -> Result<(), KvError> {
        self.check()?;
        let attempted = "asking for background errors of the state";
        let errors = self
            .database
            .property_int_value(properties::BACKGROUND_ERRORS)
            .map_err(|error| self.fail(attempted, error))?;
        if errors == Some(0) {
            return Ok(());
        }
        let failure = KvError {
            attempted: "flushing or compacting the state in the background".to_owned(),
            cause: format!("RocksDB counts {errors:?} background errors; see its LOG file"),
            fault: StoreFault::Other,
        };
        self.failed.get_or_init(|| failure.clone());
        Err(failure)
    }
}

impl StateDb {
    /// A new, empty state in `directory`, which must be empty or absent.
    pub fn create(
        directory: &Path,
        shared: &Shared,
        options: &Options,
    ) -> Result<StateDb, StorageError> {
        if directory.join("CURRENT").exists() {
            return Err(StorageError::Exists { path: directory.to_owned() });
        }
        Self::start(directory, shared, options, true)
    }

    /// The state in `directory`, which must be there: `Missing`, `Corrupt` or another error if it
    /// cannot be opened whole.
    pub fn open(
        directory: &Path,
        shared: &Shared,
        options: &Options,
    ) -> Result<StateDb, StorageError> {
        // Looked at first because RocksDB would make the directory, and reports absence like damage.
        if !directory.join("CURRENT").exists() {
            return Err(StorageError::Missing { what: "state", path: directory.to_owned() });
        }
        Self::start(directory, shared, options, false)
    }

    /// What a checkpoint holds, without changing it: reading it needs no recovery, for it was made
    /// from a flushed state.
    pub fn read_checkpoint(
        directory: &Path,
        shared: &Shared,
        options: &Options,
    ) -> Result<StateDb, StorageError> {
        let settings = options::state_database(options, shared, false)?;
        let families = options::state_families(options, shared);
        let database = DB::open_cf_descriptors_read_only(&settings, directory, families, false)
            .map_err(|error| {
                let attempted = format!("reading the checkpoint in {}", directory.display());
                StorageError::rocksdb(attempted, error)
            })?;
        let inner = Inner { database, shared: shared.clone(), failed: OnceLock::new() };
        Ok(StateDb { inner: Arc::new(inner) })
    }

    fn start(
        directory: &Path,
        shared: &Shared,
        options: &Options,
        create: bool,
    ) -> Result<StateDb, StorageError> {
        let settings = options::state_database(options, shared, create)?;
        let families = options::state_families(options, shared);
        let verb = if create { "creating" } else { "opening" };
        let database =
            DB::open_cf_descriptors(&settings, directory, families).map_err(|error| {
                StorageError::rocksdb(format!("{verb} the state in {}", directory.display()), error)
            })?;
        if create {
            durable_file::sync_parent(directory)?;
        }
        let inner = Inner { database, shared: shared.clone(), failed: OnceLock::new() };
        Ok(StateDb { inner: Arc::new(inner) })
    }

    /// The state as it is now, unchanging, for serving reads.
    pub fn view(&self) -> Arc<dyn View> {
        Arc::new(SnapshotView::new(self.inner.clone(), Purpose::Serving))
    }

    /// The state as it is now, unchanging, for reading all of it once: digests, exports. Reads far
    /// ahead and keeps out of the block cache.
    pub fn view_for_sweep(&self) -> Arc<dyn View> {
        Arc::new(SnapshotView::new(self.inner.clone(), Purpose::Sweeping))
    }

    /// The newest data at each call, for apply.
    pub fn latest(&self) -> LatestView {
        LatestView::new(self.inner.clone())
    }

    /// Applies a batch at once. Readers see it on return; it is durable after the next flush.
    pub fn write(&self, batch: &Batch) -> Result<(), KvError> {
        self.inner.check_background()?;
        if batch.is_empty() {
            return Ok(());
        }
        // A dozen bytes of framing an operation, roughly, so that the buffer rarely grows.
        let capacity = batch.bytes() + 12 * batch.ops().len() + 12;
        let mut writes = WriteBatch::with_capacity_bytes(capacity);
        for op in batch.ops() {
            match op {
                Op::Put(family, key, value) => {
                    writes.put_cf(self.inner.family(*family), key, value);
                }
                Op::Delete(family, key) => writes.delete_cf(self.inner.family(*family), key),
                Op::SingleDelete(family, key) => {
                    writes.single_delete_cf(self.inner.family(*family), key);
                }
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        let attempted = "writing a batch to the state";
        self.pass(Point::StateBatchBegun, attempted)?;
        self.inner
            .database
            .write_opt(writes, &options)
            .map_err(|error| self.inner.fail(attempted, error))?;
        fault::point(Point::StateBatchWritten);
        Ok(())
    }

    /// Makes everything written before the call durable, all families at one point; waits for it.
    pub fn flush(&self) -> Result<(), KvError> {
        self.inner.check_background()?;
        let families: Vec<_> = Family::ALL.iter().map(|f| self.inner.family(*f)).collect();
        let families: Vec<_> = families.iter().collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let attempted = "flushing the state";
        self.pass(Point::StateFlushBegun, attempted)?;
        self.inner
            .database
            .flush_cfs_opt(&families, &options)
            .map_err(|error| self.inner.fail(attempted, error))?;
        fault::point(Point::StateFlushDone);
        Ok(())
    }

    /// Passes a failpoint; an error there is like one of RocksDB's.
    fn pass(&self, point: Point, attempted: &str) -> Result<(), KvError> {
        fault::fail(point).map_err(|error| {
            let failure = KvError::from(StorageError::io(attempted, error));
            self.inner.failed.get_or_init(|| failure.clone());
            failure
        })
    }

    /// The value a crash at this moment would leave: reads table files only, never memtables.
    pub fn get_persisted(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.check()?;
        let mut options = ReadOptions::default();
        // RocksDB skips the memtables in this tier once anything was written without a WAL. Before
        // that, in a database just opened, they are empty: there is no WAL to fill them from.
        options.set_read_tier(ReadTier::Persisted);
        self.inner
            .database
            .get_cf_opt(self.inner.family(family), key, &options)
            .map(|value| value.map(Bytes::from))
            .map_err(|error| self.inner.fail("reading a persisted key of the state", error))
    }

    /// A copy of the state as of some moment during the call, in the new directory `directory`, by
    /// hard links and durable on return. Flushes first; writers go on meanwhile.
    pub fn checkpoint(&self, directory: &Path) -> Result<(), StorageError> {
        self.inner.check_background().map_err(failed)?;
        if directory.exists() {
            return Err(StorageError::Exists { path: directory.to_owned() });
        }
        let attempted = || format!("making a checkpoint in {}", directory.display());
        let pass = |point| fault::fail(point).map_err(|error| StorageError::io(attempted(), error));
        pass(Point::SnapshotCheckpointBegun)?;
        Checkpoint::new(&self.inner.database)
            .and_then(|checkpoint| checkpoint.create_checkpoint(directory))
            .map_err(|error| StorageError::rocksdb(attempted(), error))?;
        pass(Point::SnapshotCheckpointMade)?;
        // Table files were synced when they were written; the few others are copies made just now.
        let entries = fs::read_dir(directory).map_err(StorageError::io_at("listing", directory))?;
        for entry in entries {
            let path = entry.map_err(StorageError::io_at("listing", directory))?.path();
            if path.extension().is_none_or(|extension| extension != "sst") {
                fs::File::open(&path)
                    .and_then(|file| file.sync_all())
                    .map_err(StorageError::io_at("syncing", &path))?;
            }
        }
        durable_file::sync_directory(directory)?;
        durable_file::sync_parent(directory)?;
        fault::point(Point::SnapshotCheckpointDone);
        Ok(())
    }

    /// Bytes of table files and memtables.
    pub fn approximate_bytes(&self) -> Result<u64, KvError> {
        self.inner.check()?;
        let mut bytes = 0;
        for family in Family::ALL {
            for property in [properties::LIVE_SST_FILES_SIZE, properties::CUR_SIZE_ALL_MEM_TABLES] {
                bytes += self
                    .inner
                    .database
                    .property_int_value_cf(self.inner.family(family), property)
                    .map_err(|error| self.inner.fail("measuring the state", error))?
                    .unwrap_or(0);
            }
        }
        Ok(bytes)
    }

    /// The table files the state consists of now, sorted by name.
    pub fn live_files(&self) -> Result<Vec<LiveFile>, KvError> {
        self.inner.check()?;
        let files = self
            .inner
            .database
            .live_files()
            .map_err(|error| self.inner.fail("listing the state's files", error))?;
        let mut files: Vec<LiveFile> = files
            .into_iter()
            .map(|file| LiveFile {
                name: file.name.trim_start_matches('/').to_owned(),
                bytes: file.size as u64,
                family: file.column_family_name,
                level: file.level,
            })
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }

    /// Memory in use.
    pub fn memory_use(&self) -> Result<MemoryUse, KvError> {
        self.inner.check()?;
        let stats = rocksdb::perf::get_memory_usage_stats(
            Some(&[&self.inner.database]),
            Some(&[self.inner.shared.block_cache()]),
        )
        .map_err(|error| self.inner.fail("measuring the state's memory", error))?;
        Ok(MemoryUse {
            memtables_bytes: stats.mem_table_total,
            unflushed_bytes: stats.mem_table_unflushed,
            readers_bytes: stats.mem_table_readers_total,
            block_cache_bytes: stats.cache_total,
        })
    }

    /// The database itself, for tests of what it does on its own.
    #[cfg(test)]
    pub(super) fn database_for_tests(&self) -> &DB {
        &self.inner.database
    }

    /// Flushes and ends all background work. Other clones and views get errors from now on; the
    /// files are closed when the last of them is dropped.
    pub fn close(self) -> Result<(), KvError> {
        let flushed = self.flush();
        self.discard();
        flushed
    }

    /// Ends all work without flushing: for a generation that a snapshot has replaced. Its directory
    /// may be deleted afterwards.
    pub fn discard(self) {
        let closed = KvError {
            attempted: "using the state".to_owned(),
            cause: "it was closed".to_owned(),
            fault: StoreFault::Closed,
        };
        self.inner.failed.get_or_init(|| closed);
        self.inner.database.cancel_all_background_work(true);
    }
}

fn failed(error: KvError) -> StorageError {
    let KvError { attempted, cause, fault } = error;
    match fault {
        StoreFault::Corrupt => StorageError::Corrupt { attempted, cause },
        StoreFault::DiskFull => StorageError::DiskFull { attempted, cause },
        StoreFault::Closed | StoreFault::Other => StorageError::Failed { attempted, cause },
    }
}
