//! What people do with nodes: join, leave, stay away for long, come back with an emptied disk.

use crate::cluster::Cluster;

#[test]
fn three_nodes_join_by_token_and_hold_equal_content() {
    let mut cluster = Cluster::of_three(&[]);
    cluster.ok(&["namespace", "create", "lab"]);
    cluster.ok(&["collection", "create", "lab/notes"]);
    for number in 1..=3 {
        let endpoint = cluster.node(number).addresses.api.to_string();
        let (key, value) = (format!("key-{number}"), format!("value {number}"));
        cluster.ok(&["put", "lab/notes", &key, &value, "--endpoint", &endpoint]);
    }
    cluster.wait_for("that all nodes are ready", |cluster| {
        cluster.nodes.iter().all(|node| node.is_ready()).then_some(())
    });
    cluster.wait_until_equal();
    for number in 1..=3 {
        cluster.node_mut(number).stop();
    }
}
