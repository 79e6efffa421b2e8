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

// Command line.

/// Log lines of a node that wait for a slow stderr; further ones are dropped and counted.
pub const LOG_LINES_WAITING_MAX: usize = 8_192;
/// Bytes of keys and values an import gathers for one batch; one larger record still makes one.
pub const IMPORT_BATCH_BYTES: usize = MIB;
/// Most records an import gathers for one batch.
pub const IMPORT_BATCH_RECORDS: usize = 1_000;
/// Batches of one import on their way to the cluster.
pub const IMPORT_BATCHES_IN_FLIGHT: usize = 8;
/// Records an import compares at once, so that equal ones are not written again.
pub const IMPORT_COMPARES_IN_FLIGHT: usize = 16;
/// Offending files or lines named by one message; the rest is counted.
pub const IMPORT_LISTED_MAX: usize = 100;
/// Key hashes compared in memory at once while an import looks for duplicates (28 bytes each).
pub const IMPORT_HASHES_IN_MEMORY_MAX: usize = 1_000_000;
/// Pages of a scan read ahead while an export writes the one before.
pub const EXPORT_PAGES_AHEAD: usize = 2;
/// Longest line of `export --format jsonl`: JSON writes a byte with up to six characters.
pub const RECORD_LINE_BYTES_MAX: usize = 6 * (VALUE_BYTES_MAX + KEY_BYTES_MAX) + 64 * KIB;

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
/// Most entries of one append message; the smallest entry takes five bytes.
pub const APPEND_ENTRIES_MAX: usize = 1 << 18;
/// How far a peer's term may lie above ours. Nobody gets there by elections, and a term near the end
/// of its range would leave no room for another election.
pub const TERM_LEAP_MAX: u64 = 1 << 32;
/// Entries kept in memory behind the persisted index, bytes, so that followers rarely cause reads.
pub const ENTRY_CACHE_BYTES_MAX: usize = 64 * MIB;

// Raft log on disk.

/// All WAL files of the raft log together; bounds replay at boot.
pub const RAFT_WAL_BYTES_MAX: u64 = GIB as u64 / 4;
/// One WAL file: it grows past the memtable it belongs to by at most one batch.
pub const RAFT_WAL_FILE_BYTES_MAX: u64 = GIB as u64;
/// Unflushed entries of the raft log, ceiling of what may be configured.
pub const RAFT_MEMTABLE_BYTES_MAX: usize = 256 * MIB;
/// Entries at the end of the raft log that are all read and checked at boot, bytes.
pub const RAFT_LOG_CHECK_BYTES: u64 = 64 * MIB as u64;
/// Places at which the rest of the log is probed at boot.
pub const RAFT_LOG_PROBES: u64 = 256;

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
/// Bytes one pull request asks for at most; a bigger run costs fewer round trips.
pub const RUN_BYTES_MAX: u64 = 256 * MIB as u64;
/// Bytes one pull request asks for at least, while there is so much left.
pub const RUN_BYTES_MIN: u64 = 8 * MIB as u64;
/// Byte ranges of one pull request.
pub const RANGES_PER_REQUEST_MAX: usize = 1024;
/// Received bytes that wait for the receiver's disk; reading stops above.
pub const UNWRITTEN_BYTES_MAX: u64 = 32 * MIB as u64;
/// Chunk bytes read and not yet handed to the network, over all pulls that a source serves. Each
/// pull has one chunk beyond it, so that none waits for another's slow network.
pub const SENDER_BUFFER_BYTES_MAX: u64 = 32 * MIB as u64;
/// Chunks of one stream that a source reads ahead of the network.
pub const SENDER_FRAMES_AHEAD_MAX: usize = 3;
/// Open pull requests of one receiver at a source.
pub const REQUESTS_PER_RECEIVER_MAX: usize = PULL_STREAMS_MAX + 8;
/// Receivers a source remembers, serving, waiting or gone.
pub const LEASES_MAX: usize = 2 * NODES_MAX;
/// A connected source from which nothing comes for so long is dialled anew; no limit on the whole.
pub const PULL_NO_PROGRESS_MS: u64 = 15_000;
/// Shortest and longest pause before a source is dialled again.
pub const PULL_BACKOFF_MS_MIN: u64 = 100;
/// See `PULL_BACKOFF_MS_MIN`.
pub const PULL_BACKOFF_MS_MAX: u64 = 5_000;
/// Pause before a full disk is tried again.
pub const DISK_RETRY_MS: u64 = 2_000;
/// A receiver whose pull failed is offered nothing for so long; each further failure doubles it.
pub const OFFER_PAUSE_MS_MIN: u64 = 200;
/// See `OFFER_PAUSE_MS_MIN`.
pub const OFFER_PAUSE_MS_MAX: u64 = 60_000;
/// After a build that failed none is tried for a follower for so long.
pub const BUILD_RETRY_MS: u64 = 10_000;
/// What was staged by pulls that ended is removed after so long without another pull.
pub const STAGED_LEFTOVERS_MS: u64 = 10 * 60 * 1000;
/// Largest persisted record of a pull.
pub const PULL_RECORD_BYTES_MAX: usize = 16 * MIB;
/// Snapshots a node keeps unless configured; pinned ones stay besides.
pub const SNAPSHOTS_KEPT_DEFAULT: usize = 2;
/// Bytes of all snapshots that pins may hold beyond the kept ones, unless configured.
pub const PINNED_BYTES_DEFAULT: u64 = 64 * GIB as u64;
/// A pin that nobody renewed for so long is broken.
pub const PIN_IDLE_MS_MAX: u64 = 10 * 60 * 1000;
/// Bytes of a chunk sent or received at once.
pub const BULK_PIECE_BYTES_MAX: usize = 256 * KIB;
/// Bytes of a chunk sent at once under a small rate limit.
pub const BULK_PIECE_BYTES_MIN: u64 = 4 * KIB as u64;
/// Smallest limit of the bulk lane's rate, bytes a second: every receiver that is served still hears
/// from its source well within `PULL_NO_PROGRESS_MS`.
pub const BULK_RATE_MIN: u64 = 16 * KIB as u64;
/// Pieces and words of all streams that wait for the receiver's or the source's driver.
pub const BULK_QUEUE_MAX: usize = 4;
/// Part files held open at once by one pull.
pub const STAGED_FILES_OPEN_MAX: usize = 64;
/// Free bytes kept on the data disk for `raft/`, unless configured: pulls and snapshots stop before.
pub const DISK_RESERVE_BYTES_DEFAULT: u64 = 256 * MIB as u64;

