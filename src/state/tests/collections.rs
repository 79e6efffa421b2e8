//! Namespaces and collections come, go, and come again.

use crate::kv::Family;
use crate::limits::{COLLECTIONS_MAX, NAMESPACES_MAX};
use crate::state::testing::*;
use crate::state::{State, read};
use crate::types::{Code, CollectionName, Command, Name, Reply};

fn namespace(name: &str) -> Name {
    Name::parse("namespace", name).unwrap()
}

#[test]
fn a_namespace_is_created_once_and_dropped_only_when_empty() {
    let mut replica = Replica::new();
    let prod = namespace("prod");
    let users = CollectionName::parse("prod", "users").unwrap();
    assert_refused(replica.run(Command::CreateCollection(users.clone())), Code::NamespaceNotFound);
    replica.clock_ms += 5;
    replica.run(Command::CreateNamespace(prod.clone())).unwrap();
    assert_refused(replica.run(Command::CreateNamespace(prod.clone())), Code::AlreadyExists);
    replica.run(Command::CreateCollection(users.clone())).unwrap();
    assert_refused(replica.run(Command::DropNamespace(prod.clone())), Code::NamespaceNotEmpty);
    replica.write_batch();
    let listed = read::list_namespaces(&replica.view).unwrap();
    assert_eq!(listed[1].name, prod);
    assert_eq!((listed[1].created_index, listed[1].created_unix_ms), (3, FOUNDED_MS + 5));
    // A name that is a prefix of another must not count its collections.
    replica.run(Command::CreateNamespace(namespace("pro"))).unwrap();
    replica.run(Command::DropNamespace(namespace("pro"))).unwrap();
    replica.run(Command::DropCollection(users)).unwrap();
    replica.run(Command::DropNamespace(prod.clone())).unwrap();
    assert_refused(replica.run(Command::DropNamespace(prod)), Code::NamespaceNotFound);
}

#[test]
fn a_collection_is_described_and_listed_with_exact_counts() {
    let mut replica = Replica::new();
    replica.clock_ms += 9;
    let reply = replica.run(Command::CreateCollection(collection("c"))).unwrap();
    let created_unix_ms = FOUNDED_MS + 9;
    assert_eq!(reply, Reply::CollectionCreated { incarnation: 2, created_unix_ms });
    assert_refused(replica.run(Command::CreateCollection(collection("c"))), Code::AlreadyExists);
    replica.put("key", "value");
    replica.put("key", "longer value");
    replica.put("other", "");
    replica.write(vec![delete("other"), delete("absent")]).unwrap();
    replica.write_batch();
    let info = read::describe(&replica.view, &collection("c")).unwrap();
    assert_eq!((info.records, info.bytes), (1, 3 + 12));
    assert_eq!((info.incarnation, info.created_unix_ms), (2, created_unix_ms));
    let listed = read::list_collections(&replica.view, None).unwrap();
    assert_eq!(listed, std::slice::from_ref(&info));
    let named = read::list_collections(&replica.view, Some(&namespace("default"))).unwrap();
    assert_eq!(named, [info]);
    assert_refused(
        read::list_collections(&replica.view, Some(&namespace("nope"))),
        Code::NamespaceNotFound,
    );
    assert_refused(read::describe(&replica.view, &collection("d")), Code::CollectionNotFound);
}

#[test]
fn a_collection_created_again_sees_nothing_of_the_one_before() {
    for writes_between in [false, true] {
        let mut replica = Replica::with_collection();
        replica.put("k", "old");
        replica.run(Command::DropCollection(collection("c"))).unwrap();
        if writes_between {
            replica.write_batch();
        }
        assert_refused(replica.write(vec![put("k", "v")]), Code::CollectionNotFound);
        assert_refused(
            replica.run(Command::DropCollection(collection("c"))),
            Code::CollectionNotFound,
        );
        replica.run(Command::CreateCollection(collection("c"))).unwrap();
        let reply = replica.write(vec![delete("k")]).unwrap();
        assert_eq!(reply, Reply::Written { existed: vec![false] });
        replica.write_batch();
        assert_eq!(read::get(&replica.view, &collection("c"), b"k").unwrap(), None);
        let info = read::describe(&replica.view, &collection("c")).unwrap();
        assert_eq!((info.records, info.bytes), (0, 0));
        let kept = replica.view.rows(Family::Records).len();
        assert_eq!(kept, 1, "the old record waits for garbage collection");
    }
}

#[test]
fn a_dropped_collection_is_gone_for_reads_at_once() {
    let mut replica = Replica::with_collection();
    replica.put("k", "v");
    replica.write_batch();
    let before = replica.view.clone();
    replica.run(Command::DropCollection(collection("c"))).unwrap();
    replica.write_batch();
    assert_refused(read::get(&replica.view, &collection("c"), b"k"), Code::CollectionNotFound);
    assert!(read::get(&before, &collection("c"), b"k").unwrap().is_some());
}

#[test]
fn namespaces_are_bounded() {
    let mut replica = Replica::new();
    for number in 1..NAMESPACES_MAX {
        replica.run(Command::CreateNamespace(namespace(&format!("n{number}")))).unwrap();
    }
    assert_refused(
        replica.run(Command::CreateNamespace(namespace("one-more"))),
        Code::LimitReached,
    );
    replica.run(Command::DropNamespace(namespace("n1"))).unwrap();
    replica.run(Command::CreateNamespace(namespace("one-more"))).unwrap();
}

#[test]
fn collections_are_bounded() {
    let mut replica = Replica::new();
    // As if all but one place were taken.
    replica.state.facts.counters.collections = COLLECTIONS_MAX as u64 - 1;
    replica.run(Command::CreateCollection(collection("last"))).unwrap();
    assert_refused(
        replica.run(Command::CreateCollection(collection("one-more"))),
        Code::LimitReached,
    );
    replica.run(Command::DropCollection(collection("last"))).unwrap();
    replica.run(Command::CreateCollection(collection("one-more"))).unwrap();
    replica.write_batch();
    let loaded = State::load(&replica.view).unwrap();
    assert_eq!(loaded.facts, replica.state.facts);
}
