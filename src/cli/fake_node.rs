//! For tests: one collection in memory behind the real API, so that verbs run from the command line
//! to the wire and back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::client::Profile;
use crate::proto::status::failure_to_status;
use crate::proto::v1;
use crate::proto::v1::collections_server::{Collections, CollectionsServer};
use crate::proto::v1::records_server::{Records, RecordsServer};
use crate::types::{Code, Failure};

/// Records of one page, small, so that scans have several.
const PAGE_RECORDS: usize = 3;

/// What the node holds and has seen.
#[derive(Default)]
pub struct Store {
    /// Whether the collection exists.
    pub created: bool,
    /// Key to value, content type and version.
    pub records: BTreeMap<Vec<u8>, (Bytes, String, u64)>,
    /// Records written, over all batches.
    pub writes: u64,
    /// Records read one by one.
    pub gets: u64,
    /// Batches to take before all others are refused; None: all are taken.
    pub batches_left: Option<u64>,
    version: u64,
}

/// The node; clones share its store.
#[derive(Clone, Default)]
pub struct FakeNode(pub Arc<Mutex<Store>>);

fn refusal(code: Code) -> Status {
    failure_to_status(&Failure::new(code, "the test said so"))
}

impl FakeNode {
    /// Serves on loopback and writes the profile `default` below `config_directory`.
    pub async fn serve(&self, config_directory: &Path) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let (certificate, key) = issue("127.0.0.1");
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(&ca_pem));
        let serving = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(RecordsServer::new(self.clone()).max_decoding_message_size(16 << 20))
            .add_service(CollectionsServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        let (certificate_pem, key_pem) = issue("client-test.ratoon");
        let endpoints = vec![address.to_string()];
        let profile = Profile { endpoints, ca_pem, certificate_pem, key_pem };
        profile.save_to(config_directory, "default").unwrap();
    }
}

#[tonic::async_trait]
impl Records for FakeNode {
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let mut store = self.0.lock().unwrap();
        store.version += 1;
        Ok(Response::new(v1::OpenSessionResponse { session: store.version }))
    }

    async fn batch(
        &self,
        request: Request<v1::BatchRequest>,
    ) -> Result<Response<v1::BatchResponse>, Status> {
        let mut store = self.0.lock().unwrap();
        match &mut store.batches_left {
            Some(0) => return Err(refusal(Code::LimitReached)),
            Some(left) => *left -= 1,
            None => {}
        }
        store.version += 1;
        let version = store.version;
        let mut existed = Vec::new();
        for write in request.into_inner().writes {
            let key = write.key.to_vec();
            store.writes += 1;
            let before = match write.action.expect("every write says what to do") {
                v1::write::Action::Put(put) => {
                    store.records.insert(key, (put.value, put.content_type, version))
                }
                v1::write::Action::Delete(_) => store.records.remove(&key),
                v1::write::Action::Check(_) => store.records.get(&key).cloned(),
            };
            existed.push(before.is_some());
        }
        Ok(Response::new(v1::BatchResponse { version, existed }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let mut store = self.0.lock().unwrap();
        store.gets += 1;
        let key = request.into_inner().key;
        let found = store.records.get(key.as_ref()).cloned();
        let (value, content_type, version) = found.ok_or_else(|| refusal(Code::RecordNotFound))?;
        let record = Some(v1::Record { key, value, version, content_type });
        Ok(Response::new(v1::GetResponse { record, index: store.version }))
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<v1::ScanResponse>, Status> {
        let asked = request.into_inner();
        let store = self.0.lock().unwrap();
        let mut records = store
            .records
            .iter()
            .filter(|(key, _)| key.starts_with(&asked.prefix))
            .skip_while(|(key, _)| key.as_slice() < asked.cursor.as_ref())
            .map(|(key, (value, content_type, version))| v1::Record {
                key: key.clone().into(),
                value: if asked.keys_only { Bytes::new() } else { value.clone() },
                version: *version,
                content_type: content_type.clone(),
            });
        let limit = PAGE_RECORDS.min(asked.limit as usize);
        let page: Vec<v1::Record> = records.by_ref().take(limit).collect();
        let cursor = records.next().map(|record| record.key).unwrap_or_default();
        Ok(Response::new(v1::ScanResponse { records: page, cursor, index: 77 }))
    }

    async fn put(&self, _: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        Err(Status::unimplemented("writes come in batches"))
    }

    async fn delete(
        &self,
        _: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Status::unimplemented("writes come in batches"))
    }
}

#[tonic::async_trait]
impl Collections for FakeNode {
    async fn create_namespace(
        &self,
        _: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::CreateNamespaceResponse>, Status> {
        Err(refusal(Code::AlreadyExists))
    }

    async fn create_collection(
        &self,
        _: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::CreateCollectionResponse>, Status> {
        self.0.lock().unwrap().created = true;
        let collection = Some(v1::Collection::default());
        Ok(Response::new(v1::CreateCollectionResponse { collection, index: 1 }))
    }

    async fn describe_collection(
        &self,
        _: Request<v1::DescribeCollectionRequest>,
    ) -> Result<Response<v1::DescribeCollectionResponse>, Status> {
        let store = self.0.lock().unwrap();
        if !store.created {
            return Err(refusal(Code::CollectionNotFound));
        }
        let records = store.records.len() as u64;
        let collection = Some(v1::Collection { records, ..Default::default() });
        Ok(Response::new(v1::DescribeCollectionResponse { collection, index: store.version }))
    }

    async fn drop_namespace(
        &self,
        _: Request<v1::DropNamespaceRequest>,
    ) -> Result<Response<v1::DropNamespaceResponse>, Status> {
        Err(refusal(Code::NamespaceNotEmpty))
    }

    async fn list_namespaces(
        &self,
        _: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesResponse>, Status> {
        Err(refusal(Code::Unavailable))
    }

    async fn drop_collection(
        &self,
        _: Request<v1::DropCollectionRequest>,
    ) -> Result<Response<v1::DropCollectionResponse>, Status> {
        Err(refusal(Code::CollectionNotFound))
    }

    async fn list_collections(
        &self,
        _: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsResponse>, Status> {
        Err(refusal(Code::Unavailable))
    }
}
