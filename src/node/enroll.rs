//! Join tokens, and certificates for new nodes.
//!
//! Any node that holds the state can do both: the CA key is replicated, sealed by a secret that only
//! nodes have.

use super::calls::ask_core;
use super::shared::Shared;
use super::status;
use crate::codec;
use crate::net::{CertificateAuthority, NetError, unseal};
use crate::proto::v1;
use crate::raft::{Answer, ClientRequest};
use crate::state;
use crate::types::{
    Addresses, Code, Command, Digest, Failure, Index, JoinToken, NodeId, Reply, Request,
};

/// Executes a command of the node's own.
pub(super) async fn execute(shared: &Shared, request: &Request) -> Result<(Index, Reply), Failure> {
    let bytes = codec::encode_request(request);
    match ask_core(shared, ClientRequest::Propose(bytes), false).await? {
        Answer::Applied(index, reply) => Ok((index, reply)),
        other => Err(Failure::new(Code::Internal, format!("answered with {other:?}"))),
    }
}

/// A new single-use token, and when it expires. The door has bounded `ttl_ms`, and so does the state.
pub(super) async fn create_token(
    shared: &Shared,
    ttl_ms: u64,
    learner: bool,
    now_unix_ms: u64,
) -> Result<(JoinToken, u64), Failure> {
    let secret: [u8; 32] = rand::random();
    // Expiry is judged by commit time, which may be ahead of every clock.
    let expires_unix_ms = shared.commit_clock.now_unix_ms(now_unix_ms).saturating_add(ttl_ms);
    let secret_hash = Digest::of(&secret).0;
    let command = Command::CreateToken { secret_hash, expires_unix_ms, learner };
    execute(shared, &Request { session: None, command }).await?;
    let mut endpoints = vec![shared.options.addresses.api.clone()];
    endpoints.extend(
        shared
            .nodes
            .borrow()
            .iter()
            .filter(|node| node.id != shared.id())
            .map(|node| node.addresses.api.clone()),
    );
    let token = JoinToken {
        cluster: shared.identity.cluster(),
        ca_fingerprint: shared.identity.ca_fingerprint(),
        secret,
        endpoints,
    };
    Ok((token, expires_unix_ms))
}

/// Redeems a token and signs the new node's request.
pub(super) async fn enroll(
    shared: &Shared,
    secret: [u8; 32],
    addresses: Addresses,
    certificate_request: &[u8],
) -> Result<v1::JoinResponse, Failure> {
    let authority = authority(shared)?;
    let hosts = addresses.hosts();
    // A request that cannot be signed must not use the token up.
    authority.issue_node(NodeId(u64::MAX), &hosts, certificate_request).map_err(refused)?;
    let secret_hash = Digest::of(&secret).0;
    let command = Command::RedeemToken { secret_hash, addresses };
    let node = match execute(shared, &Request { session: None, command }).await? {
        (_, Reply::Node(node)) => node,
        (_, other) => return Err(Failure::new(Code::Internal, format!("redeemed {other:?}"))),
    };
    let certificate = authority.issue_node(node, &hosts, certificate_request).map_err(refused)?;
    slog::info!(shared.logger, "enrolled a node"; "node" => node.0, "hosts" => ?hosts);
    Ok(v1::JoinResponse {
        node_id: node.0,
        certificate_der: certificate.into(),
        ca_certificate_der: authority.certificate_der().to_vec().into(),
        cluster_secret: shared.identity.cluster_secret().to_vec().into(),
        nodes: status::nodes(shared),
    })
}

/// A certificate for this node itself that names `hosts`, for the key it has.
pub(super) fn certify(shared: &Shared, hosts: &[String]) -> Result<Vec<u8>, Failure> {
    let request = shared.identity.certificate_request().map_err(refused)?;
    authority(shared)?.issue_node(shared.id(), hosts, &request).map_err(refused)
}

fn authority(shared: &Shared) -> Result<CertificateAuthority, Failure> {
    let (_, db) = shared.live.current().ok_or_else(not_ready)?;
    let internal = |error: String| Failure::new(Code::Internal, error);
    let cluster = state::read::cluster(&*db.view())?;
    let key = unseal(cluster.id, shared.identity.cluster_secret(), &cluster.sealed_ca_key)
        .map_err(|e| internal(e.to_string()))?;
    CertificateAuthority::from_der(cluster.id, &cluster.ca_certificate, &key)
        .map_err(|e| internal(e.to_string()))
}

/// The node holds no state yet.
pub(super) fn not_ready() -> Failure {
    Failure::new(Code::NotReady, "this node waits for its first snapshot")
        .hint("ask another node, or wait; `ratoon status` shows how far it is")
}

fn refused(error: NetError) -> Failure {
    Failure::new(error.code(), error.to_string())
}
