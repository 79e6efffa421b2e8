//! The standard gRPC health service, which says what the node's own probe says.
//!
//! Open to everybody: it tells `SERVING` or `NOT_SERVING`, and nothing else.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::node::Health;
use crate::proto::v1::cluster_server::ClusterServer;
use crate::proto::v1::collections_server::CollectionsServer;
use crate::proto::v1::enrollment_server::EnrollmentServer;
use crate::proto::v1::records_server::RecordsServer;
use crate::proto::v1::snapshots_server::SnapshotsServer;

/// How often the probe is asked.
const INTERVAL: Duration = Duration::from_millis(250);

/// The whole server (""), and each service by name.
const SERVICES: [&str; 6] = [
    "",
    <CollectionsServer<()> as NamedService>::NAME,
    <RecordsServer<()> as NamedService>::NAME,
    <ClusterServer<()> as NamedService>::NAME,
    <EnrollmentServer<()> as NamedService>::NAME,
    <SnapshotsServer<()> as NamedService>::NAME,
];

/// Reports the probe's word until `shutdown`, and `NOT_SERVING` from then on.
pub(super) async fn report(
    reporter: HealthReporter,
    probe: impl Fn() -> Health,
    shutdown: CancellationToken,
) {
    let mut reported = None;
    loop {
        let serving = !shutdown.is_cancelled() && probe().not_ready.is_none();
        if reported != Some(serving) {
            set_all(&reporter, serving).await;
            reported = Some(serving);
        }
        if shutdown.is_cancelled() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Sets every service to one status.
pub(super) async fn set_all(reporter: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
