//! Deaths of a node that makes a snapshot of its own state.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ratoon::types::SnapshotId;

use super::pulls::flip_bit;
use super::stage::{PATIENCE, Stage, files_ending, start_faulty, wait_for_death};

/// A node dies at `place` while it builds a snapshot, comes back, and builds one.
pub async fn build(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    // It has older ones, so that the newest makes the oldest go.
    let pinned = stage.pinned(&stage.nodes[number])?;
    while pinned.list_snapshots().await?.len() < 2 {
        stage.write_one().await?;
        pinned.create_snapshot().await?;
    }
    stage.write_some().await?;
    stage.nodes[number].kill().await?;
    let node = &mut stage.nodes[number];
    let before = start_faulty(node, place)?;
    let mut asked = None;
    // One that dies while it starts is judged below.
    if node.wait_until_ready(PATIENCE.as_secs()).await.is_ok() {
        let pinned = stage.pinned(&stage.nodes[number])?;
        // It may die before it answers: nobody waits for that.
        asked = Some(tokio::spawn(async move { pinned.create_snapshot().await }));
    }
    wait_for_death(&mut stage.nodes[number], place, before).await?;
    asked.inspect(tokio::task::JoinHandle::abort);
    stage.come_back(number).await?;
    let pinned = stage.pinned(&stage.nodes[number])?;
    let made = pinned.create_snapshot().await?;
    let id: SnapshotId = made.id.parse().map_err(anyhow::Error::msg)?;
    let verdict = pinned.verify_snapshot(id).await?;
    ensure!(verdict.ok, "the next snapshot is bad: {:?}", verdict.problems);
    let left = leftovers(stage, number)?;
    ensure!(left.is_empty(), "it left behind {left:?}");
    Ok("came back, equal, builds again".to_owned())
}

/// A stored snapshot rots while its node is down, and the node dies while it moves that aside.
pub async fn rot(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    stage.pinned(&stage.nodes[number])?.create_snapshot().await?;
    stage.nodes[number].kill().await?;
    let node = &mut stage.nodes[number];
    let (aside, served) = manifests(node.data());
    flip_bit(served.first().context("no snapshot was stored")?, 40)?;
    let before = start_faulty(node, place)?;
    wait_for_death(node, place, before).await?;
    stage.come_back(number).await?;
    let (now_aside, _) = manifests(stage.nodes[number].data());
    ensure!(now_aside.len() == aside.len() + 1, "it was not moved aside: {now_aside:?}");
    Ok("came back, equal, moved aside".to_owned())
}

/// The manifests of the snapshots that were moved aside, and of those that are served.
fn manifests(data: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let all = files_ending(&data.join("snapshots"), "manifest");
    all.into_iter().partition(|path| path.to_string_lossy().contains("/damaged-"))
}

/// Names in the store of snapshots that only a build or a removal under way may have.
fn leftovers(stage: &Stage, number: usize) -> Result<Vec<String>> {
    let directory = stage.nodes[number].data().join("snapshots");
    let names = std::fs::read_dir(directory)?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names
        .filter(|name| name.starts_with("building-") || name.starts_with("removing-"))
        .collect())
}
