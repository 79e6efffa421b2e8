//! The cluster of a storm: its processes, the links between them, and what a nemesis does to both.
//!
//! Everything goes through the doors a person has: the program's command line, the client library
//! and the operating system. What it awaits it looks for again and again, under limits so generous
//! that a busy machine does not meet them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ratoon::client::{self, Client, Profile};
use ratoon::demo::ports::Ports;
use ratoon::demo::processes::{Launcher, NodeProcess, PROFILE};
use ratoon::demo::pull::Pulled;
use ratoon::proto::v1;
use ratoon::types::{Failure, NodeId, TransferState};

use super::net::{Net, Number};
use super::timeline::{FaultId, Timeline};
use super::watch::Watch;
use crate::power::PowerFs;
use crate::random::Random;

/// How often something awaited is looked at again.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the cluster may take to be well again after a fault.
pub const RECOVERY_SECONDS: u64 = 180;
/// How long a node may take until it answers, and a membership change until it is done.
const ANSWER_SECONDS: u64 = 120;
/// How long a transfer may stand still while nobody disturbs it.
const STANDSTILL_SECONDS: u64 = 180;
/// Deaths of one process that nobody asked for before the storm is given up.
const DEATHS_MAX: usize = 3;
/// Nodes at the beginning.
pub const FOUNDERS: Number = 3;
/// Settings of every node: little memory, so that files are flushed and snapshots have parts.
const SETTINGS: [&str; 3] = [
    "storage.memtable_bytes=16777216",
    "storage.block_cache_bytes=8388608",
    "storage.flush_log_bytes=16777216",
];

/// One node.
pub struct Node {
    /// Its process, which comes and goes.
    pub process: NodeProcess,
    /// The cluster's id of it; 0 before it is enrolled.
    pub id: u64,
    /// A client of it alone.
    pub client: Client,
    /// It stands still under SIGSTOP.
    pub is_paused: bool,
    /// Its process may end by itself: a fault was planted in it, or it was removed.
    pub may_end: bool,
    /// How often it did.
    pub ends: u64,
}

/// What the world is made of.
pub struct Setup {
    /// The program of the nodes.
    pub program: PathBuf,
    /// Where all files go.
    pub directory: PathBuf,
    /// Settings of every node beside the usual ones, `key=value`.
    pub settings: Vec<String>,
    /// Everything drawn follows from it.
    pub seed: u64,
    /// The nodes' data lies on file systems that forget at a power loss what was not synced.
    pub can_lose_power: bool,
}

/// Everything that runs but the load. Fields drop in order: nodes before their disks and proxies.
pub struct World {
    /// What happened when.
    pub timeline: Arc<Timeline>,
    /// The nemesis's chance.
    pub random: Random,
    /// Every node that was not removed.
    pub nodes: BTreeMap<Number, Node>,
    disks: BTreeMap<Number, PowerFs>,
    /// The links.
    pub net: Net,
    /// What the transfers do.
    pub watch: Watch,
    /// What went wrong and is the product's fault.
    pub problems: Vec<String>,
    /// A client of the whole cluster.
    pub admin: Client,
    /// How clients find the founders.
    pub profile: Profile,
    /// Logs of nodes that were removed and of those that run.
    pub logs: Vec<PathBuf>,
    launcher: Launcher,
    ports: Ports,
    setup: Setup,
    next: Number,
}

