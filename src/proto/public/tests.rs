//! Every input the API refuses at its door, and that what it takes comes back unchanged.

use proptest::prelude::*;

use super::*;

fn users() -> Option<v1::CollectionName> {
    Some(v1::CollectionName { namespace: "prod".into(), name: "users".into() })
}

fn put(key: &[u8], value: Vec<u8>) -> v1::Write {
    v1::Write {
        collection: users(),
        key: Bytes::copy_from_slice(key),
        condition: None,
        action: Some(v1::write::Action::Put(v1::PutAction {
            value: value.into(),
            content_type: String::new(),
        })),
    }
}

#[test]
fn names_are_refused_with_their_rule() {
    assert_eq!(collection_from(None).unwrap_err().code, Code::InvalidArgument);
    for (namespace, name) in [("", "users"), ("prod", ""), ("Prod", "users"), ("prod", "a/b")] {
        let message = v1::CollectionName { namespace: namespace.into(), name: name.into() };
        let failure = collection_from(Some(message)).unwrap_err();
        assert_eq!(failure.code, Code::InvalidName, "{namespace}/{name}");
    }
}

#[test]
fn keys_and_values_are_refused_one_byte_past_their_limits() {
    assert_eq!(key_from(Bytes::new()).unwrap_err().code, Code::KeyEmpty);
    assert!(key_from(vec![0; limits::KEY_BYTES_MAX].into()).is_ok());
    let failure = key_from(vec![0; limits::KEY_BYTES_MAX + 1].into()).unwrap_err();
    assert_eq!(failure.code, Code::KeyTooLarge);

    assert!(put_from(vec![0; limits::VALUE_BYTES_MAX].into(), String::new()).is_ok());
    let failure = put_from(vec![0; limits::VALUE_BYTES_MAX + 1].into(), String::new()).unwrap_err();
    assert_eq!(failure.code, Code::ValueTooLarge);

    let content_type = "x".repeat(limits::CONTENT_TYPE_BYTES_MAX + 1);
    assert_eq!(put_from(Bytes::new(), content_type).unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn a_false_absent_is_refused_rather_than_guessed() {
    let message = v1::Condition { kind: Some(v1::condition::Kind::Absent(false)) };
    assert_eq!(condition_from(Some(message)).unwrap_err().code, Code::InvalidArgument);
    assert_eq!(condition_from(None).unwrap(), Condition::Always);
    for condition in [Condition::Always, Condition::Absent, Condition::Version(7)] {
        assert_eq!(condition_from(condition_to(condition)).unwrap(), condition);
    }
}

#[test]
fn a_session_or_sequence_of_zero_is_refused() {
    assert_eq!(session_from(None).unwrap(), None);
    for (session, sequence) in [(0, 1), (1, 0)] {
        let failure = session_from(Some(v1::SessionSequence { session, sequence })).unwrap_err();
        assert_eq!(failure.code, Code::InvalidArgument);
    }
    let session = SessionSequence { session: 9, sequence: 3 };
    assert_eq!(session_from(Some(session_to(session))).unwrap(), Some(session));
}

#[test]
fn an_unknown_level_of_consistency_is_refused() {
    let failure = consistency_from(Some(v1::Consistency { level: 9, min_index: 0 })).unwrap_err();
    assert_eq!(failure.code, Code::InvalidArgument);
    for level in [Consistency::Linearizable, Consistency::Stale { min_index: 5 }] {
        assert_eq!(consistency_from(Some(consistency_to(level))).unwrap(), level);
    }
}

#[test]
fn batches_are_refused_when_empty_too_long_or_too_heavy() {
    assert_eq!(batch_from(Vec::new()).unwrap_err().code, Code::InvalidArgument);

    let many: Vec<_> =
        (0..=limits::BATCH_WRITES_MAX as u32).map(|i| put(&i.to_be_bytes(), Vec::new())).collect();
    assert_eq!(batch_from(many).unwrap_err().code, Code::BatchTooLarge);

    let heavy = (0u8..3).map(|i| put(&[i], vec![0; limits::VALUE_BYTES_MAX])).collect();
    assert_eq!(batch_from(heavy).unwrap_err().code, Code::BatchTooLarge);
}

#[test]
fn a_batch_that_names_a_key_twice_says_where() {
    let failure =
        batch_from(vec![put(b"a", vec![]), put(b"b", vec![]), put(b"a", vec![])]).unwrap_err();
    assert_eq!(failure.code, Code::DuplicateKey);
    assert!(failure.message.starts_with("write 2:"), "{}", failure.message);

    let mut elsewhere = put(b"a", vec![]);
    elsewhere.collection = Some(v1::CollectionName { namespace: "prod".into(), name: "x".into() });
    assert!(batch_from(vec![put(b"a", vec![]), elsewhere]).is_ok());
}

#[test]
fn a_bad_write_of_a_batch_is_named_by_its_position() {
    let failure = batch_from(vec![put(b"a", vec![]), put(b"", vec![])]).unwrap_err();
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::KeyEmpty, "write 1: the key is empty")
    );
    let failure = batch_from(vec![v1::Write { action: None, ..put(b"a", vec![]) }]).unwrap_err();
    assert_eq!(failure.code, Code::InvalidArgument);
}

