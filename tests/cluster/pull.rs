//! What a receiver says of its own pull.

use serde_json::Value;

use super::Cluster;

/// The newest pull of one node.
#[derive(Clone, Debug)]
pub struct Pull(Value);

impl Pull {
    /// A figure of it, by the name it has in the JSON.
    pub fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("{name} is missing in {}", self.0))
    }

    /// A word of it, by the name it has in the JSON.
    pub fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("{name} is missing in {}", self.0))
    }

    /// Whether bytes are being pulled, and at least so many are here.
    pub fn is_pulling(&self, bytes_min: u64) -> bool {
        self.text("state") == "Pulling" && self.number("done_bytes") >= bytes_min
    }

    /// Whether the node runs on what it pulled.
    pub fn is_installed(&self) -> bool {
        self.text("state") == "Installed"
    }
}

impl Cluster {
    /// The newest pull of a node, as the node itself tells; None if it pulled nothing yet or does
    /// not answer at this moment.
    pub fn pull_of(&self, number: usize) -> Option<Pull> {
        let endpoint = self.node(number).addresses.api.to_string();
        let told = self.try_ok(&["transfer", "list", "--endpoint", &endpoint])?;
        let own = told["transfers"].as_array()?.iter();
        let own = own.filter(|transfer| transfer["receiver"] == self.node(number).id);
        own.max_by_key(|transfer| transfer["started_unix_ms"].as_u64()).cloned().map(Pull)
    }

    /// Waits until the pull of a node is as `probe` wants it.
    pub fn wait_for_pull(
        &mut self,
        number: usize,
        what: &str,
        mut probe: impl FnMut(&Pull) -> bool,
    ) -> Pull {
        let what = format!("the pull of node {number} to be {what}");
        self.wait_for(&what, |cluster| cluster.pull_of(number).filter(|pull| probe(pull)))
    }

    /// Waits until at least so many bytes of a running pull are here.
    pub fn wait_until_pulling(&mut self, number: usize, bytes_min: u64) -> Pull {
        let what = format!("at {bytes_min} bytes or more");
        self.wait_for_pull(number, &what, |pull| {
            assert!(!pull.is_installed(), "the pull ended before it was looked at: {pull:?}");
            pull.is_pulling(bytes_min)
        })
    }

    /// Waits until a node runs on what it pulled.
    pub fn wait_until_installed(&mut self, number: usize) -> Pull {
        self.wait_for_pull(number, "installed", Pull::is_installed)
    }
}
