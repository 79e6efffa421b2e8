//! What a command can end with, and the exit code and words for it.
//!
//! Exit codes are a promise to scripts: 0 done; 1 negative answer; 2 usage; 3 refused; 4 unavailable,
//! retry; 5 outcome unknown; 70 a defect. Prints nothing itself: `output` does.

use std::io;

use thiserror::Error;

use crate::types::{Code, Failure, Retry};

/// The command did what it was asked to do.
pub const EXIT_DONE: u8 = 0;
/// The answer is no: not found, differs, condition false, conflict.
pub const EXIT_NEGATIVE: u8 = 1;
/// The command line makes no sense.
pub const EXIT_USAGE: u8 = 2;
/// Refused: sending it again changes nothing.
pub const EXIT_REFUSED: u8 = 3;
/// Nothing was done, or not all of it; run it again.
pub const EXIT_UNAVAILABLE: u8 = 4;
/// It may or may not have been done.
pub const EXIT_UNKNOWN: u8 = 5;
/// A defect of ratoon.
pub const EXIT_DEFECT: u8 = 70;

/// Why a command did not end well.
#[derive(Debug, Error)]
pub enum CliError {
    /// Somebody below refused or failed: its code and retry say who must act.
    #[error("{}", .0.message)]
    Failure(#[from] Failure),
    /// Reject: the command line makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong with it.
        message: String,
        /// How to write it instead.
        hint: String,
    },
    /// Reject: the question was answered, with no.
    #[error("{message}")]
    Negative {
        /// Machine-readable reason, snake_case.
        code: &'static str,
        /// The answer.
        message: String,
        /// What to look at next.
        hint: String,
    },
    /// Reject: refused here, before anything was sent or written.
    #[error("{message}")]
    Refused {
        /// Machine-readable reason, snake_case.
        code: &'static str,
        /// What stands in the way.
        message: String,
        /// How to get past it.
        hint: String,
    },
    /// Reject: a local file could not be read or written.
    #[error("{attempted}: {cause}")]
    File {
        /// What was being done, with the path.
        attempted: String,
        /// What the system said.
        cause: io::Error,
    },
    /// Retry: the person stopped it; the same command goes on from there.
    #[error("interrupted")]
    Interrupted {
        /// How to go on.
        hint: String,
    },
    /// Reject: whoever read stdout has gone; there is nobody to tell.
    #[error("the reader of stdout has gone")]
    OutputClosed,
    /// Halt: ratoon itself is wrong.
    #[error("{0}")]
    Defect(String),
}

/// An error as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorReport {
    /// Process exit code.
    pub exit: u8,
    /// Machine-readable reason, snake_case.
    pub code: String,
    /// One sentence on what went wrong.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// `never`, `later` or `unknown`.
    pub retry: &'static str,
}

impl CliError {
    /// A usage error.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        CliError::Usage { message: message.into(), hint: hint.into() }
    }

    /// A refusal.
    pub fn refused(
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        CliError::Refused { code, message: message.into(), hint: hint.into() }
    }

    /// For `map_err`: `attempted` tells what was being done.
    pub fn file(attempted: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempted = attempted.into();
        move |cause| CliError::File { attempted, cause }
    }

    /// The error in the form it is shown.
    pub fn report(&self) -> ErrorReport {
        let (exit, code, hint, retry) = match self {
            CliError::Failure(failure) => {
                let hint = match failure.hint.is_empty() {
                    true => failure.code.usual_hint().to_owned(),
                    false => failure.hint.clone(),
                };
                (exit_code(failure), failure.code.as_str(), hint, retry_name(failure.retry))
            }
            CliError::Usage { hint, .. } => (EXIT_USAGE, "usage", hint.clone(), "never"),
            CliError::Negative { code, hint, .. } => (EXIT_NEGATIVE, *code, hint.clone(), "never"),
            CliError::Refused { code, hint, .. } => (EXIT_REFUSED, *code, hint.clone(), "never"),
            CliError::File { cause, .. } => {
                (EXIT_REFUSED, "file", file_hint(cause).to_owned(), "never")
            }
            CliError::Interrupted { hint } => {
                (EXIT_UNAVAILABLE, "interrupted", hint.clone(), "later")
            }
            CliError::OutputClosed => (EXIT_DONE, "output_closed", String::new(), "never"),
            CliError::Defect(_) => {
                (EXIT_DEFECT, "internal", Code::Internal.usual_hint().to_owned(), "never")
            }
        };
        ErrorReport { exit, code: code.to_owned(), message: self.to_string(), hint, retry }
    }
}

