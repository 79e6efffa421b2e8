//! Requests of an authenticated client that no node may carry out.

use bytes::Bytes;
use ratoon::limits::{
    BATCH_WRITES_MAX, CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, MIB, SCAN_BOUND_BYTES_MAX,
    TOKEN_TTL_MS_MAX, VALUE_BYTES_MAX,
};
use ratoon::proto::v1::{self, condition, write};
use ratoon::types::Code;

use super::callers::{Api, field, name, refused, runtime};
use super::{assert_unharmed, cluster_with_records, picture};

const PUT: &str = "/ratoon.v1.Records/Put";
const BATCH: &str = "/ratoon.v1.Records/Batch";

/// A put that is fine.
fn put() -> v1::PutRequest {
    v1::PutRequest {
        collection: name("lab", "notes"),
        key: Bytes::from_static(b"bad"),
        value: Bytes::from_static(b"value"),
        ..Default::default()
    }
}

fn bytes(length: usize) -> Bytes {
    Bytes::from(vec![b'k'; length])
}

#[test]
fn every_refused_request_says_why_and_changes_nothing() {
    let mut cluster = cluster_with_records();
    let before = picture(&cluster);
    let leader = cluster.leader();
    let follower = leader % 3 + 1;
    let runtime = runtime();
    for number in [leader, follower] {
        runtime.block_on(async {
            let api = Api::of(&cluster, number);
            refuse_puts(&api).await;
            refuse_names(&api).await;
            refuse_batches(&api).await;
            refuse_reads(&api).await;
            refuse_collections(&api).await;
            refuse_administration(&api, cluster.node(leader).id).await;
            refuse_bytes(&api).await;
        });
    }
    assert_unharmed(&mut cluster, &before);
}

async fn refuse_puts(api: &Api) {
    let mut records = api.records();
    let cases = [
        (Code::KeyEmpty, v1::PutRequest { key: bytes(0), ..put() }),
        (Code::KeyTooLarge, v1::PutRequest { key: bytes(KEY_BYTES_MAX + 1), ..put() }),
        (Code::ValueTooLarge, v1::PutRequest { value: bytes(VALUE_BYTES_MAX + 1), ..put() }),
        (Code::InvalidArgument, v1::PutRequest { collection: None, ..put() }),
        (
            Code::InvalidArgument,
            v1::PutRequest { content_type: "t".repeat(CONTENT_TYPE_BYTES_MAX + 1), ..put() },
        ),
        (
            // It could mean 'must exist' or 'whatever': nothing is written on a guess.
            Code::InvalidArgument,
            v1::PutRequest {
                condition: Some(v1::Condition { kind: Some(condition::Kind::Absent(false)) }),
                ..put()
            },
        ),
        (
            Code::ConditionFailed,
            v1::PutRequest {
                condition: Some(v1::Condition { kind: Some(condition::Kind::Version(u64::MAX)) }),
                ..put()
            },
        ),
    ];
    for (code, request) in cases {
        refused(&format!("a put that is {}", code.as_str()), code, records.put(request).await);
    }
    let delete = v1::DeleteRequest { collection: name("lab", "notes"), ..Default::default() };
    refused("a delete of no key", Code::KeyEmpty, records.delete(delete).await);
}

async fn refuse_names(api: &Api) {
    let mut records = api.records();
    let long = "n".repeat(64);
    for bad in ["", "Lab", "-lab", "lab/", "la b", "läb", "lab\0", "..", long.as_str()] {
        for collection in [name(bad, "notes"), name("lab", bad)] {
            let request = v1::PutRequest { collection, ..put() };
            refused(&format!("the name {bad:?}"), Code::InvalidName, records.put(request).await);
        }
        let request = v1::CreateNamespaceRequest { name: bad.to_owned(), session: None };
        let result = api.collections().create_namespace(request).await;
        refused(&format!("the namespace {bad:?}"), Code::InvalidName, result);
    }
    for collection in [name("nowhere", "notes"), name("lab", "nothing")] {
        let request = v1::PutRequest { collection: collection.clone(), ..put() };
        refused("an unknown collection", Code::CollectionNotFound, records.put(request).await);
        let request = v1::GetRequest { collection, key: bytes(1), consistency: None };
        refused("an unknown collection", Code::CollectionNotFound, records.get(request).await);
    }
}

fn write(key: &str, action: Option<write::Action>) -> v1::Write {
    let key = Bytes::copy_from_slice(key.as_bytes());
    v1::Write { collection: name("lab", "notes"), key, condition: None, action }
}

