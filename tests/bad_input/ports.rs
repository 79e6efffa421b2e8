//! Noise at the ports: strangers without any certificate, at all of a node's doors.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use rand::RngExt;
use ratoon::limits::HANDSHAKES_MAX;
use ratoon::net::Lane;
use ratoon::types::NodeId;

use super::callers::{link, runtime};
use super::peers::{enrol, identity, remove};
use super::{assert_unharmed, cluster_with_records, picture};
use crate::cluster::{Addresses, Cluster};

/// Datagrams of noise sent to each UDP port.
const DATAGRAMS: usize = 2_000;
/// Half-open handshakes begun at each UDP port: more than a node takes at once.
const HALF_OPEN: usize = 2 * HANDSHAKES_MAX;

fn socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free")
}

#[test]
fn garbage_and_half_open_handshakes_at_every_port_disturb_nobody() {
    let mut cluster = cluster_with_records();
    let before = picture(&cluster);
    let initials = first_datagrams(&mut cluster);
    let mut held = Vec::new();
    for number in 1..=3 {
        let Addresses { raft, bulk, api, http, .. } = cluster.node(number).addresses;
        for port in [raft, bulk] {
            send_noise(port);
            held.extend(send_handshakes(port, &initials));
        }
        for port in [api, http] {
            held_open(port, &[]);
            for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], TLS_HELLO_CUT_OFF] {
                held_open(port, noise);
            }
        }
    }
    // A node that comes back must find room among all those strangers.
    cluster.node_mut(3).kill();
    cluster.start(3);
    assert_unharmed(&mut cluster, &before);
    drop(held);
}

/// The beginning of a TLS handshake.
const TLS_HELLO_CUT_OFF: &[u8] =
    &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];

/// First datagrams of real handshakes, each with connection ids of its own.
fn first_datagrams(cluster: &mut Cluster) -> Vec<Vec<u8>> {
    let number = enrol(cluster);
    let identity = identity(cluster, number);
    let listen = cluster.node(number).addresses.raft;
    let catcher = socket();
    catcher.set_read_timeout(Some(crate::cluster::DEADLINE)).expect("a timeout can be set");
    let to = catcher.local_addr().expect("the socket is bound").to_string();
    let runtime = runtime();
    let caught = runtime.block_on(async {
        let here = link(Lane::Raft, listen, &identity);
        let mut dialled = Vec::new();
        for _ in 0..HALF_OPEN {
            let (here, to) = (here.clone(), to.clone());
            dialled.push(tokio::spawn(async move { here.connect(NodeId(1), &to).await.is_ok() }));
        }
        let caught = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 2048];
            let mut catch = || {
                let bytes = catcher.recv(&mut buffer).expect("a dialler sends");
                buffer[..bytes].to_vec()
            };
            (0..HALF_OPEN).map(|_| catch()).collect::<Vec<_>>()
        });
        let caught = caught.await.expect("datagrams were caught");
        dialled.iter().for_each(tokio::task::JoinHandle::abort);
        here.close().await;
        caught
    });
    remove(cluster, number);
    caught
}

fn send_noise(port: SocketAddr) {
    let socket = socket();
    let mut random = rand::rng();
    for _ in 0..DATAGRAMS {
        let mut datagram = vec![0; random.random_range(0..1500)];
        random.fill(&mut datagram[..]);
        // The two highest bits tell QUIC what follows: try all.
        socket.send_to(&datagram, port).expect("a datagram leaves");
    }
}

/// Begins handshakes from as many addresses and never goes on.
fn send_handshakes(port: SocketAddr, initials: &[Vec<u8>]) -> Vec<UdpSocket> {
    initials
        .iter()
        .map(|initial| {
            let socket = socket();
            socket.send_to(initial, port).expect("a datagram leaves");
            socket
        })
        .collect()
}

/// Says something that is not understood and waits for whatever comes, but not long.
fn held_open(port: SocketAddr, noise: &[u8]) {
    let mut stream = TcpStream::connect(port).expect("the door is open");
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    // A door that closes at the first bad byte may do so while more are sent.
    let _refused = stream.write_all(noise);
    let _silence = stream.read(&mut [0; 256]);
}
