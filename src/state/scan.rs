//! Scans of a collection, page by page.
//!
//! A cursor names the incarnation, the next key, and the index that the first page read at. Later
//! pages read at that index too, so that a scan shows one moment however long it takes.

use bytes::Bytes;

use crate::kv::View;
use crate::limits::{
    KEY_BYTES_MAX, SCAN_BOUND_BYTES_MAX, SCAN_PAGE_BYTES_MAX, SCAN_PAGE_READ_BYTES_MAX,
    SCAN_PAGE_RECORDS_MAX, SCAN_PAGE_ROWS_MAX,
};
use crate::types::{Code, CollectionName, Failure, Index, ScanOptions, ScanPage, ScanShow};

use super::error::{RequestError, StateError};
use super::read::{incarnation, record_of};
use super::sight::{Resolved, resolve, sight_at};
use super::walk::{Effort, Keys, Settled, Walk};

/// Format of the cursors this release writes.
const CURSOR_FORMAT: u8 = 1;

/// One page of the records of `collection`, in key order.
///
/// A page without a cursor is the last; one that has a cursor may be
/// empty.
pub fn scan(
    view: &dyn View,
    collection: &CollectionName,
    options: &ScanOptions,
) -> Result<ScanPage, RequestError> {
    validate(options)?;
    let mut keys = Keys {
        prefix: options.prefix.clone(),
        start: options.start.clone(),
        end: options.end.clone(),
    };
    let Resolved { incarnation, sight } = match options.cursor.is_empty() {
        true => resolve(view, collection, &options.moment)?,
        false => {
            let incarnation = incarnation(view, collection)?;
            let position = Position::decode(&options.cursor, incarnation, &keys)?;
            let sight = sight_at(view, collection, incarnation, position.index)?;
            match options.reverse {
                false => keys.start = position.key,
                true => keys.end = successor(&position.key),
            }
            Resolved { incarnation, sight }
        }
    };
    let effort = Effort { rows: SCAN_PAGE_ROWS_MAX, bytes: SCAN_PAGE_READ_BYTES_MAX };
    let mut walk = Walk::new(view, &sight, &keys, options.reverse, effort)?;
    let mut page = ScanPage { index: sight.index, ..ScanPage::default() };
    let next = fill(&mut walk, options, &mut page)?;
    if let Some(key) = next {
        page.cursor = Position { incarnation, index: sight.index, key }.encode();
    }
    Ok(page)
}

/// The least key above `key`.
fn successor(key: &Bytes) -> Bytes {
    [key, &[0][..]].concat().into()
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

/// Fills one page; answers with the key that the next page begins at.
fn fill(
    walk: &mut Walk<'_>,
    options: &ScanOptions,
    page: &mut ScanPage,
) -> Result<Option<Bytes>, StateError> {
    let counts_only = options.show == ScanShow::Count;
    let records_max = match options.limit as usize {
        _ if counts_only => usize::MAX,
        0 => SCAN_PAGE_RECORDS_MAX,
        limit => limit.min(SCAN_PAGE_RECORDS_MAX),
    };
    let mut bytes = 0;
    loop {
        match walk.settle()? {
            Settled::End => return Ok(None),
            Settled::Paused => return Ok(Some(walk.place()?)),
            Settled::Visible => {}
        }
        let visible = walk.visible()?;
        let key = visible.key()?;
        if counts_only {
            page.count += 1;
            page.count_bytes += (key.len() + visible.value.len()) as u64;
            walk.leave()?;
            continue;
        }
        let record = record_of(key, &visible, options.show == ScanShow::Keys);
        let size = record.key.len() + record.value.len() + record.content_type.len();
        let full = page.records.len() >= records_max || bytes + size > SCAN_PAGE_BYTES_MAX;
        if full && !page.records.is_empty() {
            return Ok(Some(record.key));
        }
        bytes += size;
        page.records.push(record);
        walk.leave()?;
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
    fn decode(bytes: &Bytes, incarnation: u64, keys: &Keys) -> Result<Self, Failure> {
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
        if index == 0 || key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(invalid("is malformed"));
        }
        if !keys.contains(key) {
            return Err(invalid("lies outside of the scan's bounds"));
        }
        Ok(Position { incarnation, index, key: bytes.slice(bytes.len() - key.len()..) })
    }
}
