//! Stories of whole inputs: what is refused, what is skipped, what is read.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::input::{Input, Plan, Wanted};
use super::lines::KeyPath;
use crate::cli::failure::CliError;
use crate::cli::format::Format;
use crate::cli::record_line;
use crate::limits::{IMPORT_LISTED_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::types::Record;

fn choose(
    paths: &[&Path],
    format: Option<Format>,
    key: Option<&str>,
    prefix: &str,
) -> Result<Input, CliError> {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    let key: Option<KeyPath> = key.map(|key| key.parse().unwrap());
    let prefix = OsStr::new(prefix);
    Input::choose(Wanted { paths: &paths, format, key: key.as_ref(), prefix })
}

fn records(input: &Input, skip: bool) -> Vec<Record> {
    let mut records = Vec::new();
    let mut each = |record| {
        records.push(record);
        true
    };
    input.read(skip, &mut each).unwrap();
    records
}

fn plan(input: &Input, skip: bool) -> Result<Plan, CliError> {
    input.plan(skip, &mut |_| {})
}

fn text(record: &Record) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&record.key), text(&record.value))
}

#[test]
fn what_is_planned_of_a_tree_is_what_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir(root.join("a")).unwrap();
    fs::write(root.join("a/one"), "1").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    std::os::unix::fs::symlink("a", root.join("link")).unwrap();
    let input = choose(&[root], None, None, "p:").unwrap();
    let plan = plan(&input, false).unwrap();
    let records = records(&input, false);
    assert_eq!((plan.records, plan.bytes), (2, 7 + 1 + 7));
    assert_eq!(plan.special.count, 1);
    assert!(plan.special.names[0].contains("link (symbolic link)"));
    let read: Vec<_> = records.iter().map(text).collect();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(read, [pair("p:a/one", "1"), pair("p:empty", "")]);
}

#[test]
fn files_over_the_limit_are_all_named_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["big1", "big2"] {
        let file = fs::File::create(root.join(name)).unwrap();
        file.set_len(VALUE_BYTES_MAX as u64 + 1).unwrap();
    }
    fs::write(root.join("small"), "x").unwrap();
    let input = choose(&[root], None, None, "").unwrap();
    let refused = plan(&input, false).unwrap_err().report();
    assert_eq!((refused.exit, refused.code.as_str()), (3, "too_large"));
    assert!(refused.message.contains("big1") && refused.message.contains("big2"));
    assert!(refused.hint.contains("--skip-too-large"));
    let plan = plan(&input, true).unwrap();
    assert_eq!((plan.records, plan.too_large.count), (1, 2));
    assert_eq!(records(&input, true).len(), 1);
}

#[test]
fn a_file_that_grows_between_the_check_and_the_read_stops_the_import() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("grows");
    fs::write(&path, "x").unwrap();
    let input = choose(&[directory.path()], None, None, "").unwrap();
    plan(&input, false).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    let error = input.read(false, &mut |_| true).unwrap_err();
    assert_eq!(error.report().code, "input_changed");
}

#[test]
fn json_lines_keep_their_bytes_and_take_their_key_from_a_field() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.jsonl");
    fs::write(&path, "{\"id\": 1,  \"a\":2}\n\n{\"id\":\"two\"}\r\n").unwrap();
    let input = choose(&[&path], None, Some("id"), "k/").unwrap();
    let plan = plan(&input, false).unwrap();
    assert_eq!(plan.records, 2);
    let records = records(&input, false);
    assert_eq!(text(&records[0]), ("k/1".into(), "{\"id\": 1,  \"a\":2}".into()));
    assert_eq!(text(&records[1]), ("k/two".into(), "{\"id\":\"two\"}\r".into()));
    assert_eq!(records[0].content_type, "application/json");
    let bytes: usize = records.iter().map(|record| record.key.len() + record.value.len()).sum();
    assert_eq!(plan.bytes, bytes as u64);
}

#[test]
fn bad_lines_and_duplicate_keys_are_named_by_line_over_all_files() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (directory.path().join("a"), directory.path().join("b"));
    fs::write(&a, "{\"id\":1}\n{\"no\":2}\n").unwrap();
    fs::write(&b, "\n{\"id\":\"1\"}\nnonsense\n").unwrap();
    let input = choose(&[&a, &b], None, Some("id"), "").unwrap();
    let refused = plan(&input, true).unwrap_err().report();
    assert_eq!((refused.exit, refused.code.as_str()), (3, "bad_lines"));
    for expected in ["3 lines", "a:2 has no field id", "b:3 is no JSON"] {
        assert!(refused.message.contains(expected), "{}", refused.message);
    }
    let duplicate = format!("{}:2 has the same key as {}:1", b.display(), a.display());
    assert!(refused.message.contains(&duplicate), "{}", refused.message);
}

#[test]
fn a_message_names_some_of_many_and_counts_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in");
    fs::write(&path, "{}\n".repeat(IMPORT_LISTED_MAX + 5)).unwrap();
    let input = choose(&[&path], None, Some("id"), "").unwrap();
    let message = plan(&input, false).unwrap_err().to_string();
    assert!(message.ends_with("and 5 more"), "{message}");
    assert_eq!(message.lines().count(), IMPORT_LISTED_MAX + 2);
}

#[test]
fn exported_records_come_back_with_any_key_and_value() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in");
    let record = Record {
        key: b"\x00\xff".to_vec().into(),
        value: b"a\nb\xfe".to_vec().into(),
        version: 0,
        content_type: "x/y".to_owned(),
    };
    fs::write(&path, record_line::encode(&record)).unwrap();
    let input = choose(&[&path], Some(Format::Jsonl), None, "").unwrap();
    plan(&input, false).unwrap();
    assert_eq!(records(&input, false), [record]);
}

#[test]
fn keys_over_the_limit_are_too_large_also_through_their_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in");
    fs::write(&path, "{\"id\":\"abc\"}\n").unwrap();
    let input = choose(&[&path], None, Some("id"), &"p".repeat(KEY_BYTES_MAX)).unwrap();
    assert_eq!(plan(&input, false).unwrap_err().report().code, "too_large");
    assert_eq!(plan(&input, true).unwrap().records, 0);
    assert!(records(&input, true).is_empty());
}

#[test]
fn a_form_that_does_not_fit_the_paths_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f");
    fs::write(&file, "").unwrap();
    let root = directory.path();
    let missing = root.join("missing");
    let usage = |result: Result<Input, CliError>| result.unwrap_err().report().exit;
    assert_eq!(usage(choose(&[&file], None, None, "")), 2);
    assert_eq!(usage(choose(&[root], None, Some("id"), "")), 2);
    assert_eq!(usage(choose(&[root, &file], None, None, "")), 2);
    assert_eq!(usage(choose(&[&file], Some(Format::Tree), None, "")), 2);
    assert_eq!(usage(choose(&[&file], Some(Format::Lines), None, "")), 2);
    assert_eq!(usage(choose(&[&file], Some(Format::Jsonl), Some("id"), "")), 2);
    assert_eq!(usage(choose(&[Path::new("/dev/null")], None, Some("id"), "")), 2);
    assert_eq!(choose(&[&missing], None, None, "").unwrap_err().report().code, "file");
}
