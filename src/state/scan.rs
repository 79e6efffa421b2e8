//! Scans of a collection, page by page, and the walk over visible records they share with digests.
//!
//! A cursor names the incarnation, the next key, and the index that the first page read at. Later
//! pages read at that index too, so that a scan shows one moment however long it takes.

use bytes::Bytes;

use crate::kv::{Cursor, Family, View};
use crate::limits::{
    KEY_BYTES_MAX, SCAN_BOUND_BYTES_MAX, SCAN_PAGE_BYTES_MAX, SCAN_PAGE_READ_BYTES_MAX,
    SCAN_PAGE_RECORDS_MAX, SCAN_PAGE_ROWS_MAX, VERSION_STEPS_MAX,
};
use crate::types::{Code, CollectionName, Failure, Index, Record, ScanOptions, ScanPage};

use super::error::{RequestError, StateError};
use super::key::{
    after_prefix, keys_with_prefix, split_version, user_key, version_row, versions_of,
};
use super::read::{applied, incarnation, layer_at, visible};

/// Format of the cursors this release writes.
const CURSOR_FORMAT: u8 = 1;

/// One page of the records of `collection`, in key order.
///
/// A first page reads at `read_index`, normally the applied index of the view. A page without a
/// cursor is the last; one that has a cursor may be empty.
pub fn scan(
    view: &dyn View,
    collection: &CollectionName,
    options: &ScanOptions,
    read_index: Index,
) -> Result<ScanPage, RequestError> {
    validate(options)?;
    let incarnation = incarnation(view, collection)?;
    let cursor = match options.cursor.is_empty() {
        true => None,
        false => Some(Position::decode(&options.cursor, incarnation, options)?),
    };
    let index = cursor.as_ref().map_or(read_index, |cursor| cursor.index);
    let applied = applied(view)?;
    if index > applied {
        return Err(Failure::new(
            Code::Unavailable,
            format!("the scan reads at index {index}, this node has applied {applied}"),
        )
        .hint("ask again, or ask another node")
        .into());
    }
    let layer = layer_at(view, collection, incarnation, index)?;
    let range = Range::new(layer, options, cursor.as_ref());
    let effort = Effort { rows: SCAN_PAGE_ROWS_MAX, bytes: SCAN_PAGE_READ_BYTES_MAX };
    let mut walk = Walk::new(view.cursor(Family::Records), index, effort);
    walk.cursor.seek(&range.start);
    let (records, next) = page(&mut walk, &range.end, options)?;
    let cursor = match next {
        None => Bytes::new(),
        Some(key) => Position { incarnation, index, key }.encode(),
    };
    Ok(ScanPage { records, cursor, index })
}

fn validate(options: &ScanOptions) -> Result<(), Failure> {
    let bounds = [
        ("prefix", &options.prefix),
        ("start", &options.start),
        ("end", &options.end),
        ("cursor", &options.cursor),
    ];
    for (what, bytes) in bounds {
        if bytes.len() > SCAN_BOUND_BYTES_MAX {
            return Err(Failure::new(
                Code::InvalidArgument,
                format!(
                    "the scan's {what} has {} bytes, the limit is {SCAN_BOUND_BYTES_MAX}",
                    bytes.len()
                ),
            ));
        }
    }
    Ok(())
}

/// The records of one page, and the key that the next page begins at.
fn page(
    walk: &mut Walk<'_>,
    end: &[u8],
    options: &ScanOptions,
) -> Result<(Vec<Record>, Option<Bytes>), StateError> {
    let records_max = match options.limit as usize {
        0 => SCAN_PAGE_RECORDS_MAX,
        limit => limit.min(SCAN_PAGE_RECORDS_MAX),
    };
    let mut records = Vec::new();
    let mut bytes = 0;
    loop {
        match walk.settle(end)? {
            Settled::End => return Ok((records, None)),
            Settled::Paused => return Ok((records, Some(user_key(walk.row()?)?))),
            Settled::Visible => {}
        }
        let record = walk.record(options.keys_only)?;
        let size = record.key.len() + record.value.len() + record.content_type.len();
        let full = records.len() >= records_max || bytes + size > SCAN_PAGE_BYTES_MAX;
        if full && !records.is_empty() {
            return Ok((records, Some(record.key)));
        }
        bytes += size;
        records.push(record);
        walk.leave()?;
    }
}

