//! Stories of identities on disk and of links on loopback.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use proptest::prelude::*;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, UdpSocket};

use super::authority::Validity;
use super::testing::{authority, endpoint, endpoint_at, identity};
use super::*;
use crate::limits::{CONNECTIONS_PER_IDENTITY_MAX, HANDSHAKES_UNVALIDATED_MAX, MIB};
use crate::types::{ClusterId, NodeId};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn address(endpoint: &Endpoint) -> String {
    endpoint.local_address().to_string()
}

/// Two nodes of one cluster on one lane, linked: the dialler's end first.
async fn linked(lane: Lane) -> (Endpoint, Endpoint, Connection, Connection) {
    let ca = authority(1);
    let (first, second) = (endpoint(lane, &identity(&ca, 1)), endpoint(lane, &identity(&ca, 2)));
    let here = first.connect(NodeId(2), &address(&second)).await.unwrap();
    let there = second.accept().await.unwrap();
    (first, second, here, there)
}

fn expired(ca: &CertificateAuthority, node: u64) -> Identity {
    let key = NodeKey::generate().unwrap();
    let now = SystemTime::now();
    let validity = Validity { from: now - 2 * DAY, until: now - DAY };
    let certificate = ca.issue_node_valid(NodeId(node), &[], key.request_der(), validity).unwrap();
    Identity::new(ca.certificate_der(), &certificate, &key, [0; 32]).unwrap()
}

// Identities.

#[test]
fn a_certificate_is_replaced_by_one_of_the_same_node_that_names_new_hosts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity");
    let ca = authority(1);
    let (key, hosts) = (NodeKey::generate().unwrap(), |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    });
    let issued = ca.issue_node(NodeId(3), &hosts(&["Old.example", "::1"]), key.request_der());
    let created = Identity::new(ca.certificate_der(), &issued.unwrap(), &key, [0; 32]).unwrap();
    created.create(&path).unwrap();
    assert!(created.hosts_missing(&hosts(&["old.EXAMPLE", "0:0::1"])).unwrap().is_empty());
    let wanted = hosts(&["new.example", "10.0.0.7"]);
    assert_eq!(created.hosts_missing(&wanted).unwrap(), wanted);

    let request = created.certificate_request().unwrap();
    let issued = ca.issue_node(NodeId(3), &wanted, &request).unwrap();
    created.with_certificate(&issued).unwrap().store_certificate(&path).unwrap();
    let loaded = Identity::load(&path).unwrap();
    assert!(loaded.hosts_missing(&wanted).unwrap().is_empty());
    assert_eq!((loaded.node(), loaded.key_der()), (NodeId(3), created.key_der()));

    let of_another = ca.issue_node(NodeId(4), &wanted, &request).unwrap();
    assert!(matches!(created.with_certificate(&of_another), Err(NetError::WrongNode { .. })));
    let of_another_ca = authority(1).issue_node(NodeId(3), &wanted, &request).unwrap();
    assert!(created.with_certificate(&of_another_ca).is_err());
}

#[test]
fn an_identity_survives_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity");
    let ca = authority(1);
    let created = identity(&ca, 3);
    created.create(&path).unwrap();

    let loaded = Identity::load(&path).unwrap();
    assert_eq!((loaded.node(), loaded.cluster()), (NodeId(3), ClusterId([1; 16])));
    assert_eq!(loaded.certificate_der(), created.certificate_der());
    assert_eq!(loaded.key_der(), created.key_der());
    assert_eq!(loaded.cluster_secret(), created.cluster_secret());
    assert_eq!(loaded.ca_certificate_der(), ca.certificate_der());
    assert_eq!(loaded.ca_fingerprint(), ca.fingerprint());
    assert!(!format!("{loaded:?}").contains('['), "no key bytes in logs");
}

#[test]
fn an_identity_is_never_overwritten_and_a_half_written_one_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity");
    let ca = authority(1);
    fs::create_dir(path.with_extension("partial")).unwrap();
    fs::write(path.with_extension("partial").join("ca.pem"), "half").unwrap();
    assert!(matches!(Identity::load(&path), Err(NetError::IdentityMissing { .. })));

    identity(&ca, 3).create(&path).unwrap();
    let again = identity(&ca, 4).create(&path);
    assert!(matches!(again, Err(NetError::IdentityExists { .. })));
    assert_eq!(Identity::load(&path).unwrap().node(), NodeId(3));
}

