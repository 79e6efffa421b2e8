//! Domain types to bytes and back: protobuf for what other nodes read, bincode with a version byte
//! for what only this node reads. Decoding never trusts lengths and never panics.

pub mod bulk;
pub mod manifest;
pub mod pull_record;
