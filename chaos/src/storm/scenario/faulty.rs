//! Storms of failpoints: the node that joins dies at each step between the first byte it stages and
//! the removal of its old state, one step after the other, and goes on from its disk.
//!
//! Needs `ratoon-faulty`, the build that can be told to die at a step; where it does not lie beside
//! the program of the nodes, the storm says so and counts as incomplete.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Stage, membership};
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
/// Steps that only a node passes which has a state already, and a snapshot takes its place.
const AFTER_A_STATE: [&str; 1] = ["install.old"];
/// A node that votes for so long without dying passes its step no more.
const AFTERWARDS: Duration = Duration::from_secs(8);
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

/// A node dies when it passes `step` for the `times`th time, is started again without a fault and
/// must end equal. False: it joined without passing the step so often.
async fn die_at(stage: &mut Stage, program: &Path, step: &str, times: u64) -> Result<bool> {
    let number = stage.world.add().await?;
    let ends_before = reach(stage, number, program, step, times).await?;
    let died = dies(stage, number, ends_before).await?;
    let told = format!("{step}, time {times}");
    if died {
        let fault = stage.world.timeline.begin("death at a step", told);
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
        stage.world.timeline.note(format!("not passed: {told}"));
        stage.world.wait_until_joined(number).await?;
    }
    stage.compare().await?;
    stage.world.remove(number).await?;
    Ok(died)
}

/// Brings a node to where it will pass `step`, with the order to die there; how often it has died on
/// the way.
async fn reach(
    stage: &mut Stage,
    number: Number,
    program: &Path,
    step: &str,
    times: u64,
) -> Result<u64> {
    let plan = |step: &str, times: u64| vec![(VARIABLE.to_owned(), format!("{step}:{times}"))];
    let has = |words: &[&str]| words.iter().any(|word| step.contains(word));
    let first = if has(&AFTER_A_START) {
        plan(BEFORE_A_START, 1)
    } else if has(&AFTER_A_KILL) || has(&AFTER_A_STATE) {
        Vec::new()
    } else {
        plan(step, times)
    };
    let is_straight = first.first().is_some_and(|(_, told)| told.starts_with(step));
    stage.world.node(number).process.runs_as(Some(program.to_owned()), first);
    stage.world.node(number).may_end = true;
    stage.world.enrol(number).await?;
    if is_straight {
        return Ok(0);
    }
    if has(&AFTER_A_START) {
        dies(stage, number, 0).await?;
    } else if has(&AFTER_A_KILL) {
        stage.world.wait_for_pull(number, |pulled| pulled.newest.done_bytes > 0).await?;
    } else {
        stage.world.wait_until_joined(number).await?;
    }
    let before = stage.world.node(number).ends;
    stage.world.kill(number).await?;
    if has(&AFTER_A_STATE) {
        // The same records each time: what counts is the log.
        membership::leave_behind(stage, number, membership::AWAY_FIRST).await?;
    }
    stage.world.node(number).process.runs_as(Some(program.to_owned()), plan(step, times));
    stage.world.start_process(number)?;
    Ok(before)
}

/// Waits until a node has died once more than `ends_before`, or has all for some time without that.
async fn dies(stage: &mut Stage, number: Number, ends_before: u64) -> Result<bool> {
    let what = format!("that node {number} dies or joins");
    let mut joined: Option<Instant> = None;
    stage
        .world
        .wait_for(&what, REACH_SECONDS, async |world| {
            if world.node(number).ends > ends_before {
                return Ok(Some(true));
            }
            if !world.is_voter(number).await {
                joined = None;
            } else if joined.get_or_insert_with(Instant::now).elapsed() > AFTERWARDS {
                return Ok(Some(false));
            }
            Ok(None)
        })
        .await
}
