//! What reads ask and answer.

use bytes::Bytes;

use super::Index;

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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value; empty in a keys-only scan.
    pub value: Bytes,
    /// Log index of the write.
    pub version: Index,
    /// MIME type or empty.
    pub content_type: String,
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
    /// Records in the page; 0: as many as fit the page's byte limit.
    pub limit: u32,
    /// From the page before; empty: the first page.
    pub cursor: Bytes,
    /// Leave values out.
    pub keys_only: bool,
}

/// Records of one page and where the next begins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanPage {
    /// In key order.
    pub records: Vec<Record>,
    /// Empty: the end. Nothing else means the end.
    pub cursor: Bytes,
    /// The index the scan reads at, the same for all its pages.
    pub index: Index,
}
