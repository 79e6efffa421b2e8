//! Writes and linearizable reads of small records: rate, latency and cost of a three-node cluster,
//! beside etcd on the same machine and beside a bare fdatasync, all in one run.
//!
//! Real processes, mutual TLS, every write synced on a majority. docs/benches.md says how to read
//! the table. Never a test: it asserts no figure.

mod etcd;
mod figures;
mod load;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod yardstick;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use etcd::Etcd;
use figures::Figures;
use load::{Load, Operation, Through};
use store::Store;
use support::arguments::{Arguments, Flag};
use support::cluster::Cluster;
use support::machine::Machine;
use support::{Failed, report};

/// Nodes of each cluster.
const NODES: usize = 3;
/// Clients that share a connection. With more, one HTTP/2 connection would be what is measured.
const CLIENTS_PER_CONNECTION: usize = 64;
/// Clients of the reads, and of the writes through all nodes.
const CLIENTS: usize = 64;

const FLAGS: &[Flag] = &[
    Flag { name: "clients", default: "1,64,512", meaning: "clients of the puts, in turn" },
    Flag { name: "seconds", default: "3", meaning: "length of one measurement" },
    Flag { name: "warm-up", default: "1", meaning: "seconds of load before each" },
    Flag { name: "keys", default: "10000", meaning: "keys written and read, at random" },
    Flag { name: "value-bytes", default: "256", meaning: "bytes of a value, at random" },
    Flag { name: "etcd", default: "etcd", meaning: "etcd's program; left out if there is none" },
];

#[tokio::main]
async fn main() -> ExitCode {
    report::finish(run()).await
}

/// What is measured, from the flags.
struct Plan {
    runs: usize,
    loads: Vec<Load>,
    warm_up: Duration,
    length: Duration,
    keys: usize,
    value_bytes: usize,
    json: Option<PathBuf>,
}

impl Plan {
    fn of(arguments: &Arguments) -> Result<Plan, Failed> {
        let puts = numbers(arguments.text("clients"))?;
        let mut loads: Vec<Load> = puts
            .into_iter()
            .map(|clients| Load { operation: Operation::Put, clients, through: Through::Leader })
            .collect();
        for operation in [Operation::Put, Operation::Get] {
            loads.push(Load { operation, clients: CLIENTS, through: Through::All });
        }
        loads.push(Load { operation: Operation::Get, clients: CLIENTS, through: Through::Leader });
        Ok(Plan {
            runs: arguments.runs()?,
            loads,
            warm_up: Duration::from_secs_f64(arguments.number("warm-up", 0.1)?),
            length: Duration::from_secs_f64(arguments.number("seconds", 0.1)?),
            keys: arguments.number("keys", 1)?,
            value_bytes: arguments.number("value-bytes", 1)?,
            json: arguments.json(),
        })
    }
}

/// A list of numbers above 0, separated by commas.
fn numbers(text: &str) -> Result<Vec<usize>, Failed> {
    let parse = |part: &str| part.trim().parse().ok().filter(|number| *number > 0);
    let numbers: Option<Vec<usize>> = text.split(',').map(parse).collect();
    Ok(numbers.ok_or_else(|| format!("{text}: not a list like 1,64,512"))?)
}

async fn run() -> Result<(), Failed> {
    let arguments = match Arguments::parse(FLAGS)? {
        Ok(arguments) => arguments,
        Err(help) => {
            report::help(&help);
            return Ok(());
        }
    };
    let plan = Plan::of(&arguments)?;
    let directory = arguments.directory()?;
    let machine = Machine::look(directory.path());
    machine.lines().iter().for_each(report::line);

    report::line("starting three nodes of ratoon");
    let mut stores = vec![Store::ratoon(
        Cluster::start(arguments.text("program"), directory.path(), NODES).await?,
    )];
    let mut notes = Vec::new();
    match Etcd::start(arguments.text("etcd"), directory.path(), NODES).await? {
        Some(etcd) => {
            report::line(format!("started three nodes of {}", etcd.version()));
            stores.push(Store::etcd(etcd));
        }
        None => notes.push(
            "etcd is not installed, so nothing is compared with it; Debian: apt-get install \
             etcd-server"
                .to_owned(),
        ),
    }
    for store in &mut stores {
        report::line(format!("{}: writing {} keys", store.name(), plan.keys));
        load::fill(store, plan.keys, plan.value_bytes).await?;
    }
    let mut figures = Figures::default();
    for run in 1..=plan.runs {
        figures
            .add_yardstick(yardstick::run(directory.path(), plan.value_bytes, plan.length).await?);
        for load in &plan.loads {
            // In turn, so that whatever else the machine does disturbs all alike.
            for store in &mut stores {
                let measured = load::measure(store, load, &plan).await?;
                report::line(format!("run {run}: {}, {load}: {measured}", store.name()));
                figures.add(store.name(), load, measured);
            }
        }
    }
    notes.extend(figures.comparisons());
    report::result(&machine.lines(), figures::COLUMNS, figures.rows(), &notes);
    if let Some(path) = &plan.json {
        report::write_json(path, "writes", &figures.document(&machine, &notes))?;
    }
    Ok(())
}
