//! A node with a good certificate that speaks nonsense to its peers.

use std::net::SocketAddr;

use bytes::Bytes;
use ratoon::codec::bulk::{decode_pull_response, encode_pull_request};
use ratoon::codec::peer::{decode_answer, encode_call, encode_envelope};
use ratoon::codec::{encode_entry, encode_request};
use ratoon::limits::{
    BULK_FRAME_BYTES_MAX, CALL_FRAME_BYTES_MAX, CONNECTIONS_PER_IDENTITY_MAX, KEY_BYTES_MAX, MIB,
    RAFT_FRAME_BYTES_MAX, REQUESTS_PER_RECEIVER_MAX,
};
use ratoon::net::{Connection, Endpoint, Identity, Lane, NetError};
use ratoon::proto::internal::v1::{
    Envelope, MembershipCall, PeerRequest, ProposeCall, SnapshotReport, StatusCall, envelope,
    peer_request,
};
use ratoon::types::{
    Action, ByteRange, Code, CollectionName, Command, Condition, Digest, NodeId, PullRequest,
    PullResponse, RefusalReason, Request, Write, WriteBatch,
};

use super::callers::{field, link, runtime, within};
use super::{assert_unharmed, cluster_with_records, picture};
use crate::cluster::{Addresses, Cluster};

/// Enrols a node that never runs; its number.
pub fn enrol(cluster: &mut Cluster) -> usize {
    let number = cluster.add();
    let mut words = vec!["join".to_owned(), cluster.token()];
    words.extend(cluster.node(number).flags());
    let joined = cluster.ok(&words);
    cluster.node_mut(number).id = joined["node"].as_u64().expect("join tells the node's id");
    number
}

/// The identity of an enrolled node.
pub fn identity(cluster: &Cluster, number: usize) -> Identity {
    Identity::load(&cluster.node(number).data.join("identity")).expect("the node is enrolled")
}

/// Takes an enrolled node out again.
pub fn remove(cluster: &Cluster, number: usize) {
    cluster.ok(&["node", "remove", &cluster.node(number).id.to_string()]);
}

/// A link from `from` to `to`.
pub async fn connect(endpoint: &Endpoint, to: (u64, SocketAddr)) -> Result<Connection, NetError> {
    endpoint.connect(NodeId(to.0), &to.1.to_string()).await
}

#[test]
fn a_node_that_speaks_nonsense_is_refused_and_the_cluster_goes_on() {
    let mut cluster = cluster_with_records();
    let before = picture(&cluster);
    let number = enrol(&mut cluster);
    let identity = identity(&cluster, number);
    let leader = cluster.leader();
    let Addresses { raft, bulk, .. } = cluster.node(number).addresses;
    let runtime = runtime();
    for target in [leader, leader % 3 + 1] {
        runtime.block_on(async {
            let node = cluster.node(target);
            let here = link(Lane::Raft, raft, &identity);
            let to = (node.id, node.addresses.raft);
            send_frames(&connect(&here, to).await.expect("a node of the cluster")).await;
            send_oversized_frames(&here, to).await;
            let connection = connect(&here, to).await.expect("a node of the cluster");
            make_calls(&connection, target == leader).await;
            hoard_connections(&here, to).await;
            here.close().await;

            let here = link(Lane::Bulk, bulk, &identity);
            let to = (node.id, node.addresses.bulk);
            ask_for_bytes(&connect(&here, to).await.expect("a node of the cluster")).await;
            let wrong_lane = connect(&here, (node.id, node.addresses.raft)).await;
            assert!(wrong_lane.is_err(), "a raft port let a bulk link in");
            here.close().await;
        });
        let log = cluster.node(target).log_since_start();
        for line in [
            "dropped a malformed frame",
            "dropped a malformed raft message",
            "dropped a raft message with a false address",
            "closing a connection",
            "refused a call",
            "refused a malformed request",
        ] {
            assert!(log.contains(line), "node {target} did not log {line:?}:\n{log}");
        }
    }
    remove(&cluster, number);
    assert_unharmed(&mut cluster, &before);
}

/// A frame that holds bytes as a raft message.
fn raft_frame(message: &[u8]) -> Vec<u8> {
    field(1, message)
}

