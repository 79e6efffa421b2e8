//! The server around the services: who may call, what bad input gets, how it starts and stops.
//!
//! The services behind it are small ones in memory, so that nothing here needs a node.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tonic::service::Routes;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;

use super::budget::Budget;
use super::*;
use crate::limits;
use crate::net::{CertificateAuthority, Identity, NodeKey};
use crate::node::Health;
use crate::proto::public::{collection_from, key_from, put_from, scan_from};
use crate::proto::status::{failure_in_status, failure_to_status};
use crate::proto::v1;
use crate::proto::v1::enrollment_client::EnrollmentClient;
use crate::proto::v1::enrollment_server::{Enrollment, EnrollmentServer};
use crate::proto::v1::records_client::RecordsClient;
use crate::proto::v1::records_server::{Records, RecordsServer};
use crate::types::{Action, ClusterId, Code, Failure, NodeId};

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// The API's options for node 1 of the authority's cluster, on a free port of loopback.
fn options(authority: &CertificateAuthority) -> Options {
    let key = NodeKey::generate().unwrap();
    let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = authority.issue_node(NodeId(1), &hosts, key.request_der()).unwrap();
    let root = authority.certificate_der();
    let identity = Identity::new(root, &certificate, &key, [0; 32]).unwrap();
    Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        certificate_chain_pem: identity.certificate_chain_pem(),
        key_pem: identity.key_pem(),
        ca_pem: identity.ca_pem(),
    }
}

/// Records in memory, all of one collection.
#[derive(Default)]
struct MemoryRecords {
    records: Mutex<BTreeMap<Bytes, v1::Record>>,
}

fn refuse(failure: Failure) -> Status {
    failure_to_status(&failure)
}

#[tonic::async_trait]
impl Records for MemoryRecords {
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        Ok(Response::new(v1::OpenSessionResponse { session: 1 }))
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let asked = request.into_inner();
        collection_from(asked.collection).map_err(refuse)?;
        let key = key_from(asked.key).map_err(refuse)?;
        let Action::Put { value, content_type } =
            put_from(asked.value, asked.content_type).map_err(refuse)?
        else {
            return Err(Status::internal("no put"));
        };
        let mut records = self.records.lock().unwrap();
        let version = records.len() as u64 + 1;
        records.insert(key.clone(), v1::Record { key, value, version, content_type });
        Ok(Response::new(v1::PutResponse { version }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let budget = request.extensions().get::<Budget>().cloned().expect("the gate's budget");
        let record = self.records.lock().unwrap().get(&request.get_ref().key).cloned();
        let record = record
            .ok_or_else(|| Failure::new(Code::RecordNotFound, "no such key").hint("look elsewhere"))
            .map_err(refuse)?;
        let reserved = budget.reserve(record.value.len()).map_err(refuse)?;
        let mut response = Response::new(v1::GetResponse { record: Some(record), index: 9 });
        response.extensions_mut().insert(reserved);
        Ok(response)
    }

    async fn delete(
        &self,
        _: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        // Stands for a command that never ends.
        std::future::pending().await
    }

    async fn batch(
        &self,
        _: Request<v1::BatchRequest>,
    ) -> Result<Response<v1::BatchResponse>, Status> {
        panic!("a defect in a service")
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<v1::ScanResponse>, Status> {
        scan_from(request.into_inner()).map_err(refuse)?;
        let records = self.records.lock().unwrap().values().cloned().collect();
        Ok(Response::new(v1::ScanResponse { records, cursor: Bytes::new(), index: 9 }))
    }
}

struct OpenEnrollment;

#[tonic::async_trait]
impl Enrollment for OpenEnrollment {
    async fn join(
        &self,
        _: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        Ok(Response::new(v1::JoinResponse { node_id: 4, ..Default::default() }))
    }
}

/// A served API, its authority, and the switch of its health.
struct Bench {
    authority: CertificateAuthority,
    ca_pem: String,
    server: Server,
    ready: Arc<AtomicBool>,
    shutdown: CancellationToken,
}

impl Bench {
    async fn start() -> Bench {
        let authority = CertificateAuthority::generate(CLUSTER).unwrap();
        let options = options(&authority);
        let ca_pem = options.ca_pem.clone();
        let routes = Routes::new(
            RecordsServer::new(MemoryRecords::default())
                .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX),
        )
        .add_service(
            EnrollmentServer::new(OpenEnrollment)
                .max_decoding_message_size(limits::ENROLLMENT_MESSAGE_BYTES_MAX),
        );
        let ready = Arc::new(AtomicBool::new(true));
        let probe = {
            let ready = Arc::clone(&ready);
            move || Health {
                not_ready: (!ready.load(Ordering::Relaxed)).then(|| "not yet".to_owned()),
            }
        };
        let logger = Logger::root(slog::Discard, slog::o!());
        let shutdown = CancellationToken::new();
        let server =
            server::serve_routes(options, routes, CLUSTER, probe, logger, shutdown.clone())
                .await
                .unwrap();
        Bench { authority, ca_pem, server, ready, shutdown }
    }

    fn channel(&self, identity: Option<(String, String)>) -> Channel {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca_pem));
        if let Some((certificate, key)) = identity {
            tls = tls.identity(tonic::transport::Identity::from_pem(certificate, key));
        }
        Endpoint::from_shared(format!("https://{}", self.server.address))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect_lazy()
    }

    fn records(&self) -> RecordsClient<Channel> {
        RecordsClient::new(self.channel(Some(self.authority.issue_client("admin").unwrap())))
            .max_encoding_message_size(usize::MAX)
    }
}

