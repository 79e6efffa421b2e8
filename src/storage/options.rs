//! How much memory the databases of a node may use, and how RocksDB is set up for each of them.
//!
//! All RocksDB tuning of the project is in this file. No compaction filter, ever: with the state's
//! write-ahead log off, a crash takes the state back but not what a filter removed.

use std::sync::Arc;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType,
    DBRecoveryMode, DEFAULT_COLUMN_FAMILY_NAME, LogLevel, SliceTransform, WriteBufferManager,
};
use slog::Logger;

use super::StorageError;
use crate::kv::Family;
use crate::limits::{GIB, KIB, MIB};

/// Sizes of caches and buffers, and background effort.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Unflushed writes of all state databases together; at 7/8 of it a flush begins. Bytes.
    pub memtable_bytes: usize,
    /// Blocks of table files kept in memory, for all databases together. Bytes.
    pub block_cache_bytes: usize,
    /// Raft log entries kept in memory before they move to table files. Bytes.
    pub raft_memtable_bytes: usize,
    /// Flushes and compactions at work at once in one database.
    pub background_jobs: i32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            memtable_bytes: 128 * MIB,
            block_cache_bytes: 256 * MIB,
            raft_memtable_bytes: 64 * MIB,
            background_jobs: 2,
        }
    }
}

impl Options {
    /// Small sizes for tests and many nodes on one machine.
    pub fn small() -> Self {
        Options {
            memtable_bytes: 8 * MIB,
            block_cache_bytes: 8 * MIB,
            raft_memtable_bytes: 4 * MIB,
            background_jobs: 1,
        }
    }
}

/// What all databases of one node share: one block cache, one account of unflushed writes, and the
/// logger. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    inner: Arc<SharedInner>,
}

struct SharedInner {
    block_cache: Cache,
    write_buffers: WriteBufferManager,
    logger: Logger,
}

impl Shared {
    /// To be called once a node.
    pub fn new(options: &Options, logger: Logger) -> Self {
        let inner = SharedInner {
            block_cache: Cache::new_lru_cache(options.block_cache_bytes),
            // Never stalls writers: the raft log would wait for the state's flush.
            write_buffers: WriteBufferManager::new_write_buffer_manager(
                options.memtable_bytes,
                false,
            ),
            logger,
        };
        Shared { inner: Arc::new(inner) }
    }

    /// Bytes of the block cache in use.
    pub fn block_cache_used_bytes(&self) -> u64 {
        self.inner.block_cache.get_usage() as u64
    }

    /// Bytes of unflushed writes of all state databases.
    pub fn memtable_used_bytes(&self) -> u64 {
        self.inner.write_buffers.get_usage() as u64
    }

    pub(super) fn block_cache(&self) -> &Cache {
        &self.inner.block_cache
    }

    pub(super) fn logger(&self) -> &Logger {
        &self.inner.logger
    }
}

/// Entries of the raft log's WAL are in memtables too, so this bounds replay at boot.
const RAFT_WAL_BYTES_MAX: u64 = GIB as u64 / 4;

/// Options of the state database as a whole. `create` decides whether it must be absent or present.
pub(super) fn state_database(
    options: &Options,
    shared: &Shared,
    create: bool,
) -> Result<rocksdb::Options, StorageError> {
    let mut database = common(options, create)?;
    // All families move to disk at one point of the batch order, or none does: without a WAL that
    // is what makes the state after a crash a state that once was.
    database.set_atomic_flush(true);
    database.set_write_buffer_manager(&shared.inner.write_buffers);
    database.set_bytes_per_sync(MIB as u64);
    Ok(database)
}

/// One descriptor a family, plus the default one that RocksDB insists on and nobody writes.
pub(super) fn state_families(options: &Options, shared: &Shared) -> Vec<ColumnFamilyDescriptor> {
    let mut descriptors: Vec<_> = Family::ALL
        .iter()
        .map(|family| {
            let mut settings = state_family(options, shared);
            if *family == Family::Records {
                settings.set_prefix_extractor(all_but_version());
            }
            ColumnFamilyDescriptor::new(family.name(), settings)
        })
        .collect();
    descriptors.push(ColumnFamilyDescriptor::new(
        DEFAULT_COLUMN_FAMILY_NAME,
        state_family(options, shared),
    ));
    descriptors
}

