//! Snapshots of this node: building, offering, pulling, preparing. (Being built.)

use std::sync::Arc;

use bytes::Bytes;
use slog::Logger;

use super::NodeError;
use super::shared::Shared;
use crate::net::{Endpoint, Identity};
use crate::proto::internal::v1::EmbeddedSnapshot;
use crate::proto::v1;
use crate::raft::{Input, Offer};
use crate::storage::DataDir;
use crate::types::{Code, Failure, Index, NodeId, Pin, SnapshotId, SnapshotReference};

#[derive(Clone, Debug)]
pub struct Options {
    pub embedded: bool,
    pub chunk_bytes: u32,
    pub keep: usize,
    pub streams: usize,
    pub bytes_per_second: u64,
    pub pin_age_ms_max: u64,
}

pub(super) struct Snapshots {
    _bulk: Endpoint,
}

fn nothing() -> Failure {
    Failure::new(Code::Unavailable, "snapshots are not there yet")
}

impl Snapshots {
    pub fn start(
        _options: &super::Options,
        _data: &Arc<DataDir>,
        _identity: &Identity,
        bulk: Endpoint,
        _bulk_runtime: &tokio::runtime::Handle,
        _logger: &Logger,
    ) -> Result<(Self, Option<Offer>), NodeError> {
        Ok((Snapshots { _bulk: bulk }, None))
    }
    pub fn send_offer(&self, _shared: &Arc<Shared>, _to: NodeId, _id: SnapshotId, _bytes: Bytes) {}
    pub fn build(&self, shared: &Arc<Shared>) {
        shared.inbox.report(Input::SnapshotFailed { reason: "not there yet".into() });
    }
    pub fn fetch(&self, _r: SnapshotReference, _index: Index, _from: NodeId, _bytes: u64) {}
    pub fn prepare(&self, _shared: &Arc<Shared>, _id: SnapshotId) {}
    pub fn discard(&self, _shared: &Arc<Shared>, _id: SnapshotId) {}
    pub fn installed(&self, _id: SnapshotId) {}
    pub fn set_pins(&self, _pins: &[Pin]) {}
    pub fn take_embedded(&self, _embedded: EmbeddedSnapshot) {}
    pub fn transfers(&self) -> Vec<v1::Transfer> {
        Vec::new()
    }
    pub fn list(&self) -> Result<Vec<v1::Snapshot>, Failure> {
        Ok(Vec::new())
    }
    pub async fn verify(
        &self,
        _s: &Shared,
        _id: &str,
    ) -> Result<v1::VerifySnapshotResponse, Failure> {
        Err(nothing())
    }
    pub fn cancel(&self) -> Result<(), Failure> {
        Err(nothing())
    }
    pub fn limit(&self, _rate: u64) {}
    pub async fn shutdown(&self) {}
}

pub(super) async fn run(_shared: Arc<Shared>) {
    std::future::pending::<()>().await
}
