//! A cluster of real `ratoon` processes on loopback, as a person would start it, and a client of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ratoon::client::{Client, Options, Profile};
use ratoon::demo::ports::Ports;
use ratoon::demo::processes::{LOOK_EVERY, Launcher, NodeAddresses, NodeProcess, PROFILE};
use ratoon::proto::v1;
use ratoon::types::{CollectionName, Name};

use super::Failed;

/// How long a node may take until it answers.
const NODE_ANSWERS_SECONDS: u64 = 60;
/// Where everything is stored.
const NAMESPACE: &str = "bench";
const COLLECTION: &str = "records";

/// Nodes under way. They are killed when it is dropped, and when this process dies.
pub struct Cluster {
    /// Reaches all nodes.
    pub client: Client,
    /// Where records go.
    pub collection: CollectionName,
    /// Node number `n` at `n - 1`.
    pub nodes: Vec<NodeProcess>,
    launcher: Launcher,
    ports: Ports,
    numbers_used: usize,
}

impl Cluster {
    /// Starts `nodes` nodes of `program` with their files below `directory`, and waits until all
    /// vote.
    pub async fn start(program: &str, directory: &Path, nodes: usize) -> Result<Cluster, Failed> {
        let launcher = Launcher::of(own_program(program, directory)?, directory, false)?;
        let mut ports = Ports::default();
        let mut first = launcher.node(1, NodeAddresses::draw(&mut ports)?);
        first.init().await?;
        first.start()?;
        first.wait_until_ready(NODE_ANSWERS_SECONDS).await?;
        let profile = Profile::load_from(&launcher.profile_directory(), PROFILE)?;
        let mut cluster = Cluster {
            client: Client::connect(&profile)?,
            collection: CollectionName::parse(NAMESPACE, COLLECTION)?,
            nodes: vec![first],
            launcher,
            ports,
            numbers_used: 1,
        };
        while cluster.nodes.len() < nodes {
            cluster.join().await?;
            cluster.wait_for_voters().await?;
        }
        let endpoints = cluster.endpoints();
        cluster.client = cluster.connect(&endpoints, Options::default())?;
        cluster.client.create_namespace(&Name::parse("namespace", NAMESPACE)?).await?;
        cluster.client.create_collection(&cluster.collection).await?;
        Ok(cluster)
    }

    /// Starts one more node, and waits until it says it serves; the seconds that took.
    pub async fn join(&mut self) -> Result<f64, Failed> {
        self.numbers_used += 1;
        let addresses = NodeAddresses::draw(&mut self.ports)?;
        let mut node = self.launcher.node(self.numbers_used, addresses);
        node.joins_with(self.launcher.new_token().await?);
        let started = Instant::now();
        node.start()?;
        node.wait_until_ready(NODE_ANSWERS_SECONDS * 10).await?;
        self.nodes.push(node);
        Ok(started.elapsed().as_secs_f64())
    }

    /// The API addresses, in the order of the nodes.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.addresses().api.to_string()).collect()
    }

    /// A new client, with connections of its own.
    pub fn connect(&self, endpoints: &[String], options: Options) -> Result<Client, Failed> {
        let mut profile = Profile::load_from(&self.launcher.profile_directory(), PROFILE)?;
        profile.endpoints = endpoints.to_vec();
        Ok(Client::connect_with(&profile, options)?)
    }

    /// Which of `nodes` leads.
    pub async fn leader(&mut self) -> Result<usize, Failed> {
        let endpoints = self.endpoints();
        self.wait_for("that a node leads", async |cluster| {
            let status = cluster.client.status(false).await.ok()?;
            let leader = status.nodes.iter().find(|node| node.id == status.leader)?;
            endpoints.iter().position(|endpoint| *endpoint == api_of(leader))
        })
        .await
    }

    /// Waits until all nodes vote and one of them leads.
    pub async fn wait_for_voters(&mut self) -> Result<(), Failed> {
        self.wait_for("that all nodes vote", async |cluster| {
            let status = cluster.client.status(false).await.ok()?;
            let votes = |node: &&v1::NodeStatus| {
                let voter = matches!(node.role(), v1::NodeRole::Leader | v1::NodeRole::Follower);
                node.reachable && voter
            };
            let all = status.nodes.iter().filter(votes).count() == cluster.nodes.len();
            (all && status.leader != 0).then_some(())
        })
        .await
    }

    /// Looks with `probe` until it finds something.
    pub async fn wait_for<T>(
        &mut self,
        what: &str,
        mut probe: impl AsyncFnMut(&mut Cluster) -> Option<T>,
    ) -> Result<T, Failed> {
        let until = Instant::now() + Duration::from_secs(NODE_ANSWERS_SECONDS);
        loop {
            self.nodes.iter_mut().try_for_each(NodeProcess::check)?;
            if let Some(found) = probe(self).await {
                return Ok(found);
            }
            if Instant::now() > until {
                return Err(format!("{what} did not happen in {NODE_ANSWERS_SECONDS} s").into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The program under a name of its own, so that a build which goes on meanwhile does not change what
/// is measured.
fn own_program(program: &str, directory: &Path) -> Result<PathBuf, Failed> {
    let program = std::fs::canonicalize(program).map_err(|error| format!("{program}: {error}"))?;
    let own = directory.join("ratoon");
    match std::fs::hard_link(&program, &own) {
        Ok(()) => Ok(own),
        // On another file system it is used where it is.
        Err(_) => Ok(program),
    }
}

fn api_of(node: &v1::NodeStatus) -> String {
    node.addresses.as_ref().map(|addresses| addresses.api.clone()).unwrap_or_default()
}
