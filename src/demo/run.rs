//! The story, from three empty nodes to the report.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, INPUT, NAMESPACE};
use super::faults::{Disturbed, join_disturbed};
use super::input::{self, Input};
use super::ports::Ports;
use super::processes::{LOOK_EVERY, Launcher, PROFILE};
use super::pull::Pulled;
use super::report::{CUTS_MIN, NODES, Report, STATE_BYTES_MIN, WRITES_ACKNOWLEDGED_MIN, bytes};
use super::screen::Screen;
use super::stage::{self, NODE_ANSWERS_SECONDS, Stage};
use super::workload::{Verdict, Workload};
use super::{DemoError, Options, measure, schedule};
use crate::limits::{CHUNK_BYTES_DEFAULT, MIB, PULL_STREAMS_DEFAULT};
use crate::proto::v1;

/// Nodes at the beginning; the others join.
const FOUNDERS: usize = 3;
/// The disturbed pull takes at least this long without its faults, unless a rate is given. A little
/// more than the 30 s promised.
const PULL_SECONDS: u64 = 36;
/// Slowest rate the demo chooses by itself, bytes a second.
const RATE_MIN: u64 = MIB as u64;
/// How long the undisturbed join may take.
const JOIN_SECONDS: u64 = 600;
/// How long the writer may go on in the end to reach its number.
const WRITES_SECONDS: u64 = 180;
/// How often the import says how far it is.
const IMPORT_LINE_EVERY: Duration = Duration::from_secs(5);
/// By this code `import` says that lines have no key, or the same one, and that nothing was
/// written.
const BAD_LINES: &str = "bad_lines";

/// What the undisturbed join showed.
struct Undisturbed {
    join_seconds: f64,
    mib_per_second: f64,
    rss_growth_bytes: u64,
    elections: u64,
    cp_sync_mib_per_second: f64,
}

/// The state when the throttled join begins.
struct State {
    records: u64,
    bytes: u64,
    snapshot_bytes: u64,
}

/// Plays the whole story and prints it; the report says how it went. Ctrl-C ends it cleanly.
pub async fn run(options: Options) -> Result<Report, DemoError> {
    if options.cuts < CUTS_MIN || options.cuts > 20 {
        let cuts = options.cuts;
        return Err(DemoError::Options(format!("--cuts {cuts}: choose {CUTS_MIN} to 20")));
    }
    if options.rate_bytes_per_second.is_some_and(|rate| rate < RATE_MIN / 16) {
        let least = bytes(RATE_MIN / 16);
        return Err(DemoError::Options(format!("--rate: choose at least {least} a second")));
    }
    let report_file = match &options.report {
        Some(path) => Some(ReportFile::open(path)?),
        None => None,
    };
    let screen = Arc::new(Screen::new());
    let directory = tempfile::Builder::new()
        .prefix("ratoon-demo-")
        .tempdir()
        .map_err(DemoError::system("create a temporary directory"))?;
    // When this ends, every process has ended that was not released.
    let ended = tokio::select! {
        report = play(&options, directory.path(), &screen, report_file) => report,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Err(DemoError::Interrupted),
            Err(error) => Err(DemoError::system("listen for Ctrl-C")(error)),
        },
    };
    let is_left_running = options.keep && ended.is_ok();
    if options.keep || tells_of_a_fault(&ended) {
        let path = directory.keep();
        if !is_left_running {
            let path = path.display();
            screen.line(format!("no node is left running; their logs and data are kept in {path}"));
        }
    }
    ended
}

/// Whether somebody will want to read the nodes' logs.
fn tells_of_a_fault(ended: &Result<Report, DemoError>) -> bool {
    match ended {
        Ok(report) => !report.ok(),
        Err(DemoError::Interrupted | DemoError::Input(_) | DemoError::Options(_)) => false,
        Err(_) => true,
    }
}

/// The file of the report, opened before anything starts: a run takes minutes, and a bad path must
/// not throw it away.
struct ReportFile {
    path: PathBuf,
    file: std::fs::File,
    /// It is removed again if no report comes.
    is_new: bool,
}

impl ReportFile {
    fn open(path: &Path) -> Result<Self, DemoError> {
        let is_new = std::fs::symlink_metadata(path).is_err();
        // What is in it stays until there is a report to replace it.
        let opened =
            std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(DemoError::system(format!("write {}", path.display())))?;
        Ok(ReportFile { path: path.to_owned(), file, is_new })
    }

