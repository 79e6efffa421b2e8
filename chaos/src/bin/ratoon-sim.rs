//! `ratoon-sim`: runs seeds of the simulation and says what happened.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::Instant;

use ratoon_chaos::campaign::Campaign;
use ratoon_chaos::corpus::{Case, parse};
use ratoon_chaos::{Figures, Listener, Options, Report, STEPS_DEFAULT, minimise, run};

const USAGE: &str = "usage: ratoon-sim [--seed N] [--seeds COUNT] [--steps N] [--corpus FILE] ...
  --seed N        the first seed (default 1)
  --seeds COUNT   how many seeds from there on (default 1)
  --steps N       events of the phase of faults (default 15000)
  --corpus FILE   run the seeds of a file instead: SEED [steps=N] [# note], one a line
  --jobs N        threads (default: one a core); the output is the same for any number
  --twice         run each seed twice and compare the traces
  --rare          tell which rare paths each seed took
  --trace         tell every event of a single seed on stderr
  --minimise      search the fewest steps with which a failing seed still fails";

/// Failing seeds told in full; further ones are only counted.
const FAILURES_TOLD_MAX: u64 = 20;
/// Seconds between two lines on how far a long run has come.
const PROGRESS_SECONDS: u64 = 10;

#[derive(Default)]
struct Arguments {
    first: u64,
    count: u64,
    steps: u64,
    jobs: usize,
    corpus: Option<String>,
    twice: bool,
    rare: bool,
    trace: bool,
    minimise: bool,
}

/// None: only help is wanted.
fn arguments() -> Result<Option<Arguments>, String> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parsed = Arguments { first: 1, count: 1, jobs, ..Arguments::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number =
            |text: String| text.parse::<u64>().map_err(|error| format!("{word} {text}: {error}"));
        match word.as_str() {
            "--seed" => parsed.first = number(value()?)?,
            "--seeds" => parsed.count = number(value()?)?,
            "--steps" => parsed.steps = number(value()?)?,
            "--jobs" => parsed.jobs = number(value()?)?.clamp(1, 1024) as usize,
            "--corpus" => parsed.corpus = Some(value()?),
            "--twice" => parsed.twice = true,
            "--rare" => parsed.rare = true,
            "--trace" => parsed.trace = true,
            "--minimise" => parsed.minimise = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    if parsed.trace && (parsed.count != 1 || parsed.corpus.is_some()) {
        return Err("--trace tells of one seed: name it with --seed".to_owned());
    }
    Ok(Some(parsed))
}

impl Arguments {
    fn cases(&self) -> Result<Vec<Case>, String> {
        match &self.corpus {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
                parse(&text).map_err(|problem| format!("{path}: {problem}"))
            }
            None => {
                let seeds = self.first..self.first.saturating_add(self.count);
                Ok(seeds.map(|seed| Case { seed, steps: self.steps }).collect())
            }
        }
    }
}

fn main() -> ExitCode {
    let refuse = |problem: String| {
        eprintln!("{problem}\n{USAGE}");
        ExitCode::from(2)
    };
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => return refuse(problem),
    };
    let cases = match arguments.cases() {
        Ok(cases) => cases,
        Err(problem) => return refuse(problem),
    };
    let mut tally = Tally::new(cases.len());
    if arguments.trace {
        let Case { seed, steps } = cases[0];
        tally.take(&arguments, cases[0], run(&Options { seed, steps, listener: Listener::Stderr }));
    } else {
        let campaign = Campaign { threads: arguments.jobs, twice: arguments.twice };
        campaign.run(&cases, |case, report| tally.take(&arguments, case, report));
    }
    tally.print();
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What all runs together came to.
struct Tally {
    total: Figures,
    steps: Vec<u64>,
    failed: u64,
    wanted: usize,
    started: Instant,
    told_seconds: u64,
}

impl Tally {
    fn new(wanted: usize) -> Self {
        Tally {
            total: Figures::default(),
            steps: Vec::new(),
            failed: 0,
            wanted,
            started: Instant::now(),
            told_seconds: 0,
        }
    }

    /// Takes the next report in; always wants another.
    fn take(&mut self, arguments: &Arguments, case: Case, report: Report) -> bool {
        self.total.add(&report.figures);
        self.steps.push(report.figures.steps);
        if self.wanted == 1 {
            println!("trace {:016x}", report.trace_hash);
        }
        if arguments.rare {
            let taken = report.figures.rare().into_iter().filter(|(_, count)| *count > 0);
            let taken: Vec<String> = taken.map(|(name, count)| format!("{name} {count}")).collect();
            println!("seed {}: {}", case.seed, taken.join(", "));
        }
        if let Some(violation) = report.violation {
            self.failed += 1;
            if self.failed <= FAILURES_TOLD_MAX {
                tell_failure(arguments, case, &violation);
            }
        }
        self.tell_progress();
        true
    }

    fn tell_progress(&mut self) {
        let seconds = self.started.elapsed().as_secs();
        if seconds >= self.told_seconds + PROGRESS_SECONDS {
            self.told_seconds = seconds;
            let (done, wanted, failed) = (self.steps.len(), self.wanted, self.failed);
            eprintln!("{done} of {wanted} seeds in {seconds} s, {failed} failed");
        }
    }

    fn print(&mut self) {
        for (name, count) in self.total.list() {
            println!("{name:>27} {count}");
        }
        self.steps.sort_unstable();
        let median = self.steps.get(self.steps.len() / 2).copied().unwrap_or(0);
        println!("{:>27} {median}", "median steps");
        println!("{:>27} {:.1}", "seconds", self.started.elapsed().as_secs_f64());
        println!("{:>27} {}", "failed seeds", self.failed);
    }
}

/// Says what a seed violated, how to see it again, and what came last before it.
fn tell_failure(arguments: &Arguments, Case { seed, steps }: Case, violation: &str) {
    let with = |steps: u64| match steps {
        0 | STEPS_DEFAULT => String::new(),
        steps => format!(" --steps {steps}"),
    };
    println!("FAILED seed {seed}: {violation}");
    println!("  reproduce: ratoon-sim --seed {seed}{} --trace", with(steps));
    let listener = Listener::tail();
    // Its outcome is known; only what it says on the way is wanted.
    let _ = run(&Options { seed, steps, listener: listener.clone() });
    for line in listener.lines() {
        println!("  | {line}");
    }
    if arguments.minimise {
        match minimise(seed, steps) {
            Some((fewest, violation)) => {
                println!("  smallest: ratoon-sim --seed {seed}{} --trace", with(fewest));
                println!("  which ends with: {violation}");
            }
            None => println!("  it does not fail again: something in it is not from the seed"),
        }
    }
}
