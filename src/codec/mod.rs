//! Domain types to bytes and back: protobuf for what other nodes read, bincode with a version byte
//! for what only this node reads. Decoding never trusts lengths and never panics.

mod entry;
pub mod local;
pub mod peer;
pub mod stored;

pub use crate::proto::DecodeError;
pub use entry::{
    decode_entry, decode_reply, decode_request, encode_entry, encode_reply, encode_request,
};