/// Bytes of the version at the end of every key of `Family::Records`.
const VERSION_BYTES: usize = 8;

/// A key without its version: all versions of a record share one bloom filter entry.
fn all_but_version() -> SliceTransform {
    SliceTransform::create(
        // The name is stored in every table file and must not change while the function is the same.
        "ratoon.all_but_version",
        |key| &key[..key.len().saturating_sub(VERSION_BYTES)],
        Some(|key| key.len() >= VERSION_BYTES),
    )
}

fn state_family(options: &Options, shared: &Shared) -> rocksdb::Options {
    let mut family = rocksdb::Options::default();
    // The shared account flushes first; one family may use most of it alone.
    family.set_write_buffer_size(options.memtable_bytes.max(MIB));
    family.set_max_write_buffer_number(4);
    family.set_block_based_table_factory(&tables(shared, true));
    family.set_target_file_size_base(64 * MIB as u64);
    family.set_max_bytes_for_level_base(256 * MIB as u64);
    family.set_level_compaction_dynamic_level_bytes(true);
    family.set_compression_per_level(&[
        DBCompressionType::None,
        DBCompressionType::None,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
    ]);
    family.set_bottommost_compression_type(DBCompressionType::Zstd);
    family
}

/// Options of the raft log's database.
///
/// One column family: a second one would flush at its own pace and keep WAL files alive. Recycling
/// of WAL files is off because it cannot go together with the recovery mode: old bytes beyond the
/// end of a recycled file look just like damage.
pub(super) fn raft_database(
    options: &Options,
    shared: &Shared,
    create: bool,
) -> Result<rocksdb::Options, StorageError> {
    let mut database = common(options, create)?;
    database.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    database.set_recycle_log_file_num(0);
    database.set_max_total_wal_size(RAFT_WAL_BYTES_MAX);
    database.set_write_buffer_size(options.raft_memtable_bytes.max(MIB));
    database.set_max_write_buffer_number(4);
    database.set_block_based_table_factory(&tables(shared, false));
    database.set_target_file_size_base(64 * MIB as u64);
    database.set_level_compaction_dynamic_level_bytes(true);
    database.set_compression_type(DBCompressionType::None);
    Ok(database)
}

fn common(options: &Options, create: bool) -> Result<rocksdb::Options, StorageError> {
    // Settings the bindings have no methods for. The first: an error in the background is never
    // forgiven silently; every later write fails. The second: dropping a database without `close`
    // writes nothing more, just like a crash.
    let hidden = "max_bgerror_resume_count=0;avoid_flush_during_shutdown=true";
    let mut database = rocksdb::Options::default()
        .get_options_from_string(hidden)
        .map_err(|error| StorageError::rocksdb("setting RocksDB's options", error))?;
    database.create_if_missing(create);
    database.create_missing_column_families(create);
    database.set_error_if_exists(create);
    database.set_paranoid_checks(true);
    database.set_max_background_jobs(options.background_jobs);
    // All files stay open, so that a replaced generation stays readable while it is being deleted.
    database.set_max_open_files(-1);
    database.set_skip_stats_update_on_db_open(true);
    database.set_stats_dump_period_sec(0);
    database.set_log_level(LogLevel::Warn);
    database.set_max_log_file_size(MIB);
    database.set_keep_log_file_num(2);
    Ok(database)
}

fn tables(shared: &Shared, filters: bool) -> BlockBasedOptions {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&shared.inner.block_cache);
    tables.set_block_size(16 * KIB);
    tables.set_format_version(6);
    tables.set_index_type(BlockBasedIndexType::BinarySearch);
    // Indexes and filters live in the cache, so that the cache's size bounds them too.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_cache_index_and_filter_blocks_with_high_priority(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if filters {
        tables.set_bloom_filter(10.0, false);
        tables.set_whole_key_filtering(true);
    }
    tables
}
