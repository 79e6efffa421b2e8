//! Every bound of the system, in one place, with the relations between them checked at compile time.
//!
//! Values that an operator may change live in the rooms' Options, with these as defaults and ceilings.

/// One kibibyte, mebibyte, gibibyte.
pub const KIB: usize = 1 << 10;
/// 2^20 bytes.
pub const MIB: usize = 1 << 20;
/// 2^30 bytes.
pub const GIB: usize = 1 << 30;

// Records.

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 4 * KIB;
/// Longest value, bytes.
pub const VALUE_BYTES_MAX: usize = 4 * MIB;
/// Longest content type, bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Most writes of one batch.
pub const BATCH_WRITES_MAX: usize = 10_000;
/// Most bytes of one batch's keys, values, content types and collection names.
pub const BATCH_BYTES_MAX: usize = 8 * MIB;
/// What one write adds to an encoded batch beside the bytes counted above, at most.
pub const BATCH_WRITE_OVERHEAD_BYTES_MAX: usize = 64;
/// Most bytes of keys and values in one page of a scan; one larger record still makes a page.
pub const SCAN_PAGE_BYTES_MAX: usize = 4 * MIB;
/// Most records in one page of a scan.
pub const SCAN_PAGE_RECORDS_MAX: usize = 10_000;
/// Longest prefix, start, end or cursor of a scan, bytes.
pub const SCAN_BOUND_BYTES_MAX: usize = KEY_BYTES_MAX + 64;
/// Most rows one page of a scan looks at: a stretch of deleted records costs pages, never one long call.
pub const SCAN_PAGE_ROWS_MAX: usize = 100_000;
/// Most bytes of rows one page of a scan looks at; one further row may exceed it.
pub const SCAN_PAGE_READ_BYTES_MAX: u64 = 64 * MIB as u64;
/// Older versions of one key stepped over one by one before a seek skips the rest.
pub const VERSION_STEPS_MAX: usize = 8;

// Collections, sessions, tokens, nodes.

/// Most namespaces of a cluster.
pub const NAMESPACES_MAX: usize = 10_000;
/// Most collections of a cluster.
pub const COLLECTIONS_MAX: usize = 100_000;
/// Client sessions kept; the least recently used goes first, in an order every replica agrees on.
pub const SESSIONS_MAX: usize = 10_000;
/// Unexpired, unused join tokens.
pub const TOKENS_MAX: usize = 1_000;
/// Join tokens remembered, used and expired ones too, so that they are refused by their right name.
pub const TOKENS_REMEMBERED_MAX: usize = 4 * TOKENS_MAX;
/// Longest life of a join token.
pub const TOKEN_TTL_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// Life of a join token unless asked otherwise.
pub const TOKEN_TTL_MS_DEFAULT: u64 = 3600 * 1000;
/// How far a node's clock may lie off its peers'.
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;
/// Enrolled nodes, members or not.
pub const NODES_MAX: usize = 64;
/// Longest `host:port`, bytes.
pub const ADDRESS_BYTES_MAX: usize = 255;

// Raft.

/// Largest encoded entry.
pub const ENTRY_BYTES_MAX: usize = BATCH_BYTES_MAX + 2 * MIB;
/// Largest encoded request: an entry adds the time and the framing.
pub const REQUEST_BYTES_MAX: usize = ENTRY_BYTES_MAX - KIB;
/// Largest value of a row of the state database.
pub const STORED_ROW_BYTES_MAX: usize = VALUE_BYTES_MAX + 64 * KIB;
/// Target bytes of entries in one append message; one larger entry still makes a message.
pub const APPEND_BYTES_MAX: u64 = MIB as u64;
/// Append messages on the way to one follower.
pub const APPENDS_IN_FLIGHT_MAX: usize = 128;
/// Bytes of entries proposed and not committed, on the leader.
pub const UNCOMMITTED_BYTES_MAX: u64 = 128 * MIB as u64;
/// Bytes of committed entries handed to apply at once.
pub const COMMITTED_BYTES_PER_READY_MAX: u64 = 16 * MIB as u64;
/// Inputs waiting for the raft thread.
pub const RAFT_QUEUE_MAX: usize = 4096;
/// Client proposals waiting for their outcome on one node.
pub const PROPOSALS_WAITING_MAX: usize = 10_000;
/// Client reads waiting for their index on one node.
pub const READS_WAITING_MAX: usize = 50_000;
/// Entries kept in memory behind the persisted index, bytes, so that followers rarely cause reads.
pub const ENTRY_CACHE_BYTES_MAX: usize = 64 * MIB;

