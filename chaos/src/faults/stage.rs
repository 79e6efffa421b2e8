//! A cluster of three voters and what they acknowledged, and the little that all stories share: a
//! process that is to die at a point, its return, and the check of everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::TryStreamExt;
use ratoon::client::{Client, Profile};
use ratoon::demo::ports::Ports;
use ratoon::demo::processes::{LOOK_EVERY, Launcher, NodeAddresses, NodeProcess, PROFILE};
use ratoon::proto::v1;
use ratoon::types::{
    Action, CollectionName, Condition, Consistency, Name, NodeId, ScanOptions, Write, WriteBatch,
};
use tempfile::TempDir;

/// Bounds everything that must happen; the machine may be slow.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Tells `ratoon-faulty` where to die.
pub const VARIABLE: &str = "RATOON_FAULT";
/// Little memory, and a short log, so that a follower soon needs a snapshot.
pub const SETTINGS: &[&str] = &[
    "storage.memtable_bytes=4194304",
    "storage.block_cache_bytes=4194304",
    "raft.log_bytes_kept=65536",
];
/// What the state holds at first: written once, so that its files stay as they are.
const BASE_ROUNDS: u32 = 5;
const BASE_RECORDS: u32 = 16;
const BASE_RECORD_BYTES: usize = 32 * 1024;
/// One round of writes.
const ROUND_RECORDS: u32 = 16;
const ROUND_RECORD_BYTES: usize = 8 * 1024;

/// The cluster. Its processes die with it.
pub struct Stage {
    /// Starts nodes and runs commands.
    pub launcher: Launcher,
    /// Draws addresses.
    pub ports: Ports,
    /// The three voters.
    pub nodes: Vec<NodeProcess>,
    /// The cluster's ids of them, in the same order.
    pub ids: Vec<NodeId>,
    /// Reaches all of them.
    pub client: Client,
    /// Written once.
    base: CollectionName,
    /// Written all the time.
    busy: CollectionName,
    /// Every acknowledged write, by collection and key.
    written: BTreeMap<(String, Vec<u8>), Vec<u8>>,
    rounds: u32,
    numbers_used: usize,
    /// Last, so that it is removed after the processes are gone.
    directory: TempDir,
}

impl Stage {
    /// Starts a cluster of `program` with files below `directory`, and fills it.
    pub async fn start(program: &Path, directory: &Path) -> Result<Stage> {
        let directory = tempfile::tempdir_in(directory)?;
        let launcher = launcher(program, directory.path())?;
        let mut ports = Ports::default();
        let mut first = launcher.node(1, NodeAddresses::draw(&mut ports)?);
        first.set(&settings(&[]));
        first.init().await?;
        first.start()?;
        first.wait_until_ready(PATIENCE.as_secs()).await?;
        let profile = Profile::load_from(&launcher.profile_directory(), PROFILE)?;
        let mut stage = Stage {
            client: Client::connect(&profile)?,
            launcher,
            ports,
            nodes: vec![first],
            ids: Vec::new(),
            base: CollectionName::parse("faults", "base")?,
            busy: CollectionName::parse("faults", "busy")?,
            written: BTreeMap::new(),
            rounds: 0,
            numbers_used: 1,
            directory,
        };
        stage.client.create_namespace(&Name::parse("namespace", "faults")?).await?;
        stage.client.create_collection(&stage.base).await?;
        stage.client.create_collection(&stage.busy).await?;
        for _ in 0..BASE_ROUNDS {
            stage.write(&stage.base.clone(), BASE_RECORDS, BASE_RECORD_BYTES).await?;
            // Flushes. Four flushed files are one compaction: what comes later, all of it in another
            // collection, leaves the file that comes of them alone.
            stage.client.compact_log().await?;
        }
        for _ in 0..2 {
            let mut node = stage.joiner(false).await?;
            node.start()?;
            node.wait_until_ready(PATIENCE.as_secs()).await?;
            stage.nodes.push(node);
        }
        stage.meet().await?;
        Ok(stage)
    }

    /// Where files may be put.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until all nodes vote, learns how to reach them, and checks everything.
    pub async fn meet(&mut self) -> Result<()> {
        self.wait_for_voters().await?;
        let mut profile = Profile::load_from(&self.launcher.profile_directory(), PROFILE)?;
        profile.endpoints =
            self.nodes.iter().map(|node| node.addresses().api.to_string()).collect();
        self.client = Client::connect(&profile)?;
        self.ids.clear();
        for node in &self.nodes {
            let ids = self.ids_of(node).await?;
            self.ids.extend(ids.last());
        }
        self.check(None).await
    }

    /// A client of one node alone.
    pub fn pinned(&self, node: &NodeProcess) -> Result<Client> {
        Ok(self.client.pinned(&node.addresses().api.to_string())?)
    }

