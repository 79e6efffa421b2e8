//! `ratoon-faulty`: the program `ratoon` with failpoints, for tests that kill it between two steps.
//!
//! `RATOON_FAULT` says what happens where; see `fault::Plan`. A program of its own, so that `ratoon`
//! never holds a failpoint. Does nothing else that `ratoon` does not.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use ratoon::cli;
use ratoon::fault::{self, Action, Plan, Point};
use rustix::process::{Signal, getpid, kill_process};

/// Says what happens at which failpoint.
const VARIABLE: &str = "RATOON_FAULT";
/// Prints all failpoints, one a line.
const LIST: &str = "--list-faults";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(LIST)) {
        return list();
    }
    if let Some(text) = std::env::var_os(VARIABLE) {
        match Plan::parse(&text.to_string_lossy()) {
            Ok(plan) => fault::arm(move |point| carry_out(&plan, point)),
            Err(problem) => {
                // If stderr is closed there is nobody to tell; the exit code still speaks.
                let _untold = writeln!(io::stderr(), "error: {VARIABLE}: {problem}");
                return ExitCode::from(cli::EXIT_USAGE);
            }
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        // If stderr is closed there is nobody to tell; the exit code still speaks.
        let _untold = writeln!(io::stderr().lock(), "error: {panic}");
        std::process::exit(i32::from(cli::EXIT_DEFECT));
    }));
    ExitCode::from(cli::run(std::env::args_os()))
}

fn list() -> ExitCode {
    let names: String = Point::ALL.iter().map(|point| format!("{}\n", point.name())).collect();
    match io::stdout().write_all(names.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn carry_out(plan: &Plan, point: Point) -> io::Result<()> {
    let Some(action) = plan.pass(point) else { return Ok(()) };
    // If stderr is closed there is nobody to tell; what happens next speaks for itself.
    let _untold = writeln!(io::stderr(), "fault: {}: {action:?}", point.name());
    match action {
        Action::Kill => {
            kill_process(getpid(), Signal::KILL)?;
            // The signal may take a moment; no step may follow.
            loop {
                std::thread::park();
            }
        }
        Action::Error => Err(io::Error::other(format!("failpoint {}", point.name()))),
        Action::Sleep(milliseconds) => {
            std::thread::sleep(Duration::from_millis(milliseconds));
            Ok(())
        }
        Action::Panic => panic!("failpoint {}", point.name()),
    }
}
