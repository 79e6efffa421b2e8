//! Tests of the room: the same stories for RocksDB and its twins, and what only a disk can do wrong.

#![allow(clippy::unwrap_used)]

mod fuzz;
mod install;
mod log;
mod state;
mod wal;

use std::fs;
use std::path::Path;

use bytes::Bytes;
use rocksdb::DB;
use slog::{Discard, Logger, o};

use super::{Options, Shared};
use crate::raft::{HardState, LogEntry, LogWrite};

pub fn options() -> Options {
    Options::small()
}

pub fn shared() -> Shared {
    Shared::new(&options(), Logger::root(Discard, o!()))
}

/// What a kill of an open database leaves, in `to`: the files as they are at one moment.
pub fn kill(database: &DB, from: &Path, to: &Path) {
    // Copying takes longer than a moment: no file may come or go meanwhile.
    database.cancel_all_background_work(true);
    copy_directory(from, to);
}

pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Entries `from ..= to` of one term, `bytes` long each.
pub fn entries(from: u64, to: u64, term: u64, bytes: usize) -> LogWrite {
    let entries = (from..=to)
        .map(|index| LogEntry { index, term, bytes: Bytes::from(filler(index ^ term, bytes)) })
        .collect();
    LogWrite { entries, hard_state: None }
}

/// Bytes that look random and repeat nowhere, so that nothing else looks like them.
pub fn filler(seed: u64, bytes: usize) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            (word >> 32) as u8
        })
        .collect()
}

pub fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit }
}
