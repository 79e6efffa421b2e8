//! Identifiers and the two clocks.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

/// Position of an entry in the replicated log; the first is 1. Also the version of what it wrote.
pub type Index = u64;

/// Raft term.
pub type Term = u64;

/// A raft peer. Never reused: a wiped machine that comes back enrols as a new node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Random 128-bit name of a cluster, drawn by `init`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_hex(text).map(ClusterId)
    }
}

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", HEXLOWER.encode(&self.0[..6]))
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_hex(text).map(Digest)
    }
}

/// A snapshot is named by the digest of its encoded manifest.
pub type SnapshotId = Digest;

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let bytes = HEXLOWER
        .decode(text.to_ascii_lowercase().as_bytes())
        .map_err(|e| format!("'{text}' is not hexadecimal: {e}"))?;
    <[u8; N]>::try_from(bytes.as_slice())
        .map_err(|_| format!("'{text}' has {} bytes, expected {N}", bytes.len()))
}

/// The time, read by a runtime and handed to the core, which never reads a clock itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Milliseconds since some fixed start; never goes back. For timers.
    pub monotonic_ms: u64,
    /// Milliseconds since the Unix epoch by the local clock; may jump. For commit times only.
    pub unix_ms: u64,
}
