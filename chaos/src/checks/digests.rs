//! Replicas are equal at equal index, and so is a snapshot and what is made of it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ratoon::state::ContentDigest;
use ratoon::types::{Index, NodeId};

/// See the module.
#[derive(Default)]
pub struct Digests {
    known: BTreeMap<Index, (ContentDigest, NodeId)>,
    /// How often two were compared.
    pub compared: u64,
}

impl Digests {
    /// A replica's content.
    pub fn compare(&mut self, node: NodeId, digest: &ContentDigest) -> Result<()> {
        match self.known.get(&digest.index) {
            Some((known, other)) => {
                ensure!(
                    known == digest,
                    "at index {} it holds {digest:?}, node {other} {known:?}",
                    digest.index
                );
                self.compared += 1;
            }
            None => {
                self.known.insert(digest.index, (*digest, node));
            }
        }
        Ok(())
    }

    /// What some replica held at an index.
    pub fn at(&self, index: Index) -> Option<&(ContentDigest, NodeId)> {
        self.known.get(&index)
    }
}
