//! Generated protobuf code. Conversions to the domain types stand beside it, one file a subject.

pub mod codec;
mod entry;
mod error;
mod failure;
pub mod fields;
mod membership;
pub mod public;
mod reply;
pub mod status;

pub use error::DecodeError;
pub use failure::{failure_from_proto, failure_to_proto};

#[allow(missing_docs, clippy::all)]
/// The public API.
pub mod v1 {
    tonic::include_proto!("ratoon.v1");

    /// Descriptors of the public API, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/api_descriptors.bin"));
}

/// What nodes say to each other and write to the log.
pub mod internal {
    #[allow(missing_docs, clippy::all)]
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("ratoon.internal.v1");
    }
}