    fn write(mut self, report: &str) -> Result<(), DemoError> {
        // What was written in part is better kept than removed.
        self.is_new = false;
        let written = self.file.set_len(0).and_then(|()| writeln!(self.file, "{report}"));
        written.map_err(DemoError::system(format!("write {}", self.path.display())))
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.is_new {
            // An empty file that stays harms nobody.
            let _removed = std::fs::remove_file(&self.path);
        }
    }
}

async fn play(
    options: &Options,
    directory: &Path,
    screen: &Arc<Screen>,
    report_file: Option<ReportFile>,
) -> Result<Report, DemoError> {
    let (path, key) = (options.input.clone(), options.key.clone());
    let input = blocking(move || input::find(path.as_deref(), key.as_deref())).await?;
    let mut stage = set_up(options, directory, screen).await?;
    let state = fill(&mut stage, &input).await?;
    let rate = options
        .rate_bytes_per_second
        .unwrap_or_else(|| (state.snapshot_bytes / PULL_SECONDS).max(RATE_MIN));
    let plan = schedule::draw(options.seed, options.cuts);
    for number in 1..=FOUNDERS {
        stage.limit(number, rate).await?;
    }
    stage.screen.line(format!(
        "node 4 joins through UDP proxies at {}/s; {} cuts and 2 kills on the way (seed {})",
        bytes(rate),
        options.cuts,
        options.seed
    ));
    let disturbed = join_disturbed(&mut stage, rate, &plan).await?;
    stage.screen.line(format!(
        "node 4 has joined after {:.1} s, {} resumes",
        disturbed.join_seconds, disturbed.pulled.resumes
    ));
    let undisturbed = join_undisturbed(&mut stage).await?;
    let (verdict, digest) = close(&mut stage).await?;
    let report = report(options, rate, &state, disturbed, undisturbed, verdict, &digest);
    // Shown first: whatever becomes of the file, the run was not in vain.
    stage.screen.result(&if options.json { report.to_json() } else { report.table() });
    if let Some(file) = report_file {
        file.write(&report.to_json())?;
    }
    if options.keep {
        leave_running(stage).await?
    } else {
        strike_the_set(stage).await
    }
    Ok(report)
}

/// Starts three nodes behind proxies, and the workload.
async fn set_up(
    options: &Options,
    directory: &Path,
    screen: &Arc<Screen>,
) -> Result<Stage, DemoError> {
    let launcher = Launcher::new(directory, options.keep)?;
    let mut ports = Ports::default();
    let (mut nodes, mut proxies) = (Vec::new(), Vec::new());
    screen.line(format!("three nodes start in {}", directory.display()));
    for number in 1..=FOUNDERS {
        let added = stage::add_behind_proxy(&launcher, &mut ports, number, options.seed).await;
        let (mut node, proxy) = added?;
        if number == 1 {
            node.init().await?;
        } else {
            node.joins_with(launcher.new_token().await?);
        }
        node.start()?;
        node.wait_until_ready(NODE_ANSWERS_SECONDS).await?;
        nodes.push(node);
        proxies.push(proxy);
    }
    let endpoints = nodes.iter().map(|node| node.addresses().api.to_string()).collect();
    let cluster = Cluster::connect(&launcher.profile_directory(), endpoints)
        .map_err(DemoError::refused("connect to the cluster"))?;
    cluster
        .create_collections()
        .await
        .map_err(DemoError::refused("create the demo's collections"))?;
    let workload = Workload::start(&cluster, options.seed);
    let (screen, directory) = (Arc::clone(screen), directory.to_owned());
    let mut stage = Stage { screen, workload, cluster, nodes, proxies, launcher, ports, directory };
    wait_for_voters(&mut stage, FOUNDERS).await?;
    stage.screen.line("three voters; a writer and a reader go on from here to the end");
    Ok(stage)
}

