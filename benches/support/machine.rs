//! The machine a benchmark runs on, as far as it decides the figures, and whether it is busy.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// A machine is called busy when its load a core is above this before anything begins.
const IDLE_LOAD_PER_CORE_MAX: f64 = 0.25;
/// Names of file systems by the number that statfs(2) tells.
const FILE_SYSTEMS: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0x794c_7630, "overlayfs"),
    (0x0102_1994, "tmpfs"),
];
/// The one of them on which a sync costs nothing.
const IN_MEMORY: &str = "tmpfs";

/// What stands above the figures.
#[derive(Serialize)]
pub struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    file_system: String,
    /// Before anything was started: 1, 5 and 15 minutes.
    load_average: [f64; 3],
    ratoon: &'static str,
    profile: &'static str,
}

impl Machine {
    /// Looks around; `directory` is where the data will be.
    pub fn look(directory: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
        let processor = model.map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned());
        let loads = read("/proc/loadavg");
        let mut loads = loads.split_whitespace().filter_map(|word| word.parse().ok());
        Machine {
            processor: processor.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(directory),
            load_average: std::array::from_fn(|_| loads.next().unwrap_or(f64::NAN)),
            ratoon: env!("CARGO_PKG_VERSION"),
            profile: "dev: dependencies at opt-level 3, ratoon at 1 with overflow checks",
        }
    }

    /// For people, one line a fact, warnings last.
    pub fn lines(&self) -> Vec<String> {
        let [one, five, fifteen] = self.load_average;
        let mut lines = vec![
            format!("{} cores, {}, Linux {}", self.cores, self.processor, self.kernel),
            format!(
                "data on {}; ratoon {}, profile {}",
                self.file_system, self.ratoon, self.profile
            ),
            format!("load average before: {one:.2} {five:.2} {fifteen:.2}"),
        ];
        if one > IDLE_LOAD_PER_CORE_MAX * self.cores as f64 {
            lines.push("WARNING: the machine is busy; compare within this run only".to_owned());
        }
        if self.file_system == IN_MEMORY {
            lines.push("WARNING: the data is in memory, so that a sync costs nothing".to_owned());
        }
        lines
    }
}

fn file_system(directory: &Path) -> String {
    let Ok(found) = rustix::fs::statfs(directory) else { return "unknown".to_owned() };
    let kind = u64::from_ne_bytes(found.f_type.to_ne_bytes());
    let known = FILE_SYSTEMS.iter().find(|(number, _)| *number == kind);
    known.map_or_else(|| format!("{kind:#x}"), |(_, name)| (*name).to_owned())
}
