//! What travels in raft entries and in answers to forwarded commands, to bytes and back.
//!
//! Lengths are checked before anything is parsed.

use bytes::Bytes;
use prost::Message;

use super::DecodeError;
use crate::limits::{BATCH_WRITES_MAX, ENTRY_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::proto::fields::count_nested;
use crate::proto::internal::v1 as wire;
use crate::types::{Code, Failure, Reply, Request};

/// Field number of `Request.write`.
const WRITE_FIELD: u32 = 6;
/// Field number of `WriteBatch.writes`.
const WRITES_FIELD: u32 = 1;

/// The bytes of `request`, as clients and nodes hand it to the leader.
pub fn encode_request(request: &Request) -> Bytes {
    wire::Request::from(request).encode_to_vec().into()
}

/// The request that `bytes` hold. A leader calls this before it proposes them, so that no entry
/// is committed that could not be applied.
pub fn decode_request(bytes: Bytes) -> Result<Request, DecodeError> {
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(DecodeError::Refused(Failure::new(
            Code::BatchTooLarge,
            format!("the request has {} bytes, the limit is {REQUEST_BYTES_MAX}", bytes.len()),
        )));
    }
    // An empty write takes two bytes here and two hundred once decoded.
    let writes = count_nested(&bytes, &[WRITE_FIELD], WRITES_FIELD, BATCH_WRITES_MAX)
        .map_err(|problem| DecodeError::malformed("request", problem))?;
    if writes > BATCH_WRITES_MAX {
        return Err(DecodeError::Refused(Failure::new(
            Code::BatchTooLarge,
            format!("the batch has more than {BATCH_WRITES_MAX} writes"),
        )));
    }
    decode_message::<wire::Request>("request", bytes)?.try_into()
}

/// What the leader proposes: its time and an encoded request; an empty one only moves the time.
pub fn encode_entry(time_unix_ms: u64, request: &[u8]) -> Bytes {
    wire::Entry { time_unix_ms, request: Bytes::copy_from_slice(request) }.encode_to_vec().into()
}

/// The time and the encoded request of an entry.
pub fn decode_entry(bytes: Bytes) -> Result<(u64, Bytes), DecodeError> {
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(DecodeError::malformed(
            "entry",
            format!("it has {} bytes, the limit is {ENTRY_BYTES_MAX}", bytes.len()),
        ));
    }
    let entry = decode_message::<wire::Entry>("entry", bytes)?;
    Ok((entry.time_unix_ms, entry.request))
}

/// The bytes of a reply, as the leader answers a forwarded command.
pub fn encode_reply(reply: &Reply) -> Bytes {
    wire::Reply::from(reply).encode_to_vec().into()
}

/// The reply that `bytes` hold.
pub fn decode_reply(bytes: Bytes) -> Result<Reply, DecodeError> {
    decode_message::<wire::Reply>("reply", bytes)?.try_into()
}

fn decode_message<M: Message + Default>(
    what: &'static str,
    bytes: Bytes,
) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|error| DecodeError::malformed(what, error.to_string()))
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