fn put(key: &'static [u8], value: Vec<u8>) -> v1::PutRequest {
    v1::PutRequest {
        collection: Some(v1::CollectionName { namespace: "prod".into(), name: "users".into() }),
        key: Bytes::from_static(key),
        value: value.into(),
        ..Default::default()
    }
}

fn code(status: &Status) -> Code {
    failure_in_status(status).unwrap_or_else(|| panic!("no failure in {status:?}")).code
}

#[tokio::test]
async fn a_client_of_the_cluster_writes_and_reads_and_failures_arrive_whole() {
    let bench = Bench::start().await;
    let mut records = bench.records();
    let version = records.put(put(b"k", vec![1, 2])).await.unwrap().into_inner().version;
    assert_eq!(version, 1);
    let get = |key: &'static [u8]| v1::GetRequest { key: key.into(), ..Default::default() };
    let record = records.get(get(b"k")).await.unwrap().into_inner().record.unwrap();
    assert_eq!(record.value.as_ref(), [1, 2]);

    let status = records.get(get(b"other")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    let failure = failure_in_status(&status).unwrap();
    assert_eq!(failure, Failure::new(Code::RecordNotFound, "no such key").hint("look elsewhere"));
}

#[tokio::test]
async fn without_a_certificate_only_enrollment_and_health_answer() {
    let bench = Bench::start().await;
    let stranger = bench.channel(None);
    let status = RecordsClient::new(stranger.clone()).put(put(b"k", vec![])).await.unwrap_err();
    assert_eq!(
        (status.code(), code(&status)),
        (tonic::Code::Unauthenticated, Code::Unauthenticated)
    );

    let joined = EnrollmentClient::new(stranger.clone()).join(v1::JoinRequest::default()).await;
    assert_eq!(joined.unwrap().into_inner().node_id, 4);
    let health = HealthClient::new(stranger.clone()).check(HealthCheckRequest::default()).await;
    assert_eq!(health.unwrap().into_inner().status, 1);

    let mut reflection =
        reflection::server_reflection_client::ServerReflectionClient::new(stranger);
    let asked = futures::stream::iter([reflection::ServerReflectionRequest::default()]);
    assert!(reflection.server_reflection_info(asked).await.is_err());
}

#[tokio::test]
async fn certificates_of_another_cluster_or_authority_are_refused() {
    let bench = Bench::start().await;
    let issuer = &bench.authority;
    let other = CertificateAuthority::from_der(
        ClusterId([8; 16]),
        issuer.certificate_der(),
        issuer.key_der(),
    );
    let foreign = other.unwrap().issue_client("admin").unwrap();
    let status =
        RecordsClient::new(bench.channel(Some(foreign))).put(put(b"k", vec![])).await.unwrap_err();
    let failure = failure_in_status(&status).unwrap();
    assert_eq!(failure.code, Code::Unauthenticated);
    assert!(failure.message.contains("belongs to cluster 0808"), "{}", failure.message);

    let forged = CertificateAuthority::generate(CLUSTER).unwrap().issue_client("admin").unwrap();
    let refused = RecordsClient::new(bench.channel(Some(forged))).put(put(b"k", vec![])).await;
    assert!(refused.is_err(), "TLS refuses a certificate of another authority");

    let Options { certificate_chain_pem, key_pem, .. } = options(&bench.authority);
    let node = bench.channel(Some((certificate_chain_pem, key_pem)));
    let status = RecordsClient::new(node.clone()).put(put(b"k", vec![])).await.unwrap_err();
    let failure = failure_in_status(&status).unwrap();
    assert_eq!(failure.code, Code::Unauthenticated, "a node is no client");
    assert!(failure.message.contains("that of node 1"), "{}", failure.message);
    let joined = EnrollmentClient::new(node).join(v1::JoinRequest::default()).await;
    assert!(joined.is_ok(), "what is open to strangers is open to nodes");
}

/// Calls a method with a message whose first field has another type than in every request here.
async fn call_raw(
    channel: Channel,
    path: &'static str,
) -> Result<Response<v1::PutResponse>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<v1::PromoteNodeRequest, v1::PutResponse>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    grpc.unary(Request::new(v1::PromoteNodeRequest { id: 5 }), path, codec).await
}

