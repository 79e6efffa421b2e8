//! `snapshot list|create|verify`: what is stored on the nodes.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::{Context, Members, unreachable_nodes};
use super::failure::CliError;
use super::node::node_id;
use super::{text, view};
use crate::proto::v1;
use crate::types::{Code, Failure, NodeId, Retry, SnapshotId};

/// What can be done to snapshots.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List stored snapshots.
    List(OneNode),
    /// Build a snapshot of a node's state now; of the leader's, unless told otherwise.
    Create(OneNode),
    /// Read every byte of a stored snapshot and check it, on each node that holds it.
    #[command(
        after_help = "Exit code 1: the snapshot is damaged somewhere; 4: not all nodes could be asked."
    )]
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
            let mut members = context.members(one.node).await?;
            let snapshots = list(context, &mut members).await?;
            let documents: Vec<Value> =
                snapshots.iter().map(|(node, snapshot)| view::snapshot(*node, snapshot)).collect();
            let document =
                json!({"snapshots": documents, "unreachable_nodes": members.unreachable_ids()});
            context.output.result(document, &view::snapshots_text(&snapshots))
        }
        Verb::Create(one) => create(context, one.node).await,
        Verb::Verify(arguments) => verify(context, &arguments).await,
    }
}

/// The snapshots of all members that answer; those that do not are named on stderr, and are among
/// the unreachable ones afterwards.
async fn list(
    context: &Context,
    members: &mut Members,
) -> Result<Vec<(u64, v1::Snapshot)>, CliError> {
    let mut all = Vec::new();
    let mut silent = Vec::new();
    for member in &members.reachable {
        match member.client.list_snapshots().await {
            Ok(snapshots) => {
                all.extend(snapshots.into_iter().map(|snapshot| (member.id.0, snapshot)));
            }
            Err(failure) if failure.retry == Retry::Later => silent.push(member.id),
            Err(failure) => return Err(failure.into()),
        }
    }
    members.lose(&silent);
    for node in &members.unreachable {
        context.output.note(&format!("node {node} does not answer"));
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
    let mut members = context.members(arguments.one.node).await?;
    let snapshots = list(context, &mut members).await?;
    let holders = match holders(&snapshots, &arguments.id) {
        Ok(holders) => holders,
        // One of those that did not answer may hold it.
        Err(_) if snapshots_are_unknown(&snapshots, &arguments.id, &members) => {
            return Err(unreachable_nodes(&members.unreachable));
        }
        Err(error) => return Err(error),
    };
    let mut verdict = Verdict::default();
    for member in members.reachable.iter().filter(|member| holders.nodes.contains(&member.id.0)) {
        match context.patient(&member.client).verify_snapshot(holders.id).await {
            Ok(answer) => verdict.answers.push((member.id, answer)),
            // It has dropped the snapshot since it listed it.
            Err(failure) if failure.code == Code::SnapshotNotFound => {}
            Err(failure) if failure.retry == Retry::Later => verdict.unreachable.push(member.id),
            Err(failure) => return Err(failure.into()),
        }
    }
    verdict.unreachable.extend(&members.unreachable);
    context.output.result(verdict.document(holders.id), &verdict.text())?;
    verdict.judge(holders.id)
}

/// Whether nothing is known of such a snapshot, while there are nodes that could not be asked.
fn snapshots_are_unknown(
    snapshots: &[(u64, v1::Snapshot)],
    prefix: &str,
    members: &Members,
) -> bool {
    let prefix = prefix.to_ascii_lowercase();
    !members.unreachable.is_empty()
        && !snapshots.iter().any(|(_, snapshot)| snapshot.id.starts_with(&prefix))
}

/// What the nodes found.
#[derive(Default)]
struct Verdict {
    /// Those that have read it.
    answers: Vec<(NodeId, v1::VerifySnapshotResponse)>,
    /// Those that could not be asked, and may hold it.
    unreachable: Vec<NodeId>,
}

impl Verdict {
    fn is_damaged(&self) -> bool {
        self.answers.iter().any(|(_, answer)| !answer.ok)
    }

    /// Silence is no pass.
    fn is_good(&self) -> bool {
        !self.is_damaged() && !self.answers.is_empty() && self.unreachable.is_empty()
    }

    fn document(&self, id: SnapshotId) -> Value {
        let answers = self.answers.iter().map(|(node, answer)| {
            json!({
                "node": node.0,
                "ok": answer.ok,
                "bytes": answer.bytes,
                "problems": answer.problems,
            })
        });
        let unreachable: Vec<u64> = self.unreachable.iter().map(|node| node.0).collect();
        json!({
            "id": id.to_string(),
            "ok": self.is_good(),
            "nodes": answers.collect::<Vec<_>>(),
            "unreachable_nodes": unreachable,
        })
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        for (node, answer) in &self.answers {
            let verdict = if answer.ok { "good" } else { "DAMAGED" };
            lines.push(format!("node {node}  {verdict}  {}", text::size(answer.bytes)));
            lines.extend(answer.problems.iter().map(|problem| format!("  {problem}")));
        }
        lines.extend(self.unreachable.iter().map(|node| format!("node {node}  not asked")));
        lines.join("\n")
    }

    fn judge(&self, id: SnapshotId) -> Result<(), CliError> {
        if self.is_damaged() {
            return Err(CliError::Negative {
                code: "snapshot_damaged",
                message: format!("snapshot {id} is damaged"),
                hint: "check that node's disk; `ratoon snapshot create` builds a new one"
                    .to_owned(),
            });
        }
        if !self.unreachable.is_empty() {
            return Err(unreachable_nodes(&self.unreachable));
        }
        if self.answers.is_empty() {
            let message = format!("no node holds snapshot {id} any more, so nothing was verified");
            return Err(Failure::new(Code::SnapshotNotFound, message).into());
        }
        Ok(())
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
    fn only_a_snapshot_that_somebody_read_and_nobody_failed_to_read_is_good() {
        let id: SnapshotId = "ab".repeat(32).parse().unwrap();
        let answer = |ok| v1::VerifySnapshotResponse { ok, ..Default::default() };
        let judged = |answers: &[bool], unreachable: &[u64]| {
            let answers = answers.iter().map(|ok| (NodeId(1), answer(*ok))).collect();
            let unreachable = unreachable.iter().map(|node| NodeId(*node)).collect();
            let verdict = Verdict { answers, unreachable };
            let document = verdict.document(id);
            assert_eq!(document["ok"] == true, verdict.judge(id).is_ok());
            verdict.judge(id).map_or_else(|error| error.report().exit, |()| 0)
        };
        assert_eq!(judged(&[true, true], &[]), 0);
        assert_eq!(judged(&[true, false], &[]), 1);
        assert_eq!(judged(&[false], &[3]), 1);
        assert_eq!(judged(&[true], &[3]), 4);
        assert_eq!(judged(&[], &[3]), 4);
        assert_eq!(judged(&[], &[]), 1, "nothing was verified");
    }

    #[test]
    fn the_first_digits_name_a_snapshot_if_no_other_shares_them() {
        let snapshot = |id: &str| v1::Snapshot { id: id.repeat(32), ..Default::default() };
        let all = [(1, snapshot("ab")), (2, snapshot("ab")), (2, snapshot("ac"))];
        assert_eq!(holders(&all, "AB").unwrap().nodes, [1, 2]);
        assert_eq!(holders(&all, "a").unwrap_err().report().exit, 2);
        assert_eq!(holders(&all, "ff").unwrap_err().report().exit, 1);
    }
}
