//! Fuzz targets of this room: what callers send, from the message to the command.
#![allow(clippy::unwrap_used)]

use prost::Message;

use super::cluster::{node, token_ttl};
use super::collections::namespace;
use super::enrollment::joining;
use super::records::{delete_command, put_command};
use super::snapshots::snapshot_id;
use crate::codec::{decode_request, encode_request};
use crate::fuzz::{Target, Verdict, bounded};
use crate::proto::codec::check_fields;
use crate::proto::public::*;
use crate::proto::status::{failure_in_status, failure_to_status};
use crate::proto::v1::*;
use crate::types::{ClusterId, Command, Failure, Request};

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// What a valid request asks for: a command for the log, or something else.
enum Asked {
    Command(Option<SessionSequence>, Command),
    Other,
}

/// A method as the services carry it out, up to the call of the node. `None`: the transport refuses
/// the message.
type Method = fn(&[u8]) -> Option<Result<Asked, Failure>>;

fn decode<M: Message + Default>(input: &[u8]) -> Option<M> {
    check_fields(input).ok()?;
    M::decode(input).ok()
}

/// The methods, by the byte before the message.
const METHODS: [Method; 13] = [
    |input| {
        let mut asked: PutRequest = decode(input)?;
        let session = asked.session.take();
        Some(put_command(asked).map(|batch| Asked::Command(session, Command::Write(batch))))
    },
    |input| {
        let mut asked: DeleteRequest = decode(input)?;
        let session = asked.session.take();
        Some(delete_command(asked).map(|batch| Asked::Command(session, Command::Write(batch))))
    },
    |input| {
        let asked: BatchRequest = decode(input)?;
        let batch = batch_from(asked.writes);
        Some(batch.map(|batch| Asked::Command(asked.session, Command::Write(batch))))
    },
    |input| {
        let asked: GetRequest = decode(input)?;
        let checked = consistency_from(asked.consistency)
            .and_then(|_| collection_from(asked.collection))
            .and_then(|_| key_from(asked.key));
        Some(checked.map(|_| Asked::Other))
    },
    |input| {
        let mut asked: ScanRequest = decode(input)?;
        let collection = asked.collection.take();
        let consistency = asked.consistency.take();
        let checked = consistency_from(consistency).and_then(|consistency| {
            let collection = collection_from(collection)?;
            let options = scan_from(asked)?;
            // The client asks with the same message that the server takes.
            let again = scan_to(&collection, &options, consistency);
            assert_eq!(scan_from(again)?, options);
            Ok(Asked::Other)
        });
        Some(checked)
    },
    |input| {
        let asked: CreateNamespaceRequest = decode(input)?;
        let name = namespace(&asked.name);
        Some(name.map(|name| Asked::Command(asked.session, Command::CreateNamespace(name))))
    },
    |input| {
        let asked: CreateCollectionRequest = decode(input)?;
        let name = collection_from(asked.collection);
        Some(name.map(|name| Asked::Command(asked.session, Command::CreateCollection(name))))
    },
    |input| {
        let asked: ListCollectionsRequest = decode(input)?;
        let checked = consistency_from(asked.consistency).and_then(|_| namespace(&asked.namespace));
        Some(checked.map(|_| Asked::Other))
    },
    |input| {
        let asked: JoinRequest = decode(input)?;
        Some(joining(asked, CLUSTER).map(|_| Asked::Other))
    },
    |input| {
        let asked: CreateTokenRequest = decode(input)?;
        Some(token_ttl(asked.ttl_ms).map(|_| Asked::Other))
    },
    |input| {
        let asked: RemoveNodeRequest = decode(input)?;
        Some(node(asked.id).map(|_| Asked::Other))
    },
    |input| {
        let asked: VerifySnapshotRequest = decode(input)?;
        Some(snapshot_id(&asked.id).map(|_| Asked::Other))
    },
    |input| {
        let asked: LimitTransfersRequest = decode(input)?;
        Some(Ok(asked).map(|_| Asked::Other))
    },
];

fn example(method: u8, message: &impl Message) -> Vec<u8> {
    [vec![method], message.encode_to_vec()].concat()
}

fn collection() -> Option<CollectionName> {
    Some(CollectionName { namespace: "default".into(), name: "c".into() })
}

