//! Wrong certificates and wrong tokens: each refusal says which it is.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use ratoon::client::Profile;
use ratoon::net::{CertificateAuthority, Identity, Lane, NetError, NodeKey};
use ratoon::proto::v1;
use ratoon::types::{ClusterId, Code, JoinToken, NodeId};
use serde_json::Value;

use super::callers::{Api, Pair, failure_of, link, name, profile, refused, runtime, within};
use super::peers::{connect, enrol, identity, remove};
use super::{COLLECTION, assert_unharmed, cluster_with_records, fill, picture};
use crate::cluster::{Cluster, Outcome};

/// Any free port of loopback.
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What a command that must not succeed said on stderr.
fn error_of(outcome: &Outcome) -> Value {
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
    let line = outcome.stderr.lines().last().unwrap_or_default();
    let error: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{outcome:?}"));
    let hint = error["hint"].as_str().unwrap_or_default();
    assert!(!hint.is_empty(), "no hint: {outcome:?}");
    error
}

#[test]
fn certificates_of_others_open_nothing_and_each_refusal_says_why() {
    let mut cluster = cluster_with_records();
    let other = Cluster::of_one(&[]);
    let before = picture(&cluster);
    let ours: ClusterId = cluster.status().expect("it answers")["cluster_id"]
        .as_str()
        .expect("an id")
        .parse()
        .unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        refuse_links(&cluster, &identity(&other, 1), "belongs to cluster").await;
        refuse_links(&cluster, &forged(ours), "is not trusted").await;
        refuse_callers(&cluster, &other, ours).await;
    });
    refuse_profiles(&cluster, &other);
    assert_unharmed(&mut cluster, &before);
}

/// A node of our cluster, by the word of another authority.
fn forged(cluster: ClusterId) -> Identity {
    let authority = CertificateAuthority::generate(cluster).unwrap();
    let key = NodeKey::generate().unwrap();
    let hosts = ["127.0.0.1".to_owned()];
    let certificate = authority.issue_node(NodeId(2), &hosts, key.request_der()).unwrap();
    Identity::new(authority.certificate_der(), &certificate, &key, [0; 32]).unwrap()
}

async fn refuse_links(cluster: &Cluster, identity: &Identity, reason: &str) {
    let node = cluster.node(1);
    for (lane, address) in [(Lane::Raft, node.addresses.raft), (Lane::Bulk, node.addresses.bulk)] {
        let here = link(lane, ANYWHERE, identity);
        let error = connect(&here, (node.id, address)).await.expect_err("a stranger was let in");
        assert!(error.to_string().contains(reason), "{lane:?}: {error}");
        here.close().await;
    }
}

async fn refuse_callers(cluster: &Cluster, other: &Cluster, ours: ClusterId) {
    let get = || v1::GetRequest {
        collection: name("lab", "notes"),
        key: Bytes::from_static(b"key-01"),
        consistency: None,
    };
    let stranger =
        failure_of("no certificate", Api::with(cluster, 1, None).records().get(get()).await);
    assert_eq!(stranger.code, Code::Unauthenticated);
    assert!(stranger.message.contains("without a client certificate"), "{stranger:?}");

    let node = identity(cluster, 2);
    let pair: Pair = (node.certificate_chain_pem(), node.key_pem());
    let node = failure_of("a node", Api::with(cluster, 1, Some(pair)).records().get(get()).await);
    assert_eq!(node.code, Code::Unauthenticated);
    assert!(node.message.contains("that of node 2"), "{node:?}");

    // Authorities that the node does not know end in TLS: there is no failure to read, only a word.
    let of_other = profile(other);
    let forged = CertificateAuthority::generate(ours).unwrap().issue_client("admin").unwrap();
    for pair in [(of_other.certificate_pem, of_other.key_pem), forged] {
        let result = Api::with(cluster, 1, Some(pair)).records().get(get()).await;
        assert!(result.is_err(), "a stranger read a record: {result:?}");
    }
    // What is open to all stays open, and gives nothing away.
    let request = v1::JoinRequest { cluster_id: "x".into(), ..Default::default() };
    let joined = Api::with(cluster, 1, None).enrollment().join(request).await;
    refused("a malformed request to join", Code::InvalidArgument, joined);
}

/// The same as a person sees it.
fn refuse_profiles(cluster: &Cluster, other: &Cluster) {
    let (mine, theirs) = (profile(cluster), profile(other));
    let pem = String::new;
    let cases = [
        (
            "stranger",
            Profile { certificate_pem: pem(), key_pem: pem(), ..mine.clone() },
            "unauthenticated",
        ),
        (
            "foreigner",
            Profile {
                certificate_pem: theirs.certificate_pem.clone(),
                key_pem: theirs.key_pem.clone(),
                ..mine.clone()
            },
            "unauthenticated",
        ),
        ("astray", Profile { endpoints: mine.endpoints.clone(), ..theirs }, "wrong_cluster"),
    ];
    for (profile_name, profile, code) in cases {
        profile.save_to(&cluster.directory().join("profiles"), profile_name).unwrap();
        let outcome = cluster.run(&["get", COLLECTION, "key-01", "--profile", profile_name]);
        assert_eq!(outcome.code, Some(3), "{profile_name}: {outcome:?}");
        assert_eq!(error_of(&outcome)["code"], code, "{profile_name}: {outcome:?}");
    }
}

