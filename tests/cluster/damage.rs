//! Damage to files of a node: one flipped bit where a disk might flip one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Flips one bit of the byte at `offset`.
pub fn flip_bit(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).expect("the file opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the byte is there");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).expect("the byte is written");
}

/// Gives a file an inode of its own, so that damage to it reaches no other name.
pub fn break_hard_link(path: &Path) {
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).expect("the file is copied");
    fs::rename(&copy, path).expect("the copy takes its place");
}

/// The files below a directory whose names end so, largest first.
pub fn files_ending(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(directory).sort_by_file_name();
    let mut found: Vec<(u64, PathBuf)> = walk
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(ending))
        .filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.into_path())))
        .collect();
    found.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    found.into_iter().map(|(_, path)| path).collect()
}
