//! A join goes on where it was cut off, whatever cut it.

use crate::cluster::{Cluster, tree};

const MIB: u64 = 1 << 20;

#[test]
fn a_join_killed_in_the_middle_resumes_and_ends_byte_for_byte_equal() {
    let mut cluster = Cluster::of_three(&[]);
    let input = tree::make_random(cluster.directory(), 40 * MIB, "resume");
    tree::add_real_files(&input);
    cluster.import(&input, "lab/files");

    let fourth = cluster.join(&["bulk.bytes_per_second_max=8388608"]);
    cluster.wait_until_pulling(fourth, 12 * MIB);
    cluster.node_mut(fourth).kill();
    cluster.start(fourth);
    let resumed = cluster.wait_for_pull(fourth, "resumed", |pull| pull.number("resumes") > 0);
    // What was synced with the record, about once a second, is more than nothing and less than all.
    let resumed_from = resumed.number("resumed_from_bytes");
    assert!(resumed_from >= 4 * MIB, "{resumed:?}");
    assert!(resumed_from < resumed.number("total_bytes"), "{resumed:?}");

    let done = cluster.wait_until_installed(fourth);
    assert!(done.number("total_bytes") >= 40 * MIB, "{done:?}");
    // One chunk a stream at most comes twice.
    assert!(done.number("resent_bytes") <= 4 * MIB, "{done:?}");
    cluster.wait_until_equal();
    let exported = cluster.export_stale(fourth, "lab/files");
    tree::assert_equal(&input, &exported);
}

#[test]
fn a_leader_change_in_the_middle_of_a_pull_keeps_it_going() {
    let mut cluster = Cluster::of_three(&[]);
    let input = tree::make_random(cluster.directory(), 24 * MIB, "leader");
    cluster.import(&input, "lab/files");

    let fourth = cluster.join(&["bulk.bytes_per_second_max=6291456"]);
    let before = cluster.wait_until_pulling(fourth, 4 * MIB);
    let old = cluster.leader();
    let next = old % 3 + 1;
    let id = cluster.node(next).id.to_string();
    cluster.ok(&["node", "transfer-leader", &id]);
    cluster.wait_for("the new leader", |cluster| (cluster.leader() == next).then_some(()));

    let done = cluster.wait_until_installed(fourth);
    // The same snapshot from the same source, and nothing of it was given up.
    assert_eq!(done.text("snapshot_id"), before.text("snapshot_id"));
    assert_eq!(done.number("source"), before.number("source"));
    assert_eq!(done.number("discarded_bytes"), 0, "{done:?}");
    cluster.wait_until_equal();
}
