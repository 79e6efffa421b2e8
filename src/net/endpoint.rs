//! An endpoint: one UDP socket, one lane, all connections of a node on it, dialled and accepted.
//!
//! Handshakes of strangers run each in a task of its own, bounded in number and time, so that a
//! slow one delays nobody; `accept` sees only nodes whose identity is proven.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls_pki_types::CertificateDer;
use slog::{Logger, debug, o, warn};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::timeout;

use super::connection::{Connection, Slots, connection_error, turn_away};
use super::lane::{LaneRuntime, Transports};
use super::subject::{Subject, parse_subject};
use super::tls::{Credentials, Verdict};
use super::{Identity, Lane, NetError};
use crate::limits::{
    CONNECTIONS_WAITING_MAX, HANDSHAKE_MS_MAX, HANDSHAKES_MAX, HANDSHAKES_UNVALIDATED_MAX, MIB,
    RESOLVED_ADDRESSES_MAX,
};
use crate::types::{ClusterId, NodeId};

/// Time that an orderly close gives its last datagrams.
const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// What an endpoint needs besides its address.
#[derive(Clone)]
pub struct Options {
    /// Where refused handshakes are logged.
    pub logger: Logger,
}

/// One lane's endpoint. Clones share it; it closes when the last clone is dropped.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

struct Shared {
    lane: Lane,
    cluster: ClusterId,
    socket: quinn::Endpoint,
    credentials: Credentials,
    transports: Transports,
    local_address: SocketAddr,
    accepted: Mutex<mpsc::Receiver<Connection>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.socket.close(0u32.into(), b"");
    }
}

