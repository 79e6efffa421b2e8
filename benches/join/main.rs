//! A node joins a cluster that holds a given state, over a clean link: how long, how fast, and what
//! it costs the sender, beside a plain copy of the same files and beside the bare bulk lane, all in
//! one run.
//!
//! Real processes; only the lane's yardstick runs inside this one. docs/benches.md says how to read
//! the table. Never a test: it asserts no figure.

mod filling;
mod lane;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ratoon::demo::measure;
use ratoon::demo::processes::NodeProcess;
use ratoon::limits::MIB;
use ratoon::proto::v1;
use ratoon::types::{NodeId, TransferState};
use serde::Serialize;
use support::arguments::{Arguments, Flag};
use support::cluster::Cluster;
use support::machine::Machine;
use support::report::{Spread, shown};
use support::{Failed, report};

const FLAGS: &[Flag] = &[
    Flag { name: "mib", default: "512", meaning: "state, MiB (2^20 bytes) of values" },
    Flag { name: "nodes", default: "3", meaning: "nodes before the join" },
    Flag { name: "value-bytes", default: "65536", meaning: "bytes of a value, at random" },
];

/// The columns of the table.
const COLUMNS: &[&str] = &[
    "what",
    "where",
    "seconds",
    "MiB/s",
    "sender MiB more",
    "sender CPU s/GiB",
    "joiner CPU s/GiB",
];

#[tokio::main]
async fn main() -> ExitCode {
    report::finish(run()).await
}

/// One join.
struct Join {
    /// From the start of the process until it said it serves.
    seconds: f64,
    /// From the offer of the snapshot until the node ran on it, by the joiner's clock.
    pull_seconds: f64,
    /// Bytes of the snapshot.
    bytes: u64,
    /// Bytes that arrived more than once.
    resent_bytes: u64,
    /// Most memory the sender ever had during the join, beyond what it had before, bytes.
    sender_growth_bytes: u64,
    sender_cpu_seconds: f64,
    joiner_cpu_seconds: f64,
    /// The files that travelled, in the sender's store.
    parts: PathBuf,
}

/// The same bytes by other ways, for comparison.
struct Round {
    join: Join,
    copied: measure::Copied,
    lane: measure::Copied,
}

async fn run() -> Result<(), Failed> {
    let arguments = match Arguments::parse(FLAGS)? {
        Ok(arguments) => arguments,
        Err(help) => {
            report::help(&help);
            return Ok(());
        }
    };
    let (runs, nodes) = (arguments.runs()?, arguments.number("nodes", 1)?);
    let state_bytes = arguments.number("mib", 1)? * MIB as u64;
    let value_bytes = arguments.number("value-bytes", 1)?;
    let directory = arguments.directory()?;
    let machine = Machine::look(directory.path());
    machine.lines().iter().for_each(report::line);

    report::line(format!("starting {nodes} nodes and writing {} MiB", state_bytes / MIB as u64));
    let mut cluster = Cluster::start(arguments.text("program"), directory.path(), nodes).await?;
    filling::fill(&cluster, state_bytes, value_bytes).await?;
    let snapshot_bytes = filling::settle(&cluster).await?;
    let mut rounds = Vec::new();
    for run in 1..=runs {
        let join = join(&mut cluster).await?;
        let copied = copy(&join.parts, &directory.path().join("copy")).await?;
        let lane = lane::run(snapshot_bytes).await?;
        report::line(format!(
            "run {run}: joined in {:.2} s, pulled at {:.0} MiB/s; copy {:.0} MiB/s, lane {:.0} MiB/s",
            join.seconds,
            mib_per_second(join.bytes, join.pull_seconds),
            copied.mib_per_second(),
            lane.mib_per_second(),
        ));
        rounds.push(Round { join, copied, lane });
        remove_newest(&mut cluster).await?;
    }
    let (rows, notes) = (rows(&rounds), notes(&rounds, snapshot_bytes));
    let table = rows.iter().map(Row::cells).collect();
    report::result(&machine.lines(), COLUMNS, table, &notes);
    if let Some(path) = arguments.json() {
        let document = serde_json::json!({
            "machine": machine, "nodes": nodes, "state_bytes": state_bytes,
            "snapshot_bytes": snapshot_bytes, "rows": rows, "notes": notes,
        });
        report::write_json(&path, "join", &document)?;
    }
    Ok(())
}

