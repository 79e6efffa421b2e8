//! The cluster on stage: its processes, the proxies before their bulk lanes, and what both sides of
//! the story need: starting nodes, waiting, finding the leader, limiting rates.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::DemoError;
use super::cluster::Cluster;
use super::ports::Ports;
use super::processes::{LOOK_EVERY, Launcher, NodeAddresses, NodeProcess};
use super::proxy::{Proxy, ProxyOptions};
use super::screen::Screen;
use super::workload::Workload;
use crate::proto::v1;

/// How long a node may take from its start, or its return, until it answers.
pub const NODE_ANSWERS_SECONDS: u64 = 60;

/// Everything that runs. Fields drop in order: clients, then nodes, then proxies.
pub struct Stage {
    /// What the person sees.
    pub screen: Arc<Screen>,
    /// The clients that write and read throughout.
    pub workload: Workload,
    /// A client of the whole cluster.
    pub cluster: Cluster,
    /// Node number `n` at `n - 1`.
    pub nodes: Vec<NodeProcess>,
    /// One for each of the first nodes, in their order.
    pub proxies: Vec<Proxy>,
    /// Runs the program's other commands.
    pub launcher: Launcher,
    /// Ports not yet in use.
    pub ports: Ports,
    /// Where all files are; whoever made the stage removes or keeps it.
    pub directory: PathBuf,
}

/// Adds a node, not started, whose bulk lane is reached through a new proxy.
pub async fn add_behind_proxy(
    launcher: &Launcher,
    ports: &mut Ports,
    number: usize,
    seed: u64,
) -> Result<(NodeProcess, Proxy), DemoError> {
    let mut addresses = NodeAddresses::draw(ports)?;
    let seed = seed.wrapping_mul(1_000).wrapping_add(number as u64);
    let options = ProxyOptions { listen: ports.draw()?, target: addresses.bulk, seed };
    let proxy =
        Proxy::start(options).await.map_err(DemoError::system("start a UDP proxy on loopback"))?;
    addresses.bulk_advertised = proxy.local_address();
    Ok((launcher.node(number, addresses), proxy))
}

impl Stage {
    /// Adds and starts a node that joins and is reached directly; it is the last of `nodes`.
    /// Returns its number and when it was started.
    pub async fn join_directly(&mut self) -> Result<(usize, Instant), DemoError> {
        let number = self.nodes.len() + 1;
        let mut node = self.launcher.node(number, NodeAddresses::draw(&mut self.ports)?);
        node.joins_with(self.launcher.new_token().await?);
        let started = Instant::now();
        node.start()?;
        self.nodes.push(node);
        Ok((number, started))
    }

    /// The node with this number, from 1.
    pub fn node(&mut self, number: usize) -> &mut NodeProcess {
        &mut self.nodes[number - 1]
    }

    /// An error if any node has ended by itself.
    pub fn check(&mut self) -> Result<(), DemoError> {
        self.nodes.iter_mut().try_for_each(NodeProcess::check)
    }

    /// Looks with `probe` until it finds something, at most for `seconds`.
    pub async fn wait_for<T>(
        &mut self,
        what: &str,
        seconds: u64,
        mut probe: impl AsyncFnMut(&mut Stage) -> Result<Option<T>, DemoError>,
    ) -> Result<T, DemoError> {
        let started = Instant::now();
        loop {
            self.check()?;
            if let Some(found) = probe(self).await? {
                return Ok(found);
            }
            if started.elapsed().as_secs() >= seconds {
                let state = self.describe().await;
                return Err(DemoError::TooLate { what: what.to_owned(), seconds, state });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The cluster's id of a node, once it is enrolled.
    pub async fn id_of(&mut self, number: usize) -> Result<u64, DemoError> {
        let api = self.node(number).addresses().api.to_string();
        let what = format!("that node {number} is enrolled");
        self.wait_for(&what, NODE_ANSWERS_SECONDS, async |stage| {
            // The cluster may have no leader at this moment; then the next look finds the node.
            let Ok(status) = stage.cluster.status().await else { return Ok(None) };
            Ok(status.nodes.iter().find(|node| api_of(node) == api).map(|node| node.id))
        })
        .await
    }

    /// The number of the node with the cluster's id `id`, if `status` knows it.
    pub fn number_of(&self, status: &v1::StatusResponse, id: u64) -> Option<usize> {
        let api = status.nodes.iter().find(|node| node.id == id).map(api_of)?;
        let at = self.nodes.iter().position(|node| node.addresses().api.to_string() == api)?;
        Some(at + 1)
    }

    /// Makes the node with the cluster's id `id` the leader, if it is not.
    pub async fn make_leader(&mut self, id: u64) -> Result<(), DemoError> {
        let what = format!("that node id {id} leads");
        let screen_line = format!("  handing leadership to node id {id}");
        let mut said = false;
        self.wait_for(&what, NODE_ANSWERS_SECONDS, async |stage| {
            let Ok(status) = stage.cluster.status().await else { return Ok(None) };
            if status.leader == id {
                return Ok(Some(()));
            }
            if !said {
                stage.screen.line(&screen_line);
                said = true;
            }
            // Refused while the node is not a voter yet or lags; it is asked again until the time
            // is up.
            match stage.cluster.transfer_leader(id).await {
                Ok(leader) if leader == id => Ok(Some(())),
                Ok(_) | Err(_) => Ok(None),
            }
        })
        .await
    }

    /// Limits the bulk lane of a node as soon as it answers; 0: no limit.
    pub async fn limit(&mut self, number: usize, rate: u64) -> Result<(), DemoError> {
        let api = self.node(number).addresses().api.to_string();
        let what = format!("that node {number} takes a rate limit");
        self.wait_for(&what, NODE_ANSWERS_SECONDS, async |stage| {
            Ok(stage.cluster.limit(&api, rate).await.ok())
        })
        .await
    }

    /// What can be said of the cluster in one line, for errors.
    pub async fn describe(&mut self) -> String {
        let status = match self.cluster.status().await {
            Ok(status) => status,
            Err(failure) => return format!("the cluster's status is: {failure}"),
        };
        let mut parts = vec![format!("leader {}", status.leader)];
        for node in &status.nodes {
            let role = node.role().as_str_name().trim_start_matches("NODE_ROLE_").to_lowercase();
            let reachable = if node.reachable { "" } else { ", unreachable" };
            parts.push(format!(
                "node id {} {role}, term {}, applied {}{reachable}",
                node.id, node.term, node.applied_index
            ));
            for transfer in &node.transfers {
                parts.push(format!(
                    "its pull {} {}/{} {}",
                    transfer.state,
                    transfer.done_bytes,
                    transfer.total_bytes,
                    transfer.stall_reason
                ));
            }
        }
        parts.join("; ")
    }
}

/// The API address by which the demo tells nodes apart; empty if the cluster does not say.
fn api_of(node: &v1::NodeStatus) -> String {
    node.addresses.as_ref().map(|addresses| addresses.api.clone()).unwrap_or_default()
}
