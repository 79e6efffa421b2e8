//! Reads of the state: a view as fresh as asked, then the reading itself on the blocking pool.
//!
//! Bounded in two ways: so many readings run at once, and an answer reserves its bytes before it is
//! encoded. Knows nothing of messages.

use std::sync::Arc;

use slog::{Logger, error};
use tokio::sync::Semaphore;

use crate::limits;
use crate::node::{Handle, StateView};
use crate::types::{Code, Consistency, Failure, Index};

/// Reads for all services; cheap to clone.
#[derive(Clone)]
pub(super) struct Reads {
    handle: Handle,
    running: Arc<Semaphore>,
    logger: Logger,
}

impl Reads {
    /// Reads the state of `handle`'s node.
    pub(super) fn new(handle: Handle, logger: Logger) -> Self {
        let running = Arc::new(Semaphore::new(limits::API_READS_RUNNING_MAX));
        Reads { handle, running, logger }
    }

    /// What `reading` finds in a view that is as fresh as asked, and the view's index.
    ///
    /// Cancellation safe: a dropped future leaves at most one reading to end by itself.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        consistency: Consistency,
        reading: impl FnOnce(&StateView) -> Result<T, Failure> + Send + 'static,
    ) -> Result<(T, Index), Failure> {
        let view = self.handle.view(consistency).await?;
        let permit = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Failure::new(Code::ShuttingDown, "the node is shutting down"))?;
        let logger = self.logger.clone();
        tokio::task::spawn_blocking(move || {
            // Held by the reading, not by who waits for it: the pool stays bounded when callers leave.
            let _running = permit;
            reading(&view).map(|found| (found, view.index))
        })
        .await
        .unwrap_or_else(|problem| {
            error!(logger, "a read of the state ended badly"; "problem" => problem.to_string());
            Err(Failure::new(Code::Internal, "the read ended badly; the node's log says more"))
        })
    }
}
