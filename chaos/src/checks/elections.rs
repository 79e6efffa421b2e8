//! Election safety: a term has at most one leader.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ratoon::types::{NodeId, Term};

/// See the module.
#[derive(Default)]
pub struct Elections {
    leaders: BTreeMap<Term, NodeId>,
    /// Which term each node leads, as far as it said.
    leading: BTreeMap<NodeId, Term>,
}

impl Elections {
    /// A node says that it leads. True: it says so for the first time.
    pub fn leads(&mut self, node: NodeId, term: Term) -> Result<bool> {
        let leader = *self.leaders.entry(term).or_insert(node);
        ensure!(leader == node, "term {term} has two leaders: {leader} and {node}");
        Ok(self.leading.insert(node, term) != Some(term))
    }

    /// A node forgets what it was.
    pub fn crash(&mut self, node: NodeId) {
        self.leading.remove(&node);
    }
}
