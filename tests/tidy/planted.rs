//! One planted violation for each rule, and the look-alikes that must pass.

use crate::tidy::documents::{self, Document};
use crate::tidy::rules::{Exception, check_file, without_exceptions};
use crate::tidy::source::{SourceFile, blank_comments_and_literals, functions, paths};

/// `rule: line` of every violation in a file that holds `body` below a proper opening line.
fn found_in(path: &str, body: &str) -> Vec<String> {
    let file = SourceFile::new(path, &format!("//! Planted.\n{body}"));
    check_file(&file).iter().map(|v| format!("{}: {}", v.rule, v.line)).collect()
}

#[test]
fn a_file_without_opening_comment_is_found() {
    let file = SourceFile::new("src/types/id.rs", "use std::fmt;\n");
    assert_eq!(check_file(&file)[0].rule, "opening");
    assert!(found_in("src/types/id.rs", "use std::fmt;\n").is_empty());
}

#[test]
fn an_import_from_a_higher_floor_is_found() {
    assert_eq!(found_in("src/raft/core.rs", "use crate::storage::RaftLog;\n"), ["floors: 2"]);
    assert_eq!(found_in("src/raft/core.rs", "\nuse crate::{kv, node::Handle};\n"), ["floors: 3"]);
    assert_eq!(found_in("src/cli/get.rs", "fn f() { ratoon(); crate::main::x() }\n").len(), 1);
    assert!(found_in("src/storage/log.rs", "use crate::raft::{LogStore, LogWrite};\n").is_empty());
}

#[test]
fn an_import_from_a_sibling_is_found() {
    assert_eq!(found_in("src/state/apply.rs", "use crate::raft::LogEntry;\n"), ["floors: 2"]);
    assert_eq!(found_in("src/http/mod.rs", "fn f() { crate::api::serve() }\n"), ["floors: 2"]);
    let nested = "mod a { fn f() { super::super::super::net::x() } }\n";
    assert_eq!(found_in("src/storage/log.rs", nested), ["floors: 2"]);
    assert!(found_in("src/state/apply.rs", "use super::key::Key;\nuse crate::kv;\n").is_empty());
}

#[test]
fn an_import_against_the_order_of_the_ground_floor_is_found() {
    assert_eq!(found_in("src/types/id.rs", "use crate::codec::encode;\n"), ["floors: 2"]);
    assert!(found_in("src/codec/entry.rs", "use crate::types::Index;\n").is_empty());
}

#[test]
fn a_room_on_no_floor_is_found() {
    assert_eq!(found_in("src/lib.rs", "pub mod types;\npub mod attic;\n"), ["floors: 3"]);
    assert_eq!(found_in("src/attic/mod.rs", ""), ["floors: 1"]);
    assert_eq!(found_in("src/state/mod.rs", "use crate::attic::Box;\n"), ["floors: 2"]);
}

#[test]
fn io_clock_and_randomness_in_the_core_are_found() {
    for line in [
        "use tokio::sync::mpsc;",
        "use std::{fmt, fs};",
        "use std::net::{IpAddr, UdpSocket};",
        "fn f() { std::fs::read(p) }",
        "use std::time::{Duration, SystemTime};",
        "use std::time::Instant as Clock;",
        "fn f() { rand::rng() }",
        "use rand::random;",
        "use std::collections::HashMap;",
        "use std::collections::{BTreeMap, HashSet};",
        "use std::collections::*;",
    ] {
        assert_eq!(found_in("src/state/apply.rs", line), ["purity: 2"], "{line}");
        assert_eq!(found_in("src/types/id.rs", line), ["purity: 2"], "{line}");
        assert!(found_in("src/node/apply.rs", line).is_empty(), "{line}");
    }
}

#[test]
fn what_only_looks_impure_passes() {
    for text in [
        "// std::fs::read is for others.\n",
        "const WHY: &str = \"no std::fs here\";\nconst RAW: &str = r#\"tokio::spawn \"x\" \"#;\n",
        "/* tokio::spawn /* nested */ std::fs::read */\n",
        "const QUOTE: char = '\"';\nfn f<'a>(x: &'a str) {}\nuse std::fmt;\n",
        "#[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n    fn f() {}\n}\n",
        "#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod tests { use std::fs; }\n",
        "use std::collections::BTreeMap;\nuse std::time::Duration;\n",
        "fn f() { host.parse::<std::net::Ipv6Addr>() }\n",
    ] {
        assert!(found_in("src/state/apply.rs", text).is_empty(), "{text}");
    }
    assert!(found_in("src/state/tests.rs", "use std::collections::HashMap;\n").is_empty());
    let after = "#[cfg(test)]\nmod tests { fn f() {} }\nuse std::fs;\n";
    assert_eq!(found_in("src/state/apply.rs", after), ["purity: 4"]);
}

