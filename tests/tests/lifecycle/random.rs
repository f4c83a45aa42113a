//! Random moments, which a failing run can be repeated with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator: xorshift64.
pub(crate) struct Random(u64);

impl Random {
    /// By `$SKIFF_SEED`, or by the clock; prints which.
    pub(crate) fn seeded() -> Self {
        let seed = std::env::var("SKIFF_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64 | 1
        });
        println!("SKIFF_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A moment of the time that an `up` takes, or soon after.
    pub(crate) fn moment(&mut self) -> Duration {
        Duration::from_micros(self.below(900_000))
    }
}
