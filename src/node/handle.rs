//! What the doors of a node (API, HTTP) may ask of it.
//!
//! Cheap to clone. Every method is cancellation safe: a dropped future stops waiting, while a
//! command already proposed may still be applied.

use std::sync::Arc;
use std::time::Duration;

use super::calls::{self, ask_core, shutting_down};
use super::inbox::Clock;
use super::shared::Shared;
use super::waiters::Outcome;
use super::{enroll, metrics, status};
use crate::kv::View;
use crate::proto::v1;
use crate::raft::{Answer, ClientRequest, Input};
use crate::types::{
    Addresses, ClusterId, Code, Command, Consistency, Failure, Index, JoinToken, MembershipChange,
    NodeId, Reply, Request, Role,
};

/// How long a stale read waits for the index it asks for.
const STALE_WAIT: Duration = Duration::from_secs(10);

/// A running node.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
}

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
    /// The index is where it was executed: earlier than now if this is a retry in a session.
    pub async fn execute(&self, request: Request) -> Result<(Index, Reply), Failure> {
        enroll::execute(&self.shared, &request).await
    }

    /// A view as fresh as asked.
    pub async fn view(&self, consistency: Consistency) -> Result<StateView, Failure> {
        match consistency {
            Consistency::Linearizable => self.await_read_index().await?,
            Consistency::Stale { min_index } => self.await_applied(min_index).await?,
        }
        let (_, db) = self.shared.live.current().ok_or_else(enroll::not_ready)?;
        let view = db.view();
        let index = crate::state::read::applied(&*view)?;
        Ok(StateView { view, index })
    }

    async fn await_read_index(&self) -> Result<(), Failure> {
        let (waiter, outcome) = self.shared.waiters.add();
        if !self.shared.inbox.put(Input::Read { waiter }).await {
            return Err(shutting_down());
        }
        match outcome.await {
            Ok(Outcome::ReadReady) => Ok(()),
            Ok(Outcome::Answer(Err(failure))) => Err(failure),
            Ok(Outcome::Answer(Ok(_))) => unreachable!("a read is not answered like a request"),
            Err(_) => Err(shutting_down()),
        }
    }

    async fn await_applied(&self, min_index: Index) -> Result<(), Failure> {
        let mut published = self.shared.published.subscribe();
        let reached = published.wait_for(|published| published.applied_index >= min_index);
        match tokio::time::timeout(STALE_WAIT, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(shutting_down()),
            Err(_) => {
                let message = format!("index {min_index} is not applied here yet");
                Err(Failure::new(Code::Unavailable, message).hint("try again, or ask another node"))
            }
        }
    }

    /// Changes the membership; answers with the index it was applied at.
    pub async fn change_membership(&self, change: MembershipChange) -> Result<Index, Failure> {
        match ask_core(&self.shared, ClientRequest::Membership(change), false).await? {
            Answer::Applied(index, _) => Ok(index),
            other => Err(unexpected(&other)),
        }
    }

    /// Hands leadership to a voter; answers with the leader once it leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<NodeId, Failure> {
        match ask_core(&self.shared, ClientRequest::TransferLeader(to), false).await? {
            Answer::Leader(leader) => Ok(leader),
            other => Err(unexpected(&other)),
        }
    }

    /// This node's own status, or that of all nodes it can reach.
    pub async fn status(&self, local: bool) -> Result<v1::StatusResponse, Failure> {
        Ok(status::cluster(&self.shared, local).await)
    }

    /// Content digests of all nodes at one index.
    pub async fn digest(&self) -> Result<v1::DigestResponse, Failure> {
        let request = Request { session: None, command: Command::ComputeDigest };
        let (index, _) = self.execute(request).await?;
        let nodes = self.shared.nodes.borrow().clone();
        let digests = nodes.iter().map(|node| async {
            if node.id == self.shared.id() {
                return status::local_digest(&self.shared, index).await;
            }
            calls::digest_of(&self.shared, node.id, index).await.unwrap_or_else(|failure| {
                let error = failure.to_string();
                v1::NodeDigest { id: node.id.0, error, ..v1::NodeDigest::default() }
            })
        });
        Ok(v1::DigestResponse { index, digests: futures::future::join_all(digests).await })
    }

    /// A new single-use join token that lives for `ttl_ms`; answers with it and its expiry (Unix
    /// ms).
    pub async fn create_token(
        &self,
        ttl_ms: u64,
        learner: bool,
    ) -> Result<(JoinToken, u64), Failure> {
        enroll::create_token(&self.shared, ttl_ms, learner, self.clock.now().unix_ms).await
    }

    /// Redeems a token's secret and issues a certificate for the request (PKCS#10 DER).
    pub async fn enroll(
        &self,
        secret: [u8; 32],
        addresses: Addresses,
        certificate_request: Vec<u8>,
    ) -> Result<v1::JoinResponse, Failure> {
        enroll::enroll(&self.shared, secret, addresses, &certificate_request).await
    }

    /// A certificate (DER) for this node's own key that names `hosts`. Refused with `NotReady`
    /// before the first state, which holds the sealed authority.
    pub fn certify(&self, hosts: &[String]) -> Result<Vec<u8>, Failure> {
        enroll::certify(&self.shared, hosts)
    }

    /// Id of the cluster, for messages to people and for refusing strangers.
    pub fn cluster(&self) -> ClusterId {
        self.shared.identity.cluster()
    }

    /// Snapshots in this node's store.
    pub async fn snapshots(&self) -> Result<Vec<v1::Snapshot>, Failure> {
        Ok(self.shared.snapshots.list())
    }

    /// Builds a snapshot of this node's state now.
    pub async fn create_snapshot(&self) -> Result<v1::Snapshot, Failure> {
        if self.shared.live.current().is_none() {
            return Err(enroll::not_ready());
        }
        match ask_core(&self.shared, ClientRequest::BuildSnapshot, false).await? {
            Answer::Snapshot(index) => self
                .shared
                .snapshots
                .list()
                .into_iter()
                .find(|snapshot| snapshot.index == index)
                .ok_or_else(|| Failure::new(Code::Internal, "the snapshot built is not there")),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads and checks every byte of a stored snapshot, named by its hex id.
    pub async fn verify_snapshot(&self, id: &str) -> Result<v1::VerifySnapshotResponse, Failure> {
        self.shared.snapshots.verify(id).await
    }

    /// Drops this node's log as far as safety and pins allow.
    pub async fn compact_log(&self) -> Result<v1::CompactLogResponse, Failure> {
        match ask_core(&self.shared, ClientRequest::CompactLog, false).await? {
            Answer::Compacted(start) => Ok(v1::CompactLogResponse {
                first_index: start + 1,
                log_bytes: self.shared.log.bytes(),
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Pulls under way anywhere in the cluster, and the last finished ones.
    pub async fn transfers(&self) -> Result<Vec<v1::Transfer>, Failure> {
        let cluster = status::cluster(&self.shared, false).await;
        Ok(cluster.nodes.into_iter().flat_map(|node| node.transfers).collect())
    }

    /// Ends the pull of `receiver`, wherever it runs.
    pub async fn cancel_transfer(&self, receiver: NodeId) -> Result<(), Failure> {
        if receiver == self.shared.id() {
            return self.shared.snapshots.cancel();
        }
        if !self.shared.nodes.borrow().iter().any(|node| node.id == receiver) {
            return Err(Failure::new(
                Code::NodeNotFound,
                format!("no node {receiver} is enrolled"),
            ));
        }
        calls::cancel_transfer_of(&self.shared, receiver).await
    }

    /// Sets this node's bulk rate limit, bytes a second; 0: none.
    pub async fn limit_transfers(&self, bytes_per_second: u64) -> Result<u64, Failure> {
        self.shared.snapshots.limit(bytes_per_second)?;
        Ok(bytes_per_second)
    }

    /// For `/healthz` and `/readyz`.
    pub fn health(&self) -> Health {
        let published = self.shared.published.borrow();
        let not_ready = if self.shared.live.current().is_none() {
            Some("waiting for the first snapshot".to_owned())
        } else if published.standing.leader.is_none() {
            Some("no leader is known".to_owned())
        } else if published.standing.role == Role::Enrolled {
            Some("not a member yet".to_owned())
        } else {
            None
        };
        Health { not_ready }
    }

    /// Prometheus text of all metrics.
    pub fn metrics(&self) -> String {
        let leader_known = self.shared.published.borrow().standing.leader.is_some();
        metrics::render(&metrics::Sources {
            status: status::local(&self.shared),
            leader_known,
            ready: self.health().not_ready.is_none(),
            block_cache_bytes: self.shared.databases.block_cache_used_bytes(),
            memtable_bytes: self.shared.databases.memtable_used_bytes(),
            log_syncs: self.shared.log.sync_count(),
        })
    }
}

fn unexpected(answer: &Answer) -> Failure {
    Failure::new(Code::Internal, format!("the core answered with {answer:?}"))
}