#[test]
fn a_crate_outside_its_room_is_found() {
    for (path, line) in [
        ("src/node/apply.rs", "use rocksdb::DB;"),
        ("src/api/mod.rs", "fn f() { quinn::Endpoint::client(a) }"),
        ("src/node/mod.rs", "use rustls::ServerConfig;"),
        ("src/storage/plan.rs", "fn f() { bincode::decode(b) }"),
        ("src/api/mod.rs", "use prost::Message;"),
        ("src/node/mod.rs", "use raft::eraftpb::Entry;"),
        ("src/state/mod.rs", "use protobuf::Message;"),
        ("src/server.rs", "fn f() -> anyhow::Result<()> { g() }"),
        ("src/demo/mod.rs", "use clap::Parser;"),
    ] {
        assert_eq!(found_in(path, line), ["confinement: 2"], "{line}");
    }
    assert!(found_in("src/storage/db.rs", "use rocksdb::DB;\n").is_empty());
    let test = "#[cfg(test)]\nmod tests {\n    use prost::Message;\n}\n";
    assert!(found_in("src/state/apply.rs", test).is_empty());
    let room = "use crate::raft;\nfn f(store: &dyn raft::LogStore) {}\n";
    assert!(found_in("src/storage/log.rs", room).is_empty());
}

#[test]
fn unfinished_code_is_found() {
    assert_eq!(found_in("src/node/mod.rs", "fn f() { todo!() }\n"), ["unfinished: 2"]);
    assert_eq!(found_in("chaos/src/lib.rs", "fn f() { unimplemented!() }\n"), ["unfinished: 2"]);
    assert_eq!(found_in("src/node/mod.rs", "fn f() { dbg!(1); }\n"), ["unfinished: 2"]);
    assert_eq!(found_in("src/node/mod.rs", "#[allow(dead_code)]\nfn f() {}\n"), ["unfinished: 2"]);
}

#[test]
fn a_long_function_and_a_long_file_are_found() {
    let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(69));
    assert_eq!(found_in("src/node/mod.rs", &long), ["function-length: 2"]);
    let allowed = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(68));
    assert!(found_in("src/node/mod.rs", &allowed).is_empty());
    assert_eq!(found_in("src/node/mod.rs", &"// A line.\n".repeat(800)), ["file-length: 1"]);
    assert!(found_in("src/node/mod.rs", &"// A line.\n".repeat(799)).is_empty());
}

#[test]
fn an_exception_covers_one_thing_and_fails_once_it_is_not_needed() {
    let exceptions = [Exception {
        rule: "purity",
        path: "src/state/apply.rs",
        what: "HashMap",
        reason: "planted",
    }];
    let violations = |line: &str| {
        let text = format!("//! Planted.\n{line}\n");
        without_exceptions(check_file(&SourceFile::new("src/state/apply.rs", &text)), &exceptions)
    };
    assert!(violations("use std::collections::HashMap;").is_empty());
    assert_eq!(violations("use std::collections::BTreeMap;")[0].rule, "exceptions");
    assert_eq!(violations("use std::collections::{HashMap, HashSet};").len(), 1);
}

#[test]
fn the_scanner_blanks_comments_and_literals_only() {
    let text =
        "let a = b'\"'; // x\nlet b = b\"\\\"{\"; let c = '\\''; let d: &'static str = br\"{\";";
    let code = blank_comments_and_literals(text);
    assert_eq!(code.lines().count(), 2);
    assert!(!code.contains('{') && !code.contains('"') && !code.contains("// x"));
    assert!(code.contains("let c =") && code.contains("let d: &'static str ="));
}

#[test]
fn the_scanner_spreads_use_trees_and_resolves_super() {
    let file = SourceFile::new("src/node/peers.rs", "use a::{self, b::{c, d as e}, f::*};\n");
    let names = |file: &SourceFile| -> Vec<String> {
        paths(file, &file.code).iter().map(|path| path.names.join("::")).collect()
    };
    assert_eq!(names(&file), ["a", "a::b::c", "a::b::d", "a::f::*"]);
    let file = SourceFile::new("src/node/peers.rs", "use super::x;\nuse self::y::z;\n");
    assert_eq!(names(&file), ["crate::node::x", "crate::node::peers::y::z"]);
}

