//! etcd as a peer: three nodes of its own program with its defaults, mutual TLS everywhere like
//! ratoon's, and a client that speaks the few messages of its API that are needed here.
//!
//! The messages are written out because a client crate would bring a compiler of protocol buffers
//! into the build; etcd's JSON gateway would cost its servers time that gRPC does not.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ratoon::demo::ports::Ports;
use ratoon::demo::processes::{LOOK_EVERY, watch};
use ratoon::net::{CertificateAuthority, Identity, NodeKey};
use ratoon::types::{ClusterId, NodeId};
use tokio::process::{Child, Command};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::support::Failed;

/// How long the cluster may take until it has a leader.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// How long a metric may take.
const METRIC_WITHIN: Duration = Duration::from_secs(5);
/// Largest page of metrics, bytes.
const METRICS_BYTES_MAX: u64 = 4 << 20;
/// The only host there is.
const HOST: &str = "127.0.0.1";

/// Three nodes under way, killed when it is dropped and when this process dies.
pub struct Etcd {
    version: String,
    nodes: Vec<Node>,
    authority: CertificateAuthority,
}

/// The fields drop in order: the watchdog must end before it may see its pipe closed.
struct Node {
    pid: u32,
    client: SocketAddr,
    metrics: SocketAddr,
    _watchdog: Child,
    _process: Child,
}

/// Where a node listens and what proves who it is.
struct Plan {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
}

impl Etcd {
    /// Starts `nodes` nodes with their files below `directory`. None: there is no such program.
    pub async fn start(
        program: &str,
        directory: &Path,
        nodes: usize,
    ) -> Result<Option<Etcd>, Failed> {
        let said = match Command::new(program).arg("--version").output().await {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{program} --version: {error}").into()),
        };
        let version = said.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        let version = format!("etcd {}", version.unwrap_or("of unknown version"));

        let directory = directory.join("etcd");
        fs::create_dir(&directory)?;
        let authority = CertificateAuthority::generate(ClusterId(rand::random()))?;
        let mut ports = Ports::default();
        let plans = (1..=nodes as u64)
            .map(|number| Plan::draw(&directory, number, &authority, &mut ports))
            .collect::<Result<Vec<_>, _>>()?;
        let members: Vec<String> =
            plans.iter().map(|plan| format!("{}=https://{}", plan.name, plan.peer)).collect();
        let started = plans.iter().map(|plan| plan.start(program, &directory, &members.join(",")));
        let nodes = started.collect::<Result<Vec<_>, _>>()?;
        let etcd = Etcd { version, nodes, authority };
        let until = Instant::now() + STARTS_WITHIN;
        loop {
            match etcd.leader().await {
                Ok(_) => return Ok(Some(etcd)),
                Err(error) if Instant::now() > until => {
                    return Err(format!("{} has no leader: {error}", etcd.version).into());
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Name and version of the program.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Process ids of the nodes.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.pid).collect()
    }

    /// Which of the nodes leads.
    pub async fn leader(&self) -> Result<usize, Failed> {
        for place in 0..self.nodes.len() {
            let status = self.connect(place)?.status().await?;
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(place);
            }
        }
        Err("no node says that it leads".into())
    }

    /// Syncs of the write-ahead log of a node since it was started.
    pub async fn syncs(&self, place: usize) -> Result<f64, Failed> {
        metric(self.nodes[place].metrics, "etcd_disk_wal_fsync_duration_seconds_count").await
    }

    /// A connection to one node.
    pub fn connect(&self, place: usize) -> Result<Client, Failed> {
        let ca = ratoon::net::certificate_pem(self.authority.certificate_der());
        let (certificate, key) = self.authority.issue_client("bench")?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .identity(tonic::transport::Identity::from_pem(certificate, key));
        let endpoint = Endpoint::from_shared(format!("https://{}", self.nodes[place].client))?;
        Ok(Client { grpc: Grpc::new(endpoint.tls_config(tls)?.connect_lazy()) })
    }
}

impl Plan {
    fn draw(
        directory: &Path,
        number: u64,
        authority: &CertificateAuthority,
        ports: &mut Ports,
    ) -> Result<Self, Failed> {
        let name = format!("etcd-{number}");
        let key = NodeKey::generate()?;
        let certificate =
            authority.issue_node(NodeId(number), &[HOST.into()], key.request_der())?;
        let identity = Identity::new(authority.certificate_der(), &certificate, &key, [0; 32])?;
        let plan = Plan {
            client: ports.draw()?,
            peer: ports.draw()?,
            metrics: ports.draw()?,
            certificate: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key.pem")),
            name,
        };
        fs::write(&plan.certificate, identity.certificate_chain_pem())?;
        fs::write(&plan.key, identity.key_pem())?;
        fs::write(directory.join("ca.pem"), identity.ca_pem())?;
        Ok(plan)
    }

