//! Damaged WAL files: what RocksDB makes of them alone, and what the raft log does.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::DB;
use tempfile::TempDir;

use super::{copy_directory, entries, hard_state, kill, options, shared};
use crate::raft::{LogStart, LogStore};
use crate::storage::options::raft_database;
use crate::storage::raft_log::RaftLog;
use crate::storage::{Remedy, StorageError};

const BLOCK: usize = 32 * 1024;

/// A log that was killed, and its last WAL.
struct Killed {
    root: TempDir,
    /// Where each write's record ends in the WAL.
    ends: Vec<usize>,
}

impl Killed {
    /// After one write of one entry of each size.
    fn after(sizes: &[usize]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("running");
        let start = LogStart { index: 0, term: 0 };
        let log = RaftLog::create(&path, &shared(), &options(), start, hard_state(1, 0, 0));
        let log = log.unwrap();
        let mut ends = Vec::new();
        for (index, size) in (1..).zip(sizes) {
            log.write(&[entries(index, index, 1, *size)]).unwrap();
            ends.push(fs::metadata(wal(&path)).unwrap().len() as usize);
        }
        kill(log.database_for_tests(), &path, &root.path().join("killed"));
        Killed { root, ends }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("killed")
    }

    fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let path = wal(&self.path());
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    }

    fn forget_witness(&self) {
        fs::remove_file(self.path().join("WITNESS")).unwrap();
    }

    /// Last index that RocksDB alone finds, in a copy.
    fn rocksdb_alone(&self) -> Result<u64, rocksdb::Error> {
        let copy = self.root.path().join("alone");
        copy_directory(&self.path(), &copy);
        let settings = raft_database(&options(), &shared(), false).unwrap();
        let result = DB::open(&settings, &copy).map(|database| {
            let mut iterator = database.raw_iterator();
            iterator.seek_for_prev("f");
            let key = iterator.key().unwrap_or(&[0; 9]);
            u64::from_be_bytes(key[1..].try_into().unwrap())
        });
        fs::remove_dir_all(copy).unwrap();
        result
    }

    /// Last index that the raft log finds.
    fn open(&self) -> Result<u64, StorageError> {
        RaftLog::open(&self.path(), &shared(), &options()).map(|(log, _)| log.last_index())
    }

    #[track_caller]
    fn refuses(&self) {
        let before = fs::read(wal(&self.path())).unwrap();
        let error = self.open().unwrap_err();
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
        assert_eq!(error.remedy(), Remedy::Halt);
        let after = fs::read(wal(&self.path())).unwrap();
        assert!(before == after, "a corrupt WAL must be left as it is");
    }
}

/// The newest WAL of a RocksDB directory.
fn wal(directory: &Path) -> PathBuf {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max()
        .unwrap()
}

/// Offset of the length in the header of the record that begins at `at`.
const LENGTH: usize = 4;

#[test]
fn a_sound_log_opens_and_recycles_nothing() {
    let killed = Killed::after(&[100; 10]);
    assert_eq!(killed.rocksdb_alone().unwrap(), 10);
    assert_eq!(killed.open().unwrap(), 10);
    assert_eq!(killed.open().unwrap(), 10);
}

#[test]
fn a_flipped_byte_far_from_the_end_refuses_to_open() {
    let killed = Killed::after(&[200_000; 20]);
    let length = *killed.ends.last().unwrap();
    for before_end in [64 * 1024, 1024 * 1024, length - 3 * BLOCK] {
        killed.damage(|bytes| bytes[length - before_end] ^= 0x40);
        assert!(killed.rocksdb_alone().is_err());
        killed.refuses();
        killed.damage(|bytes| bytes[length - before_end] ^= 0x40);
    }
    assert_eq!(killed.open().unwrap(), 20);
}

#[test]
fn a_flipped_byte_before_the_last_write_refuses_to_open() {
    let killed = Killed::after(&[1000; 10]);
    for record in 0..9 {
        let at = killed.ends[record] - 500;
        killed.damage(|bytes| bytes[at] ^= 1);
        killed.refuses();
        killed.damage(|bytes| bytes[at] ^= 1);
    }
    assert_eq!(killed.open().unwrap(), 10);
}

/// RocksDB alone loses acknowledged writes here: it takes a bad length in the last, partial block
/// for the end.
#[test]
fn a_bad_length_in_the_last_block_is_no_clean_end() {
    let killed = Killed::after(&[1000; 10]);
    let third = killed.ends[2];
    killed.damage(|bytes| bytes[third + LENGTH + 1] = 0x7f);
    assert_eq!(killed.rocksdb_alone().unwrap(), 3, "RocksDB has changed: revise wal_check.rs");
    killed.forget_witness();
    killed.refuses();
}

/// One flipped bit makes the first record a 'recyclable' one of another log, and RocksDB alone
/// drops the whole file.
#[test]
fn a_first_record_of_a_wrong_type_is_no_empty_log() {
    let killed = Killed::after(&[1000; 10]);
    killed.damage(|bytes| bytes[6] ^= 4);
    assert_eq!(killed.rocksdb_alone().unwrap(), 0, "RocksDB has changed: revise wal_check.rs");
    killed.forget_witness();
    killed.refuses();
}

