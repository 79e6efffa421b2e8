//! The raft lane's transport: frames and calls between this node and its peers.
//!
//! For each peer one connection dialled by this node, with two one-way streams: heartbeats and
//! votes on one, appends on the other, so that a long queue of entries never delays a heartbeat.
//! Frames are best effort: what cannot be sent is dropped and the peer reported unreachable, raft
//! copes. Calls take a two-way stream each and say whether they may have been executed. What the
//! bytes mean is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use slog::{Logger, debug, info, o, warn};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::select;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::limits::{
    CALL_FRAME_BYTES_MAX, CALLS_SERVED_BYTES_MAX, PEER_CALL_BYTES_MAX, PEER_QUEUE_BYTES_MAX,
    PEER_QUEUE_FRAMES_MAX, RAFT_FRAME_BYTES_MAX, RECONNECT_MS_MAX, RECONNECT_MS_MIN,
};
use crate::net::{Connection, Endpoint, NetError, RecvStream, SendStream};
use crate::types::NodeId;

/// Priority of the urgent stream over all others of its connection.
const URGENT_PRIORITY: i32 = 1;
/// Code of a call's stream: not executed, too much is under way.
const CALL_OVERLOADED: u32 = 1;
/// Code of a call's stream: taken, and given up without an answer.
const CALL_UNANSWERED: u32 = 2;

/// Which of a peer's two streams a frame takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Heartbeats, votes, their answers, and short words: never behind entries.
    Urgent,
    /// Messages with entries or data, and their answers.
    Append,
}

/// What comes from the peers.
#[derive(Debug)]
pub enum Inbound {
    /// A frame; of one peer and class in the order sent, with gaps where a connection broke.
    Frame {
        /// The sender, as its certificate proves.
        from: NodeId,
        /// Where it sent it from.
        address: SocketAddr,
        /// As handed to `send`.
        bytes: Bytes,
    },
    /// A request that waits for an answer.
    Call {
        /// The caller, as its certificate proves.
        from: NodeId,
        /// Where it called from.
        address: SocketAddr,
        /// As handed to `call`.
        request: Bytes,
        /// Takes the answer, up to `CALL_FRAME_BYTES_MAX`. Dropped: the caller learns that the
        /// outcome is unknown.
        respond: oneshot::Sender<Bytes>,
    },
    /// Frames to this peer were dropped, or its connection broke.
    Unreachable(NodeId),
}

/// Why a call has no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CallError {
    /// Retry, here or elsewhere: the peer never had the whole request.
    #[error("node {to} was not reached: {reason}")]
    NeverSent {
        /// Who was called.
        to: NodeId,
        /// What was in the way.
        reason: String,
    },
    /// Retry later: the peer has too much under way and did not execute it.
    #[error("node {to} is overloaded")]
    Overloaded {
        /// Who was called.
        to: NodeId,
    },
    /// The peer may or may not have executed it; only the caller knows whether to repeat it.
    #[error("node {to} was asked and did not answer: {reason}")]
    OutcomeUnknown {
        /// Who was called.
        to: NodeId,
        /// What happened instead of an answer.
        reason: String,
    },
}

/// The node's links to its peers. Clones share them; they end with `shutdown`, or with the last
/// clone.
#[derive(Clone)]
pub struct Peers {
    context: Arc<Context>,
    _stop_with_last: Arc<DropGuard>,
}

