//! What a node uses of memory and disk, held against what it may.

use anyhow::Result;
use ratoon::limits::{BULK_PIECE_BYTES_MAX, RAFT_QUEUE_MAX};
use ratoon::types::NodeId;

use super::World;
use crate::checks::bounds::{self, Resource, Usage};
use crate::checks::pins;

/// Waiters of one node: a handful of callers, each of which gives up after a while and tries again
/// elsewhere. One that is never answered would add up.
const WAITERS_MAX: u64 = 1_000;

impl World {
    /// Looks at one node that runs.
    pub(super) fn check_bounds(&mut self, node: NodeId) -> Result<()> {
        let usages = self.usages(node);
        bounds::check(&usages)?;
        let Some(process) = &self.machine(node).process else { return Ok(()) };
        match process.live.is_some() {
            true => pins::check(node, &process.pins, &process.nodes),
            false => Ok(()),
        }
    }

    /// What is left of a node's log once nothing holds it any more: its soft budget, and what is not
    /// flushed yet.
    pub(super) fn check_compacted(&self, node: NodeId) -> Result<()> {
        let Some(process) = &self.machine(node).process else { return Ok(()) };
        let settings = &self.settings;
        let bound = settings.log_bytes_soft + 2 * settings.flush_bytes + ENTRIES_AT_ONCE_BYTES;
        let used = process.core.log_bytes();
        bounds::check(&[Usage { resource: Resource::LogBytes, used, bound }])
    }

    fn usages(&self, node: NodeId) -> Vec<Usage> {
        let machine = self.machine(node);
        let Some(process) = &machine.process else { return Vec::new() };
        let transfer = &self.settings.transfer;
        let chunk_bytes = u64::from(self.settings.chunk_bytes);
        // Half of a chunk a stream waits for the disk; reading stops above, a piece too late.
        let unwritten_max = (chunk_bytes * transfer.streams as u64 / 2)
            .min(transfer.unwritten_bytes_max)
            + BULK_PIECE_BYTES_MAX as u64;
        let unwritten = process.bulk.unwritten_bytes().into_values().sum();
        let (read_ahead, receivers) = self.bytes_read_ahead(node);
        let pinned = process.pins.iter().filter(|pin| pin.snapshot.is_some()).count();
        let stored_max = self.settings.snapshots_kept + pinned;
        let usage = |resource, used, bound| Usage { resource, used, bound };
        vec![
            usage(Resource::Inputs, process.inbox.len() as u64, RAFT_QUEUE_MAX as u64),
            usage(Resource::Waiters, process.waiters.len() as u64, WAITERS_MAX),
            usage(Resource::UnwrittenBytes, unwritten, unwritten_max),
            usage(
                Resource::BytesReadAhead,
                read_ahead,
                transfer.buffer_bytes_max + receivers * chunk_bytes,
            ),
            // What is pulled, and what was pulled before and may be reused.
            usage(Resource::StagedBytes, machine.disk.staging.bytes(), 2 * self.snapshot_bytes_max),
            usage(
                Resource::StoredSnapshots,
                machine.disk.snapshots.len() as u64,
                stored_max as u64,
            ),
            usage(Resource::Generations, machine.disk.generations.len() as u64, 2),
            usage(Resource::LogBytes, process.core.log_bytes(), self.log_bytes_max()),
        ]
    }

    /// Over the hard budget the log is dropped past live followers, and over the pins' budget past
    /// pins; what is not flushed yet stays besides.
    fn log_bytes_max(&self) -> u64 {
        let settings = &self.settings;
        settings.log_bytes_hard.max(settings.pin_bytes_max).max(self.snapshot_bytes_max)
            + 2 * settings.flush_bytes
            + LOG_SLACK_BYTES
    }
}

/// What may be handed to apply at once, after which the state is flushed.
const ENTRIES_AT_ONCE_BYTES: u64 = 40_000;
/// What clients may write while a compaction, a flush and the release of a pin are under way.
const LOG_SLACK_BYTES: u64 = 300_000;
