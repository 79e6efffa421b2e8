//! One flipped bit anywhere on the way from one node's state to another's: it is found, the least
//! that will do is fetched again or the start is refused, and the nodes end equal.

use std::fs;
use std::path::PathBuf;

use crate::cluster::relay::{Relay, RelayOptions};
use crate::cluster::{Cluster, damage, tree};

const MIB: u64 = 1 << 20;
/// Slow enough to be caught in the middle.
const THROTTLE: &str = "bulk.bytes_per_second_max=4194304";

/// A node with a collection of about 12 MiB that does not compress.
fn source(settings: &[&str]) -> Cluster {
    let cluster = Cluster::of_one(settings);
    fill(&cluster);
    cluster
}

fn fill(cluster: &Cluster) {
    let input = tree::make_random(cluster.directory(), 12 * MIB, "corruption");
    cluster.import(&input, "lab/files");
}

/// The directory of the only snapshot a node has stored.
fn stored_snapshot(cluster: &Cluster, number: usize) -> PathBuf {
    only_snapshot(cluster.node(number).data.join("snapshots"))
}

/// The directory of the only snapshot a node has staged.
fn staged_snapshot(cluster: &Cluster, number: usize) -> PathBuf {
    only_snapshot(cluster.node(number).data.join("incoming"))
}

fn only_snapshot(directory: PathBuf) -> PathBuf {
    let entries = fs::read_dir(directory).expect("the directory is there");
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    // Its name is the hexadecimal digest of its manifest.
    let is_snapshot = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 64);
    let found: Vec<PathBuf> = paths.filter(is_snapshot).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().expect("one was counted")
}

/// Joins a second node and kills it in the middle of its pull.
fn join_and_kill(cluster: &mut Cluster) -> usize {
    let second = cluster.join(&[THROTTLE]);
    cluster.wait_until_pulling(second, 7 * MIB);
    cluster.node_mut(second).kill();
    second
}

#[test]
fn a_chunk_damaged_on_its_way_is_fetched_again_alone() {
    let mut cluster = Cluster::of_one_behind_relay(&[]);
    fill(&cluster);
    let source = cluster.node(1);
    let relay = Relay::start(RelayOptions {
        listen: source.addresses.bulk_advertised,
        source: source.addresses.bulk,
        source_identity: source.data.join("identity"),
        receiver_identity: cluster.directory().join("node-2/identity"),
        flips: 1,
        // Within the first chunk of an answer, far behind its header.
        flip_at: 300_000,
    });
    let second = cluster.join(&[]);
    let done = cluster.wait_until_installed(second);
    assert_eq!(relay.flips_left(), 0, "no bit was flipped");
    let resent = done.number("resent_bytes");
    assert!(resent > 0 && resent <= MIB, "{done:?}");
    assert_eq!(done.number("resumes"), 0, "the connection was given up: {done:?}");
    cluster.wait_until_equal();
}

#[test]
fn a_staged_part_that_rots_while_its_node_is_down_is_fetched_again() {
    let mut cluster = source(&[]);
    let second = join_and_kill(&mut cluster);
    let staged = staged_snapshot(&cluster, second);
    // One bit in every part that is here, verified or not.
    let parts = damage::files_ending(&staged.join("partial"), ".sst");
    assert!(!parts.is_empty());
    for part in &parts {
        damage::flip_bit(part, 1000);
    }
    cluster.start(second);
    let done = cluster.wait_until_installed(second);
    assert!(done.number("resumed_from_bytes") > 0, "{done:?}");
    // A chunk of each part, and what was on its way when the node was killed.
    let repeated = done.number("resent_bytes");
    assert!(repeated <= (parts.len() as u64 + 4) * MIB, "{done:?}");
    cluster.wait_until_equal();
    let whole = cluster.node(second).data.join("state");
    assert!(!damage::files_ending(&whole, ".sst").is_empty());
}

#[test]
fn a_staged_manifest_that_rots_is_fetched_again_and_its_parts_are_kept() {
    let mut cluster = source(&[]);
    let second = join_and_kill(&mut cluster);
    let manifest = staged_snapshot(&cluster, second).join("manifest");
    damage::flip_bit(&manifest, 40);
    cluster.start(second);
    let done = cluster.wait_until_installed(second);
    assert!(done.number("resumed_from_bytes") > 0, "{done:?}");
    assert!(done.number("resent_bytes") <= 4 * MIB, "{done:?}");
    cluster.wait_until_equal();
}

