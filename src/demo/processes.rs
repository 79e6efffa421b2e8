//! Nodes as real processes of this very program, and its other commands run as a person would run
//! them. The demo's, and the benchmarks' too.
//!
//! Kills only what it started, by the process ids it holds. Nothing outlives the demo but what it
//! releases: its children are killed when it drops them, and a watchdog kills them should the demo
//! itself be killed.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::DemoError;
use super::ports::Ports;

/// How often something waited for is looked at again.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Name of the profile that `init` writes for the demo's own use.
pub const PROFILE: &str = "demo";
/// The last bytes of a log that an error quotes.
const LOG_TAIL_BYTES: u64 = 2_000;
/// How long an orderly shutdown may take before it is a kill.
const STOP_WAIT: Duration = Duration::from_secs(15);
/// How long the death of a killed process is awaited; the system may need a moment to free its
/// memory.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// Where one node listens, all on loopback.
#[derive(Clone, Copy, Debug)]
pub struct NodeAddresses {
    /// Raft, UDP.
    pub raft: SocketAddr,
    /// What others are told of `raft`: a proxy, or `raft` itself.
    pub raft_advertised: SocketAddr,
    /// Bulk, UDP.
    pub bulk: SocketAddr,
    /// What others are told of `bulk`: a proxy, or `bulk` itself.
    pub bulk_advertised: SocketAddr,
    /// gRPC, TCP.
    pub api: SocketAddr,
    /// Health and metrics, TCP.
    pub http: SocketAddr,
}

impl NodeAddresses {
    /// Addresses of a node that is reached directly.
    pub fn draw(ports: &mut Ports) -> Result<Self, DemoError> {
        let (raft, bulk) = (ports.draw()?, ports.draw()?);
        Ok(NodeAddresses {
            raft,
            raft_advertised: raft,
            bulk,
            bulk_advertised: bulk,
            api: ports.draw()?,
            http: ports.draw()?,
        })
    }
}

/// Starts nodes and runs commands.
#[derive(Clone, Debug)]
pub struct Launcher {
    executable: PathBuf,
    directory: PathBuf,
    keep: bool,
}

impl Launcher {
    /// Of the running program, for files below `directory`. With `keep`, nodes can be released, to
    /// outlive the demo.
    pub fn new(directory: &Path, keep: bool) -> Result<Self, DemoError> {
        let executable = std::env::current_exe()
            .map_err(DemoError::system("find the path of the running program"))?;
        Launcher::of(executable, directory, keep)
    }

    /// The same, of the program `executable`, which is a `ratoon`.
    pub fn of(executable: PathBuf, directory: &Path, keep: bool) -> Result<Self, DemoError> {
        let launcher = Launcher { executable, directory: directory.to_owned(), keep };
        let profiles = launcher.profile_directory();
        fs::create_dir_all(&profiles)
            .map_err(DemoError::system(format!("create {}", profiles.display())))?;
        Ok(launcher)
    }

    /// The directory in which the demo's profiles lie; the person's own stay untouched.
    pub fn profile_directory(&self) -> PathBuf {
        self.directory.join("profiles")
    }

    /// The program that is run.
    pub fn executable(&self) -> &Path {
        &self.executable
    }

