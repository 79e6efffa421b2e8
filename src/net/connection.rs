//! One authenticated connection to a known node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::{ConnectionError, TransportErrorCode, VarInt};

use super::stream::{RecvStream, SendStream};
use super::{Lane, NetError};
use crate::limits::CONNECTIONS_PER_IDENTITY_MAX;
use crate::types::NodeId;

/// Application codes of a closed connection.
const CLOSE_NORMAL: u32 = 0;
/// The acceptor holds as many connections of this identity as it may.
const CLOSE_TOO_MANY: u32 = 1;
/// First and only byte of the stream with which the acceptor says: checked, and let in.
const WELCOME: u8 = 1;
/// TLS alerts in QUIC's error codes: 0x100 and the alert.
const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// A connection to a node whose identity is proven. Clones share it; it closes when the last clone
/// and the last of its streams are dropped.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

/// Kept alive by the connection's clones and streams.
pub(super) struct Inner {
    link: quinn::Connection,
    peer: NodeId,
    lane: Lane,
    /// The place of an accepted connection among those of its identity; freed by dropping it.
    _slot: Option<Slot>,
}

/// What a connection has done so far.
#[derive(Clone, Copy, Debug)]
pub struct LinkStats {
    /// Smoothed round trip time.
    pub round_trip: Duration,
    /// Bytes of UDP payload sent, all overhead and repetition included.
    pub sent_bytes: u64,
    /// Bytes of UDP payload received.
    pub received_bytes: u64,
    /// Packets deemed lost on the way to the peer.
    pub lost_packets: u64,
    /// Payload of the largest datagram the path carries.
    pub datagram_bytes: u16,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.inner;
        write!(f, "Connection({:?}, node {} at {})", inner.lane, inner.peer, self.remote_address())
    }
}

impl Connection {
    pub(super) fn new(
        link: quinn::Connection,
        peer: NodeId,
        lane: Lane,
        slot: Option<Slot>,
    ) -> Self {
        Connection { inner: Arc::new(Inner { link, peer, lane, _slot: slot }) }
    }

    /// The node at the other end, as its certificate proves.
    pub fn peer(&self) -> NodeId {
        self.inner.peer
    }

    /// Where its datagrams come from.
    pub fn remote_address(&self) -> std::net::SocketAddr {
        self.inner.link.remote_address()
    }

    /// Opens a one-way stream; waits while the peer's limit of open streams is reached. The peer
    /// sees the stream with its first byte. Cancellation safe.
    pub async fn open_uni(&self) -> Result<SendStream, NetError> {
        let stream = self.inner.link.open_uni().await.map_err(|error| self.error(error))?;
        Ok(SendStream::new(stream, self.inner.clone()))
    }

    /// The next one-way stream the peer opened. Cancellation safe.
    pub async fn accept_uni(&self) -> Result<RecvStream, NetError> {
        let stream = self.inner.link.accept_uni().await.map_err(|error| self.error(error))?;
        Ok(RecvStream::new(stream, self.inner.clone()))
    }

    /// Opens a two-way stream; as `open_uni`.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), NetError> {
        let (send, recv) = self.inner.link.open_bi().await.map_err(|error| self.error(error))?;
        let inner = &self.inner;
        Ok((SendStream::new(send, inner.clone()), RecvStream::new(recv, inner.clone())))
    }

    /// The next two-way stream the peer opened. Cancellation safe.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), NetError> {
        let (send, recv) = self.inner.link.accept_bi().await.map_err(|error| self.error(error))?;
        let inner = &self.inner;
        Ok((SendStream::new(send, inner.clone()), RecvStream::new(recv, inner.clone())))
    }

    /// Ends the connection at once; the peer reads `reason` in `NetError::ClosedByPeer`. Bytes not
    /// yet acknowledged may be lost.
    pub fn close(&self, reason: &str) {
        self.inner.link.close(CLOSE_NORMAL.into(), reason.as_bytes());
    }

    /// Waits for the end of the connection and says why it ended. Cancellation safe.
    pub async fn closed(&self) -> NetError {
        let error = self.inner.link.closed().await;
        self.error(error)
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.link.close_reason().is_some()
    }

    /// Counters and round trip time.
    pub fn stats(&self) -> LinkStats {
        let stats = self.inner.link.stats();
        LinkStats {
            round_trip: stats.path.rtt,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.path.lost_packets,
            datagram_bytes: stats.path.current_mtu,
        }
    }

    /// The acceptor's word that the peer is let in. Without it a dialler would take a connection
    /// for good whose certificate is refused a moment later: TLS 1.3 checks the dialler last.
    pub(super) async fn send_welcome(&self) -> Result<(), NetError> {
        let mut stream = self.open_uni().await?;
        stream.write(&[WELCOME]).await?;
        stream.finish()
    }

    /// Waits for the acceptor's word.
    pub(super) async fn receive_welcome(&self) -> Result<(), NetError> {
        let mut stream = self.accept_uni().await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        if byte[0] != WELCOME {
            let text = format!("it speaks version {} of the link, this is 1", byte[0]);
            return Err(NetError::RefusedByPeer(text));
        }
        Ok(())
    }

    fn error(&self, error: ConnectionError) -> NetError {
        connection_error(error, self.inner.lane)
    }
}

impl Inner {
    pub fn lane(&self) -> Lane {
        self.lane
    }
}

/// Turns a connection away that is one too many.
pub(super) fn turn_away(link: &quinn::Connection) {
    let reason = format!("{CONNECTIONS_PER_IDENTITY_MAX} connections of this node are open");
    link.close(VarInt::from_u32(CLOSE_TOO_MANY), reason.as_bytes());
}

/// Why a connection ended or never came to be, in the words of this room.
pub(super) fn connection_error(error: ConnectionError, lane: Lane) -> NetError {
    match error {
        ConnectionError::TimedOut => NetError::TimedOut(lane.idle_timeout_ms()),
        ConnectionError::LocallyClosed => NetError::Closed,
        ConnectionError::Reset => {
            NetError::ConnectionLost("the other side has restarted".to_owned())
        }
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            if close.error_code == VarInt::from_u32(CLOSE_TOO_MANY) {
                NetError::PeerBusy(reason)
            } else {
                NetError::ClosedByPeer(reason)
            }
        }
        ConnectionError::ConnectionClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED {
                NetError::PeerBusy("no room for another handshake".to_owned())
            } else if TLS_ALERTS.contains(&u64::from(close.error_code)) {
                NetError::RefusedByPeer(reason)
            } else {
                NetError::ConnectionLost(format!("{} {reason}", close.error_code))
            }
        }
        other => NetError::ConnectionLost(other.to_string()),
    }
}

/// Counts the accepted connections of each identity.
#[derive(Clone, Default)]
pub(super) struct Slots(Arc<Mutex<BTreeMap<NodeId, usize>>>);

impl Slots {
    /// A place for one more connection of `node`, if it may have one.
    pub fn take(&self, node: NodeId) -> Option<Slot> {
        let mut counts = self.0.lock().expect("no code panics while it holds this lock");
        let count = counts.entry(node).or_default();
        if *count >= CONNECTIONS_PER_IDENTITY_MAX {
            return None;
        }
        *count += 1;
        Some(Slot { slots: self.clone(), node })
    }
}

/// One connection's place; freed by dropping it.
pub(super) struct Slot {
    slots: Slots,
    node: NodeId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.0.lock().expect("no code panics while it holds this lock");
        if let Some(count) = counts.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.node);
            }
        }
    }
}
