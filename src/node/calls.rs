//! Calls between nodes: what this node asks of others, and what it answers them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::peers::CallError;
use super::shared::Shared;
use super::status;
use super::waiters::Outcome;
use crate::codec;
use crate::codec::peer::{decode_answer, decode_call, encode_answer, encode_call};
use crate::proto::internal::v1::{
    CancelTransferCall, DigestCall, MembershipCall, PeerRequest, PeerResponse, ProposeAnswer,
    ProposeCall, StatusCall, TransferLeaderCall, membership_call, peer_request, peer_response,
};
use crate::proto::{failure_from_proto, failure_to_proto, v1};
use crate::raft::{Answer, ClientRequest, Input};
use crate::types::{Code, Command, Failure, Index, MembershipChange, NodeId, Reply};

/// How long a node waits for another's status.
const STATUS_TIMEOUT: Duration = Duration::from_millis(1000);
/// How long a node waits for another's content digest.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Asks another node, and gives its answer or the failure it tells.
async fn call(
    shared: &Shared,
    to: NodeId,
    body: peer_request::Body,
    limit: Duration,
) -> Result<PeerResponse, Failure> {
    let request = encode_call(&PeerRequest { body: Some(body) });
    let answer = shared.peers.call(to, request, limit).await.map_err(|error| {
        let code = match error {
            CallError::NeverSent { .. } => Code::Unavailable,
            CallError::Overloaded { .. } => Code::Overloaded,
            CallError::OutcomeUnknown { .. } => Code::OutcomeUnknown,
        };
        Failure::new(code, error.to_string())
    })?;
    let response = decode_answer(answer)
        .map_err(|error| Failure::new(Code::OutcomeUnknown, format!("node {to}: {error}")))?;
    match response.failure {
        Some(failure) => Err(failure_from_proto(failure)),
        None => Ok(response),
    }
}

/// Hands a client's request to the leader.
pub(super) async fn forward(
    shared: &Shared,
    to: NodeId,
    request: ClientRequest,
) -> Result<Answer, Failure> {
    let limit = Duration::from_millis(shared.options.raft.request_timeout_ms);
    let leader = match request {
        ClientRequest::TransferLeader(node) => Some(node),
        _ => None,
    };
    let response = call(shared, to, forwarded_body(request), limit).await;
    let response = response.map_err(|failure| match failure.code {
        // It is this node that the leader does not know any more, not the client.
        Code::Unauthenticated => Failure::new(Code::Unavailable, failure.message)
            .hint("ask another node: this one was removed"),
        _ => failure,
    })?;
    match (leader, response.body) {
        (Some(node), _) => Ok(Answer::Leader(node)),
        (None, Some(peer_response::Body::Propose(answer))) => {
            let reply = codec::decode_reply(answer.reply).map_err(|error| {
                Failure::new(Code::OutcomeUnknown, format!("node {to} answered with {error}"))
            })?;
            Ok(Answer::Applied(answer.index, reply))
        }
        (None, _) => Err(Failure::new(Code::OutcomeUnknown, format!("node {to} said nothing"))),
    }
}

fn forwarded_body(request: ClientRequest) -> peer_request::Body {
    use membership_call::Kind;
    match request {
        ClientRequest::Propose(request) => {
            peer_request::Body::Propose(ProposeCall { request, client: String::new() })
        }
        ClientRequest::Membership(change) => {
            let (kind, node) = match change {
                MembershipChange::AddLearner(node) => (Kind::AddLearner, node),
                MembershipChange::Promote(node) => (Kind::Promote, node),
                MembershipChange::Remove(node) => (Kind::Remove, node),
            };
            peer_request::Body::Membership(MembershipCall { kind: kind.into(), node: node.0 })
        }
        ClientRequest::TransferLeader(to) => {
            peer_request::Body::TransferLeader(TransferLeaderCall { to: to.0 })
        }
        ClientRequest::CompactLog | ClientRequest::BuildSnapshot => {
            unreachable!("the core never forwards what concerns one node")
        }
    }
}

/// Asks a peer, leader or not, to make this node a learner.
pub(super) async fn ask_admission(shared: &Shared, peer: NodeId) -> Result<(), Failure> {
    let change = ClientRequest::Membership(MembershipChange::AddLearner(shared.id()));
    let limit = Duration::from_millis(shared.options.raft.request_timeout_ms);
    call(shared, peer, forwarded_body(change), limit).await.map(|_| ())
}

/// Another node's status.
pub(super) async fn status_of(shared: &Shared, peer: NodeId) -> Result<v1::NodeStatus, Failure> {
    let body = peer_request::Body::Status(StatusCall {});
    match call(shared, peer, body, STATUS_TIMEOUT).await?.body {
        Some(peer_response::Body::Status(status)) => Ok(status),
        _ => Err(Failure::new(Code::Internal, format!("node {peer} told no status"))),
    }
}

