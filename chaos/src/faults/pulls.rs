//! Deaths on the way of a snapshot into a follower that the log cannot help.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ratoon::demo::processes::NodeProcess;

use super::stage::{Stage, files_ending, settings, start_faulty, wait_for_death};

/// Bytes a second of a pull that is to be caught in the middle of a part.
const SLOW: u64 = 256 * 1024;
/// How much of it is to be there.
const BEGUN_BYTES: u64 = 600 * 1024;

/// A follower dies at `place` while it pulls, prepares or installs.
pub async fn pull(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    stage.nodes[number].kill().await?;
    die_behind(stage, number, place).await?;
    stage.come_back(number).await?;
    Ok("came back, equal".to_owned())
}

/// It dies after its plan was written, and again at `place` while the plan is carried out at its
/// start.
pub async fn redo(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    stage.nodes[number].kill().await?;
    die_behind(stage, number, "install.plan.written").await?;
    let node = &mut stage.nodes[number];
    let before = start_faulty(node, place)?;
    wait_for_death(node, place, before).await?;
    stage.come_back(number).await?;
    Ok("came back after two deaths, equal".to_owned())
}

/// What it pulled whole rots while it is down, so that it is pulled anew in part.
pub async fn reopen(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    stage.nodes[number].kill().await?;
    die_behind(stage, number, "staging.published").await?;
    let node = &mut stage.nodes[number];
    let parts = files_ending(&node.data().join("incoming"), ".sst");
    flip_bit(parts.first().context("nothing was staged")?, 1000)?;
    let before = start_faulty(node, place)?;
    wait_for_death(node, place, before).await?;
    stage.come_back(number).await?;
    Ok("came back, equal".to_owned())
}

/// A follower that has snapshots of its own takes from them what the new one shares with them.
pub async fn reuse(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    // Its files are those of the node that leads now, once it was installed from there.
    stage.nodes[number].kill().await?;
    stage.leave_behind(number).await?;
    stage.come_back(number).await?;
    stage.pinned(&stage.nodes[number])?.create_snapshot().await?;
    stage.nodes[number].kill().await?;
    die_behind(stage, number, place).await?;
    stage.come_back(number).await?;
    Ok("came back, equal".to_owned())
}

/// A node that has nothing pulls slowly from a source that loses its snapshots. Of the next one that
/// it is offered it takes over the part that it has begun: all nodes share the file that was
/// written first.
pub async fn adopt(stage: &mut Stage, place: &str) -> Result<String> {
    let leader = stage.leader().await?;
    let mut node = stage.joiner(true).await?;
    // The source is slow, not the receiver, for whom everything might be on its way already.
    stage.pinned(&stage.nodes[leader])?.limit_transfers(SLOW).await?;
    let before = start_faulty(&mut node, place)?;
    stage
        .wait_for("that the pull has begun a part", async |stage| {
            let pinned = stage.pinned(&node).ok()?.with_timeout(Duration::from_secs(2));
            let pulls = pinned.list_transfers().await.ok()?;
            pulls.iter().any(|pull| pull.done_bytes > BEGUN_BYTES).then_some(())
        })
        .await?;
    let source = &mut stage.nodes[leader];
    source.kill().await?;
    std::fs::remove_dir_all(source.data().join("snapshots"))?;
    source.start()?;
    wait_for_death(&mut node, place, before).await?;
    node.runs_as(None, Vec::new());
    node.set(&settings(&[]));
    node.start()?;
    node.wait_until_ready(super::stage::PATIENCE.as_secs()).await?;
    stage.check(Some(&mut node)).await?;
    leave(stage, node).await?;
    Ok("came back, equal".to_owned())
}

/// Takes a node out of the cluster again, with all it had.
pub async fn leave(stage: &mut Stage, mut node: NodeProcess) -> Result<()> {
    node.kill().await?;
    for id in stage.ids_of(&node).await? {
        stage.client.remove_node(id).await?;
    }
    std::fs::remove_dir_all(node.data())?;
    stage.wait_for_voters().await
}

/// Leaves the node that is down behind, and lets it die at `place` when it catches up.
async fn die_behind(stage: &mut Stage, number: usize, place: &str) -> Result<()> {
    stage.leave_behind(number).await?;
    let node = &mut stage.nodes[number];
    let before = start_faulty(node, place)?;
    wait_for_death(node, place, before).await
}

/// Flips one bit, as a disk might.
pub fn flip_bit(path: &Path, offset: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset)?;
    Ok(())
}
