//! Clusters, identities and endpoints for the tests of this and higher rooms.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use slog::{Discard, Logger, o};

use super::{CertificateAuthority, Endpoint, Identity, Lane, NodeKey, Options};
use crate::types::{ClusterId, NodeId};

/// A logger that keeps nothing.
pub fn logger() -> Logger {
    Logger::root(Discard, o!())
}

/// The authority of the cluster whose id is `seed` throughout.
pub fn authority(seed: u8) -> CertificateAuthority {
    CertificateAuthority::generate(ClusterId([seed; 16])).unwrap()
}

/// An identity of `node`, with 127.0.0.1 and localhost as its hosts.
pub fn identity(authority: &CertificateAuthority, node: u64) -> Identity {
    let key = NodeKey::generate().unwrap();
    let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = authority.issue_node(NodeId(node), &hosts, key.request_der()).unwrap();
    Identity::new(authority.certificate_der(), &certificate, &key, [7; 32]).unwrap()
}

/// An endpoint on loopback, at a port the system picks.
pub fn endpoint(lane: Lane, identity: &Identity) -> Endpoint {
    endpoint_at(lane, identity, "127.0.0.1:0".parse().unwrap())
}

/// An endpoint at a given address.
pub fn endpoint_at(lane: Lane, identity: &Identity, listen: SocketAddr) -> Endpoint {
    Endpoint::bind(lane, listen, identity, Options { logger: logger() }).unwrap()
}
