//! Storms of transfers: a node joins, what it pulls is disturbed in the way of the story until all
//! of it is there, its content is compared, and it leaves again; then the next one joins.

use std::time::Duration;

use anyhow::{Result, bail};
use ratoon::demo::proxy::Link;
use ratoon::limits::BULK_IDLE_TIMEOUT_MS;

use super::Stage;
use crate::storm::net::{Lane, Number};
use crate::storm::timeline::FaultId;
use crate::storm::world::{FOUNDERS, LOOK_EVERY};

/// How a transfer is disturbed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// Cuts at random bytes.
    Cuts,
    /// More than a hundred cuts in one transfer.
    HundredCuts,
    /// A narrow link, cut every five seconds.
    Narrow,
    /// A cut at every multiple of 5 %.
    EveryFivePercent,
    /// kill -9 of the receiver.
    KillReceiver,
    /// kill -9 of the source.
    KillSource,
    /// Other leaders.
    LeaderChanges,
    /// Three receivers at once.
    Joiners,
}

/// A cut that surely kills the connection.
const CUT_MS: u64 = BULK_IDLE_TIMEOUT_MS + 500;
/// Most cuts of one transfer of `cuts`.
const CUTS_OF_ONE_MAX: u64 = 12;
/// `hundred-cuts` lets this part of the bytes pass between two cuts; a little more passes each time
/// before the next cut is prepared.
const CUTS: u64 = 220;
/// 1 Mbit/s.
const NARROW_BYTES_PER_SECOND: u64 = 125_000;
/// A narrow link is up for so long between two cuts.
const NARROW_UP: Duration = Duration::from_secs(5);

/// Plays a story until its time is over; a transfer that has begun is played to its end.
pub async fn play(story: Story, stage: &mut Stage) -> Result<()> {
    while stage.goes_on() {
        if story == Story::Joiners {
            several(stage).await?;
            continue;
        }
        let number = stage.world.join().await?;
        if story == Story::Narrow {
            narrow(stage, number);
        }
        disturb(story, stage, number).await?;
        stage.world.net.heal();
        stage.world.wait_until_joined(number).await?;
        stage.compare().await?;
        stage.world.remove(number).await?;
    }
    Ok(())
}

async fn disturb(story: Story, stage: &mut Stage, number: Number) -> Result<()> {
    let Some(first) = stage.world.wait_for_pull(number, |pulled| pulled.is_pulling()).await? else {
        stage.world.timeline.note(format!("node {number} had all before it was disturbed"));
        return Ok(());
    };
    let total = first.newest.total_bytes;
    match story {
        Story::Cuts => cuts(stage, number, total).await,
        Story::HundredCuts => {
            while cut_after(stage, number, total / CUTS, CUT_MS, &[Lane::Bulk]).await? {}
            Ok(())
        }
        Story::Narrow => narrow_cuts(stage, number).await,
        Story::EveryFivePercent => every_five_percent(stage, number, total).await,
        Story::KillReceiver => kill_receiver(stage, number, total).await,
        Story::KillSource => kill_source(stage, number, total).await,
        Story::LeaderChanges => leader_changes(stage, number, total).await,
        Story::Joiners => bail!("several receivers are disturbed together"),
    }
}

async fn cuts(stage: &mut Stage, number: Number, total: u64) -> Result<()> {
    for _ in 0..stage.random().between(4, CUTS_OF_ONE_MAX) {
        let bytes = stage.random().magnitude(10_000, total / 5);
        // Some are too short for the connection to notice.
        let hold_ms = match stage.random().below(4) {
            0 => stage.random().between(100, BULK_IDLE_TIMEOUT_MS),
            _ => stage.random().between(CUT_MS, 2 * CUT_MS),
        };
        let lanes = match stage.random().below(2) {
            0 => &Lane::BOTH[..],
            _ => &[Lane::Bulk],
        };
        if !cut_after(stage, number, bytes, hold_ms, lanes).await? {
            break;
        }
    }
    Ok(())
}

