//! Nodes, their roles, and committed log entries as the state machine sees them.

use bytes::Bytes;

use super::{Index, NodeId, SnapshotId, Term};

/// Where a node is reached: `host:port` each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// Raft endpoint, UDP.
    pub raft: String,
    /// Bulk endpoint, UDP.
    pub bulk: String,
    /// Client API, TCP.
    pub api: String,
}

impl Addresses {
    /// Hosts that the node's certificate must name, each once, the API's first.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts = Vec::new();
        for address in [&self.api, &self.raft, &self.bulk] {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let host = host.trim_matches(['[', ']']).to_owned();
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }
}

/// A node the cluster has enrolled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its raft id.
    pub id: NodeId,
    /// Where it listens.
    pub addresses: Addresses,
    /// It stays a learner until promoted by hand.
    pub learner: bool,
}

/// What a node is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Enrolled, not yet a member.
    Enrolled,
    /// Receives the log, does not vote.
    Learner,
    /// A voter that follows.
    Follower,
    /// A voter that asks for votes.
    Candidate,
    /// The leader.
    Leader,
}

/// Raft membership; the domain's own form of raft's ConfState. Lists are sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfState {
    /// Voters of the (incoming) configuration.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// Voters of the outgoing configuration while a joint change is under way.
    pub voters_outgoing: Vec<u64>,
    /// Learners to be, once the joint change ends.
    pub learners_next: Vec<u64>,
    /// Whether raft leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl ConfState {
    /// Whether `node` takes any part.
    pub fn contains(&self, node: NodeId) -> bool {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        lists.iter().any(|list| list.contains(&node.0))
    }
}

/// A change of membership, one node at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MembershipChange {
    /// Enrolled node to learner.
    AddLearner(NodeId),
    /// Learner to voter.
    Promote(NodeId),
    /// Out for ever.
    Remove(NodeId),
}

/// Log entries kept for a receiver on every node, and its snapshot on the source. Replicated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// For whom.
    pub receiver: NodeId,
    /// Entries above this index are kept.
    pub index: Index,
    /// The snapshot being pulled and the node it comes from, once known.
    pub snapshot: Option<(SnapshotId, NodeId)>,
    /// Commit time of the entry that set or renewed it.
    pub renewed_unix_ms: u64,
}

/// A committed log entry, handed from raft to the state machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Committed {
    /// Its place in the log.
    pub index: Index,
    /// The term of the leader that wrote it.
    pub term: Term,
    /// What it says.
    pub payload: Payload,
}

/// What a committed entry says.
#[derive(Clone, PartialEq, Debug)]
pub enum Payload {
    /// A new leader's first entry.
    Empty,
    /// An encoded `Entry` (time and request).
    Command(Bytes),
    /// A membership change that raft has taken; the state machine stores the result.
    ConfChange {
        /// An encoded `Entry` whose command says what changed; empty for raft's own changes.
        context: Bytes,
        /// Membership from this index on.
        conf_state: ConfState,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_of_addresses_are_named_once_without_port_and_brackets() {
        let addresses = Addresses {
            raft: "node-1.example.com:7400".into(),
            bulk: "[::1]:7401".into(),
            api: "[::1]:7402".into(),
        };
        assert_eq!(addresses.hosts(), ["::1", "node-1.example.com"]);
    }
}
