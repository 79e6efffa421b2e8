//! Nodes, transfers, snapshots and digests as people and scripts see them.
//!
//! Pure: from what the API answered to text and JSON. Field names carry their units.

use serde_json::{Value, json};

use super::text;
use crate::proto::v1;

/// The role's name, lower case.
pub fn role(role: i32) -> &'static str {
    match v1::NodeRole::try_from(role) {
        Ok(v1::NodeRole::Enrolled) => "enrolled",
        Ok(v1::NodeRole::Learner) => "learner",
        Ok(v1::NodeRole::Follower) => "follower",
        Ok(v1::NodeRole::Candidate) => "candidate",
        Ok(v1::NodeRole::Leader) => "leader",
        Ok(v1::NodeRole::Unspecified) | Err(_) => "unknown",
    }
}

fn addresses(addresses: Option<&v1::Addresses>) -> v1::Addresses {
    addresses.cloned().unwrap_or_default()
}

/// The whole status as one document.
pub fn status_document(status: &v1::StatusResponse) -> Value {
    json!({
        "cluster_id": status.cluster_id,
        "leader": status.leader,
        "nodes": status.nodes.iter().map(node_status).collect::<Vec<_>>(),
        "transfers": transfers_of(status).into_iter().map(transfer).collect::<Vec<_>>(),
        "pins": pins_of(status).iter().map(pin).collect::<Vec<_>>(),
    })
}

fn node_status(node: &v1::NodeStatus) -> Value {
    let addresses = addresses(node.addresses.as_ref());
    json!({
        "id": node.id,
        "addresses": {"raft": addresses.raft, "bulk": addresses.bulk, "api": addresses.api},
        "reachable": node.reachable,
        "role": role(node.role),
        "term": node.term,
        "first_index": node.first_index,
        "last_index": node.last_index,
        "commit_index": node.commit_index,
        "applied_index": node.applied_index,
        "flushed_index": node.flushed_index,
        "matched_index": node.matched_index,
        "log_bytes": node.log_bytes,
        "state_bytes": node.state_bytes,
        "uptime_ms": node.uptime_ms,
        "version": node.version,
        "elections": node.elections,
        "resident_bytes": node.resident_bytes,
        "resident_peak_bytes": node.resident_peak_bytes,
        "free_bytes": node.free_bytes,
    })
}

/// The whole status as text: the cluster, its nodes, every transfer under way, and the pins.
pub fn status_text(status: &v1::StatusResponse) -> String {
    let leader = match status.leader {
        0 => "none is known".to_owned(),
        leader => format!("node {leader}"),
    };
    let mut lines = vec![
        format!("cluster  {}", status.cluster_id),
        format!("leader   {leader}"),
        String::new(),
        nodes_table(status),
    ];
    let (under_way, finished): (Vec<_>, Vec<_>) =
        transfers_of(status).into_iter().partition(|transfer| transfer.finished_unix_ms == 0);
    if !under_way.is_empty() {
        lines.push(String::new());
        lines.push(transfers_text(&under_way));
    }
    let pins = pins_of(status);
    if !pins.is_empty() {
        lines.push(String::new());
        lines.extend(pins.iter().map(pin_text));
    }
    if !finished.is_empty() {
        lines.push(String::new());
        let shown = "shown by `ratoon transfer list`";
        lines.push(match finished.len() {
            1 => format!("1 finished transfer, {shown}"),
            many => format!("{many} finished transfers, {shown}"),
        });
    }
    lines.join("\n")
}

fn nodes_table(status: &v1::StatusResponse) -> String {
    let header = [
        "NODE", "ROLE", "API", "TERM", "COMMIT", "APPLIED", "FLUSHED", "LOG", "STATE", "UP",
        "VERSION",
    ];
    let rows = status.nodes.iter().map(|node| {
        let address = addresses(node.addresses.as_ref()).api;
        let mut row = vec![node.id.to_string(), role(node.role).to_owned(), address];
        if !node.reachable {
            row.push(match node.matched_index {
                0 => "unreachable".to_owned(),
                index => format!("unreachable, matched {index}"),
            });
            return row;
        }
        row.extend([
            node.term.to_string(),
            node.commit_index.to_string(),
            node.applied_index.to_string(),
            node.flushed_index.to_string(),
            format!("{}..{} {}", node.first_index, node.last_index, text::size(node.log_bytes)),
            text::size(node.state_bytes),
            text::seconds(node.uptime_ms),
            node.version.clone(),
        ]);
        row
    });
    text::table(&header, &[0], rows.collect())
}

