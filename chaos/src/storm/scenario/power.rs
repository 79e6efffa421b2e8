//! Storms of power: nodes on a file system that forgets at a power loss what was not synced.
//!
//! Where FUSE is absent the storm says so and counts as incomplete.

use anyhow::Result;

use super::Stage;
use crate::storm::net::Number;
use crate::storm::timeline::FaultId;
use crate::storm::world::FOUNDERS;

/// What happens to power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// It fails for some of the nodes, in the middle of a transfer and beside one.
    Loss,
}

/// Plays a story until its time is over; a transfer that has begun is played to its end.
pub async fn play(story: Story, stage: &mut Stage) -> Result<()> {
    let Story::Loss = story;
    if !stage.missing.is_empty() {
        return Ok(());
    }
    while stage.goes_on() {
        let number = stage.world.join().await?;
        let began = stage.world.wait_for_pull(number, |pulled| pulled.is_pulling()).await?;
        let third = began.map_or(1, |pulled| pulled.newest.total_bytes / 3);
        while let Some(source) = next_moment(stage, number, third).await? {
            let (kind, victims) = draw(stage, number, source).await?;
            let fault = lose(stage, kind, &victims).await?;
            // The next one may strike as soon as bytes flow again.
            stage.world.wait_for_pull(number, |pulled| pulled.is_pulling()).await?;
            stage.world.leader().await?;
            stage.world.timeline.recovered(fault);
        }
        let fault = lose(stage, "power of the receiver, all there", &[number]).await?;
        stage.world.recover(fault).await?;
        stage.world.wait_until_joined(number).await?;
        let everybody: Vec<Number> = stage.world.nodes.keys().copied().collect();
        let fault = lose(stage, "power of all", &everybody).await?;
        stage.world.recover(fault).await?;
        stage.compare().await?;
        stage.world.remove(number).await?;
    }
    Ok(())
}

/// Waits until a random part more of the bytes is there; the source. None: all of them are.
async fn next_moment(stage: &mut Stage, number: Number, most: u64) -> Result<Option<Number>> {
    let Some(now) = stage.world.wait_for_pull(number, |pulled| pulled.is_pulling()).await? else {
        return Ok(None);
    };
    let target = now.newest.done_bytes + stage.random().between(1, most);
    let there =
        stage.world.wait_for_pull(number, |pulled| pulled.newest.done_bytes >= target).await?;
    let Some(there) = there else { return Ok(None) };
    Ok(stage.world.number_of(there.newest.source).or(Some(1)))
}

/// Whose power fails next.
async fn draw(
    stage: &mut Stage,
    receiver: Number,
    source: Number,
) -> Result<(&'static str, Vec<Number>)> {
    Ok(match stage.random().below(6) {
        0 | 1 => ("power of the receiver", vec![receiver]),
        2 => ("power of the source", vec![source]),
        3 => ("power of the leader", vec![stage.world.leader().await?]),
        4 => ("power of the receiver and the source", vec![receiver, source]),
        _ => ("power of all founders", (1..=FOUNDERS).collect()),
    })
}

/// The power of these nodes fails at once; it is back a while later.
async fn lose(stage: &mut Stage, kind: &str, victims: &[Number]) -> Result<FaultId> {
    let fault = stage.world.timeline.begin(kind, format!("{victims:?}"));
    // All processes are gone before any disk forgets.
    for number in victims {
        stage.world.kill(*number).await?;
    }
    for number in victims {
        stage.world.lose_power(*number)?;
    }
    stage.pause(200, 4_000).await?;
    for number in victims {
        stage.world.start_process(*number)?;
    }
    stage.world.timeline.end(fault);
    Ok(fault)
}
