//! `join`: enrols this machine in a cluster, and exits.

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::failure::CliError;
use super::init::quoted;
use super::node_flags::NodeFlags;
use crate::server;
use crate::types::{Failure, JoinToken};

const EXAMPLES: &str = "\
Gets the node's identity from the cluster and writes it to the data directory with ratoon.toml.
Done already, it changes nothing. `ratoon start --join TOKEN` does the same and runs the node.

Example:
  ratoon join --data /var/lib/ratoon --advertise-raft node4:7400 \\
      --advertise-bulk node4:7401 --advertise-api node4:7402 \"$TOKEN\"";

/// What `join` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The token that `ratoon token create` printed.
    #[arg(value_parser = join_token, env = "RATOON_JOIN", hide_env_values = true)]
    token: JoinToken,
    #[command(flatten)]
    node: NodeFlags,
}

/// Parses a token; also for `start --join`.
pub fn join_token(text: &str) -> Result<JoinToken, String> {
    text.parse().map_err(|failure: Failure| format!("{}; {}", failure.message, failure.hint))
}

/// Runs it.
pub async fn run(context: &Context, arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.node.config()?;
    let node = server::join(&config, &arguments.token).await?;
    let data = config.data.display().to_string();
    let next = format!("ratoon start --data {}", quoted(&data));
    let document = json!({
        "cluster_id": arguments.token.cluster.to_string(),
        "node": node.0,
        "data": data,
        "next_command": next,
    });
    let text = format!(
        "enrolled as node {node} of cluster {}\n\nstart it:\n\n  {next}",
        arguments.token.cluster
    );
    context.output.result(document, &text)
}
