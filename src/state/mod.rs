//! The replicated state machine: namespaces, collections, records, sessions, nodes, pins, tokens.
//!
//! It turns committed entries into writes of the state database, and views of that database into
//! answers to reads. Every replica that applies the same entries holds the same rows, however the
//! entries were batched: nothing here reads a clock, draws a random number or depends on the order
//! of a hash map. It knows neither Raft nor the network, and never writes by itself: the caller
//! writes the batch.
//!
//! `State::apply` is the way in for entries, `read` for reads, `digest` for the proof that replicas
//! are equal.

mod apply;
mod collections;
mod digest;
mod error;
mod genesis;
mod key;
mod membership;
mod overlay;
pub mod read;
mod records;
mod rows;
mod scan;
mod sessions;
mod tokens;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::codec::stored::{self, Counters};
use crate::kv::{Batch, View};
use crate::types::{
    ClusterId, Committed, ConfState, Failure, Index, Node, NodeId, Pin, Reply, Term,
};

pub use digest::{ContentDigest, DigestRun, content_digest};
pub use error::{RequestError, StateError};
pub use genesis::{DEFAULT_NAMESPACE, Genesis, genesis};
pub use records::validate_writes;

use self::key::{Key, Kind};
use self::overlay::{Overlay, Transaction};

/// The state machine. It keeps the few rows that nearly every entry needs in memory.
///
/// After an `Err` of `apply` it must be thrown away: it may have done half of an entry.
#[derive(Debug)]
pub struct State {
    facts: Facts,
    overlay: Overlay,
}

/// The rows kept in memory, equal to what the store and the batch hold.
#[derive(Clone, PartialEq, Debug)]
struct Facts {
    applied: stored::Applied,
    conf_state: ConfState,
    cluster: ClusterId,
    counters: Counters,
    /// Enrolled nodes by id.
    nodes: BTreeMap<NodeId, Node>,
    /// Pins by receiver.
    pins: BTreeMap<NodeId, Pin>,
}

/// What came of one entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Where the command was executed: the entry's own index, or an earlier one when a session had
    /// it executed before. It is the version of what the command wrote.
    pub index: Index,
    /// What to answer to whoever proposed it; the same on every replica.
    pub reply: Result<Reply, Failure>,
    /// `pins()` may answer otherwise than before.
    pub pins_changed: bool,
    /// `nodes()` may answer otherwise than before.
    pub nodes_changed: bool,
    /// The entry asks every replica for the digest of its content at exactly this index.
    pub digest_due: bool,
}

impl State {
    /// The state machine at the applied index that `view` holds.
    pub fn load(view: &dyn View) -> Result<State, StateError> {
        let cluster: stored::Cluster = rows::required(view, &Key::Cluster)?;
        let mut nodes = BTreeMap::new();
        rows::each(view, &Kind::nodes(), |key, value| {
            if let Key::Node(id) = key {
                nodes.insert(id, rows::decode::<stored::Node>(&key, value)?.into_node(id));
            }
            Ok(())
        })?;
        let mut pins = BTreeMap::new();
        rows::each(view, &Kind::pins(), |key, value| {
            if let Key::Pin(receiver) = key {
                pins.insert(receiver, rows::decode::<stored::Pin>(&key, value)?.into_pin(receiver));
            }
            Ok(())
        })?;
        let facts = Facts {
            applied: rows::required(view, &Key::Applied)?,
            conf_state: rows::required::<stored::ConfState>(view, &Key::ConfState)?.into(),
            cluster: ClusterId(cluster.id),
            counters: rows::required(view, &Key::Counters)?,
            nodes,
            pins,
        };
        Ok(State { facts, overlay: Overlay::default() })
    }

    /// Applies the next committed entry: its writes are added to `batch`, which the caller writes
    /// to the store that `view` shows, whenever it likes.
    ///
    /// Several entries may go into one batch, and any batch may be the last before a crash: each
    /// entry also writes its own index. `batch` must be empty, or hold the writes of the entries
    /// before this one that are not in `view` yet, and nothing else.
    pub fn apply(
        &mut self,
        view: &dyn View,
        batch: &mut Batch,
        committed: &Committed,
    ) -> Result<Outcome, StateError> {
        let transaction = Transaction::new(view, batch, &mut self.overlay);
        apply::apply(&mut self.facts, transaction, committed)
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> Index {
        self.facts.applied.index
    }

    /// Term of the last applied entry.
    pub fn applied_term(&self) -> Term {
        self.facts.applied.term
    }

    /// Membership at the applied index.
    pub fn conf_state(&self) -> &ConfState {
        &self.facts.conf_state
    }

    /// The cluster's id.
    pub fn cluster(&self) -> ClusterId {
        self.facts.cluster
    }

    /// Commit time of the last applied entry.
    pub fn last_time_unix_ms(&self) -> u64 {
        self.facts.applied.time_unix_ms
    }

    /// All pins, by receiver.
    pub fn pins(&self) -> Vec<Pin> {
        self.facts.pins.values().cloned().collect()
    }

    /// All enrolled nodes, by id.
    pub fn nodes(&self) -> Vec<Node> {
        self.facts.nodes.values().cloned().collect()
    }
}

/// Key in the family `Meta` of the row that says how far the log is applied, for a store that can
/// read what has become durable.
pub fn applied_key() -> Vec<u8> {
    Key::Applied.encode()
}

/// Index and term that the row under `applied_key` holds.
pub fn decode_applied(row: &[u8]) -> Result<(Index, Term), StateError> {
    let applied: stored::Applied = rows::decode(&Key::Applied, row)?;
    Ok((applied.index, applied.term))
}
