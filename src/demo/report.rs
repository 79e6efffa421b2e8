//! What a run of the demo found, and the judgement over it.
//!
//! The judgement is a pure function of the figures: nothing that happened during the run can make a
//! bad figure good. Never measures anything itself.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;

use crate::limits::{MIB, SNAPSHOT_REFERENCE_BYTES_MAX};

/// Nodes at the end of the story.
pub const NODES: usize = 5;
/// Smallest logical state for which the figures mean anything, bytes.
pub const STATE_BYTES_MIN: u64 = 150_000_000;
/// Fewest cuts of the link.
pub const CUTS_MIN: u32 = 3;
/// Fewest kill -9: the receiver and the sending leader.
pub const KILLS_MIN: u32 = 2;
/// Fewest acknowledged writes over the whole run.
pub const WRITES_ACKNOWLEDGED_MIN: u64 = 10_000;
/// Most the sender's memory may grow while it serves an undisturbed join.
pub const RSS_GROWTH_BYTES_MAX: u64 = 64 * MIB as u64;
/// What QUIC may add to the snapshot's bytes on the wire: acknowledgements, retransmissions,
/// control frames and the error of the proxy's estimate.
const WIRE_OVERHEAD: f64 = 1.05;
/// Error of the proxy's estimate of payload, for the check in the other direction.
const ESTIMATE_ERROR: f64 = 1.02;

/// One planned fault and what was seen while it lasted.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FaultReport {
    /// `cut`, `kill_receiver` or `kill_leader`.
    pub kind: &'static str,
    /// Share of the snapshot that had arrived when it struck, 0 to 1.
    pub at_fraction: f64,
    /// From the strike until bytes flowed again.
    pub seconds: f64,
    /// Resumes the receiver counted for it.
    pub resumes: u64,
    /// Writes acknowledged between strike and recovery.
    pub writes_acknowledged: u64,
}

/// Every figure of a run. Bytes are bytes, rates are in MiB (2^20 bytes) a second.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Members of the cluster at the end.
    pub nodes: usize,
    /// Records in the imported state, when the throttled join began.
    pub records: u64,
    /// Their logical size: keys and values.
    pub state_bytes: u64,
    /// Size of the snapshot the fourth node pulled.
    pub snapshot_bytes: u64,
    /// Size of the raft message that offered it.
    pub snapshot_message_bytes: u64,
    /// Times the link was blackholed for longer than the idle timeout while bytes flowed.
    pub cuts: u32,
    /// Times a process was killed with SIGKILL while bytes flowed.
    pub kills: u32,
    /// Times the receiver went on where it had stopped.
    pub resumes: u64,
    /// Bytes that reached the receiver more than once, by its own count.
    pub resent_bytes: u64,
    /// Chunk size x streams x (cuts + kills).
    pub resent_bytes_max_allowed: u64,
    /// Bytes pulled and given up for another snapshot.
    pub discarded_bytes: u64,
    /// Payload bytes the receiver counts as arrived.
    pub received_bytes: u64,
    /// QUIC payload the proxies passed toward the receiver, estimated from datagram sizes.
    pub proxy_payload_bytes: u64,
    /// Start of the fourth node to its being caught up, with all faults.
    pub join_seconds: f64,
    /// Limit of the disturbed pull, bytes a second.
    pub rate_bytes_per_second: u64,
    /// Start of the fifth node to its being caught up.
    pub join_seconds_undisturbed: f64,
    /// Speed of the fifth node's pull, first offer to installed.
    pub mib_per_second_undisturbed: f64,
    /// The same snapshot's files, read, written and fsynced by plain copy.
    pub cp_sync_mib_per_second: f64,
    /// Peak less resident memory of the node that sent the undisturbed snapshot.
    pub rss_growth_bytes: u64,
    /// Elections won anywhere while the fifth node joined.
    pub elections_during_undisturbed_join: u64,
    /// Writes acknowledged over the whole run.
    pub writes_acknowledged: u64,
    /// Acknowledged writes that were gone or changed in the end.
    pub writes_lost: u64,
    /// Linearizable reads made over the whole run.
    pub reads: u64,
    /// Reads that answered older than something acknowledged before they began.
    pub reads_stale: u64,
    /// Content digest of each node, all at `digest_index`.
    pub digests: BTreeMap<u64, String>,
    /// Log index of the digests.
    pub digest_index: u64,
    /// Each fault, in order.
    pub faults: Vec<FaultReport>,
    /// Seed of the schedule; the same seed strikes at the same fractions.
    pub seed: u64,
}

