//! The applied index never goes back while a process lives, and a crash takes it back at most to
//! what was flushed.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ratoon::types::{Index, NodeId};

/// See the module.
#[derive(Default)]
pub struct Applied {
    applied: BTreeMap<NodeId, Index>,
    flushed: BTreeMap<NodeId, Index>,
}

impl Applied {
    /// A node starts with a state at this index.
    pub fn boot(&mut self, node: NodeId, applied: Index) -> Result<()> {
        let flushed = self.flushed.get(&node).copied().unwrap_or(0);
        ensure!(applied >= flushed, "the state is at {applied}, but {flushed} was flushed");
        self.applied.insert(node, applied);
        Ok(())
    }

    /// Where a node stands.
    pub fn progress(&mut self, node: NodeId, applied: Index) -> Result<()> {
        let before = self.applied.insert(node, applied).unwrap_or(0);
        ensure!(applied >= before, "the applied index goes back from {before} to {applied}");
        Ok(())
    }

    /// A node was told that its state is durable up to here.
    pub fn flushed(&mut self, node: NodeId, index: Index) {
        let flushed = self.flushed.entry(node).or_default();
        *flushed = (*flushed).max(index);
    }
}
