//! The stores under load, seen alike: ratoon, and etcd as its peer.

use bytes::Bytes;
use ratoon::client::{Client, Options};
use ratoon::demo::processes::NodeProcess;
use ratoon::types::{CollectionName, Consistency};

use super::CLIENTS_PER_CONNECTION;
use super::etcd::{self, Etcd};
use super::load::Through;
use super::support::Failed;
use super::support::cluster::Cluster;

/// A running cluster.
pub struct Store {
    name: String,
    kind: Kind,
    /// Position of the node that leads, as last looked up.
    leader: usize,
}

enum Kind {
    Ratoon(Cluster),
    Etcd(Etcd),
}

/// One client's way in.
pub enum Session {
    /// Shared by several clients, like a connection.
    Ratoon(Client, CollectionName),
    /// The same.
    Etcd(etcd::Client),
}

impl Store {
    /// A running cluster of ratoon.
    pub fn ratoon(cluster: Cluster) -> Self {
        Store { name: "ratoon".to_owned(), kind: Kind::Ratoon(cluster), leader: 0 }
    }

    /// A running cluster of etcd.
    pub fn etcd(etcd: Etcd) -> Self {
        Store { name: etcd.version().to_owned(), kind: Kind::Etcd(etcd), leader: 0 }
    }

    /// Its name in the table.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process ids of its nodes.
    pub fn pids(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Ratoon(cluster) => cluster.nodes.iter().filter_map(NodeProcess::pid).collect(),
            Kind::Etcd(etcd) => etcd.pids(),
        }
    }

    /// Syncs of the leader's log since it was started. Whose turn it is was found by `connect`.
    pub async fn syncs(&self) -> Result<f64, Failed> {
        match &self.kind {
            Kind::Ratoon(cluster) => {
                let http = cluster.nodes[self.leader].addresses().http;
                etcd::metric(http, "ratoon_raft_log_syncs_total").await
            }
            Kind::Etcd(etcd) => etcd.syncs(self.leader).await,
        }
    }

    /// New connections for so many clients, each with its share of them.
    pub async fn connect(
        &mut self,
        clients: usize,
        through: Through,
    ) -> Result<Vec<Session>, Failed> {
        self.leader = match &mut self.kind {
            Kind::Ratoon(cluster) => cluster.leader().await?,
            Kind::Etcd(etcd) => etcd.leader().await?,
        };
        let nodes = self.pids().len();
        let places: Vec<usize> = match through {
            Through::Leader => vec![self.leader],
            Through::All => (0..nodes).collect(),
        };
        let connections = clients.div_ceil(CLIENTS_PER_CONNECTION).max(places.len()).min(clients);
        let mut sessions = Vec::with_capacity(clients);
        for connection in 0..connections {
            let place = places[connection % places.len()];
            let share = (connection..clients).step_by(connections).len();
            match &self.kind {
                Kind::Ratoon(cluster) => {
                    let mut endpoints = cluster.endpoints();
                    endpoints.rotate_left(place);
                    let options = Options { writes_max: share, ..Options::default() };
                    let client = cluster.connect(&endpoints, options)?;
                    let session = || Session::Ratoon(client.clone(), cluster.collection.clone());
                    sessions.extend(std::iter::repeat_with(session).take(share));
                }
                Kind::Etcd(etcd) => {
                    let client = etcd.connect(place)?;
                    let session = || Session::Etcd(client.clone());
                    sessions.extend(std::iter::repeat_with(session).take(share));
                }
            }
        }
        Ok(sessions)
    }
}

impl Session {
    /// Stores a value; returns once it is durable on a majority.
    pub async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Failed> {
        match self {
            Session::Ratoon(client, collection) => {
                client.put(collection, key, value).await.map(|_| ())?;
            }
            Session::Etcd(client) => client.put(key, value).await?,
        }
        Ok(())
    }

    /// Reads linearizably; the length of the value, if there is one.
    pub async fn get(&self, key: Bytes) -> Result<Option<usize>, Failed> {
        match self {
            Session::Ratoon(client, collection) => {
                let record = client.get(collection, key, Consistency::Linearizable).await?;
                Ok(record.map(|record| record.value.len()))
            }
            Session::Etcd(client) => Ok(client.get(key).await?),
        }
    }
}
