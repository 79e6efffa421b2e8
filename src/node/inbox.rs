//! The one queue into the raft thread, and the clock it is stamped by.
//!
//! What comes from outside (clients, peers) waits for room, so the queue is bounded; what reports
//! the end of work the core itself asked for never waits, so no thread can block another for ever.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::RAFT_QUEUE_MAX;
use crate::raft::Input;
use crate::types::Now;

/// One thing for the raft thread.
pub(super) enum Item {
    /// For the core; the permit is given back once it is taken.
    Input(Input, Option<OwnedSemaphorePermit>),
    /// Finish.
    Stop,
}

/// Way into the raft thread. Cheap to clone.
#[derive(Clone)]
pub(super) struct Inbox {
    sender: Sender<Item>,
    permits: Arc<Semaphore>,
}

impl Inbox {
    pub fn new() -> (Inbox, Receiver<Item>) {
        let (sender, receiver) = channel();
        (Inbox { sender, permits: Arc::new(Semaphore::new(RAFT_QUEUE_MAX)) }, receiver)
    }

    /// Puts in something from outside, once there is room. False: the node has stopped.
    pub async fn put(&self, input: Input) -> bool {
        let Ok(permit) = self.permits.clone().acquire_owned().await else { return false };
        self.sender.send(Item::Input(input, Some(permit))).is_ok()
    }

    /// Reports the end of something the core asked for. Never waits.
    pub fn report(&self, input: Input) {
        if self.sender.send(Item::Input(input, None)).is_err() {
            // The raft thread has ended, and with it everything that could use the report.
        }
    }

    pub fn stop(&self) {
        if self.sender.send(Item::Stop).is_err() {
            // It has stopped already.
        }
    }
}

/// Reads both clocks.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub fn new() -> Self {
        Clock { start: Instant::now() }
    }

    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now {
            monotonic_ms: self.start.elapsed().as_millis() as u64,
            unix_ms: unix.as_millis() as u64,
        }
    }
}