// Snapshots and their transfer.

/// Smallest chunk of a part.
pub const CHUNK_BYTES_MIN: u32 = MIB as u32;
/// Largest chunk of a part.
pub const CHUNK_BYTES_MAX: u32 = 4 * MIB as u32;
/// Chunk size unless configured.
pub const CHUNK_BYTES_DEFAULT: u32 = MIB as u32;
/// Most parts of one snapshot.
pub const MANIFEST_PARTS_MAX: usize = 200_000;
/// Largest encoded manifest.
pub const MANIFEST_BYTES_MAX: usize = 64 * MIB;
/// Largest SnapshotReference, the data of a MsgSnapshot.
pub const SNAPSHOT_REFERENCE_BYTES_MAX: usize = 4 * KIB;
/// Parallel streams of one pull, unless configured.
pub const PULL_STREAMS_DEFAULT: usize = 4;
/// Most parallel streams of one pull.
pub const PULL_STREAMS_MAX: usize = 16;
/// The bitmap of staged chunks is persisted after this many bytes ...
pub const BITMAP_BYTES_INTERVAL: u64 = 32 * MIB as u64;
/// ... or this long, whichever comes first.
pub const BITMAP_MS_INTERVAL: u64 = 1000;
/// A source gone for longer is left for another.
pub const SOURCE_GRACE_MS: u64 = 60_000;
/// Pulls a source serves at once; more wait in line.
pub const PULLS_SERVED_MAX: usize = 4;
/// Largest state that travels beside MsgSnapshot in mode `embedded`.
pub const EMBEDDED_BYTES_MAX: usize = 4 * MIB;
/// Free bytes kept on the data disk for `raft/`: pulls and snapshots stop before it.
pub const DISK_RESERVE_BYTES: u64 = 256 * MIB as u64;

// Network.

/// Largest frame on a raft stream.
pub const RAFT_FRAME_BYTES_MAX: usize = 16 * MIB;
/// Largest frame of a peer call or its answer.
pub const CALL_FRAME_BYTES_MAX: usize = ENTRY_BYTES_MAX + MIB;
/// Largest control frame on a bulk stream.
pub const BULK_FRAME_BYTES_MAX: usize = 64 * KIB;
/// Largest gRPC message, either way.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 16 * MIB;
/// Connections one identity may hold to one endpoint.
pub const CONNECTIONS_PER_IDENTITY_MAX: usize = 8;
/// Handshakes under way at one endpoint.
pub const HANDSHAKES_MAX: usize = 64;
/// A bulk connection with no word for this long is dead.
pub const BULK_IDLE_TIMEOUT_MS: u64 = 3_000;
/// A raft connection with no word for this long is dead.
pub const RAFT_IDLE_TIMEOUT_MS: u64 = 3_000;

const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX <= BATCH_BYTES_MAX);
const _: () = assert!(
    BATCH_BYTES_MAX + BATCH_WRITES_MAX * BATCH_WRITE_OVERHEAD_BYTES_MAX + KIB <= REQUEST_BYTES_MAX
);
const _: () = assert!(SESSIONS_MAX >= 2 && VERSION_STEPS_MAX >= 1);
// A page must get past the newer versions of one key, or a scan would not move on.
const _: () = assert!(SCAN_PAGE_ROWS_MAX > VERSION_STEPS_MAX + 2);
const _: () = assert!(
    SCAN_PAGE_READ_BYTES_MAX as usize
        > (VERSION_STEPS_MAX + 2) * (STORED_ROW_BYTES_MAX + 2 * KEY_BYTES_MAX + KIB)
);
const _: () = assert!(ENTRY_BYTES_MAX + MIB <= RAFT_FRAME_BYTES_MAX);
const _: () = assert!(APPEND_BYTES_MAX as usize + ENTRY_BYTES_MAX + MIB <= RAFT_FRAME_BYTES_MAX);
const _: () = assert!(EMBEDDED_BYTES_MAX + 2 * MIB <= RAFT_FRAME_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + MIB <= GRPC_MESSAGE_BYTES_MAX);
const _: () = assert!(SCAN_PAGE_BYTES_MAX + VALUE_BYTES_MAX + MIB <= GRPC_MESSAGE_BYTES_MAX);
const _: () =
    assert!(CHUNK_BYTES_MIN <= CHUNK_BYTES_DEFAULT && CHUNK_BYTES_DEFAULT <= CHUNK_BYTES_MAX);
const _: () = assert!(PULL_STREAMS_DEFAULT <= PULL_STREAMS_MAX);
