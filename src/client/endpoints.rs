//! The API endpoints of a cluster: one lazy connection each, and which of them is tried next.
//!
//! A connection is made by the transport when it is first needed and made again when it breaks.
//! Server certificates must be of the profile's CA and carry the endpoint's host.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::Profile;
use crate::limits;
use crate::proto::public::check_address;
use crate::types::{Code, Failure, causes};

/// A node that does not take a connection within this time is left for another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection with calls under way is probed this often ...
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// ... and given up when the probe is not answered for this long.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of one answer that may be on the way before the caller has read any.
const STREAM_WINDOW_BYTES: u32 = 4 * limits::MIB as u32;
/// The same for one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 * limits::MIB as u32;

/// Endpoints in the order they are tried.
pub(super) struct Endpoints {
    all: Vec<(String, Channel)>,
    /// Position of the endpoint that answered last.
    preferred: AtomicUsize,
    profile: Profile,
}

/// One endpoint to try, and its position.
pub(super) struct Choice {
    /// For `Endpoints::failed`.
    pub(super) position: usize,
    /// `host:port`, for messages.
    pub(super) address: String,
    /// The connection.
    pub(super) channel: Channel,
}

impl Endpoints {
    /// Lazy connections to `addresses`, with the trust and identity of `profile`.
    pub(super) fn new(profile: &Profile, addresses: &[String]) -> Result<Endpoints, Failure> {
        if addresses.is_empty() {
            return Err(Failure::new(Code::InvalidArgument, "no endpoint is known")
                .hint("name one with --endpoint host:port, or in the profile"));
        }
        let all = addresses
            .iter()
            .map(|address| Ok((address.clone(), channel(profile, address)?)))
            .collect::<Result<Vec<_>, Failure>>()?;
        Ok(Endpoints { all, preferred: AtomicUsize::new(0), profile: profile.clone() })
    }

    /// One endpoint alone; shares its connection if it is among these.
    pub(super) fn only(&self, address: &str) -> Result<Endpoints, Failure> {
        let Some((address, channel)) = self.all.iter().find(|(known, _)| known == address) else {
            return Endpoints::new(&self.profile, &[address.to_owned()]);
        };
        Ok(Endpoints {
            all: vec![(address.clone(), channel.clone())],
            preferred: AtomicUsize::new(0),
            profile: self.profile.clone(),
        })
    }

    /// The endpoint to try now.
    pub(super) fn choose(&self) -> Choice {
        let position = self.preferred.load(Ordering::Relaxed) % self.all.len();
        let (address, channel) = &self.all[position];
        Choice { position, address: address.clone(), channel: channel.clone() }
    }

    /// The endpoint at `position` did not help: the next one is preferred, unless another call has
    /// moved on already.
    pub(super) fn failed(&self, position: usize) {
        let next = (position + 1) % self.all.len();
        // It failed to move because someone else did, which is what was wanted.
        let _moved =
            self.preferred.compare_exchange(position, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// `host:port` of each.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.all.iter().map(|(address, _)| address.clone()).collect()
    }
}

fn channel(profile: &Profile, address: &str) -> Result<Channel, Failure> {
    let invalid = |problem: String| {
        Failure::new(Code::InvalidArgument, problem)
            .hint("endpoints are host:port, for example 10.0.0.1:7402")
    };
    check_address(address).map_err(|problem| invalid(format!("endpoint {problem}")))?;
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .map_err(|error| invalid(format!("endpoint {address:?} is malformed: {error}")))?;
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&profile.ca_pem));
    if !profile.certificate_pem.is_empty() {
        tls = tls.identity(Identity::from_pem(&profile.certificate_pem, &profile.key_pem));
    }
    let endpoint = endpoint.tls_config(tls).map_err(|error| {
        Failure::new(
            Code::InvalidArgument,
            format!("the profile's certificates cannot be used: {}", causes(&error)),
        )
        .hint(
            "copy the profile from the machine that ran `ratoon init`, or from one where it works",
        )
    })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_lazy())
}
