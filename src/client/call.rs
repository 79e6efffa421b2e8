//! One call with all its attempts: which endpoint, whether to repeat, how long to wait.
//!
//! What a failure means depends on what was asked. A read may always be repeated. A write in a
//! session may too, since the cluster executes it once. Anything else is repeated only while it is
//! certain that nothing was done.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic::{ConnectError, Request, Response, Status};

use super::Client;
use super::endpoints::Choice;
use crate::proto::status::failure_in_status;
use crate::types::{Code, Failure, Retry, causes};

/// First pause after every endpoint has failed once; doubles from there.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What repeating a call would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Changes nothing: repeat freely.
    Read,
    /// The cluster executes it once however often it is sent.
    Session,
    /// May execute once more each time it is sent.
    Once,
}

/// How one attempt failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attempt {
    /// As the caller sees it if this was the last.
    pub(super) failure: Failure,
    /// Whether the request may have reached a node that acts on it.
    pub(super) may_have_run: bool,
    /// Whether another endpoint may do better.
    pub(super) elsewhere: bool,
}

/// How a call with all its attempts failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failed {
    /// The failure of the last attempt, or an unknown outcome.
    pub(super) failure: Failure,
    /// Whether an attempt before the last may have been executed.
    pub(super) earlier_may_have_run: bool,
}

impl Client {
    /// Calls until it is answered, must not be repeated, or the time is up.
    pub(super) async fn call<Message, Answer, Sending>(
        &self,
        kind: Kind,
        message: Message,
        send: impl Fn(Channel, Request<Message>) -> Sending,
    ) -> Result<Answer, Failure>
    where
        Message: Clone,
        Sending: Future<Output = Result<Response<Answer>, Status>>,
    {
        let deadline = Instant::now() + self.options.timeout;
        let limit = self.options.attempt_timeout;
        self.attempts(kind, message, deadline, limit, send).await.map_err(|failed| failed.failure)
    }

    /// The same for work that takes a node long: one attempt may use all the time there is.
    pub(super) async fn call_long<Message, Answer, Sending>(
        &self,
        kind: Kind,
        message: Message,
        send: impl Fn(Channel, Request<Message>) -> Sending,
    ) -> Result<Answer, Failure>
    where
        Message: Clone,
        Sending: Future<Output = Result<Response<Answer>, Status>>,
    {
        let limit = self.options.timeout;
        let deadline = Instant::now() + limit;
        self.attempts(kind, message, deadline, limit, send).await.map_err(|failed| failed.failure)
    }

