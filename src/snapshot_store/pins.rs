//! Which snapshots stay: the newest few, and those that receivers still need within their budgets.
//!
//! Pure: the stores on disk and in memory ask it and carry out what it says.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::{PIN_IDLE_MS_MAX, PINNED_BYTES_DEFAULT, SNAPSHOTS_KEPT_DEFAULT};
use crate::types::{Index, NodeId, SnapshotId};

/// How much is kept, and for how long.
#[derive(Clone, Debug)]
pub struct PinPolicy {
    /// Newest snapshots that stay without a pin; at least 1.
    pub keep: usize,
    /// Bytes of snapshots that only pins hold; over it, the pin least recently renewed is broken.
    pub pinned_bytes_max: u64,
    /// A pin not renewed for longer is broken, ms.
    pub pin_idle_ms_max: u64,
}

impl Default for PinPolicy {
    fn default() -> Self {
        PinPolicy {
            keep: SNAPSHOTS_KEPT_DEFAULT,
            pinned_bytes_max: PINNED_BYTES_DEFAULT,
            pin_idle_ms_max: PIN_IDLE_MS_MAX,
        }
    }
}

/// What retention did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Retained {
    /// Snapshots removed.
    pub removed: Vec<SnapshotId>,
    /// Receivers whose pins were broken, with what was pinned.
    pub broken: Vec<(NodeId, SnapshotId)>,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    snapshot: SnapshotId,
    renewed_ms: u64,
}

/// Who needs what.
#[derive(Debug, Default)]
pub(super) struct Pins {
    by_receiver: BTreeMap<NodeId, Pin>,
}

impl Pins {
    pub(super) fn pin(&mut self, snapshot: SnapshotId, receiver: NodeId, now_ms: u64) {
        self.by_receiver.insert(receiver, Pin { snapshot, renewed_ms: now_ms });
    }

    pub(super) fn unpin(&mut self, receiver: NodeId) {
        self.by_receiver.remove(&receiver);
    }

    pub(super) fn forget(&mut self, snapshot: SnapshotId) {
        self.by_receiver.retain(|_, pin| pin.snapshot != snapshot);
    }

    pub(super) fn receivers_of(&self, snapshot: SnapshotId) -> Vec<NodeId> {
        let of = self.by_receiver.iter().filter(|(_, pin)| pin.snapshot == snapshot);
        of.map(|(receiver, _)| *receiver).collect()
    }

    /// Breaks pins over budget and says which of `stored` (id, index, bytes) are to be removed. Of
    /// those at one index the first counts as the newest.
    pub(super) fn retain(
        &mut self,
        policy: &PinPolicy,
        stored: &[(SnapshotId, Index, u64)],
        now_ms: u64,
    ) -> Retained {
        let mut broken = Vec::new();
        let idle = |pin: &Pin| now_ms.saturating_sub(pin.renewed_ms) > policy.pin_idle_ms_max;
        self.by_receiver.retain(|receiver, pin| {
            let keeps = !idle(pin);
            if !keeps {
                broken.push((*receiver, pin.snapshot));
            }
            keeps
        });
        let mut by_age: Vec<&(SnapshotId, Index, u64)> = stored.iter().collect();
        by_age.sort_by_key(|(_, index, _)| std::cmp::Reverse(*index));
        let newest: BTreeSet<SnapshotId> =
            by_age.iter().take(policy.keep.max(1)).map(|(id, _, _)| *id).collect();
        loop {
            let pinned: BTreeSet<SnapshotId> =
                self.by_receiver.values().map(|pin| pin.snapshot).collect();
            let only_pinned = |id: &SnapshotId| pinned.contains(id) && !newest.contains(id);
            let bytes: u64 =
                stored.iter().filter(|(id, _, _)| only_pinned(id)).map(|(_, _, bytes)| bytes).sum();
            let stalest = self
                .by_receiver
                .iter()
                .filter(|(_, pin)| only_pinned(&pin.snapshot))
                .min_by_key(|(receiver, pin)| (pin.renewed_ms, **receiver))
                .map(|(receiver, pin)| (*receiver, pin.snapshot));
            match stalest {
                Some((receiver, snapshot)) if bytes > policy.pinned_bytes_max => {
                    self.by_receiver.remove(&receiver);
                    broken.push((receiver, snapshot));
                }
                _ => {
                    let removed = stored
                        .iter()
                        .map(|(id, _, _)| *id)
                        .filter(|id| !newest.contains(id) && !pinned.contains(id))
                        .collect();
                    return Retained { removed, broken };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;

    fn id(number: u8) -> SnapshotId {
        Digest([number; 32])
    }

    #[test]
    fn a_pin_without_renewal_or_over_its_bytes_is_broken() {
        let policy = PinPolicy { keep: 1, pinned_bytes_max: 150, pin_idle_ms_max: 1_000 };
        let stored = [(id(1), 1, 100), (id(2), 2, 100), (id(3), 3, 100), (id(4), 4, 100)];
        let mut pins = Pins::default();
        pins.pin(id(1), NodeId(1), 0);
        pins.pin(id(2), NodeId(2), 900);
        pins.pin(id(3), NodeId(3), 950);
        let retained = pins.retain(&policy, &stored, 1_001);
        // Node 1 was idle for too long; 2 and 3 together hold too much, and 2 is the staler one.
        assert_eq!(retained.broken, [(NodeId(1), id(1)), (NodeId(2), id(2))]);
        assert_eq!(retained.removed, [id(1), id(2)]);
        assert_eq!(pins.receivers_of(id(3)), [NodeId(3)]);
    }

    #[test]
    fn a_pin_that_nobody_renews_is_broken_however_much_room_there_is() {
        let policy = PinPolicy { keep: 1, pinned_bytes_max: u64::MAX, pin_idle_ms_max: 1_000 };
        let stored = [(id(1), 1, 100), (id(2), 2, 100), (id(3), 3, 100)];
        let mut pins = Pins::default();
        pins.pin(id(1), NodeId(1), 0);
        pins.pin(id(2), NodeId(2), 0);
        pins.pin(id(2), NodeId(2), 500);
        let retained = pins.retain(&policy, &stored, 1_001);
        assert_eq!(retained.broken, [(NodeId(1), id(1))]);
        assert_eq!(retained.removed, [id(1)]);
    }

    #[test]
    fn the_newest_stay_without_any_pin_and_cost_no_budget() {
        let policy = PinPolicy { keep: 2, pinned_bytes_max: 0, pin_idle_ms_max: 1_000 };
        let mut pins = Pins::default();
        pins.pin(id(3), NodeId(1), 0);
        let stored = [(id(1), 1, 9), (id(2), 2, 9), (id(3), 3, 9)];
        let retained = pins.retain(&policy, &stored, 1);
        assert_eq!(retained, Retained { removed: vec![id(1)], broken: vec![] });
    }
}
