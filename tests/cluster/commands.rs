//! The program's other commands, run as a person or a script would run them.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use ratoon::client::{Client, Profile};
use serde_json::Value;

use super::{Cluster, PROFILE};

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; None: a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// Its errors and hints.
    pub stderr: String,
}

impl Cluster {
    /// Runs a command with `--json` to its end.
    pub fn run(&self, words: &[impl AsRef<OsStr>]) -> Outcome {
        let output = self
            .command()
            .args(words)
            .arg("--json")
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The JSON document of a command that must succeed.
    pub fn ok(&self, words: &[impl AsRef<OsStr>]) -> Value {
        let outcome = self.run(words);
        let shown: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        let shown = shown.join(" ");
        assert_eq!(outcome.code, Some(0), "`ratoon {shown}`: {outcome:?}");
        outcome.document().unwrap_or_else(|| panic!("`ratoon {shown}` printed {outcome:?}"))
    }

    /// The JSON document of a command, if it succeeds.
    pub fn try_ok(&self, words: &[impl AsRef<OsStr>]) -> Option<Value> {
        let outcome = self.run(words);
        (outcome.code == Some(0)).then(|| outcome.document()).flatten()
    }

    /// Imports a directory into a collection, which is made if it is missing.
    pub fn import(&self, tree: &Path, collection: &str) {
        let tree = tree.to_str().expect("the test's own paths are UTF-8");
        self.ok(&["import", tree, collection, "--create"]);
    }

    /// Writes a record.
    pub fn put(&self, collection: &str, key: &str, value: &str) {
        self.ok(&["put", collection, key, value]);
    }

    /// What one node holds of a collection, however old, exported below the cluster's directory.
    pub fn export_stale(&self, number: usize, collection: &str) -> std::path::PathBuf {
        let tree =
            self.directory().join(format!("export-{number}-{}", collection.replace('/', "-")));
        let endpoint = self.node(number).addresses.api.to_string();
        let path = tree.to_str().expect("the test's own paths are UTF-8");
        self.ok(&["export", collection, path, "--stale", "--endpoint", &endpoint]);
        tree
    }

    /// Lets a node drop its log as far as it may, by the API: no command does so.
    pub fn compact_log(&self, number: usize) {
        let profile = Profile::load_from(&self.directory().join("profiles"), PROFILE);
        let profile = profile.expect("init wrote it");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        runtime.block_on(async {
            let client = Client::connect(&profile).expect("it is complete");
            let endpoint = self.node(number).addresses.api.to_string();
            let client = client.pinned(&endpoint).expect("the address is one");
            client.compact_log().await.expect("the node compacts its log");
        });
    }

    /// Waits until `ratoon digest` finds all nodes equal.
    pub fn wait_until_equal(&mut self) {
        self.wait_for("that all nodes are equal", |cluster| {
            let outcome = cluster.run(&["digest"]);
            assert_ne!(outcome.code, Some(1), "nodes differ: {outcome:?}");
            (outcome.code == Some(0)).then_some(())
        });
    }
}

impl Outcome {
    /// The JSON document it printed, if it is one.
    pub fn document(&self) -> Option<Value> {
        serde_json::from_str(&self.stdout).ok()
    }
}
