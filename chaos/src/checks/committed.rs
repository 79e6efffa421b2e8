//! State machine safety: whoever hands out an index hands out the same entry, without gaps.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use ratoon::codec;
use ratoon::types::{Command, Committed, Index, NodeId, Payload, Term};

/// The first index that is an entry: the founding state stands at 1.
pub const FIRST_INDEX: Index = 2;

/// See the module.
#[derive(Default)]
pub struct CommittedLog {
    /// From `FIRST_INDEX` on.
    entries: Vec<Committed>,
    /// What each node is to hand out next.
    next: BTreeMap<NodeId, Index>,
    /// The highest commit index a node knew of in a term, and that entry's term.
    commits: BTreeMap<Term, (Index, Term)>,
    removed: BTreeSet<NodeId>,
}

impl CommittedLog {
    /// A node begins here.
    pub fn expect_next(&mut self, node: NodeId, index: Index) {
        self.next.insert(node, index);
    }

    /// A node hands entries to apply. Answers how many nobody had handed out before.
    pub fn hands_out(&mut self, node: NodeId, entries: &[Committed]) -> Result<u64> {
        let next = self.next.get_mut(&node).expect("it has booted");
        let mut new = 0;
        for entry in entries {
            ensure!(entry.index == *next, "it hands out {} where {next} is next", entry.index);
            *next += 1;
            let place = (entry.index - FIRST_INDEX) as usize;
            match self.entries.get(place) {
                Some(known) => ensure!(
                    known == entry,
                    "two entries at index {}: {known:?}, {entry:?}",
                    entry.index
                ),
                None => {
                    ensure!(place == self.entries.len(), "index {} leaves a gap", entry.index);
                    self.removed.extend(removed_by(entry));
                    self.entries.push(entry.clone());
                    new += 1;
                }
            }
        }
        Ok(new)
    }

    /// A node in a term knows that an index, with an entry of some term, is committed.
    pub fn note_commit(&mut self, term: Term, index: Index, entry_term: Option<Term>) {
        let Some(entry_term) = entry_term.filter(|_| index > 0) else { return };
        let known = self.commits.entry(term).or_insert((index, entry_term));
        *known = (*known).max((index, entry_term));
    }

    /// The last entry known to be committed in a term before `term`.
    pub fn before_term(&self, term: Term) -> Option<(Index, Term)> {
        self.commits.range(..term).map(|(_, entry)| *entry).max()
    }

    /// Whether a node was removed.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    /// The last committed entry; the founding state stands before the first.
    pub fn last_index(&self) -> Index {
        FIRST_INDEX - 1 + self.entries.len() as u64
    }

    /// All committed entries, from `FIRST_INDEX` on.
    pub fn entries(&self) -> &[Committed] {
        &self.entries
    }
}

/// Whether one of these entries removes a node.
pub fn removes(node: NodeId, entries: &[Committed]) -> bool {
    entries.iter().any(|entry| removed_by(entry) == Some(node))
}

fn removed_by(entry: &Committed) -> Option<NodeId> {
    let Payload::ConfChange { context, .. } = &entry.payload else { return None };
    let (_, request) = codec::decode_entry(context.clone()).ok()?;
    match codec::decode_request(request).ok()?.command {
        Command::RemoveNode(node) => Some(node),
        _ => None,
    }
}
