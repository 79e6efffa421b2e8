//! Nodes, membership, join tokens and content digests.

use data_encoding::HEXLOWER;
use tonic::{Request, Response, Status};

use super::refuse;
use crate::limits;
use crate::node::Handle;
use crate::proto::v1::cluster_server::Cluster;
use crate::proto::v1::*;
use crate::types::{Code, Failure, Index, MembershipChange, NodeId};

/// `ratoon.v1.Cluster`.
pub(super) struct ClusterService {
    /// The node.
    pub(super) handle: Handle,
}

impl ClusterService {
    async fn change(
        &self,
        id: u64,
        change: impl FnOnce(NodeId) -> MembershipChange,
    ) -> Result<Index, Status> {
        let node = node(id).map_err(refuse)?;
        self.handle.change_membership(change(node)).await.map_err(refuse)
    }
}

/// Checks a node's id; 0 is what a caller sends who has set none.
pub(super) fn node(id: u64) -> Result<NodeId, Failure> {
    if id == 0 {
        return Err(Failure::new(Code::InvalidArgument, "the request names no node")
            .hint("`ratoon node list` shows the ids"));
    }
    Ok(NodeId(id))
}

/// The life of a token, within its bounds.
pub(super) fn token_ttl(asked_ms: u64) -> Result<u64, Failure> {
    match asked_ms {
        0 => Ok(limits::TOKEN_TTL_MS_DEFAULT),
        ms if ms <= limits::TOKEN_TTL_MS_MAX => Ok(ms),
        ms => Err(Failure::new(
            Code::InvalidArgument,
            format!("ttl_ms is {ms}, the limit is {}", limits::TOKEN_TTL_MS_MAX),
        )
        .hint("a token lives at most 7 days")),
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let status = self.handle.status(request.into_inner().local).await.map_err(refuse)?;
        Ok(Response::new(status))
    }

    async fn list_nodes(
        &self,
        _request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let status = self.handle.status(false).await.map_err(refuse)?;
        let nodes = status
            .nodes
            .into_iter()
            .map(|node| Node { id: node.id, addresses: node.addresses, role: node.role })
            .collect();
        Ok(Response::new(ListNodesResponse { nodes }))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let asked = request.into_inner();
        let ttl_ms = token_ttl(asked.ttl_ms).map_err(refuse)?;
        let (token, expires_unix_ms) =
            self.handle.create_token(ttl_ms, asked.learner).await.map_err(refuse)?;
        Ok(Response::new(CreateTokenResponse {
            token: token.to_string(),
            expires_unix_ms,
            ca_fingerprint: HEXLOWER.encode(&token.ca_fingerprint),
            endpoints: token.endpoints,
        }))
    }

    async fn promote_node(
        &self,
        request: Request<PromoteNodeRequest>,
    ) -> Result<Response<PromoteNodeResponse>, Status> {
        let index = self.change(request.into_inner().id, MembershipChange::Promote).await?;
        Ok(Response::new(PromoteNodeResponse { index }))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<RemoveNodeResponse>, Status> {
        let index = self.change(request.into_inner().id, MembershipChange::Remove).await?;
        Ok(Response::new(RemoveNodeResponse { index }))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let to = node(request.into_inner().to).map_err(refuse)?;
        let leader = self.handle.transfer_leader(to).await.map_err(refuse)?;
        Ok(Response::new(TransferLeaderResponse { leader: leader.0 }))
    }

    async fn digest(
        &self,
        _request: Request<DigestRequest>,
    ) -> Result<Response<DigestResponse>, Status> {
        Ok(Response::new(self.handle.digest().await.map_err(refuse)?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_an_hour_unless_asked_and_never_over_a_week() {
        assert_eq!(token_ttl(0).unwrap(), limits::TOKEN_TTL_MS_DEFAULT);
        assert_eq!(token_ttl(limits::TOKEN_TTL_MS_MAX).unwrap(), limits::TOKEN_TTL_MS_MAX);
        let failure = token_ttl(limits::TOKEN_TTL_MS_MAX + 1).unwrap_err();
        assert_eq!(failure.code, Code::InvalidArgument);
    }

    #[test]
    fn node_zero_is_refused() {
        assert_eq!(node(0).unwrap_err().code, Code::InvalidArgument);
        assert_eq!(node(3).unwrap(), NodeId(3));
    }
}