// Network.

/// Largest frame on a raft stream.
pub const RAFT_FRAME_BYTES_MAX: usize = 16 * MIB;
/// Largest frame of a peer call or its answer.
pub const CALL_FRAME_BYTES_MAX: usize = ENTRY_BYTES_MAX + MIB;
/// Largest control frame on a bulk stream.
pub const BULK_FRAME_BYTES_MAX: usize = 64 * KIB;
/// Largest gRPC message, either way.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 16 * MIB;
/// Most fields of a message, list items counted one by one: an empty item takes two bytes on the
/// wire and a hundred or two in memory.
pub const MESSAGE_FIELDS_MAX: usize = COLLECTIONS_MAX + KIB;
/// Connections one identity may hold to one endpoint.
pub const CONNECTIONS_PER_IDENTITY_MAX: usize = 8;
/// Handshakes under way at one endpoint.
pub const HANDSHAKES_MAX: usize = 64;
/// A bulk connection with no word for this long is dead.
pub const BULK_IDLE_TIMEOUT_MS: u64 = 3_000;
/// A raft connection with no word for this long is dead.
pub const RAFT_IDLE_TIMEOUT_MS: u64 = 3_000;

/// A handshake, from the first datagram to the acceptor's welcome, takes no longer.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;
/// A quiet connection is kept alive by a datagram this often.
pub const KEEP_ALIVE_MS: u64 = 750;
/// From this many handshakes under way on, strangers must prove their address first (QUIC Retry).
pub const HANDSHAKES_UNVALIDATED_MAX: usize = HANDSHAKES_MAX / 4;
/// Accepted connections that wait for the application to take them.
pub const CONNECTIONS_WAITING_MAX: usize = 64;
/// Addresses tried of those a host name resolves to.
pub const RESOLVED_ADDRESSES_MAX: usize = 4;
/// One-way streams a peer may hold open on one connection.
pub const UNI_STREAMS_MAX: u32 = 8;
/// Two-way streams a peer may hold open on one raft connection: its calls under way.
pub const RAFT_BI_STREAMS_MAX: u32 = 128;
/// Two-way streams a peer may hold open on one bulk connection.
pub const BULK_BI_STREAMS_MAX: u32 = 4 * PULL_STREAMS_MAX as u32;
/// Bytes on the way, unread, on one raft stream. Also bounds how far appends run ahead.
pub const RAFT_STREAM_WINDOW_BYTES: usize = 4 * MIB;
/// Bytes on the way, unread, on one raft connection.
pub const RAFT_CONNECTION_WINDOW_BYTES: usize = 48 * MIB;
/// Bytes sent and not acknowledged on one raft connection. So much larger than the windows of
/// appends and calls together that these never make heartbeats wait.
pub const RAFT_SEND_WINDOW_BYTES: usize = 48 * MIB;
/// Bytes on the way, unread, on one bulk stream. At most 4 MiB: quinn gives up a connection that
/// has 1024 gaps in one stream, and a lossy path makes one for every five packets under way.
pub const BULK_STREAM_WINDOW_BYTES: usize = 4 * MIB;
/// Bytes on the way, unread, on one bulk connection: 640 MB/s at 50 ms, with enough streams.
pub const BULK_CONNECTION_WINDOW_BYTES: usize = 32 * MIB;
/// Bytes sent and not acknowledged on one bulk connection.
pub const BULK_SEND_WINDOW_BYTES: usize = 32 * MIB;
/// Largest datagram of the bulk lane (jumbo frames, loopback). Ten of them must fit one UDP
/// message: quinn hands the system as many at once, and a message too large is lost in silence.
pub const BULK_DATAGRAM_BYTES_MAX: u16 = 6500;
/// UDP socket buffers asked of the system, raft lane.
pub const RAFT_SOCKET_BUFFER_BYTES: usize = MIB;
/// UDP socket buffers asked of the system, bulk lane.
pub const BULK_SOCKET_BUFFER_BYTES: usize = 8 * MIB;
/// Largest file of an identity, certificate, key or certificate request.
pub const IDENTITY_FILE_BYTES_MAX: usize = 64 * KIB;

