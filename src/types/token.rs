//! The join token: all that a new machine needs to find and trust a cluster.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;

use super::{ClusterId, Code, Failure};

/// First word of a token's text; the digit is its format.
const PREFIX: &str = "ratoon1";

/// Endpoints, cluster id, fingerprint of the CA certificate and a single-use secret.
///
/// As text: `ratoon1.CLUSTER.FINGERPRINT.SECRET.ENDPOINT[,ENDPOINT...]`, ids in base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster to join.
    pub cluster: ClusterId,
    /// BLAKE3 digest of the CA certificate's DER bytes.
    pub ca_fingerprint: [u8; 32],
    /// Single-use; the cluster keeps only its hash.
    pub secret: [u8; 32],
    /// API endpoints, `host:port`, tried in order. At least one.
    pub endpoints: Vec<String>,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}.{}.{}.{}.{}",
            BASE64URL_NOPAD.encode(&self.cluster.0),
            BASE64URL_NOPAD.encode(&self.ca_fingerprint),
            BASE64URL_NOPAD.encode(&self.secret),
            BASE64URL_NOPAD.encode(self.endpoints.join(",").as_bytes()),
        )
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret must reach no log.
        write!(f, "JoinToken(cluster {}, {:?})", self.cluster, self.endpoints)
    }
}

impl FromStr for JoinToken {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let bad = |problem: &str| {
            Failure::new(Code::InvalidArgument, format!("the join token {problem}"))
                .hint("paste the whole token that `ratoon token create` printed")
        };
        let fields: Vec<&str> = text.trim().split('.').collect();
        let [prefix, cluster, fingerprint, secret, endpoints] = fields[..] else {
            return Err(bad("has not five fields"));
        };
        if prefix != PREFIX {
            return Err(bad("does not start with 'ratoon1'"));
        }
        let decode = |field: &str| {
            BASE64URL_NOPAD.decode(field.as_bytes()).map_err(|_| bad("is damaged (base64url)"))
        };
        let fixed = |field: &str| -> Result<[u8; 32], Failure> {
            decode(field)?.as_slice().try_into().map_err(|_| bad("is cut off"))
        };
        let cluster = decode(cluster)?.as_slice().try_into().map_err(|_| bad("is cut off"))?;
        let endpoints = String::from_utf8(decode(endpoints)?)
            .map_err(|_| bad("names endpoints that are no text"))?;
        let endpoints: Vec<String> =
            endpoints.split(',').filter(|e| !e.is_empty()).map(str::to_owned).collect();
        if endpoints.is_empty() {
            return Err(bad("names no endpoint"));
        }
        Ok(JoinToken {
            cluster: ClusterId(cluster),
            ca_fingerprint: fixed(fingerprint)?,
            secret: fixed(secret)?,
            endpoints,
        })
    }
}
