//! The verdict of a storm: from what was seen, never from how it was made. Pure, so that each rule
//! can be shown something that breaks it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ratoon::limits::{BITMAP_BYTES_INTERVAL, CHUNK_BYTES_DEFAULT, PULL_STREAMS_DEFAULT};
use ratoon::types::{Action, Index};
use serde::{Deserialize, Serialize};

use super::load::{Finals, Finish};
use super::net::Number;
use super::timeline::Fault;
use super::watch::Transfer;
use crate::checks::history::{Effect, History, Outcome};
use crate::checks::linearizable;

/// What one fault may cause to be sent again, at most.
pub const RESENT_BYTES_MAX: u64 = CHUNK_BYTES_DEFAULT as u64 * PULL_STREAMS_DEFAULT as u64;
/// Share of keys whose histories may be too tangled to judge, in percent.
const UNDECIDED_PERCENT_MAX: u64 = 2;

/// The content digest that one node gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeDigest {
    /// The node's id.
    pub id: u64,
    /// Digest; empty if it could not say.
    pub digest: Vec<u8>,
    /// Why it could not.
    pub error: String,
}

/// What must have happened for a storm to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Minimum {
    /// Writes acknowledged.
    pub writes: u64,
    /// Faults that struck.
    pub faults: usize,
    /// Transfers that ended with the receiver running on them.
    pub installed: usize,
    /// Resumes of the transfer that had most.
    pub resumes_of_one: u64,
}

/// All that was seen.
pub struct Evidence {
    /// What clients did, were answered, and found in the end.
    pub finish: Finish,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Digests, all at one index, one list for each time they were compared.
    pub digests: Vec<Vec<NodeDigest>>,
    /// Every transfer.
    pub transfers: Vec<Transfer>,
    /// Every fault.
    pub faults: Vec<Fault>,
    /// Where the story itself failed: deaths nobody asked for, what did not happen in time.
    pub problems: Vec<String>,
    /// Lines of logs that no node may write.
    pub log_lines: Vec<String>,
    /// Pins that are left, as told by the nodes.
    pub pins: Vec<String>,
    /// Most memory of each node, and its bound, bytes.
    pub memory: (BTreeMap<Number, u64>, u64),
    /// Most bytes that one node's data took, and the bound.
    pub disk: (u64, u64),
    /// See the type.
    pub minimum: Minimum,
    /// Parts of the story that this machine cannot play.
    pub missing: Vec<String>,
}

/// One rule, and whether it held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Check {
    /// The rule.
    pub name: String,
    /// Whether it held.
    pub ok: bool,
    /// Figures, or what broke it.
    pub detail: String,
}

/// Judges a storm.
pub fn judge(evidence: &Evidence) -> Vec<Check> {
    let mut checks = vec![
        none("the story came to its end", &evidence.problems),
        none("answers make sense", &evidence.finish.broken),
        check_lost(&evidence.finish),
        check_linearizable(&evidence.finish.history),
        check_order(&evidence.finish.history),
        check_digests(&evidence.digests),
        check_ended(&evidence.transfers),
        check_resent(&evidence.transfers),
        none("pins are gone", &evidence.pins),
        none("logs tell of no defect", &evidence.log_lines),
        check_memory(&evidence.memory.0, evidence.memory.1),
        check_disk(evidence.disk),
    ];
    checks.extend(check_minimum(evidence));
    checks.push(none("everything could be played", &evidence.missing));
    checks
}

fn check(name: &str, ok: bool, detail: String) -> Check {
    Check { name: name.to_owned(), ok, detail }
}

/// Holds if there is nothing in the list.
fn none(name: &str, found: &[String]) -> Check {
    check(name, found.is_empty(), found.join("\n"))
}