    /// A node with a token that was not started yet.
    pub async fn joiner(&mut self, learner: bool) -> Result<NodeProcess> {
        self.numbers_used += 1;
        let addresses = NodeAddresses::draw(&mut self.ports)?;
        let mut node = self.launcher.node(self.numbers_used, addresses);
        node.set(&settings(&[]));
        node.joins_with(self.client.create_token(0, learner).await?.token);
        Ok(node)
    }

    /// The cluster's ids of a node, the one it has now last: a join that was cut off may have left
    /// another behind.
    pub async fn ids_of(&self, node: &NodeProcess) -> Result<Vec<NodeId>> {
        let raft = node.addresses().raft.to_string();
        let nodes = self.client.list_nodes().await?;
        let own = |node: &&v1::Node| node.addresses.as_ref().is_some_and(|at| at.raft == raft);
        let mut ids: Vec<NodeId> = nodes.iter().filter(own).map(|node| NodeId(node.id)).collect();
        ids.sort_unstable();
        ensure!(!ids.is_empty(), "the cluster does not know the node");
        Ok(ids)
    }

    /// Which of the voters leads.
    pub async fn leader(&mut self) -> Result<usize> {
        self.wait_for("that a node leads", async |stage| {
            // What one node knows is quicker than asking all, one of which may be down.
            let status = stage.client.status(true).await.ok()?;
            stage.ids.iter().position(|id| id.0 == status.leader)
        })
        .await
    }

    /// Makes a node lead.
    pub async fn make_leader(&mut self, number: usize) -> Result<()> {
        let id = self.ids[number];
        self.wait_for("that leadership is handed over", async |stage| {
            (stage.client.transfer_leader(id).await.ok()? == id).then_some(())
        })
        .await
    }

    /// One of the voters that does not lead.
    pub async fn follower(&mut self) -> Result<usize> {
        Ok((self.leader().await? + 1) % self.nodes.len())
    }

    /// Waits until all three vote and one leads.
    pub async fn wait_for_voters(&mut self) -> Result<()> {
        self.wait_for("that all nodes vote", async |stage| {
            let status = stage.client.status(false).await.ok()?;
            let votes = |node: &&v1::NodeStatus| {
                let voter = matches!(node.role(), v1::NodeRole::Leader | v1::NodeRole::Follower);
                node.reachable && voter
            };
            let voters = status.nodes.iter().filter(votes).count();
            (voters == stage.nodes.len() && status.leader != 0).then_some(())
        })
        .await
    }

    /// Looks with `probe` until it finds something.
    pub async fn wait_for<T>(
        &mut self,
        what: &str,
        mut probe: impl AsyncFnMut(&mut Stage) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe(self).await {
                return Ok(found);
            }
            if Instant::now() > until {
                let state = self.client.status(false).await;
                bail!("{what} did not happen in {} s: {state:?}", PATIENCE.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY / 2).await;
        }
    }

    /// Writes a few records, and remembers those that were acknowledged.
    pub async fn write_some(&mut self) -> Result<()> {
        self.write(&self.busy.clone(), ROUND_RECORDS, ROUND_RECORD_BYTES).await
    }

    /// Writes one small record.
    pub async fn write_one(&mut self) -> Result<()> {
        self.write(&self.busy.clone(), 1, 100).await
    }

    async fn write(&mut self, to: &CollectionName, records: u32, bytes: usize) -> Result<()> {
        self.rounds += 1;
        let writes: Vec<Write> = (0..records)
            .map(|number| {
                let key = format!("{:08}-{number:04}", self.rounds);
                let value = noise(u64::from(self.rounds) << 32 | u64::from(number), bytes);
                let action = Action::Put { value: value.into(), content_type: String::new() };
                let key = Bytes::from(key);
                Write { collection: to.clone(), key, condition: Condition::Always, action }
            })
            .collect();
        self.client.write(WriteBatch { writes: writes.clone() }).await?;
        for write in writes {
            if let Action::Put { value, .. } = write.action {
                self.written.insert((to.to_string(), write.key.to_vec()), value.to_vec());
            }
        }
        Ok(())
    }

    /// Brings a node that is down so far behind that the log cannot help it any more.
    pub async fn leave_behind(&mut self, down: usize) -> Result<()> {
        let leader = self.leader().await?;
        ensure!(leader != down, "the node that is down leads");
        // Who leads keeps its log for a while after it built a snapshot; who led before does not.
        self.make_leader(self.nodes.len() - down - leader).await?;
        self.make_leader(leader).await?;
        self.write_some().await?;
        let status = self.pinned(&self.nodes[leader])?.status(true).await?;
        let last = status.nodes.first().context("a node tells of itself")?.last_index;
        self.write_some().await?;
        self.wait_for("that the log is dropped", async |stage| {
            let leader = stage.leader().await.ok()?;
            let first = stage.pinned(&stage.nodes[leader]).ok()?.compact_log().await.ok()?;
            (first.first_index > last).then_some(())
        })
        .await
    }

