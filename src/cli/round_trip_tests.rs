//! Whole command lines against a node in memory: what is imported comes out again, an import that
//! was cut short is resumed, and exit codes are as documented.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::fake_node::FakeNode;

/// A node that serves, and a directory for its profile and the tests' files.
struct Stage {
    node: FakeNode,
    directory: TempDir,
}

impl Stage {
    async fn new() -> Stage {
        let stage = Stage { node: FakeNode::default(), directory: tempfile::tempdir().unwrap() };
        stage.node.serve(stage.directory.path()).await;
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `ratoon WORDS`, with `{NAME}` standing for the path of NAME, and answers with its exit
    /// code.
    async fn run(&self, words: &str) -> u8 {
        let mut line: Vec<OsString> = vec!["ratoon".into(), "--timeout=5s".into()];
        line.push("--config-dir".into());
        line.push(self.directory.path().into());
        for word in words.split(' ') {
            line.push(match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
                Some(name) => self.path(name).into(),
                None => word.into(),
            });
        }
        tokio::task::spawn_blocking(move || super::run(line)).await.unwrap()
    }

    /// Files below a directory, by relative path.
    fn files(&self, name: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let root = self.path(name);
        let files = walkdir::WalkDir::new(&root).into_iter().map(|entry| entry.unwrap());
        files
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| {
                let key = entry.path().strip_prefix(&root).unwrap().as_os_str().as_bytes();
                (key.to_vec(), fs::read(entry.path()).unwrap())
            })
            .collect()
    }
}

