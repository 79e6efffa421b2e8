//! Log matching and leader completeness: an entry's index and term name its content and all that
//! went before, and a new leader holds everything that was committed in earlier terms.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ratoon::raft::{LogStart, LogStore, LogWrite};
use ratoon::storage::memory::MemoryLog;
use ratoon::types::{Digest, Index, NodeId, Term};

use super::committed::CommittedLog;

/// See the module.
#[derive(Default)]
pub struct LogMatching {
    /// Content of every entry ever written, and the term of the one before.
    entries: BTreeMap<(Index, Term), (Digest, Term)>,
    mirrors: BTreeMap<NodeId, Mirror>,
}

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
    pub fn boot(&mut self, node: NodeId, log: &MemoryLog) {
        let start = log.start().index;
        let term = |index| log.term(index).expect("memory does not fail").expect("inside the log");
        let terms = (start..=log.last_index()).map(term).collect();
        self.mirrors.insert(node, Mirror { start, terms });
    }

    /// A node asks for a write.
    pub fn persists(&mut self, node: NodeId, write: &LogWrite) -> Result<()> {
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
            let content = (Digest::of(&entry.bytes), before);
            let known = self.entries.entry((entry.index, entry.term)).or_insert(content);
            ensure!(
                *known == content,
                "two entries at index {} of term {}: {known:?}, {content:?}",
                entry.index,
                entry.term
            );
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

    /// A node leads from now on.
    pub fn check_leader(&self, node: NodeId, term: Term, committed: &CommittedLog) -> Result<()> {
        let Some((index, entry_term)) = committed.before_term(term) else { return Ok(()) };
        let mirror = self.mirrors.get(&node).expect("it has booted");
        if index <= mirror.start {
            return Ok(());
        }
        ensure!(
            mirror.term(index) == Some(entry_term),
            "the leader of term {term} lacks entry {index} of term {entry_term}, committed before: \
             it holds {} to {}, there of term {:?}",
            mirror.start,
            mirror.last(),
            mirror.term(index)
        );
        Ok(())
    }
}