/// Waits until so many nodes vote and are reachable.
async fn wait_for_voters(stage: &mut Stage, voters: usize) -> Result<(), DemoError> {
    let what = format!("that {voters} nodes vote");
    stage
        .wait_for(&what, NODE_ANSWERS_SECONDS, async |stage| {
            let Ok(status) = stage.cluster.status().await else { return Ok(None) };
            let votes = |node: &&v1::NodeStatus| {
                let voter = matches!(node.role(), v1::NodeRole::Leader | v1::NodeRole::Follower);
                node.reachable && voter
            };
            let all = status.nodes.iter().filter(votes).count() >= voters && status.leader != 0;
            Ok(all.then_some(()))
        })
        .await
}

/// Imports the input, and has every node build a snapshot and forget its log.
async fn fill(stage: &mut Stage, input: &Input) -> Result<State, DemoError> {
    import(stage, input).await?;
    let (records, state_bytes) = stage
        .cluster
        .sizes()
        .await
        .map_err(DemoError::refused("ask for the sizes of collections"))?;
    if state_bytes < STATE_BYTES_MIN {
        let (is, least) = (bytes(state_bytes), bytes(STATE_BYTES_MIN));
        return Err(DemoError::Input(format!(
            "the imported state has {is}, too little to cut a transfer of it into pieces; the demo \
             needs {least}: give a larger --input"
        )));
    }
    let mut snapshot_bytes = 0;
    for number in 1..=FOUNDERS {
        let api = stage.node(number).addresses().api.to_string();
        let snapshot = stage.cluster.create_snapshot(&api).await;
        let snapshot = snapshot.map_err(DemoError::refused("build a snapshot"))?;
        let compacted = stage.cluster.compact_log(&api).await;
        let first_index = compacted.map_err(DemoError::refused("compact the log"))?;
        snapshot_bytes = snapshot_bytes.max(snapshot.bytes);
        stage.screen.line(format!(
            "  node {number}: snapshot of {} at index {}, log starts at {first_index}",
            bytes(snapshot.bytes),
            snapshot.index
        ));
    }
    Ok(State { records, bytes: state_bytes, snapshot_bytes })
}

/// Runs the command that a person would run, and says meanwhile how far it is.
async fn import(stage: &mut Stage, input: &Input) -> Result<(), DemoError> {
    let paths: Vec<String> = input.paths.iter().map(|path| path.display().to_string()).collect();
    let shown = match &paths[..] {
        [path] => path.clone(),
        paths => format!("the sources of {} crates", paths.len()),
    };
    stage.screen.line(format!("importing {shown}"));
    let target = format!("{NAMESPACE}/{INPUT}");
    let mut arguments = vec!["import"];
    arguments.extend(paths.iter().map(String::as_str));
    arguments.extend([&target, "--skip-too-large", "--profile", PROFILE]);
    let mut keys = input.keys.iter().peekable();
    loop {
        let key = keys.next();
        let with_key: Vec<&str> = key.into_iter().flat_map(|key| ["--key", key]).collect();
        match run_import(stage, &[&arguments[..], &with_key].concat()).await {
            // The sample of the lines looked as if this were the key, and the whole file disagrees.
            Err(DemoError::Command { output, .. }) if output.contains(BAD_LINES) => {
                if keys.peek().is_none() {
                    return Err(DemoError::Input(output));
                }
                stage.screen.line(format!("  {key:?} is not the key of every line"));
            }
            ended => return ended,
        }
    }
}

/// One run of the import command.
async fn run_import(stage: &mut Stage, arguments: &[&str]) -> Result<(), DemoError> {
    let launcher = stage.launcher.clone();
    let mut import = std::pin::pin!(launcher.run(arguments));
    let summary = loop {
        tokio::select! {
            ended = &mut import => break ended?,
            () = tokio::time::sleep(IMPORT_LINE_EVERY) => {
                stage.check()?;
                // A missed line of progress is no reason to stop.
                if let Ok((records, state_bytes)) = stage.cluster.sizes().await {
                    stage.screen.line(format!("  {records} records, {}", bytes(state_bytes)));
                }
            }
        }
    };
    let figure = |name: &str| summary[name].as_u64().unwrap_or(0);
    stage.screen.line(format!(
        "imported {} records, {}, in {:.1} s; {} were too large and left out",
        figure("records"),
        bytes(figure("bytes")),
        summary["seconds"].as_f64().unwrap_or(0.0),
        figure("skipped_too_large_records"),
    ));
    Ok(())
}

