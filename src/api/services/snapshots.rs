//! Stored snapshots of the called node, and transfers between nodes.

use tonic::{Request, Response, Status};

use super::cluster::node;
use super::refuse;
use crate::node::Handle;
use crate::proto::v1::snapshots_server::Snapshots;
use crate::proto::v1::*;
use crate::types::{Code, Failure, SnapshotId};

/// `ratoon.v1.Snapshots`.
pub(super) struct SnapshotsService {
    /// The node.
    pub(super) handle: Handle,
}

/// Checks the form of a snapshot's id; answers with its usual spelling.
pub(super) fn snapshot_id(text: &str) -> Result<String, Failure> {
    text.parse::<SnapshotId>().map(|id| id.to_string()).map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        Failure::new(Code::InvalidArgument, format!("{shown:?} is not the id of a snapshot"))
            .hint("`ratoon snapshot list` shows the ids: 64 hexadecimal digits")
    })
}

#[tonic::async_trait]
impl Snapshots for SnapshotsService {
    async fn list_snapshots(
        &self,
        _request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        let snapshots = self.handle.snapshots().await.map_err(refuse)?;
        Ok(Response::new(ListSnapshotsResponse { snapshots }))
    }

    async fn create_snapshot(
        &self,
        _request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        let snapshot = self.handle.create_snapshot().await.map_err(refuse)?;
        Ok(Response::new(CreateSnapshotResponse { snapshot: Some(snapshot) }))
    }

    async fn verify_snapshot(
        &self,
        request: Request<VerifySnapshotRequest>,
    ) -> Result<Response<VerifySnapshotResponse>, Status> {
        let id = snapshot_id(&request.into_inner().id).map_err(refuse)?;
        Ok(Response::new(self.handle.verify_snapshot(&id).await.map_err(refuse)?))
    }

    async fn compact_log(
        &self,
        _request: Request<CompactLogRequest>,
    ) -> Result<Response<CompactLogResponse>, Status> {
        Ok(Response::new(self.handle.compact_log().await.map_err(refuse)?))
    }

    async fn list_transfers(
        &self,
        _request: Request<ListTransfersRequest>,
    ) -> Result<Response<ListTransfersResponse>, Status> {
        let transfers = self.handle.transfers().await.map_err(refuse)?;
        Ok(Response::new(ListTransfersResponse { transfers }))
    }

    async fn cancel_transfer(
        &self,
        request: Request<CancelTransferRequest>,
    ) -> Result<Response<CancelTransferResponse>, Status> {
        let receiver = node(request.into_inner().receiver).map_err(refuse)?;
        self.handle.cancel_transfer(receiver).await.map_err(refuse)?;
        Ok(Response::new(CancelTransferResponse {}))
    }

    async fn limit_transfers(
        &self,
        request: Request<LimitTransfersRequest>,
    ) -> Result<Response<LimitTransfersResponse>, Status> {
        let asked = request.into_inner().bytes_per_second;
        let bytes_per_second = self.handle.limit_transfers(asked).await.map_err(refuse)?;
        Ok(Response::new(LimitTransfersResponse { bytes_per_second }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_named_by_64_hexadecimal_digits_in_either_case() {
        let id = "AB".repeat(32);
        assert_eq!(snapshot_id(&id).unwrap(), id.to_lowercase());
        for bad in ["", "ab", "zz", "../../etc/passwd", &"ab".repeat(33)] {
            assert_eq!(snapshot_id(bad).unwrap_err().code, Code::InvalidArgument, "{bad}");
        }
    }
}
