//! Nodes, tokens, enrolment, snapshots and transfers.

use tonic::transport::Channel;

use super::Client;
use super::call::Kind;
use crate::limits;
use crate::proto::v1;
use crate::proto::v1::cluster_client::ClusterClient;
use crate::proto::v1::enrollment_client::EnrollmentClient;
use crate::proto::v1::snapshots_client::SnapshotsClient;
use crate::types::{Code, Failure, Index, NodeId, SnapshotId};

fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
}

fn snapshots(channel: Channel) -> SnapshotsClient<Channel> {
    SnapshotsClient::new(channel).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
}

impl Client {
    /// What every reachable node says of itself; with `local`, the asked node alone.
    pub async fn status(&self, local: bool) -> Result<v1::StatusResponse, Failure> {
        let send = |channel, request| async move { cluster(channel).status(request).await };
        self.call(Kind::Read, v1::StatusRequest { local }, send).await
    }

    /// All nodes with addresses and roles.
    pub async fn list_nodes(&self) -> Result<Vec<v1::Node>, Failure> {
        let send = |channel, request| async move { cluster(channel).list_nodes(request).await };
        Ok(self.call(Kind::Read, v1::ListNodesRequest {}, send).await?.nodes)
    }

    /// A new single-use join token. `ttl_ms` 0: one hour. A repeated call may leave a token behind
    /// that nobody knows and that expires.
    pub async fn create_token(
        &self,
        ttl_ms: u64,
        learner: bool,
    ) -> Result<v1::CreateTokenResponse, Failure> {
        let message = v1::CreateTokenRequest { ttl_ms, learner };
        let send = |channel, request| async move { cluster(channel).create_token(request).await };
        self.call(Kind::Once, message, send).await
    }

    /// Redeems a join token. The profile needs no certificate. Sent once only: a token is used up by
    /// the first request that arrives.
    pub async fn join(&self, message: v1::JoinRequest) -> Result<v1::JoinResponse, Failure> {
        let send =
            |channel, request| async move { EnrollmentClient::new(channel).join(request).await };
        self.call(Kind::Once, message, send).await.map_err(|failure| match failure.code {
            Code::OutcomeUnknown => {
                failure.hint("the token may be used up; if joining again fails, create a new one")
            }
            _ => failure,
        })
    }

    /// Learner to voter; answers with the log index.
    pub async fn promote_node(&self, node: NodeId) -> Result<Index, Failure> {
        let message = v1::PromoteNodeRequest { id: node.0 };
        let send = |channel, request| async move { cluster(channel).promote_node(request).await };
        Ok(self.call(Kind::Once, message, send).await?.index)
    }

    /// A node leaves for ever; answers with the log index.
    pub async fn remove_node(&self, node: NodeId) -> Result<Index, Failure> {
        let message = v1::RemoveNodeRequest { id: node.0 };
        let send = |channel, request| async move { cluster(channel).remove_node(request).await };
        Ok(self.call(Kind::Once, message, send).await?.index)
    }

    /// Hands leadership to a voter; answers with the leader.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<NodeId, Failure> {
        let message = v1::TransferLeaderRequest { to: to.0 };
        let send =
            |channel, request| async move { cluster(channel).transfer_leader(request).await };
        Ok(NodeId(self.call(Kind::Once, message, send).await?.leader))
    }

    /// Content digests of all nodes at one index. Takes as long as reading the whole state.
    pub async fn digest(&self) -> Result<v1::DigestResponse, Failure> {
        let send = |channel, request| async move { cluster(channel).digest(request).await };
        self.call_long(Kind::Read, v1::DigestRequest {}, send).await
    }

    /// Snapshots in the asked node's store.
    pub async fn list_snapshots(&self) -> Result<Vec<v1::Snapshot>, Failure> {
        let send =
            |channel, request| async move { snapshots(channel).list_snapshots(request).await };
        Ok(self.call(Kind::Read, v1::ListSnapshotsRequest {}, send).await?.snapshots)
    }

    /// Builds a snapshot of the asked node's state now.
    pub async fn create_snapshot(&self) -> Result<v1::Snapshot, Failure> {
        let send =
            |channel, request| async move { snapshots(channel).create_snapshot(request).await };
        let answer = self.call_long(Kind::Once, v1::CreateSnapshotRequest {}, send).await?;
        answer
            .snapshot
            .ok_or_else(|| Failure::new(Code::Internal, "the node's answer holds no snapshot"))
    }

    /// Has the asked node read and check every byte of a stored snapshot.
    pub async fn verify_snapshot(
        &self,
        id: SnapshotId,
    ) -> Result<v1::VerifySnapshotResponse, Failure> {
        let message = v1::VerifySnapshotRequest { id: id.to_string() };
        let send =
            |channel, request| async move { snapshots(channel).verify_snapshot(request).await };
        self.call_long(Kind::Read, message, send).await
    }

    /// Lets the asked node drop its log as far as safety and pins allow.
    pub async fn compact_log(&self) -> Result<v1::CompactLogResponse, Failure> {
        let send = |channel, request| async move { snapshots(channel).compact_log(request).await };
        // Compacting what is compacted changes nothing, so it is repeated like a read.
        self.call_long(Kind::Read, v1::CompactLogRequest {}, send).await
    }

    /// Pulls under way anywhere in the cluster, and the last finished ones.
    pub async fn list_transfers(&self) -> Result<Vec<v1::Transfer>, Failure> {
        let send =
            |channel, request| async move { snapshots(channel).list_transfers(request).await };
        Ok(self.call(Kind::Read, v1::ListTransfersRequest {}, send).await?.transfers)
    }

    /// Ends the pull of `receiver`.
    pub async fn cancel_transfer(&self, receiver: NodeId) -> Result<(), Failure> {
        let message = v1::CancelTransferRequest { receiver: receiver.0 };
        let send =
            |channel, request| async move { snapshots(channel).cancel_transfer(request).await };
        self.call(Kind::Once, message, send).await.map(|_: v1::CancelTransferResponse| ())
    }

    /// Sets the asked node's bulk rate limit, bytes a second (0: none); answers with it.
    pub async fn limit_transfers(&self, bytes_per_second: u64) -> Result<u64, Failure> {
        let message = v1::LimitTransfersRequest { bytes_per_second };
        let send =
            |channel, request| async move { snapshots(channel).limit_transfers(request).await };
        // Setting the same limit twice changes nothing, so it is repeated like a read.
        Ok(self.call(Kind::Read, message, send).await?.bytes_per_second)
    }
}