impl World {
    /// Starts three nodes behind proxies and waits until they all vote.
    pub async fn start(setup: Setup, timeline: Arc<Timeline>) -> Result<World> {
        let launcher = Launcher::of(setup.program.clone(), &setup.directory, false)?;
        let (mut net, mut ports) = (Net::default(), Ports::default());
        let addresses = net.add(1, &mut ports, setup.seed).await?;
        let mut first = launcher.node(1, addresses);
        let mut disks = BTreeMap::new();
        place(&setup, &mut first, &mut disks)?;
        first.init().await?;
        first.set(&settings_of(&setup));
        first.start()?;
        first.wait_until_ready(ANSWER_SECONDS).await?;
        let profile = Profile::load_from(&launcher.profile_directory(), PROFILE)?;
        let admin = connect(&profile)?;
        let client = admin.pinned(&addresses.api.to_string())?;
        let mut world = World {
            random: Random::new(setup.seed),
            nodes: BTreeMap::new(),
            disks,
            net,
            watch: Watch::default(),
            problems: Vec::new(),
            admin,
            profile,
            logs: vec![first.log().to_owned()],
            launcher,
            ports,
            setup,
            next: 2,
            timeline,
        };
        let node =
            Node { process: first, id: 0, client, is_paused: false, may_end: false, ends: 0 };
        world.nodes.insert(1, node);
        world.learn_id(1).await?;
        for _ in 1..FOUNDERS {
            let number = world.join().await?;
            world.wait_until_voter(number).await?;
        }
        let endpoints = world.nodes.values().map(|node| api_of(&node.process)).collect();
        world.profile.endpoints = endpoints;
        world.admin = connect(&world.profile)?;
        Ok(world)
    }

    /// Where the storm's files are.
    pub fn directory(&self) -> &Path {
        &self.setup.directory
    }

    /// The program of the nodes.
    pub fn program(&self) -> &Path {
        &self.setup.program
    }

    /// The node with this number, which must be there.
    pub fn node(&mut self, number: Number) -> &mut Node {
        self.nodes.get_mut(&number).expect("the story names only nodes it has")
    }

    /// Numbers of the nodes whose processes run and do not stand still.
    pub fn running(&self) -> Vec<Number> {
        let runs = |node: &Node| node.process.pid().is_some() && !node.is_paused;
        self.nodes.iter().filter(|(_, node)| runs(node)).map(|(number, _)| *number).collect()
    }

    /// Adds a node that is neither enrolled nor started.
    pub async fn add(&mut self) -> Result<Number> {
        let number = self.next;
        self.next += 1;
        let addresses = self.net.add(number, &mut self.ports, self.setup.seed).await?;
        let mut process = self.launcher.node(number, addresses);
        process.set(&settings_of(&self.setup));
        place(&self.setup, &mut process, &mut self.disks)?;
        self.logs.push(process.log().to_owned());
        let client = self.admin.pinned(&addresses.api.to_string())?;
        let node = Node { process, id: 0, client, is_paused: false, may_end: false, ends: 0 };
        self.nodes.insert(number, node);
        Ok(number)
    }

    /// Starts an added node with a new token, and waits until the cluster knows it.
    pub async fn enrol(&mut self, number: Number) -> Result<()> {
        self.give_token(number).await?;
        self.start_process(number)?;
        self.learn_id(number).await
    }

    async fn give_token(&mut self, number: Number) -> Result<()> {
        let token = self
            .wait_for("a join token", ANSWER_SECONDS, async |world| {
                // Without a leader there is none; the next attempt may find one.
                Ok(world.admin.create_token(0, false).await.ok().map(|made| made.token))
            })
            .await?;
        self.node(number).process.joins_with(token);
        Ok(())
    }

    /// Adds a node and lets it join.
    pub async fn join(&mut self) -> Result<Number> {
        let number = self.add().await?;
        self.enrol(number).await?;
        Ok(number)
    }

    async fn learn_id(&mut self, number: Number) -> Result<()> {
        let api = api_of(&self.node(number).process);
        let what = format!("that node {number} is enrolled");
        let id = self
            .wait_for(&what, ANSWER_SECONDS, async |world| {
                if world.node(number).process.pid().is_none() {
                    // It died at a planted fault, and may have spent its token.
                    world.node(number).process.runs_as(None, Vec::new());
                    world.give_token(number).await?;
                    world.start_process(number)?;
                }
                // The cluster may be without a leader at this moment.
                let Ok(nodes) = world.admin.list_nodes().await else { return Ok(None) };
                let of = |node: &&v1::Node| {
                    node.addresses.as_ref().is_some_and(|addresses| addresses.api == api)
                };
                Ok(nodes.iter().filter(of).map(|node| node.id).max())
            })
            .await?;
        let node = self.node(number);
        node.id = id;
        let (client, pid) = (node.client.clone(), node.process.pid());
        self.watch.add(number, id, client);
        self.watch.runs(number, pid);
        self.timeline.note(format!("node {number} is enrolled as id {id}"));
        Ok(())
    }

