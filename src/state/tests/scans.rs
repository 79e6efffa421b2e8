//! Scans: bounds, pages, cursors, and one moment however long it takes.

use bytes::Bytes;

use crate::limits::{
    SCAN_BOUND_BYTES_MAX, SCAN_PAGE_BYTES_MAX, SCAN_PAGE_RECORDS_MAX, SCAN_PAGE_ROWS_MAX,
    VALUE_BYTES_MAX, VERSION_STEPS_MAX,
};
use crate::state::testing::*;
use crate::state::{RequestError, read};
use crate::types::{Action, Code, Command, ScanOptions, ScanPage, Write};

fn scan(replica: &Replica, options: &ScanOptions) -> Result<ScanPage, RequestError> {
    read::scan(&replica.view, &collection("c"), options, replica.state.applied())
}

fn keys(page: &ScanPage) -> Vec<&str> {
    page.records.iter().map(|record| std::str::from_utf8(&record.key).unwrap()).collect()
}

fn with_keys(keys: &[&str]) -> Replica {
    let mut replica = Replica::with_collection();
    for key in keys {
        replica.put(key, key);
    }
    replica.write_batch();
    replica
}

#[test]
fn prefix_start_and_end_bound_a_scan() {
    let replica = with_keys(&["a", "ab", "abc", "b", "ba", "c"]);
    let cases: [(&str, &str, &str, &[&str]); 8] = [
        ("", "", "", &["a", "ab", "abc", "b", "ba", "c"]),
        ("a", "", "", &["a", "ab", "abc"]),
        ("ab", "", "", &["ab", "abc"]),
        ("", "ab", "", &["ab", "abc", "b", "ba", "c"]),
        ("", "", "b", &["a", "ab", "abc"]),
        ("", "aa", "bb", &["ab", "abc", "b", "ba"]),
        ("a", "b", "", &[]),
        ("", "c", "a", &[]),
    ];
    for (prefix, start, end, expected) in cases {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let options = ScanOptions {
            prefix: bytes(prefix),
            start: bytes(start),
            end: bytes(end),
            ..ScanOptions::default()
        };
        let page = scan(&replica, &options).unwrap();
        assert_eq!(keys(&page), expected, "{prefix:?} {start:?} {end:?}");
        assert!(page.cursor.is_empty());
    }
}

#[test]
fn keys_of_all_ff_bytes_are_found_by_prefix_and_bounds() {
    let mut replica = Replica::with_collection();
    let key = |bytes: &[u8]| Write { key: Bytes::copy_from_slice(bytes), ..put("", "v") };
    replica.write(vec![key(b"\xff"), key(b"\xff\xff"), key(b"\xff\0"), key(b"\0")]).unwrap();
    replica.write_batch();
    let prefix = ScanOptions { prefix: Bytes::from_static(b"\xff"), ..ScanOptions::default() };
    let page = scan(&replica, &prefix).unwrap();
    let found: Vec<&[u8]> = page.records.iter().map(|record| &record.key[..]).collect();
    assert_eq!(found, [&b"\xff"[..], b"\xff\0", b"\xff\xff"]);
}

#[test]
fn pages_follow_one_another_and_only_a_missing_cursor_is_the_end() {
    let replica = with_keys(&["a", "b", "c", "d", "e"]);
    let mut options = ScanOptions { limit: 2, ..ScanOptions::default() };
    let mut seen = Vec::new();
    for expected in [&["a", "b"][..], &["c", "d"], &["e"]] {
        let page = scan(&replica, &options).unwrap();
        assert_eq!(keys(&page), expected);
        seen.push(page.cursor.is_empty());
        options.cursor = page.cursor;
    }
    assert_eq!(seen, [false, false, true]);
    options = ScanOptions { limit: 5, ..ScanOptions::default() };
    assert!(scan(&replica, &options).unwrap().cursor.is_empty(), "nothing is left after the fifth");
}

