//! The file system itself: nodes, their names and contents, and who has them open.
//!
//! What a program sees is the current state; beside it stand the durable names of each directory, the
//! journal of changes between the two, and in each file what it takes to undo unsynced writes. It
//! keeps all that in memory and the bytes in one backing file a node, and knows nothing of the kernel.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo};

use super::content::{BLOCK_BYTES, Content};
use super::journal::Journal;

/// Number of the directory at the mount point.
pub const ROOT: u64 = 1;

/// What an operation on the file system comes to.
pub type Outcome<T> = Result<T, Errno>;

/// See the module.
pub struct Disk {
    /// Where the bytes are, in one file a node named by its number.
    backing: PathBuf,
    /// Every file and directory that is there now or may be there after a power loss.
    pub(super) nodes: BTreeMap<u64, Node>,
    /// Changes of names that are not durable.
    pub(super) journal: Journal,
    /// What is open. A power loss empties it, and what is still used then fails.
    pub(super) handles: BTreeMap<u64, Handle>,
    /// The last number given to a node or a handle; none is given twice.
    last_number: u64,
    /// Bytes all files may have together; `None` leaves it to the backing file system.
    capacity_bytes: Mutex<Option<u64>>,
    /// How many of the next changes are refused, and how.
    refused: Mutex<(u64, Refusal)>,
    /// Files synced since the mount.
    pub(super) file_syncs: AtomicU64,
    /// Directories synced since the mount.
    pub(super) directory_syncs: AtomicU64,
}

/// A file or a directory. Mode and owner are durable at once.
pub struct Node {
    /// Permissions.
    pub mode: u16,
    /// Owning user and group.
    pub owner: Owner,
    /// Names it has now.
    pub links: u32,
    /// Names it has in the durable directories.
    pub durable_links: u32,
    /// Changes in the journal that give it a name.
    pub pending_links: u32,
    /// Open handles.
    pub handles: u32,
    /// What it is.
    pub body: Body,
}

/// User and group.
#[derive(Clone, Copy)]
pub struct Owner {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
}

/// What a node is.
pub enum Body {
    /// A directory.
    Directory(Directory),
    /// A regular file.
    File(RwLock<Content>),
}

/// Names, with the numbers of their nodes.
pub struct Directory {
    /// As they are.
    pub names: BTreeMap<OsString, u64>,
    /// As they were at the last sync.
    pub durable: BTreeMap<OsString, u64>,
    /// When a name was added or removed last.
    pub modified: SystemTime,
}

/// Something open.
pub enum Handle {
    /// The number of a file.
    File(u64),
    /// The number of a directory, and what it held when its reading began.
    Directory(u64, Vec<(u64, FileType, OsString)>),
}

/// Which attributes change; `None` leaves one as it is.
#[derive(Default)]
pub struct Alteration {
    /// Permissions.
    pub mode: Option<u32>,
    /// Owning user.
    pub user: Option<u32>,
    /// Owning group.
    pub group: Option<u32>,
    /// Length of a file in bytes.
    pub size: Option<u64>,
    /// When the content changed last.
    pub modified: Option<SystemTime>,
}

/// How a disk refuses to change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// As a broken one: EIO.
    Broken,
    /// As a full one: ENOSPC.
    Full,
}

/// What `statfs` says, in blocks of `BLOCK_BYTES`.
pub struct Space {
    /// All blocks.
    pub blocks: u64,
    /// Blocks that are free.
    pub blocks_free: u64,
}

impl Disk {
    /// An empty file system of `owner` over the directory `backing`, which is empty as well.
    pub fn new(backing: &Path, owner: Owner) -> Self {
        let mut root = Node::new(0o755, owner, Body::Directory(Directory::new()));
        (root.links, root.durable_links) = (1, 1);
        Disk {
            backing: backing.to_path_buf(),
            nodes: BTreeMap::from([(ROOT, root)]),
            journal: Journal::default(),
            handles: BTreeMap::new(),
            last_number: ROOT,
            capacity_bytes: Mutex::new(None),
            refused: Mutex::new((0, Refusal::Broken)),
            file_syncs: AtomicU64::new(0),
            directory_syncs: AtomicU64::new(0),
        }
    }