/// The exit code of a failure. Whether to retry counts first, because scripts act on it.
pub fn exit_code(failure: &Failure) -> u8 {
    match failure.retry {
        Retry::Later => return EXIT_UNAVAILABLE,
        Retry::Unknown => return EXIT_UNKNOWN,
        Retry::Never => {}
    }
    match failure.code {
        Code::NamespaceNotFound
        | Code::CollectionNotFound
        | Code::RecordNotFound
        | Code::NodeNotFound
        | Code::SnapshotNotFound
        | Code::TransferNotFound
        | Code::AlreadyExists
        | Code::ConditionFailed => EXIT_NEGATIVE,
        Code::InvalidName
        | Code::InvalidArgument
        | Code::KeyEmpty
        | Code::DuplicateKey
        | Code::CursorInvalid => EXIT_USAGE,
        Code::KeyTooLarge
        | Code::ValueTooLarge
        | Code::BatchTooLarge
        | Code::NamespaceNotEmpty
        | Code::LimitReached
        | Code::SessionExpired
        | Code::SequenceStale
        | Code::TokenUnknown
        | Code::TokenUsed
        | Code::TokenExpired
        | Code::WrongCluster
        | Code::Unauthenticated
        | Code::MembershipRefused
        | Code::LocalFault
        | Code::Corrupt => EXIT_REFUSED,
        Code::NotCaughtUp
        | Code::MembershipBusy
        | Code::DiskFull
        | Code::Unavailable
        | Code::Overloaded
        | Code::NotReady
        | Code::ShuttingDown => EXIT_UNAVAILABLE,
        Code::OutcomeUnknown => EXIT_UNKNOWN,
        Code::Internal => EXIT_DEFECT,
    }
}

fn retry_name(retry: Retry) -> &'static str {
    match retry {
        Retry::Never => "never",
        Retry::Later => "later",
        Retry::Unknown => "unknown",
    }
}

fn file_hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check who owns the file and its permissions",
        io::ErrorKind::StorageFull => "free some disk, then run it again",
        _ => "see to the file named above, then run it again",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_documented_exit_code_and_a_hint() {
        let documented = [1, 2, 3, 4, 5, 70];
        for code in Code::ALL {
            let report = CliError::from(Failure::new(*code, "it went wrong")).report();
            assert!(documented.contains(&report.exit), "{code:?} exits {}", report.exit);
            assert!(!report.hint.is_empty(), "{code:?} says nothing about what to do next");
            assert_eq!(report.code, code.as_str());
        }
    }

    #[test]
    fn whether_to_retry_decides_before_the_code_does() {
        let exit = |code, retry| exit_code(&Failure { retry, ..Failure::new(code, "x") });
        assert_eq!(exit(Code::RecordNotFound, Retry::Never), EXIT_NEGATIVE);
        assert_eq!(exit(Code::SessionExpired, Retry::Never), EXIT_REFUSED);
        assert_eq!(exit(Code::SessionExpired, Retry::Unknown), EXIT_UNKNOWN);
        assert_eq!(exit(Code::MembershipRefused, Retry::Later), EXIT_UNAVAILABLE);
        assert_eq!(exit(Code::Internal, Retry::Never), EXIT_DEFECT);
    }

    #[test]
    fn a_hint_of_the_failure_wins_over_the_usual_one() {
        let failure = Failure::new(Code::Unavailable, "no leader").hint("look at the moon");
        assert_eq!(CliError::from(failure).report().hint, "look at the moon");
    }

    #[test]
    fn a_closed_stdout_is_no_error_of_the_command() {
        assert_eq!(CliError::OutputClosed.report().exit, EXIT_DONE);
    }
}
