//! What nodes say to each other on the raft lane, to bytes and back.

use bytes::Bytes;
use prost::Message;

use super::DecodeError;
use crate::proto::internal::v1::{Envelope, PeerRequest, PeerResponse};

/// One frame of a one-way stream.
pub fn encode_envelope(envelope: &Envelope) -> Bytes {
    Bytes::from(envelope.encode_to_vec())
}

/// One frame of a one-way stream. `bytes` are bounded by whoever read them.
pub fn decode_envelope(bytes: Bytes) -> Result<Envelope, DecodeError> {
    Envelope::decode(bytes).map_err(|e| DecodeError::malformed("a frame", e.to_string()))
}

/// A call from one node to another.
pub fn encode_call(call: &PeerRequest) -> Bytes {
    Bytes::from(call.encode_to_vec())
}

/// A call from one node to another.
pub fn decode_call(bytes: Bytes) -> Result<PeerRequest, DecodeError> {
    PeerRequest::decode(bytes).map_err(|e| DecodeError::malformed("a call", e.to_string()))
}

/// The answer to a call.
pub fn encode_answer(answer: &PeerResponse) -> Bytes {
    Bytes::from(answer.encode_to_vec())
}

/// The answer to a call.
pub fn decode_answer(bytes: Bytes) -> Result<PeerResponse, DecodeError> {
    PeerResponse::decode(bytes).map_err(|e| DecodeError::malformed("an answer", e.to_string()))
}