#[tokio::test]
async fn bad_input_gets_a_typed_failure_and_the_connection_lives_on() {
    let bench = Bench::start().await;
    let channel = bench.channel(Some(bench.authority.issue_client("admin").unwrap()));

    let status = call_raw(channel.clone(), "/ratoon.v1.Records/Put").await.unwrap_err();
    assert_eq!(code(&status), Code::InvalidArgument, "a malformed message: {status:?}");
    let status = call_raw(channel.clone(), "/ratoon.v1.Records/Nothing").await.unwrap_err();
    assert_eq!(code(&status), Code::InvalidArgument, "an unknown method: {status:?}");
    let status = call_raw(channel.clone(), "/no.such.Service/Nothing").await.unwrap_err();
    assert_eq!(code(&status), Code::InvalidArgument, "an unknown service: {status:?}");

    let mut records = RecordsClient::new(channel).max_encoding_message_size(usize::MAX);
    let huge = vec![0; limits::GRPC_MESSAGE_BYTES_MAX + 1];
    let status = records.put(put(b"k", huge)).await.unwrap_err();
    assert_eq!(code(&status), Code::BatchTooLarge, "{status:?}");
    let large = vec![0; limits::VALUE_BYTES_MAX + 1];
    assert_eq!(code(&records.put(put(b"k", large)).await.unwrap_err()), Code::ValueTooLarge);
    assert_eq!(code(&records.put(put(b"", vec![])).await.unwrap_err()), Code::KeyEmpty);
    let scan = v1::ScanRequest { limit: u32::MAX, ..Default::default() };
    assert_eq!(code(&records.scan(scan).await.unwrap_err()), Code::InvalidArgument);

    // A service that panics ends its own call only.
    assert!(records.batch(v1::BatchRequest::default()).await.is_err());
    assert!(records.put(put(b"k", vec![])).await.is_ok());
}

#[tokio::test]
async fn a_stranger_cannot_send_much() {
    let bench = Bench::start().await;
    let message = v1::JoinRequest {
        secret: vec![0; limits::ENROLLMENT_MESSAGE_BYTES_MAX + 1].into(),
        ..Default::default()
    };
    let status = EnrollmentClient::new(bench.channel(None)).join(message).await.unwrap_err();
    assert_eq!(code(&status), Code::BatchTooLarge);
}