    /// A node comes back without faults: it starts, says that it serves, and everything is checked.
    pub async fn come_back(&mut self, number: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        node.runs_as(None, Vec::new());
        node.set(&settings(&[]));
        node.start()?;
        node.wait_until_ready(PATIENCE.as_secs()).await?;
        self.check(None).await
    }

    /// All nodes, and `other`, are equal at one index, and every acknowledged write is there.
    pub async fn check(&mut self, other: Option<&mut NodeProcess>) -> Result<()> {
        let count = self.nodes.len() + usize::from(other.is_some());
        let what = format!("that {count} nodes are equal");
        self.wait_for(&what, async |stage| {
            let digests = stage.client.digest().await.ok()?.digests;
            let of = |digest: &v1::NodeDigest| (digest.digest.clone(), digest.records);
            let compared = digests.iter().filter(|digest| digest.error.is_empty()).count();
            if compared < count {
                return None;
            }
            let mut answered = digests.iter().filter(|digest| digest.error.is_empty());
            let first = answered.next().map(of)?;
            // Two digests of one index that differ are not waited out.
            Some(answered.all(|digest| of(digest) == first))
        })
        .await?
        .then_some(())
        .context("nodes hold different content at one index")?;
        for node in self.nodes.iter_mut().chain(other) {
            node.check()?;
        }
        self.wait_for_no_pin().await?;
        self.check_written().await
    }

    /// A pin that outlived what it was for would hold the log for ten minutes.
    async fn wait_for_no_pin(&mut self) -> Result<()> {
        self.wait_for("that no pin is left", async |stage| {
            let status = stage.client.status(true).await.ok()?;
            status.nodes.iter().all(|node| node.pins.is_empty()).then_some(())
        })
        .await
    }

    async fn check_written(&self) -> Result<()> {
        let mut missing = self.written.clone();
        for collection in [&self.base, &self.busy] {
            let options = ScanOptions::default();
            let records = self.client.scan_all(collection, options, Consistency::Linearizable);
            let mut records = std::pin::pin!(records);
            while let Some(record) = records.try_next().await? {
                let place = (collection.to_string(), record.key.to_vec());
                if let Some(expected) = missing.remove(&place) {
                    ensure!(record.value == expected, "{place:?} holds another value");
                }
            }
        }
        ensure!(missing.is_empty(), "{} acknowledged writes are gone", missing.len());
        Ok(())
    }
}

/// The launcher of a cluster, of a program that no build replaces meanwhile.
pub fn launcher(program: &Path, directory: &Path) -> Result<Launcher> {
    let own = directory.join("ratoon-faulty");
    let program = program.canonicalize().with_context(|| program.display().to_string())?;
    if std::fs::hard_link(&program, &own).is_err() {
        // On another file system it takes a copy.
        std::fs::copy(&program, &own)?;
    }
    Ok(Launcher::of(own, directory, false)?)
}

/// The settings of every node, and more.
pub fn settings(more: &[String]) -> Vec<String> {
    SETTINGS.iter().map(|&setting| setting.to_owned()).chain(more.iter().cloned()).collect()
}

/// What a node's environment says of a fault.
pub fn fault(place: &str) -> Vec<(String, String)> {
    vec![(VARIABLE.to_owned(), place.to_owned())]
}

/// Starts a node that is to die at `place`.
pub fn start_faulty(node: &mut NodeProcess, place: &str) -> Result<usize> {
    node.runs_as(None, fault(place));
    let before = strikes(node.log(), place);
    node.start()?;
    Ok(before)
}

/// Waits until a node has died at `place`; `strikes_before` is what `start_faulty` counted.
pub async fn wait_for_death(
    node: &mut NodeProcess,
    place: &str,
    strikes_before: usize,
) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some((status, log)) = node.take_ended()? {
            let is_killed = status.contains("signal: 9");
            let is_there = strikes(node.log(), place) > strikes_before;
            ensure!(is_killed && is_there, "it ended elsewhere ({status}): {log}");
            return Ok(());
        }
        if Instant::now() > until {
            node.kill().await?;
            bail!("it did not reach {place} in {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY / 5).await;
    }
}

/// How often a log says that a process died at `place`.
fn strikes(log: &Path, place: &str) -> usize {
    let point = place.split(':').next().unwrap_or(place);
    let text = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).matches(&format!("fault: {point}: ")).count()
}

/// Bytes that do not compress.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// The files below a directory that end so, largest first.
pub fn files_ending(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(ending) {
                found.push((metadata.len(), entry.path()));
            }
        }
    }
    found.sort_by_key(|(bytes, path)| (std::cmp::Reverse(*bytes), path.clone()));
    found.into_iter().map(|(_, path)| path).collect()
}