    /// Starts the process of a node, for the first time or again.
    pub fn start_process(&mut self, number: Number) -> Result<()> {
        let node = self.node(number);
        node.process.start()?;
        let pid = node.process.pid();
        self.watch.runs(number, pid);
        Ok(())
    }

    /// kill -9; a node that is down already stays so.
    pub async fn kill(&mut self, number: Number) -> Result<()> {
        self.check()?;
        self.watch.disturb();
        self.watch.runs(number, None);
        let node = self.node(number);
        node.is_paused = false;
        if node.process.pid().is_some() {
            node.process.kill().await?;
        }
        Ok(())
    }

    /// The disk of a node whose process was killed forgets what was not synced.
    pub fn lose_power(&mut self, number: Number) -> Result<()> {
        self.watch.loses_power(number);
        let seed = self.random.next();
        let disk = self.disks.get(&number).context("this node's disk forgets nothing")?;
        let losses = tokio::task::block_in_place(|| disk.lose_power(seed))?;
        self.timeline.note(format!(
            "the disk of node {number} lost {} blocks and {} changes of names; {} files gone, {} back",
            losses.blocks_lost, losses.entries_lost, losses.files_lost, losses.files_returned
        ));
        Ok(())
    }

    /// SIGSTOP.
    pub fn pause(&mut self, number: Number) -> Result<()> {
        self.watch.disturb();
        let node = self.node(number);
        node.is_paused = true;
        Ok(node.process.pause()?)
    }

    /// SIGCONT.
    pub fn resume(&mut self, number: Number) -> Result<()> {
        let node = self.node(number);
        node.is_paused = false;
        Ok(node.process.resume()?)
    }

    /// Makes every link good, lets every paused process go on and starts every one that is down.
    pub fn repair(&mut self) -> Result<()> {
        self.net.heal();
        let numbers: Vec<Number> = self.nodes.keys().copied().collect();
        for number in numbers {
            if self.node(number).is_paused {
                self.resume(number)?;
            }
            if self.node(number).process.pid().is_none() && self.node(number).id != 0 {
                self.start_process(number)?;
            }
        }
        Ok(())
    }

    /// Takes note of processes that ended by themselves, which no process may, and starts them
    /// again.
    pub fn check(&mut self) -> Result<()> {
        let numbers: Vec<Number> = self.nodes.keys().copied().collect();
        for number in numbers {
            let Some((status, log)) = self.node(number).process.take_ended()? else { continue };
            self.watch.runs(number, None);
            if self.node(number).may_end {
                self.node(number).ends += 1;
                continue;
            }
            let problem = format!("node {number} ended by itself ({status}); its log: {log}");
            self.timeline.note(&problem);
            self.problems.push(problem);
            ensure!(self.problems.len() < DEATHS_MAX, "nodes end by themselves again and again");
            self.start_process(number)?;
        }
        Ok(())
    }