    /// What `stat` says of a node.
    pub fn attributes(&self, number: u64) -> Outcome<FileAttr> {
        let node = self.node(number)?;
        let (size, modified) = match &node.body {
            Body::Directory(directory) => (BLOCK_BYTES, directory.modified),
            Body::File(content) => {
                let content = read(content);
                (content.size(), content.modified())
            }
        };
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: modified,
            mtime: modified,
            ctime: modified,
            crtime: modified,
            kind: node.kind(),
            perm: node.mode,
            nlink: node.links,
            uid: node.owner.user,
            gid: node.owner.group,
            rdev: 0,
            blksize: BLOCK_BYTES as u32,
            flags: 0,
        })
    }

    /// Changes attributes.
    pub fn alter(&mut self, number: u64, alteration: &Alteration) -> Outcome<()> {
        if let Some(size) = alteration.size {
            self.admit()?;
            let room = self.room()?;
            let mut content = write(self.content(number)?);
            room.check(size.saturating_sub(content.size()))?;
            content.set_size(size, SystemTime::now())?;
        }
        let node = self.node_mut(number)?;
        if let Some(mode) = alteration.mode {
            node.mode = mode as u16 & 0o7777;
        }
        node.owner.user = alteration.user.unwrap_or(node.owner.user);
        node.owner.group = alteration.group.unwrap_or(node.owner.group);
        if let Some(modified) = alteration.modified {
            match &mut node.body {
                Body::Directory(directory) => directory.modified = modified,
                Body::File(content) => write(content).set_modified(modified),
            }
        }
        Ok(())
    }

    /// Opens a file.
    pub fn open_file(&mut self, number: u64) -> Outcome<u64> {
        self.content(number)?;
        self.add_handle(number, Handle::File(number))
    }

    /// Opens a directory.
    pub fn open_directory(&mut self, number: u64) -> Outcome<u64> {
        self.directory(number)?;
        self.add_handle(number, Handle::Directory(number, Vec::new()))
    }

    /// Closes a handle. One that a power loss closed is closed already.
    pub fn release(&mut self, handle: u64) {
        let Some(handle) = self.handles.remove(&handle) else { return };
        let (Handle::File(number) | Handle::Directory(number, _)) = handle;
        if let Ok(node) = self.node_mut(number) {
            node.handles -= 1;
        }
        self.collect(number);
    }

    /// Up to `length` bytes of an open file.
    pub fn read(&self, handle: u64, offset: u64, length: u64) -> Outcome<Vec<u8>> {
        Ok(read(self.open_content(handle)?).read(offset, length)?)
    }

    /// Writes to an open file; `is_synced` as a file opened with `O_SYNC` is written.
    pub fn write(&self, handle: u64, offset: u64, bytes: &[u8], is_synced: bool) -> Outcome<()> {
        self.admit()?;
        let content = self.open_content(handle)?;
        let room = self.room()?;
        let mut content = write(content);
        room.check((offset + bytes.len() as u64).saturating_sub(content.size()))?;
        content.write(offset, bytes, SystemTime::now())?;
        if is_synced {
            content.sync();
            self.file_syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes the bytes of an open file durable, and not its name.
    pub fn sync_file(&self, handle: u64) -> Outcome<()> {
        self.admit()?;
        write(self.open_content(handle)?).sync();
        self.file_syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What an open directory holds from `offset` on: numbers, kinds and names. A reading that begins
    /// anew, at 0, sees what is there now.
    pub fn list(
        &mut self,
        handle: u64,
        offset: u64,
    ) -> Outcome<impl Iterator<Item = &(u64, FileType, OsString)>> {
        let Some(Handle::Directory(number, _)) = self.handles.get(&handle) else {
            return Err(Errno::EIO);
        };
        if offset == 0 {
            let number = *number;
            let names = &self.directory(number)?.names;
            let fresh = names.iter().map(|(name, child)| (*child, self.kind(*child), name.clone()));
            let fresh = fresh.collect();
            self.handles.insert(handle, Handle::Directory(number, fresh));
        }
        match self.handles.get(&handle) {
            Some(Handle::Directory(_, entries)) => Ok(entries.iter().skip(offset as usize)),
            _ => Err(Errno::EIO),
        }
    }

    /// Sets how many bytes may be added; `None` leaves it to the backing file system.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        let capacity = free.map(|free| self.used_bytes() + free);
        *lock(&self.capacity_bytes) = capacity;
    }

    /// Refuses the next `count` changes: writes, cuts, syncs, and changes of names.
    pub fn refuse_next(&self, count: u64, refusal: Refusal) {
        *lock(&self.refused) = (count, refusal);
    }

    /// How much there is and how much is free.
    pub fn space(&self) -> Outcome<Space> {
        if let Some(capacity) = *lock(&self.capacity_bytes) {
            let free = capacity.saturating_sub(self.used_bytes());
            let blocks = |bytes: u64| bytes / BLOCK_BYTES;
            return Ok(Space { blocks: blocks(capacity), blocks_free: blocks(free) });
        }
        let backing = rustix::fs::statvfs(&self.backing).map_err(io::Error::from)?;
        let blocks =
            |count: u64| (u128::from(count) * u128::from(backing.f_frsize)) as u64 / BLOCK_BYTES;
        Ok(Space { blocks: blocks(backing.f_blocks), blocks_free: blocks(backing.f_bavail) })
    }

    /// A node for a new file with an empty content.
    pub(super) fn new_file(&mut self, mode: u32, owner: Owner) -> Outcome<u64> {
        let number = self.next_number();
        let path = self.backing_path(number);
        let backing = File::options().read(true).write(true).create_new(true).open(path)?;
        let body = Body::File(RwLock::new(Content::new(backing, SystemTime::now())));
        self.nodes.insert(number, Node::new(mode, owner, body));
        Ok(number)
    }

    /// A node for a new, empty directory.
    pub(super) fn new_directory(&mut self, mode: u32, owner: Owner) -> u64 {
        let number = self.next_number();
        self.nodes.insert(number, Node::new(mode, owner, Body::Directory(Directory::new())));
        number
    }

    /// Forgets a node that has no name, is not open, and can get no name back.
    pub(super) fn collect(&mut self, number: u64) {
        let is_gone = self.nodes.get(&number).is_some_and(|node| {
            node.links + node.durable_links + node.pending_links + node.handles == 0
        });
        if is_gone {
            self.forget(number);
        }
    }

    /// Forgets a node, and its bytes.
    pub(super) fn forget(&mut self, number: u64) {
        if let Some(Node { body: Body::File(_), .. }) = self.nodes.remove(&number) {
            // Numbers are not used again: what cannot be removed costs room and nothing else.
            let _ = fs::remove_file(self.backing_path(number));
        }
    }

    /// Refuses a change if it is one of those to be refused.
    pub(super) fn admit(&self) -> Outcome<()> {
        let mut refused = lock(&self.refused);
        if refused.0 == 0 {
            return Ok(());
        }
        refused.0 -= 1;
        Err(match refused.1 {
            Refusal::Broken => Errno::EIO,
            Refusal::Full => Errno::ENOSPC,
        })
    }

    pub(super) fn node(&self, number: u64) -> Outcome<&Node> {
        // A number that is unknown now was known before: the kernel looks its name up again.
        self.nodes.get(&number).ok_or(Errno::ESTALE)
    }

    pub(super) fn node_mut(&mut self, number: u64) -> Outcome<&mut Node> {
        self.nodes.get_mut(&number).ok_or(Errno::ESTALE)
    }

    pub(super) fn directory(&self, number: u64) -> Outcome<&Directory> {
        match &self.node(number)?.body {
            Body::Directory(directory) => Ok(directory),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn directory_mut(&mut self, number: u64) -> Outcome<&mut Directory> {
        match &mut self.node_mut(number)?.body {
            Body::Directory(directory) => Ok(directory),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    /// The number that a directory has for a name.
    pub(super) fn find(&self, directory: u64, name: &OsStr) -> Outcome<u64> {
        self.directory(directory)?.names.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub(super) fn kind(&self, number: u64) -> FileType {
        self.nodes.get(&number).map_or(FileType::RegularFile, Node::kind)
    }

    fn content(&self, number: u64) -> Outcome<&RwLock<Content>> {
        match &self.node(number)?.body {
            Body::Directory(_) => Err(Errno::EISDIR),
            Body::File(content) => Ok(content),
        }
    }

    fn open_content(&self, handle: u64) -> Outcome<&RwLock<Content>> {
        match self.handles.get(&handle) {
            Some(Handle::File(number)) => self.content(*number),
            // The power was lost since it was opened.
            _ => Err(Errno::EIO),
        }
    }

    fn add_handle(&mut self, number: u64, handle: Handle) -> Outcome<u64> {
        self.node_mut(number)?.handles += 1;
        let key = self.next_number();
        self.handles.insert(key, handle);
        Ok(key)
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn backing_path(&self, number: u64) -> PathBuf {
        self.backing.join(number.to_string())
    }

    /// Sizes of all files that are there or open. It waits for those who write one.
    fn used_bytes(&self) -> u64 {
        let used = self.nodes.values().filter(|node| node.links + node.handles > 0);
        used.map(|node| match &node.body {
            Body::Directory(_) => 0,
            Body::File(content) => read(content).size(),
        })
        .sum()
    }

    /// The room that is left. Held until the write is done, so that no two take the same room; taken
    /// before any content is locked.
    fn room(&self) -> Outcome<Room<'_>> {
        let capacity = lock(&self.capacity_bytes);
        Ok(match *capacity {
            None => Room { free_bytes: u64::MAX, _held: None },
            Some(bytes) => {
                let free_bytes = bytes.saturating_sub(self.used_bytes());
                Room { free_bytes, _held: Some(capacity) }
            }
        })
    }
}

/// Room for writing.
struct Room<'a> {
    free_bytes: u64,
    _held: Option<MutexGuard<'a, Option<u64>>>,
}

impl Room<'_> {
    fn check(&self, growth_bytes: u64) -> Outcome<()> {
        if growth_bytes > self.free_bytes { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

impl Node {
    fn new(mode: u32, owner: Owner, body: Body) -> Self {
        Node {
            mode: mode as u16 & 0o7777,
            owner,
            links: 0,
            durable_links: 0,
            pending_links: 0,
            handles: 0,
            body,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    /// Whether it has no name any more.
    pub fn is_removed(&self) -> bool {
        self.links == 0
    }

    fn kind(&self) -> FileType {
        if self.is_directory() { FileType::Directory } else { FileType::RegularFile }
    }
}

impl Directory {
    fn new() -> Self {
        Directory { names: BTreeMap::new(), durable: BTreeMap::new(), modified: SystemTime::now() }
    }
}

/// Why a lock that is poisoned ends the thread that wants it.
const POISONED: &str = "no thread of the file system panics while it holds a lock";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect(POISONED)
}

pub(super) fn read<T>(content: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    content.read().expect(POISONED)
}

pub(super) fn write<T>(content: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    content.write().expect(POISONED)
}
