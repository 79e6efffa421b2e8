//! Small clocks without a clock: rate limit, rate measurement, backoff with jitter.
//!
//! All take the time as an argument, in milliseconds that never go back.

use std::collections::VecDeque;

use crate::limits::{BULK_PIECE_BYTES_MAX, BULK_PIECE_BYTES_MIN};

/// A stream of pseudo-random numbers from a seed (SplitMix64). For jitter, never for secrets.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`; `bound` is at least 1.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Doubles from a shortest to a longest pause; each pause is drawn from its upper half.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    shortest_ms: u64,
    longest_ms: u64,
    next_ms: u64,
}

impl Backoff {
    pub(super) fn new(shortest_ms: u64, longest_ms: u64) -> Self {
        assert!(shortest_ms >= 1 && shortest_ms <= longest_ms);
        Backoff { shortest_ms, longest_ms, next_ms: shortest_ms }
    }

    /// The next pause.
    pub(super) fn pause_ms(&mut self, random: &mut Random) -> u64 {
        let full = self.next_ms;
        self.next_ms = (full * 2).min(self.longest_ms);
        full / 2 + random.below(full.div_ceil(2) + 1)
    }

    /// Something worked: begin with the shortest again.
    pub(super) fn reset(&mut self) {
        self.next_ms = self.shortest_ms;
    }
}

/// A limit of bytes a second that may run into debt by one piece and then waits it out, so that
/// pieces larger than the bucket pass too.
#[derive(Clone, Debug)]
pub(super) struct TokenBucket {
    /// 0: no limit.
    bytes_per_second: u64,
    /// What may be spent now; negative: debt.
    tokens: i128,
    filled_at_ms: u64,
}

impl TokenBucket {
    /// A bucket that holds a tenth of a second's bytes.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        TokenBucket { bytes_per_second, tokens: 0, filled_at_ms: 0 }
    }

    pub(super) fn set_rate(&mut self, now_ms: u64, bytes_per_second: u64) {
        // Debt made under another rate would be paid at a wrong price.
        *self = TokenBucket { bytes_per_second, tokens: 0, filled_at_ms: now_ms };
    }

    /// Spends `bytes`.
    pub(super) fn take(&mut self, now_ms: u64, bytes: u64) {
        if self.bytes_per_second > 0 {
            self.fill(now_ms);
            self.tokens -= i128::from(bytes) * 1000;
        }
    }

    /// When something may be spent again; None: now.
    pub(super) fn ready_at_ms(&self, now_ms: u64) -> Option<u64> {
        if self.bytes_per_second == 0 {
            return None;
        }
        let mut filled = self.clone();
        filled.fill(now_ms);
        if filled.tokens >= 0 {
            return None;
        }
        let rate = i128::from(self.bytes_per_second);
        Some(now_ms.saturating_add(((-filled.tokens + rate - 1) / rate) as u64))
    }

    /// Bytes that are well spent at once: a quarter of a second's worth, within bounds.
    pub(super) fn piece_bytes(&self) -> u64 {
        match self.bytes_per_second {
            0 => BULK_PIECE_BYTES_MAX as u64,
            rate => (rate / 4).clamp(BULK_PIECE_BYTES_MIN, BULK_PIECE_BYTES_MAX as u64),
        }
    }

    fn fill(&mut self, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.filled_at_ms);
        self.filled_at_ms = self.filled_at_ms.max(now_ms);
        // Tokens are thousandths of a byte, so that one millisecond is worth `rate` of them.
        let burst = i128::from(self.bytes_per_second) * 100;
        let gained = i128::from(self.bytes_per_second) * i128::from(elapsed);
        self.tokens = (self.tokens + gained).min(burst);
    }
}

/// Bytes a second over the last few seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct RateMeter {
    /// (start of a slice, bytes in it), oldest first.
    slices: VecDeque<(u64, u64)>,
}

impl RateMeter {
    const SLICE_MS: u64 = 250;
    const WINDOW_MS: u64 = 3_000;

    pub(super) fn add(&mut self, now_ms: u64, bytes: u64) {
        match self.slices.back_mut() {
            Some((start, sum)) if now_ms < *start + Self::SLICE_MS => *sum += bytes,
            _ => self.slices.push_back((now_ms, bytes)),
        }
        while self.slices.front().is_some_and(|(start, _)| start + Self::WINDOW_MS < now_ms) {
            self.slices.pop_front();
        }
    }

    pub(super) fn bytes_per_second(&self, now_ms: u64) -> u64 {
        let recent = || self.slices.iter().filter(|(start, _)| start + Self::WINDOW_MS >= now_ms);
        let Some((first, _)) = recent().next() else { return 0 };
        let span_ms = now_ms.saturating_sub(*first).max(Self::SLICE_MS);
        recent().map(|(_, bytes)| bytes).sum::<u64>() * 1000 / span_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_jitter_and_start_over_after_success() {
        let mut random = Random::new(1);
        let mut backoff = Backoff::new(100, 5_000);
        let pauses: Vec<u64> = (0..10).map(|_| backoff.pause_ms(&mut random)).collect();
        for (position, pause) in pauses.iter().enumerate() {
            let full = (100 << position).min(5_000);
            assert!((full / 2..=full + 1).contains(pause), "{pauses:?}");
        }
        backoff.reset();
        assert!(backoff.pause_ms(&mut random) <= 101);
    }

    #[test]
    fn a_limit_holds_over_time_whatever_the_pieces() {
        let mut bucket = TokenBucket::new(1_000_000);
        let (mut now, mut sent) = (0, 0_u64);
        while now < 10_000 {
            match bucket.ready_at_ms(now) {
                Some(at) => {
                    assert!(at > now);
                    now = at;
                }
                None => {
                    bucket.take(now, 300_000);
                    sent += 300_000;
                }
            }
        }
        assert!((9_900_000..=10_600_000).contains(&sent), "{sent}");
    }

    #[test]
    fn no_limit_never_waits() {
        let mut bucket = TokenBucket::new(0);
        bucket.take(0, u64::MAX);
        assert_eq!(bucket.ready_at_ms(0), None);
    }

    #[test]
    fn the_rate_forgets_what_is_long_ago() {
        let mut meter = RateMeter::default();
        (0..20).for_each(|slice| meter.add(slice * 100, 1_000));
        let rate = meter.bytes_per_second(2_000);
        assert!((9_000..=11_000).contains(&rate), "{rate}");
        assert_eq!(meter.bytes_per_second(10_000), 0);
    }
}