fn put_action(value: Bytes) -> Option<write::Action> {
    Some(write::Action::Put(v1::PutAction { value, content_type: String::new() }))
}

async fn refuse_batches(api: &Api) {
    let some = || put_action(bytes(1));
    let many = |count: usize| (0..count).map(|i| write(&format!("m{i}"), some())).collect();
    let missing = v1::Condition { kind: Some(condition::Kind::Version(1)) };
    let cases: Vec<(Code, Vec<v1::Write>)> = vec![
        (Code::InvalidArgument, vec![]),
        (Code::InvalidArgument, vec![write("a", some()), write("b", None)]),
        (Code::KeyEmpty, vec![write("a", some()), write("", some())]),
        (Code::DuplicateKey, vec![write("a", some()), write("b", some()), write("a", some())]),
        (Code::BatchTooLarge, many(BATCH_WRITES_MAX + 1)),
        // Each fits, all together do not.
        (
            Code::BatchTooLarge,
            ["a", "b", "c"].map(|key| write(key, put_action(bytes(3 * MIB)))).into(),
        ),
        // So large that the message is refused before it is a batch.
        (
            Code::BatchTooLarge,
            ["a", "b", "c", "d", "e"].map(|key| write(key, put_action(bytes(4 * MIB)))).into(),
        ),
        (
            Code::CollectionNotFound,
            vec![
                write("a", some()),
                v1::Write { collection: name("lab", "x"), ..write("b", some()) },
            ],
        ),
        (
            Code::ConditionFailed,
            vec![write("a", some()), v1::Write { condition: Some(missing), ..write("b", some()) }],
        ),
    ];
    for (code, writes) in cases {
        let what = format!("a batch of {} that is {}", writes.len(), code.as_str());
        let request = v1::BatchRequest { writes, session: None };
        refused(&what, code, api.records().batch(request).await);
    }
}

async fn refuse_reads(api: &Api) {
    let mut records = api.records();
    let collection = || name("lab", "notes");
    let get = v1::GetRequest { collection: collection(), key: bytes(1), consistency: None };
    refused("a key that is not there", Code::RecordNotFound, records.get(get.clone()).await);
    let unknown = Some(v1::Consistency { level: 7, min_index: 0 });
    let request = v1::GetRequest { consistency: unknown, ..get };
    refused("an unknown level", Code::InvalidArgument, records.get(request).await);

    let scan = || v1::ScanRequest { collection: collection(), ..Default::default() };
    let first = v1::ScanRequest { limit: 1, ..scan() };
    let cursor = records.scan(first).await.expect("a scan is fine").into_inner().cursor;
    assert!(!cursor.is_empty(), "twenty records make more than one page of one");
    let (mut other, mut cut) = (cursor.to_vec(), cursor.to_vec());
    other[8] ^= 1;
    cut.truncate(10);
    let outside =
        v1::ScanRequest { cursor: cursor.clone(), start: Bytes::from_static(b"key-10"), ..scan() };
    let cases = [
        (Code::InvalidArgument, v1::ScanRequest { limit: u32::MAX, ..scan() }),
        (Code::KeyTooLarge, v1::ScanRequest { prefix: bytes(SCAN_BOUND_BYTES_MAX + 1), ..scan() }),
        (Code::KeyTooLarge, v1::ScanRequest { end: bytes(SCAN_BOUND_BYTES_MAX + 1), ..scan() }),
        (Code::CursorInvalid, v1::ScanRequest { cursor: bytes(3), ..scan() }),
        (
            Code::CursorInvalid,
            v1::ScanRequest { cursor: bytes(SCAN_BOUND_BYTES_MAX + 1), ..scan() },
        ),
        (Code::CursorInvalid, v1::ScanRequest { cursor: other.into(), ..scan() }),
        (Code::CursorInvalid, v1::ScanRequest { cursor: cut.into(), ..scan() }),
        (Code::CursorInvalid, outside),
        (Code::CollectionNotFound, v1::ScanRequest { collection: name("lab", "no"), ..scan() }),
    ];
    for (code, request) in cases {
        refused(&format!("a scan that is {}", code.as_str()), code, records.scan(request).await);
    }
}

