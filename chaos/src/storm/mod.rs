//! Storms: clusters of real processes on real disks and sockets, under faults from a seed, with
//! clients whose every operation is recorded and judged.
//!
//! What simulation cannot have: threads, files, RocksDB, QUIC, and the operating system's own ideas
//! of time. In return a storm is not replayed from its seed: the faults are, their moments are not.

mod campaign;
mod judge;
mod load;
mod net;
mod report;
mod scenario;
mod timeline;
mod watch;
mod world;

#[cfg(test)]
mod judge_tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratoon::proto::v1;

use crate::power::PowerFs;

pub use campaign::{campaign, summary};
pub use report::{Report, Verdict};
pub use scenario::{SCENARIOS, Scenario, find};
pub use timeline::Say;

use judge::{Evidence, Minimum, NodeDigest, judge};
use load::Load;
use report::{Totals, elapsed_seconds, latencies, recoveries};
use scenario::play;
use timeline::Timeline;
use watch::Transfer;
use world::{Setup, World};

/// How long all digests of one comparison may take.
const DIGEST_TIME: Duration = Duration::from_secs(600);
/// How long pins may stay once all is well.
const PINS_SECONDS: u64 = 90;
/// What a log holds only if something is wrong with the product.
const DEFECTS: [&str; 4] = ["panicked at", " CRIT", "this is a bug", "assertion"];
/// Memory that one node may have resident, besides twice the largest write: bounded by settings and
/// limits, not by the state.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// What to play.
#[derive(Clone, Debug)]
pub struct Options {
    /// A name from [`SCENARIOS`].
    pub scenario: String,
    /// How long the story goes on; it ends with what it has begun. None: as long as a campaign lets
    /// it.
    pub duration: Option<Duration>,
    /// Everything drawn follows from it.
    pub seed: u64,
    /// The program of the nodes: a `ratoon`.
    pub program: PathBuf,
    /// Keep all files.
    pub keep: bool,
}

/// Plays one storm and judges it. Ctrl-C ends it and everything it started.
pub async fn run(options: &Options, say: Say) -> Result<Report> {
    let Some(scenario) = find(&options.scenario) else {
        bail!("there is no scenario {}; --list shows them", options.scenario);
    };
    let directory = tempfile::Builder::new().prefix("ratoon-storm-").tempdir()?;
    let played = tokio::select! {
        report = storm(scenario, options, directory.path(), say) => report,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => bail!("interrupted; nothing is left running"),
            Err(error) => Err(error).context("listen for Ctrl-C"),
        },
    };
    let is_bad = !matches!(&played, Ok(report) if report.verdict == Verdict::Passed);
    if options.keep || is_bad {
        let kept = directory.keep();
        return played
            .map(|mut report| {
                let text = format!("files are kept in {}", kept.display());
                let at_seconds = report.seconds;
                report.events.push(timeline::Event { at_seconds, text });
                report
            })
            .with_context(|| format!("files are kept in {}", kept.display()));
    }
    played
}

async fn storm(
    scenario: &'static Scenario,
    options: &Options,
    directory: &Path,
    say: Say,
) -> Result<Report> {
    let timeline = Arc::new(Timeline::new(say));
    timeline.note(format!("{}, seed {}: {}", scenario.name, options.seed, scenario.about));
    let missing = match PowerFs::is_available() {
        Err(reason) if scenario.loses_power() => vec![reason],
        _ => Vec::new(),
    };
    let setup = Setup {
        can_lose_power: scenario.loses_power() && missing.is_empty(),
        program: options.program.clone(),
        directory: directory.to_owned(),
        settings: scenario.settings(),
        seed: options.seed,
    };
    let mut world = World::start(setup, timeline.clone()).await?;
    let _watching = world.watch.start(timeline.clone());
    scenario::fill(&mut world, scenario.ballast_bytes).await?;
    let load = Load::start(&world.profile, timeline.clone(), &mut world.random.fork())?;
    let began_us = timeline.now_us();
    let duration = options.duration.unwrap_or(scenario.duration());
    let mut stage = scenario::Stage::new(world, duration, missing);
    // What goes wrong in the story is part of the verdict, and the rest is judged all the same.
    if let Err(error) = play(scenario, &mut stage).await {
        stage.world.problems.push(format!("{error:#}"));
        timeline.note(format!("the story broke off: {error:#}"));
    }
    let mut evidence = close(scenario, &mut stage, load).await?;
    // Where a part could not be played there is no saying what should have happened.
    if evidence.missing.is_empty() {
        let writes = scenario.writes_per_minute_min as f64 * duration.as_secs_f64() / 60.0;
        evidence.minimum = Minimum { writes: writes as u64, ..scenario.minimum };
    }
    let checks = judge(&evidence);
    let history = &evidence.finish.history;
    let mut totals = totals(scenario, &mut stage.world, &evidence).await;
    totals.acknowledged = evidence.acknowledged;
    Ok(Report {
        scenario: scenario.name.to_owned(),
        seed: options.seed,
        seconds: elapsed_seconds(began_us, timeline.now_us()),
        verdict: Report::verdict_of(&checks, evidence.missing.is_empty()),
        checks,
        latencies: latencies(history, &evidence.faults),
        recoveries: recoveries(history, &evidence.faults),
        totals,
        transfers: evidence.transfers,
        faults: evidence.faults,
        events: timeline.events(),
    })
}

