//! Domain types to bytes and back: protobuf for what other nodes read, bincode with a version byte
//! for what only this node reads. Decoding never trusts lengths and never panics.

pub mod bulk;
pub mod digest_cache;
mod entry;
pub mod frame;
mod install_plan;
pub mod local;
pub mod manifest;
pub mod peer;
pub mod pull_record;
pub mod stored;

#[cfg(test)]
mod fuzz;

pub use crate::proto::DecodeError;
pub use entry::{
    decode_entry, decode_reply, decode_request, encode_entry, encode_reply, encode_request,
};
pub use install_plan::{
    INSTALL_PLAN_BYTES_MAX, InstallPlanRecord, decode_install_plan, encode_install_plan,
};
