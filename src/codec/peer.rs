//! What nodes say to each other on the raft lane, to bytes and back.

use bytes::Bytes;
use prost::Message;

use super::DecodeError;
use crate::limits::{EMBEDDED_BYTES_MAX, MANIFEST_PARTS_MAX, MIB, NODES_MAX};
use crate::proto::fields::{Fields, count_nested};
use crate::proto::internal::v1::{Envelope, PeerRequest, PeerResponse};

/// Field number of `Envelope.embedded`.
const EMBEDDED_FIELD: u32 = 4;
/// Field number of `EmbeddedSnapshot.parts`.
const EMBEDDED_PARTS_FIELD: u32 = 2;
/// Largest embedded snapshot with its manifest and framing, bytes.
const EMBEDDED_FIELD_BYTES_MAX: usize = EMBEDDED_BYTES_MAX + 2 * MIB;
/// Field number of `PeerResponse.status`.
const STATUS_FIELD: u32 = 3;
/// Field number of `NodeStatus.transfers`.
const TRANSFERS_FIELD: u32 = 16;
/// Field number of `NodeStatus.pins`.
const PINS_FIELD: u32 = 20;

/// One frame of a one-way stream.
pub fn encode_envelope(envelope: &Envelope) -> Bytes {
    Bytes::from(envelope.encode_to_vec())
}

/// One frame of a one-way stream. `bytes` are bounded by whoever read them.
pub fn decode_envelope(bytes: Bytes) -> Result<Envelope, DecodeError> {
    const WHAT: &str = "a frame";
    for field in Fields::of(&bytes) {
        let (number, content) = field.map_err(|problem| DecodeError::malformed(WHAT, problem))?;
        if number == EMBEDDED_FIELD && content.len() > EMBEDDED_FIELD_BYTES_MAX {
            let problem = format!("an embedded snapshot of {} bytes", content.len());
            return Err(DecodeError::malformed(WHAT, problem));
        }
    }
    bound(WHAT, &bytes, &[EMBEDDED_FIELD], EMBEDDED_PARTS_FIELD, MANIFEST_PARTS_MAX)?;
    Envelope::decode(bytes).map_err(|e| DecodeError::malformed(WHAT, e.to_string()))
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
    const WHAT: &str = "an answer";
    bound(WHAT, &bytes, &[STATUS_FIELD], TRANSFERS_FIELD, NODES_MAX)?;
    bound(WHAT, &bytes, &[STATUS_FIELD], PINS_FIELD, NODES_MAX)?;
    PeerResponse::decode(bytes).map_err(|e| DecodeError::malformed(WHAT, e.to_string()))
}

/// Counts the items of a list before they are decoded: an empty one takes two bytes on the wire and
/// many times that in memory.
fn bound(
    what: &'static str,
    bytes: &[u8],
    path: &[u32],
    list: u32,
    items_max: usize,
) -> Result<(), DecodeError> {
    let items = count_nested(bytes, path, list, items_max)
        .map_err(|problem| DecodeError::malformed(what, problem))?;
    if items > items_max {
        return Err(DecodeError::malformed(what, format!("a list of more than {items_max} items")));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::internal::v1::{
        EmbeddedSnapshot, ProposeCall, envelope, peer_request, peer_response,
    };
    use crate::proto::v1;

    #[test]
    fn an_envelope_of_a_million_empty_parts_is_refused() {
        let embedded = |parts| EmbeddedSnapshot { manifest: Bytes::new(), parts };
        let small = Envelope { body: None, embedded: Some(embedded(vec![Bytes::new(); 9])) };
        assert_eq!(decode_envelope(encode_envelope(&small)).unwrap(), small);
        let parts = vec![Bytes::new(); MANIFEST_PARTS_MAX + 1];
        let many = Envelope { body: None, embedded: Some(embedded(parts)) };
        assert!(decode_envelope(encode_envelope(&many)).is_err());
        let parts = vec![Bytes::from(vec![0; EMBEDDED_FIELD_BYTES_MAX])];
        let large = Envelope { body: None, embedded: Some(embedded(parts)) };
        assert!(decode_envelope(encode_envelope(&large)).is_err());
    }

    #[test]
    fn an_answer_with_more_pulls_or_pins_than_a_cluster_has_nodes_is_refused() {
        let answer = |transfers: usize, pins: usize| PeerResponse {
            failure: None,
            body: Some(peer_response::Body::Status(v1::NodeStatus {
                transfers: vec![v1::Transfer::default(); transfers],
                pins: vec![v1::Pin::default(); pins],
                ..v1::NodeStatus::default()
            })),
        };
        assert!(decode_answer(encode_answer(&answer(NODES_MAX, NODES_MAX))).is_ok());
        assert!(decode_answer(encode_answer(&answer(NODES_MAX + 1, 0))).is_err());
        assert!(decode_answer(encode_answer(&answer(0, NODES_MAX + 1))).is_err());
    }

    #[test]
    fn groups_are_refused_in_frames() {
        assert!(decode_envelope(Bytes::from_static(&[0x0b, 0x0c])).is_err());
    }

    proptest! {
        #[test]
        fn frames_and_calls_survive_their_bytes(raft: Vec<u8>, request: Vec<u8>, client: String) {
            let body = Some(envelope::Body::Raft(raft.into()));
            let envelope = Envelope { body, embedded: None };
            prop_assert_eq!(decode_envelope(encode_envelope(&envelope)).unwrap(), envelope);
            let body = peer_request::Body::Propose(ProposeCall { request: request.into(), client });
            let call = PeerRequest { body: Some(body) };
            prop_assert_eq!(decode_call(encode_call(&call)).unwrap(), call);
        }
    }
}
