//! Every transfer ends: once faults are over, no receiver pulls, nothing stays staged, and no source
//! holds a place for anybody.

use anyhow::{Result, ensure};
use ratoon::types::{NodeId, TransferStatus};

/// Where a node's pull stands, and whether anything is staged.
pub fn check_receiver(
    node: NodeId,
    status: Option<&TransferStatus>,
    is_staging_empty: bool,
) -> Result<()> {
    if let Some(status) = status {
        let (state, source, why) = (status.state.name(), status.source, &status.stall_reason);
        ensure!(
            status.state.is_final(),
            "the pull of node {node} from node {source} has not ended: {state} {why}"
        );
    }
    ensure!(is_staging_empty, "node {node} still keeps what a pull has staged");
    Ok(())
}

/// How many receivers hold a place at a source.
pub fn check_source(node: NodeId, places_taken: usize) -> Result<()> {
    ensure!(places_taken == 0, "node {node} holds {places_taken} places for nobody");
    Ok(())
}
