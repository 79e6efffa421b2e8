//! The two lanes and their settings: raft messages, and bulk data.
//!
//! Separate endpoints, because one task drives all traffic of an endpoint over one socket: on a
//! shared one, bulk data would delay heartbeats.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{
    AckFrequencyConfig, AsyncTimer, AsyncUdpSocket, ConnectionId, ConnectionIdGenerator,
    EndpointConfig, MtuDiscoveryConfig, Runtime, TokioRuntime, TransportConfig, VarInt,
};
use slog::{Logger, info};
use socket2::{Domain, Protocol, Socket, Type};

use super::congestion::BulkCongestion;
use super::{Identity, NetError};
use crate::limits;

/// Which traffic an endpoint carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Raft messages and calls between nodes: small, urgent.
    Raft,
    /// Snapshot chunks and the like: large, patient.
    Bulk,
}

impl Lane {
    /// The protocol named in the handshake; an endpoint of the other lane refuses it.
    pub(super) fn alpn(self) -> &'static [u8] {
        match self {
            Lane::Raft => b"ratoon-raft/1",
            Lane::Bulk => b"ratoon-bulk/1",
        }
    }

    /// Silence after which a connection is dead.
    pub(super) fn idle_timeout_ms(self) -> u64 {
        match self {
            Lane::Raft => limits::RAFT_IDLE_TIMEOUT_MS,
            Lane::Bulk => limits::BULK_IDLE_TIMEOUT_MS,
        }
    }

    fn socket_buffer_bytes(self) -> usize {
        match self {
            Lane::Raft => limits::RAFT_SOCKET_BUFFER_BYTES,
            Lane::Bulk => limits::BULK_SOCKET_BUFFER_BYTES,
        }
    }

    /// Largest datagram received, and tried by path MTU discovery.
    fn datagram_bytes_max(self) -> u16 {
        match self {
            // 1500 less the headers of IPv6 and UDP.
            Lane::Raft => 1452,
            Lane::Bulk => limits::BULK_DATAGRAM_BYTES_MAX,
        }
    }

    /// Settings of connections to another machine, and to this one.
    pub(super) fn transports(self) -> Transports {
        let mut near = self.transport();
        if self == Lane::Bulk {
            // On loopback the size is known to fit. A search for it would not even begin while
            // there is data to send, and bursts lost to full buffers look to it as if it did not.
            near.initial_mtu(self.datagram_bytes_max()).min_mtu(self.datagram_bytes_max());
        }
        Transports { near: Arc::new(near), far: Arc::new(self.transport()) }
    }

    fn transport(self) -> TransportConfig {
        let mut config = TransportConfig::default();
        let idle = VarInt::from_u64(self.idle_timeout_ms()).expect("limits are small");
        let mut discovery = MtuDiscoveryConfig::default();
        discovery
            .upper_bound(self.datagram_bytes_max())
            // Bursts of loss are mistaken for a smaller path now and then; a minute is too long.
            .black_hole_cooldown(Duration::from_secs(5));
        config
            .max_idle_timeout(Some(idle.into()))
            .keep_alive_interval(Some(Duration::from_millis(limits::KEEP_ALIVE_MS)))
            // The first retransmission of a lost first datagram comes after three of these.
            .initial_rtt(Duration::from_millis(100))
            .mtu_discovery_config(Some(discovery))
            .max_concurrent_uni_streams(limits::UNI_STREAMS_MAX.into())
            .datagram_receive_buffer_size(None)
            .allow_spin(false);
        match self {
            Lane::Raft => config
                .max_concurrent_bidi_streams(limits::RAFT_BI_STREAMS_MAX.into())
                .stream_receive_window(window(limits::RAFT_STREAM_WINDOW_BYTES))
                .receive_window(window(limits::RAFT_CONNECTION_WINDOW_BYTES))
                .send_window(limits::RAFT_SEND_WINDOW_BYTES as u64),
            Lane::Bulk => config
                .max_concurrent_bidi_streams(limits::BULK_BI_STREAMS_MAX.into())
                .stream_receive_window(window(limits::BULK_STREAM_WINDOW_BYTES))
                .receive_window(window(limits::BULK_CONNECTION_WINDOW_BYTES))
                .send_window(limits::BULK_SEND_WINDOW_BYTES as u64)
                .ack_frequency_config(Some(sparse_acknowledgements()))
                .congestion_controller_factory(Arc::new(BulkCongestion)),
        };
        config
    }

    /// Settings of the endpoint. The key that lets a restarted node tell its peers that it knows
    /// their old connections no more is derived from its private key: a peer of a killed node
    /// learns of it with its next datagram, instead of after the idle timeout.
    pub(super) fn endpoint(self, identity: &Identity) -> EndpointConfig {
        let context = match self {
            Lane::Raft => "ratoon 2026-01 QUIC stateless reset, raft lane",
            Lane::Bulk => "ratoon 2026-01 QUIC stateless reset, bulk lane",
        };
        let reset_key = blake3::derive_key(context, identity.key_der());
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &reset_key);
        let mut config = EndpointConfig::new(Arc::new(key));
        config.cid_generator(|| Box::new(RandomConnectionIds));
        config
            .max_udp_payload_size(self.datagram_bytes_max())
            .expect("the limit lies within what QUIC allows");
        config
    }

    /// A UDP socket bound to `listen`, with buffers as large as the system grants.
    pub(super) fn socket(
        self,
        listen: SocketAddr,
        logger: &Logger,
    ) -> Result<std::net::UdpSocket, NetError> {
        let socket = self
            .open_socket(listen)
            .map_err(|error| NetError::io(format!("listen on UDP {listen}"), error))?;
        let granted = socket.recv_buffer_size().unwrap_or(0);
        if granted < self.socket_buffer_bytes() {
            info!(logger, "the system grants smaller UDP buffers than asked for";
                "lane" => ?self, "asked_bytes" => self.socket_buffer_bytes(),
                "granted_bytes" => granted, "hint" => "raise net.core.rmem_max and wmem_max");
        }
        Ok(socket.into())
    }

    fn open_socket(self, listen: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        if listen.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // Smaller buffers cost speed under load, nothing else; `socket` reports what was granted.
        let _ = socket.set_recv_buffer_size(self.socket_buffer_bytes());
        let _ = socket.set_send_buffer_size(self.socket_buffer_bytes());
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        Ok(socket)
    }
}

