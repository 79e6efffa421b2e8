//! The client library: what the command line, the demo and applications call a cluster with.
//!
//! A `Client` knows several endpoints and fails over between them, repeats what may be repeated
//! until its time is up, and runs every write in a session, so that a repeated write executes once.
//! It never hides an unknown outcome: when nobody can tell whether a write happened, it says so.

mod administration;
mod call;
mod data;
mod endpoints;
mod pages;
mod profile;
mod session;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::types::Failure;

use self::endpoints::Endpoints;
use self::session::Sessions;

pub use data::Written;
pub use pages::Pages;
pub use profile::Profile;

/// How long a client tries, and how much at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Total time for one call with all its retries.
    pub timeout: Duration,
    /// Time for one attempt at one endpoint; a node that has gone silent costs no more than this.
    pub attempt_timeout: Duration,
    /// Writes under way at once; more wait in line. Each takes a session of its own.
    pub writes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            timeout: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(10),
            writes_max: 64,
        }
    }
}

/// A connection to a cluster. Connects when it is first used; clones are cheap and share all.
#[derive(Clone)]
pub struct Client {
    endpoints: Arc<Endpoints>,
    sessions: Arc<Sessions>,
    options: Options,
}

impl Client {
    /// A client with the default options. Must be called inside a tokio runtime. Fails only on a
    /// profile that makes no sense; that nobody listens shows at the first call.
    pub fn connect(profile: &Profile) -> Result<Client, Failure> {
        Client::connect_with(profile, Options::default())
    }

    /// The same, with options.
    pub fn connect_with(profile: &Profile, options: Options) -> Result<Client, Failure> {
        let endpoints = Endpoints::new(profile, &profile.endpoints)?;
        let sessions = Arc::new(Sessions::new(options.writes_max));
        Ok(Client { endpoints: Arc::new(endpoints), sessions, options })
    }

    /// The same client with another total time for each call.
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        let mut options = self.options.clone();
        options.timeout = timeout;
        options.attempt_timeout = options.attempt_timeout.min(timeout);
        Client { options, ..self.clone() }
    }

    /// A client that talks to `endpoint` (`host:port`) alone: for stale reads of one node and for
    /// what a node does for itself. It shares this client's sessions.
    pub fn pinned(&self, endpoint: &str) -> Result<Client, Failure> {
        let endpoints = self.endpoints.only(endpoint)?;
        Ok(Client { endpoints: Arc::new(endpoints), ..self.clone() })
    }

    /// The endpoints it uses, `host:port` each.
    pub fn endpoints(&self) -> Vec<String> {
        self.endpoints.addresses()
    }
}
