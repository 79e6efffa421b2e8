//! What the bulk lane can do by itself: as many bytes from memory to memory, between two endpoints
//! in this process, each with a runtime of its own, as two nodes would have.
//!
//! No disk, no checksums beyond TLS, no order between streams: an upper bound of any pull.

use std::time::Instant;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ratoon::demo::measure::Copied;
use ratoon::limits::{BULK_PIECE_BYTES_MAX, MIB, PULL_STREAMS_DEFAULT};
use ratoon::net::{
    CertificateAuthority, Connection, Endpoint, Identity, Lane, NodeKey, Options, RecvStream,
};
use ratoon::types::{ClusterId, NodeId};
use slog::{Discard, Logger, o};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::support::Failed;

/// Threads of a node's bulk runtime.
const THREADS: usize = 2;
/// Bytes handed to a stream at once, the same ones again and again.
const BLOCK_BYTES: usize = MIB;
/// What reaches every place of memory once before the clock starts.
const WARM_UP_BYTES: u64 = 64 * MIB as u64;

/// One side of the lane.
struct Side {
    runtime: Option<Runtime>,
    endpoint: Endpoint,
}

impl Side {
    fn open(authority: &CertificateAuthority, node: u64) -> Result<Side, Failed> {
        let key = NodeKey::generate()?;
        let hosts = ["127.0.0.1".to_owned()];
        let certificate = authority.issue_node(NodeId(node), &hosts, key.request_der())?;
        let identity = Identity::new(authority.certificate_der(), &certificate, &key, [0; 32])?;
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        let endpoint = {
            let _inside = runtime.enter();
            let options = Options { logger: Logger::root(Discard, o!()) };
            Endpoint::bind(Lane::Bulk, "127.0.0.1:0".parse()?, &identity, options)?
        };
        Ok(Side { runtime: Some(runtime), endpoint })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is taken when the side is dropped")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime may not wait for its threads inside another one.
            runtime.shutdown_background();
        }
    }
}

/// Sends `bytes` bytes over as many streams as a pull uses.
pub async fn run(bytes: u64) -> Result<Copied, Failed> {
    let authority = CertificateAuthority::generate(ClusterId(rand::random()))?;
    let (sender, receiver) = (Side::open(&authority, 1)?, Side::open(&authority, 2)?);
    let address = receiver.endpoint.local_address().to_string();
    let outgoing = sender.endpoint.connect(NodeId(2), &address).await?;
    let incoming = receiver.endpoint.accept().await.ok_or("the receiver has closed")?;
    transmit(&sender, &receiver, &outgoing, &incoming, WARM_UP_BYTES).await?;
    let copied = transmit(&sender, &receiver, &outgoing, &incoming, bytes).await?;
    sender.endpoint.close().await;
    receiver.endpoint.close().await;
    Ok(copied)
}

async fn transmit(
    sender: &Side,
    receiver: &Side,
    outgoing: &Connection,
    incoming: &Connection,
    bytes: u64,
) -> Result<Copied, Failed> {
    let streams = PULL_STREAMS_DEFAULT as u64;
    let mut block = vec![0; BLOCK_BYTES];
    StdRng::seed_from_u64(bytes).fill(&mut block[..]);
    let block = Bytes::from(block);
    let started = Instant::now();
    let mut sending = JoinSet::new();
    let mut receiving = JoinSet::new();
    for stream in 0..streams {
        let share = bytes / streams + u64::from(stream < bytes % streams);
        sending.spawn_on(send(outgoing.clone(), block.clone(), share), sender.runtime().handle());
        let incoming = incoming.clone();
        let receive = async move { receive(incoming.accept_uni().await?).await };
        receiving.spawn_on(receive, receiver.runtime().handle());
    }
    while let Some(ended) = sending.join_next().await {
        ended??;
    }
    let mut received = 0;
    while let Some(ended) = receiving.join_next().await {
        received += ended??;
    }
    if received != bytes {
        return Err(format!("{received} bytes arrived of {bytes}").into());
    }
    Ok(Copied { bytes, took: started.elapsed() })
}

async fn send(connection: Connection, block: Bytes, bytes: u64) -> Result<(), Failed> {
    let mut stream = connection.open_uni().await?;
    let mut left = bytes;
    while left > 0 {
        let length = left.min(block.len() as u64) as usize;
        stream.write_bytes(block.slice(..length)).await?;
        left -= length as u64;
    }
    stream.finish()?;
    Ok(())
}

async fn receive(mut stream: RecvStream) -> Result<u64, Failed> {
    let mut bytes = 0;
    while let Some(piece) = stream.read_chunk(BULK_PIECE_BYTES_MAX).await? {
        bytes += piece.len() as u64;
    }
    Ok(bytes)
}
