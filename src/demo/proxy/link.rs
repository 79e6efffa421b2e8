//! What one direction of the proxied link does to a datagram: pure, seeded, replayable.
//!
//! Judges a datagram by the link's present condition and says when it leaves, how often, or why it
//! is lost. Never touches a socket and never reads a clock: `now` is an argument.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Longest time a datagram waits for its turn on a link with a byte rate. What would wait longer is
/// dropped, as a router with a full buffer does; so the queue is bounded at any rate.
pub const BACKLOG_MAX: Duration = Duration::from_millis(500);

/// How much later than its turn a duplicate follows the original.
const DUPLICATE_AFTER: Duration = Duration::from_millis(1);

/// The condition of one direction. The default passes everything at once.
#[derive(Clone, PartialEq, Debug)]
pub struct Link {
    /// True: everything is dropped, what already waits included.
    pub cut: bool,
    /// So many bytes pass yet; with the datagram that would be too much for it, the link is cut.
    /// None: no end of them.
    pub cut_after_bytes: Option<u64>,
    /// Every datagram leaves this much later.
    pub delay: Duration,
    /// Up to this much more, drawn for each datagram; beyond the spacing of datagrams it reorders.
    pub jitter: Duration,
    /// Share of datagrams dropped, 0 to 1.
    pub loss: f64,
    /// Share of datagrams that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// Share of datagrams held back by `reorder_by`, so that later ones overtake them, 0 to 1.
    pub reorder: f64,
    /// How long a reordered datagram is held back.
    pub reorder_by: Duration,
    /// Bytes a second that pass; 0: no limit.
    pub bytes_per_second: u64,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            cut: false,
            cut_after_bytes: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(10),
            bytes_per_second: 0,
        }
    }
}

impl Link {
    /// Counts a datagram against `cut_after_bytes`, which may cut the link.
    pub fn spend(&mut self, bytes: u64) {
        let Some(left) = self.cut_after_bytes else { return };
        self.cut_after_bytes = left.checked_sub(bytes);
        self.cut |= self.cut_after_bytes.is_none();
    }
}

/// What becomes of one datagram. Times are since the proxy's start; the present means at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It leaves at this time and, if given, once more.
    Pass {
        /// When it leaves.
        due: Duration,
        /// When its duplicate leaves.
        again: Option<Duration>,
    },
    /// Dropped by a cut.
    Cut,
    /// Dropped by loss.
    Lost,
    /// Dropped because the queue before the byte rate is full.
    Full,
}

/// Judge of one direction: its random numbers and the time its byte rate is booked until.
#[derive(Debug)]
pub struct Gate {
    random: StdRng,
    booked_until: Duration,
}

impl Gate {
    /// A gate whose verdicts follow from `seed` and the datagrams alone.
    pub fn new(seed: u64) -> Self {
        Gate { random: StdRng::seed_from_u64(seed), booked_until: Duration::ZERO }
    }

    /// What becomes of a datagram of `bytes` that arrives at `now`.
    pub fn judge(&mut self, link: &Link, now: Duration, bytes: usize) -> Verdict {
        if link.cut {
            return Verdict::Cut;
        }
        if self.happens(link.loss) {
            return Verdict::Lost;
        }
        let Some(turn) = self.book(link.bytes_per_second, now, bytes) else {
            return Verdict::Full;
        };
        let mut due = turn + link.delay;
        if !link.jitter.is_zero() {
            due += link.jitter.mul_f64(self.random.random::<f64>());
        }
        if self.happens(link.reorder) {
            due += link.reorder_by;
        }
        let again = self.happens(link.duplicate).then(|| due + DUPLICATE_AFTER);
        Verdict::Pass { due, again }
    }

    /// The time at which the byte rate has room for the datagram; None if that is too far away.
    fn book(&mut self, bytes_per_second: u64, now: Duration, bytes: usize) -> Option<Duration> {
        if bytes_per_second == 0 {
            return Some(now);
        }
        let turn = self.booked_until.max(now);
        if turn - now > BACKLOG_MAX {
            return None;
        }
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.booked_until = turn.saturating_add(takes);
        Some(turn)
    }