#[tokio::test]
async fn reflection_lists_every_public_service() {
    let bench = Bench::start().await;
    let channel = bench.channel(Some(bench.authority.issue_client("admin").unwrap()));
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    use reflection::server_reflection_request::MessageRequest;
    use reflection::server_reflection_response::MessageResponse;
    let asked = reflection::ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let answers = client.server_reflection_info(futures::stream::iter([asked])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for service in ["Collections", "Records", "Cluster", "Enrollment", "Snapshots"] {
        assert!(names.contains(&format!("ratoon.v1.{service}")), "{names:?}");
    }
    assert!(names.contains(&"grpc.health.v1.Health".to_owned()));
}

#[tokio::test]
async fn health_follows_the_node_for_every_service() {
    let bench = Bench::start().await;
    let mut health = HealthClient::new(bench.channel(None));
    let mut status = async |service: &str| {
        let asked = HealthCheckRequest { service: service.to_owned() };
        health.check(asked).await.map(|answer| answer.into_inner().status)
    };
    let (serving, not_serving) = (1, 2);
    assert_eq!(status("").await.unwrap(), serving);
    assert_eq!(status("ratoon.v1.Records").await.unwrap(), serving);
    assert_eq!(status("no.such").await.unwrap_err().code(), tonic::Code::NotFound);

    bench.ready.store(false, Ordering::Relaxed);
    let waiting = async {
        while status("").await.unwrap() != not_serving {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap();
    assert_eq!(status("ratoon.v1.Cluster").await.unwrap(), not_serving);
}

#[tokio::test]
async fn shutdown_ends_the_server_though_calls_are_under_way_and_frees_the_port() {
    let bench = Bench::start().await;
    let mut records = bench.records();
    records.put(put(b"k", vec![])).await.unwrap();
    let hanging = tokio::spawn(async move { records.delete(v1::DeleteRequest::default()).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), bench.server.task).await;
    assert!(ended.unwrap().unwrap().is_ok());
    assert!(tokio::net::TcpListener::bind(bench.server.address).await.is_ok());
    hanging.abort();
}

#[tokio::test]
async fn an_identity_that_cannot_be_used_is_refused_at_the_start() {
    let authority = CertificateAuthority::generate(CLUSTER).unwrap();
    let (whole, other) = (options(&authority), options(&authority));
    let broken = [
        Options { certificate_chain_pem: String::new(), ..whole.clone() },
        Options { key_pem: "garbage".into(), ..whole.clone() },
        Options { key_pem: other.key_pem, ..whole.clone() },
        Options { ca_pem: "garbage".into(), ..whole.clone() },
    ];
    for options in broken {
        let logger = Logger::root(slog::Discard, slog::o!());
        let probe = || Health { not_ready: None };
        let token = CancellationToken::new();
        let served =
            server::serve_routes(options, Routes::default(), CLUSTER, probe, logger, token).await;
        assert!(matches!(served, Err(ApiError::Identity(_))), "{served:?}");
    }
}

#[tokio::test]
async fn a_body_reserves_as_it_arrives_and_gives_back_when_its_request_ends() {
    use axum::body::{Body, to_bytes};
    let budget = Budget::new(64 * limits::KIB);
    let (body, meter) = budget.meter(Body::from(vec![0; 40 * limits::KIB]));
    assert_eq!(to_bytes(body, usize::MAX).await.unwrap().len(), 40 * limits::KIB);
    assert_eq!(budget.reserve(30 * limits::KIB).err().unwrap().code, Code::Overloaded);

    let (second, second_meter) = budget.meter(Body::from(vec![0; 40 * limits::KIB]));
    assert!(to_bytes(second, usize::MAX).await.is_err(), "there is no room for a second body");
    drop(second_meter);
    drop(meter);
    assert!(budget.reserve(64 * limits::KIB).is_ok());
}
