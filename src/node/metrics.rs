//! The node's metrics, as Prometheus text, from its status.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::shared::Shared;
use crate::proto::v1;

/// All metrics of this moment. Names are listed in docs/operating/metrics.md.
pub(super) fn render(status: &v1::NodeStatus, shared: &Shared) -> String {
    let mut registry = Registry::with_prefix("ratoon");
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let is_leader = status.role() == v1::NodeRole::Leader;
    let gauges = [
        ("raft_term", "Newest raft term seen.", status.term),
        ("raft_is_leader", "1 on the leader.", u64::from(is_leader)),
        ("raft_first_index", "First index of the log.", status.first_index),
        ("raft_last_index", "Last index of the log.", status.last_index),
        ("raft_commit_index", "Highest committed index.", status.commit_index),
        ("raft_applied_index", "Last applied index.", status.applied_index),
        ("raft_flushed_index", "Index that no crash takes back.", status.flushed_index),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, ConstGauge::new(number(value)));
    }
    let sizes = [
        ("raft_log", "Bytes of the raft log.", status.log_bytes),
        ("state", "Bytes of the state database.", status.state_bytes),
        (
            "block_cache",
            "Bytes of the block cache in use.",
            shared.databases.block_cache_used_bytes(),
        ),
        ("memtables", "Bytes of unflushed writes.", shared.databases.memtable_used_bytes()),
        ("resident_memory", "Resident memory of the process.", status.resident_bytes),
    ];
    for (name, help, value) in sizes {
        registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(number(value)));
    }
    registry.register("elections", "Elections seen won.", ConstCounter::new(status.elections));
    registry.register(
        "raft_log_syncs",
        "Syncs of the raft log.",
        ConstCounter::new(shared.log.sync_count()),
    );
    let pull = status.transfers.iter().find(|transfer| transfer.finished_unix_ms == 0);
    let pull = pull.cloned().unwrap_or_default();
    for (name, help, value) in [
        ("pull_total", "Bytes of the snapshot being pulled.", pull.total_bytes),
        ("pull_done", "Bytes of it staged.", pull.done_bytes),
        ("pull_resent", "Bytes of it that arrived more than once.", pull.resent_bytes),
        ("pull_discarded", "Bytes given up for another snapshot.", pull.discarded_bytes),
    ] {
        registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(number(value)));
    }
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a string does not fail");
    text
}