#[test]
fn later_pages_see_the_moment_of_the_first() {
    let mut replica = with_keys(&["a", "b", "c", "d"]);
    let mut options = ScanOptions { limit: 1, ..ScanOptions::default() };
    let first = scan(&replica, &options).unwrap();
    replica.write(vec![delete("b"), put("c", "changed"), put("aa", "new")]).unwrap();
    // More versions than are stepped over one by one.
    for number in 0..VERSION_STEPS_MAX * 3 {
        replica.put("d", &format!("{number}"));
    }
    replica.write_batch();
    options.cursor = first.cursor;
    options.limit = 0;
    let rest = scan(&replica, &options).unwrap();
    assert_eq!(rest.index, first.index);
    assert_eq!(keys(&rest), ["b", "c", "d"]);
    let values: Vec<&[u8]> = rest.records.iter().map(|record| &record.value[..]).collect();
    assert_eq!(values, [b"b", b"c", b"d"]);
    let fresh = scan(&replica, &ScanOptions::default()).unwrap();
    assert_eq!(keys(&fresh), ["a", "aa", "c", "d"]);
    assert_eq!(&fresh.records[3].value[..], b"23");
}

#[test]
fn a_scan_at_an_earlier_index_sees_that_moment() {
    let mut replica = Replica::with_collection();
    let early = replica.put("a", "1");
    replica.put("a", "2");
    replica.put("b", "2");
    replica.write_batch();
    let at = |index| read::scan(&replica.view, &collection("c"), &ScanOptions::default(), index);
    let page = at(early).unwrap();
    assert_eq!(keys(&page), ["a"]);
    assert_eq!((&page.records[0].value[..], page.index), (&b"1"[..], early));
    assert_refused(at(1), Code::CollectionNotFound);
    assert_refused(at(replica.state.applied() + 1), Code::Unavailable);
}

#[test]
fn keys_only_leaves_values_out() {
    let replica = with_keys(&["a", "b"]);
    let options = ScanOptions { keys_only: true, ..ScanOptions::default() };
    let page = scan(&replica, &options).unwrap();
    assert_eq!(keys(&page), ["a", "b"]);
    assert!(page.records.iter().all(|record| record.value.is_empty() && record.version > 0));
}

#[test]
fn a_page_ends_at_its_byte_limit_but_holds_one_record_of_any_size() {
    let mut replica = Replica::with_collection();
    let value = Action::Put { value: vec![0; VALUE_BYTES_MAX].into(), content_type: String::new() };
    let large = |key| Write { action: value.clone(), ..put(key, "") };
    replica.write(vec![large("a"), put("c", "")]).unwrap();
    replica.write(vec![large("b")]).unwrap();
    replica.write_batch();
    const { assert!(VALUE_BYTES_MAX + 1 > SCAN_PAGE_BYTES_MAX, "one such record fills a page") };
    let mut options = ScanOptions::default();
    for expected in [["a"], ["b"], ["c"]] {
        let page = scan(&replica, &options).unwrap();
        assert_eq!(keys(&page), expected);
        options.cursor = page.cursor;
    }
    assert!(options.cursor.is_empty());
}

#[test]
fn a_page_holds_a_bounded_number_of_records() {
    let mut replica = Replica::with_collection();
    for start in (0..SCAN_PAGE_RECORDS_MAX + 1).step_by(5000) {
        let numbers = start..(start + 5000).min(SCAN_PAGE_RECORDS_MAX + 1);
        replica.write(numbers.map(|number| put(&format!("{number:06}"), "")).collect()).unwrap();
    }
    replica.write_batch();
    for limit in [0, u32::MAX] {
        let page = scan(&replica, &ScanOptions { limit, ..ScanOptions::default() }).unwrap();
        assert_eq!(page.records.len(), SCAN_PAGE_RECORDS_MAX);
        assert!(!page.cursor.is_empty());
    }
}

