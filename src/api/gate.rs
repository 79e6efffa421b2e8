//! What every request passes before a service sees it, and every answer on its way out.
//!
//! In: the caller's certificate, the bound on requests under way, the budget for bytes, a time
//! limit. Out: failures that no service wrote (a malformed message, an unknown method) get the
//! details that all failures have. It never reads a message.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use slog::{Logger, debug, info};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

use super::budget::{Budget, Holding, Reservation};
use crate::limits;
use crate::net::{Subject, parse_subject};
use crate::proto::status::{failure_in_status, failure_to_status};
use crate::types::{ClusterId, Code, Failure};

/// Shared by all requests of one server.
pub(super) struct Gate {
    cluster: ClusterId,
    requests: Arc<Semaphore>,
    budget: Budget,
    logger: Logger,
}

/// How a method is treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rule {
    /// Open to a caller without a certificate.
    open: bool,
    /// Streams that live as long as their caller wants: outside the bounds on requests and time.
    stream: bool,
    /// Whether the call may have changed something when it runs out of time.
    write: bool,
    /// Changes more than records, so that it is logged with its caller.
    administrative: bool,
    /// The answer's time limit, milliseconds.
    limit_ms: u64,
}

/// The rule for a method's path, `/package.Service/Method`.
fn rule(path: &str) -> Rule {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let reads = ["Get", "Scan", "List", "Describe", "Status", "Digest", "Verify"];
    let write = !reads.iter().any(|verb| method.starts_with(verb));
    let long = ["Digest", "CreateSnapshot", "VerifySnapshot", "CompactLog"].contains(&method);
    let limit_ms = if long { limits::API_LONG_REQUEST_MS_MAX } else { limits::API_REQUEST_MS_MAX };
    Rule {
        open: matches!(service, "ratoon.v1.Enrollment" | "grpc.health.v1.Health"),
        stream: service.starts_with("grpc."),
        write: write && !service.starts_with("grpc."),
        administrative: write
            && service.starts_with("ratoon.v1.")
            && service != "ratoon.v1.Records",
        limit_ms,
    }
}

impl Gate {
    /// A gate for callers of `cluster`.
    pub(super) fn new(cluster: ClusterId, logger: Logger) -> Self {
        Gate {
            cluster,
            requests: Arc::new(Semaphore::new(limits::API_REQUESTS_MAX)),
            budget: Budget::new(limits::API_MEMORY_BYTES_MAX),
            logger,
        }
    }

    /// Who calls; an open method may be called by nobody known.
    fn admit(&self, request: &Request, open: bool) -> Result<Option<Subject>, Failure> {
        let certificates = request
            .extensions()
            .get::<TlsConnectInfo<TcpConnectInfo>>()
            .and_then(|connection| connection.peer_certs());
        let Some(leaf) = certificates.as_deref().and_then(|chain| chain.first()) else {
            if open {
                return Ok(None);
            }
            return Err(unauthenticated("the call came without a client certificate".to_owned()));
        };
        match parse_subject(leaf) {
            Ok(subject) if subject.cluster() != self.cluster => Err(unauthenticated(format!(
                "the certificate of {subject} belongs to cluster {}, this is cluster {}",
                subject.cluster(),
                self.cluster
            ))),
            // Nodes speak on lanes of their own, where those that were removed are known. Here a
            // removed one would keep all rights of a client until its certificate ends.
            Ok(Subject::Node { node, .. }) if !open => Err(unauthenticated(format!(
                "the certificate is that of node {node}, not of a client"
            ))),
            Ok(subject) => Ok(Some(subject)),
            Err(_) if open => Ok(None),
            Err(problem) => Err(unauthenticated(problem.to_string())),
        }
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.requests).try_acquire_owned().map_err(|_| {
            Failure::new(Code::Overloaded, "too many requests are under way at this node")
                .hint("retry in a moment, or ask another node")
        })
    }

    /// Runs a request within its bounds.
    async fn run(&self, request: Request, next: Next, rule: Rule) -> Result<Response, Failure> {
        if rule.stream {
            return Ok(next.run(request).await);
        }
        let permit = self.enter()?;
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(self.budget.clone());
        let (body, meter) = self.budget.meter(body);
        let answer = next.run(Request::from_parts(parts, body));
        let answered = tokio::time::timeout(Duration::from_millis(rule.limit_ms), answer).await;
        drop(meter);
        let response = answered.map_err(|_| out_of_time(rule))?;
        Ok(keep_until_sent(response, permit))
    }

    fn audit(&self, path: &str, caller: Option<&Subject>, response: &Response) {
        let caller = caller.map_or_else(|| "without certificate".to_owned(), Subject::to_string);
        let outcome = match Status::from_header_map(response.headers()) {
            None => "done".to_owned(),
            Some(status) if status.code() == tonic::Code::Ok => "done".to_owned(),
            Some(status) => match failure_in_status(&status) {
                Some(failure) => failure.to_string(),
                None => status.message().to_owned(),
            },
        };
        info!(self.logger, "administrative request";
            "method" => path, "caller" => caller, "outcome" => outcome);
    }
}