#[test]
fn the_scanner_tells_tests_from_functions() {
    let code = "#[test]\nfn a() {}\n#[tokio::test(flavor = )]\nasync fn b() {}\nfn c(x: [u8; 2]);\nfn d() {}";
    let found: Vec<(String, bool)> =
        functions(code).into_iter().map(|function| (function.name, function.is_test)).collect();
    let expected = [("a", true), ("b", true), ("d", false)];
    assert_eq!(found, expected.map(|(name, is_test)| (name.to_owned(), is_test)));
}

fn document(path: &str, text: &str) -> Document {
    Document { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn a_broken_link_and_a_missing_heading_are_found() {
    let pages = [
        document("README.md", "[a](docs/a.md) [b](docs/gone.md) [c](https://x.org/y)\n"),
        document("docs/a.md", "# Some heading, here\n[up](../README.md) [x](#some-heading-here)\n"),
        document(
            "docs/b.md",
            "[x](a.md#no-heading)\n[out](../../etc)\n```\n[in code](gone.md)\n```\n",
        ),
    ];
    let found = documents::check_links(&pages, |_| false);
    let places: Vec<String> = found.iter().map(|v| format!("{}:{}", v.path, v.line)).collect();
    assert_eq!(places, ["README.md:1", "docs/b.md:1", "docs/b.md:2"]);
}

#[test]
fn a_page_that_no_index_links_is_found() {
    let pages = [
        document("README.md", "[docs](docs/README.md)\n"),
        document("docs/README.md", "[a](a.md#x) [d](decisions/0001-x.md)\n"),
        document("docs/a.md", "[lost](lost.md)\n"),
        document("docs/decisions/0001-x.md", ""),
        document("docs/lost.md", ""),
    ];
    let found = documents::check_index(&pages);
    assert_eq!(found.iter().map(|v| v.path.as_str()).collect::<Vec<_>>(), ["docs/lost.md"]);
}

#[test]
fn a_test_that_does_not_exist_is_found_in_a_table() {
    let source = SourceFile::new("src/a.rs", "#[test]\nfn it_works() {}\nfn helper() {}\n");
    let table = "| what | test |\n|---|---|\n| a | `it_works` |\n| b | `a::it_works`, `gone` |\n\
                 | c | `helper` |\n| d | open |\n| e | |\n| f | `a/b.script` |\n\n`prose` is free.\n";
    let page = document("docs/testing.md", table);
    let found = documents::check_test_names(&page, &[source], |path| path == "a/b.script");
    assert_eq!(found.iter().map(|v| v.line).collect::<Vec<_>>(), [4, 5, 7]);
}

#[test]
fn a_make_target_that_does_not_exist_is_found() {
    let pages =
        [document("README.md", "Run `make demo` or `make dance`.\n```\nmake fly ARGS=1\n```\n")];
    let found = documents::check_make_targets(&pages, "demo: prepare\n\techo\n");
    assert_eq!(found.iter().map(|v| v.line).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_room_missing_from_the_map_is_found() {
    let map = document("docs/architecture.md", "`types/` and `kv.rs`\n");
    let lib = SourceFile::new("src/lib.rs", "pub mod types;\npub mod kv;\npub mod attic;\n");
    let found = documents::check_map(&map, &lib);
    assert_eq!(found.len(), 1);
    assert!(found[0].message.contains("`attic`"));
}

#[test]
fn a_setting_missing_from_its_page_is_found() {
    let page = document("docs/operating/settings.md", "| `raft.tick_ms` | 50 | a tick |\n");
    let text =
        "//! Planted.\nnumber!(\"raft.tick_ms\", \"Length, 0.5 of it.\");\ntext!(\"log.level\");\n";
    let found = documents::check_settings(&page, &SourceFile::new("src/config/settings.rs", text));
    assert_eq!(found.len(), 1);
    assert!(found[0].message.contains("`log.level`"));
}

#[test]
fn a_metric_missing_from_its_page_and_one_that_nobody_shows_are_found() {
    let page = document(
        "docs/operating/metrics.md",
        "| `ratoon_term` | newest |\n\n`rate(ratoon_gone_total[5m]) > 0`\n",
    );
    let text = "//! Planted.\nlet all = [(\"ratoon_term\", 1), (\"ratoon_lost_bytes\", 2)];\n";
    let source = SourceFile::new("src/node/metrics.rs", text);
    let found = documents::check_metrics(&page, &source);
    let lines: Vec<usize> = found.iter().map(|v| v.line).collect();
    assert_eq!(lines, [1, 3]);
    assert!(found[0].message.contains("`ratoon_lost_bytes`"));
    assert!(found[1].message.contains("`ratoon_gone_total`"));
}
