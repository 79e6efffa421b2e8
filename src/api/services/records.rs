//! Records: put, get, delete, batch, scan, sessions.

use tonic::{Request, Response, Status};

use super::super::budget::Budget;
use super::reads::Reads;
use super::{misfit, refuse};
use crate::node::{Handle, StateView};
use crate::proto::public::{
    batch_from, collection_from, condition_from, consistency_from, encoded_bytes, key_from,
    page_to, put_from, record_to, scan_from, session_from,
};
use crate::proto::v1::records_server::Records;
use crate::proto::v1::*;
use crate::state::read;
use crate::types::{
    Action, Code, Command, Failure, Index, Reply, Request as Ask, Write as DomainWrite, WriteBatch,
};

/// `ratoon.v1.Records`.
pub(super) struct RecordsService {
    /// The node.
    pub(super) handle: Handle,
    /// Reads of its state.
    pub(super) reads: Reads,
}

impl RecordsService {
    /// Writes a batch; answers with its index and whether each key held a value before.
    async fn write(
        &self,
        session: Option<SessionSequence>,
        batch: WriteBatch,
    ) -> Result<(Index, Vec<bool>), Status> {
        let session = session_from(session).map_err(refuse)?;
        let writes = batch.writes.len();
        let ask = Ask { session, command: Command::Write(batch) };
        match self.handle.execute(ask).await.map_err(refuse)? {
            (index, Reply::Written { existed }) if existed.len() == writes => Ok((index, existed)),
            (_, other) => Err(misfit("Write", &other)),
        }
    }
}

pub(super) fn put_command(asked: PutRequest) -> Result<WriteBatch, Failure> {
    let write = DomainWrite {
        collection: collection_from(asked.collection)?,
        key: key_from(asked.key)?,
        condition: condition_from(asked.condition)?,
        action: put_from(asked.value, asked.content_type)?,
    };
    Ok(WriteBatch { writes: vec![write] })
}

pub(super) fn delete_command(asked: DeleteRequest) -> Result<WriteBatch, Failure> {
    let write = DomainWrite {
        collection: collection_from(asked.collection)?,
        key: key_from(asked.key)?,
        condition: condition_from(asked.condition)?,
        action: Action::Delete,
    };
    Ok(WriteBatch { writes: vec![write] })
}

/// An answer that holds its place in the server's budget until it is sent.
fn weighed<T>(budget: Option<Budget>, message: T, bytes: usize) -> Result<Response<T>, Status> {
    let mut response = Response::new(message);
    if let Some(budget) = budget {
        response.extensions_mut().insert(budget.reserve(bytes).map_err(refuse)?);
    }
    Ok(response)
}

#[tonic::async_trait]
impl Records for RecordsService {
    async fn open_session(
        &self,
        _request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let ask = Ask { session: None, command: Command::OpenSession };
        match self.handle.execute(ask).await.map_err(refuse)? {
            (_, Reply::Session(session)) => Ok(Response::new(OpenSessionResponse { session })),
            (_, other) => Err(misfit("OpenSession", &other)),
        }
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let mut asked = request.into_inner();
        let session = asked.session.take();
        let (version, _) = self.write(session, put_command(asked).map_err(refuse)?).await?;
        Ok(Response::new(PutResponse { version }))
    }

    async fn get(&self, mut request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let budget = request.extensions_mut().remove::<Budget>();
        let asked = request.into_inner();
        let consistency = consistency_from(asked.consistency).map_err(refuse)?;
        let name = collection_from(asked.collection).map_err(refuse)?;
        let key = key_from(asked.key).map_err(refuse)?;
        let reading = move |state: &StateView| {
            read::get(state.view.as_ref(), &name, &key)?.ok_or_else(|| {
                Failure::new(Code::RecordNotFound, format!("{name} holds no such key"))
            })
        };
        let (record, index) = self.reads.read(consistency, reading).await.map_err(refuse)?;
        let message = GetResponse { record: Some(record_to(record)), index };
        let bytes = encoded_bytes(&message);
        weighed(budget, message, bytes)
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let mut asked = request.into_inner();
        let session = asked.session.take();
        let (index, existed) = self.write(session, delete_command(asked).map_err(refuse)?).await?;
        Ok(Response::new(DeleteResponse { existed: existed[0], index }))
    }

    async fn batch(
        &self,
        request: Request<BatchRequest>,
    ) -> Result<Response<BatchResponse>, Status> {
        let asked = request.into_inner();
        let batch = batch_from(asked.writes).map_err(refuse)?;
        let (version, existed) = self.write(asked.session, batch).await?;
        Ok(Response::new(BatchResponse { version, existed }))
    }

    async fn scan(
        &self,
        mut request: Request<ScanRequest>,
    ) -> Result<Response<ScanResponse>, Status> {
        let budget = request.extensions_mut().remove::<Budget>();
        let mut asked = request.into_inner();
        let consistency = consistency_from(asked.consistency.take()).map_err(refuse)?;
        let name = collection_from(asked.collection.take()).map_err(refuse)?;
        let options = scan_from(asked).map_err(refuse)?;
        let reading = move |state: &StateView| {
            read::scan(state.view.as_ref(), &name, &options, state.index).map_err(Failure::from)
        };
        let (page, _) = self.reads.read(consistency, reading).await.map_err(refuse)?;
        let message = page_to(page);
        let bytes = encoded_bytes(&message);
        weighed(budget, message, bytes)
    }
}
