//! What MsgSnapshot refers to, and how a pull is getting on.

use super::{ClusterId, Index, NodeId, SnapshotId};

/// All that MsgSnapshot carries: who has which snapshot. Under 4 KiB whatever the state's size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotReference {
    /// Digest of the manifest.
    pub id: SnapshotId,
    /// Checked before anything is pulled.
    pub cluster: ClusterId,
    /// Bytes of all parts.
    pub total_bytes: u64,
    /// Number of parts.
    pub parts: u32,
    /// Bytes of the encoded manifest.
    pub manifest_bytes: u64,
    /// Who holds it, best first.
    pub sources: Vec<SnapshotSource>,
}

/// A node that holds a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotSource {
    /// The node.
    pub node: NodeId,
    /// Its bulk endpoint, `host:port`.
    pub bulk_address: String,
}

/// Where a pull stands. The order is the order of life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransferState {
    /// A reference has arrived.
    Offered,
    /// Asking the source for the manifest.
    FetchingManifest,
    /// Working out what is missing.
    Planning,
    /// Bytes on the way.
    Pulling,
    /// All bytes here; digests being checked.
    Verifying,
    /// Verified and fsynced.
    Durable,
    /// Handed to raft.
    Stepped,
    /// The node runs on it.
    Installed,
    /// Not needed any more: the log caught up, or a newer snapshot took over.
    Superseded,
    /// Given up; says why.
    Failed(String),
}

impl TransferState {
    /// The state's name, as shown and sent.
    pub fn name(&self) -> &'static str {
        match self {
            TransferState::Offered => "Offered",
            TransferState::FetchingManifest => "FetchingManifest",
            TransferState::Planning => "Planning",
            TransferState::Pulling => "Pulling",
            TransferState::Verifying => "Verifying",
            TransferState::Durable => "Durable",
            TransferState::Stepped => "Stepped",
            TransferState::Installed => "Installed",
            TransferState::Superseded => "Superseded",
            TransferState::Failed(_) => "Failed",
        }
    }

    /// Whether it will not move again.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            TransferState::Installed | TransferState::Superseded | TransferState::Failed(_)
        )
    }
}

/// A pull as its receiver tells it. Counters run over all restarts of the receiver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransferStatus {
    /// The snapshot being pulled.
    pub snapshot: SnapshotId,
    /// The log index it stands for.
    pub index: Index,
    /// Who pulls.
    pub receiver: NodeId,
    /// From whom.
    pub source: NodeId,
    /// Where it stands.
    pub state: TransferState,
    /// Bytes of the snapshot.
    pub total_bytes: u64,
    /// Bytes of it staged here.
    pub done_bytes: u64,
    /// Over the last few seconds.
    pub bytes_per_second: u64,
    /// Bytes staged when it last resumed; 0: never resumed.
    pub resumed_from_bytes: u64,
    /// How often it went on after a cut or a restart with bytes in flight or staged.
    pub resumes: u64,
    /// Bytes that arrived more than once for one (snapshot, part, chunk).
    pub resent_bytes: u64,
    /// Bytes pulled and given up for another snapshot.
    pub discarded_bytes: u64,
    /// Bytes taken from parts already here, by equal digest.
    pub reused_bytes: u64,
    /// Payload bytes received since the first offer.
    pub received_bytes: u64,
    /// Why nothing moves; empty while bytes flow.
    pub stall_reason: String,
    /// Bytes of the MsgSnapshot that offered it.
    pub message_bytes: u64,
    /// When it began.
    pub started_unix_ms: u64,
    /// When it ended; 0 while it runs.
    pub finished_unix_ms: u64,
}