#[test]
fn an_identity_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity");
    identity(&authority(1), 3).create(&path).unwrap();
    for (name, mode) in [("node.key.pem", 0o640), ("cluster-secret", 0o604), ("", 0o750)] {
        let file = if name.is_empty() { path.clone() } else { path.join(name) };
        let before = fs::metadata(&file).unwrap().permissions();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        match Identity::load(&path) {
            Err(NetError::IdentityExposed { path, mode: found }) => {
                assert_eq!((path, found), (file.clone(), mode));
            }
            other => panic!("{name}: {other:?}"),
        }
        fs::set_permissions(&file, before).unwrap();
    }
    Identity::load(&path).unwrap();
}

#[test]
fn a_damaged_identity_is_named_and_a_missing_file_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity");
    let (ca, other) = (authority(1), authority(2));
    identity(&ca, 3).create(&path).unwrap();
    for name in ["ca.pem", "node.pem", "node.key.pem", "cluster-secret"] {
        let file = path.join(name);
        let good = fs::read(&file).unwrap();
        for bad in [&good[..good.len() / 2], b"", &[0xff; 100], &vec![b'a'; 100_000]] {
            fs::write(&file, bad).unwrap();
            let result = Identity::load(&path);
            assert!(matches!(result, Err(NetError::IdentityDamaged { .. })), "{name}: {result:?}");
        }
        fs::rename(&file, path.join("away")).unwrap();
        assert!(matches!(Identity::load(&path), Err(NetError::IdentityMissing { .. })));
        fs::rename(path.join("away"), &file).unwrap();
        fs::write(&file, good).unwrap();
    }
    // Files that are whole and do not fit each other.
    let ca_file = fs::read(path.join("ca.pem")).unwrap();
    fs::write(path.join("ca.pem"), identity(&other, 1).ca_pem()).unwrap();
    assert!(matches!(Identity::load(&path), Err(NetError::IdentityDamaged { .. })));
    fs::write(path.join("ca.pem"), ca_file).unwrap();
    fs::write(path.join("node.key.pem"), identity(&ca, 3).key_pem()).unwrap();
    assert!(matches!(Identity::load(&path), Err(NetError::IdentityDamaged { .. })));
}