/// Has the newest node lead, which is reached without a proxy, and joins a fifth to it at full
/// speed.
async fn join_undisturbed(stage: &mut Stage) -> Result<Undisturbed, DemoError> {
    let sender = stage.nodes.len();
    wait_for_voters(stage, sender).await?;
    let sender_id = stage.id_of(sender).await?;
    for number in 1..=sender {
        stage.limit(number, 0).await?;
    }
    stage.make_leader(sender_id).await?;
    // Caches are filled first, so that their growth is not taken for the transfer's.
    let api = stage.node(sender).addresses().api.to_string();
    let read = stage.cluster.read_everything(&api).await;
    read.map_err(DemoError::refused("read the whole state"))?;
    let elections_before = elections(stage).await?;
    let mut resident = BTreeMap::new();
    for node in &stage.nodes {
        let pid = node.pid().expect("no node is down between the joins");
        let failed = DemoError::system(format!("measure the memory of process {pid}"));
        let measured = measure::reset_peak(pid).and_then(|()| measure::memory(pid));
        resident.insert(node.number(), measured.map_err(failed)?.resident_bytes);
    }
    stage.screen.line(format!("node {sender} leads; node 5 joins directly and unthrottled"));
    let (pulled, join_seconds) = join_and_watch(stage).await?;
    let elections = elections(stage).await?.saturating_sub(elections_before);
    let status = stage.cluster.status().await.map_err(DemoError::refused("ask for the status"))?;
    let source = stage.number_of(&status, pulled.newest.source).unwrap_or(sender);
    let node = stage.node(source);
    let pid = node.pid().expect("the sender runs");
    let failed = DemoError::system(format!("measure the memory of process {pid}"));
    let peak_bytes = measure::memory(pid).map_err(failed)?.peak_bytes;
    let snapshot = find_snapshot(node.data(), &pulled.newest.snapshot_id)?;
    let copy = stage.directory.join("copy");
    let failed = DemoError::system(format!("copy {}", snapshot.display()));
    let copied =
        blocking(move || measure::copy_and_sync(&snapshot, &copy)).await.map_err(failed)?;
    let undisturbed = Undisturbed {
        join_seconds,
        mib_per_second: mib_per_second(&pulled.newest, join_seconds),
        rss_growth_bytes: peak_bytes.saturating_sub(resident[&source]),
        elections,
        cp_sync_mib_per_second: copied.mib_per_second(),
    };
    stage.screen.line(format!(
        "node 5 has joined after {join_seconds:.1} s at {:.0} MiB/s; a plain copy runs at {:.0} \
         MiB/s",
        undisturbed.mib_per_second, undisturbed.cp_sync_mib_per_second
    ));
    Ok(undisturbed)
}

/// Starts one more node; its pull once installed, and the seconds until it was ready.
async fn join_and_watch(stage: &mut Stage) -> Result<(Pulled, f64), DemoError> {
    let (number, started) = stage.join_directly().await?;
    // Looking is kept rare: on a small machine it would disturb what it measures.
    stage.node(number).wait_until_ready(JOIN_SECONDS).await?;
    let seconds = started.elapsed().as_secs_f64();
    let id = stage.id_of(number).await?;
    let pulled = stage
        .wait_for("that the fifth node's pull is installed", JOIN_SECONDS, async |stage| {
            Ok(stage.look_at_pull(number, id).await?.filter(Pulled::is_installed))
        })
        .await?;
    stage.screen.progress_ends();
    Ok((pulled, seconds))
}

/// Speed of a finished pull, by the receiver's clock; by `join_seconds` if it tells no times.
fn mib_per_second(transfer: &v1::Transfer, join_seconds: f64) -> f64 {
    let took_ms = transfer.finished_unix_ms.saturating_sub(transfer.started_unix_ms);
    let seconds = if took_ms > 0 { took_ms as f64 / 1000.0 } else { join_seconds };
    transfer.total_bytes as f64 / MIB as f64 / seconds
}

/// Elections that any one node has seen won since it started, at most.
async fn elections(stage: &mut Stage) -> Result<u64, DemoError> {
    let status = stage.cluster.status().await.map_err(DemoError::refused("ask for the status"))?;
    Ok(status.nodes.iter().map(|node| node.elections).max().unwrap_or(0))
}