/// What all tasks share.
struct Context {
    endpoint: Endpoint,
    logger: Logger,
    runtime: Handle,
    inbound: mpsc::Sender<Inbound>,
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    /// Peers to be reported unreachable as soon as `inbound` has room.
    reports: Mutex<BTreeSet<NodeId>>,
    reports_changed: Notify,
    /// Bytes of requests that may be in memory at once.
    calls_served: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// This node's end of the link to one peer.
struct Peer {
    node: NodeId,
    address: watch::Sender<String>,
    /// Where it was heard from while the link was not up; takes the place of `address` in one attempt.
    heard_at: Mutex<Option<String>>,
    link: watch::Sender<Link>,
    urgent: Queue,
    append: Queue,
    /// Bytes of calls to it that may be under way.
    calls: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Whether a peer can be reached.
#[derive(Clone)]
enum Link {
    /// An attempt is under way.
    Connecting,
    /// It can.
    Up(Connection),
    /// The last attempt failed, or the connection broke; the next attempt comes after a pause.
    Down(String),
}

/// Frames waiting for a stream, bounded in number and bytes.
struct Queue {
    sender: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
}

/// A frame and its share of the queue's bytes, given back when it is dropped.
struct Queued {
    frame: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Queue {
    fn new() -> (Self, mpsc::Receiver<Queued>) {
        let (sender, receiver) = mpsc::channel(PEER_QUEUE_FRAMES_MAX);
        (Queue { sender, room: Arc::new(Semaphore::new(PEER_QUEUE_BYTES_MAX)) }, receiver)
    }

    /// False: full, the frame is dropped.
    fn push(&self, frame: Bytes) -> bool {
        let Ok(room) = self.room.clone().try_acquire_many_owned(permits(frame.len())) else {
            return false;
        };
        self.sender.try_send(Queued { frame, _room: room }).is_ok()
    }
}

/// Semaphore permits for so many bytes. All budgets are far below 4 GiB.
fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Peers {
    /// Begins to accept peers. Must be called inside a tokio runtime, which runs all tasks; the
    /// other methods may be called from any thread.
    pub fn start(endpoint: Endpoint, logger: Logger, inbound: mpsc::Sender<Inbound>) -> Peers {
        let stop = CancellationToken::new();
        let context = Arc::new(Context {
            endpoint,
            logger,
            runtime: Handle::current(),
            inbound,
            peers: RwLock::default(),
            reports: Mutex::default(),
            reports_changed: Notify::new(),
            calls_served: Arc::new(Semaphore::new(CALLS_SERVED_BYTES_MAX)),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        });
        context.spawn(stop.clone(), accept_all(context.clone()));
        context.spawn(stop.clone(), report_all(context.clone()));
        Peers { context, _stop_with_last: Arc::new(stop.drop_guard()) }
    }

    /// Where `node` is reached from now on, `host:port`. A link to its old address is replaced.
    pub fn set_address(&self, node: NodeId, address: &str) {
        let context = &self.context;
        let mut peers = context.peers.write().expect("no code panics while it holds this lock");
        if let Some(peer) = peers.get(&node) {
            peer.address.send_if_modified(|known| {
                let moved = known != address;
                if moved {
                    *known = address.to_owned();
                    peer.take_heard_at();
                }
                moved
            });
            return;
        }
        let (urgent, urgent_frames) = Queue::new();
        let (append, append_frames) = Queue::new();
        let peer = Arc::new(Peer {
            node,
            address: watch::Sender::new(address.to_owned()),
            heard_at: Mutex::default(),
            link: watch::Sender::new(Link::Connecting),
            urgent,
            append,
            calls: Arc::new(Semaphore::new(PEER_CALL_BYTES_MAX)),
            stop: context.stop.child_token(),
        });
        let frames = Frames { urgent: urgent_frames, append: append_frames };
        context.spawn(peer.stop.clone(), keep_link(context.clone(), peer.clone(), frames));
        peers.insert(node, peer);
    }

    /// `node` was heard from this address. Where no link stands, it is tried once, and the known
    /// address after it: an endpoint dials and listens on one socket, and a node that came back
    /// elsewhere is known there to nobody.
    pub fn learn_address(&self, node: NodeId, address: SocketAddr) {
        let Some(peer) = self.context.peer(node) else {
            return self.set_address(node, &address.to_string());
        };
        if matches!(*peer.link.borrow(), Link::Up(_)) {
            return;
        }
        let address = address.to_string();
        if *peer.address.borrow() != address {
            let mut heard_at =
                peer.heard_at.lock().expect("no code panics while it holds this lock");
            *heard_at = Some(address);
        }
    }

    /// Closes the link to `node` and dials it no more. What it sends is still received.
    pub fn forget(&self, node: NodeId) {
        let mut peers =
            self.context.peers.write().expect("no code panics while it holds this lock");
        if let Some(peer) = peers.remove(&node) {
            peer.stop.cancel();
            // Callers that wait for the link would otherwise wait until their time is over.
            peer.link.send_replace(Link::Down("it was removed".to_owned()));
        }
    }

    /// Sends a frame, or drops it and reports the peer unreachable. Never blocks.
    pub fn send(&self, to: NodeId, class: Class, frame: Bytes) {
        assert!(frame.len() <= RAFT_FRAME_BYTES_MAX, "the raft core bounds its messages");
        let Some(peer) = self.context.peer(to) else {
            return self.context.report(to);
        };
        // A peer that is down was reported when it went down.
        if matches!(*peer.link.borrow(), Link::Down(_)) {
            return;
        }
        let queue = match class {
            Class::Urgent => &peer.urgent,
            Class::Append => &peer.append,
        };
        if !queue.push(frame) {
            self.context.report(to);
        }
    }

    /// Sends a request and waits for its answer, together no longer than `limit`. A link that is
    /// being made is waited for; one that is down is an error at once. Cancellation safe: a call
    /// given up may still be executed.
    pub async fn call(
        &self,
        to: NodeId,
        request: Bytes,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let never = |reason: String| CallError::NeverSent { to, reason };
        if request.len() > CALL_FRAME_BYTES_MAX {
            return Err(never(format!("a request of {} bytes is too large", request.len())));
        }
        let peer = self.context.peer(to).ok_or_else(|| never("it has no address".to_owned()))?;
        let deadline = Instant::now() + limit;
        let late = || format!("no answer within {} ms", limit.as_millis());

        let sent = timeout_at(deadline, peer.send_request(request)).await;
        let (mut answer, _room) = sent.map_err(|_| never(late()))??;
        let unknown = |reason: String| CallError::OutcomeUnknown { to, reason };
        let read = timeout_at(deadline, answer.read_frame(CALL_FRAME_BYTES_MAX)).await;
        match read.map_err(|_| unknown(late()))? {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(unknown("it ended the call".to_owned())),
            Err(NetError::StreamReset(CALL_OVERLOADED)) => Err(CallError::Overloaded { to }),
            Err(error) => Err(unknown(error.to_string())),
        }
    }

    /// Whether a connection to `node` stands.
    pub fn is_connected(&self, node: NodeId) -> bool {
        let peer = self.context.peer(node);
        peer.is_some_and(|peer| matches!(*peer.link.borrow(), Link::Up(_)))
    }

    /// Ends all tasks and closes the endpoint; frames still waiting are dropped.
    pub async fn shutdown(&self) {
        self.context.stop.cancel();
        self.context.tasks.close();
        self.context.tasks.wait().await;
        self.context.endpoint.close().await;
    }
}

impl Peer {
    /// Where it was heard from, if that was not tried yet; it is forgotten by this.
    fn take_heard_at(&self) -> Option<String> {
        self.heard_at.lock().expect("no code panics while it holds this lock").take()
    }

