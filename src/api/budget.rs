//! The bytes that requests and answers may hold in memory, over all connections.
//!
//! A request reserves as its body arrives, an answer before it is encoded; both give back when they
//! are gone. When nothing is left the caller is told to come back later: waiting here could wait for
//! ever, since everyone may hold a part. Never counts what the node itself holds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::limits;
use crate::proto::status::failure_to_status;
use crate::types::{Code, Failure};

/// Bytes that one permit of the semaphore stands for.
const UNIT_BYTES: usize = limits::KIB;

/// Bytes yet to be reserved.
#[derive(Clone)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
}

/// Bytes reserved until it is dropped. Cheap to clone: the last clone gives back.
#[derive(Clone)]
pub(super) struct Reservation {
    _units: Arc<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        Budget { units: Arc::new(Semaphore::new(bytes / UNIT_BYTES)) }
    }

    /// Reserves room for `bytes`, or fails at once.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Reservation, Failure> {
        Ok(Reservation { _units: Arc::new(self.take(bytes)?) })
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Failure> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.units).try_acquire_many_owned(units).map_err(|_| {
            Failure::new(Code::Overloaded, "too many bytes of requests and answers are under way")
                .hint("retry in a moment, with fewer or smaller requests at once")
        })
    }

    /// The body of a request, reserving for every byte that arrives. What it reserved is given back
    /// when the returned meter is gone.
    pub(super) fn meter(&self, body: Body) -> (Body, Meter) {
        let meter = Meter { held: Arc::new(Mutex::new(None)) };
        let (budget, held) = (self.clone(), Arc::clone(&meter.held));
        let stream = body.into_data_stream().map(move |item| {
            let data = item.map_err(|error| Status::from_error(Box::new(error)))?;
            let more = budget.take(data.len()).map_err(|failure| failure_to_status(&failure))?;
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            match held.as_mut() {
                Some(permit) => permit.merge(more),
                None => *held = Some(more),
            }
            Ok::<Bytes, Status>(data)
        });
        (Body::from_stream(stream), meter)
    }
}

/// Holds what a request's body has reserved.
pub(super) struct Meter {
    held: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The body of an answer, which keeps something until the last byte of it is sent.
pub(super) struct Holding<T> {
    /// The answer itself, trailers included.
    body: Body,
    /// Dropped with the body.
    _kept: T,
}

impl<T> Holding<T> {
    /// `body`, keeping `kept` alive.
    pub(super) fn new(body: Body, kept: T) -> Self {
        Holding { body, _kept: kept }
    }
}

impl<T: Unpin> HttpBody for Holding<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
