//! Fuzz target: the end of a write-ahead log.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;

use super::*;
use crate::fuzz::{Target, Verdict, bounded};
use crate::raft::{HardState, LogEntry, LogStart, LogWrite};
use crate::storage::RaftLog;
use crate::storage::tests::{options, shared};

/// The write-ahead log that RocksDB writes for entries of these sizes, one write each.
fn wal(sizes: &[usize]) -> Vec<u8> {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("raft");
    let start = LogStart { index: 0, term: 0 };
    let hard_state = HardState { term: 1, vote: 0, commit: 0 };
    let log = RaftLog::create(&path, &shared(), &options(), start, hard_state).unwrap();
    for (index, size) in (1..).zip(sizes) {
        let entry = LogEntry { index, term: 1, bytes: Bytes::from(vec![b'x'; *size]) };
        log.write(&[LogWrite { entries: vec![entry], hard_state: None }]).unwrap();
    }
    fs::read(wal_files(&path).unwrap().pop().unwrap()).unwrap()
}

#[test]
fn write_ahead_logs() {
    let examples = vec![
        ("small", wal(&[5, 0, 100])),
        ("one", wal(&[1])),
        // A record over the boundary of a block, and one after it.
        ("blocks", wal(&[BLOCK_BYTES, 9])),
    ];
    Target::new("wal", examples).run(|input| {
        let whole = bounded(input, || scan(input));
        let Some(tail) = whole.tail else { return Verdict::Accepted };
        assert!(tail.begin <= tail.bad && tail.bad <= input.len());
        // What a repair would keep is whole, and ends with the same write.
        let kept = scan(&input[..tail.begin]);
        assert!(kept.tail.is_none());
        assert_eq!(kept.sequence, whole.sequence);
        if let Some(at) = later_write(input, &tail, whole.sequence) {
            assert!(at > tail.bad && fragment(input, at).is_ok());
        }
        Verdict::Refused
    });
}