    /// Hands the whole request over to the transport; gives the stream on which the answer comes,
    /// and the call's share of the budget. Dropped halfway, the stream is reset, so that the peer
    /// never has the whole request.
    async fn send_request(
        &self,
        request: Bytes,
    ) -> Result<(RecvStream, OwnedSemaphorePermit), CallError> {
        let to = self.node;
        let never = |error: NetError| CallError::NeverSent { to, reason: error.to_string() };
        let connection = self.connection().await?;
        let room = self.calls.clone().acquire_many_owned(permits(request.len())).await;
        let room = room.expect("the semaphore is never closed");
        let (mut stream, answer) = connection.open_bi().await.map_err(never)?;
        match stream.write_frame_bytes(request).await {
            Ok(()) => {}
            // The peer saw the length and has no room for it.
            Err(NetError::StreamStopped(_)) => return Err(CallError::Overloaded { to }),
            Err(error) => return Err(never(error)),
        }
        // Fails only if the peer stopped the stream, which the answer's stream tells better.
        let _ = stream.finish();
        Ok((answer, room))
    }

    /// The connection, once an attempt that is under way has ended.
    async fn connection(&self) -> Result<Connection, CallError> {
        let never = |reason: String| CallError::NeverSent { to: self.node, reason };
        let mut link = self.link.subscribe();
        let settled = link
            .wait_for(|link| !matches!(link, Link::Connecting))
            .await
            .map_err(|_| never("it was removed".to_owned()))?;
        match &*settled {
            Link::Up(connection) => Ok(connection.clone()),
            Link::Down(reason) => Err(never(reason.clone())),
            Link::Connecting => unreachable!("just waited for another state"),
        }
    }
}

impl Context {
    fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        let peers = self.peers.read().expect("no code panics while it holds this lock");
        peers.get(&node).cloned()
    }

