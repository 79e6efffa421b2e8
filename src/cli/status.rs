//! `status`: nodes, roles, indexes, and every transfer under way.

use std::time::Duration;

use clap::Args;

use super::context::Context;
use super::failure::CliError;
use super::{parse, view};

const EXAMPLES: &str = "\
Examples:
  ratoon status
  ratoon status --watch           every second, until Ctrl-C
  ratoon status --watch=5s --json one document a line
  ratoon status --local --endpoint node2:7402";

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What `status` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Show it again and again, every second unless told otherwise.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "1s")]
    watch: Option<Duration>,
    /// Ask one node for itself alone.
    #[arg(long)]
    local: bool,
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let client = context.default_client()?;
    let Some(every) = arguments.watch else {
        let status = client.status(arguments.local).await?;
        return context.output.result(view::status_document(&status), &view::status_text(&status));
    };
    loop {
        match client.status(arguments.local).await {
            Ok(status) => {
                let text = match context.output.is_terminal() {
                    true => format!("{CLEAR}{}", view::status_text(&status)),
                    false => view::status_text(&status),
                };
                context.output.result(view::status_document(&status), &text)?;
            }
            // Watching outlives an outage: it is when one watches.
            Err(failure) if failure.retry != crate::types::Retry::Never => {
                context.output.error(&CliError::from(failure).report());
            }
            Err(failure) => return Err(failure.into()),
        }
        tokio::time::sleep(every).await;
    }
}
