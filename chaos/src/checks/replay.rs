//! The committed log, applied once more to a fresh state: what replicas should have answered.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use ratoon::codec;
use ratoon::kv::Batch;
use ratoon::state::{ContentDigest, State, content_digest, genesis};
use ratoon::storage::memory::MemoryState;
use ratoon::types::{
    Action, ClusterId, Command, Committed, Failure, Index, Payload, Reply, WriteBatch,
};

use super::DIGEST_EVERY;
use super::digests::Digests;
use crate::cluster;

/// What came of each entry.
#[derive(Default)]
pub struct Replay {
    /// Batches that were executed, with their answer, by index.
    pub executed: BTreeMap<Index, (WriteBatch, Result<Reply, Failure>)>,
    /// Values of each key: from which index on, None: deleted.
    pub versions: BTreeMap<Vec<u8>, Vec<(Index, Option<Bytes>)>>,
    /// The state's content at the indexes that were asked for.
    pub contents: BTreeMap<Index, ContentDigest>,
}

impl Replay {
    /// Applies all entries, compares the digests that replicas computed on the way, and takes some
    /// of its own.
    pub fn run(
        cluster: ClusterId,
        entries: &[Committed],
        digests: &Digests,
        indexes: &BTreeSet<Index>,
    ) -> Result<Self> {
        let db = MemoryState::new();
        db.write(&genesis(&cluster::genesis(cluster)))?;
        let mut state = State::load(&*db.view())?;
        let mut replay = Replay::default();
        if indexes.contains(&state.applied()) {
            replay.contents.insert(state.applied(), content_digest(&*db.view())?);
        }
        for entry in entries {
            let mut batch = Batch::default();
            let outcome = state
                .apply(&db.latest(), &mut batch, entry)
                .with_context(|| format!("replaying entry {}", entry.index))?;
            db.write(&batch)?;
            if let Some(writes) = writes_of(entry)
                && outcome.index == entry.index
            {
                replay.note(entry.index, writes, outcome.reply);
            }
            let known =
                digests.at(entry.index).filter(|_| entry.index.is_multiple_of(DIGEST_EVERY));
            let is_wanted = indexes.contains(&entry.index);
            if known.is_none() && !is_wanted {
                continue;
            }
            let content = content_digest(&*db.view())?;
            if let Some((digest, node)) = known {
                ensure!(
                    content == *digest,
                    "node {node} held {digest:?}, a replay of the log holds {content:?}"
                );
            }
            if is_wanted {
                replay.contents.insert(entry.index, content);
            }
        }
        Ok(replay)
    }

    /// The version and value of a key at an index.
    pub fn value_at(&self, key: &[u8], index: Index) -> Option<(Index, Bytes)> {
        let versions = self.versions.get(key)?;
        let (version, value) = versions.iter().rev().find(|(version, _)| *version <= index)?;
        value.clone().map(|value| (*version, value))
    }

    fn note(&mut self, index: Index, batch: WriteBatch, reply: Result<Reply, Failure>) {
        if reply.is_ok() {
            for write in &batch.writes {
                let value = match &write.action {
                    Action::Put { value, .. } => Some(value.clone()),
                    Action::Delete => None,
                    Action::Check => continue,
                };
                self.versions.entry(write.key.to_vec()).or_default().push((index, value));
            }
        }
        self.executed.insert(index, (batch, reply));
    }
}

fn writes_of(entry: &Committed) -> Option<WriteBatch> {
    let Payload::Command(bytes) = &entry.payload else { return None };
    let (_, request) = codec::decode_entry(bytes.clone()).ok()?;
    match codec::decode_request(request).ok()?.command {
        Command::Write(batch) => Some(batch),
        _ => None,
    }
}
