//! `ratoon-chaos`: plays storms on real processes, and says what came of them.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use ratoon_chaos::storm::{self, Options, Report, SCENARIOS, Say, Verdict};

const EXAMPLES: &str = "\
Examples:
  ratoon-chaos --list
  ratoon-chaos --scenario cuts --duration 30s --seed 7
  ratoon-chaos campaign --results results        go on with it: the same again
  ratoon-chaos summary --results results

Exit codes: 0 passed, 1 something was lost, differed or did not end, 2 usage, 3 incomplete: this
machine cannot play all of it, 70 the storm itself could not be played.";

/// Storms on a cluster of real processes: faults from a seed, clients whose every operation is
/// judged.
#[derive(Debug, Parser)]
#[command(name = "ratoon-chaos", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    single: Single,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Play all scenarios one after the other; what has passed before is left out.
    Campaign(Campaign),
    /// Print the table of all results, in Markdown.
    Summary(Summary),
}

#[derive(Debug, Args)]
struct Single {
    /// What to play; --list shows what there is.
    #[arg(long, value_name = "NAME", default_value = "cuts")]
    scenario: String,
    /// How long the story goes on; it ends with what it has begun [default: as in a campaign].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Faults and load follow from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where to write the report as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The program of the nodes [default: `ratoon` beside this one].
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Keep data and logs; those of a storm that did not pass are kept anyway.
    #[arg(long)]
    keep: bool,
    /// List the scenarios.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Args)]
struct Campaign {
    /// Directory of the results, a JSON and a text file each.
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
    /// Only these, separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Faults and load follow from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The program of the nodes [default: `ratoon` beside this one].
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Summary {
    /// Directory of the results.
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let ran = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the threads of the storm")
        .and_then(|runtime| runtime.block_on(run(line)));
    match ran {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::FAILURE,
        Ok(Verdict::Incomplete) => ExitCode::from(3),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(70)
        }
    }
}

async fn run(line: CommandLine) -> Result<Verdict> {
    match line.verb {
        Some(Verb::Campaign(campaign)) => play_all(campaign).await,
        Some(Verb::Summary(Summary { results })) => {
            println!("{}", storm::summary(&results)?);
            Ok(Verdict::Passed)
        }
        None if line.single.list => {
            for scenario in SCENARIOS {
                println!("{:<16} {}", scenario.name, scenario.about);
            }
            Ok(Verdict::Passed)
        }
        None => play(line.single).await,
    }
}

async fn play(single: Single) -> Result<Verdict> {
    let options = Options {
        scenario: single.scenario,
        duration: single.duration,
        seed: single.seed,
        program: program(single.program)?,
        keep: single.keep,
    };
    let report = storm::run(&options, say()).await?;
    println!("{}", report.text());
    if let Some(path) = single.report {
        write(&report, &path)?;
    }
    Ok(report.verdict)
}

fn write(report: &Report, path: &std::path::Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

async fn play_all(campaign: Campaign) -> Result<Verdict> {
    let options = Options {
        scenario: String::new(),
        duration: None,
        seed: campaign.seed,
        program: program(campaign.program)?,
        keep: false,
    };
    let passed = storm::campaign(&campaign.results, &campaign.only, &options, say).await?;
    println!("{}", storm::summary(&campaign.results)?);
    Ok(if passed { Verdict::Passed } else { Verdict::Failed })
}

fn say() -> Say {
    Box::new(|line| eprintln!("{line}"))
}

/// The program of the nodes: as given, or the `ratoon` that lies beside this program.
fn program(given: Option<PathBuf>) -> Result<PathBuf> {
    let program = match given {
        Some(program) => program,
        None => {
            std::env::current_exe().context("find the running program")?.with_file_name("ratoon")
        }
    };
    program
        .canonicalize()
        .with_context(|| format!("find {}; build it, or name it with --program", program.display()))
}
