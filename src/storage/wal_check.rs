//! Reads the raft log's WAL files before RocksDB does, tells a torn tail from corruption, and cuts
//! a torn tail off.
//!
//! Why: RocksDB's recovery mode `TolerateCorruptedTailRecords` is the strictest one that survives a
//! crash, and still does two wrong things at the end of a WAL (both are shown by tests):
//!
//! - A record in the last, partial 32 KiB block whose *length* is damaged reads as a clean end:
//!   that record and all after it, acknowledged ones too, vanish in silence. So does everything
//!   from a first record on whose type turned into a 'recyclable' one.
//! - A record that was torn by a power loss (its pages reached the disk in part) has a bad checksum
//!   and makes RocksDB refuse to open. A power loss of all nodes at once could stop the cluster.
//!
//! The rule. Every write to this log is one record and is synced before the next one begins. So
//! after a crash at most the last record is incomplete, and it was never acknowledged.
//!
//! 1. Every WAL file but the last must consist of whole records. Otherwise: corrupt.
//! 2. In the last file, the first record that is not whole begins the tail. If any later place in
//!    the tail holds a whole first fragment of a later write, the damaged record had been synced:
//!    corrupt.
//! 3. Otherwise the tail is torn. It is copied to the file `TORN`, then cut off.
//!
//! What the rule cannot see is damage to the very last synced record: it looks like a torn one. The
//! witness (`witness` below) covers that as well as anything can without a second fsync: beside the
//! WAL, the sequence number of the last synced write is noted without a sync. After a kill it is
//! there; after a power loss it is the truth or older. A log that ends before it is corrupt.
//!
//! Never repairs anything else, and never changes a file that it finds corrupt.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use super::{StorageError, durable_file};
use crate::fault::{self, Point};
use crate::limits::RAFT_WAL_FILE_BYTES_MAX;

/// WAL files consist of blocks of this size, so does RocksDB's log format since ever.
const BLOCK_BYTES: usize = 32 * 1024;
/// CRC32C (4, masked), length (2), type (1).
const HEADER_BYTES: usize = 7;
/// Sequence number (8) and count (4) before the operations of a write batch.
const BATCH_HEADER_BYTES: usize = 12;
/// A later write found in a tail carries a sequence number at most this much ahead: the operations
/// of the torn record lie between. Keeps stray bytes inside values from looking like records.
const SEQUENCE_AHEAD_MAX: u64 = 1 << 24;
/// Where a torn tail is kept for people to look at.
const TORN_FILE: &str = "TORN";

/// A torn tail that was cut off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TailRepair {
    /// The WAL file.
    pub path: PathBuf,
    /// Where the last whole record ends: the file's new length.
    pub kept_bytes: u64,
    /// Bytes cut off.
    pub cut_bytes: u64,
}

/// Checks all WAL files in `directory` and cuts a torn tail off the last one. `witness` is the
/// last write that is known to have been synced.
pub fn check_and_repair(
    directory: &Path,
    witness: Option<u64>,
) -> Result<Option<TailRepair>, StorageError> {
    let files = wal_files(directory)?;
    let Some((last, earlier)) = files.split_last() else { return Ok(None) };
    let mut sequence = None;
    for path in earlier {
        let scan = scan(&read(path)?);
        if let Some(tail) = scan.tail {
            return Err(corrupt(path, &tail, "and it is not the last file"));
        }
        sequence = sequence.max(scan.sequence);
    }
    let bytes = read(last)?;
    let scan = scan(&bytes);
    sequence = sequence.max(scan.sequence);
    let Some(tail) = scan.tail else { return Ok(None) };
    if tail.impossible {
        return Err(corrupt(last, &tail, "and whole fragments follow in an impossible order"));
    }
    if let Some(at) = later_write(&bytes, &tail, sequence) {
        return Err(corrupt(last, &tail, &format!("and a later write begins at byte {at}")));
    }
    // Without a whole record to compare with, the caller compares once the database is open.
    if let (Some(witness), Some(found)) = (witness, sequence)
        && witness > found
    {
        let evidence = format!("write {found} is the last before it, and {witness} was synced");
        return Err(corrupt(last, &tail, &evidence));
    }
    repair(directory, last, &bytes, tail.begin).map(Some)
}