/// One-way frames: there is no answer, only the log.
async fn send_frames(connection: &Connection) {
    let mut stream = connection.open_uni().await.expect("the link stands");
    // A vote of node 1 for node 2, from somebody else.
    let false_address = [0x08, 0x05, 0x10, 0x02, 0x18, 0x01, 0x20, 0x01];
    let report =
        SnapshotReport { index: 1, snapshot_id: Bytes::new(), ok: true, reason: "r".into() };
    let report = Envelope { body: Some(envelope::Body::SnapshotReport(report)), embedded: None };
    let frames = [
        Vec::new(),
        vec![0xff; 1000],
        vec![0x0b; 100_000],
        field(1, &[]),
        raft_frame(&[0xff; 64]),
        // Groups, nested deeper than any stack: raft's own parser would recurse.
        raft_frame(&vec![0x0b; 200_000]),
        raft_frame(&field(7, &vec![0x0b; 200_000])),
        // Millions of entries of two bytes each.
        raft_frame(&[0x3a, 0x00].repeat(7 * MIB)),
        raft_frame(&false_address),
        // An embedded snapshot of millions of empty parts.
        field(4, &[0x12, 0x00].repeat(2 * MIB)),
        // A word about a pull whose id is no id.
        field(3, &field(1, b"short")),
        encode_envelope(&report).to_vec(),
    ];
    for frame in frames {
        stream.write_frame(&frame).await.expect("nonsense does not end the link");
    }
    // All of it has been read once a call on the same link, begun later, is answered; a stream that
    // ends inside a frame is no more than that.
    stream.write(&[0, 0, 1, 0, 7]).await.expect("the link stands");
    drop(stream);
    assert_eq!(call_code(connection, &[]).await, Code::InvalidArgument);
}

/// A length over the limit ends the link, with the reason.
async fn send_oversized_frames(here: &Endpoint, to: (u64, SocketAddr)) {
    for length in [RAFT_FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let connection = connect(here, to).await.expect("a node of the cluster");
        let mut stream = connection.open_uni().await.expect("the link stands");
        stream.write(&length.to_be_bytes()).await.expect("the link stands");
        match within("the end of the link", connection.closed()).await {
            NetError::ClosedByPeer(reason) => assert!(reason.contains("limit"), "{reason}"),
            other => panic!("the link ended with {other:?}"),
        }
    }
}

/// The code of a call's failure.
pub async fn call_code(connection: &Connection, request: &[u8]) -> Code {
    let (mut send, mut answer) = connection.open_bi().await.expect("the link stands");
    send.write_frame(request).await.expect("a call is taken");
    send.finish().expect("a call is taken");
    let answer = within("an answer", answer.read_frame(CALL_FRAME_BYTES_MAX)).await;
    let answer = decode_answer(answer.expect("an answer").expect("an answer")).expect("an answer");
    let failure = answer.failure.expect("the call is refused");
    Code::parse(&failure.code).unwrap_or_else(|| panic!("an unknown code: {failure:?}"))
}

fn propose(request: Bytes) -> Bytes {
    let call = ProposeCall { request, client: String::new() };
    encode_call(&PeerRequest { body: Some(peer_request::Body::Propose(call)) })
}

/// A call for a node's status.
pub fn status_call() -> Bytes {
    encode_call(&PeerRequest { body: Some(peer_request::Body::Status(StatusCall {})) })
}

fn membership(kind: i32, node: u64) -> Bytes {
    let call = MembershipCall { kind, node };
    encode_call(&PeerRequest { body: Some(peer_request::Body::Membership(call)) })
}