    /// Runs a task until it ends or `stop` is cancelled. All tasks here may be dropped at any
    /// await: they own nothing but streams, which are reset then.
    fn spawn(&self, stop: CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        let bounded = async move {
            select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        };
        // Nobody waits for one task; `shutdown` waits for all.
        drop(self.tasks.spawn_on(bounded, &self.runtime));
    }

    /// Notes that frames to `node` were lost. Never blocks.
    fn report(&self, node: NodeId) {
        self.reports.lock().expect("no code panics while it holds this lock").insert(node);
        self.reports_changed.notify_one();
    }
}

/// Passes reports on as fast as the receiver takes them; several of one peer become one.
async fn report_all(context: Arc<Context>) {
    loop {
        context.reports_changed.notified().await;
        loop {
            let next = {
                let mut reports =
                    context.reports.lock().expect("no code panics while it holds this lock");
                reports.pop_first()
            };
            let Some(node) = next else { break };
            if context.inbound.send(Inbound::Unreachable(node)).await.is_err() {
                return;
            }
        }
    }
}

/// The receiving ends of a peer's queues.
struct Frames {
    urgent: mpsc::Receiver<Queued>,
    append: mpsc::Receiver<Queued>,
}

impl Frames {
    /// Drops all that waits: after a pause it is out of date, raft sends anew.
    fn clear(&mut self) {
        while self.urgent.try_recv().is_ok() {}
        while self.append.try_recv().is_ok() {}
    }
}

/// Dials one peer again and again, and sends it what waits, until it is forgotten.
async fn keep_link(context: Arc<Context>, peer: Arc<Peer>, mut frames: Frames) {
    let logger = context.logger.new(o!("peer" => peer.node.0));
    let mut address = peer.address.subscribe();
    let mut pause_ms = RECONNECT_MS_MIN;
    let mut last_reason = String::new();
    loop {
        peer.link.send_replace(Link::Connecting);
        let begun = Instant::now();
        let known = address.borrow_and_update().clone();
        let dialled = peer.take_heard_at().unwrap_or(known);
        let reason = select! {
            error = link_once(&context, &peer, &dialled, &mut frames, &logger) => error.to_string(),
            _ = address.changed() => "it moved to another address".to_owned(),
        };
        if reason != last_reason {
            // A peer that stays away is one line, not one a second.
            warn!(logger, "peer unreachable"; "address" => &dialled, "reason" => &reason);
            last_reason.clone_from(&reason);
        }
        peer.link.send_replace(Link::Down(reason));
        frames.clear();
        context.report(peer.node);
        if begun.elapsed() > Duration::from_millis(2 * RECONNECT_MS_MAX) {
            pause_ms = RECONNECT_MS_MIN;
        }
        // Half of it at least; random, so that nodes that lost each other at once spread out.
        let jittered_ms = rand::random_range(pause_ms / 2..=pause_ms);
        pause_ms = (2 * pause_ms).min(RECONNECT_MS_MAX);
        tokio::time::sleep(Duration::from_millis(jittered_ms)).await;
    }
}

/// One attempt to reach a peer and, if it succeeds, everything until the connection breaks.
async fn link_once(
    context: &Context,
    peer: &Peer,
    address: &str,
    frames: &mut Frames,
    logger: &Logger,
) -> NetError {
    let connection = match context.endpoint.connect(peer.node, address).await {
        Ok(connection) => connection,
        Err(error) => return error,
    };
    info!(logger, "connected"; "address" => address);
    peer.link.send_replace(Link::Up(connection.clone()));
    // What was heard before is older than this.
    peer.take_heard_at();
    send_all(&connection, frames).await
}

/// Sends frames over a connection until it breaks; says why it did.
async fn send_all(connection: &Connection, frames: &mut Frames) -> NetError {
    let streams = async {
        let urgent = connection.open_uni().await?;
        urgent.set_priority(URGENT_PRIORITY)?;
        Ok((urgent, connection.open_uni().await?))
    };
    let (urgent, append) = match streams.await {
        Ok(streams) => streams,
        Err(error) => return error,
    };
    select! {
        error = send_frames(urgent, &mut frames.urgent) => error,
        error = send_frames(append, &mut frames.append) => error,
        error = connection.closed() => error,
    }
}

async fn send_frames(mut stream: SendStream, frames: &mut mpsc::Receiver<Queued>) -> NetError {
    while let Some(queued) = frames.recv().await {
        if let Err(error) = stream.write_frame_bytes(queued.frame).await {
            return error;
        }
    }
    NetError::Closed
}

/// Serves every peer that dials this node.
async fn accept_all(context: Arc<Context>) {
    while let Some(connection) = context.endpoint.accept().await {
        debug!(context.logger, "accepted"; "peer" => connection.peer().0);
        context.spawn(context.stop.clone(), serve(context.clone(), connection));
    }
}

/// Starts a task for each stream of an accepted connection, until it ends. The transport bounds
/// how many streams a peer may have open.
async fn serve(context: Arc<Context>, connection: Connection) {
    let error = loop {
        select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    let reading = receive_frames(context.clone(), connection.clone(), stream);
                    context.spawn(context.stop.clone(), reading);
                }
                Err(error) => break error,
            },
            stream = connection.accept_bi() => match stream {
                Ok((answer, request)) => {
                    let caller = (connection.peer(), connection.remote_address());
                    let answering = answer_call(context.clone(), caller, request, answer);
                    context.spawn(context.stop.clone(), answering);
                }
                Err(error) => break error,
            },
        }
    };
    debug!(context.logger, "connection ended";
        "peer" => connection.peer().0, "reason" => %error);
}

