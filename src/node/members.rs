//! Who is of the cluster, asked for each peer that speaks, on either lane.
//!
//! A certificate proves an id, and goes on doing so after the node was removed; that it was removed
//! the replicated state remembers. Judges nobody by what it does not know: this node may lag behind
//! the entry that enrolled the other.

use std::sync::Arc;

use tokio::sync::watch;

use super::live::Live;
use crate::state::read;
use crate::types::{Code, Failure, Node, NodeId};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Members {
    nodes: watch::Receiver<Vec<Node>>,
    live: Arc<Live>,
}

impl Members {
    pub fn new(nodes: watch::Receiver<Vec<Node>>, live: Arc<Live>) -> Self {
        Members { nodes, live }
    }

    /// Refuses a node that was removed.
    pub fn refuse_removed(&self, from: NodeId) -> Result<(), Failure> {
        if self.nodes.borrow().iter().any(|node| node.id == from) {
            return Ok(());
        }
        // Before its first state a joiner knows nobody and can only trust certificates.
        let Some((_, db)) = self.live.current() else { return Ok(()) };
        let removed = read::removed_at(&*db.view(), from)?;
        let Some(index) = removed else { return Ok(()) };
        let message = format!("node {from} was removed from this cluster, at index {index}");
        Err(Failure::new(Code::Unauthenticated, message).hint(
            "a removed node comes back as a new one: empty its data directory and join again",
        ))
    }
}
