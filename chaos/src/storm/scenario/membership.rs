//! Storms of membership: nodes come and go, lose their disks, fall behind the log; and everything
//! at once.

use std::time::Duration;

use anyhow::Result;

use super::{LONG, Stage, network, write_ballast};
use crate::storm::net::{Lane, Number};
use crate::storm::world::FOUNDERS;

/// What happens to members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// Nodes are added and removed.
    Members,
    /// A node loses its disk.
    Wipe,
    /// The log is compacted while a node is away.
    Compaction,
    /// All of it.
    Everything,
}

/// Content written while a node is away: more than the log keeps.
const AWAY_BYTES: u64 = 12 << 20;
/// Where the numbers of records written while a node is away begin.
pub const AWAY_FIRST: u64 = 1_000_000;

/// Plays a story until its time is over.
pub async fn play(story: Story, stage: &mut Stage) -> Result<()> {
    let mut next_record = AWAY_FIRST;
    // A node that lost its disk is replaced, so that the voters beside the first change.
    let mut voters: Vec<Number> = (2..=FOUNDERS).collect();
    while stage.goes_on() {
        match story {
            Story::Members => members(stage).await?,
            Story::Wipe => wipe(stage, &mut voters).await?,
            Story::Compaction => next_record = compaction(stage, next_record).await?,
            Story::Everything => everything(stage).await?,
        }
    }
    Ok(())
}

/// One or two nodes join under a random kill; leadership goes to one of them and back; they leave.
async fn members(stage: &mut Stage) -> Result<()> {
    let count = stage.random().between(1, 2);
    let mut joined = Vec::new();
    for _ in 0..count {
        joined.push(stage.world.join().await?);
    }
    let victim = stage.pick_founder();
    let fault = stage.world.timeline.begin("kill", format!("node {victim} while nodes join"));
    stage.world.kill(victim).await?;
    stage.pause(500, 5_000).await?;
    stage.end_and_recover(fault).await?;
    for number in &joined {
        stage.world.wait_until_joined(*number).await?;
    }
    let heir = *stage.random().pick(&joined);
    let fault = stage.world.timeline.begin("leader handed over", format!("to node {heir}"));
    stage.world.make_leader(heir).await?;
    stage.world.timeline.end(fault);
    stage.world.recover(fault).await?;
    stage.compare().await?;
    stage.pause(500, 3_000).await?;
    for number in joined {
        stage.world.remove(number).await?;
    }
    Ok(())
}

/// A voter is killed and its disk is gone; it is removed, and another takes its place.
async fn wipe(stage: &mut Stage, voters: &mut [Number]) -> Result<()> {
    stage.pause(1_000, 4_000).await?;
    let place = stage.random().below(voters.len() as u64) as usize;
    let victim = voters[place];
    let fault = stage.world.timeline.begin("wipe", format!("node {victim} loses its disk"));
    stage.world.kill(victim).await?;
    stage.pause(500, 3_000).await?;
    stage.world.remove(victim).await?;
    let heir = stage.world.join().await?;
    stage.world.timeline.end(fault);
    voters[place] = heir;
    stage.world.wait_until_joined(heir).await?;
    stage.world.recover(fault).await?;
    stage.compare().await
}

/// A node is cut off or down while more is written than the log keeps, and the log is compacted.
async fn compaction(stage: &mut Stage, first: u64) -> Result<u64> {
    stage.pause(500, 3_000).await?;
    let away = stage.pick_founder();
    if stage.world.leader().await? == away {
        let next = away % FOUNDERS + 1;
        stage.world.make_leader(next).await?;
    }
    let is_killed = stage.random().chance(500);
    let kind = if is_killed { "away, killed" } else { "away, cut off" };
    let fault = stage.world.timeline.begin(kind, format!("node {away}"));
    if is_killed {
        stage.world.kill(away).await?;
    } else {
        stage.world.watch.disturb();
        stage.world.net.change_node(away, &Lane::BOTH, |link| link.cut = true);
    }
    let next = leave_behind(stage, away, first).await?;
    stage.end_and_recover(fault).await?;
    stage.compare().await?;
    Ok(next)
}

/// Writes more than the log keeps and compacts it, so that who is `away` needs a snapshot. Answers
/// the number after that of the last record.
pub async fn leave_behind(stage: &mut Stage, away: Number, first: u64) -> Result<u64> {
    let next = write_ballast(&mut stage.world, first, AWAY_BYTES).await?;
    for number in (1..=FOUNDERS).filter(|number| *number != away) {
        let client = stage.world.node(number).client.with_timeout(LONG);
        client.create_snapshot().await?;
        client.compact_log().await?;
    }
    Ok(next)
}

/// A node joins, and while it does several faults strike, some at once.
async fn everything(stage: &mut Stage) -> Result<()> {
    let number = stage.world.join().await?;
    for _ in 0..stage.random().between(2, 5) {
        stage.pause(500, 3_000).await?;
        let first = strike(stage, number).await?;
        stage.pause(300, 2_000).await?;
        let second =
            if stage.random().chance(500) { Some(strike(stage, number).await?) } else { None };
        stage.pause(1_000, 8_000).await?;
        stage.world.repair()?;
        for fault in [Some(first), second].into_iter().flatten() {
            stage.world.timeline.end(fault);
        }
        stage.world.recover(first).await?;
    }
    stage.world.wait_until_joined(number).await?;
    stage.compare().await?;
    stage.world.remove(number).await
}

/// One fault of any sort.
async fn strike(stage: &mut Stage, joiner: Number) -> Result<crate::storm::timeline::FaultId> {
    let running = stage.world.running();
    let victim = match stage.random().below(3) {
        0 => joiner,
        _ => *stage.random().pick(&running),
    };
    let can_be_hit = running.contains(&victim);
    let world = &mut stage.world;
    Ok(match world.random.below(5) {
        0 if can_be_hit => {
            let fault = world.timeline.begin("kill", format!("node {victim}"));
            world.kill(victim).await?;
            fault
        }
        1 if can_be_hit => {
            let fault = world.timeline.begin("pause", format!("node {victim}"));
            world.pause(victim)?;
            fault
        }
        2 => {
            let fault = world.timeline.begin("partition", format!("node {victim}"));
            world.watch.disturb();
            world.net.change_node(victim, &Lane::BOTH, |link| link.cut = true);
            fault
        }
        3 => {
            let mut order = world.net.numbers();
            network::shuffle(&mut order, &mut world.random);
            let fault =
                world.timeline.begin("one way", format!("from node {} to {}", order[0], order[1]));
            world.watch.disturb();
            for lane in Lane::BOTH {
                let mut link = world.net.link(order[0], order[1], lane);
                link.cut = true;
                world.net.set(order[0], order[1], lane, link);
            }
            fault
        }
        _ => {
            let fault = world.timeline.begin("lossy", format!("node {victim}"));
            world.watch.disturb();
            world.net.change_node(victim, &Lane::BOTH, |link| {
                link.loss = 0.1;
                link.delay = Duration::from_millis(20);
                link.jitter = Duration::from_millis(20);
            });
            fault
        }
    })
}
