//! Order, round trips and golden bytes of keys.
#![allow(clippy::unwrap_used)]

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

/// Few different bytes, so that prefixes, zeros and terminators meet.
fn tricky_bytes() -> impl Strategy<Value = Bytes> {
    let byte = prop_oneof![Just(0x00), Just(0x01), Just(0xfe), Just(0xff), Just(b'a')];
    prop::collection::vec(byte, 0..6).prop_map(Bytes::from)
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..3_u64, any::<u64>(), Just(u64::MAX)]
}

fn collection_name() -> impl Strategy<Value = CollectionName> {
    ("[a-z0-9][a-z0-9._-]{0,3}", "[a-z0-9][a-z0-9._-]{0,3}")
        .prop_map(|(namespace, name)| CollectionName::parse(&namespace, &name).unwrap())
}

fn any_key() -> impl Strategy<Value = Key> {
    let versioned = || (number(), tricky_bytes(), number());
    prop_oneof![
        prop::sample::select(vec![Key::Applied, Key::ConfState, Key::Cluster, Key::Counters]),
        collection_name().prop_map(|name| Key::Namespace(name.namespace)),
        collection_name().prop_map(Key::Collection),
        (number(), number())
            .prop_map(|(incarnation, index)| Key::Descriptor { incarnation, index }),
        number().prop_map(Key::Counts),
        number().prop_map(|id| Key::Node(NodeId(id))),
        number().prop_map(|id| Key::RemovedNode(NodeId(id))),
        number().prop_map(|id| Key::Pin(NodeId(id))),
        any::<[u8; 32]>().prop_map(Key::Token),
        number().prop_map(Key::Session),
        (number(), number()).prop_map(|(index, session)| Key::SessionUse { index, session }),
        versioned().prop_map(|(layer, key, index)| Key::Record { layer, key, index }),
        versioned().prop_map(|(layer, start, index)| Key::Range { layer, start, index }),
        versioned().prop_map(|(layer, key, index)| Key::Change { layer, index, key }),
        number().prop_map(Key::Time),
    ]
}

proptest! {
    #[test]
    fn every_key_comes_back(key in any_key()) {
        prop_assert_eq!(Key::decode(key.family(), &key.encode()).unwrap(), key);
    }

    #[test]
    fn different_keys_of_a_family_have_different_bytes(a in any_key(), b in any_key()) {
        prop_assert_eq!(a == b, a.family() == b.family() && a.encode() == b.encode());
    }

    #[test]
    fn records_sort_by_layer_then_key_then_newest_version_first(
        a in (number(), tricky_bytes(), number()),
        b in (number(), tricky_bytes(), number()),
    ) {
        let row = |(layer, key, index): &(u64, Bytes, u64)| {
            Key::Record { layer: *layer, key: key.clone(), index: *index }.encode()
        };
        let order = (a.0, &a.1, std::cmp::Reverse(a.2)).cmp(&(b.0, &b.1, std::cmp::Reverse(b.2)));
        prop_assert_eq!(row(&a).cmp(&row(&b)), order);
    }

    #[test]
    fn collections_sort_by_namespace_then_name(a in collection_name(), b in collection_name()) {
        let row = |name: &CollectionName| Key::Collection(name.clone()).encode();
        prop_assert_eq!(row(&a).cmp(&row(&b)), a.cmp(&b));
    }

    #[test]
    fn a_prefix_of_rows_is_a_prefix_of_user_keys(prefix in tricky_bytes(), key in tricky_bytes()) {
        let row = version_row(&versions_of(7, &key), 9);
        let start = keys_with_prefix(7, &prefix);
        prop_assert_eq!(row.starts_with(&start), key.starts_with(&prefix));
        prop_assert_eq!(row >= start && row < after_prefix(&start), key.starts_with(&prefix));
    }

    #[test]
    fn rows_from_a_start_are_the_keys_from_it(
        bound in tricky_bytes(), key in tricky_bytes(), index in number(),
    ) {
        let row = version_row(&versions_of(7, &key), index);
        prop_assert_eq!(row >= versions_of(7, &bound), key >= bound);
    }
}

#[test]
fn keys_keep_their_bytes() {
    let collection = CollectionName::parse("prod", "users").unwrap();
    let key = Bytes::from_static(b"a\x00b");
    for (key, hex) in [
        (Key::Applied, "01"),
        (Key::ConfState, "02"),
        (Key::Cluster, "03"),
        (Key::Counters, "04"),
        (Key::Namespace(collection.namespace.clone()), "1070726f64"),
        (Key::Collection(collection), "1170726f64007573657273"),
        (Key::Descriptor { incarnation: 2, index: 1 }, "120000000000000002fffffffffffffffe"),
        (Key::Counts(2), "130000000000000002"),
        (Key::Node(NodeId(3)), "200000000000000003"),
        (Key::RemovedNode(NodeId(3)), "210000000000000003"),
        (Key::Pin(NodeId(3)), "220000000000000003"),
        (Key::Session(4), "300000000000000004"),
        (Key::SessionUse { index: 5, session: 4 }, "3100000000000000050000000000000004"),
        (
            Key::Record { layer: 6, key: key.clone(), index: 7 },
            "00000000000000066100ff620001fffffffffffffff8",
        ),
        (
            Key::Range { layer: 6, start: key.clone(), index: 7 },
            "00000000000000066100ff620001fffffffffffffff8",
        ),
        (Key::Change { layer: 6, index: 7, key }, "00000000000000060000000000000007610062"),
        (Key::Time(8), "0000000000000008"),
    ] {
        assert_eq!(HEXLOWER.encode(&key.encode()), hex, "{key:?}");
    }
    let token = Key::Token([0xaa; 32]).encode();
    assert_eq!(HEXLOWER.encode(&token), format!("23{}", "aa".repeat(32)));
}
