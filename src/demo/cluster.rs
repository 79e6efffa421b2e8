//! The demo's view of the cluster: the client library, with the demo's own collections and
//! patience.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;

use super::processes::PROFILE;
use crate::client::{self, Client, Profile};
use crate::proto::v1;
use crate::types::{
    CollectionName, Consistency, Failure, Index, Name, NodeId, Record, ScanOptions,
};

/// Namespace of everything the demo stores.
pub const NAMESPACE: &str = "demo";
/// Collection that holds the imported input.
pub const INPUT: &str = "input";
/// Collection that the workload writes.
const WRITES: &str = "writes";

/// For looking at something that is looked at again soon.
const GLANCE: Duration = Duration::from_secs(2);
/// One attempt at a node that may just have been killed; the client then tries another.
const ATTEMPT: Duration = Duration::from_secs(3);
/// For work that reads the whole state.
const LONG: Duration = Duration::from_secs(600);

/// A client of the whole cluster and of each of its nodes; clones are cheap.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    writes: CollectionName,
    /// One client for each node ever asked, so that a poll does not shake hands each time.
    pinned: Arc<Mutex<BTreeMap<String, Client>>>,
}

impl Cluster {
    /// Connects by the demo's profile, from now on with `endpoints` (`host:port` of the API). The
    /// profile is written back with them, for the commands that the demo runs.
    pub fn connect(profiles: &Path, endpoints: Vec<String>) -> Result<Self, Failure> {
        let mut profile = Profile::load_from(profiles, PROFILE)?;
        profile.endpoints = endpoints;
        profile.save_to(profiles, PROFILE)?;
        let options = client::Options { attempt_timeout: ATTEMPT, ..client::Options::default() };
        let client = Client::connect_with(&profile, options)?;
        let writes = CollectionName::parse(NAMESPACE, WRITES)?;
        Ok(Cluster { client, writes, pinned: Arc::default() })
    }

    /// A client of one node alone.
    fn pinned(&self, api: &str) -> Result<Client, Failure> {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = pinned.get(api) {
            return Ok(client.clone());
        }
        let client = self.client.pinned(api)?;
        pinned.insert(api.to_owned(), client.clone());
        Ok(client)
    }

    /// What every reachable node says of itself.
    pub async fn status(&self) -> Result<v1::StatusResponse, Failure> {
        self.client.with_timeout(ATTEMPT).status(false).await
    }

    /// The pulls that the node at `api` knows of.
    pub async fn transfers(&self, api: &str) -> Result<Vec<v1::Transfer>, Failure> {
        self.pinned(api)?.with_timeout(GLANCE).list_transfers().await
    }

    /// Limits the bulk lane of the node at `api`, bytes a second; 0: no limit.
    pub async fn limit(&self, api: &str, bytes_per_second: u64) -> Result<(), Failure> {
        let pinned = self.pinned(api)?.with_timeout(GLANCE);
        pinned.limit_transfers(bytes_per_second).await.map(|_| ())
    }

    /// Has the node at `api` build a snapshot of its state, which also makes all of it durable.
    pub async fn create_snapshot(&self, api: &str) -> Result<v1::Snapshot, Failure> {
        self.pinned(api)?.with_timeout(LONG).create_snapshot().await
    }

    /// Has the node at `api` drop its log as far as it may; the first index that is left.
    pub async fn compact_log(&self, api: &str) -> Result<Index, Failure> {
        Ok(self.pinned(api)?.with_timeout(LONG).compact_log().await?.first_index)
    }

    /// Hands leadership over; the leader afterwards.
    pub async fn transfer_leader(&self, to: u64) -> Result<u64, Failure> {
        let client = self.client.with_timeout(2 * ATTEMPT);
        client.transfer_leader(NodeId(to)).await.map(|leader| leader.0)
    }

    /// Content digests of all nodes at one index. Reads the whole state on each.
    pub async fn digest(&self) -> Result<v1::DigestResponse, Failure> {
        self.client.with_timeout(LONG).digest().await
    }

    /// Reads every record of every collection from the node at `api` alone.
    pub async fn read_everything(&self, api: &str) -> Result<(), Failure> {
        let node = self.pinned(api)?.with_timeout(LONG);
        let stale = Consistency::Stale { min_index: 0 };
        for collection in node.list_collections(None, stale).await? {
            let name = collection.name.unwrap_or_default();
            let name = CollectionName::parse(&name.namespace, &name.name)?;
            let mut records = pin!(node.scan_all(&name, ScanOptions::default(), stale));
            while records.try_next().await?.is_some() {}
        }
        Ok(())
    }

    /// Creates the namespace and the collections of the demo.
    pub async fn create_collections(&self) -> Result<(), Failure> {
        self.client.create_namespace(&Name::parse("namespace", NAMESPACE)?).await?;
        self.client.create_collection(&self.writes).await?;
        self.client.create_collection(&CollectionName::parse(NAMESPACE, INPUT)?).await?;
        Ok(())
    }

    /// Records of all collections, and the bytes of their keys and values.
    pub async fn sizes(&self) -> Result<(u64, u64), Failure> {
        let collections = self.client.list_collections(None, Consistency::Linearizable).await?;
        let records = collections.iter().map(|collection| collection.records).sum();
        Ok((records, collections.iter().map(|collection| collection.bytes).sum()))
    }

    /// The workload's put; the version of the record.
    pub async fn put_write(&self, key: &[u8], value: Vec<u8>) -> Result<Index, Failure> {
        self.client.put(&self.writes, key.to_vec(), value).await
    }

    /// The workload's get, linearizable.
    pub async fn get_write(&self, key: &[u8]) -> Result<Option<Record>, Failure> {
        self.client.get(&self.writes, key.to_vec(), Consistency::Linearizable).await
    }

    /// Shows `see` every record of the workload, linearizably, in key order.
    pub async fn scan_writes(&self, mut see: impl FnMut(&Record)) -> Result<(), Failure> {
        let options = ScanOptions::default();
        let scan = self.client.scan_all(&self.writes, options, Consistency::Linearizable);
        let mut scan = pin!(scan);
        while let Some(record) = scan.try_next().await? {
            see(&record);
        }
        Ok(())
    }
}