#[test]
fn a_long_stretch_of_deleted_records_costs_pages_not_one_long_call() {
    let mut replica = Replica::with_collection();
    let per_batch = 10_000;
    for batch in 0..SCAN_PAGE_ROWS_MAX / per_batch {
        let names: Vec<String> =
            (0..per_batch).map(|at| format!("{:06}", batch * per_batch + at)).collect();
        replica.write(names.iter().map(|name| put(name, "")).collect()).unwrap();
        replica.write(names.iter().map(|name| delete(name)).collect()).unwrap();
    }
    replica.put("z", "");
    replica.write_batch();
    let mut options = ScanOptions::default();
    let mut pages = 0;
    let last = loop {
        let page = scan(&replica, &options).unwrap();
        pages += 1;
        if page.cursor.is_empty() {
            break page;
        }
        assert!(page.records.is_empty(), "only the last page finds something");
        options.cursor = page.cursor;
    };
    assert_eq!(keys(&last), ["z"]);
    assert!(pages > 1, "{pages} pages");
}

#[test]
fn malformed_and_foreign_cursors_are_invalid() {
    let mut replica = with_keys(&["a", "b", "c"]);
    replica.run(Command::CreateCollection(collection("d"))).unwrap();
    let other = Write { collection: collection("d"), ..put("x", "") };
    replica.write(vec![other.clone(), Write { key: "y".into(), ..other }]).unwrap();
    replica.write_batch();
    let one = ScanOptions { limit: 1, ..ScanOptions::default() };
    let good = scan(&replica, &one).unwrap().cursor;
    let foreign =
        read::scan(&replica.view, &collection("d"), &one, replica.state.applied()).unwrap().cursor;
    let with_cursor = |cursor: Bytes| ScanOptions { cursor, ..ScanOptions::default() };
    assert_refused(scan(&replica, &with_cursor(foreign)), Code::CursorInvalid);
    for cut in 1..good.len() {
        assert_refused(scan(&replica, &with_cursor(good.slice(..cut))), Code::CursorInvalid);
    }
    let mut versioned = good.to_vec();
    versioned[0] = 2;
    assert_refused(scan(&replica, &with_cursor(versioned.into())), Code::CursorInvalid);
    // Index 1 lies before the collection's creation; the far future has not been applied.
    for (index, code) in [(1_u64, Code::CursorInvalid), (u64::MAX, Code::Unavailable)] {
        let mut moved = good.to_vec();
        moved[9..17].copy_from_slice(&index.to_be_bytes());
        assert_refused(scan(&replica, &with_cursor(moved.into())), code);
    }
    let outside = ScanOptions { start: Bytes::from_static(b"c"), ..with_cursor(good.clone()) };
    assert_refused(scan(&replica, &outside), Code::CursorInvalid);
    let outside = ScanOptions { end: Bytes::from_static(b"b"), ..with_cursor(good.clone()) };
    assert_refused(scan(&replica, &outside), Code::CursorInvalid);
    // Dropped and created again: the cursor's collection is gone.
    replica.run(Command::DropCollection(collection("c"))).unwrap();
    replica.run(Command::CreateCollection(collection("c"))).unwrap();
    replica.write_batch();
    assert_refused(scan(&replica, &with_cursor(good)), Code::CursorInvalid);
}

#[test]
fn bounds_of_a_scan_have_a_longest_length() {
    let replica = with_keys(&["a"]);
    let long = Bytes::from(vec![b'a'; SCAN_BOUND_BYTES_MAX + 1]);
    let plain = ScanOptions::default;
    for options in [
        ScanOptions { prefix: long.clone(), ..plain() },
        ScanOptions { start: long.clone(), ..plain() },
        ScanOptions { end: long.clone(), ..plain() },
        ScanOptions { cursor: long.clone(), ..plain() },
    ] {
        assert_refused(scan(&replica, &options), Code::InvalidArgument);
    }
}
