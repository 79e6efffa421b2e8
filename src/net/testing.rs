//! Clusters, identities and endpoints for the tests of this and higher rooms.

#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use slog::{Discard, Logger, o};

use super::{CertificateAuthority, Endpoint, Identity, Lane, NetError, NodeKey, Options};
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

/// An endpoint at a given address, once the one that had it before has let go of it.
pub fn endpoint_at(lane: Lane, identity: &Identity, listen: SocketAddr) -> Endpoint {
    for _ in 0..200 {
        match Endpoint::bind(lane, listen, identity, Options { logger: logger() }) {
            Err(NetError::Io { cause, .. }) if cause.kind() == ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result.unwrap(),
        }
    }
    panic!("{listen} stays in use");
}