/// The rows that a page may show.
struct Range {
    /// Inclusive.
    start: Vec<u8>,
    /// Exclusive.
    end: Vec<u8>,
}

impl Range {
    fn new(layer: u64, options: &ScanOptions, cursor: Option<&Position>) -> Range {
        let prefix = keys_with_prefix(layer, &options.prefix);
        let mut end = after_prefix(&prefix);
        if !options.end.is_empty() {
            end = end.min(versions_of(layer, &options.end));
        }
        let mut start = prefix;
        if !options.start.is_empty() {
            start = start.max(versions_of(layer, &options.start));
        }
        if let Some(cursor) = cursor {
            start = start.max(versions_of(layer, &cursor.key));
        }
        Range { start, end }
    }
}

/// Where a scan goes on.
struct Position {
    incarnation: u64,
    /// The index that all pages read at.
    index: Index,
    /// The first key of the next page, there or not.
    key: Bytes,
}

impl Position {
    fn encode(&self) -> Bytes {
        let Position { incarnation, index, key } = self;
        [&[CURSOR_FORMAT][..], &incarnation.to_be_bytes(), &index.to_be_bytes(), key]
            .concat()
            .into()
    }

    /// A cursor is not secret and not signed; it is only ever taken for what its fields say, and
    /// those must fit the scan it comes with.
    fn decode(bytes: &Bytes, incarnation: u64, options: &ScanOptions) -> Result<Self, Failure> {
        let invalid = |problem: &str| {
            Failure::new(Code::CursorInvalid, format!("the scan's cursor {problem}"))
                .hint("begin the scan anew without a cursor")
        };
        let fields = bytes
            .split_first_chunk::<1>()
            .and_then(|(format, rest)| Some((format, rest.split_first_chunk::<8>()?)))
            .and_then(|(format, (of, rest))| Some((format, of, rest.split_first_chunk::<8>()?)));
        let Some(([CURSOR_FORMAT], of, (index, key))) = fields else {
            return Err(invalid("is malformed"));
        };
        if u64::from_be_bytes(*of) != incarnation {
            return Err(invalid("is of another collection, or of one dropped since"));
        }
        let index = Index::from_be_bytes(*index);
        if index < incarnation || key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(invalid("is malformed"));
        }
        let inside = key.starts_with(&options.prefix)
            && *key >= *options.start
            && (options.end.is_empty() || *key < *options.end);
        if !inside {
            return Err(invalid("lies outside of the scan's bounds"));
        }
        Ok(Position { incarnation, index, key: bytes.slice(bytes.len() - key.len()..) })
    }
}

/// Where a walk came to stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Settled {
    /// On a visible record.
    Visible,
    /// Past the end.
    End,
    /// On some row, because enough rows were looked at.
    Paused,
}

/// An amount of rows looked at, or the most of it that is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Effort {
    /// Rows, seen or skipped.
    pub(super) rows: usize,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
}

impl Effort {
    fn add(&mut self, row: &[u8], value: &[u8]) {
        self.rows += 1;
        self.bytes += (row.len() + value.len()) as u64;
    }
}

/// A record that a walk stands on; borrows from the store.
pub(super) struct VisibleRecord<'a> {
    /// Its row in the records family.
    pub(super) row: &'a [u8],
    /// Index of the write.
    pub(super) version: Index,
    /// MIME type or empty.
    pub(super) content_type: &'a str,
    /// The value.
    pub(super) value: &'a [u8],
}

