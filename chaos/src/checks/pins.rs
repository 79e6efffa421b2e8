//! Pins end: a receiver has at most one, only of a known node, and once faults are over none is left
//! to hold a log or a snapshot.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use ratoon::types::{Node, NodeId, Pin};

/// The pins that a node's state has, at any time.
pub fn check(node: NodeId, pins: &[Pin], nodes: &[Node]) -> Result<()> {
    let mut receivers = BTreeSet::new();
    for pin in pins {
        ensure!(
            receivers.insert(pin.receiver),
            "node {node} has two pins for receiver {}: {pins:?}",
            pin.receiver
        );
        ensure!(
            nodes.iter().any(|known| known.id == pin.receiver),
            "node {node} has a pin for {}, which is not enrolled",
            pin.receiver
        );
    }
    Ok(())
}

/// The pins that are left when all have converged.
pub fn check_released(node: NodeId, pins: &[Pin]) -> Result<()> {
    match pins.first() {
        Some(pin) => anyhow::bail!("node {node} has not released {pin:?}"),
        None => Ok(()),
    }
}
