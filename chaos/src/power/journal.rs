//! Changes of directories that are not durable yet, in the order they were made.
//!
//! The changes of one directory become durable in order only; those of different directories do not
//! wait for each other, except that a rename from one to another is one change of both. It knows
//! numbers and names, never what stands behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use crate::random::Random;

/// Stands in `Change::order` for the renames of directories from one parent to another: applied out of
/// order, they could put two directories into each other.
pub const DIRECTORY_MOVES: u64 = 0;

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Number of the directory.
    pub directory: u64,
    /// The name in it.
    pub name: OsString,
}

/// One change of entries, which happens whole or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Number of the node that gets or loses a name.
    pub node: u64,
    /// Where its name goes away.
    pub from: Option<Place>,
    /// Where its name appears. What had that name loses it.
    pub to: Option<Place>,
    /// Directories whose earlier changes must be durable before this one.
    pub order: BTreeSet<u64>,
}

/// See the module.
#[derive(Default, Debug)]
pub struct Journal {
    changes: Vec<Change>,
}

impl Journal {
    /// Adds what just happened.
    pub fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Takes out, in order, what becomes durable when `directory` is synced: its own changes, and all
    /// that have to come before one of them.
    pub fn take_synced(&mut self, directory: u64) -> Vec<Change> {
        let mut needed = BTreeSet::from([directory]);
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for change in self.changes.drain(..).rev() {
            if change.order.is_disjoint(&needed) {
                left.push(change);
            } else {
                needed.extend(&change.order);
                taken.push(change);
            }
        }
        left.reverse();
        taken.reverse();
        self.changes = left;
        taken
    }

    /// Empties the journal as a power loss does: of each directory a beginning of its changes survives,
    /// how long a one is drawn. `survival_permille` 0 keeps nothing and 1000 all; anything between
    /// leaves it to the draw. Returns the survivors in order, and how many did not survive.
    pub fn take_survivors(
        &mut self,
        random: &mut Random,
        survival_permille: u64,
    ) -> (Vec<Change>, u64) {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for directory in self.changes.iter().flat_map(|change| &change.order) {
            *counts.entry(*directory).or_default() += 1;
        }
        for count in counts.values_mut() {
            *count = match survival_permille {
                0 => 0,
                1000 => *count,
                _ => random.between(0, *count),
            };
        }
        let (mut survivors, mut lost) = (Vec::new(), 0);
        for change in self.changes.drain(..) {
            let survives = change.order.iter().all(|directory| counts[directory] > 0);
            for directory in &change.order {
                let left = counts.entry(*directory).or_default();
                *left = if survives { *left - 1 } else { 0 };
            }
            if survives {
                survivors.push(change);
            } else {
                lost += 1;
            }
        }
        (survivors, lost)
    }
}