/// Another node's content digest at `index`.
pub(super) async fn digest_of(
    shared: &Shared,
    peer: NodeId,
    index: Index,
) -> Result<v1::NodeDigest, Failure> {
    let body = peer_request::Body::Digest(DigestCall { index });
    match call(shared, peer, body, DIGEST_TIMEOUT).await?.body {
        Some(peer_response::Body::Digest(digest)) => Ok(digest),
        _ => Err(Failure::new(Code::Internal, format!("node {peer} told no digest"))),
    }
}

/// Asks another node to give up its pull.
pub(super) async fn cancel_transfer_of(shared: &Shared, peer: NodeId) -> Result<(), Failure> {
    let body = peer_request::Body::CancelTransfer(CancelTransferCall {});
    call(shared, peer, body, STATUS_TIMEOUT).await.map(|_| ())
}

/// Gives the core a request and waits for its answer.
pub(super) async fn ask_core(
    shared: &Shared,
    request: ClientRequest,
    forwarded: bool,
) -> Result<Answer, Failure> {
    let (waiter, outcome) = shared.waiters.add();
    if !shared.inbox.put(Input::Client { waiter, request, forwarded }).await {
        return Err(shutting_down());
    }
    match outcome.await {
        Ok(Outcome::Answer(result)) => result,
        Ok(Outcome::ReadReady) => unreachable!("a request is not answered like a read"),
        Err(_) => Err(shutting_down()),
    }
}

pub(super) fn shutting_down() -> Failure {
    Failure::new(Code::ShuttingDown, "the node is shutting down").hint("ask another node")
}

/// Answers a peer's call.
pub(super) async fn answer(shared: &Arc<Shared>, from: NodeId, request: Bytes) -> Bytes {
    let result = match decode_call(request) {
        Ok(PeerRequest { body: Some(body) }) => answer_body(shared, from, body).await,
        Ok(PeerRequest { body: None }) => {
            Err(Failure::new(Code::InvalidArgument, "a call of a kind this release does not know"))
        }
        Err(error) => Err(Failure::new(Code::InvalidArgument, format!("a call of {error}"))),
    };
    if let Err(failure) = &result
        && matches!(failure.code, Code::InvalidArgument | Code::Unauthenticated)
    {
        slog::warn!(shared.logger, "refused a call"; "peer" => from.0, "error" => %failure);
    }
    let response = match result {
        Ok(body) => PeerResponse { failure: None, body },
        Err(failure) => PeerResponse { failure: Some(failure_to_proto(&failure)), body: None },
    };
    encode_answer(&response)
}

async fn answer_body(
    shared: &Arc<Shared>,
    from: NodeId,
    body: peer_request::Body,
) -> Result<Option<peer_response::Body>, Failure> {
    use peer_request::Body;
    shared.members.refuse_removed(from)?;
    match body {
        Body::Propose(call) => {
            // What this release cannot read would halt every node of it once committed.
            let request = codec::decode_request(call.request.clone()).map_err(Failure::from)?;
            // A node that moved is not found by its leader, so it asks any other to pass this on.
            let own = |node: NodeId| node == from;
            let pass_on =
                matches!(request.command, Command::SetNodeAddresses { node, .. } if own(node));
            propose(shared, ClientRequest::Propose(call.request), !pass_on).await
        }
        Body::Membership(call) => {
            let node = NodeId(call.node);
            let change = match call.kind() {
                membership_call::Kind::AddLearner => MembershipChange::AddLearner(node),
                membership_call::Kind::Promote => MembershipChange::Promote(node),
                membership_call::Kind::Remove => MembershipChange::Remove(node),
            };
            propose(shared, ClientRequest::Membership(change), false).await
        }
        Body::TransferLeader(call) => {
            ask_core(shared, ClientRequest::TransferLeader(NodeId(call.to)), true).await?;
            Ok(None)
        }
        Body::Status(_) => Ok(Some(peer_response::Body::Status(status::local(shared)))),
        Body::Digest(call) => {
            let digest = status::local_digest(shared, call.index).await;
            Ok(Some(peer_response::Body::Digest(digest)))
        }
        Body::CancelTransfer(_) => shared.snapshots.cancel().map(|()| None),
    }
}

/// Proposes for a peer. A joiner may ask any node, so a membership call is forwarded once more; so is
/// what is not `forwarded`.
async fn propose(
    shared: &Shared,
    request: ClientRequest,
    forwarded: bool,
) -> Result<Option<peer_response::Body>, Failure> {
    match ask_core(shared, request, forwarded).await? {
        Answer::Applied(index, reply) => Ok(Some(propose_answer(index, &reply))),
        other => Err(Failure::new(Code::Internal, format!("answered with {other:?}"))),
    }
}

fn propose_answer(index: Index, reply: &Reply) -> peer_response::Body {
    peer_response::Body::Propose(ProposeAnswer { index, reply: codec::encode_reply(reply) })
}
