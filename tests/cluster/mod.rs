//! Real clusters for tests: processes of the program that was just built, on loopback, in a
//! directory of their own, driven by the commands a person would type.
//!
//! Nothing here sleeps for a fixed time: what is awaited is looked for until it is there, under a
//! generous deadline. Whatever was started is killed when the cluster is dropped, or when the test
//! itself is killed; the logs of a test that failed are printed and kept. Kills only what it
//! started, by the process ids it holds.

mod commands;
pub mod damage;
mod node;
mod pull;
pub mod relay;
pub mod tree;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::RngExt;
use serde_json::Value;
use tempfile::TempDir;

pub use commands::Outcome;
pub use node::{Addresses, Node};

/// How long anything that must happen may take. The machine may be busy with other things: a test
/// never judges speed.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at what is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Name of the profile with the admin's certificate.
pub const PROFILE: &str = "test";
/// Ports are drawn below the range from which Linux hands them out, so that nothing takes one while
/// its node is down.
const PORTS: std::ops::Range<u16> = 11_000..32_000;
/// Lines of each node's log that a failed test prints.
const LOG_LINES_SHOWN: usize = 40;
/// Settings of every node: little memory, and quick elections that a busy machine still survives.
const SETTINGS: &[&str] = &["storage.memtable_bytes=16777216", "storage.block_cache_bytes=8388608"];

/// A cluster; its nodes come and go.
pub struct Cluster {
    executable: PathBuf,
    /// Every node ever added, in order; number `n` of the directories and logs is at `n - 1`.
    pub nodes: Vec<Node>,
    settings: Vec<String>,
    ports_taken: BTreeSet<u16>,
    /// Last, so that it is removed after the processes are gone.
    directory: TempDir,
}

impl Cluster {
    /// A cluster of one running node.
    pub fn of_one(settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::empty(settings);
        let number = cluster.add();
        cluster.init(number);
        cluster
    }

    /// A cluster of one running node that tells others a bulk address of its own, at which a test
    /// may put something.
    pub fn of_one_behind_relay(settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::empty(settings);
        let number = cluster.add();
        let advertised = cluster.draw_port();
        cluster.node_mut(number).addresses.bulk_advertised = advertised;
        cluster.init(number);
        cluster
    }

    fn empty(settings: &[&str]) -> Cluster {
        let directory = tempfile::tempdir().expect("a directory for the cluster is made");
        Cluster {
            executable: own_executable(directory.path()),
            nodes: Vec::new(),
            settings: SETTINGS.iter().chain(settings).map(|&setting| setting.into()).collect(),
            ports_taken: BTreeSet::new(),
            directory,
        }
    }

    /// Makes an added node the first of the cluster, and starts it.
    fn init(&mut self, number: usize) {
        let mut words: Vec<String> = ["init", "--profile", PROFILE].map(str::to_owned).into();
        words.extend(self.node(number).flags());
        let made = self.ok(&words);
        self.node_mut(number).id = made["node"].as_u64().expect("init tells the node's id");
        self.start(number);
    }

    /// A cluster of three voters.
    pub fn of_three(settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::of_one(settings);
        for _ in 0..2 {
            cluster.join(&[]);
        }
        cluster.wait_for("three voters", |cluster| {
            let roles = cluster.roles()?;
            let voters = roles.iter().filter(|role| *role == "leader" || *role == "follower");
            (voters.count() == 3).then_some(())
        });
        cluster
    }

    /// Where all files of the cluster are, and where a test may put its own.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The node with this number, from 1.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// The node with this number, from 1.
    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    /// Adds a node that is neither enrolled nor started; returns its number.
    pub fn add(&mut self) -> usize {
        let number = self.nodes.len() + 1;
        let bulk = self.draw_port();
        let addresses = Addresses {
            raft: self.draw_port(),
            bulk,
            bulk_advertised: bulk,
            api: self.draw_port(),
            http: self.draw_port(),
        };
        let node = Node::new(number, addresses, self.directory(), &self.settings);
        self.nodes.push(node);
        number
    }

    /// Gives a node that does not run another raft address for its next start.
    pub fn move_raft(&mut self, number: usize) {
        self.node_mut(number).addresses.raft = self.draw_port();
    }

    /// Starts a node, for the first time or again, and waits until it answers.
    pub fn start(&mut self, number: usize) {
        self.launch(number);
        self.wait_for(&format!("that node {number} answers"), |cluster| {
            cluster.node(number).answers().then_some(())
        });
    }

    /// Starts a node and does not wait.
    pub fn launch(&mut self, number: usize) {
        let command = self.command();
        self.node_mut(number).spawn(command);
    }

