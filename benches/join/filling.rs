//! Filling the cluster with values that do not compress, and bringing it to rest.

use bytes::Bytes;
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ratoon::limits::MIB;
use ratoon::types::{Action, Condition, Consistency, Write, WriteBatch};

use super::support::Failed;
use super::support::cluster::Cluster;

/// Bytes of values in a batch.
const BATCH_BYTES: usize = MIB;
/// Batches under way.
const BATCHES_AT_ONCE: usize = 8;

/// Writes `state_bytes` bytes of random values, and checks that all are there.
pub async fn fill(cluster: &Cluster, state_bytes: u64, value_bytes: usize) -> Result<(), Failed> {
    let records = state_bytes.div_ceil(value_bytes as u64);
    let batch_records = (BATCH_BYTES / value_bytes).max(1);
    let firsts = (0..records).step_by(batch_records);
    let batches = firsts.map(|first| {
        let last = records.min(first + batch_records as u64);
        let batch = batch(cluster, first..last, value_bytes);
        cluster.client.write(batch)
    });
    let mut batches = futures::stream::iter(batches).buffer_unordered(BATCHES_AT_ONCE);
    while let Some(written) = batches.next().await {
        written?;
    }
    let collection =
        cluster.client.describe_collection(&cluster.collection, Consistency::Linearizable);
    let found = collection.await?.records;
    if found != records {
        return Err(format!("{found} records are there of {records}").into());
    }
    Ok(())
}

fn batch(cluster: &Cluster, numbers: std::ops::Range<u64>, value_bytes: usize) -> WriteBatch {
    let mut random = StdRng::seed_from_u64(numbers.start);
    let write = |number: u64| {
        let mut value = vec![0; value_bytes];
        random.fill(&mut value[..]);
        Write {
            collection: cluster.collection.clone(),
            key: Bytes::from(format!("record/{number:016}")),
            condition: Condition::Always,
            action: Action::Put { value: Bytes::from(value), content_type: String::new() },
        }
    };
    WriteBatch { writes: numbers.map(write).collect() }
}

/// Has every node build a snapshot and drop its log, so that each can serve a joiner at once;
/// bytes of the largest.
pub async fn settle(cluster: &Cluster) -> Result<u64, Failed> {
    let mut bytes = 0;
    for endpoint in cluster.endpoints() {
        let node =
            cluster.client.pinned(&endpoint)?.with_timeout(std::time::Duration::from_secs(600));
        bytes = bytes.max(node.create_snapshot().await?.bytes);
        node.compact_log().await?;
    }
    Ok(bytes)
}
