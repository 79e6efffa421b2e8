//! Rows of a view, decoded, with errors that name the family.

use crate::codec::DecodeError;
use crate::codec::stored::{self, OwnedRow};
use crate::kv::{Family, View};

use super::error::StateError;
use super::key::{Key, Kind};

/// The row that `bytes`, found under `key`, hold.
pub(super) fn decode<T: OwnedRow>(key: &Key, bytes: &[u8]) -> Result<T, StateError> {
    stored::decode(bytes).map_err(|error: DecodeError| StateError::row(key.family(), error))
}

/// A version of a record; borrows from `bytes`.
pub(super) fn decode_record(bytes: &[u8]) -> Result<stored::Record<'_>, StateError> {
    stored::decode(bytes).map_err(|error| StateError::row(Family::Records, error))
}

/// The row under `key`, if there is one.
pub(super) fn find<T: OwnedRow>(view: &dyn View, key: &Key) -> Result<Option<T>, StateError> {
    let bytes = view.get(key.family(), &key.encode())?;
    bytes.map(|bytes| decode(key, &bytes)).transpose()
}

/// The row under `key`, which every state has.
pub(super) fn required<T: OwnedRow>(view: &dyn View, key: &Key) -> Result<T, StateError> {
    find(view, key)?.ok_or(StateError::Missing)
}

/// Calls `visit` with every row of a kind of the family `Meta`, in order.
pub(super) fn each(
    view: &dyn View,
    kind: &Kind,
    mut visit: impl FnMut(Key, &[u8]) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let mut cursor = view.cursor(Family::Meta);
    cursor.seek(&kind.start);
    while let Some((key, value)) = cursor.entry().filter(|(key, _)| *key < kind.end.as_slice()) {
        visit(Key::decode(Family::Meta, key)?, value)?;
        cursor.next();
    }
    Ok(cursor.status()?)
}

/// The first row of a kind of the family `Meta`, if there is one.
pub(super) fn first<T: OwnedRow>(
    view: &dyn View,
    kind: &Kind,
) -> Result<Option<(Key, T)>, StateError> {
    let mut cursor = view.cursor(Family::Meta);
    cursor.seek(&kind.start);
    match cursor.entry().filter(|(key, _)| *key < kind.end.as_slice()) {
        Some((key, value)) => {
            let key = Key::decode(Family::Meta, key)?;
            let row = decode(&key, value)?;
            Ok(Some((key, row)))
        }
        None => {
            cursor.status()?;
            Ok(None)
        }
    }
}