fn repair(
    directory: &Path,
    path: &Path,
    bytes: &[u8],
    keep: usize,
) -> Result<TailRepair, StorageError> {
    durable_file::replace(&directory.join(TORN_FILE), &bytes[keep..], Point::LogTailStaged)?;
    fault::fail(Point::LogTailKept)
        .and_then(|()| OpenOptions::new().write(true).open(path))
        .and_then(|file| {
            file.set_len(keep as u64)?;
            file.sync_all()
        })
        .map_err(StorageError::io_at("cutting a torn tail off", path))?;
    fault::point(Point::LogTailCut);
    Ok(TailRepair {
        path: path.to_owned(),
        kept_bytes: keep as u64,
        cut_bytes: (bytes.len() - keep) as u64,
    })
}

fn corrupt(path: &Path, tail: &Tail, evidence: &str) -> StorageError {
    let Tail { begin, problem, .. } = tail;
    StorageError::corrupt(
        format!("checking the raft log's {}", path.display()),
        format!("the record at byte {begin} is damaged ({problem}), {evidence}"),
    )
}

/// WAL files of a RocksDB directory, oldest first: digits and `.log`.
fn wal_files(directory: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut files = Vec::new();
    let entries = fs::read_dir(directory).map_err(StorageError::io_at("listing", directory))?;
    for entry in entries {
        let path = entry.map_err(StorageError::io_at("listing", directory))?.path();
        let number = path
            .extension()
            .is_some_and(|extension| extension == "log")
            .then(|| path.file_stem()?.to_str()?.parse::<u64>().ok())
            .flatten();
        files.extend(number.map(|number| (number, path)));
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// RocksDB reads the same bytes right after, so holding them costs no IO.
fn read(path: &Path) -> Result<Vec<u8>, StorageError> {
    let length = fs::metadata(path).map_err(StorageError::io_at("measuring", path))?.len();
    if length > RAFT_WAL_FILE_BYTES_MAX {
        let attempted = format!("checking the raft log's {}", path.display());
        return Err(StorageError::corrupt(attempted, format!("{length} bytes are too many")));
    }
    fs::read(path).map_err(StorageError::io_at("reading", path))
}

/// What a WAL file consists of.
#[derive(Debug, Default)]
struct Scan {
    /// Sequence number of the last operation of the last whole record, if there is one.
    sequence: Option<u64>,
    /// What is not a whole record, if anything.
    tail: Option<Tail>,
}

/// The end of a file that is no whole record.
#[derive(Debug)]
struct Tail {
    /// Where its record begins, bytes.
    begin: usize,
    /// Where the first bad fragment begins, bytes.
    bad: usize,
    /// What is wrong with it.
    problem: &'static str,
    /// No crash leaves this: intact fragments that do not belong together.
    impossible: bool,
}

fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let mut at = 0;
    // Where the record under way begins, and the start of its batch.
    let mut open: Option<(usize, Vec<u8>)> = None;
    while at < bytes.len() {
        let block_left = BLOCK_BYTES - at % BLOCK_BYTES;
        if block_left < HEADER_BYTES {
            at += block_left;
            continue;
        }
        let begin = open.as_ref().map_or(at, |(begin, _)| *begin);
        let bad = |problem, impossible| Some(Tail { begin, bad: at, problem, impossible });
        let (kind, payload) = match fragment(bytes, at) {
            Ok(fragment) => fragment,
            Err(problem) => {
                scan.tail = bad(problem, false);
                return scan;
            }
        };
        match (kind, &mut open) {
            (Kind::Note, None) => {}
            (Kind::Full, None) => scan.finish(payload),
            (Kind::First, None) => open = Some((at, batch_header(payload).to_vec())),
            (Kind::Middle, Some((_, header))) => extend(header, payload),
            (Kind::Last, Some((_, header))) => {
                extend(header, payload);
                let header = std::mem::take(header);
                open = None;
                scan.finish(&header);
            }
            _ => {
                scan.tail = bad("a fragment of another record", true);
                return scan;
            }
        }
        at += HEADER_BYTES + payload.len();
    }
    if let Some((begin, _)) = open {
        scan.tail = Some(Tail { begin, bad: bytes.len(), problem: "cut off", impossible: false });
    }
    scan
}

impl Scan {
    /// A whole record that begins with `payload` was read.
    fn finish(&mut self, payload: &[u8]) {
        if let Some((sequence, count)) = parse_batch_header(payload) {
            self.sequence = Some(sequence.saturating_add(u64::from(count)).saturating_sub(1));
        }
    }
}

fn batch_header(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(BATCH_HEADER_BYTES)]
}

