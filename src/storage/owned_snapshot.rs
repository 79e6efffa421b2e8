//! A RocksDB snapshot that owns its database, so that it may travel between threads freely.
//!
//! The crate ties a snapshot to a borrow of the database. Readers need one that lives as long as
//! they like. This is the only file of the room with `unsafe` in it, and does nothing else.

#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::sync::Arc;

use rocksdb::{DB, Snapshot};

/// Something in an `Arc` that holds a database. The database must sit inside the value itself, not
/// behind something that may replace it.
pub trait HoldsDatabase {
    /// The database: the same one each time.
    fn database(&self) -> &DB;
}

/// A point-in-time snapshot together with what keeps its database open.
pub struct OwnedSnapshot<Owner: HoldsDatabase> {
    /// Dropped by hand in `drop`, before `owner`. Its lifetime is a fiction that never leaves here.
    snapshot: ManuallyDrop<Snapshot<'static>>,
    /// Keeps the database where it is.
    owner: Arc<Owner>,
}

impl<Owner: HoldsDatabase> OwnedSnapshot<Owner> {
    /// A snapshot of the newest data.
    pub fn new(owner: Arc<Owner>) -> Self {
        let database: *const DB = owner.database();
        // SAFETY: the database lives inside the Arc's allocation, which neither moves nor goes away
        // while `self.owner` holds it; nobody has `&mut` to it, since the Arc is shared. `drop`
        // releases the snapshot before `owner` is dropped. `snapshot()` hands the snapshot out with
        // the lifetime of a borrow of `self` only (`Snapshot` is covariant in its lifetime), and so
        // do the iterators made from that, hence nothing outlives the database.
        let database: &'static DB = unsafe { &*database };
        OwnedSnapshot { snapshot: ManuallyDrop::new(database.snapshot()), owner }
    }

    /// The snapshot, for as long as `self` is borrowed.
    pub fn snapshot(&self) -> &Snapshot<'_> {
        &self.snapshot
    }

    /// What keeps the database open.
    pub fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }
}

impl<Owner: HoldsDatabase> Drop for OwnedSnapshot<Owner> {
    fn drop(&mut self) {
        // SAFETY: nobody uses the field after this: `self` is going away, and this runs once. The
        // owner, and with it the database, is dropped after this body.
        unsafe { ManuallyDrop::drop(&mut self.snapshot) };
    }
}
