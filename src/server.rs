//! Builds one node and opens its doors: `init`, `join`, `start`.
//!
//! Joins what config, identity, node, API and HTTP offer, and decides nothing of its own.

mod failure;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use slog::{Discard, Logger, info, o};
use tokio_util::sync::CancellationToken;

use self::failure::{of_api, of_http, of_net, of_node, of_storage};
use crate::client::{Client, Options as ClientOptions, Profile};
use crate::config::{Config, FILE_NAME, SnapshotMode};
use crate::fault::{self, Point};
use crate::net::{CertificateAuthority, Identity, NetError, NodeKey, probe_ca, seal};
use crate::node::{
    Handle, Node, Options, RaftOptions, SnapshotOptions, create_first, create_joiner,
};
use crate::proto::v1;
use crate::state::Genesis;
use crate::storage::{self, DataDir};
use crate::types::{ClusterId, Code, Failure, JoinToken, Node as EnrolledNode, NodeId, Retry};
use crate::{api, http};

/// How long a client's request may take before its outcome is given up.
const REQUEST_TIMEOUT_MS: u64 = 10_000;
/// How long a receiver of a snapshot may be silent before another offer is made.
const LEASE_MS: u64 = 30_000;
/// How long one endpoint of a token may take to admit a node before the next one is asked.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A log over this many times its soft budget is compacted past live followers.
const LOG_HARD_FACTOR: u64 = 4;

/// Where `init` writes the client's profile.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The profile's name.
    pub profile: String,
    /// The directory that holds `profiles/`.
    pub config_directory: PathBuf,
}

/// What `init` made.
#[derive(Clone, Debug)]
pub struct Initialized {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Its first node.
    pub node: NodeId,
    /// The profile with the admin's certificate.
    pub profile_path: PathBuf,
}

/// Makes a cluster of one node in `config.data`. Refused if a node lives there already, or if the
/// profile's name is taken. One that was cut off when all but the profile was made is finished.
pub async fn init(config: &Config, options: &InitOptions) -> Result<Initialized, Failure> {
    if config.data.join("identity").exists() {
        return finish_init(config, options);
    }
    // Before anything is created: what cannot be handed over must not be made.
    Profile::refuse_existing(&options.config_directory, &options.profile)?;
    let data = open_data(config)?;
    let shown = config.data.display();
    if data.raft().exists() || data.current_generation().map_err(of_storage)?.is_some() {
        let message = format!("{shown} holds what an `init` that was cut off left behind");
        return Err(Failure::new(Code::AlreadyExists, message).hint("empty it and try again"));
    }
    let cluster = ClusterId(rand::random());
    let node = NodeId(1);
    let authority = CertificateAuthority::generate(cluster).map_err(of_net)?;
    let key = NodeKey::generate().map_err(of_net)?;
    let hosts = config.advertise.hosts();
    let certificate = authority.issue_node(node, &hosts, key.request_der()).map_err(of_net)?;
    let secret: [u8; 32] = rand::random();
    let identity =
        Identity::new(authority.certificate_der(), &certificate, &key, secret).map_err(of_net)?;
    let genesis = Genesis {
        cluster,
        node: EnrolledNode { id: node, addresses: config.advertise.clone(), learner: false },
        sealed_ca_key: seal(cluster, &secret, authority.key_der()).map_err(of_net)?,
        ca_certificate: authority.certificate_der().to_vec(),
        created_unix_ms: unix_ms(),
    };
    let (certificate_pem, key_pem) = authority.issue_client("admin").map_err(of_net)?;
    let profile = Profile {
        endpoints: vec![config.advertise.api.clone()],
        ca_pem: identity.ca_pem(),
        certificate_pem,
        key_pem,
    };
    // First, so that there is no cluster to which nobody has the key.
    profile.stage_in(&options.config_directory, cluster)?;
    save_settings(&data, config)?;
    let logger = Logger::root(Discard, o!());
    create_first(&data, &storage_options(config), &genesis, &logger).map_err(of_node)?;
    // Last of what is in the directory: with the identity it is a node's.
    identity.create(&data.identity()).map_err(of_net)?;
    publish_profile(&identity, options)
}

