//! Retries, sessions, failover and honesty, against servers that misbehave on purpose.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::*;
use crate::net::{CertificateAuthority, Identity as NodeIdentity, NodeKey};
use crate::proto::status::failure_to_status;
use crate::proto::v1;
use crate::proto::v1::records_server::{Records, RecordsServer};
use crate::types::{ClusterId, Code, CollectionName, Consistency, NodeId, ScanOptions};

/// Certificates for one test: an authority and a node on loopback.
struct Trust {
    authority: CertificateAuthority,
    node: NodeIdentity,
}

impl Trust {
    fn new() -> Trust {
        let authority = CertificateAuthority::generate(ClusterId([7; 16])).unwrap();
        let key = NodeKey::generate().unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        let certificate = authority.issue_node(NodeId(1), &hosts, key.request_der()).unwrap();
        let root = authority.certificate_der();
        let node = NodeIdentity::new(root, &certificate, &key, [0; 32]).unwrap();
        Trust { authority, node }
    }

    fn profile(&self, endpoints: &[SocketAddr]) -> Profile {
        let (certificate_pem, key_pem) = self.authority.issue_client("test").unwrap();
        Profile {
            endpoints: endpoints.iter().map(SocketAddr::to_string).collect(),
            ca_pem: self.node.ca_pem(),
            certificate_pem,
            key_pem,
        }
    }
}

/// What a server does with one write.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Turn {
    /// Executes it and answers.
    Answer,
    /// Executes it, and says that nobody knows.
    ExecuteThenUnknown,
    /// Does nothing and says 'later'.
    Later,
    /// Does not know the session.
    Expired,
    /// Never answers.
    Silent,
}

/// A node that follows a script and keeps exactly-once as the cluster does.
#[derive(Default)]
struct Scripted {
    script: VecDeque<Turn>,
    sessions_opened: u64,
    /// Last sequence and its version, by session.
    sessions: BTreeMap<u64, (u64, u64)>,
    /// Places at which a write was executed.
    executed: BTreeSet<(u64, u64)>,
    /// Every place that arrived, in order.
    arrived: Vec<(u64, u64)>,
    in_flight: BTreeMap<u64, usize>,
    records: Vec<v1::Record>,
}

#[derive(Clone, Default)]
struct Node(Arc<Mutex<Scripted>>);

fn refusal(code: Code) -> Status {
    failure_to_status(&Failure::new(code, "scripted").hint("read the script"))
}

impl Node {
    fn scripted(turns: &[Turn]) -> Node {
        let node = Node::default();
        node.0.lock().unwrap().script = turns.iter().copied().collect();
        node
    }

    fn execute(&self, place: (u64, u64)) -> Result<u64, Status> {
        let mut node = self.0.lock().unwrap();
        let (session, sequence) = place;
        let known = node.sessions.get(&session).copied();
        match known {
            None => return Err(refusal(Code::SessionExpired)),
            Some((last, version)) if last == sequence => return Ok(version),
            Some((last, _)) if last > sequence => return Err(refusal(Code::SequenceStale)),
            Some(_) => {}
        }
        assert!(node.executed.insert(place), "executed twice: {place:?}");
        let version = node.executed.len() as u64;
        node.sessions.insert(session, (sequence, version));
        Ok(version)
    }
}

