//! The requests of the kernel, each turned into an operation on the disk and its outcome into a reply.
//!
//! It decides nothing. What is not here the library refuses as not implemented, upon which the kernel
//! does it by itself: locks, access checks, seeking for holes, copying ranges; or does without: extended
//! attributes, links by symbol, space reserved in advance.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::content::BLOCK_BYTES;
use super::disk::{Alteration, Disk, Outcome, Owner, read, write};
use super::journal::Place;

/// The kernel remembers no name and no attribute: a power loss changes them behind its back.
const REMEMBERED: Duration = Duration::ZERO;

/// A number never stands for a second node.
const GENERATION: Generation = Generation(0);

/// Largest write the kernel may hand over at once.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// See the module.
pub struct Server {
    disk: Arc<RwLock<Disk>>,
}

impl Server {
    /// Serves `disk`.
    pub fn new(disk: Arc<RwLock<Disk>>) -> Self {
        Server { disk }
    }

    fn make(&self, make: impl FnOnce(&mut Disk) -> Outcome<u64>) -> Outcome<FileAttr> {
        let mut disk = write(&self.disk);
        let number = make(&mut disk)?;
        disk.attributes(number)
    }
}

fn owner(request: &Request) -> Owner {
    Owner { user: request.uid(), group: request.gid() }
}

fn place(directory: INodeNo, name: &OsStr) -> Place {
    Place::new(directory.0, name)
}

fn reply_empty(reply: ReplyEmpty, outcome: Outcome<()>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn reply_entry(reply: ReplyEntry, outcome: Outcome<FileAttr>) {
    match outcome {
        Ok(attributes) => reply.entry(&REMEMBERED, &attributes, GENERATION),
        Err(error) => reply.error(error),
    }
}

fn reply_attributes(reply: ReplyAttr, outcome: Outcome<FileAttr>) {
    match outcome {
        Ok(attributes) => reply.attr(&REMEMBERED, &attributes),
        Err(error) => reply.error(error),
    }
}

fn reply_opened(reply: ReplyOpen, outcome: Outcome<u64>) {
    match outcome {
        Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.set_max_write(WRITE_BYTES_MAX).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disk = read(&self.disk);
        let found = disk.lookup(parent.0, name);
        reply_entry(reply, found.and_then(|number| disk.attributes(number)));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply_attributes(reply, read(&self.disk).attributes(number.0));
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let modified = modified.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        let alteration = Alteration { mode, user, group, size, modified };
        let altered = self.make(|disk| disk.alter(number.0, &alteration).map(|()| number.0));
        reply_attributes(reply, altered);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let is_regular = rustix::fs::FileType::from_raw_mode(mode).is_file();
        let made = self.make(|disk| match is_regular {
            true => disk.make_file(place(parent, name), mode, owner(request)),
            false => Err(Errno::EPERM),
        });
        reply_entry(reply, made);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let place = place(parent, name);
        reply_entry(reply, self.make(|disk| disk.make_directory(place, mode, owner(request))));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let place = place(parent, name);
        reply_entry(reply, self.make(|disk| disk.link(number.0, place).map(|()| number.0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, write(&self.disk).unlink(place(parent, name)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, write(&self.disk).remove_directory(place(parent, name)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let keeps_target = flags.contains(RenameFlags::RENAME_NOREPLACE);
        if !flags.difference(RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (from, to) = (place(parent, name), place(new_parent, new_name));
        reply_empty(reply, write(&self.disk).rename(from, to, keeps_target));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut disk = write(&self.disk);
        let made = disk.make_file(place(parent, name), mode, owner(request));
        let opened =
            made.and_then(|number| Ok((disk.open_file(number)?, disk.attributes(number)?)));
        match opened {
            Ok((handle, attributes)) => reply.created(
                &REMEMBERED,
                &attributes,
                GENERATION,
                FileHandle(handle),
                FopenFlags::empty(),
            ),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply_opened(reply, write(&self.disk).open_file(number.0));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match read(&self.disk).read(handle.0, offset, u64::from(length)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // O_SYNC holds the bits of O_DSYNC.
        let synced = rustix::fs::OFlags::DSYNC.bits() as i32;
        let is_synced = flags.0 & synced != 0;
        match read(&self.disk).write(handle.0, offset, bytes, is_synced) {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        write(&self.disk).release(handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        reply_empty(reply, read(&self.disk).sync_file(handle.0));
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply_opened(reply, write(&self.disk).open_directory(number.0));
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match write(&self.disk).list(handle.0, offset) {
            Ok(entries) => {
                for (position, (number, kind, name)) in (offset + 1..).zip(entries) {
                    if reply.add(INodeNo(*number), position, *kind, name) {
                        break;
                    }
                }
            }
            Err(error) => return reply.error(error),
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        write(&self.disk).release(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply_empty(reply, write(&self.disk).sync_directory(number.0));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let block_bytes = BLOCK_BYTES as u32;
        match read(&self.disk).space() {
            Ok(space) => {
                let (all, free) = (space.blocks, space.blocks_free);
                // As many files as blocks: each takes one at least.
                reply.statfs(all, free, free, all, free, block_bytes, 255, block_bytes);
            }
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }
}
