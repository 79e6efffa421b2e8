//! Sessions: a command sent twice is executed once, and no other number does anything.

use bytes::Bytes;
use ratoon::proto::v1;
use ratoon::types::Code;

use super::callers::{Api, failure_of, name, refused, runtime};
use super::{COLLECTION, assert_unharmed, cluster_with_records, picture};

fn put(value: &str, session: u64, sequence: u64) -> v1::PutRequest {
    v1::PutRequest {
        collection: name("lab", "notes"),
        key: Bytes::from_static(b"in a session"),
        value: Bytes::copy_from_slice(value.as_bytes()),
        session: Some(v1::SessionSequence { session, sequence }),
        ..Default::default()
    }
}

#[test]
fn a_command_of_a_session_runs_once_and_only_in_its_turn() {
    let mut cluster = cluster_with_records();
    let runtime = runtime();
    let before = runtime.block_on(async {
        let (here, there) = (Api::of(&cluster, 1), Api::of(&cluster, 2));
        let session = here.records().open_session(v1::OpenSessionRequest {}).await;
        let session = session.expect("a session opens").into_inner().session;
        for (what, session, sequence) in [("session 0", 0, 1), ("sequence 0", session, 0)] {
            let result = here.records().put(put("never", session, sequence)).await;
            refused(what, Code::InvalidArgument, result);
        }
        let result = here.records().put(put("never", session + 1_000_000, 1)).await;
        refused("a session that was never opened", Code::SessionExpired, result);

        let first = here.records().put(put("once", session, 5)).await;
        let version = first.expect("it is its turn").into_inner().version;
        // The answer was lost: the client asks again, through another node.
        let again = there.records().put(put("once", session, 5)).await;
        assert_eq!(again.expect("a retry is answered").into_inner().version, version);
        let older =
            failure_of("an older sequence", there.records().put(put("no", session, 4)).await);
        assert_eq!(older.code, Code::SequenceStale);
        assert!(older.message.contains("at sequence 5"), "{older:?}");

        let other = there.records().put(put("another", session, 5)).await;
        let other = failure_of("another command under a used number", other);
        assert_eq!(other.code, Code::InvalidArgument, "{other:?}");
        picture(&cluster)
    });
    let read = cluster.ok(&["get", COLLECTION, "in a session"]);
    assert_eq!(read["value"], "once");
    assert_unharmed(&mut cluster, &before);
}
