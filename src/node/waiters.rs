//! Requests of this node's clients that wait for the core's answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::raft::{Answer, Waiter};
use crate::types::{Code, Failure};

/// What a waiter gets.
pub(super) enum Outcome {
    /// A request's answer.
    Answer(Result<Answer, Failure>),
    /// A read may be served.
    ReadReady,
}

/// All waiters of a node.
#[derive(Default)]
pub(super) struct Waiters {
    next: AtomicU64,
    waiting: Mutex<HashMap<Waiter, oneshot::Sender<Outcome>>>,
}

impl Waiters {
    /// A new waiter and where its outcome arrives.
    pub fn add(&self) -> (Waiter, oneshot::Receiver<Outcome>) {
        let waiter = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(waiter, sender);
        (waiter, receiver)
    }

    /// Hands a waiter its outcome.
    pub fn finish(&self, waiter: Waiter, outcome: Outcome) {
        if let Some(sender) = self.lock().remove(&waiter)
            && sender.send(outcome).is_err()
        {
            // The client went away; the outcome stands without it.
        }
    }

    /// The node stops: nobody will be answered any more.
    pub fn abandon(&self) {
        for (_, sender) in self.lock().drain() {
            let failure = Failure::new(Code::OutcomeUnknown, "the node is shutting down")
                .hint("retry at another node, in the same session");
            if sender.send(Outcome::Answer(Err(failure))).is_err() {
                // The client went away first.
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Waiter, oneshot::Sender<Outcome>>> {
        self.waiting.lock().expect("no code panics while it holds this lock")
    }
}
