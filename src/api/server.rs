//! Builds the gRPC server around a set of services: TLS, bounds, gate, health, reflection.
//!
//! Knows which services there are only through the routes it is given.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, info};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server as TonicServer, ServerTlsConfig};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::gate::{Gate, pass};
use super::{ApiError, Options, health, listener};
use crate::limits;
use crate::node::Health;
use crate::proto::v1;
use crate::types::{ClusterId, causes};

/// Requests under way at shutdown are given this long.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// An idle connection is probed this often ...
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// ... and closed when the probe is not answered for this long.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one request that may be on the way before the server has read any.
const STREAM_WINDOW_BYTES: u32 = 2 * limits::MIB as u32;
/// The same for one connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 * limits::MIB as u32;

/// A running API.
#[derive(Debug)]
pub struct Server {
    /// Where it listens; the port is the real one.
    pub address: SocketAddr,
    /// Ends after shutdown, or when the API cannot go on.
    pub task: JoinHandle<Result<(), ApiError>>,
}

/// Listens, and serves `routes` to callers with a certificate of `cluster`.
pub(super) async fn serve_routes(
    options: Options,
    routes: Routes,
    cluster: ClusterId,
    probe: impl Fn() -> Health + Send + 'static,
    logger: Logger,
    shutdown: CancellationToken,
) -> Result<Server, ApiError> {
    let listen = options.listen;
    let refused = |cause| ApiError::Listen { address: listen, cause };
    let mut builder = builder(&options)?;
    let reporter = HealthReporter::new();
    health::set_all(&reporter, probe().not_ready.is_none()).await;
    let routes = gated(with_common_services(routes, &reporter)?, cluster, &logger);

    let tcp = TcpListener::bind(listen).await.map_err(refused)?;
    let address = tcp.local_addr().map_err(refused)?;
    info!(logger, "the API listens"; "address" => address.to_string());
    let incoming = Box::pin(listener::admitted(tcp, logger));
    let serving = builder
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let task = tokio::spawn(async move {
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return stopped(ended),
            () = health::report(reporter, probe, shutdown) => {}
        }
        match tokio::time::timeout(SHUTDOWN_GRACE, serving).await {
            Ok(ended) => stopped(ended),
            // What is still open then (a watched health, say) ends with its connection.
            Err(_) => Ok(()),
        }
    });
    Ok(Server { address, task })
}

fn stopped(ended: Result<(), tonic::transport::Error>) -> Result<(), ApiError> {
    ended.map_err(|error| ApiError::Stopped(causes(&error)))
}

fn builder(options: &Options) -> Result<TonicServer, ApiError> {
    // The transport aborts on a chain or a CA that holds no certificate at all.
    for (what, pem) in
        [("certificate chain", &options.certificate_chain_pem), ("CA certificate", &options.ca_pem)]
    {
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(ApiError::Identity(format!("the {what} holds no PEM certificate")));
        }
    }
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&options.certificate_chain_pem, &options.key_pem))
        .client_ca_root(Certificate::from_pem(&options.ca_pem))
        // A joining machine has no certificate yet; the gate asks everybody else for one.
        .client_auth_optional(true)
        .timeout(Duration::from_millis(limits::API_HANDSHAKE_MS_MAX));
    Ok(TonicServer::builder()
        .tls_config(tls)
        .map_err(|error| ApiError::Identity(causes(&error)))?
        .max_concurrent_streams(limits::API_STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(limits::API_HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

fn with_common_services(routes: Routes, reporter: &HealthReporter) -> Result<Routes, ApiError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Both forms of reflection tell of both.
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            )
            .include_reflection_service(false)
    };
    let broken = |error: tonic_reflection::server::Error| {
        ApiError::Stopped(format!("the descriptors of the API are damaged: {error}"))
    };
    let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()))
        .max_decoding_message_size(limits::ENROLLMENT_MESSAGE_BYTES_MAX);
    Ok(routes
        .add_service(health)
        .add_service(reflection().build_v1().map_err(broken)?)
        .add_service(reflection().build_v1alpha().map_err(broken)?))
}

fn gated(routes: Routes, cluster: ClusterId, logger: &Logger) -> Routes {
    let gate = Arc::new(Gate::new(cluster, logger.clone()));
    let layer = axum::middleware::from_fn_with_state(gate, pass);
    Routes::from(routes.into_axum_router().layer(layer))
}
