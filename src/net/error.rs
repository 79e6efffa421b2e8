//! What can go wrong between nodes, and who must act on it.

use std::path::PathBuf;

use thiserror::Error;

use crate::types::{ClusterId, Code, Failure, NodeId, Retry};

/// Why the network did not do what was asked. The doc of each variant says who must act.
#[derive(Debug, Error)]
pub enum NetError {
    /// The operator: this machine was never enrolled, or its identity was deleted.
    #[error("{} is missing; run `ratoon init` or `ratoon join` first", path.display())]
    IdentityMissing {
        /// The file or directory that is not there.
        path: PathBuf,
    },
    /// The operator: the identity cannot be used; enrol the machine as a new node.
    #[error("{} is damaged: {problem}", path.display())]
    IdentityDamaged {
        /// The bad file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The operator: secrets are readable by others.
    #[error(
        "{} has mode {mode:04o}, others can read secrets; run `chmod go= {}`",
        path.display(), path.display()
    )]
    IdentityExposed {
        /// The file or directory that is too open.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The operator: an identity is never overwritten.
    #[error("{} exists already; this machine is a node of a cluster", path.display())]
    IdentityExists {
        /// The directory of the identity.
        path: PathBuf,
    },
    /// The operator: a file or socket operation failed.
    #[error("{attempted}: {cause}")]
    Io {
        /// What was being done.
        attempted: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Reject: key material cannot be parsed, or its halves do not fit.
    #[error("bad key material: {0}")]
    KeyMaterial(String),
    /// Reject: the sealed key was sealed with another secret, for another cluster, or is damaged.
    #[error("the sealed CA key does not open with this cluster's secret")]
    SealBroken,
    /// Reject: the certificate request is malformed or asks for what is not given.
    #[error("certificate request refused: {0}")]
    RequestRefused(String),
    /// Reject: a certificate names no node and no client of a ratoon cluster, or cannot be parsed.
    #[error("not a certificate of a ratoon cluster: {0}")]
    CertificateStrange(String),
    /// Reject: the other side is of another cluster. The operator mixed up addresses.
    #[error("{subject} belongs to cluster {theirs}, this is cluster {ours}")]
    WrongCluster {
        /// Who the other side says it is.
        subject: String,
        /// Its cluster.
        theirs: ClusterId,
        /// This node's cluster.
        ours: ClusterId,
    },
    /// Reject: another node answers at that address. The operator, or an address out of date.
    #[error("node {found} answered where node {expected} was expected")]
    WrongNode {
        /// Who was called.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// Reject: a client's certificate opens no node link.
    #[error("client {0} is no node")]
    NotANode(String),
    /// The operator: the certificate's time is over, or has not come; or a clock is wrong.
    #[error("certificate of {subject} is expired or not yet valid")]
    CertificateExpired {
        /// Whose.
        subject: String,
    },
    /// Reject: the certificate is not signed by the cluster's CA, or not for this use.
    #[error("certificate of {subject} is not trusted: {problem}")]
    CertificateUntrusted {
        /// Whose.
        subject: String,
        /// What the check found.
        problem: String,
    },
    /// Reject: the endpoint shows no CA certificate with the token's fingerprint.
    #[error("{endpoint} does not show the CA certificate named in the join token")]
    FingerprintMismatch {
        /// Who was asked.
        endpoint: String,
    },
    /// Retry: the address does not resolve, now.
    #[error("address {address:?} does not resolve: {problem}")]
    Address {
        /// `host:port` as configured.
        address: String,
        /// What the resolver said.
        problem: String,
    },
    /// The operator of the other side reads in its log why; retry is pointless until then.
    #[error("refused by the other side: {0}")]
    RefusedByPeer(String),
    /// Retry later: the other side has its fill of connections or handshakes.
    #[error("the other side has too many connections: {0}")]
    PeerBusy(String),
    /// Retry: no answer in time.
    #[error("no answer within {0} ms")]
    TimedOut(u64),
    /// Retry with a new connection.
    #[error("connection lost: {0}")]
    ConnectionLost(String),
    /// The other side ended the connection on purpose; retry later.
    #[error("closed by the other side: {0}")]
    ClosedByPeer(String),
    /// This side closed the endpoint or connection.
    #[error("closed here")]
    Closed,
    /// Reject: a length beyond the limit; nothing was allocated, the stream is unusable.
    #[error("a frame of {bytes} bytes is over the limit of {bytes_max}")]
    FrameTooLarge {
        /// The announced length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The stream ended in the middle of a frame or of what was asked for; treat as cut.
    #[error("the stream ended early, {missing} bytes are missing")]
    Truncated {
        /// Bytes that should have come still.
        missing: usize,
    },
    /// The other side gave the stream up, with its reason.
    #[error("stream reset by the other side with code {0}")]
    StreamReset(u32),
    /// The other side does not want the rest, with its reason.
    #[error("stream stopped by the other side with code {0}")]
    StreamStopped(u32),
}

impl NetError {
    /// Wraps a failed file or socket operation; `attempted` says what was tried.
    pub(super) fn io(attempted: impl Into<String>, cause: std::io::Error) -> Self {
        NetError::Io { attempted: attempted.into(), cause }
    }

    /// Whether trying the same again may help.
    pub fn retry(&self) -> Retry {
        match self {
            NetError::Address { .. }
            | NetError::PeerBusy(_)
            | NetError::TimedOut(_)
            | NetError::ConnectionLost(_)
            | NetError::ClosedByPeer(_)
            | NetError::Truncated { .. }
            | NetError::StreamReset(_)
            | NetError::StreamStopped(_) => Retry::Later,
            _ => Retry::Never,
        }
    }

    /// The code under which callers of the system see it.
    pub fn code(&self) -> Code {
        match self {
            NetError::WrongCluster { .. } | NetError::FingerprintMismatch { .. } => {
                Code::WrongCluster
            }
            NetError::NotANode(_)
            | NetError::WrongNode { .. }
            | NetError::CertificateStrange(_)
            | NetError::CertificateExpired { .. }
            | NetError::CertificateUntrusted { .. } => Code::Unauthenticated,
            NetError::RequestRefused(_) | NetError::KeyMaterial(_) => Code::InvalidArgument,
            NetError::IdentityExists { .. } => Code::AlreadyExists,
            NetError::IdentityMissing { .. }
            | NetError::IdentityDamaged { .. }
            | NetError::SealBroken => Code::Corrupt,
            NetError::Io { cause, .. } if is_full(cause) => Code::DiskFull,
            NetError::IdentityExposed { .. } | NetError::Io { .. } => Code::LocalFault,
            _ => Code::Unavailable,
        }
    }
}

fn is_full(cause: &std::io::Error) -> bool {
    matches!(cause.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        let retry = error.retry();
        Failure { retry, ..Failure::new(error.code(), error.to_string()) }
    }
}
