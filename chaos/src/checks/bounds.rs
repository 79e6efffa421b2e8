//! Memory and disk of a node are bounded, whatever happens: queues, waiters, bytes on their way, and
//! what is kept.

use anyhow::{Result, ensure};

/// Something of a node that could grow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Resource {
    /// Inputs that wait for the core.
    Inputs,
    /// Requests that wait for their outcome.
    Waiters,
    /// Received bytes of snapshots that wait for the disk.
    UnwrittenBytes,
    /// Bytes of chunks that a source has read ahead of the network.
    BytesReadAhead,
    /// Bytes of staged snapshots.
    StagedBytes,
    /// Snapshots in the store.
    StoredSnapshots,
    /// Generations of the state on disk.
    Generations,
    /// Bytes of the log.
    LogBytes,
}

/// How much of it a node uses, and how much it may.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Of what.
    pub resource: Resource,
    /// How much.
    pub used: u64,
    /// At most.
    pub bound: u64,
}

/// Holds a node's usage against its bounds.
pub fn check(usages: &[Usage]) -> Result<()> {
    for Usage { resource, used, bound } in usages {
        ensure!(used <= bound, "{resource:?} reaches {used}, the bound is {bound}");
    }
    Ok(())
}