/// Where the node with the data directory `data` keeps the snapshot `id`.
fn find_snapshot(data: &Path, id: &str) -> Result<PathBuf, DemoError> {
    let snapshots = data.join("snapshots");
    let entries = std::fs::read_dir(&snapshots)
        .map_err(DemoError::system(format!("read {}", snapshots.display())))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name == id);
    let parts = |path: PathBuf| path.join("parts");
    paths.find(named).map(parts).ok_or_else(|| DemoError::TooLate {
        what: format!("that {} holds the snapshot {id}", snapshots.display()),
        seconds: 0,
        state: "the sender has dropped it already".to_owned(),
    })
}

/// Ends the workload once it has written enough, reads everything back, and compares all nodes.
async fn close(stage: &mut Stage) -> Result<(Verdict, v1::DigestResponse), DemoError> {
    wait_for_voters(stage, NODES).await?;
    let enough = WRITES_ACKNOWLEDGED_MIN;
    let written = stage
        .wait_for("that the writer has written enough", WRITES_SECONDS, async |stage| {
            let acknowledged = stage.workload.writes_acknowledged();
            Ok((acknowledged >= enough).then_some(acknowledged))
        })
        .await;
    match written {
        Ok(acknowledged) => stage.screen.line(format!("reading {acknowledged} writes back")),
        // Too few writes are a figure of the report, no reason to throw the run away.
        Err(DemoError::TooLate { what, .. }) => {
            let why = stage.workload.last_failure().map(|failure| failure.to_string());
            let why = why.unwrap_or_else(|| "no write failed, all were slow".to_owned());
            stage.screen.line(format!("too late: {what}; {why}"));
        }
        Err(error) => return Err(error),
    }
    let verdict = stage
        .workload
        .finish(&stage.cluster)
        .await
        .map_err(DemoError::refused("read every write back"))?;
    let digest = stage
        .wait_for("a digest of every node", NODE_ANSWERS_SECONDS, async |stage| {
            let Ok(digest) = stage.cluster.digest().await else { return Ok(None) };
            let whole = digest.digests.iter().filter(|node| node.error.is_empty()).count();
            Ok((whole >= NODES).then_some(digest))
        })
        .await?;
    Ok((verdict, digest))
}

fn report(
    options: &Options,
    rate: u64,
    state: &State,
    disturbed: Disturbed,
    undisturbed: Undisturbed,
    verdict: Verdict,
    digest: &v1::DigestResponse,
) -> Report {
    let kind = |wanted: &str| disturbed.faults.iter().filter(|f| f.kind == wanted).count() as u32;
    let cuts = kind(schedule::FaultKind::Cut.name());
    let kills = disturbed.faults.len() as u32 - cuts;
    let chunk_times_streams = u64::from(CHUNK_BYTES_DEFAULT) * PULL_STREAMS_DEFAULT as u64;
    let hex = |digest: &[u8]| data_encoding::HEXLOWER.encode(digest);
    let digests = digest.digests.iter().filter(|node| node.error.is_empty());
    Report {
        nodes: digest.digests.len(),
        records: state.records,
        state_bytes: state.bytes,
        snapshot_bytes: disturbed.pulled.newest.total_bytes,
        snapshot_message_bytes: disturbed.pulled.newest.message_bytes,
        cuts,
        kills,
        resumes: disturbed.pulled.resumes,
        resent_bytes: disturbed.pulled.resent_bytes,
        resent_bytes_max_allowed: chunk_times_streams * u64::from(cuts + kills),
        discarded_bytes: disturbed.pulled.discarded_bytes,
        received_bytes: disturbed.pulled.received_bytes,
        proxy_payload_bytes: disturbed.proxy_payload_bytes,
        join_seconds: disturbed.join_seconds,
        rate_bytes_per_second: rate,
        join_seconds_undisturbed: undisturbed.join_seconds,
        mib_per_second_undisturbed: undisturbed.mib_per_second,
        cp_sync_mib_per_second: undisturbed.cp_sync_mib_per_second,
        rss_growth_bytes: undisturbed.rss_growth_bytes,
        elections_during_undisturbed_join: undisturbed.elections,
        writes_acknowledged: verdict.writes_acknowledged,
        writes_lost: verdict.writes_lost,
        reads: verdict.reads,
        reads_stale: verdict.reads_stale,
        digests: digests.map(|node| (node.id, hex(&node.digest))).collect(),
        digest_index: digest.index,
        faults: disturbed.faults,
        seed: options.seed,
    }
}