async fn refuse_collections(api: &Api) {
    let mut collections = api.collections();
    let namespace =
        |name: &str| v1::CreateNamespaceRequest { name: name.to_owned(), session: None };
    refused(
        "a taken name",
        Code::AlreadyExists,
        collections.create_namespace(namespace("lab")).await,
    );
    let drop = |name: &str| v1::DropNamespaceRequest { name: name.to_owned(), session: None };
    let result = collections.drop_namespace(drop("lab")).await;
    refused("a namespace in use", Code::NamespaceNotEmpty, result);
    let result = collections.drop_namespace(drop("nowhere")).await;
    refused("an unknown namespace", Code::NamespaceNotFound, result);

    let create = |collection| v1::CreateCollectionRequest { collection, session: None };
    let result = collections.create_collection(create(name("lab", "notes"))).await;
    refused("a taken name", Code::AlreadyExists, result);
    let result = collections.create_collection(create(name("nowhere", "notes"))).await;
    refused("an unknown namespace", Code::NamespaceNotFound, result);
    let request = v1::DropCollectionRequest { collection: name("lab", "no"), session: None };
    let result = collections.drop_collection(request).await;
    refused("an unknown collection", Code::CollectionNotFound, result);
    let request =
        v1::DescribeCollectionRequest { collection: name("lab", "no"), consistency: None };
    let result = collections.describe_collection(request).await;
    refused("an unknown collection", Code::CollectionNotFound, result);
    let request = v1::ListCollectionsRequest { namespace: "L".to_owned(), consistency: None };
    refused("a bad name", Code::InvalidName, collections.list_collections(request).await);
}

async fn refuse_administration(api: &Api, leader: u64) {
    let mut cluster = api.cluster();
    let promote = |id| v1::PromoteNodeRequest { id };
    refused("node 0", Code::InvalidArgument, cluster.promote_node(promote(0)).await);
    refused("node 99", Code::NodeNotFound, cluster.promote_node(promote(99)).await);
    let remove = |id| v1::RemoveNodeRequest { id };
    refused("node 99", Code::NodeNotFound, cluster.remove_node(remove(99)).await);
    refused("the leader", Code::MembershipRefused, cluster.remove_node(remove(leader)).await);
    let request = v1::TransferLeaderRequest { to: 99 };
    refused("no voter", Code::MembershipRefused, cluster.transfer_leader(request).await);
    let request = v1::CreateTokenRequest { ttl_ms: TOKEN_TTL_MS_MAX + 1, learner: false };
    refused("an old token", Code::InvalidArgument, cluster.create_token(request).await);

    let mut snapshots = api.snapshots();
    for id in ["", "zz", "../../identity", &"ab".repeat(33)] {
        let request = v1::VerifySnapshotRequest { id: id.to_owned() };
        refused("no id", Code::InvalidArgument, snapshots.verify_snapshot(request).await);
    }
    let request = v1::VerifySnapshotRequest { id: "ab".repeat(32) };
    refused("no snapshot", Code::SnapshotNotFound, snapshots.verify_snapshot(request).await);
    let cancel = |receiver| v1::CancelTransferRequest { receiver };
    refused("node 0", Code::InvalidArgument, snapshots.cancel_transfer(cancel(0)).await);
    refused("node 99", Code::NodeNotFound, snapshots.cancel_transfer(cancel(99)).await);
    refused("no pull", Code::TransferNotFound, snapshots.cancel_transfer(cancel(leader)).await);
}

/// What no library of gRPC would send.
async fn refuse_bytes(api: &Api) {
    let named = |namespace: &[u8]| field(1, &[field(1, namespace), field(2, b"notes")].concat());
    let rest = [field(2, b"key"), field(3, b"value")].concat();
    let malformed: [(&str, Vec<u8>); 6] = [
        ("a name that is no UTF-8", [named(&[0xff, 0xfe]), rest.clone()].concat()),
        ("a content type that is no UTF-8", [named(b"lab"), rest, field(4, &[0xc3])].concat()),
        ("a message that is cut off", named(b"lab")[..5].to_vec()),
        ("a length beyond the message", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("a field of another type", vec![0x08, 0x05]),
        ("nested groups", vec![0x0b; 100_000]),
    ];
    for (what, bytes) in malformed {
        refused(what, Code::InvalidArgument, api.raw(PUT, bytes).await);
    }
    let writes = [0x0a, 0x00].repeat(7 * MIB);
    refused("millions of empty writes", Code::BatchTooLarge, api.raw(BATCH, writes).await);
    let unknown = api.raw("/ratoon.v1.Records/Explode", Vec::new()).await;
    refused("an unknown method", Code::InvalidArgument, unknown);
    let unknown = api.raw("/ratoon.v9.Nothing/Explode", Vec::new()).await;
    refused("an unknown service", Code::InvalidArgument, unknown);
}
