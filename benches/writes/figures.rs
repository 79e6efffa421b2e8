//! All measurements of a run of the benchmark, and how they are shown: rows, comparisons, JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::load::{Load, Measured};
use super::support::machine::Machine;
use super::support::report::{Spread, digits, shown};
use super::yardstick::Appends;

/// The columns of the table.
pub const COLUMNS: &[&str] = &[
    "load",
    "store",
    "operations/s",
    "p50 ms",
    "p99 ms",
    "CPU us/op, nodes",
    "CPU us/op, clients",
    "log syncs/op",
    "disk bytes/op",
];

/// Name of the yardstick's row.
const YARDSTICK: &str = "append and fdatasync, 1 writer";

/// Figures by load and store, in the order of their first measurement.
#[derive(Default)]
pub struct Figures {
    yardstick: Vec<Appends>,
    order: Vec<(Load, String)>,
    measured: BTreeMap<String, Vec<Measured>>,
}

/// One row, for machines.
#[derive(Serialize)]
struct Row {
    load: String,
    store: String,
    operations_per_second: Option<Spread>,
    p50_milliseconds: Option<Spread>,
    p99_milliseconds: Option<Spread>,
    nodes_cpu_microseconds_per_operation: Option<Spread>,
    clients_cpu_microseconds_per_operation: Option<Spread>,
    leader_log_syncs_per_operation: Option<Spread>,
    disk_bytes_per_operation: Option<Spread>,
}

fn place(load: &Load, store: &str) -> String {
    format!("{load}; {store}")
}

impl Figures {
    /// Takes a run of the yardstick.
    pub fn add_yardstick(&mut self, appends: Appends) {
        self.yardstick.push(appends);
    }

    /// Takes a measurement.
    pub fn add(&mut self, store: &str, load: &Load, measured: Measured) {
        let key = (*load, store.to_owned());
        if !self.order.contains(&key) {
            self.order.push(key);
        }
        self.measured.entry(place(load, store)).or_default().push(measured);
    }

    fn spread(
        &self,
        load: &Load,
        store: &str,
        figure: impl Fn(&Measured) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.measured.get(&place(load, store))?.iter().map(figure))
    }

    fn row(&self, load: &Load, store: &str) -> Row {
        let spread = |figure: fn(&Measured) -> f64| self.spread(load, store, figure);
        Row {
            load: load.to_string(),
            store: store.to_owned(),
            operations_per_second: spread(|measured| measured.rate),
            p50_milliseconds: spread(|measured| measured.milliseconds(0.5)),
            p99_milliseconds: spread(|measured| measured.milliseconds(0.99)),
            nodes_cpu_microseconds_per_operation: spread(|m| m.servers_cpu_microseconds),
            clients_cpu_microseconds_per_operation: spread(|m| m.client_cpu_microseconds),
            leader_log_syncs_per_operation: spread(|measured| measured.syncs),
            disk_bytes_per_operation: spread(|measured| measured.disk_bytes),
        }
    }

    fn all(&self) -> Vec<Row> {
        let yardstick = |figure: fn(&Appends) -> f64| Spread::of(self.yardstick.iter().map(figure));
        let quantile = |appends: &Appends, quantile| {
            appends.latencies.value_at_quantile(quantile) as f64 / 1000.0
        };
        let mut rows = vec![Row {
            load: YARDSTICK.to_owned(),
            store: "the disk".to_owned(),
            operations_per_second: yardstick(|appends| appends.rate),
            p50_milliseconds: Spread::of(self.yardstick.iter().map(|run| quantile(run, 0.5))),
            p99_milliseconds: Spread::of(self.yardstick.iter().map(|run| quantile(run, 0.99))),
            nodes_cpu_microseconds_per_operation: None,
            clients_cpu_microseconds_per_operation: None,
            leader_log_syncs_per_operation: None,
            disk_bytes_per_operation: None,
        }];
        rows.extend(self.order.iter().map(|(load, store)| self.row(load, store)));
        rows
    }

    /// The table's rows.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let cells = |row: Row| {
            let mut cells = vec![row.load, row.store];
            cells.extend(
                [
                    row.operations_per_second,
                    row.p50_milliseconds,
                    row.p99_milliseconds,
                    row.nodes_cpu_microseconds_per_operation,
                    row.clients_cpu_microseconds_per_operation,
                    row.leader_log_syncs_per_operation,
                    row.disk_bytes_per_operation,
                ]
                .map(shown),
            );
            cells
        };
        self.all().into_iter().map(cells).collect()
    }

    /// The first store beside each other one, load by load: rate, p99 and processor time as ratios
    /// of medians.
    pub fn comparisons(&self) -> Vec<String> {
        let Some((_, own)) = self.order.first() else { return Vec::new() };
        let others = self.order.iter().filter(|(_, store)| store != own);
        let compare = |(load, other): &(Load, String)| {
            let ratio = |figure: fn(&Measured) -> f64| {
                let of = |store: &str| Some(self.spread(load, store, figure)?.median);
                Some(digits(of(own)? / of(other)?))
            };
            Some(format!(
                "{load}: {own} has {}x the rate of {other}, {}x its p99, {}x its processor time",
                ratio(|measured| measured.rate)?,
                ratio(|measured| measured.milliseconds(0.99))?,
                ratio(|measured| measured.servers_cpu_microseconds)?,
            ))
        };
        others.filter_map(compare).collect()
    }

    /// Everything, for machines.
    pub fn document(&self, machine: &Machine, notes: &[String]) -> impl Serialize {
        serde_json::json!({ "machine": machine, "rows": self.all(), "notes": notes })
    }
}
