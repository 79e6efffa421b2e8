//! What reads ask and answer.

use bytes::Bytes;

use super::{Index, Name};

/// Which moment of a collection is read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Moment {
    /// What it holds now.
    #[default]
    Now,
    /// What it held once this entry was applied.
    Index(Index),
    /// What it held at this commit time, ms since 1970.
    Time(u64),
    /// What it held at the index that this tag of it names.
    Tag(Name),
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    /// Sees every write acknowledged before the read began.
    Linearizable,
    /// Whatever this node has applied, once that is at least this index.
    Stale {
        /// 0: no wait.
        min_index: Index,
    },
}

/// A record as a reader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value; empty in a keys-only scan.
    pub value: Bytes,
    /// Log index of the write.
    pub version: Index,
    /// MIME type or empty.
    pub content_type: String,
    /// Commit time from which it counts as deleted.
    pub expires_unix_ms: Option<u64>,
}

/// What a scan shows of each record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ScanShow {
    /// Key, value and all the rest.
    #[default]
    Records,
    /// All but the value.
    Keys,
    /// Nothing: it is only counted.
    Count,
}

/// One page of a scan, in key order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanOptions {
    /// Keys that start with this; empty: all.
    pub prefix: Bytes,
    /// First key, inclusive; empty: from the first.
    pub start: Bytes,
    /// Last key, exclusive; empty: to the last.
    pub end: Bytes,
    /// Records in the page; 0: as many as fit the page's byte limit. Without effect on a count.
    pub limit: u32,
    /// Which moment the first page shows; later ones show the same.
    pub moment: Moment,
    /// From the page before; empty: the first page.
    pub cursor: Bytes,
    /// What is shown.
    pub show: ScanShow,
    /// From the last key to the first.
    pub reverse: bool,
}

/// Records of one page and where the next begins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanPage {
    /// In key order, or in reverse; none if they are only counted.
    pub records: Vec<Record>,
    /// Records that were only counted.
    pub count: u64,
    /// Bytes of their keys and values.
    pub count_bytes: u64,
    /// Empty: the end. Nothing else means the end.
    pub cursor: Bytes,
    /// The index the scan reads at, the same for all its pages.
    pub index: Index,
}