#[tonic::async_trait]
impl Records for Node {
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let mut node = self.0.lock().unwrap();
        node.sessions_opened += 1;
        let session = 100 + node.sessions_opened;
        node.sessions.insert(session, (0, 0));
        Ok(Response::new(v1::OpenSessionResponse { session }))
    }

    async fn batch(
        &self,
        request: Request<v1::BatchRequest>,
    ) -> Result<Response<v1::BatchResponse>, Status> {
        let asked = request.into_inner();
        let session = asked.session.expect("every write has a session");
        let place = (session.session, session.sequence);
        let turn = {
            let mut node = self.0.lock().unwrap();
            node.arrived.push(place);
            let under_way = node.in_flight.entry(place.0).or_default();
            *under_way += 1;
            assert_eq!(*under_way, 1, "two commands of one session at once");
            node.script.pop_front().unwrap_or(Turn::Answer)
        };
        // Long enough for concurrent writes to overlap.
        tokio::time::sleep(Duration::from_millis(5)).await;
        *self.0.lock().unwrap().in_flight.get_mut(&place.0).unwrap() -= 1;
        let existed = vec![false; asked.writes.len()];
        match turn {
            Turn::Answer => {
                let version = self.execute(place)?;
                Ok(Response::new(v1::BatchResponse { version, existed }))
            }
            Turn::ExecuteThenUnknown => {
                self.execute(place)?;
                Err(refusal(Code::OutcomeUnknown))
            }
            Turn::Later => Err(refusal(Code::Unavailable)),
            Turn::Expired => {
                self.0.lock().unwrap().sessions.remove(&place.0);
                Err(refusal(Code::SessionExpired))
            }
            Turn::Silent => std::future::pending().await,
        }
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<v1::ScanResponse>, Status> {
        let asked = request.into_inner();
        let node = self.0.lock().unwrap();
        let from = asked.cursor.first().copied().map_or(0, usize::from);
        let page = if asked.limit == 0 { 3 } else { 3.min(asked.limit as usize) };
        let to = (from + page).min(node.records.len());
        let cursor = if to < node.records.len() { vec![to as u8].into() } else { Bytes::new() };
        let records = node.records[from..to].to_vec();
        Ok(Response::new(v1::ScanResponse { records, cursor, index: 40 }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        match request.get_ref().key.as_ref() {
            b"silent" => std::future::pending().await,
            b"absent" => Err(refusal(Code::RecordNotFound)),
            _ => Err(refusal(Code::CollectionNotFound)),
        }
    }

    async fn put(&self, _: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        Err(Status::unimplemented("the client writes batches"))
    }

    async fn delete(
        &self,
        _: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Status::unimplemented("the client writes batches"))
    }
}

async fn serve(trust: &Trust, node: &Node) -> SocketAddr {
    let node_identity = &trust.node;
    let identity =
        Identity::from_pem(node_identity.certificate_chain_pem(), node_identity.key_pem());
    let tls = ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(Certificate::from_pem(node_identity.ca_pem()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_service(RecordsServer::new(node.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    address
}

fn options() -> Options {
    Options {
        timeout: Duration::from_secs(10),
        attempt_timeout: Duration::from_millis(500),
        writes_max: 8,
    }
}

async fn client_of(node: &Node) -> Client {
    let trust = Trust::new();
    let address = serve(&trust, node).await;
    Client::connect_with(&trust.profile(&[address]), options()).unwrap()
}

fn users() -> CollectionName {
    CollectionName::parse("prod", "users").unwrap()
}

#[tokio::test]
async fn a_write_whose_outcome_was_unknown_is_repeated_and_executes_once() {
    let node = Node::scripted(&[Turn::ExecuteThenUnknown, Turn::Later, Turn::Answer]);
    let client = client_of(&node).await;
    assert_eq!(client.put(&users(), "k", "v").await.unwrap(), 1);
    let node = node.0.lock().unwrap();
    assert_eq!(node.arrived, [(101, 1); 3]);
    assert_eq!(node.executed.len(), 1);
}

#[tokio::test]
async fn a_silent_node_costs_one_attempt_and_the_write_goes_on() {
    let node = Node::scripted(&[Turn::Silent]);
    let client = client_of(&node).await;
    let began = Instant::now();
    assert_eq!(client.put(&users(), "k", "v").await.unwrap(), 1);
    assert!(began.elapsed() >= options().attempt_timeout);
}

#[tokio::test]
async fn many_writes_at_once_take_sessions_of_their_own_and_reuse_them() {
    let node = Node::default();
    let client = client_of(&node).await;
    let (client_ref, users) = (&client, users());
    let writes = (0..60u32).map(|i| client_ref.put(&users, i.to_be_bytes().to_vec(), "v"));
    let versions: BTreeSet<u64> =
        futures::future::try_join_all(writes).await.unwrap().into_iter().collect();
    assert_eq!(versions.len(), 60);
    let node = node.0.lock().unwrap();
    assert!(node.sessions_opened <= options().writes_max as u64, "{}", node.sessions_opened);
    assert!(node.sessions_opened >= 2);
}

#[tokio::test]
async fn an_expired_session_is_replaced_when_nothing_can_have_run() {
    let node = Node::scripted(&[Turn::Expired]);
    let client = client_of(&node).await;
    assert_eq!(client.put(&users(), "k", "v").await.unwrap(), 1);
    assert_eq!(node.0.lock().unwrap().arrived, [(101, 1), (102, 1)]);
}

#[tokio::test]
async fn a_session_that_expires_during_retries_leaves_the_outcome_unknown() {
    let node = Node::scripted(&[Turn::ExecuteThenUnknown, Turn::Expired]);
    let client = client_of(&node).await;
    let failure = client.put(&users(), "k", "v").await.unwrap_err();
    assert_eq!(failure.code, Code::OutcomeUnknown);
    assert_eq!(node.0.lock().unwrap().arrived, [(101, 1); 2]);
    // The next write begins afresh.
    assert!(client.put(&users(), "k", "v").await.is_ok());
}

#[tokio::test]
async fn a_dead_endpoint_is_left_for_a_living_one() {
    let trust = Trust::new();
    let node = Node::default();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let living = serve(&trust, &node).await;
    let client = Client::connect_with(&trust.profile(&[dead, living]), options()).unwrap();
    assert!(client.put(&users(), "k", "v").await.is_ok());

    let pinned = client.pinned(&dead.to_string()).unwrap().with_timeout(Duration::from_millis(300));
    let failure = pinned.get(&users(), "k", Consistency::Linearizable).await.unwrap_err();
    assert_eq!((failure.code, failure.retry), (Code::Unavailable, crate::types::Retry::Later));
    let failure = pinned.put(&users(), "k", "v").await.unwrap_err();
    assert_eq!(failure.code, Code::Unavailable, "nothing was sent: {failure}");
}

#[tokio::test]
async fn when_time_is_up_a_read_is_unavailable_and_a_write_unknown() {
    let node = Node::scripted(&[Turn::Silent; 20]);
    let client = client_of(&node).await;
    client.sessions.lease().await.opened(101);
    node.0.lock().unwrap().sessions.insert(101, (0, 0));
    let hasty = client.with_timeout(Duration::from_millis(300));
    let began = Instant::now();
    let failure = hasty.get(&users(), "silent", Consistency::Linearizable).await.unwrap_err();
    assert_eq!(failure.code, Code::Unavailable);
    let failure = hasty.put(&users(), "k", "v").await.unwrap_err();
    assert_eq!(failure.code, Code::OutcomeUnknown);
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn failures_arrive_with_code_and_hint_and_an_absent_record_is_none() {
    let client = client_of(&Node::default()).await;
    let failure = client.get(&users(), "k", Consistency::Linearizable).await.unwrap_err();
    let expected = Failure::new(Code::CollectionNotFound, "scripted").hint("read the script");
    assert_eq!(failure, expected);
    let absent = client.get(&users(), "absent", Consistency::Linearizable).await;
    assert_eq!(absent.unwrap(), None);
}

#[tokio::test]
async fn a_scan_pages_by_itself_and_stops_at_its_limit() {
    let node = Node::default();
    node.0.lock().unwrap().records = (0u8..10)
        .map(|key| v1::Record { key: vec![key].into(), version: 1, ..Default::default() })
        .collect();
    let client = client_of(&node).await;
    for (limit, expected) in [(0, 10), (4, 4), (3, 3), (100, 10)] {
        let options = ScanOptions { limit, ..Default::default() };
        let stream = client.scan_all(&users(), options, Consistency::Stale { min_index: 0 });
        let records: Vec<_> = stream.try_collect().await.unwrap();
        let keys: Vec<u8> = records.iter().map(|record| record.key[0]).collect();
        assert_eq!(keys, (0..expected).collect::<Vec<u8>>());
    }
}

#[tokio::test]
async fn trust_problems_are_told_at_once_and_by_their_name() {
    let trust = Trust::new();
    let address = serve(&trust, &Node::default()).await;
    let began = Instant::now();

    let stranger = Trust::new();
    let client = Client::connect_with(&stranger.profile(&[address]), options()).unwrap();
    let failure = client.get(&users(), "k", Consistency::Linearizable).await.unwrap_err();
    assert_eq!(failure.code, Code::WrongCluster, "{failure}");

    let mut profile = trust.profile(&[address]);
    profile.certificate_pem.clear();
    profile.key_pem.clear();
    let client = Client::connect_with(&profile, options()).unwrap();
    let failure = client.get(&users(), "k", Consistency::Linearizable).await.unwrap_err();
    assert_eq!(failure.code, Code::Unauthenticated, "{failure}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_profile_that_makes_no_sense_is_refused_before_any_call() {
    let trust = Trust::new();
    let good = trust.profile(&["127.0.0.1:1".parse().unwrap()]);
    let broken = [
        Profile { endpoints: Vec::new(), ..good.clone() },
        Profile { endpoints: vec!["nowhere".into()], ..good.clone() },
        Profile { key_pem: "garbage".into(), ..good.clone() },
    ];
    for profile in broken {
        let failure = Client::connect(&profile).err().unwrap();
        assert_eq!(failure.code, Code::InvalidArgument);
        assert!(!failure.hint.is_empty());
    }
}
