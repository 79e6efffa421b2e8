//! `start`: runs a node until SIGTERM or SIGINT.

use clap::Args;
use slog::{Logger, info, warn};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::failure::{CliError, EXIT_UNAVAILABLE};
use super::join::join_token;
use super::logging;
use super::node_flags::NodeFlags;
use crate::config;
use crate::server;
use crate::types::JoinToken;

const EXAMPLES: &str = "\
Logs go to stderr. SIGTERM or Ctrl-C ends the node in order; a second one at once, which loses
nothing that was acknowledged. With --join a machine that is not enrolled yet enrols first; one
that is, goes on as it was, so that the same command serves every start.

Examples:
  ratoon start --data /var/lib/ratoon
  ratoon start --data /var/lib/ratoon --advertise-raft node4:7400 \\
      --advertise-bulk node4:7401 --advertise-api node4:7402 --join \"$TOKEN\"";

/// What `start` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Enrol first with this token of `ratoon token create`, unless that is done.
    #[arg(long, value_name = "TOKEN", value_parser = join_token)]
    #[arg(env = "RATOON_JOIN", hide_env_values = true)]
    join: Option<JoinToken>,
    #[command(flatten)]
    node: NodeFlags,
}

/// Runs it.
pub async fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.node.config()?;
    // Dropped last, so that the last lines are written.
    let (logger, _guard) = logging::logger(&config.log);
    warn_of_unknown_environment(&logger);
    let failed = || CliError::file("could not wait for signals");
    let terminate = signal(SignalKind::terminate()).map_err(failed())?;
    let interrupt = signal(SignalKind::interrupt()).map_err(failed())?;
    let shutdown = CancellationToken::new();
    // Ends with the process at the latest; it holds nothing that must be put in order.
    tokio::spawn(end_on_signal(terminate, interrupt, shutdown.clone(), logger.clone()));
    if let Some(token) = &arguments.join {
        let joined = tokio::select! {
            joined = server::join(&config, token) => joined?,
            () = shutdown.cancelled() => return Ok(()),
        };
        info!(logger, "enrolled"; "node" => joined.0);
    }
    Ok(server::start(config, logger, shutdown).await?)
}

/// A mistyped variable that happens to be none of the settings' sections is worth a word.
fn warn_of_unknown_environment(logger: &Logger) {
    let names: Vec<String> =
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    for name in config::unknown_environment(names.iter().map(String::as_str)) {
        warn!(logger, "this variable is no setting and is passed over"; "name" => name);
    }
}

/// The first signal asks for an orderly end, the second one ends the process.
async fn end_on_signal(
    mut terminate: Signal,
    mut interrupt: Signal,
    shutdown: CancellationToken,
    logger: Logger,
) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let name = next().await;
    info!(logger, "shutting down"; "signal" => name);
    shutdown.cancel();
    next().await;
    std::process::exit(i32::from(EXIT_UNAVAILABLE));
}