/// The end of an `init` that was cut off after the node was made; refuses any other node.
fn finish_init(config: &Config, options: &InitOptions) -> Result<Initialized, Failure> {
    let data = open_data(config)?;
    let identity = Identity::load(&data.identity()).map_err(of_net)?;
    if Profile::is_staged_in(&options.config_directory, identity.cluster()) {
        return publish_profile(&identity, options);
    }
    let message = format!("{} holds a node already", config.data.display());
    Err(Failure::new(Code::AlreadyExists, message)
        .hint("start it with `ratoon start`, or name another directory"))
}

/// After everything else, so that no command finds a profile of a cluster that was never made.
fn publish_profile(identity: &Identity, options: &InitOptions) -> Result<Initialized, Failure> {
    let (cluster, node) = (identity.cluster(), identity.node());
    let profile_path = Profile::publish_in(&options.config_directory, &options.profile, cluster)?;
    Ok(Initialized { cluster, node, profile_path })
}

/// Enrols this machine with a token, unless that is done; answers with the node's id.
pub async fn join(config: &Config, token: &JoinToken) -> Result<NodeId, Failure> {
    let data = open_data(config)?;
    if data.identity().exists() {
        let identity = Identity::load(&data.identity()).map_err(of_net)?;
        if identity.cluster() != token.cluster {
            let message = format!(
                "{} holds a node of cluster {}, the token is of cluster {}",
                config.data.display(),
                identity.cluster(),
                token.cluster
            );
            return Err(Failure::new(Code::WrongCluster, message)
                .hint("name another data directory, or use a token of that cluster"));
        }
        return Ok(identity.node());
    }
    // Before the token is used up: a directory that cannot hold the node must not cost it.
    create_joiner(&data, &storage_options(config), &Logger::root(Discard, o!()))
        .map_err(of_node)?;
    save_settings(&data, config)?;
    let key = NodeKey::generate().map_err(of_net)?;
    let answer = ask_to_join(config, token, &key).await?;
    fault::point(Point::JoinAdmitted);
    let secret = <[u8; 32]>::try_from(&answer.cluster_secret[..])
        .map_err(|_| Failure::new(Code::Internal, "the cluster answered with a cut off secret"))?;
    let identity = Identity::new(&answer.ca_certificate_der, &answer.certificate_der, &key, secret)
        .map_err(of_net)?;
    if identity.cluster() != token.cluster || identity.node() != NodeId(answer.node_id) {
        return Err(Failure::new(Code::WrongCluster, "the cluster answered as another one"));
    }
    let seeds: Vec<(u64, String)> = answer
        .nodes
        .into_iter()
        .filter(|node| node.id != answer.node_id)
        .filter_map(|node| node.addresses.map(|addresses| (node.id, addresses.raft)))
        .collect();
    data.save_seeds(&seeds).map_err(of_storage)?;
    // Last: with it the directory is a node's.
    identity.create(&data.identity()).map_err(of_net)?;
    Ok(identity.node())
}

