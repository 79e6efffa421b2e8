//! `chaos`: runs `ratoon-chaos`, the storms on real processes, where it lies beside this program.
//!
//! It is a program of its own, because what tests the product is no part of it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use clap::Args;

use super::failure::CliError;
use crate::types::{Code, Failure};

/// The program that is run.
const PROGRAM: &str = "ratoon-chaos";

/// What `chaos` takes.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Handed on as they are; `--help` shows what there is.
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes the other program; returns only if that fails.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let own = std::env::current_exe()
        .map_err(CliError::file("could not find the path of the running program"))?;
    let program = own.with_file_name(PROGRAM);
    if !program.is_file() {
        return Err(missing(&program).into());
    }
    let error = Command::new(&program).args(&arguments.arguments).exec();
    Err(CliError::file(format!("could not run {}", program.display()))(error))
}

fn missing(program: &Path) -> Failure {
    let message = format!("{} is not there", program.display());
    Failure::new(Code::LocalFault, message)
        .hint("build it from the sources: `make chaos`, or `cargo build -p ratoon-chaos`")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_with_what_to_do() {
        // The tests' own program has no such neighbour.
        let report = run(&Arguments { arguments: Vec::new() }).unwrap_err().report();
        assert!(report.message.contains(PROGRAM) && report.hint.contains("make chaos"));
    }
}