/// Every transfer, by receiver; each is told by its receiver alone.
fn transfers_of(status: &v1::StatusResponse) -> Vec<&v1::Transfer> {
    let mut transfers: Vec<&v1::Transfer> =
        status.nodes.iter().flat_map(|node| &node.transfers).collect();
    transfers.sort_by_key(|transfer| (transfer.receiver, transfer.started_unix_ms));
    transfers
}

/// The pins as the node has them that has applied most: they are replicated.
fn pins_of(status: &v1::StatusResponse) -> &[v1::Pin] {
    let newest = status.nodes.iter().max_by_key(|node| node.applied_index);
    newest.map_or(&[], |node| &node.pins)
}

fn pin(pin: &v1::Pin) -> Value {
    json!({
        "receiver": pin.receiver,
        "index": pin.index,
        "snapshot_id": pin.snapshot_id,
        "source": pin.source,
        "age_ms": pin.age_ms,
    })
}

fn pin_text(pin: &v1::Pin) -> String {
    let snapshot = match pin.snapshot_id.get(..12) {
        Some(id) => format!("snapshot {id} on node {}", pin.source),
        None => "no snapshot yet".to_owned(),
    };
    let age = text::seconds(pin.age_ms);
    format!(
        "pin       for node {}: the log above index {}, {snapshot}; renewed {age} ago",
        pin.receiver, pin.index
    )
}

/// A transfer as a document.
pub fn transfer(transfer: &v1::Transfer) -> Value {
    json!({
        "snapshot_id": transfer.snapshot_id,
        "index": transfer.index,
        "receiver": transfer.receiver,
        "source": transfer.source,
        "state": transfer.state,
        "total_bytes": transfer.total_bytes,
        "done_bytes": transfer.done_bytes,
        "bytes_per_second": transfer.bytes_per_second,
        "eta_ms": match transfer.eta_ms { 0 => None, eta_ms => Some(eta_ms) },
        "resumed_from_bytes": transfer.resumed_from_bytes,
        "resumes": transfer.resumes,
        "resent_bytes": transfer.resent_bytes,
        "discarded_bytes": transfer.discarded_bytes,
        "reused_bytes": transfer.reused_bytes,
        "received_bytes": transfer.received_bytes,
        "stall_reason": transfer.stall_reason,
        "message_bytes": transfer.message_bytes,
        "failure": transfer.failure,
        "started_unix_ms": transfer.started_unix_ms,
        "finished_unix_ms": transfer.finished_unix_ms,
    })
}

/// Transfers as text, a few lines each.
pub fn transfers_text(transfers: &[&v1::Transfer]) -> String {
    let blocks: Vec<String> = transfers.iter().map(|transfer| transfer_text(transfer)).collect();
    blocks.join("\n")
}

fn transfer_text(transfer: &v1::Transfer) -> String {
    let id: String = transfer.snapshot_id.chars().take(12).collect();
    let mut moving = vec![format!(
        "{} of {} ({})",
        text::size(transfer.done_bytes),
        text::size(transfer.total_bytes),
        text::percent(transfer.done_bytes, transfer.total_bytes)
    )];
    if transfer.finished_unix_ms != 0 {
        let took = transfer.finished_unix_ms.saturating_sub(transfer.started_unix_ms);
        moving.push(format!("took {}", text::seconds(took)));
    } else {
        moving.push(text::rate(transfer.bytes_per_second));
        let eta = match transfer.eta_ms {
            0 => "unknown".to_owned(),
            eta_ms => text::seconds(eta_ms),
        };
        moving.push(format!("ETA {eta}"));
    }
    let waste = format!(
        "resumes {} (last from {}), re-sent {}, discarded {}, reused {}, received {}",
        transfer.resumes,
        text::size(transfer.resumed_from_bytes),
        text::size(transfer.resent_bytes),
        text::size(transfer.discarded_bytes),
        text::size(transfer.reused_bytes),
        text::size(transfer.received_bytes),
    );
    let mut lines = vec![
        format!(
            "transfer  node {} -> node {}  {}  snapshot {id} at index {}",
            transfer.source, transfer.receiver, transfer.state, transfer.index
        ),
        format!("          {}", moving.join(", ")),
        format!("          {waste}"),
    ];
    if !transfer.stall_reason.is_empty() {
        lines.push(format!("          stalled: {}", transfer.stall_reason));
    }
    if !transfer.failure.is_empty() {
        lines.push(format!("          failed: {}", transfer.failure));
    }
    lines.join("\n")
}

