//! Storms of processes: kill -9 and SIGSTOP of one node, the leader, a majority, or all.

use anyhow::Result;

use super::Stage;
use crate::storm::net::Number;
use crate::storm::world::FOUNDERS;

/// What happens to processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// kill -9, and later a start.
    Kills,
    /// SIGSTOP, and later SIGCONT.
    Pauses,
}

/// Plays a story until its time is over.
pub async fn play(story: Story, stage: &mut Stage) -> Result<()> {
    while stage.goes_on() {
        stage.pause(1_000, 5_000).await?;
        let (targets, who) = draw_targets(stage, story).await?;
        let detail = format!("{who}: {targets:?}");
        match story {
            Story::Kills => kill(stage, &targets, &detail).await?,
            Story::Pauses => pause(stage, &targets, &detail).await?,
        }
    }
    Ok(())
}

/// Whom the next fault hits.
async fn draw_targets(stage: &mut Stage, story: Story) -> Result<(Vec<Number>, &'static str)> {
    let all: Vec<Number> = (1..=FOUNDERS).collect();
    Ok(match stage.random().below(10) {
        0..4 => (vec![stage.pick_founder()], "one"),
        4..7 => (vec![stage.world.leader().await?], "the leader"),
        7..9 => {
            let spared = stage.pick_founder();
            (all.into_iter().filter(|number| *number != spared).collect(), "a majority")
        }
        // With all standing still for a while, nothing is tested that a majority does not test.
        _ if story == Story::Pauses => (vec![stage.world.leader().await?], "the leader"),
        _ => (all, "all"),
    })
}

async fn kill(stage: &mut Stage, targets: &[Number], detail: &str) -> Result<()> {
    let fault = stage.world.timeline.begin("kill", detail);
    for number in targets {
        stage.world.kill(*number).await?;
    }
    stage.pause(200, 6_000).await?;
    stage.end_and_recover(fault).await
}

async fn pause(stage: &mut Stage, targets: &[Number], detail: &str) -> Result<()> {
    let fault = stage.world.timeline.begin("pause", detail);
    for number in targets {
        stage.world.pause(*number)?;
    }
    // Shorter and longer than an election's and a connection's time.
    stage.pause(300, 8_000).await?;
    stage.end_and_recover(fault).await
}