/// An acknowledged write is there in the end, unless a later one took its place: one with a higher
/// version, or one of unknown outcome.
fn check_lost(finish: &Finish) -> Check {
    let mut newest: BTreeMap<&[u8], (Index, Option<&Bytes>)> = BTreeMap::new();
    let mut unknown: BTreeSet<(&[u8], Option<&Bytes>)> = BTreeSet::new();
    for operation in &finish.history.operations {
        let Effect::Write(batch) = &operation.effect else { continue };
        for write in &batch.writes {
            let value = match &write.action {
                Action::Put { value, .. } => Some(value),
                _ => None,
            };
            match operation.ended.as_ref().map(|(_, outcome)| outcome) {
                Some(Outcome::Applied(index, _)) => {
                    let last = newest.entry(&write.key).or_insert((*index, value));
                    if *index > last.0 {
                        *last = (*index, value);
                    }
                }
                Some(Outcome::Unknown) | None => {
                    unknown.insert((&write.key, value));
                }
                _ => {}
            }
        }
    }
    let lost = newest.iter().filter_map(|(key, (version, value))| {
        is_lost(key, *version, *value, &finish.finals, &unknown)
    });
    let lost: Vec<String> = lost.collect();
    let told = format!("{} keys, {} lost", newest.len(), lost.len());
    check("no acknowledged write is lost", lost.is_empty(), told + &first_lines(&lost))
}

/// What to say if the newest acknowledged write of a key is gone.
fn is_lost(
    key: &[u8],
    version: Index,
    value: Option<&Bytes>,
    finals: &Finals,
    unknown: &BTreeSet<(&[u8], Option<&Bytes>)>,
) -> Option<String> {
    let found = finals.get(key).and_then(Option::as_ref);
    let is_there = match found {
        None => value.is_none() || unknown.contains(&(key, None)),
        Some((at, seen)) => {
            (*at == version && value == Some(seen))
                || (*at > version && unknown.contains(&(key, Some(seen))))
        }
    };
    let name = String::from_utf8_lossy(key);
    let at = found.map(|(at, _)| at);
    (!is_there).then(|| format!("{name}: acknowledged at {version}, found {at:?}"))
}

fn check_linearizable(history: &History) -> Check {
    let name = "operations are linearizable";
    let operations = history.operations.len();
    let keys: BTreeSet<&[u8]> = history.operations.iter().flat_map(keys_of).collect();
    match linearizable::check(history) {
        Ok(undecided) => {
            let ok = 100 * undecided <= UNDECIDED_PERCENT_MAX * keys.len() as u64;
            let keys = keys.len();
            check(name, ok, format!("{operations} operations, {keys} keys, {undecided} undecided"))
        }
        Err(error) => check(name, false, format!("{error:#}").chars().take(4_000).collect()),
    }
}

fn keys_of(operation: &crate::checks::history::Operation) -> Vec<&[u8]> {
    match &operation.effect {
        Effect::Get(key) => vec![key],
        Effect::Write(batch) => batch.writes.iter().map(|write| &write.key[..]).collect(),
    }
}

/// A write that began after another was acknowledged stands later in the log, whatever the keys.
fn check_order(history: &History) -> Check {
    let mut ends: Vec<(u64, Index)> = Vec::new();
    for operation in &history.operations {
        if let Some((at, Outcome::Applied(index, _))) = &operation.ended {
            ends.push((*at, *index));
        }
    }
    ends.sort_unstable();
    let (mut reached, mut next, mut wrong) = (0, 0, Vec::new());
    for operation in &history.operations {
        while let Some((_, index)) = ends.get(next).filter(|(at, _)| *at < operation.called_us) {
            reached = reached.max(*index);
            next += 1;
        }
        if let Some((_, Outcome::Applied(index, _))) = &operation.ended
            && *index <= reached
        {
            wrong.push(format!("index {reached} was seen before {operation:?} began"));
        }
    }
    let told = format!("{} acknowledged writes", ends.len());
    check("writes stand in the order of their times", wrong.is_empty(), told + &first_lines(&wrong))
}