fn write_tree(root: &Path, files: usize) {
    for at in 0..files {
        let path = root.join(format!("d{}/e{}/f{at}", at % 3, at % 2));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![at as u8; at * 7]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_imported_and_exported_is_the_same_tree() {
    let stage = Stage::new().await;
    write_tree(&stage.path("in"), 20);
    assert_eq!(stage.run("import {in} lab/tree").await, 1, "no collection, and no --create");
    assert_eq!(stage.run("import {in} lab/tree --create").await, 0);
    assert_eq!(stage.node.0.lock().unwrap().gets, 0, "an empty collection is not compared with");
    assert_eq!(stage.run("export lab/tree {out}").await, 0);
    assert_eq!(stage.files("out"), stage.files("in"));
    assert_eq!(stage.run("export lab/tree {out}").await, 3, "the directory holds something");
    assert_eq!(stage.run("export lab/tree {out} --force").await, 0);
    assert_eq!(stage.files("out"), stage.files("in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_import_writes_only_what_differs() {
    let stage = Stage::new().await;
    write_tree(&stage.path("in"), 20);
    assert_eq!(stage.run("import {in} lab/tree --create").await, 0);
    assert_eq!(stage.run("import {in} lab/tree").await, 0);
    assert_eq!(stage.node.0.lock().unwrap().writes, 20, "nothing was written twice");
    fs::write(stage.path("in/d0/e0/f0"), "changed").unwrap();
    fs::write(stage.path("in/new"), "new").unwrap();
    stage.node.0.lock().unwrap().records.remove(&b"d1/e1/f1"[..]).unwrap();
    assert_eq!(stage.run("import {in} lab/tree").await, 0);
    assert_eq!(stage.node.0.lock().unwrap().writes, 23);
    assert_eq!(stage.run("export lab/tree {out}").await, 0);
    assert_eq!(stage.files("out"), stage.files("in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_fails_midway_is_resumed_by_the_same_command() {
    let stage = Stage::new().await;
    let big = stage.path("in");
    fs::create_dir(&big).unwrap();
    for at in 0..12u8 {
        fs::write(big.join(format!("f{at}")), vec![at; 600 << 10]).unwrap();
    }
    stage.node.0.lock().unwrap().batches_left = Some(4);
    assert_eq!(stage.run("import {in} lab/big --create").await, 3);
    let written = stage.node.0.lock().unwrap().writes;
    assert!((1..12).contains(&written), "{written} were written");
    stage.node.0.lock().unwrap().batches_left = None;
    assert_eq!(stage.run("import {in} lab/big --create").await, 0);
    assert_eq!(stage.node.0.lock().unwrap().writes, 12, "the first ones were not written again");
    assert_eq!(stage.run("export lab/big {out}").await, 0);
    assert_eq!(stage.files("out"), stage.files("in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_come_back_line_by_line() {
    let stage = Stage::new().await;
    let lines: Vec<String> =
        (10..40).map(|at| format!("{{\"id\": \"k{at}\",   \"n\":{at}.50}}\n")).collect();
    fs::write(stage.path("in"), lines.concat()).unwrap();
    assert_eq!(stage.run("import {in} lab/lines --create --key id").await, 0);
    assert_eq!(stage.run("export lab/lines {out} --format lines").await, 0);
    assert_eq!(fs::read_to_string(stage.path("out")).unwrap(), lines.concat());
    let before = stage.node.0.lock().unwrap().writes;
    assert_eq!(stage.run("import {in} lab/lines --key id").await, 0);
    assert_eq!(stage.node.0.lock().unwrap().writes, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_record_survives_the_jsonl_form_and_unsafe_keys_are_refused_as_files() {
    let stage = Stage::new().await;
    {
        let mut store = stage.node.0.lock().unwrap();
        store.created = true;
        for key in [&b"../up"[..], b"/abs", b"\xff\x00", b"plain", b"a", b"a/b"] {
            let value = [key, b"\n\xfe"].concat().into();
            store.records.insert(key.to_vec(), (value, "x/y".to_owned(), 5));
        }
    }
    assert_eq!(stage.run("export lab/odd {tree}").await, 3);
    assert!(!stage.path("tree").exists(), "nothing was made");
    assert_eq!(stage.run("export lab/odd {out} --format lines").await, 3);
    assert!(!stage.path("out").exists());
    assert_eq!(stage.run("export lab/odd {out} --format jsonl").await, 0);
    let content = |store: &super::fake_node::Store| -> Vec<_> {
        let records = store.records.iter();
        records.map(|(key, (value, kind, _))| (key.clone(), value.clone(), kind.clone())).collect()
    };
    let before = content(&stage.node.0.lock().unwrap());
    stage.node.0.lock().unwrap().records.clear();
    assert_eq!(stage.run("import {out} lab/odd --format jsonl").await, 0);
    assert_eq!(content(&stage.node.0.lock().unwrap()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_goes_on_with_an_import_and_off_with_an_export() {
    let stage = Stage::new().await;
    write_tree(&stage.path("in"), 6);
    assert_eq!(stage.run("import {in} lab/tree --create --prefix v1/").await, 0);
    assert!(stage.node.0.lock().unwrap().records.keys().all(|key| key.starts_with(b"v1/d")));
    assert_eq!(stage.run("put lab/tree other value").await, 0);
    assert_eq!(stage.run("export lab/tree {out} --prefix v1/").await, 0);
    assert_eq!(stage.files("out"), stage.files("in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn single_records_and_their_exit_codes() {
    let stage = Stage::new().await;
    fs::write(stage.path("value"), b"\x00\xff").unwrap();
    assert_eq!(stage.run("put lab/c 00ff --key-hex --file {value} --content-type a/b").await, 0);
    let stored = stage.node.0.lock().unwrap().records[&b"\x00\xff"[..]].clone();
    assert_eq!((stored.0.as_ref(), stored.1.as_str()), (&b"\x00\xff"[..], "a/b"));
    assert_eq!(stage.run("get lab/c 00ff --key-hex --json").await, 0);
    assert_eq!(stage.run("get lab/c none").await, 1);
    assert_eq!(stage.run("scan lab/c --json --limit 1").await, 0);
    assert_eq!(stage.run("delete lab/c 00ff --key-hex").await, 0);
    assert_eq!(stage.run("delete lab/c 00ff --key-hex").await, 1);
    assert_eq!(stage.run("get lab/c k --endpoint 127.0.0.1:1 --timeout 300ms").await, 4);
    assert_eq!(stage.run("status --profile none").await, 2);
}
