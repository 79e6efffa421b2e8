//! The gRPC API: every public service, reflection and health, behind one TLS port.
//!
//! Thin: a request is validated, turned into the domain's words, handed to the node's `Handle`, and
//! its answer turned back. Who may call is decided by the gate before a body is read. This room holds
//! no state of its own and never decides what a command means.

mod budget;
mod gate;
mod health;
mod listener;
mod server;
mod services;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use slog::Logger;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::node::Handle;

pub use server::Server;

/// Where the API listens and who it says it is.
#[derive(Clone)]
pub struct Options {
    /// TCP address; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The node's certificate, then its issuer's, PEM. A joining machine takes the CA from it.
    pub certificate_chain_pem: String,
    /// Private key of the node's certificate, PEM.
    pub key_pem: String,
    /// Certificate of the CA that issued the certificates of clients and nodes, PEM.
    pub ca_pem: String,
}

/// Why the API does not run.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The operator must free the address or configure another.
    #[error("cannot listen for the API on {address}: {cause}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The operator must repair the node's identity.
    #[error("the API's certificate, key or CA certificate cannot be used: {0}")]
    Identity(String),
    /// A defect of ratoon: halt.
    #[error("the API stopped: {0}")]
    Stopped(String),
}

/// Listens and serves until `shutdown`; then refuses new requests and gives those under way a few
/// seconds. Must be called inside the runtime that shall drive it.
pub async fn serve(
    options: Options,
    handle: Handle,
    logger: Logger,
    shutdown: CancellationToken,
) -> Result<Server, ApiError> {
    let cluster = handle.cluster();
    let routes = services::routes(&handle, &logger)?;
    let probe = move || handle.health();
    server::serve_routes(options, routes, cluster, probe, logger, shutdown).await
}
