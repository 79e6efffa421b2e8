//! Processes that write, report what they wrote, and are killed in the middle of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the directory that a child writes to.
const DIRECTORY: &str = "RATOON_POWER_TEST_DIRECTORY";

/// In the child: where to write. None if it was not started by `kill_after`.
pub fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// Runs the ignored test `story` in a process of its own and kills it once it has printed `reports`
/// lines of the form "what index". Returns the last index of each.
pub fn kill_after(story: &str, directory: &Path, reports: u64) -> BTreeMap<String, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", story, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut last = BTreeMap::new();
    let mut count = 0;
    // What it said before it died counts, whether it was read before or after the kill.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((what, index)) = line.split_once(' ') else { continue };
        let Ok(index) = index.parse() else { continue };
        last.insert(what.to_owned(), index);
        count += 1;
        if count == reports {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(status.code().is_none(), "it ended by itself: {status}");
    last
}
