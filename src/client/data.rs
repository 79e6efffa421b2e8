//! Namespaces, collections and records, in the domain's words.

use std::future::Future;
use std::time::Instant;

use bytes::Bytes;
use futures::Stream;
use futures::stream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::call::Kind;
use super::{Client, Pages};
use crate::limits;
use crate::proto::public::{
    collection_to, consistency_to, page_from, record_from, scan_to, session_to, write_to,
};
use crate::proto::v1;
use crate::proto::v1::collections_client::CollectionsClient;
use crate::proto::v1::records_client::RecordsClient;
use crate::types::{
    Action, Code, CollectionName, Condition, Consistency, Failure, Index, Name, Record,
    ScanOptions, ScanPage, Write, WriteBatch,
};

/// A batch that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Log index of the write: the version of all its records.
    pub version: Index,
    /// For each write in order: whether its key held a value before.
    pub existed: Vec<bool>,
}

fn collections(channel: Channel) -> CollectionsClient<Channel> {
    CollectionsClient::new(channel)
        .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
}

fn records(channel: Channel) -> RecordsClient<Channel> {
    RecordsClient::new(channel)
        .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
}

fn missing(what: &str) -> Failure {
    Failure::new(Code::Internal, format!("the node's answer holds no {what}"))
}

impl Client {
    /// Creates an empty namespace; answers with the log index.
    pub async fn create_namespace(&self, name: &Name) -> Result<Index, Failure> {
        let name = name.as_str().to_owned();
        let message = move |session| v1::CreateNamespaceRequest { name: name.clone(), session };
        let send =
            |channel, request| async move { collections(channel).create_namespace(request).await };
        Ok(self.write_in_session(message, send).await?.index)
    }

    /// Drops an empty namespace; answers with the log index.
    pub async fn drop_namespace(&self, name: &Name) -> Result<Index, Failure> {
        let name = name.as_str().to_owned();
        let message = move |session| v1::DropNamespaceRequest { name: name.clone(), session };
        let send =
            |channel, request| async move { collections(channel).drop_namespace(request).await };
        Ok(self.write_in_session(message, send).await?.index)
    }

    /// All namespaces.
    pub async fn list_namespaces(
        &self,
        consistency: Consistency,
    ) -> Result<Vec<v1::Namespace>, Failure> {
        let message = v1::ListNamespacesRequest { consistency: Some(consistency_to(consistency)) };
        let send =
            |channel, request| async move { collections(channel).list_namespaces(request).await };
        Ok(self.call(Kind::Read, message, send).await?.namespaces)
    }

    /// Creates an empty collection in an existing namespace.
    pub async fn create_collection(
        &self,
        collection: &CollectionName,
    ) -> Result<v1::Collection, Failure> {
        let name = collection_to(collection);
        let message =
            move |session| v1::CreateCollectionRequest { collection: Some(name.clone()), session };
        let send =
            |channel, request| async move { collections(channel).create_collection(request).await };
        let answer = self.write_in_session(message, send).await?;
        answer.collection.ok_or_else(|| missing("collection"))
    }

    /// Drops a collection with all its records; answers with the log index.
    pub async fn drop_collection(&self, collection: &CollectionName) -> Result<Index, Failure> {
        let name = collection_to(collection);
        let message =
            move |session| v1::DropCollectionRequest { collection: Some(name.clone()), session };
        let send =
            |channel, request| async move { collections(channel).drop_collection(request).await };
        Ok(self.write_in_session(message, send).await?.index)
    }

    /// The collections of a namespace, or of all.
    pub async fn list_collections(
        &self,
        namespace: Option<&Name>,
        consistency: Consistency,
    ) -> Result<Vec<v1::Collection>, Failure> {
        let message = v1::ListCollectionsRequest {
            namespace: namespace.map(|name| name.as_str().to_owned()).unwrap_or_default(),
            consistency: Some(consistency_to(consistency)),
        };
        let send =
            |channel, request| async move { collections(channel).list_collections(request).await };
        Ok(self.call(Kind::Read, message, send).await?.collections)
    }

    /// One collection with its counts.
    pub async fn describe_collection(
        &self,
        collection: &CollectionName,
        consistency: Consistency,
    ) -> Result<v1::Collection, Failure> {
        let message = v1::DescribeCollectionRequest {
            collection: Some(collection_to(collection)),
            consistency: Some(consistency_to(consistency)),
        };
        let send = |channel, request| async move {
            collections(channel).describe_collection(request).await
        };
        let answer = self.call(Kind::Read, message, send).await?;
        answer.collection.ok_or_else(|| missing("collection"))
    }