    /// Calls until `deadline`, and says besides whether earlier attempts may have been executed.
    pub(super) async fn attempts<Message, Answer, Sending>(
        &self,
        kind: Kind,
        message: Message,
        deadline: Instant,
        attempt_limit: Duration,
        send: impl Fn(Channel, Request<Message>) -> Sending,
    ) -> Result<Answer, Failed>
    where
        Message: Clone,
        Sending: Future<Output = Result<Response<Answer>, Status>>,
    {
        let mut tried = 0u32;
        let mut may_have_run = false;
        loop {
            let choice = self.endpoints.choose();
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = left.min(attempt_limit);
            let mut request = Request::new(message.clone());
            request.set_timeout(limit);
            let answer = tokio::time::timeout(limit, send(choice.channel.clone(), request)).await;
            let attempt = match answer {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => judge(kind, &choice, &status),
                Err(_) => silent(kind, &choice, limit),
            };
            if attempt.elsewhere {
                self.endpoints.failed(choice.position);
            }
            tried += 1;
            let pause = pause(tried, self.endpoints.count());
            let left = deadline.saturating_duration_since(Instant::now());
            let earlier_may_have_run = may_have_run;
            may_have_run |= attempt.may_have_run;
            if !may_repeat(kind, &attempt.failure) || left <= pause {
                let failure = last_word(kind, attempt.failure, earlier_may_have_run);
                return Err(Failed { failure, earlier_may_have_run });
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// What a failure becomes when it is the last one. 'Try later' would be a lie if an earlier attempt
/// may have been executed.
fn last_word(kind: Kind, failure: Failure, earlier_may_have_run: bool) -> Failure {
    if kind != Kind::Read && earlier_may_have_run && failure.retry == Retry::Later {
        return unknown(format!("an earlier attempt may have been executed; then: {failure}"));
    }
    failure
}

fn unknown(message: String) -> Failure {
    Failure::new(Code::OutcomeUnknown, message)
        .hint("read back what was to change before sending it again")
}

/// Whether sending the same request once more is right.
fn may_repeat(kind: Kind, failure: &Failure) -> bool {
    match failure.retry {
        Retry::Never => false,
        // These pass when somebody acts, or after minutes: whoever asked wants to know now.
        Retry::Later => !matches!(failure.code, Code::DiskFull | Code::NotCaughtUp),
        Retry::Unknown => kind != Kind::Once,
    }
}

/// The pause before the next attempt: short while other endpoints are untried, then growing; always
/// with jitter, so that many clients do not come back together.
fn pause(tried: u32, endpoints: usize) -> Duration {
    let rounds = tried as usize / endpoints.max(1);
    let full = match u32::try_from(rounds).unwrap_or(u32::MAX) {
        0 => BACKOFF_FIRST / 5,
        round => BACKOFF_FIRST.saturating_mul(1 << (round - 1).min(10)).min(BACKOFF_MAX),
    };
    full.mul_f64(rand::random_range(0.5..1.0))
}

/// An attempt that was not answered in time.
fn silent(kind: Kind, choice: &Choice, limit: Duration) -> Attempt {
    let message = format!("{} did not answer within {limit:.1?}", choice.address);
    Attempt { failure: lost(kind, message), may_have_run: true, elsewhere: true }
}

/// A failure after which nobody can say whether the request was executed.
fn lost(kind: Kind, message: String) -> Failure {
    match kind {
        Kind::Read => Failure::new(Code::Unavailable, message)
            .hint("check that the cluster runs and that the endpoint is right"),
        Kind::Session | Kind::Once => unknown(message),
    }
}

/// What a status means: the node's own failure if it carries one, else one of the transport.
fn judge(kind: Kind, choice: &Choice, status: &Status) -> Attempt {
    if let Some(failure) = failure_in_status(status) {
        let elsewhere = matches!(
            failure.code,
            Code::Unavailable
                | Code::NotReady
                | Code::ShuttingDown
                | Code::Overloaded
                | Code::OutcomeUnknown
        );
        let may_have_run = failure.retry == Retry::Unknown;
        return Attempt { failure, may_have_run, elsewhere };
    }
    judge_transport(kind, choice, status)
}

fn judge_transport(kind: Kind, choice: &Choice, status: &Status) -> Attempt {
    let text = match status.source() {
        Some(cause) => causes(cause),
        None => status.message().to_owned(),
    };
    let message = format!("{}: {text}", choice.address);
    let settled = |code: Code, hint: &str| Attempt {
        failure: Failure::new(code, message.clone()).hint(hint),
        may_have_run: false,
        elsewhere: false,
    };
    if let Some(attempt) = refused_by_tls(&message) {
        return attempt;
    }
    match status.code() {
        tonic::Code::Unimplemented => settled(
            Code::InvalidArgument,
            "the node knows no such method: it may be older than this client",
        ),
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => settled(
            Code::Unauthenticated,
            "use a profile with a client certificate of this cluster",
        ),
        // Only an answer that was received can be too large.
        tonic::Code::OutOfRange => settled(Code::Internal, "ask for less at once"),
        _ if never_sent(status) => Attempt {
            failure: Failure::new(Code::Unavailable, message)
                .hint("check that the cluster runs and that the endpoint is right"),
            may_have_run: false,
            elsewhere: true,
        },
        _ => Attempt { failure: lost(kind, message), may_have_run: true, elsewhere: true },
    }
}

/// Certificates that do not fit will not fit a second time. The transport tells them only in words.
fn refused_by_tls(message: &str) -> Option<Attempt> {
    let (code, hint) = if message.contains("invalid peer certificate") {
        (
            Code::WrongCluster,
            "the endpoint is no node of the profile's cluster, or not by this name",
        )
    } else if message.contains("received fatal alert")
        && (message.contains("Certificate") || message.contains("UnknownCA"))
    {
        (Code::Unauthenticated, "use a profile with a valid client certificate of this cluster")
    } else {
        return None;
    };
    let failure = Failure::new(code, message).hint(hint);
    Some(Attempt { failure, may_have_run: false, elsewhere: false })
}

/// Whether the request certainly never left: there was no connection to send it on.
fn never_sent(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_run_twice_is_never_sent_twice() {
        let unknown = Failure::new(Code::OutcomeUnknown, "");
        assert!(may_repeat(Kind::Read, &unknown));
        assert!(may_repeat(Kind::Session, &unknown));
        assert!(!may_repeat(Kind::Once, &unknown));
        for kind in [Kind::Read, Kind::Session, Kind::Once] {
            assert!(may_repeat(kind, &Failure::new(Code::Unavailable, "")));
            assert!(!may_repeat(kind, &Failure::new(Code::KeyEmpty, "")));
            assert!(!may_repeat(kind, &Failure::new(Code::DiskFull, "")));
        }
    }

    #[test]
    fn later_becomes_unknown_once_an_attempt_may_have_run() {
        let later = Failure::new(Code::Unavailable, "no leader");
        assert_eq!(last_word(Kind::Session, later.clone(), true).code, Code::OutcomeUnknown);
        assert_eq!(last_word(Kind::Session, later.clone(), false), later);
        assert_eq!(last_word(Kind::Read, later.clone(), true), later);
        let definite = Failure::new(Code::ConditionFailed, "");
        assert_eq!(last_word(Kind::Session, definite.clone(), true), definite);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_are_short_while_endpoints_are_untried() {
        assert!(pause(1, 3) <= BACKOFF_FIRST / 5);
        assert!(pause(2, 3) <= BACKOFF_FIRST / 5);
        assert!(pause(3, 3) >= BACKOFF_FIRST / 2);
        for tried in [50, 1000, u32::MAX] {
            let pause = pause(tried, 1);
            assert!(pause <= BACKOFF_MAX && pause >= BACKOFF_MAX / 2, "{tried}: {pause:?}");
        }
    }
}