/// Joins one node, and reads what it and its sender have to say.
async fn join(cluster: &mut Cluster) -> Result<Join, Failed> {
    cluster.wait_for_voters().await?;
    let leader = cluster.leader().await?;
    let sender = cluster.nodes[leader].pid().ok_or("the leader does not run")?;
    measure::reset_peak(sender)?;
    let resident_bytes = measure::memory(sender)?.resident_bytes;
    let sender_cpu = measure::cpu_seconds(sender)?;
    let seconds = cluster.join().await?;
    let pull = newest_pull(cluster).await?;
    let sender_cpu_seconds = measure::cpu_seconds(sender)? - sender_cpu;
    let joiner = newest(cluster).pid().ok_or("the joiner does not run")?;
    let sender_data = cluster.nodes[leader].data();
    if pull.source != id_of(cluster, &cluster.nodes[leader]).await? {
        return Err("the leader changed during the join; run again on an idle machine".into());
    }
    Ok(Join {
        seconds,
        pull_seconds: pull.finished_unix_ms.saturating_sub(pull.started_unix_ms) as f64 / 1000.0,
        bytes: pull.total_bytes,
        resent_bytes: pull.resent_bytes,
        sender_growth_bytes: measure::memory(sender)?.peak_bytes.saturating_sub(resident_bytes),
        sender_cpu_seconds,
        joiner_cpu_seconds: measure::cpu_seconds(joiner)?,
        parts: sender_data.join("snapshots").join(&pull.snapshot_id).join("parts"),
    })
}

fn newest(cluster: &Cluster) -> &NodeProcess {
    cluster.nodes.last().expect("a cluster has nodes")
}

/// The pull of the node that joined last, once it runs on what it pulled.
async fn newest_pull(cluster: &mut Cluster) -> Result<v1::Transfer, Failed> {
    let id = id_of(cluster, newest(cluster)).await?;
    cluster
        .wait_for("that the joiner runs on its snapshot", async |cluster| {
            let api = newest(cluster).addresses().api.to_string();
            let transfers = cluster.client.pinned(&api).ok()?.list_transfers().await.ok()?;
            let own = transfers.into_iter().filter(|transfer| transfer.receiver == id);
            own.max_by_key(|transfer| transfer.started_unix_ms)
                .filter(|transfer| transfer.state == TransferState::Installed.name())
        })
        .await
}

/// The cluster's id of a node.
async fn id_of(cluster: &Cluster, node: &NodeProcess) -> Result<u64, Failed> {
    let api = node.addresses().api.to_string();
    let nodes = cluster.client.list_nodes().await?;
    let has_api = |node: &&v1::Node| node.addresses.as_ref().is_some_and(|known| known.api == api);
    let found = nodes.iter().find(has_api).map(|node| node.id);
    Ok(found.ok_or_else(|| format!("no node is known at {api}"))?)
}

/// Takes the newest node out of the cluster for ever, with its files.
async fn remove_newest(cluster: &mut Cluster) -> Result<(), Failed> {
    cluster.wait_for_voters().await?;
    let id = id_of(cluster, newest(cluster)).await?;
    cluster.client.remove_node(NodeId(id)).await?;
    let mut node = cluster.nodes.pop().expect("it was just looked at");
    node.kill().await?;
    let data = node.data().to_owned();
    tokio::task::spawn_blocking(move || std::fs::remove_dir_all(data)).await??;
    Ok(())
}

