//! Points to columns of a fixed span of time each, the newest on the right.
//!
//! Input: points and the scale of time. Output: means, rates and greatest values of each column. A column has the same
//! points as long as it is seen, so that the picture moves and does not flicker; where nothing is known it is empty.

use super::chart::{LAYERS, Layer};
use super::scale::Scale;
use crate::view::history::{HostPoint, Point, Sample};

/// What the points of one column say of memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct MemoryBin {
    /// Bytes of each of [`LAYERS`], times samples.
    sums: [u128; LAYERS.len()],
    samples: u64,
    refaulted: u64,
    /// Time over which that was, milliseconds.
    over_ms: u64,
}

/// What the points of one column say of the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct HostBin {
    /// The greatest pressure, percent; `None` where the kernel has no PSI.
    pub(super) pressure: Option<f32>,
    swap: u128,
    samples: u64,
}

impl MemoryBin {
    fn add(&mut self, point: &Point, before: Option<&Point>) {
        for (sum, amount) in self.sums.iter_mut().zip(amounts(point)) {
            *sum += u128::from(amount) * u128::from(point.samples);
        }
        self.samples += u64::from(point.samples);
        if let Some(before) = before {
            self.refaulted += point.refaulted_total.saturating_sub(before.refaulted_total);
            self.over_ms += point.unix_ms.saturating_sub(before.unix_ms);
        }
    }

    /// Means, bytes, in the order of [`LAYERS`].
    pub(super) fn layers(&self) -> [u64; LAYERS.len()] {
        self.sums.map(|sum| mean(sum, self.samples))
    }

    /// Bytes refaulted a second; `None` where there is nothing to compare with.
    pub(super) fn refault_rate(&self) -> Option<u64> {
        (self.over_ms > 0).then(|| (self.refaulted as f64 * 1000.0 / self.over_ms as f64).round() as u64)
    }
}

impl HostBin {
    fn add(&mut self, point: &HostPoint) {
        self.pressure = self.pressure.into_iter().chain(point.pressure).reduce(f32::max);
        self.swap += u128::from(point.swap_used) * u128::from(point.samples);
        self.samples += u64::from(point.samples);
    }

    /// Mean swap in use, bytes.
    pub(super) fn swap(&self) -> u64 {
        mean(self.swap, self.samples)
    }
}

/// The amounts of a point in the order of [`LAYERS`], bytes.
pub(super) fn amounts(point: &Point) -> [u64; LAYERS.len()] {
    LAYERS.map(|layer| match layer {
        Layer::Held => point.resident_in_use,
        Layer::Free => point.resident_free,
        Layer::Merged => point.merged,
        Layer::Swapped => point.swapped,
        Layer::Reclaimed => point.reclaimed,
    })
}

fn mean(sum: u128, samples: u64) -> u64 {
    u64::try_from(sum / u128::from(samples.max(1))).unwrap_or(u64::MAX)
}

/// Columns of a VM or of all of them.
pub(super) fn memory_bins<'a>(
    points: impl Iterator<Item = &'a Point>,
    scale: Scale,
) -> Vec<Option<MemoryBin>> {
    columns(points, scale, MemoryBin::add)
}

/// Columns of the host.
pub(super) fn host_bins<'a>(
    points: impl Iterator<Item = &'a HostPoint>,
    scale: Scale,
) -> Vec<Option<HostBin>> {
    columns(points, scale, |bin: &mut HostBin, point, _| bin.add(point))
}

