//! Bad input at every door of real nodes: refused with words that say why, and without a trace.
//!
//! Each story ends alike: nothing stored has changed, nobody has ended, the cluster serves.

// A test that fails fails; no node meets these.
#![allow(clippy::unwrap_used)]

mod callers;
mod certificates;
mod peers;
mod ports;
mod requests;
mod sessions;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::Cluster;

/// The collection that the stories must not change.
const COLLECTION: &str = "lab/notes";
/// Words that no log of a node may hold.
const WORDS_OF_A_DEFECT: &[&str] = &["panicked", "this is a bug"];

/// What a cluster holds, as far as its clients can see.
#[derive(PartialEq, Debug)]
struct Picture {
    namespaces: Value,
    collections: Value,
    records: BTreeMap<String, String>,
    nodes: Value,
}

/// Three nodes that hold a few records.
fn cluster_with_records() -> Cluster {
    let mut cluster = Cluster::of_three(&[]);
    fill(&cluster);
    cluster.wait_until_equal();
    cluster
}

fn fill(cluster: &Cluster) {
    cluster.ok(&["namespace", "create", "lab"]);
    cluster.ok(&["collection", "create", COLLECTION]);
    for number in 0..20 {
        cluster.put(COLLECTION, &format!("key-{number:02}"), &format!("value {number}"));
    }
}

fn picture(cluster: &Cluster) -> Picture {
    let collections = cluster.ok(&["collection", "list"]);
    let mut records = BTreeMap::new();
    for collection in collections["collections"].as_array().expect("a list of collections") {
        let name = collection["collection"].as_str().expect("a collection has a name").to_owned();
        let written = cluster.run(&["export", &name, "-", "--format", "jsonl"]);
        assert_eq!(written.code, Some(0), "{written:?}");
        records.insert(name, written.stdout);
    }
    Picture {
        namespaces: cluster.ok(&["namespace", "list"]),
        records,
        collections,
        nodes: cluster.ok(&["node", "list"]),
    }
}

/// The end of each story: all is as it was, and goes on.
fn assert_unharmed(cluster: &mut Cluster, before: &Picture) {
    for number in 1..=cluster.nodes.len() {
        if cluster.node(number).runs() {
            cluster.node_mut(number).assert_runs();
            cluster.wait_for(&format!("that node {number} is ready"), |cluster| {
                cluster.node(number).is_ready().then_some(())
            });
        }
        let log = cluster.node(number).log_lines().join("\n");
        for words in WORDS_OF_A_DEFECT {
            assert!(!log.contains(words), "node {number} logged {words:?}:\n{log}");
        }
    }
    assert_eq!(picture(cluster), *before);
    cluster.wait_until_equal();
    cluster.put(COLLECTION, "after all that", "it is written");
    let read = cluster.ok(&["get", COLLECTION, "after all that"]);
    assert_eq!(read["value"], "it is written");
}
