//! The command line: one file a verb. It decides nothing.
//!
//! It parses, calls the client library, the server or the demo, and prints. Results go to stdout,
//! everything else to stderr, and the exit code says what became of the command. It never talks to
//! a node but through the client library, and never opens a node's data.

mod arguments;
mod chaos;
mod collection;
mod completions;
mod context;
mod delete;
mod demo;
mod digest;
mod export;
mod failure;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fake_node;
mod format;
#[cfg(test)]
mod fuzz;
mod get;
mod import;
mod init;
mod join;
mod logging;
mod namespace;
mod node;
mod node_flags;
mod output;
mod parse;
mod profile;
mod progress;
mod put;
mod record_line;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod round_trip_tests;
mod scan;
mod snapshot;
mod start;
mod status;
mod text;
mod token;
mod transfer;
mod view;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use self::arguments::{CommandLine, Verb};
use self::context::Context;
use self::failure::{CliError, ErrorReport};
use self::output::Output;

pub use self::failure::{
    EXIT_DEFECT, EXIT_DONE, EXIT_NEGATIVE, EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_UNKNOWN, EXIT_USAGE,
};

/// Runs a whole command line, the program's name first, and answers with the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.len() <= 1 && std::env::var_os("RATOON_JSON").is_none() {
        // Clap does not take a bare name for one while other RATOON_ variables are set.
        if let Err(help) = CommandLine::try_parse_from(["ratoon", "--help"]) {
            // If the text cannot be printed, nobody reads it; the exit code still speaks.
            let _unread = help.print();
        }
        return EXIT_USAGE;
    }
    let line = match CommandLine::try_parse_from(&arguments) {
        Ok(line) => line,
        Err(error) => return refuse(&arguments, &error),
    };
    let context = Context::new(line.global);
    match run_verb(&context, line.verb) {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            let report = error.report();
            if !matches!(error, CliError::OutputClosed) {
                context.output.error(&report);
            }
            report.exit
        }
    }
}

/// Says what is wrong with a command line; help and version, which are no errors, go to stdout.
fn refuse(arguments: &[OsString], error: &clap::Error) -> u8 {
    let json = arguments.iter().any(|argument| argument == "--json")
        || std::env::var_os("RATOON_JSON").is_some_and(|value| !value.is_empty());
    if error.use_stderr() && json {
        Output { json }.error(&usage_report(error));
        return EXIT_USAGE;
    }
    // If the text cannot be printed, nobody reads it; the exit code still speaks.
    let _unread = error.print();
    match error.use_stderr() {
        true => EXIT_USAGE,
        false => EXIT_DONE,
    }
}

/// What clap says, in the form of our own errors.
fn usage_report(error: &clap::Error) -> ErrorReport {
    let message = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no verb is given".to_owned(),
        _ => {
            let text = error.to_string();
            let paragraph = text.split("\n\n").next().unwrap_or_default();
            let words: Vec<&str> = paragraph.split_whitespace().collect();
            words.join(" ").trim_start_matches("error: ").to_owned()
        }
    };
    CliError::usage(message, "`ratoon --help` shows the verbs, `ratoon VERB --help` its flags")
        .report()
}

fn run_verb(context: &Context, verb: Verb) -> Result<(), CliError> {
    if context.global.stale && !verb.reads() {
        return Err(CliError::usage(
            "--stale is for reads: get, scan, export, namespace list, collection list and describe",
            "leave it away",
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::file("could not start the threads of the command"))?;
    let ended = runtime.block_on(run_async(context, verb));
    // A thread that still waits for a disk or a terminal must not hold up the exit.
    runtime.shutdown_background();
    ended
}

async fn run_async(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::Init(arguments) => init::run(context, arguments).await,
        Verb::Start(arguments) => start::run(arguments).await,
        Verb::Join(arguments) => join::run(context, arguments).await,
        Verb::Status(arguments) => status::run(context, arguments).await,
        Verb::Demo(arguments) => demo::run(context, arguments).await,
        Verb::Chaos(arguments) => chaos::run(&arguments),
        Verb::Put(arguments) => put::run(context, arguments).await,
        Verb::Get(arguments) => get::run(context, arguments).await,
        Verb::Delete(arguments) => delete::run(context, arguments).await,
        Verb::Scan(arguments) => scan::run(context, arguments).await,
        Verb::Import(arguments) => import::run(context, arguments).await,
        Verb::Export(arguments) => export::run(context, arguments).await,
        Verb::Digest => digest::run(context).await,
        Verb::Token(verb) => token::run(context, verb).await,
        Verb::Node(verb) => node::run(context, verb).await,
        Verb::Namespace(verb) => namespace::run(context, verb).await,
        Verb::Collection(verb) => collection::run(context, verb).await,
        Verb::Snapshot(verb) => snapshot::run(context, verb).await,
        Verb::Transfer(verb) => transfer::run(context, verb).await,
        Verb::Profile(verb) => profile::run(context, &verb),
        Verb::Completions(arguments) => completions::run(context.output, &arguments),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report(words: &str) -> ErrorReport {
        let words = std::iter::once("ratoon").chain(words.split(' '));
        usage_report(&CommandLine::try_parse_from(words).unwrap_err())
    }

    #[test]
    fn usage_errors_are_one_sentence_in_json() {
        let report = report("node promote zero --json");
        assert_eq!((report.exit, report.code.as_str()), (2, "usage"));
        assert!(report.message.contains("invalid value 'zero'"), "{}", report.message);
        assert!(!report.message.contains('\n') && !report.message.starts_with("error"));
    }

    #[test]
    fn a_stale_write_is_refused_before_anything_else() {
        let line = "ratoon --stale namespace create x --config-dir /nowhere";
        assert_eq!(run(line.split(' ').map(OsString::from)), EXIT_USAGE);
    }

    #[test]
    fn a_missing_profile_is_told_with_the_usage_code() {
        let directory = tempfile::tempdir().unwrap();
        let line = format!("ratoon --json status --config-dir {}", directory.path().display());
        assert_eq!(run(line.split(' ').map(OsString::from)), EXIT_USAGE);
    }
}
