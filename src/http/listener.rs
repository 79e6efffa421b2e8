//! A listener that holds few connections, and none for long that is silent.
//!
//! A connection past the bound waits in the system's queue until one is closed; silence closes one,
//! so that idle or stuck callers cannot keep probes out for ever.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, warn};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;
use crate::net::IdleStream;

/// After a failed accept (no file descriptors, say) the listener rests this long.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Silence after which a connection is closed.
const IDLE: Duration = Duration::from_millis(limits::HTTP_IDLE_MS_MAX);

/// The listener.
pub(super) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    logger: Logger,
}

impl Bounded {
    /// Bounds `listener`.
    pub(super) fn new(listener: TcpListener, logger: Logger) -> Self {
        let places = Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS_MAX));
        Bounded { listener, places, logger }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = IdleStream<OwnedSemaphorePermit>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let place =
            Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => return (IdleStream::new(stream, IDLE, place), from),
                Err(error) => {
                    warn!(self.logger, "HTTP cannot accept a connection";
                        "error" => error.to_string());
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
