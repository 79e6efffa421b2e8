//! The one table of a pull's states. Every change of state asks it.

use crate::types::TransferState;

/// From, to, and what brings it about. Ends (`Superseded`, `Failed`) are reached from every state
/// that is not final and are not listed.
pub const TRANSITIONS: &[(&str, &str, &str)] = &[
    ("Offered", "FetchingManifest", "a source was dialled"),
    ("Offered", "Planning", "the manifest lay in the staging area"),
    ("Offered", "Durable", "all parts lay in the staging area"),
    ("FetchingManifest", "Planning", "the manifest is here and has the right digest"),
    ("Planning", "Pulling", "bytes are missing"),
    ("Planning", "Verifying", "no bytes are missing"),
    ("Pulling", "Verifying", "all bytes are staged"),
    ("Verifying", "Pulling", "a part does not have its digest"),
    ("Verifying", "Durable", "all parts are verified, synced and renamed"),
    ("Durable", "Stepped", "raft took the metadata"),
    ("Durable", "Installed", "the node switched to it at boot"),
    ("Stepped", "Installed", "the node runs on it"),
];

/// Whether `to` may follow `from`.
pub fn may_follow(from: &TransferState, to: &TransferState) -> bool {
    if from.is_final() {
        return false;
    }
    match to {
        TransferState::Superseded | TransferState::Failed(_) => true,
        _ => TRANSITIONS.iter().any(|(f, t, _)| (*f, *t) == (from.name(), to.name())),
    }
}
