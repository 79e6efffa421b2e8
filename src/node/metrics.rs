//! The node's metrics, as OpenMetrics text, from its status.
//!
//! Pure: what is shown is handed in. docs/operating/metrics.md describes every name, and
//! `tests/tidy.rs` compares the two.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::proto::v1;

/// Start of every name.
const PREFIX: &str = "ratoon";

/// What the metrics are made of.
pub(super) struct Sources {
    /// The node's own status.
    pub status: v1::NodeStatus,
    /// Whether it knows who leads.
    pub leader_known: bool,
    /// Whether `/readyz` says so.
    pub ready: bool,
    /// Bytes of the block cache in use.
    pub block_cache_bytes: u64,
    /// Bytes of writes not yet in files.
    pub memtable_bytes: u64,
    /// Syncs of the raft log since the start.
    pub log_syncs: u64,
}

/// One metric of this moment: its whole name, what it means, its value. What a name ends with says
/// its kind: `_bytes`, `_total` of a counter, else a plain gauge.
type Metric = (&'static str, &'static str, u64);

/// All metrics of this moment.
pub(super) fn render(sources: &Sources) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    let all = [consensus(sources), sizes(sources), pull(&sources.status)];
    for metric in all.into_iter().flatten() {
        register(&mut registry, metric);
    }
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a string does not fail");
    text
}

/// The library puts prefix, unit and `_total` around the name itself.
fn register(registry: &mut Registry, (name, help, value): Metric) {
    let name = name.strip_prefix(PREFIX).and_then(|name| name.strip_prefix('_')).unwrap_or(name);
    let gauge = || ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    if let Some(counter) = name.strip_suffix("_total") {
        registry.register(counter, help, ConstCounter::new(value));
    } else if let Some(size) = name.strip_suffix("_bytes") {
        registry.register_with_unit(size, help, Unit::Bytes, gauge());
    } else {
        registry.register(name, help, gauge());
    }
}

fn consensus(sources: &Sources) -> Vec<Metric> {
    let status = &sources.status;
    let leads = status.role() == v1::NodeRole::Leader;
    vec![
        ("ratoon_ready", "1 while the node serves.", u64::from(sources.ready)),
        ("ratoon_raft_leader_known", "1 while it knows a leader.", u64::from(sources.leader_known)),
        ("ratoon_raft_is_leader", "1 on the leader.", u64::from(leads)),
        ("ratoon_raft_term", "Newest raft term seen.", status.term),
        ("ratoon_raft_first_index", "First index of the log.", status.first_index),
        ("ratoon_raft_last_index", "Last index of the log.", status.last_index),
        ("ratoon_raft_commit_index", "Highest committed index.", status.commit_index),
        ("ratoon_raft_applied_index", "Last applied index.", status.applied_index),
        ("ratoon_raft_flushed_index", "Index that no crash takes back.", status.flushed_index),
        ("ratoon_raft_log_syncs_total", "Syncs of the raft log.", sources.log_syncs),
        ("ratoon_elections_total", "Elections seen won.", status.elections),
        ("ratoon_pins", "Receivers for which log entries are kept.", status.pins.len() as u64),
    ]
}

fn sizes(sources: &Sources) -> Vec<Metric> {
    let status = &sources.status;
    vec![
        ("ratoon_raft_log_bytes", "Bytes of the raft log.", status.log_bytes),
        ("ratoon_state_bytes", "Bytes of the state database.", status.state_bytes),
        ("ratoon_free_bytes", "Free bytes beside the data.", status.free_bytes),
        ("ratoon_block_cache_bytes", "Block cache in use.", sources.block_cache_bytes),
        ("ratoon_memtables_bytes", "Writes not yet in files.", sources.memtable_bytes),
        ("ratoon_resident_memory_bytes", "Resident memory.", status.resident_bytes),
    ]
}

/// Of the pull under way; zeroes while there is none.
fn pull(status: &v1::NodeStatus) -> Vec<Metric> {
    let under_way = status.transfers.iter().find(|transfer| transfer.finished_unix_ms == 0);
    let is_pulling = under_way.is_some();
    let pull = under_way.cloned().unwrap_or_default();
    let stalled = !pull.stall_reason.is_empty();
    vec![
        ("ratoon_pulling", "1 while it pulls a snapshot.", u64::from(is_pulling)),
        ("ratoon_pull_stalled", "1 while the pull stands still.", u64::from(stalled)),
        ("ratoon_pull_resumes", "How often it was resumed.", pull.resumes),
        ("ratoon_pull_total_bytes", "Bytes of the snapshot.", pull.total_bytes),
        ("ratoon_pull_done_bytes", "Bytes of it staged.", pull.done_bytes),
        (
            "ratoon_pull_resumed_from_bytes",
            "Bytes there when it was last resumed.",
            pull.resumed_from_bytes,
        ),
        ("ratoon_pull_resent_bytes", "Bytes of it that came again.", pull.resent_bytes),
        ("ratoon_pull_discarded_bytes", "Bytes given up for another.", pull.discarded_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_shown_under_its_whole_name() {
        let transfer = v1::Transfer {
            resumes: 2,
            resumed_from_bytes: 77,
            stall_reason: "the source is silent".into(),
            ..Default::default()
        };
        let status = v1::NodeStatus {
            transfers: vec![transfer],
            pins: vec![v1::Pin::default()],
            log_bytes: 5,
            elections: 3,
            free_bytes: 9,
            ..Default::default()
        };
        let sources = Sources {
            status,
            leader_known: true,
            ready: false,
            block_cache_bytes: 0,
            memtable_bytes: 0,
            log_syncs: 4,
        };
        let text = render(&sources);
        let all = [consensus(&sources), sizes(&sources), pull(&sources.status)];
        for (name, _, value) in all.into_iter().flatten() {
            assert!(text.contains(&format!("\n{name} {value}\n")), "{name} is not in\n{text}");
        }
        for line in ["ratoon_pull_stalled 1", "ratoon_pins 1", "ratoon_elections_total 3"] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