/// Settings of connections, by where the other side is.
#[derive(Clone)]
pub(super) struct Transports {
    near: Arc<TransportConfig>,
    far: Arc<TransportConfig>,
}

impl Transports {
    /// For a peer at `address`.
    pub fn to(&self, address: SocketAddr) -> Arc<TransportConfig> {
        let near = address.ip().to_canonical().is_loopback();
        if near { self.near.clone() } else { self.far.clone() }
    }
}

fn window(bytes: usize) -> VarInt {
    VarInt::from_u64(bytes as u64).expect("limits are small")
}

/// One acknowledgement for ten packets: acknowledging every second one costs a fast transfer a
/// good part of its time.
fn sparse_acknowledgements() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config.ack_eliciting_threshold(VarInt::from_u32(10));
    config
}

/// Random connection ids without a key of their own, so that ids issued before a restart are
/// answered with a reset after it.
struct RandomConnectionIds;

impl ConnectionIdGenerator for RandomConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Runs all of an endpoint on the runtime it was bound in, whichever runtime uses it later.
/// quinn would drive a connection on the runtime of whoever dialled.
#[derive(Debug)]
pub(super) struct LaneRuntime {
    /// The lane's runtime.
    pub handle: tokio::runtime::Handle,
}

impl Runtime for LaneRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _context = self.handle.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        // The task ends with its endpoint or connection; nobody waits for it.
        drop(self.handle.spawn(future));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _context = self.handle.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }
}
