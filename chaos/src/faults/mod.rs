//! Every failpoint of the product, struck once in a real cluster: a process dies there, is started
//! again without the fault, and must come back with all that was acknowledged.
//!
//! Nodes are processes of `ratoon-faulty`, with real disks and sockets. A point that no story
//! reaches fails the run like a node that does not come back. Proves nothing about power loss: what
//! a killed process wrote is still in the page cache.

mod boot;
mod enrol;
mod genesis;
mod lead;
mod pulls;
mod snapshots;
mod stage;
mod story;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use self::stage::Stage;
use self::story::{STORIES, Story};
pub use self::table::{Row, Table};

/// What to run, and of what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program `ratoon-faulty`.
    pub program: PathBuf,
    /// Only points whose names begin so; empty: all.
    pub only: Vec<String>,
    /// Where the files of the clusters go.
    pub directory: PathBuf,
}

/// Strikes every point and tells `see` of each as it is done.
pub async fn run(options: &Options, mut see: impl FnMut(&Row)) -> Result<Table> {
    let points = list(&options.program)?;
    let mut table = Table::default();
    let mut stage: Option<Stage> = None;
    for (story, place) in
        STORIES.iter().flat_map(|(story, places)| places.iter().map(|place| (*story, *place)))
    {
        let point = place.split(':').next().unwrap_or(place);
        ensure!(points.contains(point), "{point} is told of a story and is no failpoint");
        if !options.only.is_empty() && !options.only.iter().any(|only| place.starts_with(only)) {
            continue;
        }
        let started = Instant::now();
        if stage.is_none() && story != Story::Init {
            let made = Stage::start(&options.program, &options.directory).await;
            stage = Some(made.context("start a cluster without any fault")?);
        }
        let struck = strike(options, stage.as_mut(), story, place).await;
        if struck.is_err() {
            // Whatever state the cluster is in now, the next story is not to blame for it.
            stage = None;
        }
        let row = Row::new(story, place, struck, started.elapsed());
        see(&row);
        table.rows.push(row);
    }
    let told: BTreeSet<&str> = table.rows.iter().map(Row::point).collect();
    if options.only.is_empty() {
        table.unreached = points.into_iter().filter(|point| !told.contains(&**point)).collect();
    }
    Ok(table)
}

async fn strike(
    options: &Options,
    stage: Option<&mut Stage>,
    story: Story,
    place: &str,
) -> Result<String> {
    let Some(stage) = stage.filter(|_| story != Story::Init) else {
        return genesis::strike(options, place).await;
    };
    match story {
        Story::Init => genesis::strike(options, place).await,
        Story::Join => enrol::join(stage, place).await,
        Story::Renew => enrol::renew(stage, place).await,
        Story::Lose => enrol::lose(stage, place).await,
        Story::Pull => pulls::pull(stage, place).await,
        Story::Redo => pulls::redo(stage, place).await,
        Story::Reopen => pulls::reopen(stage, place).await,
        Story::Reuse => pulls::reuse(stage, place).await,
        Story::Adopt => pulls::adopt(stage, place).await,
        Story::Build => snapshots::build(stage, place).await,
        Story::Rot => snapshots::rot(stage, place).await,
        Story::Compact => lead::compact(stage, place).await,
        Story::Lead => lead::lead(stage, place).await,
        Story::Tear => boot::tear(stage, place).await,
    }
}

/// The points that the program has.
fn list(program: &Path) -> Result<BTreeSet<String>> {
    let output = Command::new(program)
        .arg("--list-faults")
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let points: BTreeSet<String> =
        String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
    ensure!(
        output.status.success() && !points.is_empty(),
        "{} lists no failpoints",
        program.display()
    );
    Ok(points)
}
