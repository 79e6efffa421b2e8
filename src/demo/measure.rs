//! Figures taken from the operating system: a process's memory, processor time and bytes written,
//! and the speed of a plain copy.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::limits::MIB;

/// Memory of a process, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Resident now.
    pub resident_bytes: u64,
    /// Most ever resident, or since the peak was reset.
    pub peak_bytes: u64,
}

/// Reads the memory of the process `pid`.
pub fn memory(pid: u32) -> io::Result<Memory> {
    parse_memory(&fs::read_to_string(format!("/proc/{pid}/status"))?)
}

/// Lets the peak of the process `pid` begin again at what is resident now.
pub fn reset_peak(pid: u32) -> io::Result<()> {
    // See proc_pid_clear_refs(5): 5 resets the peak resident set size.
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

fn parse_memory(status: &str) -> io::Result<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kibibytes = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
        let missing = || io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in status"));
        kibibytes.map(|kibibytes: u64| kibibytes.saturating_mul(1024)).ok_or_else(missing)
    };
    Ok(Memory { resident_bytes: field("VmRSS")?, peak_bytes: field("VmHWM")? })
}

/// Clock ticks of a second in the files of /proc; Linux shows people the same on all machines.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time that the process `pid` has used so far with all its threads, seconds.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    parse_cpu_seconds(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
}

fn parse_cpu_seconds(stat: &str) -> io::Result<f64> {
    // See proc_pid_stat(5). The name of the program, in brackets, may hold anything; user and
    // system time are the 12th and 13th field after it.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
    let mut times = after_name.unwrap_or_default().split_whitespace().skip(11).take(2);
    let mut next = || times.next()?.parse::<u64>().ok();
    match (next(), next()) {
        (Some(user), Some(system)) => Ok((user + system) as f64 / TICKS_PER_SECOND),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no processor time in stat")),
    }
}

/// Bytes that the process `pid` has had written to disks so far.
pub fn written_bytes(pid: u32) -> io::Result<u64> {
    parse_written_bytes(&fs::read_to_string(format!("/proc/{pid}/io"))?)
}

fn parse_written_bytes(io_text: &str) -> io::Result<u64> {
    let line = io_text.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    line.and_then(|rest| rest.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no write_bytes in io"))
}

/// How much was copied, and how long that took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copied {
    /// Bytes of all files.
    pub bytes: u64,
    /// With every file and the directory fsynced.
    pub took: Duration,
}

impl Copied {
    /// MiB (2^20 bytes) a second.
    pub fn mib_per_second(&self) -> f64 {
        self.bytes as f64 / MIB as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Copies the plain files of `from` into the new directory `to`, one after the other by read and
/// write, and fsyncs them all: what the disk and the page cache can do, without a network.
pub fn copy_and_sync(from: &Path, to: &Path) -> io::Result<Copied> {
    let started = Instant::now();
    let mut bytes = 0;
    let mut buffer = vec![0; MIB];
    let mut written = Vec::new();
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let mut source = File::open(entry.path())?;
        let mut target = File::create_new(to.join(entry.file_name()))?;
        loop {
            let length = source.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            target.write_all(&buffer[..length])?;
            bytes += length as u64;
        }
        written.push(target);
    }
    for file in &written {
        file.sync_all()?;
    }
    File::open(to)?.sync_all()?;
    Ok(Copied { bytes, took: started.elapsed() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_text() {
        let text = "Name:\tratoon\nVmPeak:\t  99 kB\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n";
        let expected = Memory { resident_bytes: 1 << 20, peak_bytes: 2 << 20 };
        assert_eq!(parse_memory(text).unwrap(), expected);
        for damaged in ["", "VmRSS: 5 kB", "VmRSS: x kB\nVmHWM: 1 kB", "VmRSS 5\nVmHWM: 1 kB"] {
            assert!(parse_memory(damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn processor_time_is_read_past_a_name_with_brackets_and_blanks() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194304 10 0 0 0 150 25 3 4 20 0 1 0 9 8 7";
        assert_eq!(parse_cpu_seconds(text).unwrap(), 1.75);
        for damaged in ["", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 4194304 10 0 0 0 x 25"] {
            assert!(parse_cpu_seconds(damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn bytes_written_to_disk_are_told_from_bytes_given_to_write() {
        let text = "rchar: 1\nwchar: 99\nsyscr: 1\nread_bytes: 5\nwrite_bytes: 4096\n";
        assert_eq!(parse_written_bytes(text).unwrap(), 4096);
        assert!(parse_written_bytes("wchar: 99\n").is_err());
    }

    #[test]
    fn the_peak_of_this_process_can_be_reset() {
        let pid = std::process::id();
        // Far more than all tests that run beside this one.
        let grown = std::hint::black_box(vec![1u8; 512 * MIB]);
        let before = memory(pid).unwrap();
        assert!(before.peak_bytes >= grown.len() as u64);
        drop(grown);
        reset_peak(pid).unwrap();
        assert!(memory(pid).unwrap().peak_bytes < before.peak_bytes - 256 * MIB as u64);
    }

    #[test]
    fn a_copy_is_equal_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let from = directory.path().join("from");
        fs::create_dir_all(from.join("inner")).unwrap();
        fs::write(from.join("one"), vec![7; 3 * MIB + 5]).unwrap();
        fs::write(from.join("two"), b"").unwrap();
        let to = directory.path().join("to");
        let copied = copy_and_sync(&from, &to).unwrap();
        assert_eq!(copied.bytes, 3 * MIB as u64 + 5);
        assert_eq!(fs::read(to.join("one")).unwrap(), fs::read(from.join("one")).unwrap());
        assert_eq!(fs::read(to.join("two")).unwrap(), b"");
        assert!(!to.join("inner").exists());
        assert!(copied.mib_per_second() > 0.0);
    }
}
