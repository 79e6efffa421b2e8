//! What arrives on the raft lane: frames to the core, calls to their answers.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::calls;
use super::peers::Inbound;
use super::shared::Shared;
use crate::codec::DecodeError;
use crate::codec::peer::decode_envelope;
use crate::proto::internal::v1::{PullProgress, SnapshotReport, envelope};
use crate::raft::Input;
use crate::types::{Digest, NodeId, SnapshotId};

/// Calls of peers answered at once.
const CALLS_MAX: usize = 4096;

/// Runs until the peers' side closes.
pub(super) async fn run(shared: Arc<Shared>, mut inbound: mpsc::Receiver<Inbound>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    while let Some(next) = inbound.recv().await {
        match next {
            Inbound::Frame { from, address, bytes } => {
                if shared.members.refuse_removed(from).is_err() {
                    continue;
                }
                // A node that lags far behind may be led by one it never heard of.
                shared.peers.learn_address(from, address);
                match take_frame(&shared, from, bytes).await {
                    Ok(()) => {}
                    Err(error) => {
                        slog::warn!(shared.logger, "dropped a malformed frame"; "peer" => from.0,
                            "error" => %error);
                    }
                }
            }
            Inbound::Call { from, address, request, respond } => {
                // A learner that came back at another address campaigns never: it is heard by its
                // calls alone.
                if shared.members.refuse_removed(from).is_ok() {
                    shared.peers.learn_address(from, address);
                }
                let Ok(permit) = calls.clone().acquire_owned().await else { return };
                let shared = shared.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    let answer = calls::answer(&shared, from, request).await;
                    if respond.send(answer).is_err() {
                        // The caller went away; the outcome stands without it.
                    }
                });
            }
            Inbound::Unreachable(node) => {
                if !shared.inbox.put(Input::Unreachable(node)).await {
                    return;
                }
            }
        }
    }
}

async fn take_frame(shared: &Shared, from: NodeId, bytes: bytes::Bytes) -> Result<(), DecodeError> {
    let envelope = decode_envelope(bytes)?;
    if let Some(embedded) = envelope.embedded {
        shared.snapshots.take_embedded(embedded);
    }
    let input = match envelope.body {
        Some(envelope::Body::Raft(bytes)) => Input::Message { from, bytes },
        Some(envelope::Body::SnapshotReport(report)) => report_input(shared, from, report),
        Some(envelope::Body::PullProgress(progress)) => progress_input(from, progress)?,
        // Of a newer release; raft copes with lost messages.
        None => return Ok(()),
    };
    if !shared.inbox.put(input).await {
        slog::debug!(shared.logger, "dropped a frame: the node is stopping"; "peer" => from.0);
    }
    Ok(())
}

fn report_input(shared: &Shared, from: NodeId, report: SnapshotReport) -> Input {
    if !report.ok {
        slog::warn!(shared.logger, "a receiver could not take a snapshot"; "receiver" => from.0,
            "index" => report.index, "error" => report.reason);
    }
    Input::SnapshotReport { from, index: report.index, ok: report.ok }
}

fn progress_input(from: NodeId, progress: PullProgress) -> Result<Input, DecodeError> {
    Ok(Input::PullProgress {
        from,
        id: snapshot_id(&progress.snapshot_id)?,
        index: progress.index,
        source: NodeId(progress.source),
        wants_new_offer: progress.wants_new_offer,
    })
}

fn snapshot_id(bytes: &[u8]) -> Result<SnapshotId, DecodeError> {
    let bytes = <[u8; 32]>::try_from(bytes)
        .map_err(|_| DecodeError::malformed("a snapshot id", "not 32 bytes"))?;
    Ok(Digest(bytes))
}