/// The JSON form: the judgement first, then the figures.
#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    failed: Vec<String>,
    missed: Vec<String>,
    #[serde(flatten)]
    report: &'a Report,
}

impl Report {
    /// Whether every figure of correctness is as it must be.
    pub fn ok(&self) -> bool {
        self.failed().is_empty()
    }

    /// What is not as it must be, one sentence each; empty when the run is good.
    pub fn failed(&self) -> Vec<String> {
        let mut failed = Failures::default();
        self.judge_replicas(&mut failed);
        self.judge_clients(&mut failed);
        self.judge_transfer(&mut failed);
        failed.0
    }

    /// Goals of speed and memory that were missed. They depend on the machine and its load, so they
    /// are shown and do not decide.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Failures::default();
        missed.unless(self.rss_growth_bytes <= RSS_GROWTH_BYTES_MAX, || {
            let (grew, most) = (bytes(self.rss_growth_bytes), bytes(RSS_GROWTH_BYTES_MAX));
            format!("the sender grew by {grew} during the undisturbed join, the goal is {most}")
        });
        missed.unless(self.elections_during_undisturbed_join == 0, || {
            let elections = self.elections_during_undisturbed_join;
            format!("{elections} elections during the undisturbed join, the goal is none")
        });
        missed.0
    }

    /// The report as one JSON document.
    pub fn to_json(&self) -> String {
        let document =
            Document { ok: self.ok(), failed: self.failed(), missed: self.missed(), report: self };
        serde_json::to_string_pretty(&document).expect("plain figures always serialise")
    }

    /// The report as a table for people, with the verdict below it.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.set_header(["figure", "value", "must be"]);
        for (figure, value, bound) in self.rows() {
            table.add_row([figure.to_owned(), value, bound]);
        }
        let mut text = format!("{table}\n");
        for fault in &self.faults {
            text += &format!(
                "{:>14} at {:>4.1} %: {:.1} s until bytes flowed again, {} writes meanwhile\n",
                fault.kind,
                100.0 * fault.at_fraction,
                fault.seconds,
                fault.writes_acknowledged,
            );
        }
        let failed = self.failed();
        for line in &failed {
            text += &format!("FAILED: {line}\n");
        }
        for line in self.missed() {
            text += &format!("missed: {line}\n");
        }
        text + if failed.is_empty() { "ok" } else { "NOT OK" }
    }

    fn judge_replicas(&self, failed: &mut Failures) {
        failed.unless(self.nodes == NODES && self.digests.len() == NODES, || {
            let (nodes, digests) = (self.nodes, self.digests.len());
            format!("{nodes} nodes and {digests} digests, expected {NODES} of each")
        });
        let first = self.digests.values().next();
        let equal = self.digests.values().all(|digest| Some(digest) == first);
        failed.unless(equal && first.is_some_and(|digest| !digest.is_empty()), || {
            format!("the nodes' contents differ at index {}", self.digest_index)
        });
        failed.unless(self.state_bytes >= STATE_BYTES_MIN, || {
            let (is, least) = (self.state_bytes, STATE_BYTES_MIN);
            format!("the state has {is} bytes, too few to prove anything; at least {least}")
        });
    }

    fn judge_clients(&self, failed: &mut Failures) {
        failed.unless(self.writes_lost == 0, || {
            format!("{} acknowledged writes were lost", self.writes_lost)
        });
        failed.unless(self.reads_stale == 0 && self.reads > 0, || {
            format!("{} of {} linearizable reads were stale", self.reads_stale, self.reads)
        });
        failed.unless(self.writes_acknowledged >= WRITES_ACKNOWLEDGED_MIN, || {
            let (is, least) = (self.writes_acknowledged, WRITES_ACKNOWLEDGED_MIN);
            format!("{is} writes were acknowledged, at least {least} must be")
        });
        for fault in self.faults.iter().filter(|fault| fault.writes_acknowledged == 0) {
            let at = 100.0 * fault.at_fraction;
            failed.0.push(format!("no write was acknowledged during {} at {at:.1} %", fault.kind));
        }
    }

    fn judge_transfer(&self, failed: &mut Failures) {
        failed.unless(self.cuts >= CUTS_MIN, || {
            format!("{} cuts were made, at least {CUTS_MIN} must be", self.cuts)
        });
        failed.unless(self.kills >= KILLS_MIN, || {
            format!("{} kills were made, at least {KILLS_MIN} must be", self.kills)
        });
        let faults = u64::from(self.cuts) + u64::from(self.kills);
        failed.unless(self.resumes >= faults && self.faults.len() as u64 == faults, || {
            let (resumes, listed) = (self.resumes, self.faults.len());
            format!("{resumes} resumes after {faults} cuts and kills ({listed} listed)")
        });
        for fault in self.faults.iter().filter(|fault| fault.resumes == 0) {
            let at = 100.0 * fault.at_fraction;
            failed.0.push(format!("the pull did not resume after {} at {at:.1} %", fault.kind));
        }
        failed.unless(self.resent_bytes <= self.resent_bytes_max_allowed, || {
            let (is, most) = (self.resent_bytes, self.resent_bytes_max_allowed);
            format!("{is} bytes were sent again, at most {most} may be")
        });
        let message_bytes_max = SNAPSHOT_REFERENCE_BYTES_MAX as u64;
        failed.unless((1..=message_bytes_max).contains(&self.snapshot_message_bytes), || {
            let is = self.snapshot_message_bytes;
            format!("the snapshot's message has {is} bytes, must be 1 to {message_bytes_max}")
        });
        let wire_bytes_max = self.wire_bytes_max();
        failed.unless(self.proxy_payload_bytes <= wire_bytes_max, || {
            let is = self.proxy_payload_bytes;
            format!(
                "the proxies passed {is} bytes to the receiver, at most {wire_bytes_max} may be"
            )
        });
        let seen = self.proxy_payload_bytes as f64 * ESTIMATE_ERROR;
        let covered = self.snapshot_bytes > 0 && self.received_bytes > 0;
        failed.unless(covered && self.received_bytes as f64 <= seen, || {
            let (received, passed) = (self.received_bytes, self.proxy_payload_bytes);
            format!("the receiver counts {received} bytes, but {passed} passed the proxies")
        });
    }

    fn wire_bytes_max(&self) -> u64 {
        (WIRE_OVERHEAD * self.snapshot_bytes as f64) as u64 + self.resent_bytes_max_allowed
    }

    /// Figure, value, bound.
    fn rows(&self) -> Vec<(&'static str, String, String)> {
        let none = String::new;
        let seconds = |value: f64| format!("{value:.1} s");
        let rate = |value: f64| format!("{value:.0} MiB/s");
        let distinct: std::collections::BTreeSet<_> = self.digests.values().collect();
        let digests = format!("{} nodes, {} distinct", self.digests.len(), distinct.len());
        let faults = u64::from(self.cuts) + u64::from(self.kills);
        vec![
            ("nodes", self.nodes.to_string(), NODES.to_string()),
            ("records", self.records.to_string(), none()),
            ("state", bytes(self.state_bytes), at_least(bytes(STATE_BYTES_MIN))),
            ("snapshot", bytes(self.snapshot_bytes), none()),
            ("snapshot message", format!("{} B", self.snapshot_message_bytes), at_most("4096 B")),
            ("cuts", self.cuts.to_string(), at_least(CUTS_MIN)),
            ("kills", self.kills.to_string(), at_least(KILLS_MIN)),
            ("resumes", self.resumes.to_string(), at_least(faults)),
            ("sent again", bytes(self.resent_bytes), at_most(bytes(self.resent_bytes_max_allowed))),
            ("discarded", bytes(self.discarded_bytes), none()),
            ("received, by the receiver", bytes(self.received_bytes), none()),
            (
                "received, by the proxy",
                bytes(self.proxy_payload_bytes),
                at_most(bytes(self.wire_bytes_max())),
            ),
            ("join with faults", seconds(self.join_seconds), none()),
            ("join undisturbed", seconds(self.join_seconds_undisturbed), none()),
            ("speed undisturbed", rate(self.mib_per_second_undisturbed), none()),
            ("plain copy and sync", rate(self.cp_sync_mib_per_second), none()),
            (
                "sender's memory growth",
                bytes(self.rss_growth_bytes),
                goal(bytes(RSS_GROWTH_BYTES_MAX)),
            ),
            ("elections undisturbed", self.elections_during_undisturbed_join.to_string(), goal(0)),
            (
                "writes acknowledged",
                self.writes_acknowledged.to_string(),
                at_least(WRITES_ACKNOWLEDGED_MIN),
            ),
            ("writes lost", self.writes_lost.to_string(), "0".to_owned()),
            ("reads, of them stale", format!("{}, {}", self.reads, self.reads_stale), none()),
            ("digests", digests, "1 distinct".to_owned()),
        ]
    }
}

