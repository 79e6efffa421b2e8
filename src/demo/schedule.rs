//! Which faults strike the throttled pull, and when: drawn from a seed, in fractions of its bytes.
//!
//! Pure. Each fault has a slice of the transfer to itself, so that two never overlap and bytes flow
//! again before the next; the order of the kinds is shuffled too.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Faults strike after this share of the bytes ...
const FIRST: f64 = 0.05;
/// ... and before this one.
const LAST: f64 = 0.95;
/// Part of a slice, around its middle, in which its fault strikes; the rest keeps neighbours apart.
const SPREAD: f64 = 0.6;

/// What happens to the pull.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// Both directions of the bulk lane blackholed until its connections die.
    Cut,
    /// kill -9 of the node that pulls.
    KillReceiver,
    /// kill -9 of the node that sends, which leads the cluster.
    KillLeader,
}

impl FaultKind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Cut => "cut",
            FaultKind::KillReceiver => "kill_receiver",
            FaultKind::KillLeader => "kill_leader",
        }
    }
}

/// One fault of the plan.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// Strikes when this share of the snapshot has arrived, 0 to 1.
    pub at_fraction: f64,
}

/// `cuts` cuts, one kill of the receiver and one of the leader, in the order they strike.
pub fn draw(seed: u64, cuts: u32) -> Vec<Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut kinds = vec![FaultKind::Cut; cuts as usize];
    kinds.extend([FaultKind::KillReceiver, FaultKind::KillLeader]);
    kinds.shuffle(&mut random);
    let slice = (LAST - FIRST) / kinds.len() as f64;
    let strike = |(number, kind): (usize, FaultKind)| {
        let within = (1.0 - SPREAD) / 2.0 + SPREAD * random.random::<f64>();
        Fault { kind, at_fraction: FIRST + slice * (number as f64 + within) }
    };
    kinds.into_iter().enumerate().map(strike).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_has_its_cuts_and_both_kills_within_the_transfer() {
        for seed in 0..200 {
            let plan = draw(seed, 3);
            let count = |kind| plan.iter().filter(|fault| fault.kind == kind).count();
            assert_eq!(count(FaultKind::Cut), 3);
            assert_eq!(count(FaultKind::KillReceiver), 1);
            assert_eq!(count(FaultKind::KillLeader), 1);
            assert!(plan.iter().all(|fault| (FIRST..LAST).contains(&fault.at_fraction)));
        }
    }

    #[test]
    fn neighbours_keep_a_distance() {
        let gap = (LAST - FIRST) / 5.0 * (1.0 - SPREAD);
        for seed in 0..200 {
            for pair in draw(seed, 3).windows(2) {
                let distance = pair[1].at_fraction - pair[0].at_fraction;
                assert!(distance > 0.99 * gap, "{distance}");
            }
        }
    }

    #[test]
    fn a_seed_fixes_the_plan_and_seeds_differ() {
        assert_eq!(draw(9, 4), draw(9, 4));
        assert_ne!(draw(9, 4), draw(10, 4));
    }
}