    /// Draws once with probability `share`, and not at all for 0: a quiet link costs no draws.
    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random::<f64>() < share
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Duration = Duration::from_secs(7);

    fn pass_at(verdict: &Verdict) -> Duration {
        match verdict {
            Verdict::Pass { due, .. } => *due,
            other => panic!("expected a pass, got {other:?}"),
        }
    }

    #[test]
    fn a_clean_link_passes_everything_at_once_and_once() {
        let mut gate = Gate::new(1);
        for bytes in [1, 100, 1452, 65_507] {
            let verdict = gate.judge(&Link::default(), NOW, bytes);
            assert_eq!(verdict, Verdict::Pass { due: NOW, again: None });
        }
    }

    #[test]
    fn one_seed_gives_one_fate_and_another_seed_another() {
        let link = Link { loss: 0.3, duplicate: 0.3, reorder: 0.3, ..Link::default() };
        let fates = |seed| {
            let mut gate = Gate::new(seed);
            (0..200).map(|_| gate.judge(&link, NOW, 1200)).collect::<Vec<_>>()
        };
        assert_eq!(fates(5), fates(5));
        assert_ne!(fates(5), fates(6));
    }

    #[test]
    fn loss_and_duplication_come_near_their_shares() {
        let link = Link { loss: 0.2, duplicate: 0.1, ..Link::default() };
        let mut gate = Gate::new(2);
        let fates: Vec<Verdict> = (0..10_000).map(|_| gate.judge(&link, NOW, 1200)).collect();
        let lost = fates.iter().filter(|v| **v == Verdict::Lost).count();
        let twice = fates.iter().filter(|v| matches!(v, Verdict::Pass { again: Some(_), .. }));
        assert!((1_800..2_200).contains(&lost), "{lost}");
        assert!((650..950).contains(&twice.count()));
    }

    #[test]
    fn a_byte_rate_spaces_datagrams_and_drops_what_would_wait_too_long() {
        let link = Link { bytes_per_second: 10_000, ..Link::default() };
        let mut gate = Gate::new(3);
        let first = pass_at(&gate.judge(&link, NOW, 1000));
        let second = pass_at(&gate.judge(&link, NOW, 1000));
        assert_eq!(first, NOW);
        assert_eq!(second - first, Duration::from_millis(100));
        let mut full = 0;
        for _ in 0..100 {
            match gate.judge(&link, NOW, 1000) {
                Verdict::Pass { due, .. } => assert!(due - NOW <= BACKLOG_MAX),
                Verdict::Full => full += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(full > 90, "{full}");
        // The link drains by itself: a second later there is room again.
        let later = NOW + Duration::from_secs(1);
        assert_eq!(pass_at(&gate.judge(&link, later, 1000)), later);
    }

    #[test]
    fn a_reordered_datagram_leaves_after_the_one_behind_it() {
        let held = Link { reorder: 1.0, ..Link::default() };
        let mut gate = Gate::new(4);
        let first = pass_at(&gate.judge(&held, NOW, 1200));
        let second = pass_at(&gate.judge(&Link::default(), NOW + Duration::from_millis(1), 1200));
        assert!(first > second);
    }

    #[test]
    fn a_link_is_cut_at_the_byte_that_was_chosen() {
        let mut link = Link { cut_after_bytes: Some(2_500), ..Link::default() };
        for (bytes, cut) in [(1_200, false), (1_200, false), (100, false), (1, true), (1, true)] {
            link.spend(bytes);
            assert_eq!(link.cut, cut, "{link:?}");
        }
    }

    #[test]
    fn a_cut_takes_everything_whatever_else_is_set() {
        let mut gate = Gate::new(5);
        let link = Link { cut: true, duplicate: 1.0, ..Link::default() };
        assert_eq!(gate.judge(&link, NOW, 1), Verdict::Cut);
    }
}
