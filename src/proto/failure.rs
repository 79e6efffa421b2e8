//! Failures on the wire.
//!
//! Never loses one: a code that only a newer release knows arrives as `internal`, with its name in
//! the message and its retry advice intact.

use super::v1;
use crate::types::{Code, Failure, Retry};

/// The message that carries `failure`.
pub fn failure_to_proto(failure: &Failure) -> v1::Failure {
    let retry = match failure.retry {
        Retry::Never => v1::failure::Retry::Never,
        Retry::Later => v1::failure::Retry::Later,
        Retry::Unknown => v1::failure::Retry::Unknown,
    };
    v1::Failure {
        code: failure.code.as_str().to_owned(),
        message: failure.message.clone(),
        hint: failure.hint.clone(),
        retry: retry as i32,
    }
}

/// The failure that `message` carries.
pub fn failure_from_proto(message: v1::Failure) -> Failure {
    // Advice that this release does not know is taken as the most careful one.
    let retry = match v1::failure::Retry::try_from(message.retry) {
        Ok(v1::failure::Retry::Never) => Retry::Never,
        Ok(v1::failure::Retry::Later) => Retry::Later,
        Ok(v1::failure::Retry::Unknown) | Err(_) => Retry::Unknown,
    };
    match Code::parse(&message.code) {
        Some(code) => Failure { code, message: message.message, hint: message.hint, retry },
        None => Failure {
            code: Code::Internal,
            message: format!("{}: {}", message.code, message.message),
            hint: message.hint,
            retry,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for code in Code::ALL {
            let failure = Failure::new(*code, "what went wrong").hint("what to do");
            assert_eq!(failure_from_proto(failure_to_proto(&failure)), failure);
        }
    }

    #[test]
    fn a_code_of_a_newer_release_keeps_its_name_and_advice() {
        let message = v1::Failure {
            code: "too_purple".into(),
            message: "the record is purple".into(),
            hint: String::new(),
            retry: v1::failure::Retry::Later as i32,
        };
        let failure = failure_from_proto(message.clone());
        assert_eq!(failure.code, Code::Internal);
        assert_eq!(failure.message, "too_purple: the record is purple");
        assert_eq!(failure.retry, Retry::Later);
        let odd = failure_from_proto(v1::Failure { retry: 99, ..message });
        assert_eq!(odd.retry, Retry::Unknown);
    }
}
