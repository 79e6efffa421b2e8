//! Storms of failpoints: the node that joins dies at each step between the first byte it stages and
//! the removal of its old state, one step after the other, and goes on from its disk.
//!
//! Needs `ratoon-faulty`, the build that can be told to die at a step; where it does not lie beside
//! the program of the nodes, the storm says so and counts as incomplete.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Stage;
use crate::storm::net::Number;

/// The build that can be told to die.
const PROGRAM: &str = "ratoon-faulty";
/// What tells it where.
const VARIABLE: &str = "RATOON_FAULT";
/// Steps of the install path, by the beginnings of their names.
const STEPS: [&str; 5] = ["staging.", "prepare.", "install.", "current.", "log.reset."];
/// A step that is passed in every join, and at which a node must be started once more to pass those
/// of `AFTER_A_START`.
const BEFORE_A_START: &str = "install.plan.written";
/// Steps that only a start after a death passes, by words of their names.
const AFTER_A_START: [&str; 1] = ["redo"];
/// Steps passed only where staged data of an earlier pull is taken up.
const AFTER_A_KILL: [&str; 1] = ["reopened"];
/// How long a node may take to reach its step.
const REACH_SECONDS: u64 = 120;
/// Share of the steps that must be reached by a join.
const REACHED_PERCENT_MIN: usize = 70;

/// What happens at steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// kill -9 at each step of the install path.
    InstallKills,
}

/// Plays every step once at least, and goes on from the first until the time is over.
pub async fn play(story: Story, stage: &mut Stage) -> Result<()> {
    let Story::InstallKills = story;
    let program = stage.world.program().with_file_name(PROGRAM);
    if !program.is_file() {
        stage.missing.push(format!("{} is not there: `make faulty` builds it", program.display()));
        return Ok(());
    }
    let steps = steps_of(&program)?;
    ensure!(!steps.is_empty(), "{PROGRAM} names no step of the install path");
    let mut times = 1;
    loop {
        let mut unreached = Vec::new();
        for step in &steps {
            if times > 1 && !stage.goes_on() {
                return Ok(());
            }
            if !die_at(stage, &program, step, times).await? {
                unreached.push(step.as_str());
            }
        }
        let reached = steps.len() - unreached.len();
        let told = format!("{reached} of {} steps reached at time {times}", steps.len());
        stage.world.timeline.note(format!("{told}; not: {unreached:?}"));
        let enough = 100 * reached >= REACHED_PERCENT_MIN * steps.len();
        ensure!(times > 1 || enough, "{told}, which is too few: {unreached:?} were not");
        times += 1;
    }
}

/// The steps of the install path that the program knows.
fn steps_of(program: &Path) -> Result<Vec<String>> {
    let output = std::process::Command::new(program)
        .arg("--list-faults")
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    let is_wanted = |name: &&str| STEPS.iter().any(|begin| name.starts_with(begin));
    Ok(names.filter(is_wanted).map(str::to_owned).collect())
}

/// A node joins, dies when it passes `step` for the `times`th time, is started again without a
/// fault and must end equal. False: it joined without passing the step so often.
async fn die_at(stage: &mut Stage, program: &Path, step: &str, times: u64) -> Result<bool> {
    let number = stage.world.add().await?;
    let plan = |step: &str, times: u64| vec![(VARIABLE.to_owned(), format!("{step}:{times}"))];
    let is_after_start = AFTER_A_START.iter().any(|word| step.contains(word));
    let is_after_kill = AFTER_A_KILL.iter().any(|word| step.contains(word));
    let first = match (is_after_start, is_after_kill) {
        (true, _) => plan(BEFORE_A_START, 1),
        (_, true) => Vec::new(),
        _ => plan(step, times),
    };
    stage.world.node(number).process.runs_as(Some(program.to_owned()), first);
    stage.world.node(number).may_end = true;
    stage.world.enrol(number).await?;
    if is_after_kill {
        stage.world.wait_for_pull(number, |pulled| pulled.newest.done_bytes > 0).await?;
        stage.world.kill(number).await?;
    }
    if is_after_start && !dies(stage, number, 0).await? {
        stage.world.kill(number).await?;
    }
    let ends_before = if is_after_start { stage.world.node(number).ends } else { 0 };
    if is_after_start || is_after_kill {
        stage.world.node(number).process.runs_as(Some(program.to_owned()), plan(step, times));
        stage.world.start_process(number)?;
    }
    let died = dies(stage, number, ends_before).await?;
    if died {
        let fault = stage.world.timeline.begin("death at a step", format!("{step}, time {times}"));
        stage.world.watch.disturb();
        if stage.world.node(number).process.pid().is_none() {
            stage.world.node(number).process.runs_as(None, Vec::new());
            stage.world.start_process(number)?;
        }
        stage.world.node(number).may_end = false;
        stage.world.timeline.end(fault);
        stage.world.wait_until_joined(number).await?;
        stage.world.recover(fault).await?;
    } else {
        stage.world.timeline.note(format!("{step} was not passed {times} times"));
        stage.world.wait_until_joined(number).await?;
    }
    stage.compare().await?;
    stage.world.remove(number).await?;
    Ok(died)
}

/// Waits until a node has died once more than `ends_before`, or has joined without that.
async fn dies(stage: &mut Stage, number: Number, ends_before: u64) -> Result<bool> {
    let what = format!("that node {number} dies or joins");
    let id = stage.world.node(number).id;
    stage
        .world
        .wait_for(&what, REACH_SECONDS, async |world| {
            if world.node(number).ends > ends_before {
                return Ok(Some(true));
            }
            let Ok(status) = world.admin.status(false).await else { return Ok(None) };
            let voted = status.nodes.iter().any(|node| {
                node.id == id && node.reachable && node.matched_index > 0 && is_voter(node)
            });
            if voted {
                // Old files are removed a moment after.
                world.sleep(Duration::from_secs(2)).await?;
                return Ok(Some(world.node(number).ends > ends_before));
            }
            Ok(None)
        })
        .await
}

fn is_voter(node: &ratoon::proto::v1::NodeStatus) -> bool {
    use ratoon::proto::v1::NodeRole;
    matches!(node.role(), NodeRole::Follower | NodeRole::Leader)
}
