//! A file system that forgets, when the power fails, what was not synced: for running real nodes on it.
//!
//! Mounted through FUSE and served by threads of this process. Bytes are durable after a sync of their
//! file, names after a sync of their directory, in the strict reading of POSIX: the sync of a file does
//! not make its name durable. It never forgets what was synced, and it does not outlive its process.

mod content;
mod disk;
mod journal;
mod loss;
mod names;
mod server;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};

use fuser::{BackgroundSession, Config, MountOption};

pub use disk::Refusal;
use disk::{Disk, Owner, read, write};
use server::Server;

/// Threads that serve one mount.
const SERVER_THREADS: usize = 4;

/// A mounted file system; dropping it unmounts.
pub struct PowerFs {
    at: PathBuf,
    disk: Arc<RwLock<Disk>>,
    /// Serves until it is dropped, which is after the mount was taken away.
    _session: BackgroundSession,
}

/// What one power loss took away.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Losses {
    /// Blocks of 4 KiB that were not synced and did not survive.
    pub blocks_lost: u64,
    /// Changes of names that were not synced and did not survive.
    pub entries_lost: u64,
    /// Files that had a name and have none any more.
    pub files_lost: u64,
    /// Files that had no name any more and have one again.
    pub files_returned: u64,
}

/// How often programs synced since the mount.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SyncCounts {
    /// Syncs of files, writes to a file opened for synchronous writing included.
    pub files: u64,
    /// Syncs of directories.
    pub directories: u64,
}

impl PowerFs {
    /// Whether this machine lets us mount; if not, why.
    pub fn is_available() -> Result<(), String> {
        let attempt = || {
            let directory = tempfile::tempdir()?;
            let at = directory.path().join("mount");
            fs::create_dir(&at)?;
            PowerFs::mount(&directory.path().join("backing"), &at).map(drop)
        };
        attempt().map_err(|error: io::Error| format!("no FUSE file system can be mounted: {error}"))
    }

    /// Mounts an empty file system at the directory `at`. Its bytes go to `backing`, a directory that is
    /// made or is empty, belongs to it alone, and means nothing to anyone afterwards.
    pub fn mount(backing: &Path, at: &Path) -> io::Result<PowerFs> {
        fs::create_dir_all(backing)?;
        if fs::read_dir(backing)?.next().is_some() {
            let reason = format!("{} is not empty", backing.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        let owner = Owner { user: user.as_raw(), group: group.as_raw() };
        let disk = Arc::new(RwLock::new(Disk::new(backing, owner)));
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("power".to_owned()), MountOption::DefaultPermissions];
        config.n_threads = Some(SERVER_THREADS);
        let session = fuser::spawn_mount(Server::new(disk.clone()), at, &config)?;
        Ok(PowerFs { at: at.to_path_buf(), disk, _session: session })
    }

    /// Takes the file system to a state that a power loss may leave, chosen by `seed`. Programs that use
    /// it must be dead: whatever is still open fails from then on.
    pub fn lose_power(&self, seed: u64) -> io::Result<Losses> {
        write(&self.disk).lose_power(seed)
    }

    /// How often programs synced since the mount.
    pub fn sync_counts(&self) -> SyncCounts {
        let disk = read(&self.disk);
        SyncCounts {
            files: disk.file_syncs.load(Ordering::Relaxed),
            directories: disk.directory_syncs.load(Ordering::Relaxed),
        }
    }

    /// Leaves room for `free` bytes from now on; what goes beyond is refused as on a full disk. `None`
    /// takes the limit away.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        read(&self.disk).set_free_bytes(free);
    }

    /// Refuses the next `count` changes, as a disk that is broken or full: writes, cuts, syncs, and
    /// changes of names. What is refused does not happen.
    pub fn refuse_next(&self, count: u64, refusal: Refusal) {
        read(&self.disk).refuse_next(count, refusal);
    }
}

impl Drop for PowerFs {
    fn drop(&mut self) {
        // Detached even if a program still has a file open; if that fails, dropping the session
        // unmounts in the ordinary way.
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}
