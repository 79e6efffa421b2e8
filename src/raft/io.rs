//! Everything that goes into the core and everything that comes out of it.
//!
//! Two closed enums. A runtime that carries out each `Output` and reports back with the `Input`
//! that its documentation names runs the whole node; the simulation is one such runtime.

use bytes::Bytes;

use super::{HardState, LogEntry, LogStart, LogWrite};
use crate::types::{
    Committed, ConfState, Failure, Index, MembershipChange, Node, NodeId, Pin, Reply, Role,
    SnapshotId, SnapshotReference, Term,
};

/// Names a request that waits for its outcome; drawn by the runtime, unique while it waits.
pub type Waiter = u64;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// One tick of raft's clock has passed.
    Tick,
    /// A raft message arrived from an authenticated peer.
    Message {
        /// Who sent it, by its certificate.
        from: NodeId,
        /// A serialized raft message.
        bytes: Bytes,
    },
    /// A client, or a peer on a client's behalf, asks for something.
    Client {
        /// Answered by exactly one `Output::Answer`.
        waiter: Waiter,
        /// What is asked.
        request: ClientRequest,
        /// It was forwarded once already: if this node does not lead it refuses instead of
        /// forwarding again.
        forwarded: bool,
    },
    /// The answer to `Output::Forward`.
    Forwarded {
        /// The waiter of the forward.
        waiter: Waiter,
        /// What the leader answered, or why it could not be asked.
        result: Result<Answer, Failure>,
    },
    /// A client wants to read what is committed now. Answered by `Output::ReadReady` or `Answer`.
    Read {
        /// Who waits.
        waiter: Waiter,
    },
    /// Every write up to this number (of `Output::Persist`) is durable.
    Persisted {
        /// The number of the last one.
        number: u64,
        /// Bytes the log takes now.
        log_bytes: u64,
    },
    /// Entries handed out by `Output::Apply` have been applied, in order.
    Applied {
        /// The generation they were applied to; older ones are ignored.
        generation: u64,
        /// The last index applied.
        index: Index,
        /// Outcome of each command among them.
        replies: Vec<AppliedReply>,
        /// All pins, if they changed.
        pins: Option<Vec<Pin>>,
        /// All nodes, if they changed.
        nodes: Option<Vec<Node>>,
        /// Commit time of the last entry applied.
        time_unix_ms: u64,
    },
    /// The state is durable up to here without the log (`Output::FlushState`, or by itself).
    Flushed {
        /// The applied index inside what was flushed.
        index: Index,
        /// Bytes the state takes now.
        state_bytes: u64,
    },
    /// The log was compacted (`Output::CompactLog`).
    Compacted {
        /// Bytes the log takes now.
        log_bytes: u64,
    },
    /// Cold entries for a slow follower (`Output::FetchEntries`).
    EntriesFetched {
        /// The ticket of the fetch.
        ticket: u64,
        /// The entries; empty if they could not be read (any more).
        entries: Vec<LogEntry>,
    },
    /// A snapshot of this node is ready to be offered (`Output::BuildSnapshot`, or at boot).
    SnapshotBuilt(Offer),
    /// A snapshot could not be built.
    SnapshotFailed {
        /// Why, for the log.
        reason: String,
    },
    /// A stored snapshot of this node is damaged, or gone: it must not be offered any more.
    SnapshotLost {
        /// Which.
        id: SnapshotId,
    },
    /// A receiver tells how the snapshot we offered ended.
    SnapshotReport {
        /// The receiver.
        from: NodeId,
        /// Index of the snapshot.
        index: Index,
        /// Whether it was installed.
        ok: bool,
    },
    /// A receiver tells that its pull lives. Renews its lease and pins.
    PullProgress {
        /// The receiver.
        from: NodeId,
        /// Which snapshot.
        id: SnapshotId,
        /// Its index.
        index: Index,
        /// From which node it is pulled.
        source: NodeId,
        /// It cannot be finished: offer another.
        wants_new_offer: bool,
    },
    /// The pull under way here lives, or wants another offer.
    Pulling {
        /// Which snapshot.
        id: SnapshotId,
        /// Its index.
        index: Index,
        /// From which node it is pulled.
        source: NodeId,
        /// It cannot be finished.
        wants_new_offer: bool,
    },
    /// A snapshot this node pulled is whole, verified and fsynced.
    SnapshotDurable(SnapshotMeta),
    /// A pull ended without its snapshot.
    PullFailed {
        /// Which snapshot.
        id: SnapshotId,
        /// Its index.
        index: Index,
        /// Why.
        reason: String,
    },
    /// The snapshot is linked into the next generation, opened and checked
    /// (`Output::PrepareSnapshot`).
    SnapshotPrepared {
        /// Which snapshot.
        id: SnapshotId,
        /// The generation that holds it.
        generation: u64,
    },
    /// The prepared generation turned out to be unusable; the snapshot is dropped.
    PrepareFailed {
        /// Which snapshot.
        id: SnapshotId,
        /// Why.
        reason: String,
    },
    /// The install plan is done, to its last step (`Output::Install`).
    Installed {
        /// The generation now live.
        generation: u64,
        /// All pins in it.
        pins: Vec<Pin>,
        /// All nodes in it.
        nodes: Vec<Node>,
        /// Commit time of its last entry.
        time_unix_ms: u64,
    },
    /// A peer cannot be reached.
    Unreachable(NodeId),
}

/// The outcome of one applied entry.
#[derive(Clone, PartialEq, Debug)]
pub struct AppliedReply {
    /// Its place in the log.
    pub index: Index,
    /// Its term: tells it from another entry that was proposed for the same place.
    pub term: Term,
    /// Where its command was executed: here, or earlier if this is a retry in a session.
    pub executed_at: Index,
    /// What to answer to whoever proposed it.
    pub reply: Result<Reply, Failure>,
}

