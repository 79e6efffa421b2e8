//! What a node has said it stands by, whatever its disk loses: its term, its vote, the entries it
//! acknowledged.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ratoon::raft::HardState;
use ratoon::types::{Index, NodeId, Term};

use super::message::{
    APPEND_RESPONSE, Message, PRE_VOTE_RESPONSE, REQUEST_PRE_VOTE, REQUEST_VOTE, VOTE_RESPONSE,
};

/// See the module.
#[derive(Default)]
pub struct Promises {
    terms: BTreeMap<NodeId, Term>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
}

impl Promises {
    /// A node starts with this hard state.
    pub fn boot(&mut self, node: NodeId, hard_state: HardState) -> Result<()> {
        let said = self.terms.get(&node).copied().unwrap_or(0);
        ensure!(
            hard_state.term >= said,
            "it has spoken in term {said} and wakes up in term {}",
            hard_state.term
        );
        Ok(())
    }

    /// A node sends a message; its log is of a term, and durable up to `synced`.
    ///
    /// An acknowledgement in an older term may name entries that a newer leader has replaced since.
    /// They were durable once, and nobody counts it any more: had they been committed by its like,
    /// the newer leader would hold them.
    pub fn sends(
        &mut self,
        node: NodeId,
        to: NodeId,
        sent: &Message,
        (log_term, synced): (Term, Index),
    ) -> Result<()> {
        if matches!(sent.kind, REQUEST_PRE_VOTE | PRE_VOTE_RESPONSE) {
            // Says nothing about the sender's own term.
            return Ok(());
        }
        let said = self.terms.entry(node).or_default();
        *said = (*said).max(sent.term);
        let vote = match sent.kind {
            REQUEST_VOTE => Some(node),
            VOTE_RESPONSE if !sent.reject => Some(to),
            _ => None,
        };
        if let Some(vote) = vote {
            let given = *self.votes.entry((node, sent.term)).or_insert(vote);
            ensure!(given == vote, "it votes for {given} and for {vote} in term {}", sent.term);
        }
        if sent.kind == APPEND_RESPONSE && !sent.reject && sent.term >= log_term {
            ensure!(
                sent.index <= synced,
                "it acknowledges entry {} while its log is durable up to {synced}",
                sent.index
            );
        }
        Ok(())
    }
}