async fn make_calls(connection: &Connection, leads: bool) {
    // What can be read is judged by the leader; another node forwards nothing for a second time.
    let judged = |code| if leads { code } else { Code::Unavailable };
    let command = |command| encode_request(&Request { session: None, command });
    let write = Write {
        collection: CollectionName::parse("lab", "notes").expect("a good name"),
        key: Bytes::from(vec![b'k'; KEY_BYTES_MAX + 1]),
        condition: Condition::Always,
        action: Action::Put { value: Bytes::new(), content_type: String::new() },
    };
    let long_key = command(Command::Write(WriteBatch { writes: vec![write] }));
    // The request of a batch with millions of empty writes.
    let many = field(6, &[0x0a, 0x00].repeat(4 * MIB));
    let cases: [(&str, Bytes, Code); 9] = [
        ("no bytes", Bytes::new(), Code::InvalidArgument),
        ("garbage", Bytes::from(vec![0xff; 500]), Code::InvalidArgument),
        ("groups", Bytes::from(vec![0x0b; 100_000]), Code::InvalidArgument),
        ("a command of garbage", propose(Bytes::from(vec![0xff; 100])), Code::InvalidArgument),
        ("millions of writes", propose(Bytes::from(many)), Code::BatchTooLarge),
        ("an entry as a command", propose(encode_entry(7, b"x")), Code::InvalidArgument),
        ("a key too long", propose(long_key), judged(Code::KeyTooLarge)),
        (
            "a membership change outside of raft's",
            propose(command(Command::RemoveNode(NodeId(1)))),
            judged(Code::InvalidArgument),
        ),
        ("the removal of nobody", membership(2, 99), Code::NodeNotFound),
    ];
    for (what, request, code) in cases {
        assert_eq!(call_code(connection, &request).await, code, "{what}");
    }
    // A call over the limit, and one that is never finished, get no answer and cost nothing.
    for header in [CALL_FRAME_BYTES_MAX as u32 + 1, 1000] {
        let (mut send, mut answer) = connection.open_bi().await.expect("the link stands");
        send.write(&header.to_be_bytes()).await.expect("the link stands");
        send.finish().expect("the link stands");
        let answer = within("the end of the call", answer.read_frame(CALL_FRAME_BYTES_MAX)).await;
        assert!(matches!(answer, Err(NetError::StreamReset(_))), "{answer:?}");
    }
}

/// One node may hold so many connections and no more.
async fn hoard_connections(here: &Endpoint, to: (u64, SocketAddr)) {
    let mut held = Vec::new();
    let refusal = loop {
        match connect(here, to).await {
            Ok(connection) => held.push(connection),
            Err(error) => break error,
        }
        assert!(held.len() <= CONNECTIONS_PER_IDENTITY_MAX, "{} connections", held.len());
    };
    assert!(matches!(refusal, NetError::PeerBusy(_)), "{refusal:?}");
}

/// The source's answer to bytes that need not be a request.
async fn pull(connection: &Connection, request: &[u8]) -> Result<PullResponse, NetError> {
    let (mut send, mut answer) = connection.open_bi().await?;
    send.write_frame(request).await?;
    let frame = within("an answer", answer.read_frame(BULK_FRAME_BYTES_MAX)).await?;
    Ok(decode_pull_response(&frame.expect("an answer")).expect("an answer"))
}

async fn ask_for_bytes(connection: &Connection) {
    let snapshot = Digest([7; 32]);
    let range = ByteRange { part: 0, offset: 0, bytes: 1 };
    let cases: [(&str, Vec<u8>, RefusalReason); 7] = [
        ("no bytes", Vec::new(), RefusalReason::Malformed),
        ("garbage", vec![0xff; 100], RefusalReason::Malformed),
        ("groups", vec![0x0b; 10_000], RefusalReason::Malformed),
        ("an id that is none", field(1, &field(1, b"short")), RefusalReason::Malformed),
        ("no ranges", field(2, &field(1, &[7; 32])), RefusalReason::Malformed),
        (
            "an unknown manifest",
            encode_pull_request(&PullRequest::Manifest { snapshot }),
            RefusalReason::UnknownSnapshot,
        ),
        (
            "bytes of an unknown snapshot",
            encode_pull_request(&PullRequest::Ranges { snapshot, ranges: vec![range] }),
            RefusalReason::UnknownSnapshot,
        ),
    ];
    for (what, request, expected) in cases {
        match pull(connection, &request).await {
            Ok(PullResponse::Refused { reason, message }) => {
                assert_eq!((reason, message.is_empty()), (expected, false), "{what}: {message}");
            }
            other => panic!("{what} was answered with {other:?}"),
        }
    }
    // A frame over the limit ends its stream and no other.
    let (mut send, mut answer) = connection.open_bi().await.expect("the link stands");
    let length = BULK_FRAME_BYTES_MAX as u32 + 1;
    send.write(&length.to_be_bytes()).await.expect("the link stands");
    let end = within("the end of the stream", answer.read_frame(BULK_FRAME_BYTES_MAX)).await;
    assert!(matches!(end, Err(NetError::StreamReset(_))), "{end:?}");
    // Streams without a request cost their places, and only this node's.
    let mut silent = Vec::new();
    for _ in 0..REQUESTS_PER_RECEIVER_MAX {
        let mut stream = connection.open_bi().await.expect("the link stands");
        stream.0.write(&[0]).await.expect("the link stands");
        silent.push(stream);
    }
    let answered = pull(connection, b"").await;
    assert!(matches!(answered, Ok(PullResponse::Refused { .. })), "{answered:?}");
}
