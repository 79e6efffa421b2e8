//! The proxy under the bulk lane's own QUIC: what it counts, and what a cut does.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::limits::{BULK_IDLE_TIMEOUT_MS, MIB};
use crate::net::testing::{authority, endpoint, identity};
use crate::net::{Connection, Endpoint, Lane};
use crate::types::NodeId;

const SOURCE: NodeId = NodeId(1);
/// Enough for the handshake and the ends of the transfer to weigh little.
const PAYLOAD_BYTES: usize = 24 * MIB;

/// A source, a receiver, and the proxy between them.
struct Scene {
    source: Endpoint,
    receiver: Endpoint,
    proxy: Proxy,
}

async fn scene() -> Scene {
    let authority = authority(3);
    let source = endpoint(Lane::Bulk, &identity(&authority, SOURCE.0));
    let receiver = endpoint(Lane::Bulk, &identity(&authority, 2));
    let options = ProxyOptions {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        target: source.local_address(),
        seed: 5,
    };
    Scene { source, receiver, proxy: Proxy::start(options).await.unwrap() }
}

impl Scene {
    /// Both ends of a connection through the proxy: the receiver's, the source's.
    async fn connect(&self) -> (Connection, Connection) {
        let address = self.proxy.local_address().to_string();
        let (dialled, accepted) =
            tokio::join!(self.receiver.connect(SOURCE, &address), self.source.accept());
        (dialled.unwrap(), accepted.unwrap())
    }
}

/// Sends `count` bytes from one end, and counts what arrives at the other until the stream ends or
/// the connection dies.
async fn transfer(from: Connection, to: &Connection, count: usize) -> usize {
    let sending = tokio::spawn(async move {
        let mut stream = from.open_uni().await?;
        for _ in 0..count / MIB {
            stream.write(&vec![7; MIB]).await?;
        }
        stream.finish()?;
        from.closed().await;
        Ok::<(), crate::net::NetError>(())
    });
    let mut received = 0;
    if let Ok(mut stream) = to.accept_uni().await {
        while let Ok(Some(chunk)) = stream.read_chunk(MIB).await {
            received += chunk.len();
        }
    }
    sending.abort();
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_estimate_of_payload_is_near_what_quic_delivers() {
    let scene = scene().await;
    let (receiver, source) = scene.connect().await;
    assert_eq!(transfer(source, &receiver, PAYLOAD_BYTES).await, PAYLOAD_BYTES);
    let counted = scene.proxy.counters(Direction::ToClient).payload_bytes as f64;
    // Above by what QUIC had to send again because a socket's buffer was full, below by nothing.
    let ratio = counted / PAYLOAD_BYTES as f64;
    assert!((0.99..1.05).contains(&ratio), "{ratio}");
    let back = scene.proxy.counters(Direction::ToTarget);
    assert!(back.payload_bytes < PAYLOAD_BYTES as u64 / 100, "acknowledgements: {back:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_longer_than_the_idle_timeout_kills_the_connection_and_healing_lets_a_new_one_in() {
    let scene = scene().await;
    let (receiver, source) = scene.connect().await;
    let slow = Link { bytes_per_second: 4 * MIB as u64, ..Link::default() };
    scene.proxy.set_link(Direction::ToClient, slow);
    let cutting = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        scene.proxy.cut();
        tokio::time::sleep(Duration::from_millis(BULK_IDLE_TIMEOUT_MS + 1_500)).await;
    };
    let (arrived, ()) = tokio::join!(transfer(source, &receiver, PAYLOAD_BYTES), cutting);
    assert!(arrived < PAYLOAD_BYTES, "the cut struck while bytes flowed");
    assert!(receiver.is_closed());
    scene.proxy.heal();
    scene.proxy.set_link(Direction::ToClient, Link::default());
    let (receiver, source) = scene.connect().await;
    assert_eq!(transfer(source, &receiver, MIB).await, MIB);
}