/// RocksDB alone refuses to open here: a power loss of all nodes would stop the cluster.
#[test]
fn a_torn_tail_with_a_bad_checksum_is_cut_off() {
    // The last write spans blocks; a page in its middle never reached the disk.
    let killed = Killed::after(&[1000, 1000, 200_000]);
    killed.forget_witness();
    let torn = killed.ends[1] + 70_000;
    killed.damage(|bytes| bytes[torn..torn + 4096].fill(0));
    assert!(killed.rocksdb_alone().is_err(), "RocksDB has changed: revise wal_check.rs");
    assert_eq!(killed.open().unwrap(), 2);
    assert!(fs::metadata(killed.path().join("TORN")).unwrap().len() > 190_000);
    // And it goes on from there.
    let (log, _) = RaftLog::open(&killed.path(), &shared(), &options()).unwrap();
    log.write(&[entries(3, 4, 2, 100)]).unwrap();
    drop(log);
    assert_eq!(killed.open().unwrap(), 4);
}

#[test]
fn a_write_cut_off_at_any_byte_is_forgotten_whole() {
    let killed = Killed::after(&[1000, 1000, 40_000]);
    killed.forget_witness();
    let (begin, end) = (killed.ends[1], killed.ends[2]);
    let whole = fs::read(wal(&killed.path())).unwrap();
    let path = wal(&killed.path());
    for cut in (begin..end).step_by(4999).chain([begin + 1, begin + 6, begin + 7, end - 1]) {
        fs::write(&path, &whole[..cut]).unwrap();
        let repaired = crate::storage::wal_check::check_and_repair(&killed.path(), None).unwrap();
        assert_eq!(repaired.is_some(), cut > begin, "cut at {cut}");
        assert_eq!(fs::metadata(&path).unwrap().len() as usize, begin);
        assert_eq!(killed.rocksdb_alone().unwrap(), 2);
    }
}

#[test]
fn zeros_after_the_end_are_cut_off() {
    let killed = Killed::after(&[1000, 1000]);
    killed.damage(|bytes| bytes.extend([0; 100_000]));
    assert_eq!(killed.open().unwrap(), 2);
}

/// The last record is sound up to the moment it rots; only the witness can tell.
#[test]
fn damage_to_the_very_last_write_is_told_from_a_torn_one_by_the_witness() {
    let killed = Killed::after(&[1000; 3]);
    let last = killed.ends[2] - 500;
    killed.damage(|bytes| bytes[last] ^= 1);
    killed.refuses();
    killed.refuses();

    // A power loss that took the witness's last note with it leaves a torn write like any other.
    let killed = Killed::after(&[1000; 3]);
    killed.forget_witness();
    let last = killed.ends[2] - 500;
    killed.damage(|bytes| bytes[last] ^= 1);
    assert_eq!(killed.open().unwrap(), 2);
}

#[test]
fn a_damaged_only_write_of_a_file_is_noticed_by_the_witness_too() {
    // No record before it says where the log had got to, so this one is cut off first; the table
    // files then end before the witness.
    let killed = Killed::after(&[1000]);
    drop(RaftLog::open(&killed.path(), &shared(), &options()).unwrap());
    let (log, _) = RaftLog::open(&killed.path(), &shared(), &options()).unwrap();
    log.write(&[entries(2, 2, 1, 1000)]).unwrap();
    drop(log);
    killed.damage(|bytes| bytes[500] ^= 1);
    for _ in 0..2 {
        let error = killed.open().unwrap_err();
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
    }
    assert!(killed.path().join("TORN").exists());
}

#[test]
fn a_missing_wal_is_noticed() {
    let killed = Killed::after(&[1000; 3]);
    fs::remove_file(wal(&killed.path())).unwrap();
    let error = killed.open().unwrap_err();
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
}

#[test]
fn wal_files_stay_bounded_and_every_one_of_them_is_checked() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("raft");
    let start = LogStart { index: 0, term: 0 };
    let log = RaftLog::create(&path, &shared(), &options(), start, hard_state(1, 0, 0)).unwrap();
    let mut most = 0;
    for index in 1..=400 {
        log.write(&[entries(index, index, 1, 100_000)]).unwrap();
        let size: u64 = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "log"))
            .map(|entry| entry.metadata().map_or(0, |metadata| metadata.len()))
            .sum();
        most = most.max(size);
    }
    // 40 MB were written through 4 MiB memtables, of which at most four wait.
    assert!(most < 25_000_000, "{most} bytes of WAL");
    drop(log);
    let (log, _) = RaftLog::open(&path, &shared(), &options()).unwrap();
    assert_eq!(log.last_index(), 400);
    assert_eq!(log.entries(1, 401, u64::MAX).unwrap(), entries(1, 400, 1, 100_000).entries);
}
