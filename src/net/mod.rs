//! The network between nodes: who a node is, and authenticated QUIC links between nodes.
//!
//! The only room that knows quinn and rustls. It moves frames and bytes, bounded and in order, and
//! says with whom; it never knows what a message means.

mod authority;
mod congestion;
mod connection;
mod endpoint;
mod error;
mod frame;
mod identity;
mod idle;
mod lane;
mod probe;
mod seal;
mod stream;
mod subject;
mod tls;

pub use authority::{CertificateAuthority, NodeKey, certificate_pem};
pub use connection::{Connection, LinkStats};
pub use endpoint::{Endpoint, Options};
pub use error::NetError;
pub use identity::Identity;
pub use idle::IdleStream;
pub use lane::Lane;
pub use probe::probe_ca;
pub use seal::{seal, unseal};
pub use stream::{RecvStream, SendStream};
pub use subject::{Subject, parse_subject};

#[cfg(test)]
mod fuzz;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
