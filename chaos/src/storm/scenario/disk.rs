//! Storms of disks: the disk of a node that pulls fills up in the middle, and gets room again.
//!
//! The joiner's data lies on a small tmpfs of its own; mounting it needs root, and where that is not
//! given the storm says so and counts as incomplete.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Stage;
use crate::storm::net::Number;

/// What happens to disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// The joiner's disk is full for a while.
    Full,
}

/// What the joiner leaves free on its disk for its log.
const RESERVE: &str = "storage.disk_reserve_bytes=16777216";
/// The disk at first: too small for the state.
const SMALL_BYTES: u64 = 40 << 20;
/// The disk on which the state fits, until somebody else takes the rest of it.
const MIDDLE_BYTES: u64 = 96 << 20;
/// The disk in the end.
const LARGE_BYTES: u64 = 1 << 30;
/// What somebody else leaves of the disk.
const LEFT_BYTES: u64 = 24 << 20;
/// Bytes pulled before somebody else takes the rest of the disk.
const BYTES_FIRST: u64 = 4 << 20;

/// Plays a story until its time is over.
pub async fn play(story: Story, stage: &mut Stage) -> Result<()> {
    let Story::Full = story;
    let mut round: u64 = 0;
    while stage.goes_on() {
        let number = stage.world.add().await?;
        let at = stage.world.directory().join(format!("disk-{number}"));
        let bytes = if round.is_multiple_of(2) { SMALL_BYTES } else { MIDDLE_BYTES };
        let disk = match SmallDisk::mount(at, bytes) {
            Ok(disk) => disk,
            Err(error) => {
                stage.missing.push(format!("a small disk: {error:#}"));
                return Ok(());
            }
        };
        let process = &mut stage.world.node(number).process;
        process.keeps_data_in(disk.path.join("data"));
        let mut settings = process.settings().to_vec();
        settings.push(RESERVE.to_owned());
        process.set(&settings);
        stage.world.enrol(number).await?;
        full(stage, number, &disk, bytes == MIDDLE_BYTES).await?;
        stage.world.wait_until_joined(number).await?;
        stage.compare().await?;
        stage.world.remove(number).await?;
        round += 1;
    }
    Ok(())
}

/// Lets the disk be full, now or in the middle of the pull, and gives it room again.
async fn full(
    stage: &mut Stage,
    number: Number,
    disk: &SmallDisk,
    is_in_the_middle: bool,
) -> Result<()> {
    if is_in_the_middle {
        stage.world.wait_for_pull(number, |pulled| pulled.newest.done_bytes >= BYTES_FIRST).await?;
        disk.take_all_but(LEFT_BYTES)?;
    }
    let kind = if is_in_the_middle { "disk fills up" } else { "disk too small" };
    let fault = stage.world.timeline.begin(kind, format!("node {number}"));
    stage.world.watch.disturb();
    let stalled = stage
        .world
        .wait_for_pull(number, |pulled| pulled.newest.stall_reason.starts_with("disk full"))
        .await?
        .context("the disk was not small enough")?;
    stage.world.timeline.note(format!("node {number}: {}", stalled.newest.stall_reason));
    // A restart in this state changes nothing.
    if stage.random().chance(500) {
        stage.world.kill(number).await?;
        stage.world.start_process(number)?;
    }
    stage.pause(1_000, 6_000).await?;
    disk.resize(LARGE_BYTES)?;
    stage.world.timeline.end(fault);
    let done = stalled.newest.done_bytes;
    stage.world.wait_for_pull(number, |pulled| pulled.newest.done_bytes > done).await?;
    stage.world.timeline.recovered(fault);
    stage.world.sleep(Duration::from_secs(1)).await
}

/// A mounted tmpfs; unmounted when it is dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: PathBuf, bytes: u64) -> Result<SmallDisk> {
        std::fs::create_dir_all(&path)?;
        let options = format!("size={bytes}");
        run("mount", &["-t", "tmpfs", "-o", &options, "ratoon-storm"], &path)?;
        Ok(SmallDisk { path })
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        run("mount", &["-o", &format!("remount,size={bytes}")], &self.path)
    }

    /// Fills it with a file until only so many bytes are free.
    fn take_all_but(&self, free_bytes: u64) -> Result<()> {
        let system = rustix::fs::statvfs(&self.path)?;
        let free = system.f_bavail * system.f_frsize;
        let taken = usize::try_from(free.saturating_sub(free_bytes))?;
        Ok(std::fs::write(self.path.join("somebody-elses-file"), vec![1_u8; taken])?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a node may still have files open in it; if it fails, nothing is left to
        // do, and the machine's own clean-up will find it.
        let _unmounted = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Result<()> {
    let output = Command::new(program).args(arguments).arg(path).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program}` refused (it needs root): {}", told.trim());
    Ok(())
}