/// Ends every node in order.
async fn strike_the_set(mut stage: Stage) {
    for node in stage.nodes.iter_mut().rev() {
        let number = node.number();
        if !node.stop().await {
            stage.screen.line(format!("node {number} did not end by itself and was killed"));
        }
    }
}

/// Takes the proxies, which end with the demo, out of the nodes' addresses, and says how to go on.
async fn leave_running(mut stage: Stage) -> Result<(), DemoError> {
    for number in 1..=FOUNDERS {
        let node = stage.node(number);
        node.stop().await;
        node.advertise_directly();
        node.limits_bulk_to(None);
        node.start()?;
        node.wait_until_ready(NODE_ANSWERS_SECONDS).await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let pids: Vec<String> =
        stage.nodes.iter().filter_map(|node| Some(node.pid()?.to_string())).collect();
    let program = stage.launcher.executable().display();
    let profiles = stage.launcher.profile_directory();
    stage.screen.line(format!("the cluster goes on in {}", stage.directory.display()));
    for line in [
        format!(
            "talk to it:  export RATOON_CONFIG_DIR={} RATOON_PROFILE={PROFILE}",
            profiles.display()
        ),
        format!("             {program} status"),
        format!("             {program} scan {NAMESPACE}/{INPUT} --limit 5 --keys-only"),
        format!("end it:      kill {}", pids.join(" ")),
        format!("remove it:   rm -r {}", stage.directory.display()),
    ] {
        stage.screen.line(line);
    }
    for node in &mut stage.nodes {
        node.release().await?;
    }
    Ok(())
}

/// Runs what blocks off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It is never cancelled, so it has panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn speed_is_taken_from_the_receivers_clock_where_it_tells() {
        let mut transfer = v1::Transfer {
            total_bytes: 100 * MIB as u64,
            started_unix_ms: 1_000,
            finished_unix_ms: 1_500,
            ..v1::Transfer::default()
        };
        assert_eq!(mib_per_second(&transfer, 4.0), 200.0);
        transfer.finished_unix_ms = 0;
        assert_eq!(mib_per_second(&transfer, 4.0), 25.0);
    }

    #[test]
    fn the_snapshot_is_found_by_its_id() {
        let data = tempfile::tempdir().unwrap();
        assert!(find_snapshot(data.path(), "ab").is_err());
        let path = data.path().join("snapshots/ab");
        std::fs::create_dir_all(&path).unwrap();
        assert_eq!(find_snapshot(data.path(), "ab").unwrap(), path.join("parts"));
        assert!(find_snapshot(data.path(), "cd").is_err());
    }

    #[tokio::test]
    async fn a_report_that_cannot_be_written_is_refused_before_anything_starts() {
        let directory = tempfile::tempdir().unwrap();
        let report = Some(directory.path().join("missing/report.json"));
        let ended = run(Options { report, ..Options::default() }).await;
        let Err(DemoError::System { attempted, .. }) = ended else { panic!("{ended:?}") };
        assert!(attempted.contains("report.json"), "{attempted}");
    }

    #[test]
    fn a_report_takes_the_place_of_an_older_one_and_a_run_without_one_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        drop(ReportFile::open(&path).unwrap());
        assert!(!path.exists());
        ReportFile::open(&path).unwrap().write("a long report").unwrap();
        drop(ReportFile::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a long report\n");
        ReportFile::open(&path).unwrap().write("short").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short\n");
    }

    #[test]
    fn logs_are_kept_when_something_went_wrong_and_not_for_a_mistyped_option() {
        assert!(!tells_of_a_fault(&Err(DemoError::Interrupted)));
        assert!(!tells_of_a_fault(&Err(DemoError::Options("x".into()))));
        let (node, status, log) = (1, String::new(), String::new());
        assert!(tells_of_a_fault(&Err(DemoError::NodeEnded { node, status, log })));
    }

    #[tokio::test]
    async fn too_few_cuts_are_refused_before_anything_starts() {
        let options = Options { cuts: 2, ..Options::default() };
        assert!(matches!(run(options).await, Err(DemoError::Options(_))));
    }
}
