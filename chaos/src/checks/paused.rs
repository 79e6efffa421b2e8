//! No peer is paused for ever: a member that lacks committed entries and pulls no snapshot gets
//! entries or an offer within a bounded time, once faults are over.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use ratoon::types::{Index, NodeId, Term};

/// How a leader sees a member that lives.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// What the leader knows it to hold.
    pub matched: Index,
    /// A snapshot is being pulled, opened or installed there.
    pub is_pulling: bool,
}

/// See the module.
#[derive(Default)]
pub struct Paused {
    term: Term,
    /// What each peer held when it last moved, and when that was, ms.
    still: BTreeMap<NodeId, (Index, u64)>,
}

impl Paused {
    /// A leader's view of its peers, from time to time.
    pub fn look(
        &mut self,
        now_ms: u64,
        term: Term,
        commit: Index,
        peers: &[Peer],
        patience_ms: u64,
    ) -> Result<()> {
        if self.term != term {
            self.term = term;
            self.still.clear();
        }
        for peer in peers {
            let (matched, since_ms) = self.still.entry(peer.node).or_insert((peer.matched, now_ms));
            if peer.is_pulling || peer.matched >= commit || peer.matched != *matched {
                (*matched, *since_ms) = (peer.matched, now_ms);
            }
            let still_ms = now_ms - *since_ms;
            ensure!(
                still_ms <= patience_ms,
                "node {} is paused: for {still_ms} ms of calm it has stood at {matched} of \
                 {commit}, and pulls nothing",
                peer.node
            );
        }
        Ok(())
    }
}
