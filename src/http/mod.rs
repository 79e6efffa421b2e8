//! The HTTP door: metrics for Prometheus and probes for whoever starts nodes. Read-only.
//!
//! No encryption and no authentication, so it listens on loopback unless configured otherwise. It
//! never changes anything and shows no record.

mod listener;

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use slog::{Logger, info};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::node::{Handle, Health};

/// The text format of prometheus-client.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the HTTP door is.
#[derive(Clone, Debug)]
pub struct Options {
    /// TCP address; port 0 picks a free one.
    pub listen: SocketAddr,
}

/// Why the HTTP door does not open.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The operator must free the address or configure another.
    #[error("cannot listen for HTTP on {address}: {cause}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A defect of ratoon: halt.
    #[error("the HTTP door stopped: {0}")]
    Stopped(std::io::Error),
}

/// A running HTTP door.
#[derive(Debug)]
pub struct Server {
    /// Where it listens; the port is the real one.
    pub address: SocketAddr,
    /// Ends after shutdown, or when it cannot go on.
    pub task: JoinHandle<Result<(), HttpError>>,
}

/// Listens and serves until `shutdown`.
pub async fn serve(
    options: Options,
    handle: Handle,
    logger: Logger,
    shutdown: CancellationToken,
) -> Result<Server, HttpError> {
    let metrics = {
        let handle = handle.clone();
        move || handle.metrics()
    };
    serve_router(options, router(metrics, move || handle.health()), logger, shutdown).await
}

async fn serve_router(
    options: Options,
    router: Router,
    logger: Logger,
    shutdown: CancellationToken,
) -> Result<Server, HttpError> {
    let listen = options.listen;
    let refused = |cause| HttpError::Listen { address: listen, cause };
    let tcp = TcpListener::bind(listen).await.map_err(refused)?;
    let address = tcp.local_addr().map_err(refused)?;
    info!(logger, "HTTP listens"; "address" => address.to_string());
    let listener = listener::Bounded::new(tcp, logger);
    let serving = axum::serve(listener, router);
    let task = tokio::spawn(async move {
        tokio::select! {
            ended = serving => ended.map_err(HttpError::Stopped),
            // Nothing here is worth waiting for: probes and scrapes are asked again.
            () = shutdown.cancelled() => Ok(()),
        }
    });
    Ok(Server { address, task })
}

/// What the door answers from; a pair of functions, so that it needs no node to be tested.
#[derive(Clone)]
struct Sources<M, H> {
    metrics: M,
    health: H,
}

fn router<M, H>(metrics: M, health: H) -> Router
where
    M: Fn() -> String + Clone + Send + Sync + 'static,
    H: Fn() -> Health + Clone + Send + Sync + 'static,
{
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(show_metrics::<M, H>))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready::<M, H>))
        .with_state(Sources { metrics, health })
}

async fn index() -> &'static str {
    "ratoon: /metrics, /healthz, /readyz\n"
}

/// Answering at all is the answer.
async fn healthy() -> &'static str {
    "ok\n"
}

async fn ready<M, H: Fn() -> Health>(State(sources): State<Sources<M, H>>) -> Response {
    match (sources.health)().not_ready {
        None => "ready\n".into_response(),
        Some(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
        }
    }
}

async fn show_metrics<M: Fn() -> String, H>(State(sources): State<Sources<M, H>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], (sources.metrics)()).into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let text = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_door_tells_metrics_life_and_readiness_and_takes_no_orders() {
        let working = Arc::new(AtomicBool::new(false));
        let health = {
            let working = Arc::clone(&working);
            move || Health {
                not_ready: (!working.load(Ordering::Relaxed))
                    .then(|| "its snapshot is on the way".into()),
            }
        };
        let shutdown = CancellationToken::new();
        let options = Options { listen: "127.0.0.1:0".parse().unwrap() };
        let router = router(|| "raft_term 3\n# EOF\n".to_owned(), health);
        let logger = Logger::root(slog::Discard, slog::o!());
        let server = serve_router(options, router, logger, shutdown.clone()).await.unwrap();

        let metrics = ask(server.address, "GET /metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200") && metrics.ends_with("raft_term 3\n# EOF\n"));
        assert!(metrics.contains(METRICS_TYPE));
        assert!(ask(server.address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        let not_ready = ask(server.address, "GET /readyz").await;
        assert!(not_ready.starts_with("HTTP/1.1 503") && not_ready.contains("on the way"));
        working.store(true, Ordering::Relaxed);
        assert!(ask(server.address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(server.address, "POST /readyz").await.starts_with("HTTP/1.1 405"));
        assert!(ask(server.address, "GET /nothing").await.starts_with("HTTP/1.1 404"));

        shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), server.task).await;
        assert!(ended.unwrap().unwrap().is_ok());
    }
}