/// Lets so many bytes more reach a receiver, cuts off the lanes for a time, and waits until bytes
/// flow again. False: the receiver has all, nothing was cut.
async fn cut_after(
    stage: &mut Stage,
    number: Number,
    bytes: u64,
    hold_ms: u64,
    lanes: &[Lane],
) -> Result<bool> {
    let others = others(stage, number);
    for from in &others {
        let link = stage.world.net.link(*from, number, Lane::Bulk);
        let cutting = Link { cut_after_bytes: Some(bytes), ..link };
        stage.world.net.set(*from, number, Lane::Bulk, cutting);
    }
    let mut looks: u64 = 0;
    loop {
        if others.iter().any(|from| stage.world.net.link(*from, number, Lane::Bulk).cut) {
            break;
        }
        // The link is looked at often, because it cuts itself; the receiver less often.
        if looks.is_multiple_of(10) && stage.world.has_all(number).await? {
            stage.world.net.change_node(number, &Lane::BOTH, mend);
            return Ok(false);
        }
        looks += 1;
        tokio::time::sleep(LOOK_EVERY / 5).await;
    }
    let what = format!("node {number} after {bytes} bytes, {} for {hold_ms} ms", told(lanes));
    let fault = stage.world.timeline.begin("cut", what);
    stage.world.watch.disturb();
    stage.world.net.change_node(number, lanes, |link| link.cut = true);
    stage.world.sleep(Duration::from_millis(hold_ms)).await?;
    // What was on its way when the link was cut has arrived by now.
    let received = stage.world.pulled(number).await?.map_or(0, |pulled| pulled.received_bytes);
    stage.world.net.change_node(number, &Lane::BOTH, mend);
    stage.world.timeline.end(fault);
    flows_again(stage, number, received, fault).await?;
    Ok(true)
}

fn told(lanes: &[Lane]) -> &'static str {
    if lanes.len() == 1 { "bulk lane" } else { "both lanes" }
}

fn mend(link: &mut Link) {
    link.cut = false;
    link.cut_after_bytes = None;
}

fn others(stage: &Stage, number: Number) -> Vec<Number> {
    stage.world.net.numbers().into_iter().filter(|other| *other != number).collect()
}

/// Waits until a receiver gets bytes again, or has all.
async fn flows_again(
    stage: &mut Stage,
    number: Number,
    received: u64,
    fault: FaultId,
) -> Result<()> {
    stage.world.wait_for_pull(number, |pulled| pulled.received_bytes > received).await?;
    stage.world.timeline.recovered(fault);
    Ok(())
}

/// Makes every link to and from a node narrow.
fn narrow(stage: &mut Stage, number: Number) {
    let rate = NARROW_BYTES_PER_SECOND;
    stage.world.net.change_node(number, &Lane::BOTH, |link| link.bytes_per_second = rate);
}

async fn narrow_cuts(stage: &mut Stage, number: Number) -> Result<()> {
    loop {
        stage.world.sleep(NARROW_UP).await?;
        if stage.world.has_all(number).await? {
            return Ok(());
        }
        let done = stage.world.pulled(number).await?.map_or(0, |pulled| pulled.newest.done_bytes);
        let fault = stage.world.timeline.begin("cut", format!("node {number} at {done} bytes"));
        stage.world.watch.disturb();
        stage.world.net.change_node(number, &Lane::BOTH, |link| link.cut = true);
        stage.world.sleep(Duration::from_millis(CUT_MS)).await?;
        stage.world.net.change_node(number, &Lane::BOTH, mend);
        stage.world.timeline.end(fault);
    }
}

async fn every_five_percent(stage: &mut Stage, number: Number, total: u64) -> Result<()> {
    for step in 1..20 {
        let Some(pulled) = stage.world.wait_for_pull(number, |_| true).await? else { break };
        let target = total * step / 20;
        let Some(bytes) = target.checked_sub(pulled.newest.done_bytes) else { continue };
        if !cut_after(stage, number, bytes, CUT_MS, &[Lane::Bulk]).await? {
            break;
        }
    }
    Ok(())
}

/// Waits until a random part more of the bytes is there. None: all of them are.
async fn next_moment(
    stage: &mut Stage,
    number: Number,
    total: u64,
) -> Result<Option<ratoon::demo::pull::Pulled>> {
    let Some(now) = stage.world.wait_for_pull(number, |pulled| pulled.is_pulling()).await? else {
        return Ok(None);
    };
    let target = now.newest.done_bytes + stage.random().between(1, total / 3);
    let is_there = |pulled: &ratoon::demo::pull::Pulled| pulled.newest.done_bytes >= target;
    stage.world.wait_for_pull(number, is_there).await
}