    /// The record of a key; None if it holds none.
    pub async fn get(
        &self,
        collection: &CollectionName,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Option<Record>, Failure> {
        let message = v1::GetRequest {
            collection: Some(collection_to(collection)),
            key: key.into(),
            consistency: Some(consistency_to(consistency)),
        };
        let send = |channel, request| async move { records(channel).get(request).await };
        match self.call(Kind::Read, message, send).await {
            Ok(answer) => answer.record.map(record_from).map(Some).ok_or_else(|| missing("record")),
            Err(failure) if failure.code == Code::RecordNotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Stores a value whatever the key held before; answers with its version.
    pub async fn put(
        &self,
        collection: &CollectionName,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Index, Failure> {
        let write = Write {
            collection: collection.clone(),
            key: key.into(),
            condition: Condition::Always,
            action: Action::Put { value: value.into(), content_type: String::new() },
        };
        Ok(self.write(WriteBatch { writes: vec![write] }).await?.version)
    }

    /// Removes a key; answers whether it held a value.
    pub async fn delete(
        &self,
        collection: &CollectionName,
        key: impl Into<Bytes>,
    ) -> Result<bool, Failure> {
        let write = Write {
            collection: collection.clone(),
            key: key.into(),
            condition: Condition::Always,
            action: Action::Delete,
        };
        let written = self.write(WriteBatch { writes: vec![write] }).await?;
        written.existed.first().copied().ok_or_else(|| missing("word on the key"))
    }

    /// Writes a batch, all or nothing, exactly once.
    pub async fn write(&self, batch: WriteBatch) -> Result<Written, Failure> {
        let writes: Vec<v1::Write> = batch.writes.into_iter().map(write_to).collect();
        let message = move |session| v1::BatchRequest { writes: writes.clone(), session };
        let send = |channel, request| async move { records(channel).batch(request).await };
        let answer = self.write_in_session(message, send).await?;
        Ok(Written { version: answer.version, existed: answer.existed })
    }

    /// One page of a scan.
    pub async fn scan(
        &self,
        collection: &CollectionName,
        options: &ScanOptions,
        consistency: Consistency,
    ) -> Result<ScanPage, Failure> {
        let message = scan_to(collection, options, consistency);
        let send = |channel, request| async move { records(channel).scan(request).await };
        Ok(page_from(self.call(Kind::Read, message, send).await?))
    }

    /// Every record of a scan, page by page as they are taken, all at one index. `options.limit`
    /// bounds the records of the whole scan; 0: no bound.
    pub fn scan_all(
        &self,
        collection: &CollectionName,
        options: ScanOptions,
        consistency: Consistency,
    ) -> impl Stream<Item = Result<Record, Failure>> + Send + 'static {
        let left = (options.limit > 0).then_some(u64::from(options.limit));
        let pages = self.scan_pages(collection, options, consistency);
        let scan = Scan { pages, left, page: Vec::new().into_iter() };
        stream::try_unfold(scan, |mut scan| async move {
            Ok(scan.next().await?.map(|record| (record, scan)))
        })
    }

    /// The same, page by page; the limit counts for nothing.
    pub fn scan_pages(
        &self,
        collection: &CollectionName,
        options: ScanOptions,
        consistency: Consistency,
    ) -> Pages {
        Pages::new(self.clone(), collection.clone(), options, consistency)
    }

    /// Runs one write in a session, opening one if need be. `message` builds the request for a
    /// place in a session.
    async fn write_in_session<Message, Answer, Sending>(
        &self,
        message: impl Fn(Option<v1::SessionSequence>) -> Message,
        send: impl Fn(Channel, Request<Message>) -> Sending,
    ) -> Result<Answer, Failure>
    where
        Message: Clone,
        Sending: Future<Output = Result<Response<Answer>, Status>>,
    {
        let deadline = Instant::now() + self.options.timeout;
        let waiting = tokio::time::timeout(self.options.timeout, self.sessions.lease());
        let mut lease = waiting.await.map_err(|_| {
            Failure::new(Code::Overloaded, "too many writes of this client are waiting")
        })?;
        loop {
            let place = match lease.next() {
                Some(place) => place,
                None => lease.opened(self.open_session(deadline).await?),
            };
            let request = message(Some(session_to(place)));
            let limit = self.options.attempt_timeout;
            let answer = self.attempts(Kind::Session, request, deadline, limit, &send).await;
            let failed = match answer {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if failed.failure.code != Code::SessionExpired {
                return Err(failed.failure);
            }
            lease.expired();
            if failed.earlier_may_have_run {
                return Err(Failure::new(
                    Code::OutcomeUnknown,
                    "the session expired while the write was repeated",
                )
                .hint("read back what was to change before sending it again"));
            }
            // No attempt can have been executed: the cluster never executes a command of an
            // expired session. A new session starts afresh, while there is time.
        }
    }

    async fn open_session(&self, deadline: Instant) -> Result<u64, Failure> {
        let send = |channel, request| async move { records(channel).open_session(request).await };
        let limit = self.options.attempt_timeout;
        // A session opened twice costs a place in the cluster's table and nothing else, so it is
        // repeated like a read; and if it fails, the write itself certainly was not executed.
        let message = v1::OpenSessionRequest {};
        let answer = self.attempts(Kind::Read, message, deadline, limit, send).await;
        match answer {
            Ok(answer) => Ok(answer.session),
            Err(failed) if failed.failure.code == Code::OutcomeUnknown => {
                Err(Failure::new(Code::Unavailable, failed.failure.message)
                    .hint("nothing was written; try again"))
            }
            Err(failed) => Err(failed.failure),
        }
    }
}

/// A scan under way.
struct Scan {
    pages: Pages,
    /// Records still wanted; None: all.
    left: Option<u64>,
    /// What is left of the present page.
    page: std::vec::IntoIter<Record>,
}

impl Scan {
    async fn next(&mut self) -> Result<Option<Record>, Failure> {
        loop {
            if let Some(record) = self.page.next() {
                self.left = self.left.map(|left| left - 1);
                return Ok(Some(record));
            }
            match self.pages.next(self.left.unwrap_or(u64::MAX)).await? {
                Some(page) => self.page = page.records.into_iter(),
                None => return Ok(None),
            }
        }
    }
}
