//! What the kernel says of this process.

/// Resident memory, bytes.
pub(super) struct Memory {
    pub resident_bytes: u64,
    /// The most since the process started, or since somebody reset it through /proc.
    pub resident_peak_bytes: u64,
}

/// Zeroes where /proc cannot be read: memory is shown, never relied on.
pub(super) fn memory() -> Memory {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Memory {
        resident_bytes: kib_field(&status, "VmRSS:"),
        resident_peak_bytes: kib_field(&status, "VmHWM:"),
    }
}

fn kib_field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}