#[test]
fn a_stored_part_that_rots_is_served_to_nobody_and_another_snapshot_takes_its_place() {
    // The source itself is slow, so that it has not read everything before it rots.
    let mut cluster = source(&[THROTTLE]);
    // A snapshot flushes what there is: so there are two large parts.
    cluster.ok(&["snapshot", "create"]);
    let more = tree::make_random(cluster.directory(), 6 * MIB, "more");
    cluster.import(&more, "lab/more");
    let second = cluster.join(&[]);
    let pull = cluster.wait_until_pulling(second, MIB);
    // What a source has open it goes on reading, whatever lies under the name now.
    cluster.node_mut(1).kill();
    let parts = cluster.node(1).data.join("snapshots").join(pull.text("snapshot_id")).join("parts");
    // Parts are asked for in the order of their names: the end of the last one is read last.
    let mut large = damage::files_ending(&parts, ".sst");
    large.retain(|part| fs::metadata(part).expect("it is there").len() >= MIB);
    large.sort();
    assert!(large.len() >= 2, "{large:?}");
    let last = large.last().expect("there are two");
    damage::break_hard_link(last);
    damage::flip_bit(last, fs::metadata(last).expect("it is there").len() - 1000);
    cluster.start(1);
    let done = cluster.wait_until_installed(second);
    assert_ne!(done.text("snapshot_id"), pull.text("snapshot_id"));
    assert!(done.number("reused_bytes") >= MIB, "{done:?}");
    cluster.wait_until_equal();
    let kept = fs::read_dir(cluster.node(1).data.join("snapshots")).expect("it is there");
    let names = kept.map(|entry| entry.expect("it can be read").file_name());
    assert_eq!(names.filter(|name| name.to_string_lossy().starts_with("damaged-")).count(), 1);
}

#[test]
fn a_stored_manifest_that_rots_is_moved_aside_and_the_node_builds_another() {
    let mut cluster = source(&[]);
    let made = cluster.ok(&["snapshot", "create"]);
    cluster.node_mut(1).kill();
    damage::flip_bit(&stored_snapshot(&cluster, 1).join("manifest"), 40);
    cluster.start(1);
    let second = cluster.join(&[]);
    let done = cluster.wait_until_installed(second);
    assert_ne!(done.text("snapshot_id"), made["id"]);
    cluster.wait_until_equal();
}

#[test]
fn a_rotten_raft_log_refuses_to_start_and_its_node_is_rebuilt_under_a_new_id() {
    let mut cluster = Cluster::of_three(&[]);
    let third = 3;
    let leader = cluster.leader();
    if leader == third {
        let first = cluster.node(1).id.to_string();
        cluster.ok(&["node", "transfer-leader", &first]);
    }
    cluster.import(&tree::make_random(cluster.directory(), 2 * MIB, "wal"), "lab/files");
    cluster.wait_until_equal();
    cluster.node_mut(third).kill();
    let wal = damage::files_ending(&cluster.node(third).data.join("raft"), ".log");
    let bytes = fs::metadata(&wal[0]).expect("it is there").len();
    assert!(bytes > 256 * 1024, "the log is too short: {bytes}");
    damage::flip_bit(&wal[0], bytes - 100 * 1024);

    cluster.launch(third);
    let exit = cluster.node_mut(third).wait_for_exit();
    assert_eq!(exit.code, Some(3), "{}", exit.log);
    assert!(exit.log.contains("damaged"), "{}", exit.log);
    assert!(exit.log.contains("remove the node"), "{}", exit.log);

    let old = cluster.node(third).id;
    cluster.ok(&["node", "remove", &old.to_string()]);
    fs::remove_dir_all(&cluster.node(third).data).expect("the disk is wiped");
    cluster.join_again(third);
    assert!(cluster.node(third).id > old, "an id was used again");
    cluster.wait_until_installed(third);
    cluster.wait_until_equal();
}
