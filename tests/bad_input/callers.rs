//! Callers of a node's API and lanes who send whatever a test wants sent.

use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;

use bytes::{Buf, BufMut};
use ratoon::client::Profile;
use ratoon::net::{Endpoint as Link, Identity, Lane, Options};
use ratoon::proto::status::failure_in_status;
use ratoon::proto::v1::CollectionName;
use ratoon::proto::v1::cluster_client::ClusterClient;
use ratoon::proto::v1::collections_client::CollectionsClient;
use ratoon::proto::v1::enrollment_client::EnrollmentClient;
use ratoon::proto::v1::records_client::RecordsClient;
use ratoon::proto::v1::snapshots_client::SnapshotsClient;
use ratoon::types::{Code, Failure};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};

use crate::cluster::{Cluster, PROFILE};

/// A certificate and its key, PEM.
pub type Pair = (String, String);

/// The profile that `init` wrote.
pub fn profile(cluster: &Cluster) -> Profile {
    Profile::load_from(&cluster.directory().join("profiles"), PROFILE).expect("init wrote it")
}

/// The admin's certificate.
pub fn admin(cluster: &Cluster) -> Pair {
    let profile = profile(cluster);
    (profile.certificate_pem, profile.key_pem)
}

/// A runtime for the calls of one test.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts")
}

/// One node's API. Must be made inside a runtime.
#[derive(Clone)]
pub struct Api {
    channel: Channel,
}

impl Api {
    /// With the admin's certificate.
    pub fn of(cluster: &Cluster, number: usize) -> Api {
        Api::with(cluster, number, Some(admin(cluster)))
    }

    /// With any certificate, or none.
    pub fn with(cluster: &Cluster, number: usize, pair: Option<Pair>) -> Api {
        let address = cluster.node(number).addresses.api;
        let ca = Certificate::from_pem(profile(cluster).ca_pem);
        let mut tls = ClientTlsConfig::new().ca_certificate(ca);
        if let Some((certificate, key)) = pair {
            tls = tls.identity(tonic::transport::Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .expect("an address is a URI")
            .tls_config(tls)
            .expect("the certificates can be read");
        Api { channel: endpoint.connect_lazy() }
    }

    pub fn records(&self) -> RecordsClient<Channel> {
        RecordsClient::new(self.channel.clone())
    }

    pub fn collections(&self) -> CollectionsClient<Channel> {
        CollectionsClient::new(self.channel.clone())
    }

    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    pub fn enrollment(&self) -> EnrollmentClient<Channel> {
        EnrollmentClient::new(self.channel.clone())
    }

    /// Sends bytes that need not be a message.
    pub async fn raw(
        &self,
        path: &'static str,
        bytes: Vec<u8>,
    ) -> Result<Response<Vec<u8>>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.expect("the node is there");
        grpc.unary(Request::new(bytes), PathAndQuery::from_static(path), Bytes).await
    }
}

/// Messages as bytes.
#[derive(Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// The failure of a call that must fail; with a message, a hint, and the code's own retry.
pub fn failure_of<T: Debug>(what: &str, result: Result<Response<T>, Status>) -> Failure {
    let status = match result {
        Ok(answer) => panic!("{what} was accepted: {answer:?}"),
        Err(status) => status,
    };
    let failure =
        failure_in_status(&status).unwrap_or_else(|| panic!("{what}: no failure in {status:?}"));
    assert!(!failure.message.is_empty() && !failure.hint.is_empty(), "{what}: {failure:?}");
    assert_eq!(failure.retry, failure.code.retry(), "{what}: {failure:?}");
    failure
}

/// A call that must be refused with this code.
pub fn refused<T: Debug>(what: &str, code: Code, result: Result<Response<T>, Status>) {
    let failure = failure_of(what, result);
    assert_eq!(failure.code, code, "{what}: {failure:?}");
}

/// A collection's name, valid or not.
pub fn name(namespace: &str, name: &str) -> Option<CollectionName> {
    Some(CollectionName { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// A length-delimited field of a hand-made message.
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

/// An endpoint of one lane with a node's identity. Must be made inside a runtime.
pub fn link(lane: Lane, listen: SocketAddr, identity: &Identity) -> Link {
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let given_up = std::time::Instant::now() + crate::cluster::DEADLINE;
    loop {
        // The port of an endpoint just closed is free only a moment later.
        match Link::bind(lane, listen, identity, Options { logger: logger.clone() }) {
            Ok(link) => return link,
            Err(error) if std::time::Instant::now() >= given_up => panic!("no endpoint: {error}"),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    }
}

/// Waits for what must come, under the usual deadline.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(crate::cluster::DEADLINE, future).await;
    waited.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