#[test]
fn certificates_say_whom_they_speak_for() {
    let ca = authority(5);
    let cluster = ClusterId([5; 16]);
    let node = parse_subject(identity(&ca, 42).certificate_der()).unwrap();
    assert_eq!(node, Subject::Node { cluster, node: NodeId(42) });
    let (certificate, key) = ca.issue_client("ops.team-1").unwrap();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
    match parse_subject(&certificate).unwrap() {
        Subject::Client { cluster: found, name } => {
            assert_eq!((found, name.as_str()), (cluster, "ops.team-1"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(parse_subject(ca.certificate_der()), Err(NetError::CertificateStrange(_))));
    assert!(matches!(ca.issue_client("Ops"), Err(NetError::RequestRefused(_))));
}

#[test]
fn a_joiner_cannot_be_certified_as_someone_else() {
    let ca = authority(1);
    let key = NodeKey::generate().unwrap();
    let forged = format!("node-1.{}.ratoon", ClusterId([1; 16]));
    for host in [forged.as_str(), "X.RATOON", "ratoon", "a.ratoon.", "", "a b", "*.example", "ä"] {
        let result = ca.issue_node(NodeId(9), &[host.to_owned()], key.request_der());
        assert!(matches!(result, Err(NetError::RequestRefused(_))), "{host}");
    }
    // What a request itself asks for is ignored: only its key counts.
    let greedy = rcgen::CertificateParams::new(vec![forged]).unwrap();
    let greedy_key = rcgen::KeyPair::generate().unwrap();
    let request = greedy.serialize_request(&greedy_key).unwrap();
    let certificate = ca.issue_node(NodeId(9), &[], request.der()).unwrap();
    let cluster = ClusterId([1; 16]);
    assert_eq!(parse_subject(&certificate).unwrap(), Subject::Node { cluster, node: NodeId(9) });
}

#[test]
fn a_request_without_its_key_is_refused() {
    let ca = authority(1);
    let key = NodeKey::generate().unwrap();
    let mut request = key.request_der().to_vec();
    *request.last_mut().unwrap() ^= 1;
    for bad in [&request[..], &request[..40], b"", &[0x30; 100_000]] {
        let result = ca.issue_node(NodeId(9), &[], bad);
        assert!(matches!(result, Err(NetError::RequestRefused(_))));
    }
}

#[test]
fn an_authority_comes_back_from_its_sealed_key() {
    let ca = authority(1);
    let cluster = ClusterId([1; 16]);
    let sealed = seal(cluster, &[9; 32], ca.key_der()).unwrap();
    assert_ne!(sealed, seal(cluster, &[9; 32], ca.key_der()).unwrap(), "the nonce is fresh");
    assert!(!sealed.windows(16).any(|bytes| bytes == &ca.key_der()[40..56]));

    let key = unseal(cluster, &[9; 32], &sealed).unwrap();
    let revived = CertificateAuthority::from_der(cluster, ca.certificate_der(), &key).unwrap();
    let node_key = NodeKey::generate().unwrap();
    let certificate = revived.issue_node(NodeId(2), &[], node_key.request_der()).unwrap();
    Identity::new(ca.certificate_der(), &certificate, &node_key, [9; 32]).unwrap();

    let other = authority(1);
    let mixed = CertificateAuthority::from_der(cluster, other.certificate_der(), &key);
    assert!(matches!(mixed, Err(NetError::KeyMaterial(_))));
}

proptest! {
    #[test]
    fn a_seal_opens_only_untouched_with_its_secret_and_cluster(
        key in prop::collection::vec(any::<u8>(), 0..200),
        secret: [u8; 32],
        flipped in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let cluster = ClusterId([1; 16]);
        let sealed = seal(cluster, &secret, &key).unwrap();
        prop_assert_eq!(unseal(cluster, &secret, &sealed).unwrap(), key);
        prop_assert!(unseal(ClusterId([2; 16]), &secret, &sealed).is_err());
        let mut other_secret = secret;
        other_secret[0] ^= 1;
        prop_assert!(unseal(cluster, &other_secret, &sealed).is_err());
        prop_assert!(unseal(cluster, &secret, &sealed[..cut.index(sealed.len())]).is_err());
        let mut touched = sealed.clone();
        touched[flipped.index(sealed.len())] ^= 0x40;
        prop_assert!(unseal(cluster, &secret, &touched).is_err());
    }

    #[test]
    fn no_bytes_make_the_certificate_parsers_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
    ) {
        static REAL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let real = REAL.get_or_init(|| identity(&authority(1), 1).certificate_der().to_vec());
        prop_assert!(parse_subject(&bytes).is_err());
        let mut mixed = real.clone();
        let at = at.index(mixed.len());
        let end = mixed.len().min(at + bytes.len());
        mixed[at..end].copy_from_slice(&bytes[..end - at]);
        // Either verdict is right, as long as there is one.
        drop(parse_subject(&mixed));
    }

    #[test]
    fn a_subject_has_one_spelling(text in "(node|client)-[a-z0-9.]{1,8}\\.(01){16}\\.ratoon") {
        if let Some(subject) = Subject::parse(&text) {
            prop_assert_eq!(subject.dns_name(), text);
        }
    }
}

// Links.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_exchange_frames_and_bytes_on_both_lanes() {
    for lane in [Lane::Raft, Lane::Bulk] {
        let (_first, _second, here, there) = linked(lane).await;
        assert_eq!((here.peer(), there.peer()), (NodeId(2), NodeId(1)));

        let (mut send, mut recv) = here.open_bi().await.unwrap();
        let big = Bytes::from(vec![5u8; 3 * MIB]);
        let answering = tokio::spawn(async move {
            let (mut send, mut recv) = there.accept_bi().await.unwrap();
            while let Some(frame) = recv.read_frame(4 * MIB).await.unwrap() {
                send.write_frame_bytes(frame).await.unwrap();
            }
            send.write(b"raw bytes after frames").await.unwrap();
            send.finish().unwrap();
            there
        });
        for frame in [Bytes::from_static(b"first"), Bytes::new(), big.clone()] {
            send.write_frame(&frame).await.unwrap();
            assert_eq!(recv.read_frame(4 * MIB).await.unwrap().unwrap(), frame);
        }
        send.finish().unwrap();
        let mut raw = [0; 22];
        recv.read_exact(&mut raw).await.unwrap();
        assert_eq!(&raw, b"raw bytes after frames");
        assert!(!recv.read_exact_or_end(&mut raw).await.unwrap());
        let there = answering.await.unwrap();
        assert!(here.stats().sent_bytes as usize > big.len());
        here.close("enough");
        assert!(matches!(there.closed().await, NetError::ClosedByPeer(why) if why == "enough"));
    }
}

#[tokio::test]
async fn an_oversized_frame_is_refused_and_a_cut_one_is_an_error() {
    let (_first, _second, here, there) = linked(Lane::Raft).await;
    let mut send = here.open_uni().await.unwrap();
    send.write_frame(&[1; 1001]).await.unwrap();
    let mut recv = there.accept_uni().await.unwrap();
    match recv.read_frame(1000).await {
        Err(NetError::FrameTooLarge { bytes: 1001, bytes_max: 1000 }) => {}
        other => panic!("{other:?}"),
    }

    let mut send = here.open_uni().await.unwrap();
    send.write(&[0, 0, 0, 10, 1, 2, 3]).await.unwrap();
    send.finish().unwrap();
    let mut recv = there.accept_uni().await.unwrap();
    assert_eq!(recv.next_frame_bytes(1000).await.unwrap(), Some(10));
    let cut = recv.read_frame(1000).await;
    assert!(matches!(cut, Err(NetError::Truncated { missing: 7 })), "{cut:?}");

    // A sender that goes away without finishing has not finished.
    let mut send = here.open_uni().await.unwrap();
    send.write_frame(b"whole").await.unwrap();
    let mut recv = there.accept_uni().await.unwrap();
    assert_eq!(recv.read_frame(1000).await.unwrap().unwrap(), &b"whole"[..]);
    drop(send);
    assert!(matches!(recv.read_frame(1000).await, Err(NetError::StreamReset(0))));
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_by_both_sides() {
    let (ours, theirs) = (authority(1), authority(2));
    let server = endpoint(Lane::Raft, &identity(&ours, 1));
    let stranger = endpoint(Lane::Raft, &identity(&theirs, 2));
    match stranger.connect(NodeId(1), &address(&server)).await {
        Err(NetError::WrongCluster { theirs, ours, .. }) => {
            assert_eq!((theirs, ours), (ClusterId([1; 16]), ClusterId([2; 16])));
        }
        other => panic!("{other:?}"),
    }
    // One that trusts us all the same is refused by the acceptor, and told why.
    let foreign = identity(&theirs, 2);
    let lenient = Identity::unchecked(
        ClusterId([1; 16]),
        ours.certificate_der(),
        foreign.certificate_der(),
        foreign.key_der(),
    );
    match endpoint(Lane::Raft, &lenient).connect(NodeId(1), &address(&server)).await {
        Err(NetError::RefusedByPeer(why)) => assert!(why.contains("belongs to cluster"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_forged_node_certificate_is_refused_by_both_sides() {
    let real = authority(1);
    let forger = authority(1);
    let server = endpoint(Lane::Raft, &identity(&real, 1));
    let dialler = endpoint(Lane::Raft, &identity(&forger, 2));
    let result = dialler.connect(NodeId(1), &address(&server)).await;
    assert!(matches!(result, Err(NetError::CertificateUntrusted { .. })), "{result:?}");

    let forged = identity(&forger, 2);
    let lenient = Identity::unchecked(
        ClusterId([1; 16]),
        real.certificate_der(),
        forged.certificate_der(),
        forged.key_der(),
    );
    let result = endpoint(Lane::Raft, &lenient).connect(NodeId(1), &address(&server)).await;
    assert!(matches!(&result, Err(NetError::RefusedByPeer(why)) if why.contains("not trusted")));
}

#[tokio::test]
async fn the_wrong_node_at_an_address_is_refused() {
    let ca = authority(1);
    let dialler = endpoint(Lane::Raft, &identity(&ca, 1));
    let server = endpoint(Lane::Raft, &identity(&ca, 2));
    match dialler.connect(NodeId(3), &address(&server)).await {
        Err(NetError::WrongNode { expected: NodeId(3), found: NodeId(2) }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_certificate_opens_no_node_link() {
    let ca = authority(1);
    let server = endpoint(Lane::Raft, &identity(&ca, 1));
    let (certificate, key) = ca.issue_client("ops").unwrap();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let client = Identity::unchecked(
        ClusterId([1; 16]),
        ca.certificate_der(),
        &certificate,
        key.secret_pkcs8_der(),
    );
    let client = endpoint(Lane::Raft, &client);
    match client.connect(NodeId(1), &address(&server)).await {
        Err(NetError::RefusedByPeer(why)) => assert!(why.contains("client ops is no node")),
        other => panic!("{other:?}"),
    }
    // Nor can it pretend to be a node that is dialled.
    let dialler = endpoint(Lane::Raft, &identity(&ca, 2));
    let result = dialler.connect(NodeId(1), &address(&client)).await;
    assert!(matches!(&result, Err(NetError::NotANode(name)) if name == "ops"), "{result:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_both_sides() {
    let ca = authority(1);
    let good = endpoint(Lane::Raft, &identity(&ca, 1));
    let stale = endpoint(Lane::Raft, &expired(&ca, 2));
    let result = good.connect(NodeId(2), &address(&stale)).await;
    assert!(matches!(result, Err(NetError::CertificateExpired { .. })), "{result:?}");
    match stale.connect(NodeId(1), &address(&good)).await {
        Err(NetError::RefusedByPeer(why)) => assert!(why.contains("expired"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_dialler_of_the_other_lane_is_refused() {
    let ca = authority(1);
    let bulk = endpoint(Lane::Bulk, &identity(&ca, 1));
    let raft = endpoint(Lane::Raft, &identity(&ca, 2));
    let result = raft.connect(NodeId(1), &address(&bulk)).await;
    assert!(matches!(result, Err(NetError::RefusedByPeer(_))), "{result:?}");
}

#[tokio::test]
async fn bad_addresses_are_typed_errors_and_silence_is_a_timeout() {
    let dialler = endpoint(Lane::Raft, &identity(&authority(1), 1));
    for bad in ["", "nowhere", "localhost:99999", "127.0.0.1:0"] {
        let result = dialler.connect(NodeId(2), bad).await;
        assert!(matches!(result, Err(NetError::Address { .. })), "{bad}: {result:?}");
    }
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let result = dialler.connect(NodeId(2), &address).await;
    assert!(matches!(result, Err(NetError::TimedOut(_))), "{result:?}");
}

#[tokio::test]
async fn one_identity_holds_a_bounded_number_of_connections() {
    let ca = authority(1);
    let server = endpoint(Lane::Bulk, &identity(&ca, 1));
    let greedy = endpoint(Lane::Bulk, &identity(&ca, 2));
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_IDENTITY_MAX {
        let here = greedy.connect(NodeId(1), &address(&server)).await.unwrap();
        held.push((here, server.accept().await.unwrap()));
    }
    let result = greedy.connect(NodeId(1), &address(&server)).await;
    assert!(matches!(result, Err(NetError::PeerBusy(_))), "{result:?}");
    // Others are not affected, and a place given back can be taken again.
    let other = endpoint(Lane::Bulk, &identity(&ca, 3));
    other.connect(NodeId(1), &address(&server)).await.unwrap();
    let (here, there) = held.pop().unwrap();
    here.close("done");
    there.closed().await;
    drop(there);
    greedy.connect(NodeId(1), &address(&server)).await.unwrap();
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    let ca = authority(1);
    let server = endpoint(Lane::Raft, &identity(&ca, 1));
    let noise = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for round in 0..2000usize {
        let mut datagram: Vec<u8> =
            (0..(round * 7) % 1400).map(|byte| (byte * 31 + round * 17) as u8).collect();
        if let (Some(first), true) = (datagram.first_mut(), round % 2 == 0) {
            // Looks like the first datagram of a QUIC connection.
            *first = 0xc0 | (round as u8 & 0x3f);
        }
        noise.send_to(&datagram, server.local_address()).await.unwrap();
    }
    let dialler = endpoint(Lane::Raft, &identity(&ca, 2));
    let here = dialler.connect(NodeId(1), &address(&server)).await.unwrap();
    assert_eq!(server.accept().await.unwrap().peer(), NodeId(2));
    assert!(!here.is_closed());
}

/// Passes a dialler's datagrams on and drops every answer: its handshake never ends.
async fn one_way(server: SocketAddr) -> String {
    let (inner, outer) = (
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    );
    let address = inner.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((bytes, _)) = inner.recv_from(&mut buffer).await {
            outer.send_to(&buffer[..bytes], server).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn handshakes_that_hang_delay_no_other() {
    let ca = authority(1);
    let server = endpoint(Lane::Raft, &identity(&ca, 1));
    let mut hanging = Vec::new();
    for _ in 0..HANDSHAKES_UNVALIDATED_MAX + 4 {
        let dialler = endpoint(Lane::Raft, &identity(&ca, 2));
        let path = one_way(server.local_address()).await;
        hanging.push(tokio::spawn(async move { dialler.connect(NodeId(1), &path).await }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // By now strangers must prove their address, which this one does.
    let begun = Instant::now();
    let dialler = endpoint(Lane::Raft, &identity(&ca, 3));
    dialler.connect(NodeId(1), &address(&server)).await.unwrap();
    assert_eq!(server.accept().await.unwrap().peer(), NodeId(3));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    for attempt in hanging {
        let result = attempt.await.unwrap();
        assert!(matches!(result, Err(NetError::TimedOut(_))), "{result:?}");
    }
}

#[test]
fn peers_of_a_killed_node_learn_of_its_restart_before_the_idle_timeout() {
    let ca = authority(1);
    let (survivor_identity, victim_identity) = (identity(&ca, 1), identity(&ca, 2));
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let survivor_runtime = runtime();
    let victim_runtime = runtime();

    let (victim, listen) = victim_runtime.block_on(async {
        let victim = endpoint(Lane::Raft, &victim_identity);
        let listen = victim.local_address();
        (victim, listen)
    });
    let survivor = survivor_runtime.block_on(async { endpoint(Lane::Raft, &survivor_identity) });
    let here = survivor_runtime.block_on(survivor.connect(NodeId(2), &listen.to_string())).unwrap();
    // No farewell: what drove the endpoint is gone before it could send one.
    victim_runtime.shutdown_timeout(Duration::from_secs(5));
    drop(victim);

    survivor_runtime.block_on(async {
        let reborn = endpoint_at(Lane::Raft, &victim_identity, listen);
        let begun = Instant::now();
        let why = here.closed().await;
        assert!(
            matches!(&why, NetError::ConnectionLost(why) if why.contains("restarted")),
            "{why}"
        );
        assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
        drop(reborn);
    });
}

// The join probe.

/// A TLS server as the API's: presents `chain`, asks for no certificate.
async fn api(chain: Vec<Vec<u8>>, key_der: &[u8]) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_der.to_vec()));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            drop(acceptor.accept(socket).await);
        }
    });
    address
}

#[tokio::test]
async fn a_joiner_gets_the_ca_certificate_its_token_names_and_no_other() {
    let (ca, other) = (authority(1), authority(1));
    let node = identity(&ca, 1);
    let chain = |leaf: &Identity, ca: &CertificateAuthority| {
        vec![leaf.certificate_der().to_vec(), ca.certificate_der().to_vec()]
    };
    let honest = api(chain(&node, &ca), node.key_der()).await;
    assert_eq!(probe_ca(&honest, ca.fingerprint()).await.unwrap(), ca.certificate_der());
    let port = honest.rsplit_once(':').unwrap().1;
    probe_ca(&format!("localhost:{port}"), ca.fingerprint()).await.unwrap();

    let result = probe_ca(&honest, other.fingerprint()).await;
    assert!(matches!(result, Err(NetError::FingerprintMismatch { .. })), "{result:?}");
    // An impostor shows the right CA certificate, which is public, above a leaf of its own.
    let impostor = identity(&other, 1);
    let forged = api(chain(&impostor, &ca), impostor.key_der()).await;
    let result = probe_ca(&forged, ca.fingerprint()).await;
    assert!(matches!(result, Err(NetError::CertificateUntrusted { .. })), "{result:?}");

    let result = probe_ca("127.0.0.1", ca.fingerprint()).await;
    assert!(matches!(result, Err(NetError::Address { .. })), "{result:?}");
    let result = probe_ca("127.0.0.1:1", ca.fingerprint()).await;
    assert!(matches!(result, Err(NetError::ConnectionLost(_))), "{result:?}");
}