/// A first fragment may be too short for the whole header of its batch.
fn extend(header: &mut Vec<u8>, payload: &[u8]) {
    let missing = BATCH_HEADER_BYTES.saturating_sub(header.len());
    header.extend_from_slice(&payload[..payload.len().min(missing)]);
}

fn parse_batch_header(payload: &[u8]) -> Option<(u64, u32)> {
    let (sequence, rest) = payload.split_first_chunk::<8>()?;
    let (count, _) = rest.split_first_chunk::<4>()?;
    Some((u64::from_le_bytes(*sequence), u32::from_le_bytes(*count)))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Full,
    First,
    Middle,
    Last,
    /// RocksDB's notes to itself; no data.
    Note,
}

/// The fragment that begins at `at`, if it is whole and its checksum holds.
fn fragment(bytes: &[u8], at: usize) -> Result<(Kind, &[u8]), &'static str> {
    let Some((header, rest)) = bytes[at..].split_first_chunk::<HEADER_BYTES>() else {
        return Err("its header is cut off");
    };
    let [c0, c1, c2, c3, l0, l1, kind] = *header;
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    let kind = match kind {
        1 => Kind::Full,
        2 => Kind::First,
        3 => Kind::Middle,
        4 => Kind::Last,
        // Compression, timestamp sizes, predecessor. The recyclable types are never written here.
        9 | 10 | 130 => Kind::Note,
        _ => return Err("its type is unknown"),
    };
    if HEADER_BYTES + length > BLOCK_BYTES - at % BLOCK_BYTES {
        return Err("it is longer than its block");
    }
    let Some(payload) = rest.get(..length) else { return Err("it is cut off") };
    let stored = unmask(u32::from_le_bytes([c0, c1, c2, c3]));
    let computed = crc32c::crc32c_append(crc32c::crc32c(&[header[6]]), payload);
    if stored != computed {
        return Err("its checksum does not hold");
    }
    Ok((kind, payload))
}

/// RocksDB stores CRCs masked, so that a CRC over bytes with CRCs in them stays a good one.
fn unmask(masked: u32) -> u32 {
    masked.wrapping_sub(0xa282_ead8).rotate_right(17)
}

/// Where, behind a damaged record, a later write begins. Lengths in the tail cannot be trusted, so
/// every byte is tried.
fn later_write(bytes: &[u8], tail: &Tail, sequence: Option<u64>) -> Option<usize> {
    (tail.bad + 1..bytes.len()).find(|at| {
        // Cheap test first: the tail may be long, and most bytes begin nothing.
        let first_or_full = matches!(bytes.get(at + 6), Some(1 | 2));
        first_or_full && fragment(bytes, *at).is_ok_and(|(_, payload)| is_later(payload, sequence))
    })
}

fn is_later(payload: &[u8], last: Option<u64>) -> bool {
    match (parse_batch_header(payload), last) {
        (Some((sequence, _)), Some(last)) => {
            sequence > last && sequence - last <= SEQUENCE_AHEAD_MAX
        }
        // Without a whole record before it, or too short to tell: the safe answer is to refuse.
        (Some(_), None) => true,
        (None, _) => !payload.is_empty(),
    }
}

/// The witness: which write was synced last, noted beside the WAL without a sync of its own.
pub mod witness {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::codec::frame;

    const WITNESS_FILE: &str = "WITNESS";
    const PLACE: &[u8] = b"witness";
    const VERSION: u8 = 1;
    const BYTES_MAX: usize = 64;

    /// Notes the sequence number of each synced write.
    pub struct Witness {
        file: File,
        path: PathBuf,
    }

    impl Witness {
        /// Opens the witness in `directory`, made if absent; also the last note. No note at all
        /// and one that a crash damaged count alike: there is nothing to compare with.
        pub fn open(directory: &Path) -> Result<(Witness, Option<u64>), StorageError> {
            let path = directory.join(WITNESS_FILE);
            let noted = durable_file::read(&path, BYTES_MAX)?
                .and_then(|bytes| frame::open_integers::<1>(VERSION, PLACE, &bytes).ok())
                .map(|[sequence]| sequence);
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(StorageError::io_at("opening", &path))?;
            Ok((Witness { file, path }, noted))
        }

        /// Notes that the write with `sequence` is synced.
        pub fn note(&self, sequence: u64) -> Result<(), StorageError> {
            self.file
                .write_all_at(&frame::seal_integers(VERSION, PLACE, [sequence]), 0)
                .map_err(StorageError::io_at("writing", &self.path))
        }
    }
}

#[cfg(test)]
mod fuzz;
