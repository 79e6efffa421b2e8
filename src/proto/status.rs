//! A failure as gRPC carries it: a status code, a message, and the whole `Failure` in the details.
//!
//! The details are a `google.rpc.Status` around one `Any`, the form that gRPC libraries of every
//! language expect in `grpc-status-details-bin`; anything else makes some of them drop the status.
//! Decoding trusts nothing: a status without our details still becomes a failure, judged by its code.

use bytes::Bytes;
use prost::Message;
use tonic::Status;

use super::{failure_from_proto, failure_to_proto, v1};
use crate::types::{Code, Failure};

/// Names the message inside the `Any`.
const FAILURE_TYPE_URL: &str = "type.googleapis.com/ratoon.v1.Failure";

/// `google.rpc.Status`, as far as we need it.
#[derive(Clone, PartialEq, Message)]
struct RichStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RichDetail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct RichDetail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The status that carries `failure` to a client, whole; with the usual hint if it has none.
pub fn failure_to_status(failure: &Failure) -> Status {
    let mut failure = failure.clone();
    if failure.hint.is_empty() {
        failure.hint = failure.code.usual_hint().to_owned();
    }
    let code = grpc_code(failure.code);
    let details = RichStatus {
        code: code as i32,
        message: failure.message.clone(),
        details: vec![RichDetail {
            type_url: FAILURE_TYPE_URL.to_owned(),
            value: Bytes::from(failure_to_proto(&failure).encode_to_vec()),
        }],
    };
    Status::with_details(code, failure.message, Bytes::from(details.encode_to_vec()))
}

/// The failure in a status's details; None if there is none, as in a status of the transport.
pub fn failure_in_status(status: &Status) -> Option<Failure> {
    let rich = RichStatus::decode(status.details()).ok()?;
    let detail = rich.details.iter().find(|detail| detail.type_url == FAILURE_TYPE_URL)?;
    let message = v1::Failure::decode(detail.value.as_ref()).ok()?;
    Some(failure_from_proto(message))
}

/// The gRPC code whose meaning is nearest.
fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidName
        | Code::InvalidArgument
        | Code::KeyEmpty
        | Code::KeyTooLarge
        | Code::ValueTooLarge
        | Code::BatchTooLarge
        | Code::DuplicateKey
        | Code::CursorInvalid => tonic::Code::InvalidArgument,
        Code::NamespaceNotFound
        | Code::CollectionNotFound
        | Code::RecordNotFound
        | Code::NodeNotFound
        | Code::SnapshotNotFound
        | Code::TransferNotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::NamespaceNotEmpty
        | Code::ConditionFailed
        | Code::SessionExpired
        | Code::SequenceStale
        | Code::WrongCluster
        | Code::LocalFault
        | Code::MembershipRefused
        | Code::NotCaughtUp => tonic::Code::FailedPrecondition,
        Code::TokenUnknown | Code::TokenUsed | Code::TokenExpired => tonic::Code::PermissionDenied,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::MembershipBusy => tonic::Code::Aborted,
        Code::DiskFull | Code::LimitReached | Code::Overloaded => tonic::Code::ResourceExhausted,
        Code::Corrupt => tonic::Code::DataLoss,
        Code::Unavailable | Code::NotReady | Code::ShuttingDown => tonic::Code::Unavailable,
        // Not `Unavailable`: generic clients repeat that by themselves.
        Code::OutcomeUnknown => tonic::Code::Unknown,
        Code::Internal => tonic::Code::Internal,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Retry;
    #[test]
    fn every_failure_survives_the_journey_through_a_status() {
        for code in Code::ALL {
            for retry in [Retry::Never, Retry::Later, Retry::Unknown] {
                let sent = Failure {
                    code: *code,
                    message: "what went wrong, ümlauts included".into(),
                    hint: "what to do".into(),
                    retry,
                };
                let status = failure_to_status(&sent);
                assert_ne!(status.code(), tonic::Code::Ok);
                assert_eq!(failure_in_status(&status), Some(sent));
            }
        }
    }

    #[test]
    fn details_are_a_google_rpc_status_with_one_any() {
        let status = failure_to_status(&Failure::new(Code::KeyEmpty, "the key is empty"));
        let rich = RichStatus::decode(status.details()).unwrap();
        assert_eq!(rich.code, tonic::Code::InvalidArgument as i32);
        assert_eq!(rich.details[0].type_url, FAILURE_TYPE_URL);
        let inner = v1::Failure::decode(rich.details[0].value.as_ref()).unwrap();
        assert_eq!(inner.code, "key_empty");
    }

    #[test]
    fn a_failure_without_a_hint_gets_the_usual_one() {
        for code in Code::ALL {
            let status = failure_to_status(&Failure::new(*code, "what went wrong"));
            assert_eq!(failure_in_status(&status).unwrap().hint, code.usual_hint());
        }
    }

    #[test]
    fn a_status_of_the_transport_holds_no_failure() {
        assert_eq!(failure_in_status(&Status::unavailable("connection refused")), None);
    }
}