fn check_digests(rounds: &[Vec<NodeDigest>]) -> Check {
    let mut wrong = Vec::new();
    for round in rounds {
        for node in round {
            if !node.error.is_empty() || node.digest.is_empty() {
                wrong.push(format!("id {} gave none: {}", node.id, node.error));
            } else if round
                .iter()
                .any(|other| !other.digest.is_empty() && other.digest != node.digest)
            {
                wrong.push(format!("id {} differs from others", node.id));
            }
        }
    }
    let compared = rounds.iter().map(Vec::len).max().unwrap_or(0);
    let told = format!("compared {} times, up to {compared} nodes", rounds.len());
    let ok = wrong.is_empty() && compared > 1;
    check("digests are equal", ok, told + &first_lines(&wrong))
}

/// A transfer that was not abandoned ends; one that failed is followed by one that did not.
fn check_ended(transfers: &[Transfer]) -> Check {
    let mut wrong = Vec::new();
    for transfer in transfers.iter().filter(|transfer| !transfer.is_abandoned) {
        let failed = transfer.is_final() && !transfer.failure.is_empty();
        let later = transfers.iter().any(|other| {
            other.receiver == transfer.receiver
                && (other.is_installed() || other.is_abandoned || other.is_forgotten)
        });
        if !transfer.is_final() && !transfer.is_forgotten {
            wrong.push(format!("without end: {transfer:?}"));
        } else if failed && !later {
            wrong.push(format!("failed for good: {transfer:?}"));
        }
    }
    let count =
        |of: fn(&Transfer) -> bool| transfers.iter().filter(|transfer| of(transfer)).count();
    let told = format!(
        "{} transfers: {} installed, {} abandoned on purpose",
        transfers.len(),
        count(Transfer::is_installed),
        count(|transfer| transfer.is_abandoned)
    );
    check("every transfer ended", wrong.is_empty(), told + &first_lines(&wrong))
}

/// Every fault costs one chunk a stream at most, and a loss of power what was not synced.
fn check_resent(transfers: &[Transfer]) -> Check {
    let mut wrong = Vec::new();
    for transfer in transfers {
        // A connection that a busy machine lets die is a cut that nobody made.
        let faults = transfer.faults.max(transfer.resumes);
        let bound = RESENT_BYTES_MAX * faults + BITMAP_BYTES_INTERVAL * transfer.power_losses;
        if transfer.resent_bytes > bound {
            wrong.push(format!("more than {bound} bytes: {transfer:?}"));
        }
    }
    let sum = |of: fn(&Transfer) -> u64| transfers.iter().map(of).sum::<u64>();
    let told = format!(
        "{} bytes sent again, {} given up, of {} received; {} resumes",
        sum(|transfer| transfer.resent_bytes),
        sum(|transfer| transfer.discarded_bytes),
        sum(|transfer| transfer.received_bytes),
        sum(|transfer| transfer.resumes),
    );
    check("what was sent again is within its bound", wrong.is_empty(), told + &first_lines(&wrong))
}

fn check_memory(peaks: &BTreeMap<Number, u64>, bound: u64) -> Check {
    let most = peaks.values().copied().max().unwrap_or(0);
    let ok = most > 0 && most <= bound;
    check("memory is bounded", ok, format!("most resident {most} bytes, bound {bound}"))
}

fn check_disk((most, bound): (u64, u64)) -> Check {
    check("disk is bounded", most <= bound, format!("most on one node {most} bytes, bound {bound}"))
}

fn check_minimum(evidence: &Evidence) -> Vec<Check> {
    let Minimum { writes, faults, installed, resumes_of_one } = evidence.minimum;
    let ended = evidence.transfers.iter().filter(|transfer| transfer.is_installed()).count();
    let resumes = evidence.transfers.iter().map(|transfer| transfer.resumes).max().unwrap_or(0);
    let at_least = |name: &str, is: u64, least: u64| {
        check(name, is >= least, format!("{is}, at least {least} count"))
    };
    vec![
        at_least("enough was written", evidence.acknowledged, writes),
        at_least("enough faults struck", evidence.faults.len() as u64, faults as u64),
        at_least("enough transfers ended", ended as u64, installed as u64),
        at_least("one transfer was resumed often enough", resumes, resumes_of_one),
    ]
}

/// The first of many complaints, each on a line of its own.
fn first_lines(lines: &[String]) -> String {
    lines.iter().take(5).map(|line| format!("\n{line}")).collect()
}
