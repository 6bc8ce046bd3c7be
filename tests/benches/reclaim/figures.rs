//! Medians and spreads of what was measured in pairs.
//!
//! In: samples. Out: quartiles. Must not know what they are samples of.

/// Samples of one figure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle; NaN without samples.
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match (self.0.get(middle), self.0.len() % 2) {
            (Some(value), 1) => *value,
            (Some(value), _) => f64::midpoint(*value, self.0[middle - 1]),
            (None, _) => f64::NAN,
        }
    }

    /// First and third quartile; NaN without samples.
    pub(crate) fn quartiles(&self) -> (f64, f64) {
        let at = |quarter: usize| self.0.get((self.0.len().max(1) - 1) * quarter / 4).copied();
        (at(1).unwrap_or(f64::NAN), at(3).unwrap_or(f64::NAN))
    }
}

/// Two ways of doing the same, done in turn.
#[derive(Debug, Clone, Default)]
pub(crate) struct Comparison {
    /// Time of imr's way through that of the bare one, pair by pair.
    pub(crate) ratio: Samples,
    /// Of imr's way, us for 2 MiB.
    pub(crate) imr_us: Samples,
    /// Of the bare way, us for 2 MiB.
    pub(crate) bare_us: Samples,
}

impl Comparison {
    /// One pair, us for 2 MiB.
    pub(crate) fn add(&mut self, imr_us: f64, bare_us: f64) {
        self.ratio.add(imr_us / bare_us);
        self.imr_us.add(imr_us);
        self.bare_us.add(bare_us);
    }
}
