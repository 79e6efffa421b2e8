//! Fuzz targets of this room: the words of a command line, and lines of JSON.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;

use super::import::lines::{KeyPath, Line, LineReader};
use super::{parse, record_line, text};
use crate::fuzz::{Target, Verdict, bounded, survives};
use crate::types::Record;

#[test]
fn words_of_the_command_line() {
    let examples = vec![
        ("address", b"eu:prod/users".to_vec()),
        ("past", b"prod/users@-10m".to_vec()),
        ("endpoint", b"[::1]:7402".to_vec()),
        ("host", b"node-1.example:7402".to_vec()),
        ("size", b"20MiB".to_vec()),
        ("rate", b"20 MB/s".to_vec()),
        ("duration", b"2m 30s".to_vec()),
        ("hex", b"00ff61".to_vec()),
    ];
    let words =
        &["/", ":", "@", "[", "]", "KiB", "GB", "/s", "h", "ms", "18446744073709551615", "\u{e9}"];
    Target { words, ..Target::new("word", examples) }.run(|input| {
        let key = bounded(input, || parse::key(OsStr::from_bytes(input), true));
        if let Ok(key) = &key {
            let text = data_encoding::HEXLOWER.encode(key);
            assert_eq!(parse::key(OsStr::new(&text), true).as_ref().ok(), Some(key));
        }
        let raw = bounded(input, || parse::key(OsStr::from_bytes(input), false));
        assert!(raw.is_err() || raw.is_ok_and(|raw| raw == input));
        let Ok(text) = std::str::from_utf8(input) else { return Verdict::of(&key) };
        let address = bounded(input, || parse::address(text));
        if let Ok(parse::Address { profile, collection }) = &address {
            let prefix = profile.iter().map(|name| format!("{name}:")).collect::<String>();
            assert_eq!(format!("{prefix}{collection}"), text);
        }
        let endpoint = bounded(input, || parse::endpoint(text));
        assert!(endpoint.is_err() || endpoint.as_deref() == Ok(text));
        let count = bounded(input, || parse::byte_count(text));
        let duration = bounded(input, || parse::duration(text));
        let cursor = bounded(input, || parse::cursor(text));
        [
            Verdict::of(&key),
            Verdict::of(&address),
            Verdict::of(&endpoint),
            Verdict::of(&count),
            Verdict::of(&duration),
            Verdict::of(&cursor),
            Verdict::of(&parse::byte_rate(text)),
            Verdict::of(&parse::profile_name(text)),
            // Not possible yet, and said to be so; no word of another kind.
            if text.contains('@') { Verdict::Accepted } else { Verdict::Refused },
        ]
        .into_iter()
        .fold(Verdict::Refused, Verdict::or)
    });
}

#[test]
fn lines_of_records() {
    let record = |key: &'static [u8], value: &'static [u8]| Record {
        key: Bytes::from_static(key),
        value: Bytes::from_static(value),
        version: 7,
        content_type: "text/plain".to_owned(),
    };
    let examples = vec![
        ("text", record_line::encode(&record(b"alice", br#"{"age": 33}"#)).into_bytes()),
        ("binary", record_line::encode(&record(b"\xff\x00", b"\x80")).into_bytes()),
        ("hex", br#"{"key_hex":"6162","value":"v"}"#.to_vec()),
    ];
    let words = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\u0000",
        "\\ud800",
        "\"key\"",
        "\"key_hex\"",
        "\"value_base64\"",
        "\"version\"",
        "1e999",
        "null",
        "18446744073709551616",
    ];
    Target { words, ..Target::new("record-line", examples) }
        .run(|input| survives(input, record_line::decode, record_line::encode));
}

#[test]
fn keys_of_documents() {
    let examples = vec![
        ("plain", br#"{"a":{"b":"x/y"}}"#.to_vec()),
        ("number", br#"{"a":{"b":-7},"c":[1,{"b":2}]}"#.to_vec()),
        ("escaped", br#" {"\u0061":{"b":"\u00e9"}} "#.to_vec()),
    ];
    let words = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"b\"",
        "\\u0000",
        "\\ud800",
        "1e999",
        "null",
        "18446744073709551616",
        "[[[[[[[[",
    ];
    Target { words, ..Target::new("document", examples) }.run(|input| {
        let path: KeyPath = "a.b".parse().unwrap();
        let found = bounded(input, || path.key_of(input));
        // A parser that builds the document finds the same, unless what is beside the key is more than
        // it takes.
        if let Ok(key) = &found
            && let Ok(document) = serde_json::from_slice::<serde_json::Value>(input)
        {
            let value = &document["a"]["b"];
            let expected = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!(key, expected.as_bytes());
        }
        Verdict::of(&found)
    });
}

#[test]
fn lines_of_a_file() {
    let examples = vec![
        ("lines", b"one\ntwo\r\n\nlast".to_vec()),
        ("long", [&[b'x'; 100][..], b"\nshort\n"].concat()),
        ("empty", b"".to_vec()),
    ];
    Target { words: &["\n", "\r\n"], ..Target::new("lines", examples) }.run(|input| {
        for (capacity, limit) in [(1, 0), (7, 10), (4096, 4096)] {
            let mut reader = LineReader::new(BufReader::with_capacity(capacity, input), limit);
            let mut expected = input.split_inclusive(|byte| *byte == b'\n');
            bounded(input, || {
                while let Some(line) = reader.next_line().unwrap() {
                    let whole = expected.next().unwrap();
                    let whole = whole.strip_suffix(b"\n").unwrap_or(whole);
                    match line {
                        Line::Whole(bytes) => assert_eq!(bytes, whole),
                        Line::TooLong(bytes) => assert_eq!(bytes, whole.len() as u64),
                    }
                }
            });
            assert!(expected.next().is_none());
        }
        // What a terminal is shown is one line.
        assert!(!text::shown(input).contains(['\n', '\r', '\x1b']));
        Verdict::Accepted
    });
}
