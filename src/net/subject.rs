//! Whom a certificate speaks for, written as a DNS name in its subject alternative names.
//!
//! `node-ID.CLUSTER.ratoon` for nodes, `client-NAME.CLUSTER.ratoon` for clients, CLUSTER being 32
//! hex digits. The other names of a certificate are where its owner is reached, and prove nothing.
//! Parsing judges no signature: that is `tls`'s part.

use std::fmt;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::NetError;
use crate::types::{ClusterId, Name, NodeId};

/// Ending of every name that says who someone is. Hosts with it are never certified.
pub(super) const SUFFIX: &str = ".ratoon";

/// Whom a certificate speaks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A node, which may open node links, and call nothing but what is open to strangers.
    Node {
        /// Its cluster.
        cluster: ClusterId,
        /// Its raft id.
        node: NodeId,
    },
    /// A client, which may use the API only.
    Client {
        /// Its cluster.
        cluster: ClusterId,
        /// Its name.
        name: Name,
    },
}

impl Subject {
    /// The cluster it belongs to.
    pub fn cluster(&self) -> ClusterId {
        match self {
            Subject::Node { cluster, .. } | Subject::Client { cluster, .. } => *cluster,
        }
    }

    /// The DNS name that stands for it in a certificate.
    pub(super) fn dns_name(&self) -> String {
        match self {
            Subject::Node { cluster, node } => format!("node-{node}.{cluster}{SUFFIX}"),
            Subject::Client { cluster, name } => format!("client-{name}.{cluster}{SUFFIX}"),
        }
    }

    /// The subject `text` stands for. Only the one spelling that `dns_name` writes is accepted.
    pub(super) fn parse(text: &str) -> Option<Subject> {
        let (who, cluster) = text.strip_suffix(SUFFIX)?.rsplit_once('.')?;
        let cluster: ClusterId = cluster.parse().ok()?;
        let subject = if let Some(node) = who.strip_prefix("node-") {
            Subject::Node { cluster, node: NodeId(node.parse().ok()?) }
        } else {
            let name = Name::parse("client", who.strip_prefix("client-")?).ok()?;
            Subject::Client { cluster, name }
        };
        (subject.dns_name() == text).then_some(subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Node { node, .. } => write!(f, "node {node}"),
            Subject::Client { name, .. } => write!(f, "client {name}"),
        }
    }
}

/// Whom a presented certificate (DER) says it speaks for. Says nothing on whether that is true:
/// the certificate's chain must have been, or be, verified.
pub fn parse_subject(certificate_der: &[u8]) -> Result<Subject, NetError> {
    let strange = |problem: &str| NetError::CertificateStrange(problem.to_owned());
    let (rest, certificate) =
        X509Certificate::from_der(certificate_der).map_err(|_| strange("it cannot be parsed"))?;
    if !rest.is_empty() {
        return Err(strange("bytes follow it"));
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| strange("its alternative names cannot be parsed"))?
        .ok_or_else(|| strange("it has no alternative names"))?;
    let mut found = None;
    for name in &names.value.general_names {
        let GeneralName::DNSName(text) = name else { continue };
        if !text.to_ascii_lowercase().ends_with(SUFFIX) {
            continue;
        }
        let subject = Subject::parse(text).ok_or_else(|| strange("its name is malformed"))?;
        if found.replace(subject).is_some() {
            return Err(strange("it speaks for several subjects"));
        }
    }
    found.ok_or_else(|| strange("it names no node and no client"))
}

/// Where a certificate (DER) says that its owner is reached: the names in it that say not who it is.
pub(super) fn certified_hosts(certificate_der: &[u8]) -> Result<Vec<String>, NetError> {
    let strange = |problem: &str| NetError::CertificateStrange(problem.to_owned());
    let (_, certificate) =
        X509Certificate::from_der(certificate_der).map_err(|_| strange("it cannot be parsed"))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| strange("its alternative names cannot be parsed"))?;
    let names = names.map(|names| names.value.general_names.iter()).into_iter().flatten();
    let hosts = names.filter_map(|name| match name {
        GeneralName::DNSName(text) if !text.to_ascii_lowercase().ends_with(SUFFIX) => {
            Some(text.to_ascii_lowercase())
        }
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    });
    Ok(hosts.collect())
}