// Peers.

/// Frames waiting for one peer, per class.
pub const PEER_QUEUE_FRAMES_MAX: usize = 1024;
/// Bytes of frames waiting for one peer, per class.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 * MIB;
/// Bytes of calls under way to one peer.
pub const PEER_CALL_BYTES_MAX: usize = 24 * MIB;
/// Bytes of requests being received and answered by one node.
pub const CALLS_SERVED_BYTES_MAX: usize = 64 * MIB;
/// Pause before the second attempt to reach a peer; doubles up to the maximum.
pub const RECONNECT_MS_MIN: u64 = 50;
/// Longest pause between attempts to reach a peer.
pub const RECONNECT_MS_MAX: u64 = 1_000;
// The doors of a node.

/// Connections the API holds open.
pub const API_CONNECTIONS_MAX: usize = 1024;
/// Connections the API holds open to one IP address.
pub const API_CONNECTIONS_PER_ADDRESS_MAX: usize = 256;
/// Requests under way on one API connection; more wait at the client.
pub const API_STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// Requests under way at the API.
pub const API_REQUESTS_MAX: usize = 8192;
/// Reads of the state that run at once; more wait.
pub const API_READS_RUNNING_MAX: usize = 64;
/// Bytes of requests being received and of answers being sent, over all connections.
pub const API_MEMORY_BYTES_MAX: usize = 128 * MIB;
/// Headers of one API request, bytes.
pub const API_HEADER_BYTES_MAX: u32 = 16 * KIB as u32;
/// Largest request of a caller that has shown no certificate.
pub const ENROLLMENT_MESSAGE_BYTES_MAX: usize = 64 * KIB;
/// Largest PKCS#10 request of a node that enrols.
pub const CERTIFICATE_REQUEST_BYTES_MAX: usize = 16 * KIB;
/// A TLS handshake at the API takes no longer.
pub const API_HANDSHAKE_MS_MAX: u64 = 10_000;
/// A connection to the API from which nothing comes for this long, not even the answer to a ping, is
/// closed.
pub const API_IDLE_MS_MAX: u64 = 60_000;
/// An API request is answered within this time, if only with a failure.
pub const API_REQUEST_MS_MAX: u64 = 60_000;
/// The same for requests that read or write much of a node's disk.
pub const API_LONG_REQUEST_MS_MAX: u64 = 3_600_000;
/// Connections to the HTTP door (metrics and probes).
pub const HTTP_CONNECTIONS_MAX: usize = 64;
/// A connection to the HTTP door from which nothing comes for this long is closed.
pub const HTTP_IDLE_MS_MAX: u64 = 60_000;

// The demo and its UDP proxy.

