//! Nodes made and started in this process, where what matters is what the machine allows.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use slog::{Discard, Logger, o};

use super::*;

/// A configuration on ports that were free a moment ago.
fn config(data: &Path, more: &[(&str, String)]) -> Config {
    let udp = || UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let listen = [
        ("listen.raft", udp()),
        ("listen.bulk", udp()),
        ("listen.api", tcp()),
        ("listen.http", tcp()),
    ];
    let flags = listen.into_iter().chain(more.iter().cloned());
    let flags: Vec<_> = flags.map(|(name, value)| (name.to_owned(), value)).collect();
    Config::load(data, [], &flags).unwrap()
}

fn options(config_directory: &Path) -> InitOptions {
    InitOptions { profile: "default".into(), config_directory: config_directory.to_owned() }
}

fn silent() -> Logger {
    Logger::root(Discard, o!())
}

#[tokio::test]
async fn a_second_cluster_does_not_take_the_first_ones_profile() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory.path().join("config"));
    let made = init(&config(&directory.path().join("a"), &[]), &options).await.unwrap();
    let before = std::fs::read(&made.profile_path).unwrap();
    let other = directory.path().join("b");
    let failure = init(&config(&other, &[]), &options).await.unwrap_err();
    assert_eq!(failure.code, Code::AlreadyExists);
    assert!(failure.hint.contains("--profile NAME"), "{}", failure.hint);
    assert!(!other.exists(), "nothing is created for a cluster nobody would have the key to");
    assert_eq!(std::fs::read(&made.profile_path).unwrap(), before);
}

#[tokio::test]
async fn an_init_that_was_cut_off_before_its_profile_was_named_ends_when_it_is_run_again() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory.path().join("config"));
    let config = config(&directory.path().join("a"), &[]);
    let made = init(&config, &options).await.unwrap();
    // What a crash between the node's identity and the profile's name leaves behind.
    let profile = Profile::load_from(&options.config_directory, "default").unwrap();
    std::fs::remove_file(&made.profile_path).unwrap();
    profile.stage_in(&options.config_directory, made.cluster).unwrap();
    let again = init(&config, &options).await.unwrap();
    assert_eq!((again.cluster, again.node), (made.cluster, made.node));
    assert_eq!(Profile::load_from(&options.config_directory, "default").unwrap(), profile);
    // Whole, it is refused.
    let failure = init(&config, &options).await.unwrap_err();
    assert_eq!(failure.code, Code::AlreadyExists);
    assert!(failure.hint.contains("ratoon start"), "{}", failure.hint);
}

#[tokio::test]
async fn a_directory_that_is_none_and_a_taken_port_are_told_as_what_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory.path().join("config"));
    let odd = directory.path().join("odd");
    std::fs::create_dir_all(odd.join("LOCK")).unwrap();
    let failure = init(&config(&odd, &[]), &options).await.unwrap_err();
    assert_eq!(failure.code, Code::LocalFault, "{failure}");
    assert!(failure.hint.contains("check the path"), "{}", failure.hint);

    let data = directory.path().join("a");
    let free = config(&data, &[]);
    init(&free, &options).await.unwrap();
    let taken = UdpSocket::bind(free.listen.raft).unwrap();
    let failure = start(free.clone(), silent(), CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.code, Code::LocalFault, "{failure}");
    assert!(failure.hint.contains("--listen-raft"), "{}", failure.hint);
    drop(taken);
    let _taken = TcpListener::bind(free.listen.api).unwrap();
    let failure = start(free, silent(), CancellationToken::new()).await.unwrap_err();
    assert_eq!(failure.code, Code::LocalFault, "{failure}");
    assert!(failure.hint.contains("--listen-api"), "{}", failure.hint);
}

#[tokio::test]
async fn a_node_that_advertises_another_host_is_trusted_there_after_its_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory.path().join("config"));
    let data = directory.path().join("a");
    let first = config(&data, &[]);
    init(&first, &options).await.unwrap();
    let moved = format!("localhost:{}", first.listen.api.port());
    let second = [("advertise.api".to_owned(), moved.clone())];
    let second = Config::load(&data, [], &second).unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(start(second, silent(), shutdown.clone()));
    let mut profile = Profile::load_from(&options.config_directory, "default").unwrap();
    profile.endpoints = vec![moved];
    let client = Client::connect(&profile).unwrap();
    let status = client.status(true).await.unwrap();
    assert_eq!(status.nodes.len(), 1);
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let identity = Identity::load(&data.join("identity")).unwrap();
    assert!(identity.hosts_missing(&["localhost".to_owned()]).unwrap().is_empty());
}
