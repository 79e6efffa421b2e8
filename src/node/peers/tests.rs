//! Stories of nodes that talk over the raft lane on loopback.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use super::*;
use crate::limits::MIB;
use crate::net::testing::{authority, endpoint, endpoint_at, identity, logger};
use crate::net::{CertificateAuthority, Identity, Lane};

/// Long enough for anything that works, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct TestNode {
    peers: Peers,
    inbound: mpsc::Receiver<Inbound>,
    address: SocketAddr,
}

fn node(ca: &CertificateAuthority, id: u64) -> TestNode {
    node_of(&identity(ca, id), "127.0.0.1:0".parse().unwrap(), 1024)
}

fn node_of(identity: &Identity, listen: SocketAddr, inbound_max: usize) -> TestNode {
    let endpoint = endpoint_at(Lane::Raft, identity, listen);
    let address = endpoint.local_address();
    let (sender, inbound) = mpsc::channel(inbound_max);
    TestNode { peers: Peers::start(endpoint, logger(), sender), inbound, address }
}

impl TestNode {
    fn knows(&self, id: u64, other: &TestNode) {
        self.peers.set_address(NodeId(id), &other.address.to_string());
    }

    async fn next(&mut self) -> Inbound {
        tokio::time::timeout(PATIENCE, self.inbound.recv()).await.unwrap().unwrap()
    }

    /// The next frame, whatever else comes.
    async fn next_frame(&mut self) -> (NodeId, Bytes) {
        loop {
            if let Inbound::Frame { from, bytes, .. } = self.next().await {
                return (from, bytes);
            }
        }
    }

