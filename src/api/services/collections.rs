//! Namespaces and collections.

use tonic::{Request, Response, Status};

use super::reads::Reads;
use super::{misfit, refuse};
use crate::node::{Handle, StateView};
use crate::proto::public::{collection_from, collection_to, consistency_from, session_from};
use crate::proto::v1::collections_server::Collections;
use crate::proto::v1::*;
use crate::state::read;
use crate::types::{Command, Failure, Index, Name, Reply, Request as Ask};

/// `ratoon.v1.Collections`.
pub(super) struct CollectionsService {
    /// The node.
    pub(super) handle: Handle,
    /// Reads of its state.
    pub(super) reads: Reads,
}

impl CollectionsService {
    async fn execute(
        &self,
        session: Option<SessionSequence>,
        command: Result<Command, Failure>,
    ) -> Result<(Index, Reply), Status> {
        let session = session_from(session).map_err(refuse)?;
        let command = command.map_err(refuse)?;
        self.handle.execute(Ask { session, command }).await.map_err(refuse)
    }
}

/// The message for what the state knows of a collection.
fn message(info: read::CollectionInfo) -> Collection {
    Collection {
        name: Some(collection_to(&info.name)),
        incarnation: info.incarnation,
        created_index: info.incarnation,
        created_unix_ms: info.created_unix_ms,
        records: info.records,
        bytes: info.bytes,
    }
}

pub(super) fn namespace(name: &str) -> Result<Name, Failure> {
    Name::parse("namespace", name)
}

#[tonic::async_trait]
impl Collections for CollectionsService {
    async fn create_namespace(
        &self,
        request: Request<CreateNamespaceRequest>,
    ) -> Result<Response<CreateNamespaceResponse>, Status> {
        let asked = request.into_inner();
        let command = namespace(&asked.name).map(Command::CreateNamespace);
        let (index, _) = self.execute(asked.session, command).await?;
        Ok(Response::new(CreateNamespaceResponse { index }))
    }

    async fn drop_namespace(
        &self,
        request: Request<DropNamespaceRequest>,
    ) -> Result<Response<DropNamespaceResponse>, Status> {
        let asked = request.into_inner();
        let command = namespace(&asked.name).map(Command::DropNamespace);
        let (index, _) = self.execute(asked.session, command).await?;
        Ok(Response::new(DropNamespaceResponse { index }))
    }

    async fn list_namespaces(
        &self,
        request: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        let consistency = consistency_from(request.into_inner().consistency).map_err(refuse)?;
        let reading =
            |state: &StateView| read::list_namespaces(state.view.as_ref()).map_err(Failure::from);
        let (found, index) = self.reads.read(consistency, reading).await.map_err(refuse)?;
        let namespaces = found
            .into_iter()
            .map(|namespace| Namespace {
                name: namespace.name.as_str().to_owned(),
                created_index: namespace.created_index,
                created_unix_ms: namespace.created_unix_ms,
            })
            .collect();
        Ok(Response::new(ListNamespacesResponse { namespaces, index }))
    }

    async fn create_collection(
        &self,
        request: Request<CreateCollectionRequest>,
    ) -> Result<Response<CreateCollectionResponse>, Status> {
        let asked = request.into_inner();
        let name = collection_from(asked.collection).map_err(refuse)?;
        let command = Ok(Command::CreateCollection(name.clone()));
        match self.execute(asked.session, command).await? {
            (index, Reply::CollectionCreated { incarnation, created_unix_ms }) => {
                let collection = Collection {
                    name: Some(collection_to(&name)),
                    incarnation,
                    created_index: index,
                    created_unix_ms,
                    records: 0,
                    bytes: 0,
                };
                Ok(Response::new(CreateCollectionResponse { collection: Some(collection), index }))
            }
            (_, other) => Err(misfit("CreateCollection", &other)),
        }
    }

    async fn drop_collection(
        &self,
        request: Request<DropCollectionRequest>,
    ) -> Result<Response<DropCollectionResponse>, Status> {
        let asked = request.into_inner();
        let command = collection_from(asked.collection).map(Command::DropCollection);
        let (index, _) = self.execute(asked.session, command).await?;
        Ok(Response::new(DropCollectionResponse { index }))
    }

    async fn list_collections(
        &self,
        request: Request<ListCollectionsRequest>,
    ) -> Result<Response<ListCollectionsResponse>, Status> {
        let asked = request.into_inner();
        let consistency = consistency_from(asked.consistency).map_err(refuse)?;
        let within = match asked.namespace.as_str() {
            "" => None,
            name => Some(namespace(name).map_err(refuse)?),
        };
        let reading = move |state: &StateView| {
            read::list_collections(state.view.as_ref(), within.as_ref()).map_err(Failure::from)
        };
        let (found, index) = self.reads.read(consistency, reading).await.map_err(refuse)?;
        let collections = found.into_iter().map(message).collect();
        Ok(Response::new(ListCollectionsResponse { collections, index }))
    }

    async fn describe_collection(
        &self,
        request: Request<DescribeCollectionRequest>,
    ) -> Result<Response<DescribeCollectionResponse>, Status> {
        let asked = request.into_inner();
        let consistency = consistency_from(asked.consistency).map_err(refuse)?;
        let name = collection_from(asked.collection).map_err(refuse)?;
        let reading = move |state: &StateView| {
            read::describe(state.view.as_ref(), &name).map_err(Failure::from)
        };
        let (found, index) = self.reads.read(consistency, reading).await.map_err(refuse)?;
        Ok(Response::new(DescribeCollectionResponse { collection: Some(message(found)), index }))
    }
}
