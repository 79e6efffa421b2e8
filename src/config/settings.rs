//! The table of all settings: name, meaning, how each is written and read.
//!
//! One line a setting, so that file, environment, flags, suggestions and documentation cannot drift
//! apart. Bounds of single settings stand here; relations between them in `load.rs`.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{Config, LogFormat, SnapshotMode};
use crate::limits;
use crate::proto::public::check_address;

/// How a value is written in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A TOML string.
    Text,
    /// A TOML integer.
    Number,
    /// A TOML boolean.
    Switch,
}

/// One setting.
pub struct Setting {
    /// `section.name`, as in the file.
    pub key: &'static str,
    /// What it means, with its unit.
    pub meaning: &'static str,
    /// How it is written in the file.
    pub form: Form,
    /// Its present value as text.
    pub get: fn(&Config) -> String,
    /// Sets it from text, or says what is wrong.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Setting {
    /// The name in the environment: `RATOON_SECTION_NAME`.
    pub fn environment_name(&self) -> String {
        format!("RATOON_{}", self.key.replace('.', "_").to_uppercase())
    }
}

/// All settings, by section.
pub fn settings() -> &'static [Setting] {
    SETTINGS
}

fn parsed<T: FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("expected {expected}"))
}

fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let value: T = parsed(text, "a whole number")?;
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("expected {} to {}", range.start(), range.end()))
}

fn address(text: &str) -> Result<String, String> {
    // Empty means: found out from where the node listens.
    if !text.is_empty() {
        check_address(text)?;
    }
    Ok(text.to_owned())
}

macro_rules! text {
    ($key:literal, $($field:ident).+, $meaning:literal, $parse:expr) => {
        Setting {
            key: $key,
            meaning: $meaning,
            form: Form::Text,
            get: |config| config.$($field).+.to_string(),
            set: |config, text| {
                config.$($field).+ = $parse(text)?;
                Ok(())
            },
        }
    };
}

macro_rules! number {
    ($key:literal, $($field:ident).+, $meaning:literal, $range:expr) => {
        Setting {
            key: $key,
            meaning: $meaning,
            form: Form::Number,
            get: |config| config.$($field).+.to_string(),
            set: |config, text| {
                config.$($field).+ = number(text, $range)?;
                Ok(())
            },
        }
    };
}

const SOCKET: &str = "an address and a port, for example 0.0.0.0:7400 or [::]:7400";

/// Largest number of bytes a setting may name; TOML integers are signed.
const BYTES_MAX: u64 = 1 << 50;