/// Tries the token's endpoints until one admits the node. One that can do nothing now (it has no
/// leader, no state, or is shutting down) has not used the token, so the next one is asked; after a
/// refusal or an unknown outcome none is.
async fn ask_to_join(
    config: &Config,
    token: &JoinToken,
    key: &NodeKey,
) -> Result<v1::JoinResponse, Failure> {
    let mut last = Failure::new(Code::Unavailable, "the token names no endpoint");
    for endpoint in &token.endpoints {
        let ca = match probe_ca(endpoint, token.ca_fingerprint).await {
            Ok(ca) => ca,
            Err(error) => {
                let hint = match &error {
                    NetError::FingerprintMismatch { .. } => {
                        "the token is of another cluster, or somebody else answers at that address"
                    }
                    _ => "is that node running, and reachable from here?",
                };
                last = of_net(error).hint(hint);
                continue;
            }
        };
        let profile = Profile {
            endpoints: vec![endpoint.clone()],
            ca_pem: crate::net::certificate_pem(&ca),
            certificate_pem: String::new(),
            key_pem: String::new(),
        };
        let request = v1::JoinRequest {
            secret: Bytes::copy_from_slice(&token.secret),
            cluster_id: token.cluster.to_string(),
            addresses: Some(v1::Addresses {
                raft: config.advertise.raft.clone(),
                bulk: config.advertise.bulk.clone(),
                api: config.advertise.api.clone(),
            }),
            certificate_request: Bytes::copy_from_slice(key.request_der()),
        };
        let options = ClientOptions {
            timeout: JOIN_TIMEOUT,
            attempt_timeout: JOIN_TIMEOUT,
            ..ClientOptions::default()
        };
        match Client::connect_with(&profile, options)?.join(request).await {
            Ok(answer) => return Ok(answer),
            Err(failure) if failure.retry == Retry::Later => last = failure,
            Err(failure) => return Err(failure),
        }
    }
    Err(last)
}

/// Runs the node in `config.data` until `shutdown`, or until it cannot go on.
pub async fn start(
    config: Config,
    logger: Logger,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let data = open_data(&config)?;
    if !data.identity().exists() {
        let message = format!("{} holds no node", config.data.display());
        return Err(Failure::new(Code::InvalidArgument, message).hint(
            "make a cluster with `ratoon init`, or join one with `ratoon start --join TOKEN`",
        ));
    }
    let identity = Identity::load(&data.identity()).map_err(of_net)?;
    let logger = logger.new(o!("node" => identity.node().0));
    info!(logger, "starting"; "version" => env!("CARGO_PKG_VERSION"),
        "cluster" => %identity.cluster(), "data" => %config.data.display());
    let bulk_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("bulk")
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Internal, format!("the bulk runtime: {e}")))?;
    let options = node_options(&config, &data)?;
    let node =
        Node::start(options, data, identity.clone(), bulk_runtime.handle(), logger.clone()).await;
    let result = match node {
        Ok(node) => serve(node, &config, identity, &logger, shutdown).await,
        Err(error) => Err(of_node(error)),
    };
    // Its tasks have ended with the node; a chunk still being read or written needs no waiting for.
    bulk_runtime.shutdown_background();
    result
}

async fn serve(
    mut node: Node,
    config: &Config,
    identity: Identity,
    logger: &Logger,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let doors = CancellationToken::new();
    let identity = certified(&node.handle(), config, identity, logger)?;
    let api_options = api::Options {
        listen: config.listen.api,
        certificate_chain_pem: identity.certificate_chain_pem(),
        key_pem: identity.key_pem(),
        ca_pem: identity.ca_pem(),
    };
    let api = api::serve(api_options, node.handle(), logger.clone(), doors.clone())
        .await
        .map_err(of_api)?;
    let http_options = http::Options { listen: config.listen.http };
    let http = http::serve(http_options, node.handle(), logger.clone(), doors.clone())
        .await
        .map_err(of_http)?;
    info!(logger, "serving"; "api" => %api.address, "http" => %http.address);
    let (mut api_task, mut http_task) = (api.task, http.task);
    let ended = |door: &str, result: String| {
        Failure::new(Code::Internal, format!("the {door} door closed: {result}"))
    };
    let failure = tokio::select! {
        () = shutdown.cancelled() => None,
        error = node.failed() => Some(of_node(error)),
        result = &mut api_task => Some(ended("API", format!("{result:?}"))),
        result = &mut http_task => Some(ended("HTTP", format!("{result:?}"))),
    };
    doors.cancel();
    match failure {
        Some(failure) => {
            node.abandon().await;
            Err(failure)
        }
        None => {
            if let Err(error) = api_task.await {
                info!(logger, "the API did not close in order"; "error" => %error);
            }
            node.stop().await.map_err(of_node)
        }
    }
}

