//! A token bucket: so much at a rate, and so much at once.
//!
//! Input: times. Output: whether there is enough. Pure.

const SECOND_NS: u64 = 1_000_000_000;

/// Filled at a rate up to its size; full at first.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    rate: u64,
    size: u64,
    level: u64,
    at_ns: u64,
}

impl Bucket {
    /// `rate`: tokens a second, at least 1; `size`: the most that there can be.
    #[must_use]
    pub fn new(rate: u64, size: u64, now_ns: u64) -> Self {
        // A rate of nothing would divide by it.
        Self { rate: rate.max(1), size: size.max(1), level: size.max(1), at_ns: now_ns }
    }

    /// Puts in what has come since the last time.
    pub fn fill(&mut self, now_ns: u64) {
        let passed = u128::from(now_ns.saturating_sub(self.at_ns));
        let more = passed * u128::from(self.rate) / u128::from(SECOND_NS);
        let room = self.size - self.level;
        if more >= u128::from(room) {
            self.level = self.size;
            self.at_ns = self.at_ns.max(now_ns);
        } else {
            self.level += more as u64;
            // Only the time that whole tokens came from, or many small steps would lose some.
            self.at_ns += (more * u128::from(SECOND_NS)).div_ceil(u128::from(self.rate)) as u64;
        }
    }

    /// Takes so many, if there are.
    pub fn take(&mut self, tokens: u64) -> bool {
        let enough = tokens <= self.level;
        if enough {
            self.level -= tokens;
        }
        enough
    }

    /// Whether not even one can be taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.level == 0
    }

    /// Puts back what was taken and not used.
    pub fn give_back(&mut self, tokens: u64) {
        self.level = self.level.saturating_add(tokens).min(self.size);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the time is cut: never more than the size and what the rate allows, and never less than that by more
        /// than a token for each step.
        #[test]
        fn it_keeps_the_rate(
            rate in 1..1_000_u64,
            size in 1..1_000_u64,
            steps in proptest::collection::vec(0..2_000_000_000_u64, 1..40),
        ) {
            let mut bucket = Bucket::new(rate, size, 0);
            let (mut now_ns, mut taken) = (0, 0_u64);
            // What comes while it is full is lost; so it is emptied at once.
            for step in std::iter::once(&0).chain(&steps) {
                now_ns += step;
                bucket.fill(now_ns);
                while bucket.take(1) {
                    taken += 1;
                }
                let most = u128::from(size) + u128::from(now_ns) * u128::from(rate) / u128::from(SECOND_NS);
                prop_assert!(u128::from(taken) <= most, "{} of {}", taken, most);
            }
            let waited = steps.iter().all(|step| u128::from(*step) * u128::from(rate) < u128::from(SECOND_NS * size));
            if waited {
                let due = u128::from(size) + u128::from(now_ns) * u128::from(rate) / u128::from(SECOND_NS);
                prop_assert!(u128::from(taken) + 1 >= due, "{} of {}", taken, due);
            }
        }
    }
}