    fn start(&self, program: &str, directory: &Path, members: &str) -> Result<Node, Failed> {
        let Plan { name, client, peer, metrics, certificate, key } = self;
        let ca = directory.join("ca.pem");
        let log = File::create(directory.join(format!("{name}.log")))?;
        let mut command = Command::new(program);
        let mut flag = |name: &str, value: &str| {
            command.arg(format!("--{name}={value}"));
        };
        flag("name", name);
        flag("data-dir", &directory.join(name).display().to_string());
        flag("listen-client-urls", &format!("https://{client}"));
        flag("advertise-client-urls", &format!("https://{client}"));
        flag("listen-peer-urls", &format!("https://{peer}"));
        flag("initial-advertise-peer-urls", &format!("https://{peer}"));
        flag("initial-cluster", members);
        flag("listen-metrics-urls", &format!("http://{metrics}"));
        for prefix in ["", "peer-"] {
            flag(&format!("{prefix}cert-file"), &certificate.display().to_string());
            flag(&format!("{prefix}key-file"), &key.display().to_string());
            flag(&format!("{prefix}trusted-ca-file"), &ca.display().to_string());
            flag(&format!("{prefix}client-cert-auth"), "true");
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().expect("a child that nobody waited for has its id");
        let watchdog = watch(pid)?;
        let (client, metrics) = (*client, *metrics);
        Ok(Node { pid, client, metrics, _watchdog: watchdog, _process: process })
    }
}

/// One figure of a page of metrics that is served without encryption.
pub async fn metric(http: SocketAddr, name: &str) -> Result<f64, Failed> {
    let page = tokio::task::spawn_blocking(move || fetch_metrics(http)).await??;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Ok(value.ok_or_else(|| format!("http://{http}/metrics does not tell {name}"))?)
}

fn fetch_metrics(http: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&http, METRIC_WITHIN)?;
    stream.set_read_timeout(Some(METRIC_WITHIN))?;
    std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut page = String::new();
    stream.take(METRICS_BYTES_MAX).read_to_string(&mut page)?;
    Ok(page)
}

/// A connection; clones share it.
#[derive(Clone)]
pub struct Client {
    grpc: Grpc<Channel>,
}

impl Client {
    /// Stores a value.
    pub async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Status> {
        let _: PutResponse = self.call("/etcdserverpb.KV/Put", PutRequest { key, value }).await?;
        Ok(())
    }

    /// Reads linearizably, which is etcd's default; the length of the value, if there is one.
    pub async fn get(&self, key: Bytes) -> Result<Option<usize>, Status> {
        let answer: RangeResponse =
            self.call("/etcdserverpb.KV/Range", RangeRequest { key }).await?;
        Ok(answer.records.first().map(|record| record.value.len()))
    }

    async fn status(&self) -> Result<StatusResponse, Status> {
        self.call("/etcdserverpb.Maintenance/Status", StatusRequest {}).await
    }

    async fn call<Message, Answer>(
        &self,
        method: &'static str,
        message: Message,
    ) -> Result<Answer, Status>
    where
        Message: prost::Message + 'static,
        Answer: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(method);
        let answer = grpc.unary(Request::new(message), path, ProstCodec::default()).await?;
        Ok(answer.into_inner())
    }
}

// The fields that are used, by the numbers they have in etcd's rpc.proto; others are passed over.

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    records: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}
