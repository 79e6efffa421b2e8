//! What can go wrong in the state machine beyond a plain refusal.
//!
//! A refusal is a reply, equal on every replica. What is here is not: it concerns this node alone.

use thiserror::Error;

use crate::codec::DecodeError;
use crate::kv::{Family, KvError, StoreFault};
use crate::types::{Code, Failure, Index};

/// The state machine cannot go on. Every variant says halt: a node that skipped an entry, or
/// guessed at one, would part from its peers.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum StateError {
    /// Halt: the store failed. But a read of one that is closed is asked again.
    #[error(transparent)]
    Store(#[from] KvError),
    /// Halt, and rebuild the node: a stored row is damaged, or contradicts another.
    #[error("the state is damaged: {problem}")]
    Corrupt {
        /// What is wrong with it.
        problem: String,
    },
    /// Halt: the store holds no state; it was never founded, or nothing was installed.
    #[error("the store holds no state")]
    Missing,
    /// Halt: the caller hands over an entry that is not the next one.
    #[error("entry {index} of term {term} cannot follow {applied} of term {applied_term}")]
    OutOfOrder {
        /// Index of the entry handed over.
        index: Index,
        /// Its term.
        term: u64,
        /// Last index applied.
        applied: Index,
        /// Its term.
        applied_term: u64,
    },
    /// Halt, and upgrade the node: a newer release wrote an entry or a row.
    #[error("this release is too old for the state: {problem}")]
    TooOld {
        /// What it does not know.
        problem: String,
    },
}

impl StateError {
    /// A `Corrupt` error.
    pub(super) fn corrupt(problem: impl Into<String>) -> Self {
        StateError::Corrupt { problem: problem.into() }
    }

    /// A stored row of `family` under `key` that does not decode.
    pub(super) fn row(family: Family, error: DecodeError) -> Self {
        let problem = format!("{} row: {error}", family.name());
        match error {
            DecodeError::Unknown { .. } => StateError::TooOld { problem },
            DecodeError::Malformed { .. } | DecodeError::Refused(_) => {
                StateError::Corrupt { problem }
            }
        }
    }
}

/// Why a read or a command came to nothing.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// Reject: the request is wrong, or what it names is not there.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// Halt, as told by the variant inside.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<KvError> for RequestError {
    fn from(error: KvError) -> Self {
        RequestError::State(error.into())
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        let code = match &error {
            StateError::Store(KvError { fault, .. }) => match fault {
                StoreFault::Corrupt => Code::Corrupt,
                StoreFault::DiskFull => Code::DiskFull,
                // A snapshot took the place of what was being read.
                StoreFault::Closed => Code::NotReady,
                StoreFault::Other => Code::LocalFault,
            },
            StateError::Corrupt { .. } => Code::Corrupt,
            StateError::Missing => Code::NotReady,
            StateError::OutOfOrder { .. } | StateError::TooOld { .. } => Code::Internal,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        match error {
            RequestError::Refused(failure) => failure,
            RequestError::State(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Retry;

    #[test]
    fn a_read_of_a_state_that_was_replaced_may_be_asked_again() {
        let of = |fault| {
            let (attempted, cause) = ("reading".to_owned(), "why".to_owned());
            Failure::from(StateError::from(KvError { attempted, cause, fault }))
        };
        let closed = of(StoreFault::Closed);
        assert_eq!((closed.code, closed.retry), (Code::NotReady, Retry::Later));
        assert_eq!(of(StoreFault::Other).code, Code::LocalFault);
        assert_eq!(of(StoreFault::Corrupt).code, Code::Corrupt);
    }
}