fn write_examples() -> Vec<(&'static str, Vec<u8>)> {
    let session = || Some(SessionSequence { session: 5, sequence: 6 });
    let condition = |kind| Some(Condition { kind: Some(kind) });
    let put = PutRequest {
        collection: collection(),
        key: "k".into(),
        value: "v".into(),
        content_type: "text/plain".into(),
        condition: condition(condition::Kind::Absent(true)),
        session: session(),
    };
    let delete = DeleteRequest {
        collection: collection(),
        key: "k".into(),
        condition: condition(condition::Kind::Version(9)),
        session: None,
    };
    let write = |key: &'static str, action| Write {
        collection: collection(),
        key: key.into(),
        condition: None,
        action: Some(action),
    };
    let value = PutAction { value: "v".into(), content_type: String::new() };
    let writes = vec![
        write("a", write::Action::Put(value)),
        write("b", write::Action::Delete(DeleteAction {})),
        write("c", write::Action::Check(CheckAction {})),
    ];
    let namespace = CreateNamespaceRequest { name: "n".into(), session: None };
    let created = CreateCollectionRequest { collection: collection(), session: None };
    vec![
        ("put", example(0, &put)),
        ("delete", example(1, &delete)),
        ("batch", example(2, &BatchRequest { writes, session: session() })),
        ("create-namespace", example(5, &namespace)),
        ("create-collection", example(6, &created)),
    ]
}

fn other_examples() -> Vec<(&'static str, Vec<u8>)> {
    let stale = || Some(Consistency { level: 1, min_index: 9 });
    let get = GetRequest { collection: collection(), key: "k".into(), consistency: stale() };
    let scan = ScanRequest {
        collection: collection(),
        prefix: "p".into(),
        start: "pa".into(),
        end: "pz".into(),
        limit: 10,
        cursor: vec![1; 20].into(),
        keys_only: true,
        consistency: stale(),
    };
    let address = |port: u16| format!("10.0.0.2:{port}");
    let addresses = Addresses { raft: address(1), bulk: address(2), api: "[::1]:3".into() };
    let join = JoinRequest {
        secret: vec![1; 32].into(),
        cluster_id: CLUSTER.to_string(),
        addresses: Some(addresses),
        certificate_request: vec![0x30; 50].into(),
    };
    let list = ListCollectionsRequest { namespace: "n".into(), consistency: None };
    let verify = VerifySnapshotRequest { id: "ab".repeat(32) };
    vec![
        ("get", example(3, &get)),
        ("scan", example(4, &scan)),
        ("list-collections", example(7, &list)),
        ("join", example(8, &join)),
        ("create-token", example(9, &CreateTokenRequest { ttl_ms: 1000, learner: true })),
        ("remove-node", example(10, &RemoveNodeRequest { id: 3 })),
        ("verify-snapshot", example(11, &verify)),
        ("limit-transfers", example(12, &LimitTransfersRequest { bytes_per_second: 1 << 20 })),
    ]
}

#[test]
fn requests_of_callers() {
    let examples = [write_examples(), other_examples()].concat();
    Target::new("api-request", examples).run(|input| {
        let Some((method, message)) = input.split_first() else { return Verdict::Refused };
        let Some(method) = METHODS.get(usize::from(*method)) else { return Verdict::Refused };
        let Some(result) = bounded(input, || method(message)) else { return Verdict::Refused };
        match result {
            Err(failure) => {
                assert!(!failure.message.is_empty());
                let status = failure_to_status(&failure);
                assert_eq!(failure_in_status(&status).unwrap().code, failure.code);
                Verdict::Refused
            }
            Ok(Asked::Other) => Verdict::Accepted,
            Ok(Asked::Command(session, command)) => {
                let Ok(session) = session_from(session) else { return Verdict::Refused };
                // What the door lets in, the log can hold.
                let request = Request { session, command };
                assert_eq!(decode_request(encode_request(&request)), Ok(request));
                Verdict::Accepted
            }
        }
    });
}

#[test]
fn details_of_a_status() {
    let failure = Failure::new(crate::types::Code::KeyEmpty, "the key is empty").hint("name one");
    let details = failure_to_status(&failure).details().to_vec();
    Target::new("status-details", vec![("failure", details)]).run(|input| {
        let status = |details: &[u8]| {
            let details = bytes::Bytes::copy_from_slice(details);
            tonic::Status::with_details(tonic::Code::Internal, "", details)
        };
        let found = bounded(input, || failure_in_status(&status(input)));
        let Some(found) = found else { return Verdict::Refused };
        if !found.hint.is_empty() {
            let again = failure_to_status(&found);
            assert_eq!(failure_in_status(&again), Some(found));
        }
        Verdict::Accepted
    });
}