/// What a client can ask of the cluster.
#[derive(Clone, PartialEq, Debug)]
pub enum ClientRequest {
    /// Propose an encoded request.
    Propose(Bytes),
    /// Change the membership.
    Membership(MembershipChange),
    /// Hand leadership to a voter.
    TransferLeader(NodeId),
    /// Compact the log of this node (never forwarded).
    CompactLog,
    /// Build a snapshot of this node (never forwarded).
    BuildSnapshot,
}

/// What a request was answered with.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// The command was applied at this index, with this reply.
    Applied(Index, Reply),
    /// This node leads now.
    Leader(NodeId),
    /// The log begins after this index.
    Compacted(Index),
    /// A snapshot at this index is ready.
    Snapshot(Index),
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a raft message. May be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// Heartbeats, votes and their answers travel apart from appends.
        urgent: bool,
        /// The serialized raft message.
        bytes: Bytes,
        /// It offers this snapshot: mode `embedded` sends its parts beside it.
        offers: Option<SnapshotId>,
    },
    /// Tell a leader that the pull of its offer lives: `Input::PullProgress` there. May be lost.
    SendProgress {
        /// The leader.
        to: NodeId,
        /// Which snapshot.
        id: SnapshotId,
        /// Its index.
        index: Index,
        /// From which node it is pulled.
        source: NodeId,
        /// It cannot be finished: another is wanted.
        wants_new_offer: bool,
    },
    /// Tell a leader how its offered snapshot ended. May be lost.
    SendReport {
        /// The leader.
        to: NodeId,
        /// Index of the snapshot.
        index: Index,
        /// Which snapshot.
        id: SnapshotId,
        /// Whether it is installed.
        ok: bool,
        /// Why not.
        reason: String,
    },
    /// Make this durable; then `Input::Persisted`. Numbers grow; later may be grouped with earlier.
    Persist {
        /// Its number.
        number: u64,
        /// What to write.
        write: LogWrite,
    },
    /// Apply these, in order; then `Input::Applied`.
    Apply {
        /// The generation they belong to.
        generation: u64,
        /// Consecutive entries.
        entries: Vec<Committed>,
    },
    /// Make the applied state durable; then `Input::Flushed`.
    FlushState,
    /// Drop the log up to and with this entry; then `Input::Compacted`.
    CompactLog {
        /// The new start of the log.
        start: LogStart,
    },
    /// Read entries off the core's thread; then `Input::EntriesFetched`.
    FetchEntries {
        /// Names the fetch.
        ticket: u64,
        /// First index.
        from: Index,
        /// Past the last index.
        to: Index,
        /// Cut short after this many bytes, but never empty.
        max_bytes: u64,
    },
    /// Ask the leader on a client's behalf; then `Input::Forwarded`.
    Forward {
        /// The leader.
        to: NodeId,
        /// Whose request it is.
        waiter: Waiter,
        /// What is asked.
        request: ClientRequest,
    },
    /// The outcome of a client's request.
    Answer {
        /// Who waits.
        waiter: Waiter,
        /// What came of it.
        result: Result<Answer, Failure>,
    },
    /// A read may be served: the state holds all that was committed when it was asked.
    ReadReady {
        /// Who waits.
        waiter: Waiter,
        /// The applied index, at least the read index.
        index: Index,
    },
    /// Build a snapshot of the state; then `Input::SnapshotBuilt` or `SnapshotFailed`.
    BuildSnapshot,
    /// Pull this snapshot; ends with `SnapshotDurable` or `PullFailed`. May be told again.
    FetchSnapshot {
        /// Which, and who has it.
        reference: SnapshotReference,
        /// The log index it stands for.
        index: Index,
        /// The leader that offers it.
        from: NodeId,
        /// Bytes of the message that offered it.
        message_bytes: u64,
    },
    /// Link a durable snapshot into the next generation, open and check it; then
    /// `SnapshotPrepared` or `PrepareFailed`.
    PrepareSnapshot {
        /// Which.
        id: SnapshotId,
    },
    /// A durable or prepared snapshot is not needed: delete its staging.
    DiscardSnapshot {
        /// Which.
        id: SnapshotId,
    },
    /// Switch to a prepared generation, by a plan that is redone after a crash; then `Installed`.
    Install(InstallPlan),
    /// An installed snapshot's pull is over.
    SnapshotInstalled {
        /// Which.
        id: SnapshotId,
    },
    /// Pins of the replicated state, whenever they change: the snapshot store obeys them.
    Pins(Vec<Pin>),
    /// Nodes of the replicated state, whenever they change: the address book.
    Nodes(Vec<Node>),
    /// Membership or leadership changed.
    Changed(Standing),
}

/// A snapshot that this node can offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// What it is.
    pub meta: SnapshotMeta,
    /// Bytes of all parts.
    pub total_bytes: u64,
    /// Number of parts.
    pub parts: u32,
    /// Bytes of the encoded manifest.
    pub manifest_bytes: u64,
}

/// What raft needs to know of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// Digest of its manifest.
    pub id: SnapshotId,
    /// The log index it stands for.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Membership at that index.
    pub conf_state: ConfState,
}

/// The switch to a new generation, as data. Every step may be done again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstallPlan {
    /// The snapshot installed.
    pub id: SnapshotId,
    /// The log is emptied and begins after this.
    pub start: LogStart,
    /// Written together with it.
    pub hard_state: HardState,
    /// The generation that becomes live.
    pub generation: u64,
}

/// What the node is in its cluster at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// This node's role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// The membership it has taken.
    pub conf_state: ConfState,
    /// Elections this node saw won since it started.
    pub elections: u64,
}