    async fn next_call(&mut self) -> (NodeId, Bytes, oneshot::Sender<Bytes>) {
        loop {
            if let Inbound::Call { from, request, respond, .. } = self.next().await {
                return (from, request, respond);
            }
        }
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "it never came to be");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_a_class_arrive_in_order_in_both_directions() {
    let ca = authority(1);
    let (mut first, mut second) = (node(&ca, 1), node(&ca, 2));
    first.knows(2, &second);
    second.knows(1, &first);
    for number in 0..200u32 {
        let frame = || Bytes::from(number.to_be_bytes().to_vec());
        first.peers.send(NodeId(2), Class::Append, frame());
        second.peers.send(NodeId(1), Class::Urgent, frame());
    }
    for number in 0..200u32 {
        assert_eq!(second.next_frame().await, (NodeId(1), number.to_be_bytes().to_vec().into()));
        assert_eq!(first.next_frame().await, (NodeId(2), number.to_be_bytes().to_vec().into()));
    }
    tokio::join!(first.peers.shutdown(), second.peers.shutdown());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_frames_pass_while_appends_are_backed_up() {
    let ca = authority(1);
    let sender = node(&ca, 1);
    // A receiver by hand, which reads one stream and leaves the other.
    let receiver = endpoint(Lane::Raft, &identity(&ca, 2));
    sender.peers.set_address(NodeId(2), &receiver.local_address().to_string());
    let append = Bytes::from(vec![b'a'; MIB]);
    for _ in 0..40 {
        sender.peers.send(NodeId(2), Class::Append, append.clone());
    }
    let connection = receiver.accept().await.unwrap();
    // Streams are numbered as they were opened: the urgent one first.
    let mut urgent = connection.accept_uni().await.unwrap();
    let mut appends = connection.accept_uni().await.unwrap();
    appends.read_frame(MIB).await.unwrap();
    // Let the window of appends fill.
    tokio::time::sleep(Duration::from_millis(300)).await;

    let begun = Instant::now();
    sender.peers.send(NodeId(2), Class::Urgent, Bytes::from_static(b"heartbeat"));
    let frame = tokio::time::timeout(PATIENCE, urgent.read_frame(MIB)).await.unwrap().unwrap();
    assert_eq!(frame.unwrap(), &b"heartbeat"[..]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(appends);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_drops_frames_and_reports_the_peer() {
    let ca = authority(1);
    let mut sender = node(&ca, 1);
    let receiver = endpoint(Lane::Raft, &identity(&ca, 2));
    sender.peers.set_address(NodeId(2), &receiver.local_address().to_string());
    let connection = receiver.accept().await.unwrap();
    until(|| sender.peers.is_connected(NodeId(2))).await;
    let frame = Bytes::from(vec![0; 8 * MIB]);
    for _ in 0..PEER_QUEUE_BYTES_MAX / frame.len() + 3 {
        sender.peers.send(NodeId(2), Class::Append, frame.clone());
    }
    assert!(matches!(sender.next().await, Inbound::Unreachable(NodeId(2))));
    // The link is not given up, and has room again once the peer reads.
    let _urgent = connection.accept_uni().await.unwrap();
    let mut stream = connection.accept_uni().await.unwrap();
    for _ in 0..PEER_QUEUE_BYTES_MAX / frame.len() {
        assert_eq!(stream.read_frame(8 * MIB).await.unwrap().unwrap().len(), frame.len());
    }
    sender.peers.send(NodeId(2), Class::Append, Bytes::from_static(b"after"));
    loop {
        // The frame in flight made room for one or two more than the queue holds.
        let frame = stream.read_frame(8 * MIB).await.unwrap().unwrap();
        if frame == b"after"[..] {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_does_not_keep_up_stops_the_sender_and_loses_nothing_queued() {
    let ca = authority(1);
    let sender = node(&ca, 1);
    let mut receiver = node_of(&identity(&ca, 2), "127.0.0.1:0".parse().unwrap(), 2);
    sender.knows(2, &receiver);
    for number in 0..500u32 {
        let mut frame = number.to_be_bytes().to_vec();
        frame.resize(100_000, 0);
        sender.peers.send(NodeId(2), Class::Append, frame.into());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for number in 0..500u32 {
        assert_eq!(receiver.next_frame().await.1[..4], number.to_be_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_reconnect_after_the_other_side_restarts() {
    let ca = authority(1);
    let mut survivor = node(&ca, 1);
    let reborn_identity = identity(&ca, 2);
    let mut other = node_of(&reborn_identity, "127.0.0.1:0".parse().unwrap(), 64);
    survivor.knows(2, &other);
    survivor.peers.send(NodeId(2), Class::Urgent, Bytes::from_static(b"before"));
    assert_eq!(other.next_frame().await.1, &b"before"[..]);

    let address = other.address;
    other.peers.shutdown().await;
    drop(other);
    assert!(matches!(survivor.next().await, Inbound::Unreachable(NodeId(2))));
    // Sends to a peer that is down neither block nor pile up.
    for _ in 0..10_000 {
        survivor.peers.send(NodeId(2), Class::Append, Bytes::from_static(b"lost"));
    }
    let mut other = node_of(&reborn_identity, address, 64);
    until(|| survivor.peers.is_connected(NodeId(2))).await;
    survivor.peers.send(NodeId(2), Class::Urgent, Bytes::from_static(b"after"));
    loop {
        let (from, bytes) = other.next_frame().await;
        assert_eq!(from, NodeId(1));
        if bytes == b"after"[..] {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moves_is_followed_and_one_that_is_forgotten_is_left() {
    let ca = authority(1);
    let sender = node(&ca, 1);
    let moving = identity(&ca, 2);
    let mut before = node_of(&moving, "127.0.0.1:0".parse().unwrap(), 64);
    let mut after = node_of(&moving, "127.0.0.1:0".parse().unwrap(), 64);
    sender.knows(2, &before);
    sender.peers.send(NodeId(2), Class::Append, Bytes::from_static(b"one"));
    assert_eq!(before.next_frame().await.1, &b"one"[..]);
    sender.knows(2, &after);
    tokio::time::sleep(Duration::from_millis(100)).await;
    until(|| sender.peers.is_connected(NodeId(2))).await;
    sender.peers.send(NodeId(2), Class::Append, Bytes::from_static(b"two"));
    assert_eq!(after.next_frame().await.1, &b"two"[..]);

    sender.peers.forget(NodeId(2));
    assert!(!sender.peers.is_connected(NodeId(2)));
    let result = sender.peers.call(NodeId(2), Bytes::new(), PATIENCE).await;
    assert!(matches!(result, Err(CallError::NeverSent { .. })), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_came_back_elsewhere_is_reached_where_it_is_heard() {
    let ca = authority(1);
    let mut survivor = node(&ca, 1);
    let moved_identity = identity(&ca, 2);
    let moved = node_of(&moved_identity, "127.0.0.1:0".parse().unwrap(), 64);
    moved.knows(1, &survivor);
    survivor.peers.set_address(NodeId(2), "nobody.invalid:1");
    // Its calls say where it is, though this node cannot reach it yet.
    let calling = moved.peers.clone();
    tokio::spawn(async move { calling.call(NodeId(1), Bytes::new(), PATIENCE).await });
    let heard_at = loop {
        if let Inbound::Call { address, .. } = survivor.next().await {
            break address;
        }
    };
    assert_eq!(heard_at, moved.address);
    assert!(!survivor.peers.is_connected(NodeId(2)));
    survivor.peers.learn_address(NodeId(2), heard_at);
    until(|| survivor.peers.is_connected(NodeId(2))).await;

    // An address that is wrong costs one attempt: the known one comes after it.
    survivor.knows(2, &moved);
    let address = moved.address;
    moved.peers.shutdown().await;
    drop(moved);
    until(|| !survivor.peers.is_connected(NodeId(2))).await;
    survivor.peers.learn_address(NodeId(2), "127.0.0.1:9".parse().unwrap());
    let _again = node_of(&moved_identity, address, 64);
    until(|| survivor.peers.is_connected(NodeId(2))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_and_large_ones_fit() {
    let ca = authority(1);
    let caller = node(&ca, 1);
    let mut callee = node(&ca, 2);
    caller.knows(2, &callee);
    let request = Bytes::from(vec![3; CALL_FRAME_BYTES_MAX]);
    let calling = {
        let (peers, request) = (caller.peers.clone(), request.clone());
        tokio::spawn(async move { peers.call(NodeId(2), request, PATIENCE).await })
    };
    let (from, received, respond) = callee.next_call().await;
    assert_eq!((from, received.len()), (NodeId(1), request.len()));
    respond.send(received).unwrap();
    assert_eq!(calling.await.unwrap().unwrap(), request);
    let too_large = Bytes::from(vec![3; CALL_FRAME_BYTES_MAX + 1]);
    let result = caller.peers.call(NodeId(2), too_large, PATIENCE).await;
    assert!(matches!(result, Err(CallError::NeverSent { .. })), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_call_says_whether_it_may_have_been_executed() {
    let ca = authority(1);
    let caller = node(&ca, 1);
    let mut callee = node_of(&identity(&ca, 2), "127.0.0.1:0".parse().unwrap(), 1);
    let request = || Bytes::from_static(b"request");
    let call = |limit: Duration| {
        let peers = caller.peers.clone();
        tokio::spawn(async move { peers.call(NodeId(2), request(), limit).await })
    };
    let result = call(PATIENCE).await.unwrap();
    assert!(matches!(result, Err(CallError::NeverSent { .. })), "no address: {result:?}");
    caller.knows(2, &callee);

    // Taken and dropped.
    let calling = call(PATIENCE);
    drop(callee.next_call().await);
    let result = calling.await.unwrap();
    assert!(matches!(result, Err(CallError::OutcomeUnknown { .. })), "{result:?}");

    // Taken and not answered in time.
    let result = call(Duration::from_millis(200)).await.unwrap();
    assert!(matches!(result, Err(CallError::OutcomeUnknown { .. })), "{result:?}");

    // Not taken: that call still fills the only place.
    let result = call(PATIENCE).await.unwrap();
    assert_eq!(result, Err(CallError::Overloaded { to: NodeId(2) }));

    // Taken, and the callee dies.
    drop(callee.next_call().await);
    let calling = call(PATIENCE);
    let (.., respond) = callee.next_call().await;
    callee.peers.shutdown().await;
    let result = calling.await.unwrap();
    assert!(matches!(result, Err(CallError::OutcomeUnknown { .. })), "{result:?}");
    drop(respond);

    // Gone: every attempt fails before anything is sent.
    drop(callee);
    until(|| !caller.peers.is_connected(NodeId(2))).await;
    let result = call(PATIENCE).await.unwrap();
    assert!(matches!(result, Err(CallError::NeverSent { .. })), "{result:?}");
}