/// Repairs everything, waits until the cluster is well, ends the load and gathers what is judged.
async fn close(scenario: &Scenario, stage: &mut scenario::Stage, load: Load) -> Result<Evidence> {
    let world = &mut stage.world;
    world.repair()?;
    world.timeline.end_all();
    world.timeline.note("everything is repaired");
    for what in ["that all nodes are well", "that all transfers end"] {
        let ended = match what {
            "that all nodes are well" => world.wait_until_well().await,
            _ => wait_for_transfers(world).await,
        };
        if let Err(error) = ended {
            world.problems.push(format!("{error:#}"));
        }
    }
    let acknowledged = load.acknowledged();
    let admin = world.admin.clone();
    let finish = load.finish(&admin.with_timeout(Duration::from_secs(60))).await?;
    let digests = compare_digests(world).await;
    match digests {
        Ok(digests) => stage.digests.push(digests),
        Err(error) => stage.world.problems.push(format!("digests: {error:#}")),
    }
    let world = &mut stage.world;
    let pins = wait_for_pins(world).await;
    world.watch.look(&world.timeline).await;
    world.check()?;
    let disk = disk_bytes(world);
    Ok(Evidence {
        finish,
        acknowledged,
        digests: std::mem::take(&mut stage.digests),
        transfers: world.watch.transfers(),
        faults: world.timeline.faults(),
        problems: world.problems.clone(),
        log_lines: defects_in(&world.logs),
        pins,
        memory: (world.watch.peaks(), MEMORY_BYTES_MAX),
        disk: (disk, scenario.disk_bytes_max()),
        minimum: Minimum::default(),
        missing: stage.missing.clone(),
    })
}

async fn wait_for_transfers(world: &mut World) -> Result<()> {
    let what = "that all transfers end";
    world
        .wait_for(what, world::RECOVERY_SECONDS, async |world| {
            world.watch.look(&world.timeline).await;
            let is_live = |transfer: &Transfer| {
                !(transfer.is_final() || transfer.is_abandoned || transfer.is_forgotten)
            };
            Ok((!world.watch.transfers().iter().any(is_live)).then_some(()))
        })
        .await
}

/// The content digests of all nodes at one index.
async fn compare_digests(world: &mut World) -> Result<Vec<NodeDigest>> {
    let told = world
        .wait_for("digests of all nodes", world::RECOVERY_SECONDS, async |world| {
            // A node that has just become well may not be reached at this moment.
            let told = world.admin.with_timeout(DIGEST_TIME).digest().await;
            Ok(told.ok().filter(|told| told.digests.iter().all(|one| one.error.is_empty())))
        })
        .await?;
    let of = |one: &v1::NodeDigest| NodeDigest {
        id: one.id,
        digest: one.digest.to_vec(),
        error: one.error.clone(),
    };
    Ok(told.digests.iter().map(of).collect())
}

/// Pins that do not go away.
async fn wait_for_pins(world: &mut World) -> Vec<String> {
    let gone = world
        .wait_for("that pins are released", PINS_SECONDS, async |world| {
            let Ok(status) = world.admin.status(false).await else { return Ok(None) };
            let pins = status.nodes.iter().map(|node| node.pins.len()).sum::<usize>();
            Ok((pins == 0).then_some(()))
        })
        .await;
    gone.err().map(|error| format!("{error:#}")).into_iter().collect()
}

/// The most bytes that the data of one node takes on disk; what is linked twice counts once.
fn disk_bytes(world: &World) -> u64 {
    let of = |node: &world::Node| directory_bytes(node.process.data());
    world.nodes.values().map(of).max().unwrap_or(0)
}

fn directory_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut seen = std::collections::BTreeSet::new();
    let mut bytes = 0;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        // A node that runs removes files at any time; what is gone takes no room.
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else if seen.insert(metadata.ino()) {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    bytes
}

/// Lines of the logs that tell of a defect.
fn defects_in(logs: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for log in logs {
        let text = std::fs::read(log).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            if DEFECTS.iter().any(|defect| line.contains(defect)) {
                found.push(format!("{}: {line}", log.display()));
            }
        }
    }
    found
}

async fn totals(scenario: &Scenario, world: &mut World, evidence: &Evidence) -> Totals {
    use crate::checks::history::Outcome;
    let operations = &evidence.finish.history.operations;
    let is_unknown = |outcome: &Outcome| *outcome == Outcome::Unknown;
    let (proxied_bytes, dropped_datagrams) = world.net.totals();
    // Only a figure for the report: a cluster that does not answer has been judged already.
    let status = world.admin.status(false).await.unwrap_or_default();
    Totals {
        operations: operations.len(),
        acknowledged: evidence.acknowledged,
        unknown: operations
            .iter()
            .filter(|operation| operation.ended.as_ref().is_none_or(|(_, it)| is_unknown(it)))
            .count(),
        ballast_bytes: scenario.ballast_bytes,
        proxied_bytes,
        dropped_datagrams,
        elections: status.nodes.iter().map(|node| node.elections).max().unwrap_or(0),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_tells_of_a_defect_is_found_in_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("node-1.log");
        std::fs::write(&log, "all is well\nthread 'raft' panicked at src/x.rs\n").unwrap();
        let found = defects_in(&[log, directory.path().join("none")]);
        assert!(found.len() == 1 && found[0].contains("src/x.rs"), "{found:?}");
    }

    #[test]
    fn files_that_are_linked_twice_take_their_room_once() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("one"), vec![1; 1 << 20]).unwrap();
        let before = directory_bytes(directory.path());
        assert!(before >= 1 << 20);
        std::fs::hard_link(inner.join("one"), directory.path().join("two")).unwrap();
        assert_eq!(directory_bytes(directory.path()), before);
    }
}