    /// A command whose environment says nothing of the person's own clusters; of another program
    /// than the launcher's, if one is given.
    fn command(&self, program: Option<&Path>) -> Command {
        let mut command = Command::new(program.unwrap_or(&self.executable));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RATOON_") {
                command.env_remove(name);
            }
        }
        command.env("RATOON_CONFIG_DIR", self.profile_directory());
        // Ctrl-C is for the demo alone, which then stops its children in its own order.
        command.process_group(0).kill_on_drop(!self.keep).current_dir(&self.directory);
        command
    }

    /// Runs a command to its end and returns its JSON document.
    pub async fn run(&self, arguments: &[&str]) -> Result<serde_json::Value, DemoError> {
        let mut command = self.command(None);
        command.args(arguments).args(["--json"]).stdin(Stdio::null()).kill_on_drop(true);
        let shown = arguments.join(" ");
        let output =
            command.output().await.map_err(DemoError::system(format!("run `ratoon {shown}`")))?;
        let failed = |output: &[u8]| {
            let from = output.len().saturating_sub(LOG_TAIL_BYTES as usize);
            let text = String::from_utf8_lossy(&output[from..]);
            DemoError::Command { command: shown.clone(), output: text.trim().to_owned() }
        };
        if !output.status.success() {
            return Err(failed(&output.stderr));
        }
        // Commands that have nothing to say print nothing.
        if output.stdout.trim_ascii().is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(|_| failed(&output.stdout))
    }

    /// A join token, made by the command a person would use.
    pub async fn new_token(&self) -> Result<String, DemoError> {
        let arguments = ["token", "create", "--profile", PROFILE];
        let document = self.run(&arguments).await?;
        let token = document["token"].as_str().map(str::to_owned);
        token.ok_or_else(|| DemoError::Command {
            command: arguments.join(" "),
            output: "its JSON has no field \"token\"".to_owned(),
        })
    }

    /// A node that is not started yet; `number` counts from 1.
    pub fn node(&self, number: usize, addresses: NodeAddresses) -> NodeProcess {
        NodeProcess {
            launcher: self.clone(),
            number,
            addresses,
            data: self.directory.join(format!("node-{number}")),
            log: self.directory.join(format!("node-{number}.log")),
            token: None,
            bulk_rate: None,
            settings: Vec::new(),
            environment: Vec::new(),
            executable: None,
            running: None,
        }
    }
}

/// One node of the cluster; its process may come and go.
pub struct NodeProcess {
    launcher: Launcher,
    number: usize,
    addresses: NodeAddresses,
    data: PathBuf,
    log: PathBuf,
    token: Option<String>,
    bulk_rate: Option<u64>,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
    executable: Option<PathBuf>,
    running: Option<Running>,
}

/// A live process. The fields drop in order: the watchdog must end before it may see its pipe
/// closed.
struct Running {
    pid: u32,
    watchdog: Child,
    child: Child,
}

