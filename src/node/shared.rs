//! What all parts of a running node share.

use std::sync::Arc;
use std::time::Instant;

use slog::Logger;
use tokio::sync::{mpsc, watch};

use super::inbox::Inbox;
use super::live::{CommitClock, Digests, Live, Prepared};
use super::members::Members;
use super::peers::Peers;
use super::snapshots::Snapshots;
use super::waiters::Waiters;
use super::{NodeError, Options};
use crate::net::Identity;
use crate::raft::Standing;
use crate::storage::{self, DataDir, RaftLog};
use crate::types::{Index, Node, NodeId};

/// See the module. One per node, behind an `Arc`.
pub(super) struct Shared {
    pub logger: Logger,
    pub options: Options,
    pub identity: Identity,
    pub data: Arc<DataDir>,
    pub databases: storage::Shared,
    pub log: RaftLog,
    pub live: Arc<Live>,
    pub digests: Arc<Digests>,
    pub prepared: Arc<Prepared>,
    pub commit_clock: Arc<CommitClock>,
    pub waiters: Waiters,
    pub inbox: Inbox,
    pub peers: Peers,
    pub snapshots: Snapshots,
    pub published: watch::Sender<Published>,
    pub nodes: watch::Sender<Vec<Node>>,
    pub members: Members,
    /// The first thing sent here ends the node.
    pub failures: mpsc::UnboundedSender<NodeError>,
    pub runtime: tokio::runtime::Handle,
    pub started: Instant,
}

/// What the raft thread lets others see of the core.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Published {
    pub standing: Standing,
    pub first_index: Index,
    pub last_index: Index,
    pub commit_index: Index,
    pub applied_index: Index,
    pub flushed_index: Index,
    pub log_bytes: u64,
    /// As the leader sees its members; empty elsewhere.
    pub matched: Vec<(NodeId, Index)>,
}

impl Shared {
    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.identity.node()
    }

    /// Ends the node because of `error`.
    pub fn fail(&self, error: impl Into<NodeError>) {
        if self.failures.send(error.into()).is_err() {
            // The node is ending already.
        }
    }
}