impl Endpoint {
    /// Binds a socket and begins to accept. Must be called inside a tokio runtime: that one drives
    /// the endpoint and all its connections, whichever runtime uses them.
    pub fn bind(
        lane: Lane,
        listen: SocketAddr,
        identity: &Identity,
        options: Options,
    ) -> Result<Self, NetError> {
        let logger = options.logger.new(o!("lane" => format!("{lane:?}")));
        let credentials = Credentials::new(identity)?;
        let transports = lane.transports();
        let udp = lane.socket(listen, &logger)?;
        let handle = tokio::runtime::Handle::current();
        let bound = |error| NetError::io(format!("listen on UDP {listen}"), error);

        let acceptor = Acceptor {
            lane,
            credentials: credentials.clone(),
            base: server_config(lane, &credentials)?,
            transports: transports.clone(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            slots: Slots::default(),
            logger,
        };
        let socket = quinn::Endpoint::new(
            lane.endpoint(identity),
            Some(acceptor.base.clone()),
            udp,
            Arc::new(LaneRuntime { handle: handle.clone() }),
        )
        .map_err(bound)?;
        let local_address = socket.local_addr().map_err(bound)?;
        let (accepted_sender, accepted) = mpsc::channel(CONNECTIONS_WAITING_MAX);
        // Ends when the socket is closed, by `close` or by dropping the last clone.
        drop(handle.spawn(accept_all(socket.clone(), Arc::new(acceptor), accepted_sender)));
        let shared = Shared {
            lane,
            cluster: identity.cluster(),
            socket,
            credentials,
            transports,
            local_address,
            accepted: Mutex::new(accepted),
        };
        Ok(Endpoint { shared: Arc::new(shared) })
    }

    /// Where it listens; with the true port if 0 was asked for.
    pub fn local_address(&self) -> SocketAddr {
        self.shared.local_address
    }

    /// The lane it serves.
    pub fn lane(&self) -> Lane {
        self.shared.lane
    }

    /// Dials `peer` at `address` (`host:port`, resolved now). Whoever else answers is refused.
    /// Returns once the other side has let this node in. Cancellation safe.
    pub async fn connect(&self, peer: NodeId, address: &str) -> Result<Connection, NetError> {
        let addresses = self.resolve(address).await?;
        // A name with several addresses gets no more time than one with a single one.
        let limit_ms = HANDSHAKE_MS_MAX / addresses.len() as u64;
        let mut result = Err(NetError::TimedOut(limit_ms));
        for address in addresses {
            result = timeout(Duration::from_millis(limit_ms), self.dial(peer, address))
                .await
                .unwrap_or(Err(NetError::TimedOut(limit_ms)));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The next node that dialled and proved its identity; None once the endpoint is closed.
    /// Cancellation safe.
    pub async fn accept(&self) -> Option<Connection> {
        self.shared.accepted.lock().await.recv().await
    }

    /// Closes the endpoint and all its connections, and gives the peers a moment to hear of it.
    pub async fn close(&self) {
        self.shared.socket.close(0u32.into(), b"the node is shutting down");
        // Whoever does not hear of it in time finds out by its idle timeout.
        let _ = timeout(CLOSE_WAIT, self.shared.socket.wait_idle()).await;
    }

    async fn resolve(&self, address: &str) -> Result<Vec<SocketAddr>, NetError> {
        let unresolved =
            |problem: String| NetError::Address { address: address.to_owned(), problem };
        let found = tokio::net::lookup_host(address)
            .await
            .map_err(|error| unresolved(error.to_string()))?;
        // An IPv6 socket reaches IPv4 addresses too, not the other way round.
        let reachable = |found: &SocketAddr| found.is_ipv4() || self.local_address().is_ipv6();
        let addresses: Vec<_> = found.filter(reachable).take(RESOLVED_ADDRESSES_MAX).collect();
        if addresses.is_empty() {
            return Err(unresolved("no address of this endpoint's family".to_owned()));
        }
        Ok(addresses)
    }

    async fn dial(&self, peer: NodeId, address: SocketAddr) -> Result<Connection, NetError> {
        let Shared { lane, socket, credentials, transports, .. } = &*self.shared;
        let verdict = Verdict::default();
        let tls = credentials.client_config(lane.alpn(), peer, verdict.clone())?;
        let crypto = QuicClientConfig::try_from(tls)
            .map_err(|error| NetError::KeyMaterial(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transports.to(address));

        let name = Subject::Node { cluster: self.shared.cluster, node: peer }.dns_name();
        let connecting =
            socket.connect_with(config, address, &name).map_err(|error| match error {
                quinn::ConnectError::EndpointStopping => NetError::Closed,
                other => {
                    NetError::Address { address: address.to_string(), problem: other.to_string() }
                }
            })?;
        let link = connecting
            .await
            .map_err(|error| verdict.take().unwrap_or_else(|| connection_error(error, *lane)))?;
        let connection = Connection::new(link, peer, *lane, None);
        connection.receive_welcome().await?;
        Ok(connection)
    }
}

/// What every handshake of a stranger needs.
struct Acceptor {
    lane: Lane,
    credentials: Credentials,
    /// Settings of the endpoint; each handshake takes a copy with a verdict of its own.
    base: quinn::ServerConfig,
    transports: Transports,
    handshakes: Arc<Semaphore>,
    slots: Slots,
    logger: Logger,
}

/// Takes strangers in until the socket is closed.
async fn accept_all(
    socket: quinn::Endpoint,
    acceptor: Arc<Acceptor>,
    accepted: mpsc::Sender<Connection>,
) {
    while let Some(stranger) = socket.accept().await {
        let under_way = HANDSHAKES_MAX - acceptor.handshakes.available_permits();
        if under_way >= HANDSHAKES_UNVALIDATED_MAX && !stranger.remote_address_validated() {
            // Forged sender addresses must not keep real nodes out.
            if let Err(error) = stranger.retry() {
                error.into_incoming().ignore();
            }
            continue;
        }
        let Ok(permit) = acceptor.handshakes.clone().try_acquire_owned() else {
            stranger.refuse();
            continue;
        };
        let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
        tokio::spawn(async move {
            let address = stranger.remote_address();
            let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
            let result = timeout(limit, acceptor.admit(stranger, accepted))
                .await
                .unwrap_or(Err(NetError::TimedOut(HANDSHAKE_MS_MAX)));
            if let Err(error) = result {
                acceptor.log_refusal(address, &error);
            }
            drop(permit);
        });
    }
}

impl Acceptor {
    /// One handshake, from a stranger's first datagram to a connection in the queue.
    async fn admit(
        &self,
        stranger: quinn::Incoming,
        accepted: mpsc::Sender<Connection>,
    ) -> Result<(), NetError> {
        let verdict = Verdict::default();
        let mut config = self.base.clone();
        config.crypto = server_crypto(self.lane, &self.credentials, verdict.clone())?;
        config.transport_config(self.transports.to(stranger.remote_address()));
        let refused = |error| verdict.take().unwrap_or_else(|| connection_error(error, self.lane));
        let link =
            stranger.accept_with(Arc::new(config)).map_err(refused)?.await.map_err(refused)?;
        let peer = proven_node(&link)?;
        let Some(slot) = self.slots.take(peer) else {
            turn_away(&link);
            return Err(NetError::PeerBusy(format!("node {peer} has too many connections here")));
        };
        let connection = Connection::new(link, peer, self.lane, Some(slot));
        connection.send_welcome().await?;
        // Fails only when the endpoint is gone, and the connection with it.
        accepted.send(connection).await.map_err(|_| NetError::Closed)
    }

    fn log_refusal(&self, address: SocketAddr, error: &NetError) {
        match error {
            NetError::TimedOut(_)
            | NetError::ConnectionLost(_)
            | NetError::ClosedByPeer(_)
            | NetError::RefusedByPeer(_)
            | NetError::Closed => {
                debug!(self.logger, "a handshake did not complete";
                    "from" => %address, "reason" => %error);
            }
            _ => {
                warn!(self.logger, "refused a connection"; "from" => %address, "reason" => %error);
            }
        }
    }
}

/// The node whose certificate the verifier accepted.
fn proven_node(link: &quinn::Connection) -> Result<NodeId, NetError> {
    let strange = || NetError::CertificateStrange("none was presented".to_owned());
    let chain = link
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or_else(strange)?;
    match parse_subject(chain.first().ok_or_else(strange)?)? {
        Subject::Node { node, .. } => Ok(node),
        Subject::Client { name, .. } => Err(NetError::NotANode(name.to_string())),
    }
}

fn server_crypto(
    lane: Lane,
    credentials: &Credentials,
    verdict: Verdict,
) -> Result<Arc<QuicServerConfig>, NetError> {
    let tls = credentials.server_config(lane.alpn(), verdict)?;
    QuicServerConfig::try_from(tls)
        .map(Arc::new)
        .map_err(|error| NetError::KeyMaterial(error.to_string()))
}

fn server_config(lane: Lane, credentials: &Credentials) -> Result<quinn::ServerConfig, NetError> {
    let mut config =
        quinn::ServerConfig::with_crypto(server_crypto(lane, credentials, Verdict::default())?);
    config
        .migration(false)
        .max_incoming(HANDSHAKES_MAX)
        .incoming_buffer_size(64 * 1024)
        .incoming_buffer_size_total(4 * MIB as u64);
    Ok(config)
}