const SETTINGS: &[Setting] = &[
    text!("listen.raft", listen.raft, "Raft between nodes: UDP address and port.", |text| parsed(
        text, SOCKET
    )),
    text!("listen.bulk", listen.bulk, "Bulk data between nodes: UDP address and port.", |text| {
        parsed(text, SOCKET)
    }),
    text!("listen.api", listen.api, "gRPC for clients: TCP address and port.", |text| parsed(
        text, SOCKET
    )),
    text!(
        "listen.http",
        listen.http,
        "Metrics and probes: TCP address and port. No encryption, no authentication: keep it on loopback or a private network.",
        |text| parsed(text, SOCKET)
    ),
    text!(
        "advertise.raft",
        advertise.raft,
        "host:port at which other nodes reach listen.raft.",
        address
    ),
    text!(
        "advertise.bulk",
        advertise.bulk,
        "host:port at which other nodes reach listen.bulk.",
        address
    ),
    text!(
        "advertise.api",
        advertise.api,
        "host:port at which clients reach listen.api. The node's certificate carries the host.",
        address
    ),
    Setting {
        key: "log.level",
        meaning: "critical, error, warning, info, debug or trace.",
        form: Form::Text,
        get: |config| config.log.level.as_str().to_lowercase(),
        set: |config, text| {
            config.log.level = level(text)?;
            Ok(())
        },
    },
    text!("log.format", log.format, "text or json.", format),
    number!(
        "raft.tick_ms",
        raft.tick_ms,
        "Length of a tick, milliseconds. The same on all nodes.",
        1..=10_000
    ),
    number!(
        "raft.election_ticks",
        raft.election_ticks,
        "Ticks without word from a leader before an election.",
        2..=10_000
    ),
    number!(
        "raft.heartbeat_ticks",
        raft.heartbeat_ticks,
        "Ticks between a leader's heartbeats.",
        1..=10_000
    ),
    number!(
        "raft.log_bytes_kept",
        raft.log_bytes_kept,
        "Log kept for followers that lag, bytes.",
        0..=BYTES_MAX
    ),
    number!(
        "raft.pinned_log_bytes_max",
        raft.pinned_log_bytes_max,
        "Log kept at most for nodes that receive a snapshot, bytes; the state's size if that is more.",
        limits::MIB as u64..=BYTES_MAX
    ),
    number!(
        "raft.pin_ms_max",
        raft.pin_ms_max,
        "A node that receives a snapshot and makes no progress for this long loses its pin, milliseconds.",
        1_000..=7 * 24 * 3600 * 1000
    ),
    text!(
        "snapshot.mode",
        snapshot.mode,
        "streaming (over the bulk lane) or embedded (small states, beside raft's message).",
        mode
    ),
    number!(
        "snapshot.chunk_bytes",
        snapshot.chunk_bytes,
        "Bytes of a chunk, 1 MiB to 4 MiB.",
        limits::CHUNK_BYTES_MIN..=limits::CHUNK_BYTES_MAX
    ),
    number!("snapshot.keep", snapshot.keep, "Snapshots kept beside those in use.", 1..=1_000),
    number!(
        "snapshot.streams",
        snapshot.streams,
        "Parallel streams of one pull.",
        1..=limits::PULL_STREAMS_MAX
    ),
    number!(
        "bulk.bytes_per_second_max",
        bulk.bytes_per_second_max,
        "Limit on bulk data this node sends and receives, bytes a second; 0: none.",
        0..=BYTES_MAX
    ),
    number!(
        "storage.memtable_bytes",
        storage.memtable_bytes,
        "Memory for writes not yet in files, all databases together, bytes.",
        4 * limits::MIB..=64 * limits::GIB
    ),
    number!(
        "storage.block_cache_bytes",
        storage.block_cache_bytes,
        "Memory for blocks read from files, all databases together, bytes.",
        limits::MIB..=1024 * limits::GIB
    ),
    number!(
        "storage.flush_log_bytes",
        storage.flush_log_bytes,
        "The state is flushed when a restart would replay more log than this, bytes.",
        limits::MIB as u64..=BYTES_MAX
    ),
    number!(
        "storage.disk_reserve_bytes",
        storage.disk_reserve_bytes,
        "Free bytes left on the disk for the raft log: pulls and snapshots stop before they take them.",
        limits::MIB as u64..=BYTES_MAX
    ),
    Setting {
        key: "membership.promote",
        meaning: "Learners become voters by themselves once they have caught up.",
        form: Form::Switch,
        get: |config| config.membership.promote.to_string(),
        set: |config, text| {
            config.membership.promote = parsed(text, "true or false")?;
            Ok(())
        },
    },
];

fn level(text: &str) -> Result<slog::Level, String> {
    match text {
        "critical" => Ok(slog::Level::Critical),
        "error" => Ok(slog::Level::Error),
        "warning" => Ok(slog::Level::Warning),
        "info" => Ok(slog::Level::Info),
        "debug" => Ok(slog::Level::Debug),
        "trace" => Ok(slog::Level::Trace),
        _ => Err("expected critical, error, warning, info, debug or trace".to_owned()),
    }
}

fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected text or json".to_owned()),
    }
}

fn mode(text: &str) -> Result<SnapshotMode, String> {
    match text {
        "streaming" => Ok(SnapshotMode::Streaming),
        "embedded" => Ok(SnapshotMode::Embedded),
        _ => Err("expected streaming or embedded".to_owned()),
    }
}

impl Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

impl Display for SnapshotMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SnapshotMode::Streaming => "streaming",
            SnapshotMode::Embedded => "embedded",
        })
    }
}
