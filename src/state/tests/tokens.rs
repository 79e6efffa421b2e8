//! Join tokens and enrolment.

use crate::limits::{
    ADDRESS_BYTES_MAX, CLOCK_SKEW_MS_MAX, NODES_MAX, TOKEN_TTL_MS_MAX, TOKENS_MAX,
    TOKENS_REMEMBERED_MAX,
};
use crate::state::testing::*;
use crate::types::{Addresses, Code, Command, Failure, NodeId, Reply};

fn create(replica: &mut Replica, hash: [u8; 32], ttl_ms: u64) -> Result<Reply, Failure> {
    let expires_unix_ms = replica.clock_ms + ttl_ms;
    replica.run(Command::CreateToken { secret_hash: hash, expires_unix_ms, learner: false })
}

fn redeem(replica: &mut Replica, hash: [u8; 32], host: &str) -> Result<Reply, Failure> {
    replica.run(Command::RedeemToken { secret_hash: hash, addresses: addresses(host) })
}

fn numbered(number: usize) -> [u8; 32] {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

#[test]
fn a_token_enrols_one_node_and_is_used_up() {
    let mut replica = Replica::new();
    create(&mut replica, [1; 32], 1000).unwrap();
    let created = replica.request(&crate::types::Request {
        session: None,
        command: Command::RedeemToken { secret_hash: [1; 32], addresses: addresses("two") },
    });
    assert_eq!(created.reply, Ok(Reply::Node(NodeId(2))));
    assert!(created.nodes_changed && !created.pins_changed);
    assert_eq!(replica.state.nodes()[1].addresses, addresses("two"));
    assert!(!replica.state.conf_state().contains(NodeId(2)), "enrolled, not yet a member");
    let used = redeem(&mut replica, [1; 32], "two").unwrap_err();
    assert_eq!(used.code, Code::TokenUsed);
    // A join that was cut off knows nothing of the node it has left in the cluster.
    assert!(used.hint.contains("ratoon node remove 2"), "{}", used.hint);
    assert_refused(redeem(&mut replica, [2; 32], "two"), Code::TokenUnknown);
    assert_eq!(replica.state.nodes().len(), 2);
}

#[test]
fn a_learner_s_token_marks_the_node() {
    let mut replica = Replica::new();
    let expires_unix_ms = replica.clock_ms + 1;
    let create = Command::CreateToken { secret_hash: [1; 32], expires_unix_ms, learner: true };
    replica.run(create).unwrap();
    redeem(&mut replica, [1; 32], "two").unwrap();
    assert!(replica.state.nodes()[1].learner);
}

#[test]
fn expiry_is_judged_by_commit_time() {
    let mut replica = Replica::new();
    create(&mut replica, [1; 32], 1000).unwrap();
    replica.clock_ms += 1000;
    assert_refused(redeem(&mut replica, [1; 32], "two"), Code::TokenExpired);
    // A later leader's clock lags; the commit time does not go back, and the token stays expired.
    replica.clock_ms -= 500;
    assert_refused(redeem(&mut replica, [1; 32], "two"), Code::TokenExpired);
}

#[test]
fn a_token_lives_at_most_its_longest_time_and_never_none() {
    let mut replica = Replica::new();
    let longest = TOKEN_TTL_MS_MAX + CLOCK_SKEW_MS_MAX;
    assert_refused(create(&mut replica, [1; 32], longest + 1), Code::InvalidArgument);
    assert_refused(create(&mut replica, [1; 32], 0), Code::InvalidArgument);
    create(&mut replica, [1; 32], longest).unwrap();
    assert_refused(create(&mut replica, [1; 32], 1000), Code::AlreadyExists);
}

#[test]
fn node_ids_are_never_reused() {
    let mut replica = Replica::new();
    assert_eq!(replica.enrol("two"), NodeId(2));
    replica.conf_change(Command::RemoveNode(NodeId(2)), members(&[1], &[]));
    assert_eq!(replica.enrol("two-again"), NodeId(3));
}

#[test]
fn usable_tokens_are_bounded_and_expired_ones_make_room() {
    let mut replica = Replica::new();
    for number in 0..TOKENS_MAX {
        create(&mut replica, numbered(number), 1000).unwrap();
    }
    assert_refused(create(&mut replica, [1; 32], 1000), Code::LimitReached);
    redeem(&mut replica, numbered(0), "two").unwrap();
    create(&mut replica, [1; 32], 1000).unwrap();
    replica.clock_ms += 1000;
    create(&mut replica, [2; 32], 1000).unwrap();
    assert_refused(redeem(&mut replica, numbered(5), "x"), Code::TokenExpired);
    // Long after, what has expired is forgotten.
    replica.clock_ms += TOKEN_TTL_MS_MAX;
    create(&mut replica, [3; 32], 1000).unwrap();
    assert_refused(redeem(&mut replica, numbered(5), "x"), Code::TokenUnknown);
    assert_refused(redeem(&mut replica, numbered(0), "x"), Code::TokenUnknown);
}

#[test]
fn remembered_tokens_are_bounded_too() {
    let mut replica = Replica::new();
    for number in 0..TOKENS_REMEMBERED_MAX + 3 {
        replica.clock_ms += 1;
        create(&mut replica, numbered(number), 1).unwrap();
        if number % 1000 == 0 {
            replica.write_batch();
        }
    }
    replica.clock_ms += 1;
    // The longest expired ones went first.
    assert_refused(redeem(&mut replica, numbered(2), "x"), Code::TokenUnknown);
    assert_refused(redeem(&mut replica, numbered(3), "x"), Code::TokenExpired);
}

#[test]
fn enrolled_nodes_are_bounded() {
    let mut replica = Replica::new();
    for number in 1..NODES_MAX {
        replica.enrol(&format!("host{number}"));
    }
    create(&mut replica, [1; 32], 1000).unwrap();
    assert_refused(redeem(&mut replica, [1; 32], "one-more"), Code::LimitReached);
    replica.conf_change(Command::RemoveNode(NodeId(2)), members(&[1], &[]));
    redeem(&mut replica, [1; 32], "one-more").unwrap();
}

#[test]
fn a_node_changes_its_addresses_and_a_stranger_does_not() {
    let mut replica = Replica::new();
    let set = |node, addresses| Command::SetNodeAddresses { node, addresses };
    replica.run(set(NodeId(1), addresses("moved"))).unwrap();
    assert_eq!(replica.state.nodes()[0].addresses, addresses("moved"));
    assert_refused(replica.run(set(NodeId(9), addresses("x"))), Code::NodeNotFound);
    let long = Addresses { api: "a".repeat(ADDRESS_BYTES_MAX + 1), ..addresses("x") };
    assert_refused(replica.run(set(NodeId(1), long)), Code::InvalidArgument);
}
