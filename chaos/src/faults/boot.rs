//! Deaths at the start of a node, while it mends the end of its log.

use std::fs::OpenOptions;
use std::io::Write;

use anyhow::{Context, Result};

use super::stage::{Stage, files_ending, start_faulty, wait_for_death};

/// The beginning of a record of RocksDB's log that a power loss tore: a checksum that does not fit,
/// a length beyond the end, the type of a whole record, and some bytes.
const TORN: &[u8] = &[0xaa, 0xbb, 0xcc, 0xdd, 0xe8, 0x03, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// The log of a node that is down ends with a torn write, and the node dies at `place` while it
/// cuts that off.
pub async fn tear(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    stage.write_some().await?;
    stage.nodes[number].kill().await?;
    let node = &mut stage.nodes[number];
    let mut files = files_ending(&node.data().join("raft"), ".log");
    // Their names are numbers of six digits, so the last one by name is the newest.
    files.sort();
    let newest = files.last().context("the log has no file")?;
    OpenOptions::new().append(true).open(newest)?.write_all(TORN)?;
    let before = start_faulty(node, place)?;
    wait_for_death(node, place, before).await?;
    stage.come_back(number).await?;
    Ok("came back, equal".to_owned())
}
