//! A joiner whose disk is too small: it says so, harms nobody, and goes on once there is room.
//!
//! The joiner's data lies on a small tmpfs. Mounting needs root; where that is not given the test
//! fails with that reason, because a full disk that was never tried is no pass.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Cluster, tree};

const MIB: u64 = 1 << 20;
/// What the joiner leaves free on its disk.
const RESERVE: &str = "storage.disk_reserve_bytes=16777216";

/// A mounted tmpfs; unmounted when it is dropped, which should be before its directory is removed.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: PathBuf, bytes: u64) -> SmallDisk {
        fs::create_dir_all(&path).expect("the mount point is made");
        let size = format!("size={bytes}");
        let arguments = ["-t", "tmpfs", "-o", &size, "ratoon-test"].map(AsRef::as_ref);
        run("mount", &[&arguments[..], &[path.as_os_str()]].concat());
        SmallDisk { path }
    }

    fn resize(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        run("mount", &["-o".as_ref(), options.as_ref(), self.path.as_os_str()]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a node of a failed test may still have files open in it. If it fails there
        // is nothing left to do, and the machine's own clean-up will find it.
        let _unmounted = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
    let output = Command::new(program).args(arguments).output().expect("the program runs");
    assert!(
        output.status.success(),
        "`{program} {arguments:?}` failed; this test needs the right to mount a tmpfs: run it as \
         root, or in a user namespace that may mount: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A cluster of one with about `bytes` of content, and a second node, not joined, on a small disk.
fn with_small_disk(bytes: u64, disk_bytes: u64) -> (SmallDisk, Cluster, usize) {
    let mut cluster = Cluster::of_one(&[]);
    let input = tree::make_random(cluster.directory(), bytes, "full");
    cluster.import(&input, "lab/files");
    let second = cluster.add();
    let disk = SmallDisk::mount(cluster.node(second).data.clone(), disk_bytes);
    cluster.node_mut(second).settings.push(RESERVE.to_owned());
    (disk, cluster, second)
}

/// Waits until the joiner says that its disk is full, with figures.
fn wait_until_full(cluster: &mut Cluster, joiner: usize) -> String {
    let stalled = cluster.wait_for_pull(joiner, "stalled by a full disk", |pull| {
        assert!(!pull.is_installed(), "the disk is not small enough: {pull:?}");
        pull.text("stall_reason").starts_with("disk full")
    });
    let reason = stalled.text("stall_reason").to_owned();
    assert!(reason.contains("needed") && reason.contains("free"), "{reason}");
    reason
}

#[test]
fn a_join_that_does_not_fit_is_refused_before_a_byte_is_pulled_and_ends_once_it_fits() {
    let (disk, mut cluster, second) = with_small_disk(40 * MIB, 40 * MIB);
    cluster.join_again(second);
    wait_until_full(&mut cluster, second);
    let told = cluster.pull_of(second).expect("it has said so before");
    assert_eq!(told.number("done_bytes"), 0, "{told:?}");
    // The leader has room and goes on.
    cluster.put("lab/files", "written while the joiner waits", "yes");

    disk.resize(256 * MIB);
    let done = cluster.wait_until_installed(second);
    assert_eq!(done.number("resent_bytes"), 0, "{done:?}");
    cluster.wait_until_equal();
    cluster.node_mut(second).kill();
    drop(disk);
}

#[test]
fn a_disk_that_fills_up_during_a_join_stops_it_and_room_lets_it_go_on_where_it_was() {
    let (disk, mut cluster, second) = with_small_disk(40 * MIB, 96 * MIB);
    cluster.node_mut(second).settings.push("bulk.bytes_per_second_max=8388608".to_owned());
    cluster.join_again(second);
    cluster.wait_until_pulling(second, 4 * MIB);
    // Somebody else takes the rest of the disk.
    take_all_but(&cluster.node(second).data, 24 * MIB);
    wait_until_full(&mut cluster, second);
    let before = cluster.pull_of(second).expect("it has said so before").number("done_bytes");
    assert!(before >= 4 * MIB, "{before}");
    cluster.put("lab/files", "written while the joiner waits", "yes");

    // A restart in this state changes nothing: it says so again and keeps what it has.
    cluster.node_mut(second).kill();
    cluster.start(second);
    wait_until_full(&mut cluster, second);
    cluster.node_mut(second).assert_runs();

    disk.resize(512 * MIB);
    let done = cluster.wait_until_installed(second);
    assert!(done.number("resumed_from_bytes") >= 4 * MIB, "{done:?}");
    assert!(done.number("resent_bytes") <= 4 * MIB, "{done:?}");
    assert_eq!(done.number("discarded_bytes"), 0, "{done:?}");
    cluster.wait_until_equal();
    cluster.node_mut(second).kill();
    drop(disk);
}

/// Fills the file system of `directory` with a file until only so many bytes are free.
fn take_all_but(directory: &Path, free_bytes: u64) {
    let system = rustix::fs::statvfs(directory).expect("the file system can be asked");
    let free = system.f_bavail * system.f_frsize;
    let taken = free.checked_sub(free_bytes).expect("there is more free than that");
    let content = vec![1_u8; usize::try_from(taken).expect("it fits memory")];
    fs::write(directory.join("somebody-elses-file"), content).expect("it fits the disk");
}