impl NodeProcess {
    /// The demo's number of the node, from 1. The cluster gives its own id.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Where it listens.
    pub fn addresses(&self) -> &NodeAddresses {
        &self.addresses
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its log, of all its starts.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.pid)
    }

    /// Makes it the first node of a new cluster and writes the profile by which clients reach it.
    pub async fn init(&self) -> Result<(), DemoError> {
        let data = self.data.display().to_string();
        let profiles = self.launcher.profile_directory().display().to_string();
        let mut arguments = vec!["init", "--data", &data];
        let flags = self.address_flags();
        arguments.extend(flags.iter().map(String::as_str));
        arguments.extend(["--profile", PROFILE, "--profile-dir", &profiles]);
        self.launcher.run(&arguments).await.map(|_| ())
    }

    /// Gives it the token with which `start` joins it to the cluster.
    pub fn joins_with(&mut self, token: String) {
        self.token = Some(token);
    }

    /// Limits its bulk lane from its next start on, bytes a second; None: no limit.
    pub fn limits_bulk_to(&mut self, rate: Option<u64>) {
        self.bulk_rate = rate;
    }

    /// Settings for its next starts, `key=value` each.
    pub fn set(&mut self, settings: &[String]) {
        self.settings = settings.to_vec();
    }

    /// See [`NodeProcess::set`].
    pub fn settings(&self) -> &[String] {
        &self.settings
    }

    /// Where its data lies from its next start on.
    pub fn keeps_data_in(&mut self, data: PathBuf) {
        self.data = data;
    }

    /// The program of its next starts, another build of this one, and what its environment holds
    /// besides; None: the launcher's.
    pub fn runs_as(&mut self, executable: Option<PathBuf>, environment: Vec<(String, String)>) {
        self.executable = executable;
        self.environment = environment;
    }

    /// Starts it, for the first time or again; it keeps its data and its addresses.
    pub fn start(&mut self) -> Result<(), DemoError> {
        assert!(self.running.is_none(), "a node is started only while it is down");
        let failed = |what: &str| DemoError::system(format!("{what} node {}", self.number));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(failed("open the log of"))?;
        let mut command = self.launcher.command(self.executable.as_deref());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("start").arg("--data").arg(&self.data).args(self.address_flags());
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        if let Some(token) = &self.token {
            command.args(["--join", token]);
        }
        if let Some(rate) = self.bulk_rate {
            command.args(["--bulk-rate", &rate.to_string()]);
        }
        let errors = log.try_clone().map_err(failed("open the log of"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            .spawn()
            .map_err(failed("start"))?;
        let pid = child.id().expect("a child that nobody waited for has its id");
        let watchdog = match watch(pid) {
            Ok(watchdog) => watchdog,
            Err(error) => {
                // Unwatched it must not stay; an error means that it has ended already.
                let mut child = child;
                let _ended = child.start_kill();
                return Err(failed("start the watchdog of")(error));
            }
        };
        self.running = Some(Running { pid, watchdog, child });
        Ok(())
    }

    /// kill -9.
    pub async fn kill(&mut self) -> Result<(), DemoError> {
        let mut running = self.running.take().expect("a node is killed only while it runs");
        running
            .child
            .kill()
            .await
            .map_err(DemoError::system(format!("kill -9 node {}", self.number)))
    }

    /// SIGSTOP: it stands still, with all its connections, until it is resumed or killed.
    pub fn pause(&self) -> Result<(), DemoError> {
        self.signal(Signal::STOP, "pause")
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<(), DemoError> {
        self.signal(Signal::CONT, "resume")
    }

    fn signal(&self, signal: Signal, what: &str) -> Result<(), DemoError> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.expect("only a node that runs is paused or resumed");
        rustix::process::kill_process(pid, signal)
            .map_err(std::io::Error::from)
            .map_err(DemoError::system(format!("{what} node {}", self.number)))
    }

    /// The process, if it has ended though nobody asked it to: how, and the end of its log. It may
    /// be started again.
    pub fn take_ended(&mut self) -> Result<Option<(String, String)>, DemoError> {
        match self.check() {
            Ok(()) => Ok(None),
            Err(DemoError::NodeEnded { status, log, .. }) => {
                self.running = None;
                Ok(Some((status, log)))
            }
            Err(error) => Err(error),
        }
    }

    /// SIGTERM, and SIGKILL if that does not end it in time. True: it ended by itself, with
    /// success.
    pub async fn stop(&mut self) -> bool {
        let Some(mut running) = self.running.take() else { return true };
        let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| rustix::process::kill_process(pid, Signal::TERM).is_ok());
        let ended = tokio::time::timeout(STOP_WAIT, running.child.wait()).await;
        asked && matches!(ended, Ok(Ok(status)) if status.success())
    }

    /// An error if the process has ended though nobody asked it to.
    pub fn check(&mut self) -> Result<(), DemoError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let ended = running
            .child
            .try_wait()
            .map_err(DemoError::system(format!("look after node {}", self.number)))?;
        match ended {
            None => Ok(()),
            Some(status) => Err(DemoError::NodeEnded {
                node: self.number,
                status: status.to_string(),
                log: tail(&self.log),
            }),
        }
    }

    /// Whether it says of itself that it serves.
    pub async fn is_ready(&self) -> bool {
        let answer = tokio::time::timeout(Duration::from_secs(2), ask_ready(self.addresses.http));
        matches!(answer.await, Ok(Ok(true)))
    }

    /// Waits until it answers that it is ready; an error if it has ended.
    pub async fn wait_until_ready(&mut self, seconds: u64) -> Result<(), DemoError> {
        let started = Instant::now();
        while !self.is_ready().await {
            self.check()?;
            if started.elapsed().as_secs() >= seconds {
                let what = format!("that node {} is ready", self.number);
                let state = "its process runs, and /readyz does not say 200".to_owned();
                return Err(DemoError::TooLate { what, seconds, state });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// From its next start on, others are told its own bulk address instead of a proxy's.
    pub fn advertise_directly(&mut self) {
        self.addresses.bulk_advertised = self.addresses.bulk;
    }

    /// Lets it live on after the demo, which must be done with it.
    pub async fn release(&mut self) -> Result<(), DemoError> {
        // Otherwise it was started so that it is killed when it is dropped.
        assert!(self.launcher.keep, "only a demo that keeps its cluster releases nodes");
        let Some(running) = &mut self.running else { return Ok(()) };
        // It is killed before its pipe closes, so that it does not do its work.
        let ended = running.watchdog.kill().await;
        ended.map_err(DemoError::system(format!("end the watchdog of node {}", self.number)))?;
        self.running = None;
        Ok(())
    }

    fn address_flags(&self) -> Vec<String> {
        let addresses = &self.addresses;
        let mut flags = Vec::new();
        let mut flag = |name: &str, address: SocketAddr| {
            flags.extend([name.to_owned(), address.to_string()]);
        };
        flag("--listen-raft", addresses.raft);
        flag("--advertise-raft", addresses.raft_advertised);
        flag("--listen-bulk", addresses.bulk);
        flag("--advertise-bulk", addresses.bulk_advertised);
        flag("--listen-api", addresses.api);
        flag("--advertise-api", addresses.api);
        flag("--listen-http", addresses.http);
        flags
    }
}

impl Drop for NodeProcess {
    /// Kills the process and sees it end, so that it does not write into files that are being
    /// removed.
    fn drop(&mut self) {
        let Some(running) = &mut self.running else { return };
        // An error means that it has ended already.
        let _ended = running.child.start_kill();
        let until = Instant::now() + KILL_WAIT;
        while Instant::now() < until && matches!(running.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A shell that waits for the end of its input, which comes when this process is gone however it
/// ended, and then kills the process `pid`. To be dropped before that one is waited for, so that it
/// cannot kill whoever gets the id next.
pub fn watch(pid: u32) -> std::io::Result<Child> {
    Command::new("sh")
        .args(["-c", "cat >/dev/null; kill -9 \"$0\"", &pid.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Asks `/readyz`. The one request needs no HTTP library.
async fn ask_ready(http: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(http).await?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut head = Vec::new();
    stream.take(64).read_to_end(&mut head).await?;
    Ok(says_ready(&head))
}

/// Whether the head of an HTTP answer has status 200.
fn says_ready(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    head.starts_with("HTTP/1.") && head.split_whitespace().nth(1) == Some("200")
}

/// The end of a log, for an error; what cannot be read is said instead.
fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(log)?;
        let from = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_else(|error| format!("(unreadable: {error})"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_status_200_is_ready() {
        assert!(says_ready(b"HTTP/1.0 200 OK\r\n"));
        assert!(says_ready(b"HTTP/1.1 200"));
        for other in [&b"HTTP/1.1 503 Service Unavailable"[..], b"200", b"", b"SSH-2.0 200"] {
            assert!(!says_ready(other), "{other:?}");
        }
    }

    #[tokio::test]
    async fn the_watchdog_kills_when_its_pipe_closes() {
        let mut victim = Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
        let mut watchdog = watch(victim.id().unwrap()).unwrap();
        assert!(victim.try_wait().unwrap().is_none());
        // The death of the demo closes the pipe in the same way.
        drop(watchdog.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(10), victim.wait()).await;
        assert!(!ended.unwrap().unwrap().success());
        watchdog.wait().await.unwrap();
    }

    #[tokio::test]
    async fn a_watchdog_that_is_dropped_kills_nothing() {
        let mut victim = Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
        drop(watch(victim.id().unwrap()).unwrap());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(victim.try_wait().unwrap().is_none());
    }

    /// A node whose program does nothing but live on.
    fn idle_node(directory: &Path) -> NodeProcess {
        use std::os::unix::fs::PermissionsExt;
        let program = directory.join("idle");
        fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let launcher = Launcher::of(program, directory, true).unwrap();
        launcher.node(1, NodeAddresses::draw(&mut Ports::default()).unwrap())
    }

    fn lives(pid: u32) -> bool {
        // One that has ended and was not waited for is no process any more, but still an id.
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn only_a_released_node_outlives_a_demo_that_keeps_its_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let mut node = idle_node(directory.path());
        node.start().unwrap();
        let pid = node.pid().unwrap();
        assert!(lives(pid));
        drop(node);
        assert!(!lives(pid), "an error or Ctrl-C leaves no node behind");

        let mut node = idle_node(directory.path());
        node.start().unwrap();
        let pid = node.pid().unwrap();
        node.release().await.unwrap();
        drop(node);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(lives(pid), "neither the drop nor the watchdog ends a released node");
        let id = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(id, Signal::KILL).unwrap();
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("node.log");
        fs::write(&log, format!("{}\nthe end\n", "x".repeat(5_000))).unwrap();
        let text = tail(&log);
        assert!(text.ends_with("the end") && text.len() <= LOG_TAIL_BYTES as usize);
        assert!(tail(&directory.path().join("none")).contains("unreadable"));
    }
}
