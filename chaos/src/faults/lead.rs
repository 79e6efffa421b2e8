//! Deaths of a node that serves: while it leads, and while it drops its log.

use std::time::Instant;

use anyhow::{Result, bail};
use ratoon::demo::processes::LOOK_EVERY;

use super::stage::{PATIENCE, Stage, start_faulty, wait_for_death};

/// A leader dies at `place` while clients write; a write without an answer is repeated by the
/// client, and counts once.
pub async fn lead(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    stage.nodes[number].kill().await?;
    let node = &mut stage.nodes[number];
    let before = start_faulty(node, place)?;
    node.wait_until_ready(PATIENCE.as_secs()).await?;
    let id = stage.ids[number];
    stage
        .wait_for("that it leads", async |stage| {
            // It may have died already: then it will never lead.
            if stage.nodes[number].check().is_err() {
                return Some(());
            }
            let leader = stage.client.transfer_leader(id).await.ok()?;
            (leader == id).then_some(())
        })
        .await?;
    let until = Instant::now() + PATIENCE;
    while stage.nodes[number].check().is_ok() {
        stage.write_one().await?;
        if Instant::now() > until {
            bail!("it leads, takes writes and does not reach {place}");
        }
    }
    wait_for_death(&mut stage.nodes[number], place, before).await?;
    // The two that are left go on.
    stage.write_some().await?;
    stage.come_back(number).await?;
    Ok("came back, equal, no write lost".to_owned())
}

/// A node dies at `place` while it flushes its state and drops the log before it.
pub async fn compact(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    stage.nodes[number].kill().await?;
    let node = &mut stage.nodes[number];
    let before = start_faulty(node, place)?;
    let mut asked = None;
    // One that dies while it starts is judged below.
    if node.wait_until_ready(PATIENCE.as_secs()).await.is_ok() {
        stage.write_some().await?;
        let pinned = stage.pinned(&stage.nodes[number])?;
        // Asked until it dies, for it may not have applied yet what was written.
        asked = Some(tokio::spawn(async move {
            while pinned.compact_log().await.is_ok() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }));
    }
    wait_for_death(&mut stage.nodes[number], place, before).await?;
    asked.inspect(tokio::task::JoinHandle::abort);
    stage.come_back(number).await?;
    stage.pinned(&stage.nodes[number])?.compact_log().await?;
    Ok("came back, equal, compacts".to_owned())
}
