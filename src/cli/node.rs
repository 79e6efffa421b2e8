//! `node list|promote|remove|transfer-leader`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::failure::CliError;
use super::view;
use crate::types::NodeId;

/// What can be done to nodes.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the nodes with their roles and addresses.
    List,
    /// Make a learner a voter; it must be near the commit index.
    Promote(Target),
    /// Take a node out of the cluster, for ever.
    #[command(
        after_help = "The node's data is of no use afterwards: to come back, the machine joins anew."
    )]
    Remove(Target),
    /// Hand leadership to a voter.
    TransferLeader(Target),
}

/// One node.
#[derive(Debug, Args)]
pub struct Target {
    /// Id of the node, as `ratoon node list` shows it.
    #[arg(value_name = "NODE", value_parser = node_id)]
    node: NodeId,
}

/// Parses a node id; also for other verbs' flags.
pub fn node_id(text: &str) -> Result<NodeId, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a node id is a number from 1; `ratoon node list` shows them".into()),
        Ok(id) => Ok(NodeId(id)),
    }
}

/// Runs it.
pub async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    let output = context.output;
    let client = context.default_client()?;
    match verb {
        Verb::List => {
            let nodes = client.list_nodes().await?;
            let documents: Vec<Value> = nodes.iter().map(view::node).collect();
            output.result(json!({"nodes": documents}), &view::nodes_text(&nodes))
        }
        Verb::Promote(Target { node }) => {
            let index = client.promote_node(node).await?;
            let document = json!({"node": node.0, "index": index});
            output.result(document, &format!("node {node} is a voter"))
        }
        Verb::Remove(Target { node }) => {
            let index = client.remove_node(node).await?;
            let document = json!({"node": node.0, "index": index});
            output.result(document, &format!("node {node} has left the cluster"))
        }
        Verb::TransferLeader(Target { node }) => {
            let leader = client.transfer_leader(node).await?;
            output.result(json!({"leader": leader.0}), &format!("node {leader} leads"))
        }
    }
}