/// A node of the membership list.
pub fn node(node: &v1::Node) -> Value {
    let addresses = addresses(node.addresses.as_ref());
    json!({
        "id": node.id,
        "role": role(node.role),
        "addresses": {"raft": addresses.raft, "bulk": addresses.bulk, "api": addresses.api},
    })
}

/// The membership list.
pub fn nodes_text(nodes: &[v1::Node]) -> String {
    let rows = nodes.iter().map(|node| {
        let addresses = addresses(node.addresses.as_ref());
        vec![
            node.id.to_string(),
            role(node.role).to_owned(),
            addresses.api,
            addresses.raft,
            addresses.bulk,
        ]
    });
    text::table(&["NODE", "ROLE", "API", "RAFT", "BULK"], &[0], rows.collect())
}

/// A stored snapshot of node `node`.
pub fn snapshot(node: u64, snapshot: &v1::Snapshot) -> Value {
    json!({
        "node": node,
        "id": snapshot.id,
        "index": snapshot.index,
        "term": snapshot.term,
        "bytes": snapshot.bytes,
        "parts": snapshot.parts,
        "created_unix_ms": snapshot.created_unix_ms,
        "pinned_for": snapshot.pinned_for,
    })
}

/// Stored snapshots with the nodes that hold them.
pub fn snapshots_text(snapshots: &[(u64, v1::Snapshot)]) -> String {
    let rows = snapshots.iter().map(|(node, snapshot)| {
        let pins: Vec<String> = snapshot.pinned_for.iter().map(u64::to_string).collect();
        vec![
            node.to_string(),
            snapshot.id.clone(),
            snapshot.index.to_string(),
            text::size(snapshot.bytes),
            snapshot.parts.to_string(),
            text::time(snapshot.created_unix_ms),
            pins.join(","),
        ]
    });
    let header = ["NODE", "ID", "INDEX", "SIZE", "PARTS", "CREATED", "PINNED FOR"];
    text::table(&header, &[0, 2, 3, 4], rows.collect())
}

/// What a comparison of content digests amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// Every node answered, and all alike.
    Equal,
    /// Two nodes that answered differ.
    Different,
    /// Those that answered are alike, but not all answered: that is no pass.
    Incomplete,
}

/// Compares what the nodes answered.
pub fn compare(digests: &[v1::NodeDigest]) -> Comparison {
    let mut answered = digests.iter().filter(|digest| digest.error.is_empty());
    let Some(first) = answered.next() else { return Comparison::Incomplete };
    let fingerprint =
        |digest: &v1::NodeDigest| (digest.digest.clone(), digest.records, digest.bytes);
    if answered.any(|digest| fingerprint(digest) != fingerprint(first)) {
        return Comparison::Different;
    }
    match digests.iter().all(|digest| digest.error.is_empty()) {
        true => Comparison::Equal,
        false => Comparison::Incomplete,
    }
}

/// The comparison as a document.
pub fn digest_document(response: &v1::DigestResponse) -> Value {
    let digests = response.digests.iter().map(|digest| {
        json!({
            "node": digest.id,
            "digest": data_encoding::HEXLOWER.encode(&digest.digest),
            "records": digest.records,
            "bytes": digest.bytes,
            "error": digest.error,
        })
    });
    json!({
        "index": response.index,
        "equal": compare(&response.digests) == Comparison::Equal,
        "digests": digests.collect::<Vec<_>>(),
    })
}