/// Clients trust a node only under a host that its certificate names. Where the node advertises
/// another one than it was enrolled with, it certifies itself anew: the authority's key is in the
/// state, and the secret that opens it in the identity.
fn certified(
    handle: &Handle,
    config: &Config,
    identity: Identity,
    logger: &Logger,
) -> Result<Identity, Failure> {
    let hosts = config.advertise.hosts();
    let missing = identity.hosts_missing(&hosts).map_err(of_net)?;
    if missing.is_empty() {
        return Ok(identity);
    }
    let certificate = handle.certify(&hosts).map_err(|failure| match failure.code {
        Code::NotReady => Failure::new(
            Code::InvalidArgument,
            format!("this node's certificate does not name {}", missing.join(", ")),
        )
        .hint(
            "start it with the addresses it was enrolled with until `ratoon status` shows its \
             state; from then on it certifies itself for new ones",
        ),
        _ => failure,
    })?;
    let identity = identity.with_certificate(&certificate).map_err(of_net)?;
    identity.store_certificate(&config.data.join("identity")).map_err(of_net)?;
    info!(logger, "certified anew, for other hosts"; "hosts" => ?hosts);
    Ok(identity)
}

fn node_options(config: &Config, data: &DataDir) -> Result<Options, Failure> {
    let seeds = data.load_seeds().map_err(of_storage)?;
    let raft = &config.raft;
    Ok(Options {
        data: config.data.clone(),
        listen_raft: config.listen.raft,
        listen_bulk: config.listen.bulk,
        addresses: config.advertise.clone(),
        seeds: seeds.into_iter().map(|(node, address)| (NodeId(node), address)).collect(),
        raft: RaftOptions {
            tick_ms: raft.tick_ms,
            election_ticks: raft.election_ticks as usize,
            heartbeat_ticks: raft.heartbeat_ticks as usize,
            request_timeout_ms: REQUEST_TIMEOUT_MS,
            lease_ms: LEASE_MS,
            pin_age_ms_max: raft.pin_ms_max,
            pin_bytes_max: raft.pinned_log_bytes_max,
            log_bytes_soft: raft.log_bytes_kept,
            log_bytes_hard: raft.log_bytes_kept.saturating_mul(LOG_HARD_FACTOR),
            flush_bytes: config.storage.flush_log_bytes,
            promote: config.membership.promote,
        },
        storage: storage_options(config),
        snapshots: SnapshotOptions {
            embedded: config.snapshot.mode == SnapshotMode::Embedded,
            chunk_bytes: config.snapshot.chunk_bytes,
            keep: config.snapshot.keep,
            streams: config.snapshot.streams,
            bytes_per_second: config.bulk.bytes_per_second_max,
            pin_age_ms_max: raft.pin_ms_max,
            disk_reserve_bytes: config.storage.disk_reserve_bytes,
        },
    })
}

fn storage_options(config: &Config) -> storage::Options {
    storage::Options {
        memtable_bytes: config.storage.memtable_bytes,
        block_cache_bytes: config.storage.block_cache_bytes,
        raft_memtable_bytes: (config.storage.memtable_bytes / 2).max(crate::limits::MIB),
        ..storage::Options::default()
    }
}

fn open_data(config: &Config) -> Result<Arc<DataDir>, Failure> {
    DataDir::open(&config.data).map(Arc::new).map_err(of_storage)
}

/// The settings as they are now become the file's, so that the next start needs no flags.
fn save_settings(data: &DataDir, config: &Config) -> Result<(), Failure> {
    data.save_settings(FILE_NAME, &config.render_toml()).map_err(of_storage)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