/// Client addresses one UDP proxy keeps apart; the longest silent goes first.
pub const PROXY_FLOWS_MAX: usize = 256;
/// Datagrams that wait for their time in one direction of a UDP proxy; more are dropped.
pub const PROXY_QUEUE_DATAGRAMS_MAX: usize = 16_384;
/// Socket buffers a UDP proxy asks of the system.
pub const PROXY_SOCKET_BUFFER_BYTES: usize = 4 * MIB;

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
const _: () = assert!(APPEND_BYTES_MAX as usize / 5 < APPEND_ENTRIES_MAX);
const _: () = assert!(BATCH_WRITES_MAX < MESSAGE_FIELDS_MAX);
const _: () = assert!(SCAN_PAGE_RECORDS_MAX < MESSAGE_FIELDS_MAX);
const _: () = assert!(APPEND_BYTES_MAX as usize + ENTRY_BYTES_MAX + MIB <= RAFT_FRAME_BYTES_MAX);
const _: () =
    assert!(RAFT_MEMTABLE_BYTES_MAX as u64 + UNCOMMITTED_BYTES_MAX < RAFT_WAL_FILE_BYTES_MAX);
const _: () = assert!(EMBEDDED_BYTES_MAX + 2 * MIB <= RAFT_FRAME_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX + MIB <= GRPC_MESSAGE_BYTES_MAX);
const _: () = assert!(SCAN_PAGE_BYTES_MAX + VALUE_BYTES_MAX + MIB <= GRPC_MESSAGE_BYTES_MAX);
const _: () =
    assert!(CHUNK_BYTES_MIN <= CHUNK_BYTES_DEFAULT && CHUNK_BYTES_DEFAULT <= CHUNK_BYTES_MAX);
const _: () = assert!(PULL_STREAMS_DEFAULT <= PULL_STREAMS_MAX);
const _: () = assert!(10 * (BULK_DATAGRAM_BYTES_MAX as usize) <= 65_507);
const _: () = assert!(3 * KEEP_ALIVE_MS <= RAFT_IDLE_TIMEOUT_MS);
const _: () = assert!(3 * KEEP_ALIVE_MS <= BULK_IDLE_TIMEOUT_MS);
const _: () = assert!(PULL_STREAMS_MAX < BULK_BI_STREAMS_MAX as usize);
const _: () = assert!(RAFT_FRAME_BYTES_MAX <= PEER_QUEUE_BYTES_MAX);
const _: () = assert!(CALL_FRAME_BYTES_MAX <= PEER_CALL_BYTES_MAX);
const _: () = assert!(CALL_FRAME_BYTES_MAX <= CALLS_SERVED_BYTES_MAX);
const _: () =
    assert!(PEER_CALL_BYTES_MAX + 2 * RAFT_STREAM_WINDOW_BYTES + MIB <= RAFT_SEND_WINDOW_BYTES);
const _: () = assert!(PULL_STREAMS_MAX < REQUESTS_PER_RECEIVER_MAX);
const _: () = assert!(RUN_BYTES_MIN >= CHUNK_BYTES_MAX as u64 && RUN_BYTES_MIN <= RUN_BYTES_MAX);
const _: () = assert!(SENDER_BUFFER_BYTES_MAX >= 2 * CHUNK_BYTES_MAX as u64);
const _: () = assert!(
    BULK_PIECE_BYTES_MIN * PULLS_SERVED_MAX as u64 * 1000
        <= BULK_RATE_MIN * PULL_NO_PROGRESS_MS / 2
);
const _: () = assert!(UNWRITTEN_BYTES_MAX >= 2 * CHUNK_BYTES_MAX as u64);
// What waits before the machine and behind it is at most one chunk a stream: the bound on repeats.
const _: () = assert!(
    2 * BULK_PIECE_BYTES_MAX * (BULK_QUEUE_MAX + PULL_STREAMS_DEFAULT)
        <= CHUNK_BYTES_MIN as usize * PULL_STREAMS_DEFAULT
);
// A request of the most ranges fits its frame: 3 varints of a range take at most 26 bytes.
const _: () = assert!(RANGES_PER_REQUEST_MAX * 32 + 128 <= BULK_FRAME_BYTES_MAX);
const _: () = assert!(GRPC_MESSAGE_BYTES_MAX * 4 <= API_MEMORY_BYTES_MAX);
const _: () = assert!(CERTIFICATE_REQUEST_BYTES_MAX * 2 <= ENROLLMENT_MESSAGE_BYTES_MAX);