/// Passes frames on. Where they are not taken fast enough, reading stops, and the sender's windows
/// and queues fill.
async fn receive_frames(context: Arc<Context>, connection: Connection, mut stream: RecvStream) {
    let (from, address) = (connection.peer(), connection.remote_address());
    loop {
        match stream.read_frame(RAFT_FRAME_BYTES_MAX).await {
            Ok(Some(bytes)) => {
                if context.inbound.send(Inbound::Frame { from, address, bytes }).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error @ NetError::FrameTooLarge { .. }) => {
                warn!(context.logger, "closing a connection"; "peer" => from.0, "reason" => %error);
                return connection.close(&error.to_string());
            }
            // The connection broke, or the peer gave it up; `serve` or the peer says so.
            Err(_) => return,
        }
    }
}

/// Takes one request and sends back what whoever serves it answers.
async fn answer_call(
    context: Arc<Context>,
    (from, address): (NodeId, SocketAddr),
    mut request: RecvStream,
    mut answer: SendStream,
) {
    let bytes = match request.next_frame_bytes(CALL_FRAME_BYTES_MAX).await {
        Ok(Some(bytes)) => bytes,
        // Not a whole request, or one too large: the caller knows that it was not executed.
        Ok(None) => return answer.reset(CALL_OVERLOADED),
        Err(error) => {
            if matches!(error, NetError::FrameTooLarge { .. }) {
                warn!(context.logger, "refused a call"; "peer" => from.0, "reason" => %error);
            }
            return answer.reset(CALL_OVERLOADED);
        }
    };
    // Held until the answer is sent: bounds what all calls keep in memory.
    let Ok(_room) = context.calls_served.clone().try_acquire_many_owned(permits(bytes)) else {
        return answer.reset(CALL_OVERLOADED);
    };
    let Ok(Some(request)) = request.read_frame(CALL_FRAME_BYTES_MAX).await else {
        return answer.reset(CALL_OVERLOADED);
    };
    let (respond, response) = oneshot::channel();
    let call = Inbound::Call { from, address, request, respond };
    if context.inbound.try_send(call).is_err() {
        return answer.reset(CALL_OVERLOADED);
    }
    match response.await {
        Ok(response) if response.len() <= CALL_FRAME_BYTES_MAX => {
            // A caller that is gone needs no answer.
            if answer.write_frame_bytes(response).await.is_ok() {
                let _ = answer.finish();
            }
        }
        Ok(response) => {
            warn!(context.logger, "an answer is too large"; "bytes" => response.len());
            answer.reset(CALL_UNANSWERED);
        }
        Err(_) => answer.reset(CALL_UNANSWERED),
    }
}

#[cfg(test)]
mod tests;
