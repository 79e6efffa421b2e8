//! `ratoon-sim`: runs seeds of the simulation and says what happened.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::Instant;

use ratoon_chaos::{Figures, Options, run};

const USAGE: &str = "usage: ratoon-sim [--seed N] [--seeds COUNT] [--steps N] [--trace] [--twice]
  --seed N       the first seed (default 1)
  --seeds COUNT  how many seeds from there on (default 1)
  --steps N      events of the phase of faults
  --trace        tell every event on stderr
  --twice        run each seed twice and compare the traces";

struct Arguments {
    first: u64,
    count: u64,
    steps: u64,
    trace: bool,
    twice: bool,
}

/// None: only help is wanted.
fn arguments() -> Result<Option<Arguments>, String> {
    let mut parsed = Arguments { first: 1, count: 1, steps: 0, trace: false, twice: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let text = words.next().ok_or(format!("{word} needs a number"))?;
            text.parse::<u64>().map_err(|error| format!("{word} {text}: {error}"))
        };
        match word.as_str() {
            "--seed" => parsed.first = number()?,
            "--seeds" => parsed.count = number()?,
            "--steps" => parsed.steps = number()?,
            "--trace" => parsed.trace = true,
            "--twice" => parsed.twice = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(Some(parsed))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (mut total, mut failed, started) = (Figures::default(), 0, Instant::now());
    let mut steps = Vec::new();
    for seed in arguments.first..arguments.first.saturating_add(arguments.count) {
        let options = Options { seed, steps: arguments.steps, trace: arguments.trace };
        let report = run(&options);
        let mut violation = report.violation;
        if arguments.twice && violation.is_none() {
            let again = run(&options).trace_hash;
            if again != report.trace_hash {
                violation = Some(format!("two traces: {:016x}, {again:016x}", report.trace_hash));
            }
        }
        total.add(&report.figures);
        steps.push(report.figures.steps);
        if arguments.count == 1 {
            println!("trace {:016x}", report.trace_hash);
        }
        if let Some(violation) = violation {
            failed += 1;
            let steps = match arguments.steps {
                0 => String::new(),
                steps => format!(" --steps {steps}"),
            };
            println!("FAILED seed {seed}: {violation}");
            println!("  reproduce: ratoon-sim --seed {seed}{steps} --trace");
        }
    }
    for (name, count) in total.list() {
        println!("{name:>22} {count}");
    }
    steps.sort_unstable();
    println!("{:>22} {}", "median steps", steps.get(steps.len() / 2).copied().unwrap_or(0));
    println!("{:>22} {:.1}", "seconds", started.elapsed().as_secs_f64());
    println!("{:>22} {failed}", "failed seeds");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
