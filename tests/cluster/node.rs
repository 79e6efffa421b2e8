//! One node of a test's cluster: where it lives, how it listens, and its process if it runs.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, LOOK_EVERY};

/// Where a node listens, on loopback.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Raft, UDP.
    pub raft: SocketAddr,
    /// Bulk, UDP.
    pub bulk: SocketAddr,
    /// What others are told of `bulk`: itself, or what a test puts in between.
    pub bulk_advertised: SocketAddr,
    /// gRPC, TCP.
    pub api: SocketAddr,
    /// Health and metrics, TCP.
    pub http: SocketAddr,
}

/// How a node's process ended by itself.
#[derive(Debug)]
pub struct Exit {
    /// Its exit code; None: a signal ended it.
    pub code: Option<i32>,
    /// What it has logged since it was started.
    pub log: String,
}

/// One node.
pub struct Node {
    /// Counts from 1, in the order in which nodes were added.
    pub number: usize,
    /// The cluster's id of it; 0 before it is enrolled.
    pub id: u64,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its data directory.
    pub data: PathBuf,
    /// Its log, of all its starts.
    pub log: PathBuf,
    /// Settings it is started with, `key=value`.
    pub settings: Vec<String>,
    /// With it `start` enrols the node, unless that is done.
    pub token: Option<String>,
    log_begin: u64,
    running: Option<Running>,
}

/// A live process. The fields drop in order: the watchdog must end before it may see its pipe
/// closed.
struct Running {
    watchdog: Child,
    process: Child,
}

impl Node {
    /// A node that does not run yet.
    pub fn new(number: usize, addresses: Addresses, directory: &Path, settings: &[String]) -> Node {
        Node {
            number,
            id: 0,
            addresses,
            data: directory.join(format!("node-{number}")),
            log: directory.join(format!("node-{number}.log")),
            settings: settings.to_vec(),
            token: None,
            log_begin: 0,
            running: None,
        }
    }

    /// The flags of `init`, `join` and `start`.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--data".to_owned(), self.data.display().to_string()];
        let Addresses { raft, bulk, bulk_advertised, api, http } = self.addresses;
        for (name, address) in [
            ("listen-raft", raft),
            ("listen-bulk", bulk),
            ("listen-api", api),
            ("listen-http", http),
            ("advertise-raft", raft),
            ("advertise-bulk", bulk_advertised),
            ("advertise-api", api),
        ] {
            flags.extend([format!("--{name}"), address.to_string()]);
        }
        flags.extend(self.settings.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
        flags
    }

    /// Starts its process; `command` is the bare program.
    pub fn spawn(&mut self, mut command: Command) {
        assert!(self.running.is_none(), "node {} runs already", self.number);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.expect("the log opens");
        self.log_begin = log.metadata().expect("the log can be measured").len();
        command.arg("start").args(self.flags());
        if let Some(token) = &self.token {
            command.args(["--join", token]);
        }
        let errors = log.try_clone().expect("the log opens twice");
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            .spawn()
            .expect("the program starts");
        let watchdog = watch(process.id());
        self.running = Some(Running { watchdog, process });
    }

    /// Whether its process was started and not ended.
    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Its process id. It must run.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("a node that does not run has no process id").process.id()
    }

    /// Fails the test if the process has ended though nobody asked it to.
    pub fn assert_runs(&mut self) {
        let number = self.number;
        let Some(running) = &mut self.running else { return };
        let ended = running.process.try_wait().expect("a child can be waited for");
        if let Some(status) = ended {
            panic!("node {number} ended by itself: {status}");
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.assert_runs();
        self.end();
    }

    /// Kills the process, if there is one, and sees it end.
    pub fn end(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.dismiss_watchdog();
        // An error means that it has ended already.
        let _ended = running.process.kill();
        running.process.wait().expect("a killed child ends");
    }

    /// SIGTERM; fails the test unless the process then ends with success.
    pub fn stop(&mut self) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("ids are positive");
        kill_process(pid, Signal::TERM).expect("the node runs");
        let exit = self.wait_for_exit();
        assert_eq!(exit.code, Some(0), "node {} did not end in order: {}", self.number, exit.log);
    }

    /// Waits until the process ends by itself.
    pub fn wait_for_exit(&mut self) -> Exit {
        let mut running = self.running.take().expect("a node that runs is waited for");
        running.dismiss_watchdog();
        let started = Instant::now();
        loop {
            if let Some(status) = running.process.try_wait().expect("a child can be waited for") {
                return Exit { code: status.code(), log: self.log_since_start() };
            }
            if started.elapsed() > DEADLINE {
                self.running = Some(running);
                panic!("node {} should have ended and runs", self.number);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What it has logged since it was last started.
    pub fn log_since_start(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let begin = text.len().min(self.log_begin as usize);
        String::from_utf8_lossy(&text[begin..]).into_owned()
    }

    /// All that it ever logged.
    pub fn log_lines(&self) -> Vec<String> {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// Whether its doors are open: its process is up, whatever it says of itself.
    pub fn answers(&self) -> bool {
        self.http_status("/healthz").is_some()
    }

    /// Whether it says of itself that it serves.
    pub fn is_ready(&self) -> bool {
        self.http_status("/readyz") == Some(200)
    }

    fn http_status(&self, path: &str) -> Option<u16> {
        let pause = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&self.addresses.http, pause).ok()?;
        stream.set_read_timeout(Some(pause)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut head = String::new();
        stream.take(64).read_to_string(&mut head).ok()?;
        head.split_whitespace().nth(1)?.parse().ok()
    }
}

impl Running {
    /// Ends the watchdog before the process ends, so that it cannot kill whoever gets the id next.
    fn dismiss_watchdog(&mut self) {
        // An error means that it has ended already, and so has what it watched.
        let _ended = self.watchdog.kill();
        self.watchdog.wait().expect("a killed child ends");
    }
}

/// A shell that waits for the end of its input, which comes when the test is gone however it ended,
/// and then kills the process.
fn watch(pid: u32) -> Child {
    Command::new("sh")
        .args(["-c", "cat >/dev/null; kill -9 \"$0\"", &pid.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell starts")
}