#[test]
fn a_scan_with_huge_limit_bounds_or_cursor_is_refused() {
    let huge = || Bytes::from(vec![0; limits::SCAN_BOUND_BYTES_MAX + 1]);
    let base = v1::ScanRequest { collection: users(), ..Default::default() };
    let limit = limits::SCAN_PAGE_RECORDS_MAX as u32 + 1;
    let cases = [
        (v1::ScanRequest { limit, ..base.clone() }, Code::InvalidArgument),
        (v1::ScanRequest { prefix: huge(), ..base.clone() }, Code::KeyTooLarge),
        (v1::ScanRequest { start: huge(), ..base.clone() }, Code::KeyTooLarge),
        (v1::ScanRequest { end: huge(), ..base.clone() }, Code::KeyTooLarge),
        (v1::ScanRequest { cursor: huge(), ..base.clone() }, Code::CursorInvalid),
    ];
    for (request, code) in cases {
        assert_eq!(scan_from(request).unwrap_err().code, code);
    }
    assert!(scan_from(base).is_ok());
}

#[test]
fn addresses_need_a_host_and_a_port() {
    for good in ["10.0.0.1:7400", "node-1.example.com:1", "[::1]:7400", "localhost:65535"] {
        assert_eq!(check_address(good), Ok(()), "{good}");
    }
    let long = format!("{}:1", "h".repeat(limits::ADDRESS_BYTES_MAX));
    for bad in
        ["", "host", ":7400", "host:", "host:0", "host:70000", "::1:7400", "a b:1", "[x]:1", &long]
    {
        assert!(check_address(bad).is_err(), "{bad}");
    }
    assert_eq!(addresses_from(None).unwrap_err().code, Code::InvalidArgument);
}

proptest! {
    #[test]
    fn writes_come_back_as_they_were_sent(
        keys in proptest::collection::btree_set(proptest::collection::vec(any::<u8>(), 1..20), 1..20),
        value in proptest::collection::vec(any::<u8>(), 0..50),
        choice in 0u8..3,
        version in any::<u64>(),
    ) {
        let action = match choice {
            0 => Action::Put { value: value.into(), content_type: "text/plain".into() },
            1 => Action::Delete,
            _ => Action::Check,
        };
        let collection = CollectionName::parse("prod", "users").unwrap();
        let writes: Vec<Write> = keys
            .into_iter()
            .map(|key| Write {
                collection: collection.clone(),
                key: key.into(),
                condition: Condition::Version(version),
                action: action.clone(),
            })
            .collect();
        let messages = writes.iter().cloned().map(write_to).collect();
        prop_assert_eq!(batch_from(messages).unwrap().writes, writes);
    }

    #[test]
    fn addresses_of_any_text_are_judged_without_panic(text in ".{0,40}") {
        let _verdict = check_address(&text);
    }
}
