//! Operations on names: each changes the current directories at once and goes to the journal, from
//! which a sync of a directory takes what becomes durable.
//!
//! It never touches the bytes of a file.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuser::Errno;

use super::disk::{Disk, Outcome, Owner};
use super::journal::{Change, DIRECTORY_MOVES, Place};

/// Longest name in bytes, as on most file systems.
const NAME_BYTES_MAX: usize = 255;

impl Place {
    /// The name `name` in `directory`.
    pub fn new(directory: u64, name: &OsStr) -> Self {
        Place { directory, name: name.to_owned() }
    }
}

impl Disk {
    /// The node that has a name.
    pub fn lookup(&self, directory: u64, name: &OsStr) -> Outcome<u64> {
        check_length(name)?;
        self.find(directory, name)
    }

    /// Makes an empty file.
    pub fn make_file(&mut self, place: Place, mode: u32, owner: Owner) -> Outcome<u64> {
        self.check_free(&place)?;
        let number = self.new_file(mode, owner)?;
        self.change(number, None, Some(place))?;
        Ok(number)
    }

    /// Makes an empty directory.
    pub fn make_directory(&mut self, place: Place, mode: u32, owner: Owner) -> Outcome<u64> {
        self.check_free(&place)?;
        let number = self.new_directory(mode, owner);
        self.change(number, None, Some(place))?;
        Ok(number)
    }

    /// Gives a file one more name.
    pub fn link(&mut self, number: u64, place: Place) -> Outcome<()> {
        if self.node(number)?.is_directory() {
            return Err(Errno::EPERM);
        }
        self.check_free(&place)?;
        self.change(number, None, Some(place))
    }

    /// Takes a name from a file.
    pub fn unlink(&mut self, place: Place) -> Outcome<()> {
        self.admit()?;
        let number = self.find(place.directory, &place.name)?;
        if self.node(number)?.is_directory() {
            return Err(Errno::EISDIR);
        }
        self.change(number, Some(place), None)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&mut self, place: Place) -> Outcome<()> {
        self.admit()?;
        let number = self.find(place.directory, &place.name)?;
        if !self.directory(number)?.names.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.change(number, Some(place), None)
    }

    /// Renames; what has the new name loses it, unless `keeps_target`, which refuses then.
    pub fn rename(&mut self, from: Place, to: Place, keeps_target: bool) -> Outcome<()> {
        self.admit()?;
        check_length(&to.name)?;
        let number = self.find(from.directory, &from.name)?;
        if self.node(to.directory)?.is_removed() {
            return Err(Errno::ENOENT);
        }
        if let Ok(target) = self.find(to.directory, &to.name) {
            if keeps_target {
                return Err(Errno::EEXIST);
            }
            // Two names of one file stay as they are, by POSIX.
            if target == number {
                return Ok(());
            }
            let is_directory = self.node(number)?.is_directory();
            match (is_directory, self.node(target)?.is_directory()) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !self.directory(target)?.names.is_empty() => {
                    return Err(Errno::ENOTEMPTY);
                }
                _ => {}
            }
        }
        self.change(number, Some(from), Some(to))
    }

    /// Makes the names in a directory durable.
    pub fn sync_directory(&mut self, number: u64) -> Outcome<()> {
        self.admit()?;
        self.directory(number)?;
        for change in self.journal.take_synced(number) {
            self.make_durable(change);
        }
        self.directory_syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Does to the durable directories what was done to the current ones.
    pub(super) fn make_durable(&mut self, change: Change) {
        const IN_ORDER: &str = "the changes of a directory become durable in order";
        if let Some(from) = &change.from {
            let durable = &mut self.directory_mut(from.directory).expect(IN_ORDER).durable;
            assert_eq!(durable.remove(&from.name), Some(change.node), "{IN_ORDER}");
            self.node_mut(change.node).expect(IN_ORDER).durable_links -= 1;
        }
        if let Some(to) = change.to {
            let durable = &mut self.directory_mut(to.directory).expect(IN_ORDER).durable;
            let replaced = durable.insert(to.name, change.node);
            let node = self.node_mut(change.node).expect(IN_ORDER);
            node.durable_links += 1;
            node.pending_links -= 1;
            if let Some(replaced) = replaced {
                self.node_mut(replaced).expect(IN_ORDER).durable_links -= 1;
                self.collect(replaced);
            }
        }
        self.collect(change.node);
    }

    /// Changes the current directories, and notes the change.
    fn change(&mut self, number: u64, from: Option<Place>, to: Option<Place>) -> Outcome<()> {
        let now = SystemTime::now();
        let mut order = BTreeSet::new();
        let is_directory = self.node(number)?.is_directory();
        let mut unnamed = Vec::new();
        if let Some(from) = &from {
            let directory = self.directory_mut(from.directory)?;
            directory.names.remove(&from.name);
            directory.modified = now;
            order.insert(from.directory);
            unnamed.push(number);
        }
        if let Some(to) = &to {
            let directory = self.directory_mut(to.directory)?;
            unnamed.extend(directory.names.insert(to.name.clone(), number));
            directory.modified = now;
            order.insert(to.directory);
            let node = self.node_mut(number)?;
            node.links += 1;
            node.pending_links += 1;
        }
        for &other in &unnamed {
            self.node_mut(other)?.links -= 1;
            // A directory that goes away is empty on the disk before it is gone there: what was
            // moved out of it is nowhere else until then.
            if self.nodes.get(&other).is_some_and(|node| node.is_directory() && node.is_removed()) {
                order.insert(other);
            }
        }
        if is_directory && order.len() > 1 && from.is_some() && to.is_some() {
            order.insert(DIRECTORY_MOVES);
        }
        self.journal.push(Change { node: number, from, to, order });
        for other in unnamed {
            self.collect(other);
        }
        Ok(())
    }

    /// Refuses a name that is taken, too long, or in a directory that was removed.
    fn check_free(&self, place: &Place) -> Outcome<()> {
        self.admit()?;
        check_length(&place.name)?;
        if self.directory(place.directory)?.names.contains_key(&place.name) {
            return Err(Errno::EEXIST);
        }
        if self.node(place.directory)?.is_removed() { Err(Errno::ENOENT) } else { Ok(()) }
    }
}

fn check_length(name: &OsStr) -> Outcome<()> {
    if name.len() > NAME_BYTES_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}