async fn kill_receiver(stage: &mut Stage, number: Number, total: u64) -> Result<()> {
    while let Some(pulled) = next_moment(stage, number, total).await? {
        let done = pulled.newest.done_bytes;
        kill_and_start(stage, number, "kill receiver", format!("at {done} bytes")).await?;
    }
    // Once more while it verifies and installs.
    kill_and_start(stage, number, "kill receiver", "with all bytes there".to_owned()).await
}

/// kill -9; the node is back after a while. Waits until it tells of its pull again.
async fn kill_and_start(
    stage: &mut Stage,
    number: Number,
    kind: &str,
    detail: String,
) -> Result<()> {
    let fault = stage.world.timeline.begin(kind, format!("node {number} {detail}"));
    stage.world.kill(number).await?;
    stage.pause(100, 3_000).await?;
    stage.world.start_process(number)?;
    stage.world.timeline.end(fault);
    stage.world.wait_for_pull(number, |pulled| pulled.is_pulling()).await?;
    stage.world.timeline.recovered(fault);
    Ok(())
}

async fn kill_source(stage: &mut Stage, number: Number, total: u64) -> Result<()> {
    while let Some(pulled) = next_moment(stage, number, total).await? {
        let Some(source) = stage.world.number_of(pulled.newest.source) else { continue };
        let done = pulled.newest.done_bytes;
        let what = format!("node {source} at {done} bytes");
        let fault = stage.world.timeline.begin("kill source", what);
        stage.world.kill(source).await?;
        stage.pause(500, 8_000).await?;
        stage.world.start_process(source)?;
        stage.world.timeline.end(fault);
        flows_again(stage, number, pulled.received_bytes, fault).await?;
    }
    Ok(())
}

async fn leader_changes(stage: &mut Stage, number: Number, total: u64) -> Result<()> {
    while next_moment(stage, number, total).await?.is_some() {
        let leader = stage.world.leader().await?;
        let voters: Vec<Number> = (1..=FOUNDERS).filter(|other| *other != leader).collect();
        let next = *stage.random().pick(&voters);
        match stage.random().below(3) {
            0 => {
                let what = format!("node {leader} is killed");
                let fault = stage.world.timeline.begin("leader killed", what);
                stage.world.kill(leader).await?;
                stage.pause(1_000, 6_000).await?;
                stage.end_and_recover(fault).await?;
            }
            1 => {
                let what = format!("node {leader} stands still");
                let fault = stage.world.timeline.begin("leader paused", what);
                stage.world.pause(leader)?;
                stage.pause(1_500, 5_000).await?;
                stage.end_and_recover(fault).await?;
            }
            _ => {
                let what = format!("from node {leader} to node {next}");
                let fault = stage.world.timeline.begin("leader handed over", what);
                stage.world.watch.disturb();
                stage.world.make_leader(next).await?;
                stage.world.timeline.end(fault);
                stage.world.timeline.recovered(fault);
            }
        }
    }
    Ok(())
}

/// Three nodes join at once, and each is cut off and killed.
async fn several(stage: &mut Stage) -> Result<()> {
    let mut numbers = Vec::new();
    for _ in 0..3 {
        numbers.push(stage.world.join().await?);
    }
    loop {
        let mut pulling = Vec::new();
        for number in &numbers {
            if !stage.world.has_all(*number).await? {
                pulling.push(*number);
            }
        }
        if pulling.is_empty() {
            break;
        }
        stage.pause(500, 3_000).await?;
        let number = *stage.random().pick(&pulling);
        if stage.random().chance(500) {
            let fault = stage.world.timeline.begin("cut", format!("node {number}, both lanes"));
            stage.world.watch.disturb();
            stage.world.net.change_node(number, &Lane::BOTH, |link| link.cut = true);
            stage.pause(CUT_MS, 2 * CUT_MS).await?;
            stage.world.net.change_node(number, &Lane::BOTH, mend);
            stage.world.timeline.end(fault);
        } else {
            let fault = stage.world.timeline.begin("kill receiver", format!("node {number}"));
            stage.world.kill(number).await?;
            stage.pause(100, 3_000).await?;
            stage.world.start_process(number)?;
            stage.world.timeline.end(fault);
        }
    }
    for number in &numbers {
        stage.world.wait_until_joined(*number).await?;
    }
    stage.compare().await?;
    for number in numbers {
        stage.world.remove(number).await?;
    }
    Ok(())
}
