//! A joiner's first word with a cluster: fetches the CA certificate named by its join token.
//!
//! Sends nothing but a TLS handshake; the secret of the token leaves the machine only after this.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::NetError;
use super::tls::{FingerprintVerifier, Verdict};
use crate::limits::HANDSHAKE_MS_MAX;

/// The cluster's CA certificate (DER), taken from what the API at `endpoint` (`host:port`)
/// presents, if its BLAKE3 is `ca_fingerprint` and the API proves to be a node certified by it.
/// Cancellation safe.
pub async fn probe_ca(endpoint: &str, ca_fingerprint: [u8; 32]) -> Result<Vec<u8>, NetError> {
    let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
    tokio::time::timeout(limit, probe(endpoint, ca_fingerprint))
        .await
        .map_err(|_| NetError::TimedOut(HANDSHAKE_MS_MAX))?
}

async fn probe(endpoint: &str, ca_fingerprint: [u8; 32]) -> Result<Vec<u8>, NetError> {
    let address = |problem: String| NetError::Address { address: endpoint.to_owned(), problem };
    let (host, _) = endpoint.rsplit_once(':').ok_or_else(|| address("it has no port".into()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|error| address(error.to_string()))?;

    let verdict = Verdict::default();
    let verifier = FingerprintVerifier::new(endpoint, ca_fingerprint, verdict.clone());
    let found = verifier.found();
    let connector = TlsConnector::from(Arc::new(verifier.into_config()?));

    let socket = TcpStream::connect(endpoint)
        .await
        .map_err(|error| NetError::ConnectionLost(format!("connect to {endpoint}: {error}")))?;
    connector.connect(name, socket).await.map_err(|error| {
        let lost = || NetError::ConnectionLost(format!("TLS with {endpoint}: {error}"));
        verdict.take().unwrap_or_else(lost)
    })?;
    let ca = found.lock().expect("no code panics while it holds this lock").take();
    Ok(ca.expect("a handshake succeeds only after its verifier"))
}
