//! Leader completeness: a new leader holds everything that was committed in earlier terms, as
//! entries or under its snapshot.

use anyhow::{Context, Result, ensure};
use ratoon::types::{NodeId, Term};

use super::committed::CommittedLog;
use super::log_matching::LogMatching;

/// A node leads `term` from now on.
pub fn check(node: NodeId, term: Term, logs: &LogMatching, committed: &CommittedLog) -> Result<()> {
    let Some((index, entry_term)) = committed.before_term(term) else { return Ok(()) };
    let (start, last) = logs.span(node).context("a node leads that never booted")?;
    if index <= start {
        return Ok(());
    }
    let found = logs.term(node, index);
    ensure!(
        found == Some(entry_term),
        "the leader of term {term} lacks entry {index} of term {entry_term}, committed before: it \
         holds {start} to {last}, there of term {found:?}"
    );
    Ok(())
}
