//! The one source of chance of a run: SplitMix64, so that a seed says everything.

/// A stream of pseudo-random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Random { state: seed }
    }

    /// A stream of its own, so that what one part draws does not change what another gets.
    pub fn fork(&mut self) -> Self {
        Random::new(self.next())
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`; `bound` is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number in `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// A number in `from..=to` whose magnitude is even: small ones are as likely as large ones.
    pub fn magnitude(&mut self, from: u64, to: u64) -> u64 {
        let (low, high) = ((from.max(1)) as f64, to as f64);
        let share = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        ((low * (high / low).powf(share)) as u64).clamp(from, to)
    }

    /// True in `permille` of a thousand cases.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of `items`, which are not empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Time until the next of events that come every `mean` on average.
    pub fn interval(&mut self, mean: u64) -> u64 {
        let share = ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        (-share.ln() * mean as f64) as u64 + 1
    }
}