/// The comparison as text.
pub fn digest_text(response: &v1::DigestResponse) -> String {
    let rows = response.digests.iter().map(|digest| match digest.error.is_empty() {
        true => vec![
            digest.id.to_string(),
            digest.records.to_string(),
            text::size(digest.bytes),
            data_encoding::HEXLOWER.encode(&digest.digest),
        ],
        false => {
            let blank = || "-".to_owned();
            vec![digest.id.to_string(), blank(), blank(), format!("not compared: {}", digest.error)]
        }
    });
    let table = text::table(&["NODE", "RECORDS", "SIZE", "DIGEST"], &[0, 1, 2], rows.collect());
    format!("content at index {}\n{table}", response.index)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn digest(id: u64, byte: u8, error: &str) -> v1::NodeDigest {
        let mut digest = v1::NodeDigest { id, digest: vec![byte].into(), ..Default::default() };
        digest.error = error.to_owned();
        digest
    }

    #[test]
    fn only_a_full_and_equal_answer_is_a_pass() {
        let down = "no answer";
        assert_eq!(compare(&[digest(1, 7, ""), digest(2, 7, "")]), Comparison::Equal);
        assert_eq!(compare(&[digest(1, 7, ""), digest(2, 8, "")]), Comparison::Different);
        assert_eq!(compare(&[digest(1, 7, ""), digest(2, 7, down)]), Comparison::Incomplete);
        assert_eq!(compare(&[digest(1, 7, down)]), Comparison::Incomplete);
        assert_eq!(compare(&[]), Comparison::Incomplete);
        let worst = [digest(1, 7, ""), digest(2, 7, down), digest(3, 8, "")];
        assert_eq!(compare(&worst), Comparison::Different);
    }

    fn status() -> v1::StatusResponse {
        let transfer = v1::Transfer {
            snapshot_id: "ab".repeat(32),
            receiver: 4,
            source: 1,
            state: "Pulling".into(),
            total_bytes: 200 << 20,
            done_bytes: 50 << 20,
            bytes_per_second: 5 << 20,
            eta_ms: 30_000,
            resumes: 2,
            resumed_from_bytes: 40 << 20,
            resent_bytes: 1 << 20,
            stall_reason: "the source is silent".into(),
            started_unix_ms: 5,
            ..Default::default()
        };
        let pin = v1::Pin {
            receiver: 4,
            index: 12,
            snapshot_id: "ab".repeat(32),
            source: 1,
            age_ms: 3_000,
        };
        let node = |id, reachable| v1::NodeStatus {
            id,
            reachable,
            role: v1::NodeRole::Follower.into(),
            transfers: if id == 4 { vec![transfer.clone()] } else { Vec::new() },
            pins: if id == 4 { Vec::new() } else { vec![pin.clone()] },
            applied_index: 20 - id,
            matched_index: 9,
            ..Default::default()
        };
        v1::StatusResponse {
            cluster_id: "c1".into(),
            leader: 1,
            nodes: vec![node(1, true), node(4, false)],
        }
    }

    #[test]
    fn the_status_shows_each_transfer_with_its_waste_its_stall_and_its_pin() {
        let text = status_text(&status());
        assert_eq!(text.matches("transfer  node 1 -> node 4  Pulling").count(), 1, "{text}");
        for expected in [
            "50.00 MiB of 200.00 MiB (25.0 %), 5.00 MiB/s, ETA 30s",
            "resumes 2 (last from 40.00 MiB), re-sent 1.00 MiB",
            "stalled: the source is silent",
            "unreachable, matched 9",
            "pin       for node 4: the log above index 12, snapshot abababababab on node 1; renewed 3s",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
        let mut done = status();
        done.nodes[1].transfers[0].finished_unix_ms = 9;
        let text = status_text(&done);
        assert!(text.contains("1 finished transfer, shown by `ratoon transfer list`"), "{text}");
        assert!(!text.contains("transfer  node 1"), "{text}");
    }

    #[test]
    fn documents_name_their_units_and_unknowns() {
        let document = status_document(&status());
        assert_eq!(document["transfers"].as_array().unwrap().len(), 1);
        assert_eq!(document["transfers"][0]["done_bytes"], 50 << 20);
        assert_eq!(document["pins"][0]["age_ms"], 3_000);
        assert_eq!(document["nodes"][0]["role"], "follower");
        let idle = transfer(&v1::Transfer::default());
        assert!(idle["eta_ms"].is_null());
    }
}