/// Each point goes whole into the column of its time, so that what happened in one sample stays as high as it was. A
/// column without a point of its own, because points are farther apart, shows the one that stands for its time.
fn columns<'a, S: Sample + 'a, B: Clone + Default>(
    points: impl Iterator<Item = &'a S>,
    scale: Scale,
    add: impl Fn(&mut B, &S, Option<&S>),
) -> Vec<Option<B>> {
    let mut bins = vec![None; scale.columns];
    let at = |back: usize| scale.columns.checked_sub(back + 1);
    let mut before = None;
    for point in points.take_while(|point| point.unix_ms() <= scale.until_ms) {
        let earlier = before.replace(point);
        let (back, since) = (scale.back(point.unix_ms()), scale.back(point.since_ms()));
        if since > back && back < scale.columns {
            let mut alone = B::default();
            add(&mut alone, point, earlier);
            for back in back + 1..=since.min(scale.columns - 1) {
                if let Some(bin) = at(back).and_then(|at| bins.get_mut(at)) {
                    bin.get_or_insert_with(|| alone.clone());
                }
            }
        }
        if let Some(bin) = at(back).and_then(|at| bins.get_mut(at)) {
            add(bin.get_or_insert_default(), point, earlier);
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(width_ms: u64, until_ms: u64, columns: usize) -> Scale {
        Scale { width_ms, until_ms, columns }
    }

    /// Samples 2 s apart.
    fn points(count: u64) -> Vec<Point> {
        (1..=count)
            .map(|at| Point {
                unix_ms: at * 2000,
                over_ms: if at > 1 { 2000 } else { 0 },
                samples: 1,
                resident_in_use: at * 100,
                refaulted_total: at * at,
                ..Point::default()
            })
            .collect()
    }

    fn held(bins: &[Option<MemoryBin>]) -> Vec<Option<u64>> {
        bins.iter().map(|bin| bin.as_ref().map(|bin| bin.layers()[0])).collect()
    }

    #[test]
    fn a_column_keeps_its_points_while_time_goes_on() {
        // Samples 10 to 14 are in the 10 s from 20 s on, whatever has come since.
        for newest in 14..=24 {
            let bins = memory_bins(points(newest).iter(), scale(10_000, newest * 2000, 5));
            let back = (newest * 2000 / 10_000 - 2) as usize;
            let bin = bins[4 - back].as_ref().unwrap();
            assert_eq!((bin.samples, bin.layers()[0]), (5, 1200));
            // From sample 9 to sample 14, five times two seconds.
            assert_eq!(bin.refault_rate(), Some((f64::from(14 * 14 - 9 * 9) / 10.0).round() as u64));
        }
    }

    #[test]
    fn columns_of_which_nothing_is_known_are_empty() {
        let bins = memory_bins(points(3).iter(), scale(2000, 6000, 5));
        assert_eq!(held(&bins), [None, None, Some(100), Some(200), Some(300)]);
        assert_eq!(bins[2].as_ref().unwrap().refault_rate(), None, "nothing is known of before");
        assert_eq!(bins[3].as_ref().unwrap().refault_rate(), Some(2));
        assert!(memory_bins(points(3).iter(), scale(2000, 6000, 0)).is_empty());
        assert_eq!(memory_bins([].iter(), scale(2000, 6000, 2)), [None, None]);
        // What came after the picture was held.
        assert_eq!(held(&memory_bins(points(9).iter(), scale(2000, 5999, 3))), [None, Some(100), Some(200)]);
    }

    #[test]
    fn columns_between_points_show_the_one_that_stands_for_them() {
        let mut points = points(3);
        points[1].over_ms = 0;
        let bins = memory_bins(points.iter(), scale(500, 6600, 10));
        let (none, third) = ([None; 3], [Some(300); 4]);
        assert_eq!(held(&bins)[..9], [&[Some(100)], &none[..], &[Some(200)], &third[..]].concat());
        assert_eq!(bins[6].as_ref().unwrap().refault_rate(), Some(3), "the rate is no greater for it");
        assert_eq!(bins[9], None, "what will be there is not known yet");
    }

    #[test]
    fn pressure_is_the_greatest_and_may_be_missing() {
        let point = |unix_ms, samples, swap_used, pressure| HostPoint {
            unix_ms,
            over_ms: 1000,
            samples,
            swap_used,
            pressure,
        };
        let points = [point(1000, 1, 10, None), point(2000, 1, 10, Some(7.0)), point(3000, 3, 20, Some(2.0))];
        let bins = host_bins(points.iter(), scale(2000, 3000, 2));
        let [first, second] = [0, 1].map(|at: usize| bins[at].as_ref().unwrap());
        assert_eq!((first.pressure, second.pressure), (None, Some(7.0)));
        assert_eq!((first.swap(), second.swap()), (10, 70 / 4));
    }
}
