//! What a node tells of itself and of its cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::inbox::Clock;
use super::shared::{Published, Shared};
use super::{calls, process};
use crate::proto::v1;
use crate::state::read;
use crate::types::{ConfState, Index, Node, NodeId, Role};

/// How often a digest is looked for while the entry that asks for it is on its way here.
const DIGEST_POLL: Duration = Duration::from_millis(20);
/// How long a digest's entry may be on its way.
const DIGEST_POLLS_MAX: usize = 1500;

/// This node's own status.
pub(super) fn local(shared: &Shared) -> v1::NodeStatus {
    let published = shared.published.borrow().clone();
    let memory = process::memory();
    let state_bytes =
        shared.live.current().and_then(|(_, db)| db.approximate_bytes().ok()).unwrap_or(0);
    v1::NodeStatus {
        id: shared.id().0,
        addresses: Some(addresses(&shared.options.addresses)),
        reachable: true,
        role: role_to_proto(published.standing.role).into(),
        term: published.standing.term,
        first_index: published.first_index,
        last_index: published.last_index,
        commit_index: published.commit_index,
        applied_index: published.applied_index,
        flushed_index: published.flushed_index,
        log_bytes: published.log_bytes,
        state_bytes,
        matched_index: 0,
        uptime_ms: shared.started.elapsed().as_millis() as u64,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        transfers: shared.snapshots.transfers(),
        elections: published.standing.elections,
        resident_bytes: memory.resident_bytes,
        resident_peak_bytes: memory.resident_peak_bytes,
        pins: pins(shared),
        // Shown, never relied on: what stops at a full disk asks for itself.
        free_bytes: shared.data.free_bytes().unwrap_or(0),
    }
}

/// Pins as the state has them. A state that cannot be read halts the node elsewhere; here it has none.
fn pins(shared: &Shared) -> Vec<v1::Pin> {
    let Some((_, db)) = shared.live.current() else { return Vec::new() };
    let now = Clock::new().now().unix_ms;
    let pins = read::pins(&*db.view()).unwrap_or_default();
    pins.into_iter()
        .map(|pin| v1::Pin {
            receiver: pin.receiver.0,
            index: pin.index,
            snapshot_id: pin.snapshot.map_or_else(String::new, |(id, _)| id.to_string()),
            source: pin.snapshot.map_or(0, |(_, source)| source.0),
            age_ms: now.saturating_sub(pin.renewed_unix_ms),
        })
        .collect()
}

/// The status of all nodes that answer, and what is known of the others.
pub(super) async fn cluster(shared: &Arc<Shared>, only_local: bool) -> v1::StatusResponse {
    let published = shared.published.borrow().clone();
    let mut statuses = vec![local(shared)];
    if !only_local {
        let others: Vec<Node> =
            shared.nodes.borrow().iter().filter(|node| node.id != shared.id()).cloned().collect();
        let answers = others
            .iter()
            .map(|node| async move { (node, calls::status_of(shared, node.id).await) });
        for (node, answer) in join_all(answers).await {
            statuses.push(answer.unwrap_or_else(|_| unreachable_status(node, &published)));
        }
        fill_matched(shared, &published, &mut statuses).await;
    }
    statuses.sort_by_key(|status| status.id);
    v1::StatusResponse {
        cluster_id: shared.identity.cluster().to_string(),
        leader: published.standing.leader.map_or(0, |leader| leader.0),
        nodes: statuses,
    }
}

/// Only the leader knows what its followers hold: a leader fills in its own view, and others show
/// what each node says it has.
async fn fill_matched(shared: &Shared, published: &Published, statuses: &mut [v1::NodeStatus]) {
    let matched: BTreeMap<u64, Index> =
        published.matched.iter().map(|(node, index)| (node.0, *index)).collect();
    for status in statuses {
        status.matched_index = match matched.get(&status.id) {
            Some(index) => *index,
            None if status.id == shared.id().0 => status.last_index,
            None => 0,
        };
    }
}

fn unreachable_status(node: &Node, published: &Published) -> v1::NodeStatus {
    v1::NodeStatus {
        id: node.id.0,
        addresses: Some(addresses(&node.addresses)),
        reachable: false,
        role: role_to_proto(role_of(node.id, &published.standing.conf_state, None)).into(),
        ..v1::NodeStatus::default()
    }
}

/// All enrolled nodes, with the role that membership gives them.
pub(super) fn nodes(shared: &Shared) -> Vec<v1::Node> {
    let standing = shared.published.borrow().standing.clone();
    let nodes = shared.nodes.borrow();
    nodes
        .iter()
        .map(|node| v1::Node {
            id: node.id.0,
            addresses: Some(addresses(&node.addresses)),
            role: role_to_proto(role_of(node.id, &standing.conf_state, standing.leader)).into(),
        })
        .collect()
}

/// This node's content digest at `index`, once it is there.
pub(super) async fn local_digest(shared: &Shared, index: Index) -> v1::NodeDigest {
    let mut answer = v1::NodeDigest { id: shared.id().0, ..v1::NodeDigest::default() };
    for _ in 0..DIGEST_POLLS_MAX {
        match shared.digests.wait(index).await {
            Some(Ok(digest)) => {
                answer.digest = bytes::Bytes::copy_from_slice(&digest.digest.0);
                answer.records = digest.records;
                answer.bytes = digest.bytes;
                return answer;
            }
            Some(Err(error)) => {
                answer.error = error;
                return answer;
            }
            None if shared.published.borrow().applied_index > index => {
                // A moment more: the applied index is published after the digest has begun.
                tokio::time::sleep(DIGEST_POLL).await;
                if shared.digests.wait(index).await.is_none() {
                    answer.error = format!("the state is past index {index} already");
                    return answer;
                }
            }
            None => tokio::time::sleep(DIGEST_POLL).await,
        }
    }
    answer.error = format!("index {index} was not reached in time");
    answer
}

fn role_of(node: NodeId, conf_state: &ConfState, leader: Option<NodeId>) -> Role {
    if leader == Some(node) {
        Role::Leader
    } else if conf_state.voters.contains(&node.0) {
        Role::Follower
    } else if conf_state.contains(node) {
        Role::Learner
    } else {
        Role::Enrolled
    }
}

fn role_to_proto(role: Role) -> v1::NodeRole {
    match role {
        Role::Enrolled => v1::NodeRole::Enrolled,
        Role::Learner => v1::NodeRole::Learner,
        Role::Follower => v1::NodeRole::Follower,
        Role::Candidate => v1::NodeRole::Candidate,
        Role::Leader => v1::NodeRole::Leader,
    }
}

pub(super) fn addresses(from: &crate::types::Addresses) -> v1::Addresses {
    v1::Addresses { raft: from.raft.clone(), bulk: from.bulk.clone(), api: from.api.clone() }
}
