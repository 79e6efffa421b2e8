//! The proxy between real sockets on loopback.
#![allow(clippy::unwrap_used)]

use super::*;

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
/// Long enough for a datagram on loopback, on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// Long enough to believe that nothing comes.
const SILENCE: Duration = Duration::from_millis(150);

/// A target that answers each datagram with itself.
async fn echo() -> (SocketAddr, AbortOnDropHandle<()>) {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            socket.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    (address, AbortOnDropHandle::new(task))
}

async fn proxy_to(target: SocketAddr) -> Proxy {
    Proxy::start(ProxyOptions { listen: LOOPBACK.into(), target, seed: 11 }).await.unwrap()
}

async fn client_of(proxy: &Proxy) -> UdpSocket {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    socket.connect(proxy.local_address()).await.unwrap();
    socket
}

async fn hears(client: &UdpSocket, within: Duration) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    let length = tokio::time::timeout(within, client.recv(&mut buffer)).await.ok()?.unwrap();
    Some(buffer[..length].to_vec())
}

#[tokio::test]
async fn each_client_gets_its_own_answers_back() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    let (one, two) = (client_of(&proxy).await, client_of(&proxy).await);
    one.send(b"from one").await.unwrap();
    two.send(b"from two").await.unwrap();
    assert_eq!(hears(&one, SOON).await.unwrap(), b"from one");
    assert_eq!(hears(&two, SOON).await.unwrap(), b"from two");
    assert_eq!(proxy.flows(), 2);
    let there = proxy.counters(Direction::ToTarget);
    assert_eq!((there.datagrams, there.bytes), (2, 16));
    assert_eq!(there.payload_bytes, 0, "datagrams this small carry no bulk payload");
    assert_eq!(proxy.counters(Direction::ToClient).datagrams, 2);
}

#[tokio::test]
async fn payload_is_counted_without_the_packets_overhead() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    let client = client_of(&proxy).await;
    client.send(&[7; 1200]).await.unwrap();
    assert_eq!(hears(&client, SOON).await.unwrap().len(), 1200);
    assert_eq!(proxy.counters(Direction::ToClient).payload_bytes, 1200 - QUIC_OVERHEAD_BYTES);
}

#[tokio::test]
async fn a_cut_blackholes_both_ways_until_it_heals() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    let client = client_of(&proxy).await;
    proxy.cut();
    client.send(b"lost").await.unwrap();
    assert_eq!(hears(&client, SILENCE).await, None);
    assert_eq!(proxy.counters(Direction::ToTarget).dropped_by_cut, 1);
    proxy.heal();
    client.send(b"back").await.unwrap();
    assert_eq!(hears(&client, SOON).await.unwrap(), b"back");
}

#[tokio::test]
async fn a_one_way_cut_lets_the_question_through_and_loses_the_answer() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    let client = client_of(&proxy).await;
    proxy.cut_one_way(Direction::ToClient);
    client.send(b"question").await.unwrap();
    assert_eq!(hears(&client, SILENCE).await, None);
    assert_eq!(proxy.counters(Direction::ToTarget).datagrams, 1);
    assert_eq!(proxy.counters(Direction::ToClient).dropped_by_cut, 1);
}

#[tokio::test]
async fn one_client_is_cut_off_and_the_other_is_not() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    let (one, two) = (client_of(&proxy).await, client_of(&proxy).await);
    let cut = Link { cut: true, ..Link::default() };
    let first = one.local_addr().unwrap();
    proxy.set_link_of(first, Direction::ToTarget, cut.clone());
    one.send(b"from one").await.unwrap();
    two.send(b"from two").await.unwrap();
    assert_eq!(hears(&two, SOON).await.unwrap(), b"from two");
    assert_eq!(hears(&one, SILENCE).await, None);
    assert_eq!(proxy.counters(Direction::ToTarget).dropped_by_cut, 1);
    // What holds for all does not touch whom it was said of apart.
    proxy.heal();
    assert_eq!(proxy.link_of(first, Direction::ToTarget), Some(cut));
    proxy.set_link_of(first, Direction::ToTarget, Link::default());
    one.send(b"again").await.unwrap();
    assert_eq!(hears(&one, SOON).await.unwrap(), b"again");
}