/// Sentences about what is wrong.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn unless(&mut self, holds: bool, sentence: impl FnOnce() -> String) {
        if !holds {
            self.0.push(sentence());
        }
    }
}

fn at_least(bound: impl std::fmt::Display) -> String {
    format!(">= {bound}")
}

fn at_most(bound: impl std::fmt::Display) -> String {
    format!("<= {bound}")
}

fn goal(bound: impl std::fmt::Display) -> String {
    format!("<= {bound} (goal)")
}

/// Bytes for people: `812 B`, `96.3 MiB`.
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / MIB as f64),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fault(kind: &'static str, at_fraction: f64) -> FaultReport {
        FaultReport { kind, at_fraction, seconds: 5.0, resumes: 1, writes_acknowledged: 100 }
    }

    /// A run without a blemish.
    fn good() -> Report {
        Report {
            nodes: 5,
            records: 17_000,
            state_bytes: 250_000_000,
            snapshot_bytes: 100_000_000,
            snapshot_message_bytes: 412,
            cuts: 3,
            kills: 2,
            resumes: 5,
            resent_bytes: 3_000_000,
            resent_bytes_max_allowed: 20 * MIB as u64,
            discarded_bytes: 0,
            received_bytes: 103_000_000,
            proxy_payload_bytes: 103_500_000,
            join_seconds: 61.0,
            rate_bytes_per_second: 2_700_000,
            join_seconds_undisturbed: 0.9,
            mib_per_second_undisturbed: 240.0,
            cp_sync_mib_per_second: 900.0,
            rss_growth_bytes: 12 * MIB as u64,
            elections_during_undisturbed_join: 0,
            writes_acknowledged: 31_000,
            writes_lost: 0,
            reads: 12_000,
            reads_stale: 0,
            digests: (1..=5).map(|node| (node, "ab12".to_owned())).collect(),
            digest_index: 40_000,
            faults: vec![
                fault("cut", 0.1),
                fault("kill_receiver", 0.3),
                fault("cut", 0.5),
                fault("kill_leader", 0.6),
                fault("cut", 0.9),
            ],
            seed: 1,
        }
    }

    fn failures_after(change: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut report = good();
        change(&mut report);
        assert_eq!(report.ok(), report.failed().is_empty());
        report.failed()
    }

    #[test]
    fn a_good_run_is_ok() {
        assert_eq!(good().failed(), Vec::<String>::new());
        assert_eq!(good().missed(), Vec::<String>::new());
    }

    #[test]
    fn each_figure_of_correctness_alone_makes_the_run_bad() {
        type Change = fn(&mut Report);
        let changes: [(&str, Change); 19] = [
            ("nodes and", |r| r.nodes = 4),
            ("nodes and", |r| {
                r.digests.remove(&5);
            }),
            ("contents differ", |r| {
                r.digests.insert(3, "cd34".to_owned());
            }),
            ("contents differ", |r| {
                r.digests.values_mut().for_each(String::clear);
            }),
            ("too few to prove", |r| r.state_bytes = STATE_BYTES_MIN - 1),
            ("were lost", |r| r.writes_lost = 1),
            ("were stale", |r| r.reads_stale = 1),
            ("were stale", |r| r.reads = 0),
            ("were acknowledged", |r| r.writes_acknowledged = 9_999),
            ("no write was acknowledged during cut", |r| r.faults[2].writes_acknowledged = 0),
            ("cuts were made", |r| {
                r.cuts = 2;
                r.faults.pop();
            }),
            ("kills were made", |r| {
                r.kills = 1;
                r.faults.remove(1);
            }),
            ("resumes after", |r| r.resumes = 4),
            ("resumes after", |r| {
                r.faults.pop();
            }),
            ("did not resume after kill_leader", |r| r.faults[3].resumes = 0),
            ("sent again", |r| r.resent_bytes = r.resent_bytes_max_allowed + 1),
            ("snapshot's message", |r| r.snapshot_message_bytes = 4097),
            ("proxies passed", |r| r.proxy_payload_bytes = 126_000_000),
            ("receiver counts", |r| r.proxy_payload_bytes = 100_000_000),
        ];
        for (expected, change) in changes {
            let failed = failures_after(change);
            assert_eq!(failed.len(), 1, "{expected}: {failed:?}");
            assert!(failed[0].contains(expected), "{expected}: {failed:?}");
        }
    }

    #[test]
    fn bounds_themselves_are_still_good() {
        let failed = failures_after(|r| {
            r.resent_bytes = r.resent_bytes_max_allowed;
            r.snapshot_message_bytes = 4096;
            r.state_bytes = STATE_BYTES_MIN;
            r.writes_acknowledged = WRITES_ACKNOWLEDGED_MIN;
            r.proxy_payload_bytes = r.wire_bytes_max();
        });
        assert_eq!(failed, Vec::<String>::new());
    }

    #[test]
    fn missed_goals_are_named_and_do_not_decide() {
        let mut report = good();
        report.rss_growth_bytes = RSS_GROWTH_BYTES_MAX + 1;
        report.elections_during_undisturbed_join = 1;
        assert!(report.ok());
        assert_eq!(report.missed().len(), 2);
    }

    #[test]
    fn the_json_report_carries_the_verdict_and_every_promised_figure() {
        let document: serde_json::Value = serde_json::from_str(&good().to_json()).unwrap();
        assert_eq!(document["ok"], true);
        for field in "nodes records state_bytes snapshot_bytes snapshot_message_bytes cuts kills \
            resumes resent_bytes resent_bytes_max_allowed discarded_bytes proxy_payload_bytes \
            join_seconds join_seconds_undisturbed mib_per_second_undisturbed \
            cp_sync_mib_per_second rss_growth_bytes elections_during_undisturbed_join \
            writes_acknowledged writes_lost digests"
            .split_whitespace()
        {
            assert!(!document[field].is_null(), "{field} is missing");
        }
        assert_eq!(document["digests"]["5"], "ab12");
    }

    #[test]
    fn the_table_ends_with_the_verdict() {
        assert!(good().table().ends_with("\nok"));
        let mut report = good();
        report.writes_lost = 2;
        let text = report.table();
        assert!(text.contains("FAILED: 2 acknowledged writes were lost"));
        assert!(text.ends_with("NOT OK"));
    }
}
