//! `demo`: hands its flags to the demo, and its verdict to the exit code.

use std::path::PathBuf;

use clap::Args;

use super::context::Context;
use super::failure::CliError;
use super::parse;
use crate::demo::{self, DemoError};
use crate::types::{Code, Failure};

const EXAMPLES: &str = "\
Starts three nodes as processes in a temporary directory, imports real data, and joins a fourth
over a link that is cut, while the receiver and the leader are killed and a writer and a reader go
on. Then a fifth joins undisturbed. Ends with a table of what was measured.

Exit code 1: something was lost, differed, or was sent again too often. Then, and after an error,
the nodes' logs and data are kept, and it says where. Ctrl-C ends all nodes, with --keep too.

Examples:
  ratoon demo
  ratoon demo --input ~/photos --report out.json
  ratoon demo --input events.jsonl --key id --keep";

/// What `demo` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A directory or a file of JSON lines to import [default: the sources of ratoon's crates].
    #[arg(long, value_name = "PATH")]
    input: Option<PathBuf>,
    /// The field that holds a line's key [default: found out].
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,
    /// Limit of the disturbed pull, bytes a second [default: so that it lasts 30 s].
    #[arg(long, value_name = "RATE", value_parser = parse::byte_rate)]
    rate: Option<u64>,
    /// Cuts of the link.
    #[arg(long, default_value_t = demo::Options::default().cuts)]
    cuts: u32,
    /// Decides where and in which order faults strike; the report names it [default: random].
    #[arg(long)]
    seed: Option<u64>,
    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leave the cluster running, and say how to talk to it.
    #[arg(long)]
    keep: bool,
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let options = demo::Options {
        input: arguments.input,
        key: arguments.key,
        rate_bytes_per_second: arguments.rate,
        cuts: arguments.cuts,
        seed: arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u16>())),
        report: arguments.report,
        json: context.output.json,
        keep: arguments.keep,
    };
    let report = demo::run(options).await.map_err(demo_error)?;
    match report.ok() {
        true => Ok(()),
        false => Err(CliError::Negative {
            code: "demo_failed",
            message: "the figures of the run are not what they must be".to_owned(),
            hint: "see the table; run it again on an idle machine, and report it if it stays"
                .to_owned(),
        }),
    }
}

fn demo_error(error: DemoError) -> CliError {
    let message = error.to_string();
    match error {
        DemoError::Input(_) | DemoError::Options(_) => {
            CliError::usage(message, "`ratoon demo --help` shows what it takes")
        }
        DemoError::System { attempted, error } => {
            CliError::File { attempted: format!("could not {attempted}"), cause: error }
        }
        DemoError::TooLate { .. } => Failure::new(Code::Unavailable, message)
            .hint("run it again on an idle machine; if it stays, it is a bug")
            .into(),
        DemoError::Interrupted => {
            CliError::Interrupted { hint: "run it again when you like".to_owned() }
        }
        DemoError::Command { .. } | DemoError::NodeEnded { .. } | DemoError::Refused { .. } => {
            CliError::Defect(message)
        }
    }
}
