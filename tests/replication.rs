//! What people do with nodes: join, leave, stay away for long, come back with an emptied disk.

use std::fs;
use std::process::Command;

use crate::cluster::{Cluster, tree};

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

#[test]
fn a_follower_away_while_the_log_was_compacted_comes_back_through_a_snapshot() {
    let mut cluster = Cluster::of_three(&[]);
    let away = cluster.leader() % 3 + 1;
    cluster.node_mut(away).kill();
    let input = tree::make_random(cluster.directory(), 6 << 20, "away");
    cluster.import(&input, "lab/files");
    let leader = cluster.leader();
    let before = cluster.status_of(leader)["last_index"].as_u64().expect("it is a number");
    // The leader keeps the log of a follower for a while after it fell silent.
    let first = cluster.wait_for("that the log is dropped", |cluster| {
        cluster.compact_log(leader);
        let first = cluster.status_of(leader)["first_index"].as_u64().expect("it is a number");
        (first >= before).then_some(first)
    });

    cluster.start(away);
    // Its first pull, when it joined, is its last until now.
    let done = cluster.wait_for_pull(away, "installed anew", |pull| {
        pull.is_installed() && pull.number("index") + 1 >= first
    });
    assert!(done.number("total_bytes") >= 6 << 20, "{done:?}");
    cluster.wait_until_equal();
    let exported = cluster.export_stale(away, "lab/files");
    tree::assert_equal(&input, &exported);
}

#[test]
fn a_removed_node_ends_and_is_never_a_member_again() {
    let mut cluster = Cluster::of_three(&[]);
    let removed = cluster.leader() % 3 + 1;
    let id = cluster.node(removed).id;
    cluster.ok(&["node", "remove", &id.to_string()]);
    let exit = cluster.node_mut(removed).wait_for_exit();
    assert_eq!(exit.code, Some(3), "{}", exit.log);
    assert!(exit.log.contains("removed from the cluster"), "{}", exit.log);
    let listed = cluster.ok(&["node", "list"]);
    assert_eq!(listed["nodes"].as_array().map(Vec::len), Some(2), "{listed}");
    // The two that are left are a cluster: they write, and they survive the loss of nobody.
    cluster.ok(&["namespace", "create", "lab"]);
    cluster.wait_until_equal();

    // Back from a restart it is a stranger.
    cluster.launch(removed);
    let exit = cluster.node_mut(removed).wait_for_exit();
    assert_eq!(exit.code, Some(3), "{}", exit.log);
    let listed = cluster.ok(&["node", "list"]);
    assert_eq!(listed["nodes"].as_array().map(Vec::len), Some(2), "{listed}");
}

#[test]
fn a_wiped_node_is_refused_under_its_old_id_and_joins_anew_under_another() {
    let mut cluster = Cluster::of_three(&[]);
    let wiped = cluster.leader() % 3 + 1;
    let old = cluster.node(wiped).id;
    cluster.node_mut(wiped).kill();
    let data = cluster.node(wiped).data.clone();
    for name in ["raft", "state", "snapshots", "incoming"] {
        fs::remove_dir_all(data.join(name)).expect("a part of the disk is wiped");
    }
    // Its keys would let it in, but it has forgotten its votes and its entries.
    cluster.launch(wiped);
    let exit = cluster.node_mut(wiped).wait_for_exit();
    assert_eq!(exit.code, Some(3), "{}", exit.log);
    assert!(exit.log.contains("there is no raft log"), "{}", exit.log);

    cluster.ok(&["node", "remove", &old.to_string()]);
    fs::remove_dir_all(&data).expect("all of it is wiped");
    cluster.join_again(wiped);
    assert!(cluster.node(wiped).id > old, "an id was used again");
    cluster.wait_until_installed(wiped);
    cluster.wait_until_equal();
}

#[test]
fn a_directory_that_holds_a_node_without_its_keys_is_refused_and_costs_no_token() {
    // A voter that dies would leave the other one without a majority to make a token.
    let mut cluster = Cluster::of_one(&["membership.promote=false"]);
    let second = cluster.join(&[]);
    cluster.wait_until_installed(second);
    cluster.node_mut(second).kill();
    fs::remove_dir_all(cluster.node(second).data.join("identity")).expect("the keys are lost");
    let token = cluster.token();
    cluster.node_mut(second).token = Some(token);
    cluster.launch(second);
    let exit = cluster.node_mut(second).wait_for_exit();
    assert_eq!(exit.code, Some(1), "{}", exit.log);
    assert!(exit.log.contains("raft already"), "{}", exit.log);

    fs::remove_dir_all(&cluster.node(second).data).expect("it is emptied");
    let old = cluster.node(second).id;
    cluster.ok(&["node", "remove", &old.to_string()]);
    // The same token: nothing was spent on the refusal.
    cluster.start(second);
    cluster.learn_id(second);
    cluster.wait_until_installed(second);
}

#[test]
fn a_follower_that_comes_back_at_another_address_is_a_follower_again() {
    let mut cluster = Cluster::of_three(&[]);
    let moved = cluster.leader() % 3 + 1;
    cluster.node_mut(moved).kill();
    cluster.move_raft(moved);
    cluster.start(moved);
    // Nobody knows where it is until it is heard, and it can tell nobody without a leader.
    let address = cluster.node(moved).addresses.raft.to_string();
    cluster.wait_for("that the cluster knows its new address", |cluster| {
        let listed = cluster.try_ok(&["node", "list"])?;
        let mut nodes = listed["nodes"].as_array()?.iter();
        nodes.any(|node| node["addresses"]["raft"] == address.as_str()).then_some(())
    });
    cluster.wait_for("that it is ready", |cluster| cluster.node(moved).is_ready().then_some(()));
    cluster.wait_until_equal();
}

#[test]
fn a_node_whose_disk_was_set_back_ends_and_never_starts_again() {
    let mut cluster = Cluster::of_three(&[]);
    let back = cluster.leader() % 3 + 1;
    cluster.node_mut(back).stop();
    let (data, copy) = (cluster.node(back).data.clone(), cluster.directory().join("copy"));
    let copied = Command::new("cp").arg("-a").args([&data, &copy]).status();
    assert!(copied.expect("cp starts").success());
    cluster.start(back);
    cluster.ok(&["namespace", "create", "lab"]);
    cluster.ok(&["collection", "create", "lab/notes"]);
    cluster.wait_until_equal();

    cluster.node_mut(back).kill();
    fs::remove_dir_all(&data).expect("it is emptied");
    fs::rename(&copy, &data).expect("the copy takes its place");
    cluster.launch(back);
    let exit = cluster.node_mut(back).wait_for_exit();
    assert_eq!(exit.code, Some(3), "{}", exit.log);
    assert!(exit.log.contains("has lost acknowledged entries"), "{}", exit.log);
    // A supervisor starts it again: it could vote before the leader is heard.
    cluster.launch(back);
    let exit = cluster.node_mut(back).wait_for_exit();
    assert_eq!(exit.code, Some(3), "{}", exit.log);
    assert!(exit.log.contains("remove this node and join anew"), "{}", exit.log);
    assert!(!exit.log.contains("connected"), "{}", exit.log);
}