/// Walks the records that are visible at an index, in key order.
pub(super) struct Walk<'a> {
    /// Where it stands; the caller seeks to the start.
    pub(super) cursor: Box<dyn Cursor + 'a>,
    /// Versions above it are not seen.
    index: Index,
    /// Rows looked at.
    pub(super) spent: Effort,
    /// It pauses when it has looked at so many.
    allowed: Effort,
    /// What all versions of the current record begin with; kept to save allocations.
    versions: Vec<u8>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(cursor: Box<dyn Cursor + 'a>, index: Index, allowed: Effort) -> Self {
        Walk { cursor, index, spent: Effort::default(), allowed, versions: Vec::new() }
    }

    /// Stands on the first visible record at or after the row it stands on, and before `end`.
    pub(super) fn settle(&mut self, end: &[u8]) -> Result<Settled, StateError> {
        loop {
            let Some((row, value)) = self.cursor.entry() else {
                self.cursor.status()?;
                return Ok(Settled::End);
            };
            if row >= end {
                return Ok(Settled::End);
            }
            if self.spent.rows >= self.allowed.rows || self.spent.bytes >= self.allowed.bytes {
                return Ok(Settled::Paused);
            }
            self.spent.add(row, value);
            let (_, version) = split_version(row)?;
            if version > self.index {
                self.skip_newer()?;
            } else if visible(value)?.is_some() {
                return Ok(Settled::Visible);
            } else {
                self.leave()?;
            }
        }
    }

    /// To the record after the one it stands on, past all older versions.
    pub(super) fn leave(&mut self) -> Result<(), StateError> {
        self.remember_record()?;
        if !self.step_while_same(|_| true)? {
            // No entry has index 0, so nothing stands at this row: it is past all versions.
            self.cursor.seek(&version_row(&self.versions, 0));
        }
        Ok(())
    }

    /// To the newest version of the record it stands on that is not above the index, or to the
    /// next record.
    fn skip_newer(&mut self) -> Result<(), StateError> {
        self.remember_record()?;
        let index = self.index;
        if !self.step_while_same(|version| version > index)? {
            self.cursor.seek(&version_row(&self.versions, index));
        }
        Ok(())
    }

    fn remember_record(&mut self) -> Result<(), StateError> {
        let Some((row, _)) = self.cursor.entry() else {
            return Ok(self.cursor.status()?);
        };
        let (versions, _) = split_version(row)?;
        self.versions.clear();
        self.versions.extend_from_slice(versions);
        Ok(())
    }

    /// A few steps; false if they all led to versions of the same record that are to be skipped.
    fn step_while_same(&mut self, skip: impl Fn(Index) -> bool) -> Result<bool, StateError> {
        for _ in 0..VERSION_STEPS_MAX {
            self.cursor.next();
            let Some((row, value)) = self.cursor.entry() else {
                self.cursor.status()?;
                return Ok(true);
            };
            let (versions, version) = split_version(row)?;
            if versions != self.versions || !skip(version) {
                return Ok(true);
            }
            self.spent.add(row, value);
        }
        Ok(false)
    }

    /// The row it stands on.
    pub(super) fn row(&self) -> Result<&[u8], StateError> {
        match self.cursor.entry() {
            Some((row, _)) => Ok(row),
            None => Err(StateError::corrupt("a cursor lost the row it stood on")),
        }
    }

    /// The visible record it stands on.
    pub(super) fn visible(&self) -> Result<VisibleRecord<'_>, StateError> {
        let (row, value) = self
            .cursor
            .entry()
            .ok_or_else(|| StateError::corrupt("a cursor lost the row it stood on"))?;
        let (content_type, value) = visible(value)?
            .ok_or_else(|| StateError::corrupt("a value turned into a tombstone"))?;
        let (_, version) = split_version(row)?;
        Ok(VisibleRecord { row, version, content_type, value })
    }

    fn record(&self, keys_only: bool) -> Result<Record, StateError> {
        let VisibleRecord { row, version, content_type, value } = self.visible()?;
        Ok(Record {
            key: user_key(row)?,
            value: if keys_only { Bytes::new() } else { Bytes::copy_from_slice(value) },
            version,
            content_type: content_type.to_owned(),
        })
    }
}
