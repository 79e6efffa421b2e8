//! One file a service. Each method validates, converts, calls the `Handle`, and converts back.

mod cluster;
mod collections;
mod enrollment;
#[cfg(test)]
mod fuzz;
mod reads;
mod records;
mod snapshots;

use slog::Logger;
use tonic::Status;
use tonic::service::Routes;

use self::cluster::ClusterService;
use self::collections::CollectionsService;
use self::enrollment::EnrollmentService;
use self::reads::Reads;
use self::records::RecordsService;
use self::snapshots::SnapshotsService;
use super::ApiError;
use crate::limits::{ENROLLMENT_MESSAGE_BYTES_MAX, GRPC_MESSAGE_BYTES_MAX};
use crate::node::Handle;
use crate::proto::status::failure_to_status;
use crate::proto::v1::cluster_server::ClusterServer;
use crate::proto::v1::collections_server::CollectionsServer;
use crate::proto::v1::enrollment_server::EnrollmentServer;
use crate::proto::v1::records_server::RecordsServer;
use crate::proto::v1::snapshots_server::SnapshotsServer;
use crate::types::{Code, Failure, Reply};

/// Every public service of a node.
pub(super) fn routes(handle: &Handle, logger: &Logger) -> Result<Routes, ApiError> {
    let reads = Reads::new(handle.clone(), logger.clone());
    let collections = CollectionsService { handle: handle.clone(), reads: reads.clone() };
    let records = RecordsService { handle: handle.clone(), reads };
    let cluster = ClusterService { handle: handle.clone() };
    let snapshots = SnapshotsService { handle: handle.clone() };
    let enrollment = EnrollmentService { handle: handle.clone() };
    Ok(Routes::new(
        CollectionsServer::new(collections)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX),
    )
    .add_service(
        RecordsServer::new(records)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX),
    )
    .add_service(
        ClusterServer::new(cluster)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX),
    )
    .add_service(
        SnapshotsServer::new(snapshots)
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX),
    )
    .add_service(
        // Open to strangers: it takes no more than a request can need.
        EnrollmentServer::new(enrollment)
            .max_decoding_message_size(ENROLLMENT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX),
    ))
}

/// A failure as a service method returns it.
fn refuse(failure: Failure) -> Status {
    failure_to_status(&failure)
}

/// An answer of the state that does not fit its command: a defect, never the caller's fault.
fn misfit(command: &str, reply: &Reply) -> Status {
    refuse(Failure::new(Code::Internal, format!("{command} was answered with {reply:?}")))
}