/// The middleware around all services.
pub(super) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let rule = rule(&path);
    let caller = match gate.admit(&request, rule.open) {
        Ok(caller) => caller,
        Err(failure) => {
            debug!(gate.logger, "request refused";
                "method" => path, "reason" => failure.to_string());
            return refusal(&failure);
        }
    };
    let response = match gate.run(request, next, rule).await {
        // Health and reflection have failures of their own, which their clients know.
        Ok(response) if rule.stream => response,
        Ok(response) => with_details(response),
        Err(failure) => refusal(&failure),
    };
    if rule.administrative {
        gate.audit(&path, caller.as_ref(), &response);
    }
    response
}

fn unauthenticated(message: String) -> Failure {
    Failure::new(Code::Unauthenticated, message)
        .hint("use a profile with a client certificate of this cluster")
}

fn out_of_time(rule: Rule) -> Failure {
    let message = format!("the request took longer than {} s", rule.limit_ms / 1000);
    if rule.write {
        Failure::new(Code::OutcomeUnknown, message)
            .hint("retry within a session, or read back what it was to change")
    } else {
        Failure::new(Code::Unavailable, message).hint("ask again, or ask another node")
    }
}

fn refusal(failure: &Failure) -> Response {
    failure_to_status(failure).into_http::<Body>()
}

/// Keeps the request's permit, and what its answer reserved, until the answer is sent.
fn keep_until_sent(mut response: Response, permit: OwnedSemaphorePermit) -> Response {
    let reserved = response.extensions_mut().remove::<Reservation>();
    response.map(|body| Body::new(Holding::new(body, (permit, reserved))))
}

/// Gives a failure that no service wrote the details that all failures have.
fn with_details(response: Response) -> Response {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    if status.code() == tonic::Code::Ok || !status.details().is_empty() {
        return response;
    }
    refusal(&explain(&status))
}

/// What a status of the gRPC library means, in our words.
fn explain(status: &Status) -> Failure {
    let message = status.message();
    match status.code() {
        tonic::Code::Unimplemented if message.is_empty() => {
            Failure::new(Code::InvalidArgument, "this node knows no such method")
                .hint("list the methods by reflection; a newer client may need newer nodes")
        }
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            Failure::new(Code::BatchTooLarge, message).hint("send several smaller requests")
        }
        tonic::Code::Internal | tonic::Code::Unimplemented | tonic::Code::InvalidArgument => {
            Failure::new(Code::InvalidArgument, message)
                .hint("the request is no message of this method; check the client")
        }
        tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => {
            Failure::new(Code::OutcomeUnknown, message)
        }
        _ => Failure::new(Code::Internal, message),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_enrollment_and_health_are_open_to_strangers() {
        let open: Vec<&str> = [
            "/ratoon.v1.Enrollment/Join",
            "/grpc.health.v1.Health/Check",
            "/ratoon.v1.Records/Get",
            "/ratoon.v1.Cluster/CreateToken",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/ratoon.v1.EnrollmentX/Join",
            "/",
            "",
        ]
        .into_iter()
        .filter(|path| rule(path).open)
        .collect();
        assert_eq!(open, ["/ratoon.v1.Enrollment/Join", "/grpc.health.v1.Health/Check"]);
    }

    #[test]
    fn a_write_out_of_time_is_unknown_and_a_read_may_be_asked_again() {
        let write = out_of_time(rule("/ratoon.v1.Records/Put"));
        assert_eq!(write.code, Code::OutcomeUnknown);
        let read = out_of_time(rule("/ratoon.v1.Records/Scan"));
        assert_eq!(read.code, Code::Unavailable);
    }

    #[test]
    fn administration_is_audited_and_records_are_not() {
        assert!(rule("/ratoon.v1.Cluster/RemoveNode").administrative);
        assert!(rule("/ratoon.v1.Collections/DropCollection").administrative);
        assert!(rule("/ratoon.v1.Enrollment/Join").administrative);
        assert!(!rule("/ratoon.v1.Records/Put").administrative);
        assert!(!rule("/ratoon.v1.Cluster/Status").administrative);
    }

    #[test]
    fn a_malformed_message_becomes_an_invalid_argument_with_details() {
        let status = Status::internal("failed to decode Protobuf message: invalid wire type");
        let response = with_details(status.into_http::<Body>());
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(failure_in_status(&status).unwrap().code, Code::InvalidArgument);
    }
}
