//! Log matching: an entry's index and term name its content and all that went before.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ratoon::raft::{LogStart, LogStore, LogWrite};
use ratoon::storage::memory::MemoryLog;
use ratoon::types::{Digest, Index, NodeId, Term};

/// See the module.
#[derive(Default)]
pub struct LogMatching {
    /// Content of every entry that was durable anywhere, and the term of the one before.
    entries: BTreeMap<(Index, Term), (Digest, Term)>,
    mirrors: BTreeMap<NodeId, Mirror>,
    /// Written and not durable yet; a crash may forget them before anybody has seen them.
    unsynced: BTreeMap<NodeId, Vec<(u64, Place)>>,
}

/// An entry: index, term, content, term of the one before.
type Place = (Index, Term, Digest, Term);

/// Terms of a node's log as its core asked to have it written.
struct Mirror {
    start: Index,
    /// Of the entry at `start` and all after it.
    terms: Vec<Term>,
}

impl Mirror {
    fn term(&self, index: Index) -> Option<Term> {
        self.terms.get(index.checked_sub(self.start)? as usize).copied()
    }

    fn last(&self) -> Index {
        self.start + self.terms.len() as u64 - 1
    }
}

impl LogMatching {
    /// A node starts from its log.
    pub fn boot(&mut self, node: NodeId, log: &MemoryLog) -> Result<()> {
        let LogStart { index: start, term } = log.start();
        let entries = log.entries(start + 1, log.last_index() + 1, u64::MAX)?;
        let mut terms = vec![term];
        self.unsynced.remove(&node);
        for entry in entries {
            let before = *terms.last().expect("it holds the start's");
            self.match_entry((entry.index, entry.term, Digest::of(&entry.bytes), before))?;
            terms.push(entry.term);
        }
        self.mirrors.insert(node, Mirror { start, terms });
        Ok(())
    }

    /// What a node has written is durable, up to a write's number.
    pub fn synced(&mut self, node: NodeId, number: u64) -> Result<()> {
        let unsynced = self.unsynced.entry(node).or_default();
        let places: Vec<_> = unsynced.extract_if(.., |(write, _)| *write <= number).collect();
        places.into_iter().try_for_each(|(_, place)| self.match_entry(place))
    }

    fn match_entry(&mut self, (index, term, content, before): Place) -> Result<()> {
        let known = *self.entries.entry((index, term)).or_insert((content, before));
        ensure!(
            known == (content, before),
            "two entries at index {index} of term {term}: {known:?}, {:?}",
            (content, before)
        );
        Ok(())
    }

    /// A node asks for a write.
    pub fn persists(&mut self, node: NodeId, number: u64, write: &LogWrite) -> Result<()> {
        let Some(first) = write.entries.first() else { return Ok(()) };
        let mirror = self.mirrors.get_mut(&node).expect("it has booted");
        ensure!(
            first.index > mirror.start && first.index <= mirror.last() + 1,
            "entries from {} do not fit a log that spans {} to {}",
            first.index,
            mirror.start,
            mirror.last()
        );
        mirror.terms.truncate((first.index - mirror.start) as usize);
        for entry in &write.entries {
            let before = *mirror.terms.last().expect("the start's term stays");
            ensure!(entry.term >= before, "entry {} has an older term than before", entry.index);
            let place = (entry.index, entry.term, Digest::of(&entry.bytes), before);
            self.unsynced.entry(node).or_default().push((number, place));
            mirror.terms.push(entry.term);
        }
        Ok(())
    }

    /// A node replaces its log by a snapshot.
    pub fn installs(&mut self, node: NodeId, start: LogStart) {
        self.mirrors.insert(node, Mirror { start: start.index, terms: vec![start.term] });
    }

    /// Term of an entry in a node's log.
    pub fn term(&self, node: NodeId, index: Index) -> Option<Term> {
        self.mirrors.get(&node)?.term(index)
    }

    /// The entry before the first and the last one of a node's log; None: it never booted.
    pub fn span(&self, node: NodeId) -> Option<(Index, Index)> {
        self.mirrors.get(&node).map(|mirror| (mirror.start, mirror.last()))
    }
}
