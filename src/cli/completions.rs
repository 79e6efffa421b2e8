//! `completions SHELL`: a completion script, from the same grammar that parses.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::arguments::CommandLine;
use super::failure::CliError;
use super::output::Output;

/// What `completions` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ratoon completions bash > /etc/bash_completion.d/ratoon")]
pub struct Arguments {
    /// The shell.
    shell: Shell,
}

/// Runs it.
pub fn run(output: Output, arguments: &Arguments) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "ratoon", &mut script);
    output.bytes(&script)
}