    /// Adds a node, lets it join with a new token, and waits until it knows its id. `settings` are
    /// its own, beside the cluster's.
    pub fn join(&mut self, settings: &[&str]) -> usize {
        let number = self.add();
        self.node_mut(number).settings.extend(settings.iter().map(|&setting| setting.into()));
        self.join_again(number);
        number
    }

    /// Lets an added node join with a new token.
    pub fn join_again(&mut self, number: usize) {
        let token = self.token();
        self.node_mut(number).token = Some(token);
        self.start(number);
        self.learn_id(number);
    }

    /// Waits until the cluster knows a node by its address, and takes down its id.
    pub fn learn_id(&mut self, number: usize) {
        let api = self.node(number).addresses.api.to_string();
        let id = self.wait_for(&format!("that node {number} is enrolled"), |cluster| {
            let listed = cluster.try_ok(&["node", "list"])?;
            let of = |node: &&Value| node["addresses"]["api"] == api.as_str();
            // An address that was used before belongs to the newest id.
            listed["nodes"].as_array()?.iter().filter(of).filter_map(|n| n["id"].as_u64()).max()
        });
        self.node_mut(number).id = id;
    }

    /// A new token for one node.
    pub fn token(&self) -> String {
        let made = self.ok(&["token", "create"]);
        made["token"].as_str().expect("a token is text").to_owned()
    }

    /// Looks with `probe` until it finds something; fails the test after `DEADLINE`.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&mut Cluster) -> Option<T>,
    ) -> T {
        let started = Instant::now();
        loop {
            for node in &mut self.nodes {
                node.assert_runs();
            }
            if let Some(found) = probe(self) {
                return found;
            }
            if started.elapsed() > DEADLINE {
                let status = self.run(&["status"]);
                panic!("waited in vain for {what}; status:\n{}{}", status.stdout, status.stderr);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The status as the cluster tells it, if it answers.
    pub fn status(&self) -> Option<Value> {
        self.try_ok(&["status"])
    }

    /// What one node says of itself.
    pub fn status_of(&mut self, number: usize) -> Value {
        let id = self.node(number).id;
        self.wait_for(&format!("the status of node {number}"), |cluster| {
            let status = cluster.status()?;
            let mut nodes = status["nodes"].as_array()?.iter();
            nodes.find(|node| node["id"] == id && node["reachable"] == true).cloned()
        })
    }

    /// Roles of all nodes that are members.
    fn roles(&self) -> Option<Vec<String>> {
        let status = self.status()?;
        let nodes = status["nodes"].as_array()?.iter();
        nodes.map(|node| node["role"].as_str().map(str::to_owned)).collect()
    }

    /// Number of the node that leads, once one does.
    pub fn leader(&mut self) -> usize {
        self.wait_for("a leader", |cluster| {
            let id = cluster.status()?["leader"].as_u64().filter(|id| *id != 0)?;
            cluster.nodes.iter().position(|node| node.id == id && node.runs()).map(|at| at + 1)
        })
    }

    fn draw_port(&mut self) -> SocketAddr {
        loop {
            let port = rand::rng().random_range(PORTS);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let is_free = UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok();
            if is_free && self.ports_taken.insert(port) {
                return address;
            }
        }
    }

    /// The program, with an environment that says nothing of the person's own clusters.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RATOON_") {
                command.env_remove(name);
            }
        }
        command.env("RATOON_CONFIG_DIR", self.directory().join("profiles"));
        command.env("RATOON_PROFILE", PROFILE).current_dir(self.directory());
        command
    }
}

impl Drop for Cluster {
    // A test's own output is what its runner shows of a failure.
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.end();
        }
        if !std::thread::panicking() {
            return;
        }
        for node in &self.nodes {
            eprintln!("--- the end of {}", node.log.display());
            for line in node.log_lines().iter().rev().take(LOG_LINES_SHOWN).rev() {
                eprintln!("{line}");
            }
            // The logs are kept, the data is not. What cannot be removed stays, and is said.
            if let Err(error) = std::fs::remove_dir_all(&node.data) {
                eprintln!("{} is left behind: {error}", node.data.display());
            }
        }
        self.directory.disable_cleanup(true);
    }
}

/// The program under test. Linked into the test's own directory, so that a build that runs at the
/// same time does not change it under nodes that are started again. `RATOON_TEST_BINARY` names
/// another program, for example a release build.
fn own_executable(directory: &Path) -> PathBuf {
    let built = std::env::var_os("RATOON_TEST_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ratoon")), PathBuf::from);
    let own = directory.join("ratoon");
    match std::fs::hard_link(&built, &own) {
        Ok(()) => own,
        // On another file system it is used where it is.
        Err(_) => built,
    }
}