/// Copies and syncs the files of a snapshot, which the page cache holds, and removes the copy.
async fn copy(parts: &Path, to: &Path) -> Result<measure::Copied, Failed> {
    let (parts, to) = (parts.to_owned(), to.to_owned());
    let copied = tokio::task::spawn_blocking(move || {
        let copied = measure::copy_and_sync(&parts, &to)?;
        std::fs::remove_dir_all(&to)?;
        Ok::<_, std::io::Error>(copied)
    });
    Ok(copied.await??)
}

fn mib_per_second(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / MIB as f64 / seconds.max(1e-9)
}

/// One row, for people and machines.
#[derive(Serialize)]
struct Row {
    what: &'static str,
    place: &'static str,
    seconds: Option<Spread>,
    mib_per_second: Option<Spread>,
    sender_growth_mib: Option<Spread>,
    sender_cpu_seconds_per_gib: Option<Spread>,
    joiner_cpu_seconds_per_gib: Option<Spread>,
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.what.to_owned(), self.place.to_owned()];
        let figures = [
            self.seconds,
            self.mib_per_second,
            self.sender_growth_mib,
            self.sender_cpu_seconds_per_gib,
            self.joiner_cpu_seconds_per_gib,
        ];
        cells.extend(figures.map(shown));
        cells
    }
}

fn rows(rounds: &[Round]) -> Vec<Row> {
    let spread = |figure: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(figure));
    let per_gib = |bytes: u64, seconds: f64| seconds * 1024.0 * MIB as f64 / bytes.max(1) as f64;
    let yardstick = |what, place, copied: &dyn Fn(&Round) -> measure::Copied| Row {
        what,
        place,
        seconds: spread(&|round| copied(round).took.as_secs_f64()),
        mib_per_second: spread(&|round| copied(round).mib_per_second()),
        sender_growth_mib: None,
        sender_cpu_seconds_per_gib: None,
        joiner_cpu_seconds_per_gib: None,
    };
    vec![
        Row {
            what: "join, from start to serving",
            place: "ratoon",
            seconds: spread(&|round| round.join.seconds),
            mib_per_second: spread(&|round| mib_per_second(round.join.bytes, round.join.seconds)),
            sender_growth_mib: spread(&|r| r.join.sender_growth_bytes as f64 / MIB as f64),
            sender_cpu_seconds_per_gib: spread(&|round| {
                per_gib(round.join.bytes, round.join.sender_cpu_seconds)
            }),
            joiner_cpu_seconds_per_gib: spread(&|round| {
                per_gib(round.join.bytes, round.join.joiner_cpu_seconds)
            }),
        },
        Row {
            what: "of it the pull, to the install",
            place: "disk to disk",
            seconds: spread(&|round| round.join.pull_seconds),
            mib_per_second: spread(&|r| mib_per_second(r.join.bytes, r.join.pull_seconds)),
            sender_growth_mib: None,
            sender_cpu_seconds_per_gib: None,
            joiner_cpu_seconds_per_gib: None,
        },
        yardstick("bulk lane, QUIC and TLS", "memory to memory", &|round| round.lane),
        yardstick("copy and fsync", "page cache to disk", &|round| round.copied),
    ]
}

fn notes(rounds: &[Round], snapshot_bytes: u64) -> Vec<String> {
    let medians = |figure: fn(&Round) -> f64| {
        Spread::of(rounds.iter().map(figure)).map_or(f64::NAN, |spread| spread.median)
    };
    let pull = medians(|round| mib_per_second(round.join.bytes, round.join.pull_seconds));
    let lane = medians(|round| round.lane.mib_per_second());
    let copy = medians(|round| round.copied.mib_per_second());
    let resent: u64 = rounds.iter().map(|round| round.join.resent_bytes).sum();
    vec![
        format!("the snapshot has {} MiB", snapshot_bytes / MIB as u64),
        format!(
            "the pull runs at {:.2}x the bare lane and {:.2}x a plain copy; {resent} bytes arrived \
             more than once",
            pull / lane,
            pull / copy
        ),
    ]
}
