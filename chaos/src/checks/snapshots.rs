//! A snapshot equals the state at its index: where it was built, where it was opened after a pull,
//! and where the log is applied once more.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use ratoon::state::ContentDigest;
use ratoon::types::{Index, NodeId, SnapshotId};

use super::replay::Replay;

/// See the module.
#[derive(Default)]
pub struct Snapshots {
    built: BTreeMap<SnapshotId, ContentDigest>,
}

impl Snapshots {
    /// A node built a snapshot that says it stands for `index`, and holds this.
    pub fn built(&mut self, id: SnapshotId, index: Index, content: &ContentDigest) -> Result<()> {
        let holds = content.index;
        ensure!(holds == index, "snapshot {id} says it stands for {index} and holds {holds}");
        self.built.insert(id, *content);
        Ok(())
    }

    /// A node opened what it pulled.
    pub fn opened(&self, node: NodeId, id: SnapshotId, content: &ContentDigest) -> Result<()> {
        let built = self.built.get(&id).context("a snapshot was opened that nobody built")?;
        ensure!(
            built == content,
            "node {node} opened snapshot {id} and found {content:?}, it was built of {built:?}"
        );
        Ok(())
    }

    /// At which indexes the log is to be looked at again.
    pub fn indexes(&self) -> BTreeSet<Index> {
        self.built.values().map(|content| content.index).collect()
    }

    /// Compares every snapshot with what the log makes.
    pub fn check_against(&self, replay: &Replay) -> Result<()> {
        for (id, content) in &self.built {
            let expected = replay.contents.get(&content.index);
            ensure!(
                expected == Some(content),
                "snapshot {id} holds {content:?}, the log makes {expected:?}"
            );
        }
        Ok(())
    }
}
