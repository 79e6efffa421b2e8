//! The configuration of a node: file, environment and flags in, one validated `Config` out.
//!
//! A flag wins over `RATOON_*`, that over `DATA/ratoon.toml`, that over the default. Every setting
//! stands in one table (`settings.rs`), from which the file's text, the environment's names and the
//! list for suggestions come. This room decides nothing about a node; rooms get their own Options
//! from what stands here.

mod load;
mod settings;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::limits;
use crate::types::Addresses;

pub use load::{FILE_NAME, unknown_environment};
pub use settings::{Setting, settings};

/// A node's configuration, validated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The node's data directory. Not in the file, which lives inside it.
    pub data: PathBuf,
    /// Where the node listens.
    pub listen: Listen,
    /// Where others reach it, `host:port` each; its certificate carries the hosts.
    pub advertise: Addresses,
    /// The node's own log lines.
    pub log: Log,
    /// Consensus and the raft log.
    pub raft: Raft,
    /// Snapshots and their transfer.
    pub snapshot: Snapshot,
    /// The bulk lane.
    pub bulk: Bulk,
    /// RocksDB.
    pub storage: Storage,
    /// Membership.
    pub membership: Membership,
}

/// Local socket addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// Raft between nodes, UDP.
    pub raft: SocketAddr,
    /// Bulk between nodes, UDP.
    pub bulk: SocketAddr,
    /// gRPC for clients, TCP.
    pub api: SocketAddr,
    /// Metrics and probes, TCP, without encryption or authentication.
    pub http: SocketAddr,
}

/// Log lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// The least important lines that are written.
    pub level: slog::Level,
    /// Their form.
    pub format: LogFormat,
}

/// Form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Consensus and the raft log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Raft {
    /// Length of a tick, milliseconds.
    pub tick_ms: u64,
    /// Ticks without word from a leader before an election.
    pub election_ticks: u64,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: u64,
    /// Log kept for followers that lag, bytes.
    pub log_bytes_kept: u64,
    /// Log kept at most for receivers of snapshots, bytes; the state's size if that is more.
    pub pinned_log_bytes_max: u64,
    /// A receiver that makes no progress for this long loses its pin, milliseconds.
    pub pin_ms_max: u64,
}

/// How snapshots reach a receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotMode {
    /// Pulled over the bulk lane.
    Streaming,
    /// Small states ride beside MsgSnapshot on the raft lane.
    Embedded,
}

/// Snapshots and their transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// How they reach a receiver.
    pub mode: SnapshotMode,
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
    /// Snapshots kept beside pinned ones.
    pub keep: usize,
    /// Parallel streams of one pull.
    pub streams: usize,
}

/// The bulk lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bulk {
    /// Limit on what this node sends and receives, bytes a second; 0: none.
    pub bytes_per_second_max: u64,
}

/// RocksDB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Storage {
    /// Memtables of all databases together, bytes.
    pub memtable_bytes: usize,
    /// Block cache of all databases together, bytes.
    pub block_cache_bytes: usize,
    /// The state is flushed when replay after a crash would read more log than this, bytes.
    pub flush_log_bytes: u64,
    /// Free bytes that pulls and snapshots leave on the disk for the raft log.
    pub disk_reserve_bytes: u64,
}

/// Membership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Learners become voters by themselves once they have caught up, unless they joined as
    /// learners for good.
    pub promote: bool,
}

/// Why a configuration is refused. The operator must act on each.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// The file is no TOML.
    #[error("the configuration file {path} is malformed: {cause}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the line.
        cause: String,
    },
    /// No setting of that name.
    #[error("{origin} sets {key}, which is no setting{}", suggested(.suggestion))]
    UnknownKey {
        /// Where it stands.
        origin: String,
        /// The name found.
        key: String,
        /// The setting probably meant.
        suggestion: Option<String>,
    },
    /// A value that its setting cannot have.
    #[error("{origin} sets {key} to {value:?}: {problem}")]
    BadValue {
        /// Where it stands.
        origin: String,
        /// The setting.
        key: String,
        /// The value found.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two settings that do not go together.
    #[error("{0}")]
    Conflict(String),
}

fn suggested(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

impl Config {
    /// The defaults for a node with its data in `data`. The advertised addresses are still empty.
    pub fn defaults(data: PathBuf) -> Config {
        let listen = |host: [u8; 4], port: u16| SocketAddr::from((host, port));
        Config {
            data,
            listen: Listen {
                raft: listen([0, 0, 0, 0], 7400),
                bulk: listen([0, 0, 0, 0], 7401),
                api: listen([0, 0, 0, 0], 7402),
                http: listen([127, 0, 0, 1], 7403),
            },
            advertise: Addresses::default(),
            log: Log { level: slog::Level::Info, format: LogFormat::Text },
            raft: Raft {
                tick_ms: 50,
                election_ticks: 20,
                heartbeat_ticks: 3,
                log_bytes_kept: 64 * limits::MIB as u64,
                pinned_log_bytes_max: limits::GIB as u64,
                pin_ms_max: 600_000,
            },
            snapshot: Snapshot {
                mode: SnapshotMode::Streaming,
                chunk_bytes: limits::CHUNK_BYTES_DEFAULT,
                keep: 2,
                streams: limits::PULL_STREAMS_DEFAULT,
            },
            bulk: Bulk { bytes_per_second_max: 0 },
            // Modest: a node runs in 512 MiB, and a laptop runs a cluster.
            storage: Storage {
                memtable_bytes: 64 * limits::MIB,
                block_cache_bytes: 64 * limits::MIB,
                flush_log_bytes: 64 * limits::MIB as u64,
                disk_reserve_bytes: limits::DISK_RESERVE_BYTES_DEFAULT,
            },
            membership: Membership { promote: true },
        }
    }

    /// The text of `DATA/ratoon.toml` that says all of this, with a comment for each setting.
    pub fn render_toml(&self) -> String {
        load::render(self)
    }
}
