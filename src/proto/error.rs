//! Why bytes or a message could not be turned into domain types.
//!
//! Three cases, because three parties act: the sender of damaged bytes, the caller who broke a
//! rule, and the operator whose node is older than what it reads.

use thiserror::Error;

use crate::types::{Code, Failure};

/// Bytes or a message that this release does not turn into a domain type.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// Reject: not the encoding of anything. Every release says so of the same bytes.
    #[error("damaged {what}: {problem}")]
    Malformed {
        /// What the bytes should have been.
        what: &'static str,
        /// What is wrong with them.
        problem: String,
    },
    /// Reject: well formed, but an argument breaks a rule. Every release says so.
    #[error("{0}")]
    Refused(#[from] Failure),
    /// Halt when it is committed or stored, reject otherwise: a newer release may have written it.
    #[error("this release does not know {what} {found}")]
    Unknown {
        /// What is unknown: an enum, a command, a row format.
        what: &'static str,
        /// The number or name found.
        found: String,
    },
}

impl DecodeError {
    /// A `Malformed` error.
    pub fn malformed(what: &'static str, problem: impl Into<String>) -> Self {
        DecodeError::Malformed { what, problem: problem.into() }
    }

    /// An `Unknown` error.
    pub fn unknown(what: &'static str, found: impl ToString) -> Self {
        DecodeError::Unknown { what, found: found.to_string() }
    }

    /// A refused argument.
    pub fn refused(problem: impl Into<String>) -> Self {
        DecodeError::Refused(Failure::new(Code::InvalidArgument, problem))
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Failure {
        match error {
            DecodeError::Refused(failure) => failure,
            DecodeError::Malformed { .. } => Failure::new(Code::InvalidArgument, error.to_string()),
            DecodeError::Unknown { .. } => Failure::new(Code::InvalidArgument, error.to_string())
                .hint("upgrade this node to the release of the sender"),
        }
    }
}