    /// Looks with `probe` until it finds something, at most for `seconds`.
    pub async fn wait_for<T>(
        &mut self,
        what: &str,
        seconds: u64,
        mut probe: impl AsyncFnMut(&mut World) -> Result<Option<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            self.check()?;
            if let Some(found) = probe(self).await? {
                return Ok(found);
            }
            if started.elapsed().as_secs() >= seconds {
                let state = self.describe().await;
                bail!("{what} did not happen within {seconds} s; {state}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets time pass; processes that end by themselves are noticed meanwhile.
    pub async fn sleep(&mut self, duration: Duration) -> Result<()> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
        Ok(())
    }

    /// The leader's number, as the cluster knows it.
    pub async fn leader(&mut self) -> Result<Number> {
        self.wait_for("a leader", RECOVERY_SECONDS, async |world| {
            let Ok(status) = world.admin.status(false).await else { return Ok(None) };
            Ok(world.number_of(status.leader))
        })
        .await
    }

    /// The number of the node with this id.
    pub fn number_of(&self, id: u64) -> Option<Number> {
        let of = |(_, node): &(&Number, &Node)| node.id == id && id != 0;
        self.nodes.iter().find(of).map(|(number, _)| *number)
    }

    /// Makes a node lead, if it can.
    pub async fn make_leader(&mut self, number: Number) -> Result<()> {
        let id = self.node(number).id;
        self.wait_for(&format!("that node {number} leads"), ANSWER_SECONDS, async |world| {
            // Refused while it lags or elections go on; it is asked again.
            let answer = world.admin.transfer_leader(NodeId(id)).await;
            Ok(answer.ok().filter(|leader| leader.0 == id).map(|_| ()))
        })
        .await
    }

    /// Waits until a node votes.
    pub async fn wait_until_voter(&mut self, number: Number) -> Result<()> {
        let what = format!("that node {number} votes");
        self.wait_for(&what, STANDSTILL_SECONDS, async |world| {
            Ok(world.is_voter(number).await.then_some(()))
        })
        .await
    }

    /// Whether a node is known to vote, and is reached.
    pub async fn is_voter(&mut self, number: Number) -> bool {
        let id = self.node(number).id;
        let Ok(status) = self.admin.status(false).await else { return false };
        let votes = |node: &v1::NodeStatus| {
            matches!(node.role(), v1::NodeRole::Leader | v1::NodeRole::Follower)
        };
        status.nodes.iter().any(|node| node.id == id && node.reachable && votes(node))
    }

    /// What a receiver tells of its pulls; None while it is down, or has no offer yet.
    pub async fn pulled(&mut self, number: Number) -> Result<Option<Pulled>> {
        self.check()?;
        let node = self.node(number);
        if node.process.pid().is_none() || node.is_paused {
            return Ok(None);
        }
        let told = node.client.with_timeout(Duration::from_secs(2)).list_transfers().await;
        Ok(Pulled::of(&told.unwrap_or_default(), node.id))
    }

    /// Whether a receiver has every byte of what it pulls. One that runs on a state without a pull
    /// under way needs no more: it was started again since, or the log has caught up.
    pub async fn has_all(&mut self, number: Number) -> Result<bool> {
        let pulled = self.pulled(number).await?;
        if pulled.as_ref().is_some_and(Pulled::has_all) {
            return Ok(true);
        }
        let given_up =
            [TransferState::Superseded.name(), TransferState::Failed(String::new()).name()];
        let pulls = pulled.is_some_and(|it| !given_up.contains(&it.newest.state.as_str()));
        let node = self.node(number);
        let runs = node.process.pid().is_some() && !node.is_paused;
        Ok(!pulls && runs && node.process.is_ready().await)
    }

    /// Waits until `enough` of what a receiver tells; None: it has all bytes before that. Only
    /// standing still is limited.
    pub async fn wait_for_pull(
        &mut self,
        number: Number,
        enough: impl Fn(&Pulled) -> bool,
    ) -> Result<Option<Pulled>> {
        let (mut moved, mut last) = (Instant::now(), (String::new(), 0));
        loop {
            if self.has_all(number).await? {
                return Ok(None);
            }
            if let Some(pulled) = self.pulled(number).await? {
                if enough(&pulled) {
                    return Ok(Some(pulled));
                }
                let now = (pulled.newest.state.clone(), pulled.received_bytes);
                if now != last {
                    (moved, last) = (Instant::now(), now);
                }
            }
            if moved.elapsed().as_secs() >= STANDSTILL_SECONDS {
                let state = self.describe().await;
                bail!("the pull of node {number} stands still for {STANDSTILL_SECONDS} s; {state}");
            }
            tokio::time::sleep(LOOK_EVERY / 2).await;
        }
    }

    /// Waits until a node runs on its snapshot and votes.
    pub async fn wait_until_joined(&mut self, number: Number) -> Result<()> {
        self.wait_for_pull(number, |_| false).await?;
        self.wait_until_voter(number).await
    }

    /// The node leaves the cluster for ever; its files and proxies go with it.
    pub async fn remove(&mut self, number: Number) -> Result<()> {
        let id = self.node(number).id;
        self.watch.remove(number);
        self.node(number).may_end = true;
        let what = format!("that node {number} is removed");
        self.wait_for(&what, ANSWER_SECONDS, async |world| {
            if world.admin.remove_node(NodeId(id)).await.is_ok() {
                return Ok(Some(()));
            }
            // It may have been removed by an attempt that was not answered, or it may lead.
            let Ok(nodes) = world.admin.list_nodes().await else { return Ok(None) };
            let is_there = nodes.iter().any(|node| node.id == id);
            if is_there && world.leader().await? == number {
                world.make_leader(1).await?;
            }
            Ok((!is_there).then_some(()))
        })
        .await?;
        let mut node = self.nodes.remove(&number).expect("it was there before");
        if node.process.pid().is_some() {
            node.process.kill().await?;
        }
        self.net.remove(number);
        let data = node.process.data();
        std::fs::remove_dir_all(data).with_context(|| format!("remove {}", data.display()))?;
        self.disks.remove(&number);
        self.timeline.note(format!("node {number} is removed"));
        Ok(())
    }

    /// Waits until every node runs, hears a leader and has applied what was committed; notes how
    /// long that took since the fault ended.
    pub async fn recover(&mut self, fault: FaultId) -> Result<()> {
        self.wait_until_well().await?;
        self.timeline.recovered(fault);
        Ok(())
    }

    /// Waits until every node runs, hears a leader and has applied what is committed by now.
    pub async fn wait_until_well(&mut self) -> Result<()> {
        let mut target = 0;
        self.wait_for("that all nodes are well", RECOVERY_SECONDS, async |world| {
            let Ok(status) = world.admin.status(false).await else { return Ok(None) };
            if target == 0 {
                target = status.nodes.iter().map(|node| node.commit_index).max().unwrap_or(0);
            }
            let is_well = |node: &Node| {
                let told = status.nodes.iter().find(|told| told.id == node.id);
                told.is_some_and(|told| told.reachable && told.applied_index >= target)
            };
            let all = world.nodes.values().filter(|node| node.id != 0).all(is_well);
            Ok((all && status.leader != 0 && target > 0).then_some(()))
        })
        .await
    }

    /// What can be said of the cluster in one line.
    pub async fn describe(&mut self) -> String {
        let status = match self.admin.status(false).await {
            Ok(status) => status,
            Err(failure) => return format!("the cluster's status is: {failure}"),
        };
        let mut parts = vec![format!("leader {}", status.leader)];
        for node in &status.nodes {
            let role = node.role().as_str_name().trim_start_matches("NODE_ROLE_").to_lowercase();
            let reachable = if node.reachable { "" } else { ", unreachable" };
            parts.push(format!(
                "id {} {role}, term {}, commit {}, applied {}{reachable}",
                node.id, node.term, node.commit_index, node.applied_index
            ));
            for pull in &node.transfers {
                parts.push(format!(
                    "its pull {} {}/{} {}{}",
                    pull.state, pull.done_bytes, pull.total_bytes, pull.stall_reason, pull.failure
                ));
            }
        }
        parts.join("; ")
    }
}

/// Gives a node's data a disk of its own, if disks are to forget.
fn place(
    setup: &Setup,
    process: &mut NodeProcess,
    disks: &mut BTreeMap<Number, PowerFs>,
) -> Result<()> {
    if !setup.can_lose_power {
        return Ok(());
    }
    let number = process.number();
    let at = setup.directory.join(format!("disk-{number}"));
    std::fs::create_dir(&at)?;
    let disk = PowerFs::mount(&setup.directory.join(format!("blocks-{number}")), &at)
        .context("mount a file system that forgets")?;
    process.keeps_data_in(at.join("data"));
    disks.insert(number, disk);
    Ok(())
}

fn settings_of(setup: &Setup) -> Vec<String> {
    let mut settings: Vec<String> = SETTINGS.iter().map(|&setting| setting.to_owned()).collect();
    settings.extend(setup.settings.iter().cloned());
    settings
}

/// The address by which nodes are told apart.
pub fn api_of(process: &NodeProcess) -> String {
    process.addresses().api.to_string()
}

/// A client with the storm's patience.
fn connect(profile: &Profile) -> Result<Client, Failure> {
    let options = client::Options {
        timeout: Duration::from_secs(10),
        attempt_timeout: Duration::from_secs(3),
        ..client::Options::default()
    };
    Client::connect_with(profile, options)
}
