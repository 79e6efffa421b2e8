//! What every verb is handed: the global flags turned into clients, consistencies and output.

use std::path::PathBuf;
use std::time::Duration;

use crate::client::{Client, Options, Profile};
use crate::types::{Code, Consistency, Failure, NodeId};

use super::arguments::GlobalFlags;
use super::failure::CliError;
use super::output::Output;
use super::parse::Address;

/// How long a call of long work is tried, unless the person says otherwise.
const PATIENCE: Duration = Duration::from_secs(300);

/// The global flags, ready to use.
#[derive(Clone, Debug)]
pub struct Context {
    /// The flags as given.
    pub global: GlobalFlags,
    /// Where to print.
    pub output: Output,
}

/// A node that answers, and a client that talks to it alone.
pub struct Member {
    /// The node.
    pub id: NodeId,
    /// Pinned to it.
    pub client: Client,
}

/// The nodes of a cluster, as far as they can be asked.
pub struct Members {
    /// Those that answer.
    pub reachable: Vec<Member>,
    /// Those that do not.
    pub unreachable: Vec<NodeId>,
    /// Who leads, if that is known.
    pub leader: Option<NodeId>,
}

impl Context {
    /// Of a command line's global flags.
    pub fn new(global: GlobalFlags) -> Self {
        let output = Output { json: global.json };
        Context { global, output }
    }

    /// The directory that holds `profiles/`.
    pub fn config_directory(&self) -> Result<PathBuf, CliError> {
        match &self.global.config_dir {
            Some(directory) => Ok(directory.clone()),
            None => Ok(Profile::config_directory()?),
        }
    }

    /// A client of the cluster that an address names.
    pub fn client(&self, address: &Address) -> Result<Client, CliError> {
        self.connect(address.profile.as_deref().unwrap_or(&self.global.profile))
    }

    /// A client of the cluster that the global flags name.
    pub fn default_client(&self) -> Result<Client, CliError> {
        self.connect(&self.global.profile)
    }

    fn connect(&self, profile: &str) -> Result<Client, CliError> {
        let mut profile = Profile::load_from(&self.config_directory()?, profile)?;
        if !self.global.endpoints.is_empty() {
            profile.endpoints = self.global.endpoints.clone();
        }
        let usual = Options::default();
        let timeout = self.global.timeout.unwrap_or(usual.timeout);
        let options =
            Options { timeout, attempt_timeout: usual.attempt_timeout.min(timeout), ..usual };
        Ok(Client::connect_with(&profile, options)?)
    }

    /// Adds endpoints that the cluster told to the profile of the global flags, so that commands reach
    /// it when the node they used so far is gone. Those that are there stay and come first: a person
    /// may have chosen them.
    pub fn learn_endpoints(&self, told: &[String]) -> Result<(), CliError> {
        let directory = self.config_directory()?;
        let mut profile = Profile::load_from(&directory, &self.global.profile)?;
        let known = profile.endpoints.len();
        for endpoint in told {
            if !profile.endpoints.contains(endpoint) {
                profile.endpoints.push(endpoint.clone());
            }
        }
        if profile.endpoints.len() > known {
            profile.save_to(&directory, &self.global.profile)?;
        }
        Ok(())
    }

    /// The same client for calls that take a node long, and for work that should outlive an outage.
    pub fn patient(&self, client: &Client) -> Client {
        client.with_timeout(self.global.timeout.unwrap_or(PATIENCE))
    }

    /// How fresh reads must be.
    pub fn consistency(&self) -> Consistency {
        match self.global.stale {
            true => Consistency::Stale { min_index: 0 },
            false => Consistency::Linearizable,
        }
    }

    /// The nodes, or the one that is named, each with a client of its own.
    pub async fn members(&self, one: Option<NodeId>) -> Result<Members, CliError> {
        let client = self.default_client()?;
        let status = client.status(false).await?;
        let leader = (status.leader != 0).then_some(NodeId(status.leader));
        let mut members = Members { reachable: Vec::new(), unreachable: Vec::new(), leader };
        let mut nodes = status.nodes;
        nodes.retain(|node| one.is_none_or(|one| one.0 == node.id));
        if let (Some(one), true) = (one, nodes.is_empty()) {
            return Err(Failure::new(Code::NodeNotFound, format!("there is no node {one}")).into());
        }
        for node in nodes {
            let id = NodeId(node.id);
            match node.addresses {
                Some(addresses) if node.reachable => {
                    let client = client.pinned(&addresses.api)?;
                    members.reachable.push(Member { id, client });
                }
                _ => members.unreachable.push(id),
            }
        }
        if members.reachable.is_empty() {
            return Err(unreachable_nodes(&members.unreachable));
        }
        Ok(members)
    }
}

impl Members {
    /// Those that were reachable a moment ago and do not answer any more.
    pub fn lose(&mut self, silent: &[NodeId]) {
        self.reachable.retain(|member| !silent.contains(&member.id));
        self.unreachable.extend(silent);
    }

    /// Ids of those that do not answer, for documents.
    pub fn unreachable_ids(&self) -> Vec<u64> {
        self.unreachable.iter().map(|node| node.0).collect()
    }
}

/// The error when nodes that should have been asked did not answer.
pub fn unreachable_nodes(nodes: &[NodeId]) -> CliError {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    Failure::new(Code::Unavailable, format!("no answer from node {}", names.join(", ")))
        .hint("`ratoon status` shows which nodes answer; run it again when they do")
        .into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_the_cluster_tells_come_after_those_a_person_chose_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let profile = Profile {
            endpoints: vec!["balancer:443".into(), "a:7402".into()],
            ca_pem: "ca".into(),
            certificate_pem: "certificate".into(),
            key_pem: "key".into(),
        };
        profile.save_to(directory.path(), "lab").unwrap();
        let context = Context::new(GlobalFlags {
            profile: "lab".into(),
            endpoints: vec!["tunnel:1".into()],
            json: false,
            timeout: None,
            stale: false,
            config_dir: Some(directory.path().to_owned()),
        });
        let told = ["a:7402".to_owned(), "b:7402".to_owned()];
        context.learn_endpoints(&told).unwrap();
        context.learn_endpoints(&told).unwrap();
        let learnt = Profile::load_from(directory.path(), "lab").unwrap();
        assert_eq!(learnt.endpoints, ["balancer:443", "a:7402", "b:7402"]);
        assert_eq!(learnt.key_pem, "key");
    }
}
