//! Parses the command line, runs it, and exits with its code.
//!
//! A panic anywhere ends the process at once with the code for a defect: a node that has broken an
//! assertion must not go on, and what it acknowledged is safe on disk.

use std::io::Write;
use std::process::ExitCode;

use ratoon::cli;

// What a person runs never holds a failpoint, whatever features a build turns on.
#[cfg(feature = "faults")]
compile_error!("`ratoon` has no failpoints: build `ratoon-faulty` alone, with --bin ratoon-faulty");

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // If stderr is closed there is nobody to tell; the exit code still speaks.
        let _untold = writeln!(
            std::io::stderr().lock(),
            "error: {panic}\nhint: this is a bug of ratoon {}; please report it with this text and the log",
            env!("CARGO_PKG_VERSION"),
        );
        std::process::exit(i32::from(cli::EXIT_DEFECT));
    }));
    ExitCode::from(cli::run(std::env::args_os()))
}