#[test]
fn a_token_admits_one_node_once_and_each_refusal_says_why() {
    let mut cluster = Cluster::of_one(&[]);
    fill(&cluster);
    let other = Cluster::of_one(&[]);
    let enrolled = enrol(&mut cluster);
    remove(&cluster, enrolled);
    let used = cluster.token();
    let (first, second) = (cluster.add(), cluster.add());
    let join = |cluster: &Cluster, number: usize, token: &str| {
        let mut words = vec!["join".to_owned(), token.to_owned()];
        words.extend(cluster.node(number).flags());
        cluster.run(&words)
    };
    assert_eq!(join(&cluster, first, &used).code, Some(0));
    assert_eq!(join(&cluster, first, &used).code, Some(0), "joining is idempotent");
    let before = picture(&cluster);

    let token: JoinToken = used.parse().unwrap();
    let expiring = cluster.ok(&["token", "create", "--ttl", "2s"]);
    let expired = expiring["token"].as_str().unwrap().to_owned();
    std::thread::sleep(std::time::Duration::from_millis(2_010));
    let secret = JoinToken { secret: [7; 32], ..token.clone() }.to_string();
    let fingerprint = JoinToken { ca_fingerprint: [7; 32], ..token.clone() }.to_string();
    let cluster_id = JoinToken { cluster: ClusterId([7; 16]), ..token.clone() }.to_string();
    let nobody = JoinToken { endpoints: vec!["127.0.0.1:1".into()], ..token.clone() }.to_string();
    // The other cluster's token, sent to an endpoint of this one.
    let theirs: JoinToken = other.token().parse().unwrap();
    let astray = JoinToken { endpoints: token.endpoints.clone(), ..theirs.clone() }.to_string();
    let cut_off = &used[..used.len() / 2];
    let not_text = BASE64URL_NOPAD.encode(&[0xff, 0xfe]);
    let not_text = format!("{}.{not_text}", used.rsplit_once('.').unwrap().0);
    let cases: [(&str, &str, i32); 9] = [
        (&used, "token_used", 3),
        (&expired, "token_expired", 3),
        (&secret, "token_unknown", 3),
        (&fingerprint, "wrong_cluster", 3),
        (&cluster_id, "wrong_cluster", 3),
        (&astray, "wrong_cluster", 3),
        (&nobody, "unavailable", 4),
        (cut_off, "usage", 2),
        (&not_text, "usage", 2),
    ];
    for (token, code, exit) in cases {
        let outcome = join(&cluster, second, token);
        assert_eq!((error_of(&outcome)["code"].as_str(), outcome.code), (Some(code), Some(exit)));
    }
    // A node of this cluster does not join another one.
    let outcome = join(&cluster, first, &theirs.to_string());
    assert_eq!(error_of(&outcome)["code"], "wrong_cluster", "{outcome:?}");
    assert_eq!(picture(&cluster), before);
    // All those attempts have left nothing behind: with a good token it joins.
    let token = cluster.token();
    assert_eq!(join(&cluster, second, &token).code, Some(0));
}

#[test]
fn a_removed_node_is_told_so_and_opens_neither_lane() {
    let mut cluster = cluster_with_records();
    let before = picture(&cluster);
    // One that is away while it is removed, and one that runs.
    let (away, running) = (cluster.join(&[]), cluster.join(&[]));
    for number in [away, running] {
        cluster.wait_for(&format!("that node {number} is ready"), |cluster| {
            cluster.node(number).is_ready().then_some(())
        });
    }
    cluster.node_mut(away).stop();
    remove(&cluster, away);
    remove(&cluster, running);
    cluster.launch(away);
    for number in [running, away] {
        let exit = cluster.node_mut(number).wait_for_exit();
        assert_eq!(exit.code, Some(3), "{}", exit.log);
        assert!(exit.log.contains("was removed from the cluster"), "{}", exit.log);
        assert!(exit.log.contains("join it again with a new token"), "{}", exit.log);
    }
    let removed = identity(&cluster, running);
    let addresses = cluster.node(running).addresses;
    let leader = cluster.leader();
    runtime().block_on(async {
        let node = cluster.node(leader);
        let here = link(Lane::Raft, addresses.raft, &removed);
        let connection = connect(&here, (node.id, node.addresses.raft)).await.unwrap();
        let code = super::peers::call_code(&connection, &super::peers::status_call()).await;
        assert_eq!(code, Code::Unauthenticated);
        here.close().await;

        let here = link(Lane::Bulk, addresses.bulk, &removed);
        // The close may overtake the welcome.
        let end = match connect(&here, (node.id, node.addresses.bulk)).await {
            Ok(connection) => within("the end of the link", connection.closed()).await,
            Err(error) => error,
        };
        match end {
            NetError::ClosedByPeer(reason) => assert!(reason.contains("was removed"), "{reason}"),
            other => panic!("the link ended with {other:?}"),
        }
        here.close().await;
    });
    assert_unharmed(&mut cluster, &before);
}
