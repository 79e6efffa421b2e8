//! `transfer list|cancel|limit`: pulls of snapshots between nodes.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::{Context, unreachable_nodes};
use super::failure::CliError;
use super::node::node_id;
use super::{parse, text, view};
use crate::types::NodeId;

/// What can be done to transfers.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List transfers under way and the last finished ones.
    List,
    /// End the pull of a node; it starts anew when the leader offers a snapshot again.
    Cancel {
        /// The node that pulls.
        #[arg(value_name = "NODE", value_parser = node_id)]
        receiver: NodeId,
    },
    /// Limit the bulk bytes a second that each node sends and receives.
    #[command(after_help = LIMIT_EXAMPLES)]
    Limit(LimitArguments),
}

const LIMIT_EXAMPLES: &str = "\
Traffic of raft is never limited. The limit lasts until the node restarts.

Examples:
  ratoon transfer limit 20MiB
  ratoon transfer limit 500KB --node 4
  ratoon transfer limit none";

/// What `transfer limit` takes.
#[derive(Debug, Args)]
pub struct LimitArguments {
    /// Bytes a second, for example 20MiB; `none` lifts the limit.
    #[arg(value_name = "RATE", value_parser = parse::byte_rate)]
    bytes_per_second: u64,
    /// Limit this node alone.
    #[arg(long, value_name = "NODE", value_parser = node_id)]
    node: Option<NodeId>,
}

/// Runs it.
pub async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    let output = context.output;
    match verb {
        Verb::List => {
            let transfers = context.default_client()?.list_transfers().await?;
            let documents: Vec<Value> = transfers.iter().map(view::transfer).collect();
            let text = match transfers.is_empty() {
                true => "no transfers".to_owned(),
                false => view::transfers_text(&transfers.iter().collect::<Vec<_>>()),
            };
            output.result(json!({"transfers": documents}), &text)
        }
        Verb::Cancel { receiver } => {
            context.default_client()?.cancel_transfer(receiver).await?;
            let text = format!("cancelled the pull of node {receiver}");
            output.result(json!({"receiver": receiver.0}), &text)
        }
        Verb::Limit(arguments) => limit(context, &arguments).await,
    }
}

async fn limit(context: &Context, arguments: &LimitArguments) -> Result<(), CliError> {
    let members = context.members(arguments.node).await?;
    let (mut documents, mut lines) = (Vec::new(), Vec::new());
    for member in &members.reachable {
        let rate = member.client.limit_transfers(arguments.bytes_per_second).await?;
        documents.push(json!({"node": member.id.0, "bytes_per_second": rate}));
        let shown = match rate {
            0 => "no limit".to_owned(),
            rate => text::rate(rate),
        };
        lines.push(format!("node {}  {shown}", member.id));
    }
    context.output.result(json!({"nodes": documents}), &lines.join("\n"))?;
    match members.unreachable.is_empty() {
        true => Ok(()),
        false => Err(unreachable_nodes(&members.unreachable)),
    }
}
