//! The log keeps what a crash would need again, and what a receiver's pin protects.

use anyhow::{Result, ensure};
use ratoon::raft::LogStart;
use ratoon::types::{Index, NodeId, Pin};

/// A node drops its log up to `start`; its state is durable up to `persisted`.
pub fn check(node: NodeId, start: LogStart, persisted: Index, pins: &[Pin]) -> Result<()> {
    ensure!(
        start.index <= persisted,
        "it drops the log up to {}, its state is durable up to {persisted}",
        start.index
    );
    for pin in pins.iter().filter(|pin| pin.receiver != node) {
        ensure!(
            start.index <= pin.index,
            "it drops the log up to {}, pinned from {} for node {}",
            start.index,
            pin.index,
            pin.receiver
        );
    }
    Ok(())
}
