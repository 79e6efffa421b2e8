//! Writes and conditions.

use bytes::Bytes;

use crate::kv::Family;
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_WRITES_MAX, CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::state::read;
use crate::state::testing::*;
use crate::types::{Action, Code, Command, Condition, Record, Reply, Write};

fn get(replica: &Replica, key: &str) -> Option<Record> {
    read::get(&replica.view, &collection("c"), key.as_bytes()).unwrap()
}

fn value(replica: &Replica, key: &str) -> Option<String> {
    get(replica, key).map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

#[test]
fn a_put_is_read_back_with_its_version_and_content_type() {
    let mut replica = Replica::with_collection();
    let version = replica.put("k", "v");
    replica.write_batch();
    let expected = Record {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        version,
        content_type: "text/plain".into(),
    };
    assert_eq!(get(&replica, "k"), Some(expected));
    assert_eq!(get(&replica, "j"), None);
    assert_eq!(get(&replica, "kk"), None);
}

#[test]
fn existed_tells_for_each_write_whether_the_key_held_a_value_before() {
    let mut replica = Replica::with_collection();
    replica.put("a", "1");
    replica.put("b", "1");
    let check = |key| write(key, Condition::Always, Action::Check);
    let reply = replica
        .write(vec![put("a", "2"), put("x", "2"), delete("b"), delete("y"), check("z")])
        .unwrap();
    assert_eq!(reply, Reply::Written { existed: vec![true, false, true, false, false] });
    let reply = replica.write(vec![check("a"), check("b"), put("y", "3")]).unwrap();
    assert_eq!(reply, Reply::Written { existed: vec![true, false, false] });
}

#[test]
fn a_delete_leaves_a_tombstone_and_one_of_an_absent_key_leaves_nothing() {
    let mut replica = Replica::with_collection();
    replica.put("k", "v");
    replica.write_batch();
    replica.write(vec![delete("absent")]).unwrap();
    replica.write_batch();
    assert_eq!(replica.view.rows(Family::Records).len(), 1);
    assert_eq!(replica.view.rows(Family::Changes).len(), 1);
    replica.write(vec![delete("k")]).unwrap();
    replica.write(vec![delete("k")]).unwrap();
    replica.write_batch();
    assert_eq!(value(&replica, "k"), None);
    assert_eq!(replica.view.rows(Family::Records).len(), 2);
    assert_eq!(replica.view.rows(Family::Changes).len(), 2);
}

#[test]
fn one_false_condition_stops_the_whole_batch() {
    let mut replica = Replica::with_collection();
    let version = replica.put("held", "1");
    let cases = [
        write("held", Condition::Absent, Action::Check),
        write("held", Condition::Version(version + 1), Action::Delete),
        write("free", Condition::Version(version), put_action("x")),
    ];
    for case in cases {
        let before = replica.batch.ops().len();
        let result = replica.write(vec![put("other", "x"), case]);
        assert_refused(result, Code::ConditionFailed);
        let after = replica.batch.ops().len();
        assert_eq!(after, before + 2, "only the applied row and the time were written");
    }
    let holding = vec![
        write("held", Condition::Version(version), put_action("2")),
        write("free", Condition::Absent, put_action("2")),
    ];
    replica.write(holding).unwrap();
    replica.write_batch();
    assert_eq!(value(&replica, "held"), Some("2".into()));
    assert_eq!(value(&replica, "free"), Some("2".into()));
    assert_eq!(value(&replica, "other"), None);
}

#[test]
fn conditions_are_judged_before_the_batch_s_own_writes() {
    let mut replica = Replica::with_collection();
    let version = replica.put("a", "1");
    let batch = vec![
        delete("a"),
        write("b", Condition::Absent, put_action("moved")),
        write("c", Condition::Absent, Action::Check),
    ];
    replica.write(batch).unwrap();
    // A deleted key is absent, and its old version is no version.
    let stale = write("a", Condition::Version(version), put_action("2"));
    assert_refused(replica.write(vec![stale]), Code::ConditionFailed);
    replica.write(vec![write("a", Condition::Absent, put_action("3"))]).unwrap();
}

#[test]
fn a_batch_writes_to_several_collections_or_to_none() {
    let mut replica = Replica::with_collection();
    let other = |name| Write { collection: collection(name), ..put("k", "v") };
    assert_refused(replica.write(vec![put("k", "v"), other("d")]), Code::CollectionNotFound);
    replica.run(Command::CreateCollection(collection("d"))).unwrap();
    let reply = replica.write(vec![put("k", "v"), other("d")]).unwrap();
    assert_eq!(reply, Reply::Written { existed: vec![false, false] });
    replica.write_batch();
    let found = read::get(&replica.view, &collection("d"), b"k").unwrap().unwrap();
    assert_eq!(Some(found), get(&replica, "k"));
}

#[test]
fn a_key_may_stand_in_a_batch_once() {
    let mut replica = Replica::with_collection();
    assert_refused(replica.write(vec![put("k", "1"), delete("k")]), Code::DuplicateKey);
    let check = write("k", Condition::Always, Action::Check);
    assert_refused(replica.write(vec![put("k", "1"), check]), Code::DuplicateKey);
}

#[test]
fn later_entries_of_a_batch_see_earlier_ones() {
    let mut replica = Replica::with_collection();
    let first = replica.put("k", "1");
    let second = vec![write("k", Condition::Version(first), put_action("2"))];
    assert_eq!(replica.write(second), Ok(Reply::Written { existed: vec![true] }));
    replica.write(vec![delete("k")]).unwrap();
    let again = vec![write("k", Condition::Absent, put_action("3"))];
    assert_eq!(replica.write(again), Ok(Reply::Written { existed: vec![false] }));
    replica.write_batch();
    assert_eq!(value(&replica, "k"), Some("3".into()));
}

#[test]
fn keys_that_begin_like_others_are_others() {
    let mut replica = Replica::with_collection();
    let keys: [&[u8]; 6] = [b"a", b"a\0", b"a\0\0", b"a\0\xff", b"a\x01", b"a\xff"];
    let writes = keys.map(|key| Write { key: Bytes::from_static(key), ..put("", "v") });
    for one in writes.iter() {
        let reply = replica.write(vec![one.clone()]).unwrap();
        assert_eq!(reply, Reply::Written { existed: vec![false] });
        replica.write_batch();
    }
    let reply = replica.write(writes.to_vec()).unwrap();
    assert_eq!(reply, Reply::Written { existed: vec![true; 6] });
}

#[test]
fn every_limit_of_a_write_is_refused_one_above_and_taken_at_it() {
    let mut replica = Replica::with_collection();
    let key = |bytes: usize| Write { key: vec![b'k'; bytes].into(), ..put("", "") };
    let value = |bytes: usize| Write {
        action: Action::Put { value: vec![0; bytes].into(), content_type: String::new() },
        ..put("k", "")
    };
    let content_type = |bytes: usize| Write {
        action: Action::Put { value: Bytes::new(), content_type: "t".repeat(bytes) },
        ..put("k", "")
    };
    assert_refused(replica.write(vec![key(0)]), Code::KeyEmpty);
    assert_refused(replica.write(vec![key(KEY_BYTES_MAX + 1)]), Code::KeyTooLarge);
    replica.write(vec![key(KEY_BYTES_MAX)]).unwrap();
    assert_refused(replica.write(vec![value(VALUE_BYTES_MAX + 1)]), Code::ValueTooLarge);
    replica.write(vec![value(VALUE_BYTES_MAX)]).unwrap();
    assert_refused(
        replica.write(vec![content_type(CONTENT_TYPE_BYTES_MAX + 1)]),
        Code::InvalidArgument,
    );
    replica.write(vec![content_type(CONTENT_TYPE_BYTES_MAX)]).unwrap();
    let many = |count: usize| (0..count).map(|at| put(&format!("{at}"), "")).collect();
    assert_refused(replica.write(many(BATCH_WRITES_MAX + 1)), Code::BatchTooLarge);
    replica.write(many(BATCH_WRITES_MAX)).unwrap();
    replica.write(vec![]).unwrap();
}

#[test]
fn a_batch_s_bytes_count_keys_values_content_types_and_names() {
    let mut replica = Replica::with_collection();
    let overhead = "default".len() + "c".len() + "a".len();
    let filled = |key: &str, bytes: usize| Write {
        action: Action::Put { value: vec![0; bytes].into(), content_type: String::new() },
        ..put(key, "")
    };
    let (half, rest) = (VALUE_BYTES_MAX, BATCH_BYTES_MAX - VALUE_BYTES_MAX - 2 * overhead);
    replica.write(vec![filled("a", half), filled("b", rest)]).unwrap();
    let over = vec![filled("a", half), filled("b", rest + 1)];
    assert_refused(replica.write(over), Code::BatchTooLarge);
}

#[test]
fn get_refuses_keys_that_no_record_can_have() {
    let mut replica = Replica::with_collection();
    replica.write_batch();
    let read = |key: &[u8]| read::get(&replica.view, &collection("c"), key);
    assert_refused(read(b""), Code::KeyEmpty);
    assert_refused(read(&[b'k'; KEY_BYTES_MAX + 1]), Code::KeyTooLarge);
    assert_eq!(read(&[b'k'; KEY_BYTES_MAX]).unwrap(), None);
}