#[tokio::test]
async fn what_waits_when_the_link_is_cut_is_lost_too() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    let client = client_of(&proxy).await;
    let slow = Link { delay: Duration::from_millis(100), ..Link::default() };
    proxy.set_link(Direction::ToTarget, slow);
    client.send(b"on the way").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    proxy.cut_one_way(Direction::ToTarget);
    assert_eq!(hears(&client, 2 * SILENCE).await, None);
    assert_eq!(proxy.counters(Direction::ToTarget).datagrams, 0);
}

#[tokio::test]
async fn delay_holds_datagrams_back_and_keeps_their_order() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    let client = client_of(&proxy).await;
    let slow = Link { delay: Duration::from_millis(60), ..Link::default() };
    proxy.set_link(Direction::ToTarget, slow);
    let sent = Instant::now();
    for number in 0..20u8 {
        client.send(&[number]).await.unwrap();
    }
    for number in 0..20u8 {
        assert_eq!(hears(&client, SOON).await.unwrap(), [number]);
    }
    assert!(sent.elapsed() >= Duration::from_millis(60));
}

#[tokio::test]
async fn duplicates_arrive_twice() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    let client = client_of(&proxy).await;
    proxy.set_link(Direction::ToTarget, Link { duplicate: 1.0, ..Link::default() });
    client.send(b"twin").await.unwrap();
    assert_eq!(hears(&client, SOON).await.unwrap(), b"twin");
    assert_eq!(hears(&client, SOON).await.unwrap(), b"twin");
}

#[tokio::test]
async fn a_byte_rate_stretches_a_burst_over_time() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    let client = client_of(&proxy).await;
    proxy.set_link(Direction::ToTarget, Link { bytes_per_second: 50_000, ..Link::default() });
    let sent = Instant::now();
    for _ in 0..11 {
        client.send(&[0; 1000]).await.unwrap();
    }
    for _ in 0..11 {
        hears(&client, SOON).await.unwrap();
    }
    // Ten datagrams of 1000 bytes wait 20 ms each.
    assert!(sent.elapsed() >= Duration::from_millis(200), "{:?}", sent.elapsed());
}

#[tokio::test]
async fn a_target_that_dies_and_returns_on_its_port_is_reached_again() {
    let (target, task) = echo().await;
    let proxy = proxy_to(target).await;
    let client = client_of(&proxy).await;
    client.send(b"first").await.unwrap();
    assert_eq!(hears(&client, SOON).await.unwrap(), b"first");
    drop(task);
    let socket = loop {
        // The dropped task gives its socket up a moment later.
        match UdpSocket::bind(target).await {
            Ok(socket) => break socket,
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
    };
    drop(socket);
    for _ in 0..5 {
        client.send(b"to nobody").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let socket = UdpSocket::bind(target).await.unwrap();
    client.send(b"second").await.unwrap();
    let mut buffer = [0; 2048];
    let (length, from) =
        tokio::time::timeout(SOON, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..length], b"second");
    socket.send_to(b"answer", from).await.unwrap();
    assert_eq!(hears(&client, SOON).await.unwrap(), b"answer");
}

#[tokio::test]
async fn strangers_without_end_do_not_grow_the_table_of_flows() {
    let (target, _echo) = echo().await;
    let proxy = proxy_to(target).await;
    for _ in 0..PROXY_FLOWS_MAX + 10 {
        let client = client_of(&proxy).await;
        client.send(b"hello").await.unwrap();
        assert!(hears(&client, SOON).await.is_some());
    }
    assert_eq!(proxy.flows(), PROXY_FLOWS_MAX);
}
