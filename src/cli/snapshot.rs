//! `snapshot list|create|verify`: what is stored on the nodes.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::{Context, unreachable_nodes};
use super::failure::CliError;
use super::node::node_id;
use super::{text, view};
use crate::proto::v1;
use crate::types::{Code, Failure, NodeId, SnapshotId};

/// What can be done to snapshots.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List stored snapshots.
    List(OneNode),
    /// Build a snapshot of a node's state now; of the leader's, unless told otherwise.
    Create(OneNode),
    /// Read every byte of a stored snapshot and check it, on each node that holds it.
    #[command(after_help = "Exit code 1: the snapshot is damaged somewhere.")]
    Verify(VerifyArguments),
}

/// Which node to ask.
#[derive(Debug, Args)]
pub struct OneNode {
    /// Ask this node alone.
    #[arg(long, value_name = "NODE", value_parser = node_id)]
    node: Option<NodeId>,
}

/// What `snapshot verify` takes.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The snapshot, as `ratoon snapshot list` shows it; its first digits do.
    id: String,
    #[command(flatten)]
    one: OneNode,
}

/// Runs it.
pub async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::List(one) => {
            let snapshots = list(context, one.node).await?;
            let documents: Vec<Value> =
                snapshots.iter().map(|(node, snapshot)| view::snapshot(*node, snapshot)).collect();
            let text = view::snapshots_text(&snapshots);
            context.output.result(json!({"snapshots": documents}), &text)
        }
        Verb::Create(one) => create(context, one.node).await,
        Verb::Verify(arguments) => verify(context, &arguments).await,
    }
}

/// The snapshots of all nodes that answer; those that do not are named on stderr.
async fn list(
    context: &Context,
    one: Option<NodeId>,
) -> Result<Vec<(u64, v1::Snapshot)>, CliError> {
    let members = context.members(one).await?;
    for node in &members.unreachable {
        context.output.note(&format!("node {node} does not answer"));
    }
    let mut all = Vec::new();
    for member in members.reachable {
        let snapshots = member.client.list_snapshots().await?;
        all.extend(snapshots.into_iter().map(|snapshot| (member.id.0, snapshot)));
    }
    Ok(all)
}

async fn create(context: &Context, one: Option<NodeId>) -> Result<(), CliError> {
    let members = context.members(one).await?;
    let wanted = one.or(members.leader);
    let member = members
        .reachable
        .into_iter()
        .find(|member| wanted.is_none_or(|wanted| wanted == member.id))
        .ok_or_else(|| unreachable_nodes(&members.unreachable))?;
    let created = context.patient(&member.client).create_snapshot().await?;
    let text = format!(
        "created {} on node {}: index {}, {}",
        created.id,
        member.id,
        created.index,
        text::size(created.bytes)
    );
    context.output.result(view::snapshot(member.id.0, &created), &text)
}

async fn verify(context: &Context, arguments: &VerifyArguments) -> Result<(), CliError> {
    let snapshots = list(context, arguments.one.node).await?;
    let holders = holders(&snapshots, &arguments.id)?;
    let members = context.members(arguments.one.node).await?;
    let (mut documents, mut lines, mut damaged) = (Vec::new(), Vec::new(), false);
    for member in members.reachable.iter().filter(|member| holders.nodes.contains(&member.id.0)) {
        let answer = context.patient(&member.client).verify_snapshot(holders.id).await?;
        damaged |= !answer.ok;
        let verdict = if answer.ok { "good" } else { "DAMAGED" };
        lines.push(format!("node {}  {verdict}  {}", member.id, text::size(answer.bytes)));
        lines.extend(answer.problems.iter().map(|problem| format!("  {problem}")));
        documents.push(json!({
            "node": member.id.0,
            "ok": answer.ok,
            "bytes": answer.bytes,
            "problems": answer.problems,
        }));
    }
    let document = json!({"id": holders.id.to_string(), "ok": !damaged, "nodes": documents});
    context.output.result(document, &lines.join("\n"))?;
    match damaged {
        false => Ok(()),
        true => Err(CliError::Negative {
            code: "snapshot_damaged",
            message: format!("snapshot {} is damaged", holders.id),
            hint: "check that node's disk; `ratoon snapshot create` builds a new one".to_owned(),
        }),
    }
}

/// A snapshot and the nodes that hold it.
#[derive(Debug)]
struct Holders {
    id: SnapshotId,
    nodes: Vec<u64>,
}

/// The one snapshot whose id begins with `prefix`.
fn holders(snapshots: &[(u64, v1::Snapshot)], prefix: &str) -> Result<Holders, CliError> {
    let prefix = prefix.to_ascii_lowercase();
    let matching = || snapshots.iter().filter(|(_, snapshot)| snapshot.id.starts_with(&prefix));
    let not_found =
        || Failure::new(Code::SnapshotNotFound, format!("no node holds a snapshot {prefix}"));
    let (_, first) = matching().next().ok_or_else(not_found)?;
    if matching().any(|(_, snapshot)| snapshot.id != first.id) {
        return Err(CliError::usage(
            format!("several snapshots begin with {prefix:?}"),
            "write more of its digits",
        ));
    }
    let id = first.id.parse().map_err(CliError::Defect)?;
    Ok(Holders { id, nodes: matching().map(|(node, _)| *node).collect() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_digits_name_a_snapshot_if_no_other_shares_them() {
        let snapshot = |id: &str| v1::Snapshot { id: id.repeat(32), ..Default::default() };
        let all = [(1, snapshot("ab")), (2, snapshot("ab")), (2, snapshot("ac"))];
        assert_eq!(holders(&all, "AB").unwrap().nodes, [1, 2]);
        assert_eq!(holders(&all, "a").unwrap_err().report().exit, 2);
        assert_eq!(holders(&all, "ff").unwrap_err().report().exit, 1);
    }
}
