//! What the doors of a node (API, HTTP) may ask of it.
//!
//! Cheap to clone. Every method is cancellation safe: a dropped future stops waiting, while a
//! command already proposed may still be applied.

use std::sync::Arc;

use crate::kv::View;
use crate::proto::v1;
use crate::types::{
    Addresses, Consistency, Failure, Index, JoinToken, MembershipChange, NodeId, Reply, Request,
};

/// A running node.
#[derive(Clone)]
pub struct Handle {}

/// An unchanging view of the state at one applied index.
#[derive(Clone)]
pub struct StateView {
    /// What `state::read` reads.
    pub view: Arc<dyn View>,
    /// The last applied index inside it.
    pub index: Index,
}

/// Whether the node works, in the terms of a health probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// None: ready to serve. Otherwise why it is not.
    pub not_ready: Option<String>,
}

impl Handle {
    /// Executes a command through the log, wherever the leader is; answers once applied there.
    pub async fn execute(&self, request: Request) -> Result<(Index, Reply), Failure> {
        let _ = request;
        todo!()
    }

    /// A view as fresh as asked.
    pub async fn view(&self, consistency: Consistency) -> Result<StateView, Failure> {
        let _ = consistency;
        todo!()
    }

    /// Changes the membership; answers once applied.
    pub async fn change_membership(&self, change: MembershipChange) -> Result<Index, Failure> {
        let _ = change;
        todo!()
    }

    /// Hands leadership to a voter; answers with the leader once it leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<NodeId, Failure> {
        let _ = to;
        todo!()
    }

    /// This node's own status, or that of all nodes it can reach.
    pub async fn status(&self, local: bool) -> Result<v1::StatusResponse, Failure> {
        let _ = local;
        todo!()
    }

    /// Content digests of all nodes at one index.
    pub async fn digest(&self) -> Result<v1::DigestResponse, Failure> {
        todo!()
    }

    /// A new single-use join token; answers with it and its expiry (Unix ms).
    pub async fn create_token(
        &self,
        ttl_ms: u64,
        learner: bool,
    ) -> Result<(JoinToken, u64), Failure> {
        let _ = (ttl_ms, learner);
        todo!()
    }

    /// Redeems a token's secret and issues a certificate for the request (PKCS#10 DER).
    pub async fn enroll(
        &self,
        secret: [u8; 32],
        addresses: Addresses,
        certificate_request: Vec<u8>,
    ) -> Result<v1::JoinResponse, Failure> {
        let _ = (secret, addresses, certificate_request);
        todo!()
    }

    /// Id of the cluster, for messages to people and for refusing strangers.
    pub fn cluster(&self) -> crate::types::ClusterId {
        todo!()
    }

    /// Snapshots in this node's store.
    pub async fn snapshots(&self) -> Result<Vec<v1::Snapshot>, Failure> {
        todo!()
    }

    /// Builds a snapshot of this node's state now.
    pub async fn create_snapshot(&self) -> Result<v1::Snapshot, Failure> {
        todo!()
    }

    /// Reads and checks every byte of a stored snapshot, named by its hex id.
    pub async fn verify_snapshot(&self, id: &str) -> Result<v1::VerifySnapshotResponse, Failure> {
        let _ = id;
        todo!()
    }

    /// Drops this node's log as far as safety and pins allow.
    pub async fn compact_log(&self) -> Result<v1::CompactLogResponse, Failure> {
        todo!()
    }

    /// Pulls under way anywhere in the cluster, and the last finished ones.
    pub async fn transfers(&self) -> Result<Vec<v1::Transfer>, Failure> {
        todo!()
    }

    /// Ends the pull of `receiver`, wherever it runs.
    pub async fn cancel_transfer(&self, receiver: NodeId) -> Result<(), Failure> {
        let _ = receiver;
        todo!()
    }

    /// Sets this node's bulk rate limit, bytes a second; 0: none.
    pub async fn limit_transfers(&self, bytes_per_second: u64) -> Result<u64, Failure> {
        let _ = bytes_per_second;
        todo!()
    }

    /// For `/healthz` and `/readyz`.
    pub fn health(&self) -> Health {
        todo!()
    }

    /// Prometheus text of all metrics.
    pub fn metrics(&self) -> String {
        todo!()
    }
}
