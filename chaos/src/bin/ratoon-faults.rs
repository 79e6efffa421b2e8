//! `ratoon-faults`: kills real nodes at every failpoint and says whether they came back.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use ratoon_chaos::faults::{Options, run};

const USAGE: &str = "usage: ratoon-faults [--program FILE] [--only NAME]... [--directory DIR]
  --program FILE   the program `ratoon-faulty` (default: beside this one)
  --only NAME      only failpoints whose names begin so; repeat it for several
  --directory DIR  where the clusters' files go (default: where temporary files go)";

/// None: only help is wanted.
fn arguments() -> Result<Option<Options>, String> {
    let own = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let mut options = Options {
        program: own.with_file_name("ratoon-faulty"),
        only: Vec::new(),
        directory: std::env::temp_dir(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut text = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--program" => options.program = PathBuf::from(text()?),
            "--only" => options.only.push(text()?),
            "--directory" => options.directory = PathBuf::from(text()?),
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(Some(options))
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match arguments() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options, |row| println!("{row}")).await {
        Ok(table) => {
            println!("{table}");
            if table.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
