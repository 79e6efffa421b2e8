//! Makes the applied state durable without the log.

use super::NodeError;
use super::shared::Shared;
use crate::kv::{Family, KvError, StoreFault};
use crate::state;
use crate::storage::StateDb;
use crate::types::Index;

/// Flushes the live state; returns the applied index that no crash takes back, and its bytes.
pub(super) fn flush(shared: &Shared) -> Result<(Index, u64), NodeError> {
    let Some((generation, db)) = shared.live.current() else { return Ok((0, 0)) };
    match flush_database(&db) {
        Ok(flushed) => Ok(flushed),
        // An install has switched to another generation meanwhile and closed this one.
        Err(error) => match shared.live.current() {
            Some((live, db)) if live != generation => Ok((0, db.approximate_bytes()?)),
            _ => Err(error),
        },
    }
}

fn flush_database(db: &StateDb) -> Result<(Index, u64), NodeError> {
    db.flush()?;
    let row = db.get_persisted(Family::Meta, &state::applied_key())?.ok_or_else(|| KvError {
        attempted: "read the applied index after a flush".into(),
        cause: "it is not there".into(),
        fault: StoreFault::Corrupt,
    })?;
    let (index, _) = state::decode_applied(&row)?;
    Ok((index, db.approximate_bytes()?))
}
