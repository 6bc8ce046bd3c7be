//! Samples to columns: so many samples a column, the newest on the right.
//!
//! Input: samples and how many a column has. Output: means and rates of each column. A column has the same samples as
//! long as it is seen, so that a line moves and does not flicker; a column without samples is empty.

use std::collections::VecDeque;

use super::chart::{LAYERS, Layer};
use crate::view::history::{HostPoint, Point};

/// What the samples of one column say of memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct MemoryBin {
    /// Time of its newest sample, milliseconds since 1970-01-01 UTC.
    pub(super) unix_ms: u64,
    /// Means of its samples, bytes, in the order of [`LAYERS`].
    pub(super) layers: [u64; LAYERS.len()],
    /// The newest sample itself.
    pub(super) newest: [u64; LAYERS.len()],
    /// Free by the guest's statistics in the newest sample, bytes.
    pub(super) guest_free: u64,
    refaulted: u64,
    /// Time over which that was, milliseconds.
    over_ms: u64,
    samples: u64,
}

/// What the samples of one column say of the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct HostBin {
    /// Swap in use in the newest sample, bytes.
    pub(super) swap_newest: u64,
    /// Pressure in the newest sample, percent.
    pub(super) pressure_newest: Option<f32>,
    swap: u64,
    pressure: f64,
    pressures: u32,
    samples: u64,
}

impl MemoryBin {
    /// Bytes refaulted a second; `None` where there is nothing to compare with.
    pub(super) fn refault_rate(&self) -> Option<u64> {
        (self.over_ms > 0).then(|| (self.refaulted as f64 * 1000.0 / self.over_ms as f64).round() as u64)
    }
}

impl HostBin {
    /// Mean pressure, percent; `None` where the kernel has no PSI.
    pub(super) fn pressure(&self) -> Option<f64> {
        (self.pressures > 0).then(|| self.pressure / f64::from(self.pressures))
    }

    /// Mean swap in use, bytes.
    pub(super) fn swap(&self) -> u64 {
        self.swap / self.samples.max(1)
    }
}

/// The newest `columns` columns of `1 << zoom` samples each, the newest last.
pub(super) fn memory_bins(points: &VecDeque<Point>, zoom: u8, columns: usize) -> Vec<Option<MemoryBin>> {
    let newest = points.back().map_or(0, |point| point.sequence);
    let mut bins = vec![None; columns];
    let mut before: Option<&Point> = None;
    for point in points {
        let earlier = before.replace(point);
        let Some(bin) = column(point.sequence, newest, zoom, columns).and_then(|at| bins.get_mut(at)) else {
            continue;
        };
        let bin: &mut MemoryBin = bin.get_or_insert_default();
        let layers = LAYERS.map(|layer| match layer {
            Layer::Held => point.resident_in_use,
            Layer::Free => point.resident_free,
            Layer::Merged => point.merged,
            Layer::Swapped => point.swapped,
            Layer::Reclaimed => point.reclaimed,
        });
        for (sum, value) in bin.layers.iter_mut().zip(layers) {
            *sum = sum.saturating_add(value);
        }
        (bin.newest, bin.unix_ms, bin.guest_free) = (layers, point.unix_ms, point.guest_free);
        bin.samples += 1;
        if let Some(earlier) = earlier {
            bin.refaulted += point.refaulted_total.saturating_sub(earlier.refaulted_total);
            bin.over_ms += point.unix_ms.saturating_sub(earlier.unix_ms);
        }
    }
    for bin in bins.iter_mut().flatten() {
        bin.layers = bin.layers.map(|sum| sum / bin.samples.max(1));
    }
    bins
}

/// The same of the host, up to the sample `newest`.
pub(super) fn host_bins(
    points: &VecDeque<HostPoint>,
    newest: u64,
    zoom: u8,
    columns: usize,
) -> Vec<Option<HostBin>> {
    let mut bins = vec![None; columns];
    for point in points {
        let Some(bin) = column(point.sequence, newest, zoom, columns).and_then(|at| bins.get_mut(at)) else {
            continue;
        };
        let bin: &mut HostBin = bin.get_or_insert_default();
        bin.swap = bin.swap.saturating_add(point.swap_used);
        bin.swap_newest = point.swap_used;
        bin.pressure_newest = point.pressure;
        bin.samples += 1;
        if let Some(pressure) = point.pressure.filter(|pressure| pressure.is_finite()) {
            bin.pressure += f64::from(pressure);
            bin.pressures += 1;
        }
    }
    bins
}

/// Where a sample goes.
fn column(sequence: u64, newest: u64, zoom: u8, columns: usize) -> Option<usize> {
    let back = (newest >> zoom).checked_sub(sequence >> zoom)?;
    columns.checked_sub(1)?.checked_sub(usize::try_from(back).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: u64) -> VecDeque<Point> {
        (1..=count)
            .map(|at| Point {
                sequence: at,
                unix_ms: at * 2000,
                resident_in_use: at * 100,
                refaulted_total: at * at,
                ..Point::default()
            })
            .collect()
    }

    #[test]
    fn a_column_keeps_its_samples_while_time_goes_on() {
        // Samples 8 to 11 make one column of four, whatever has come since.
        for newest in 11..=15 {
            let bins = memory_bins(&points(newest), 2, 5);
            let back = (newest / 4 - 2) as usize;
            let bin = bins[4 - back].as_ref().unwrap();
            assert_eq!((bin.samples, bin.layers[0], bin.newest[0]), (4, (8 + 9 + 10 + 11) * 25, 1100));
            // From sample 7 to sample 11, four times two seconds.
            assert_eq!(bin.refault_rate(), Some((11 * 11 - 7 * 7) / 8));
        }
    }

    #[test]
    fn columns_without_samples_are_empty() {
        let bins = memory_bins(&points(3), 0, 5);
        assert_eq!(bins.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true, true, true]);
        assert_eq!(bins[2].as_ref().unwrap().refault_rate(), None, "nothing is known of before");
        assert_eq!(bins[3].as_ref().unwrap().refault_rate(), Some(2));
        assert!(memory_bins(&points(3), 0, 0).is_empty());
        assert_eq!(memory_bins(&VecDeque::new(), 3, 2), [None, None]);
    }

    #[test]
    fn the_host_without_psi() {
        let point =
            |sequence, pressure| HostPoint { sequence, swap_used: 10, pressure, ..HostPoint::default() };
        let points = VecDeque::from([point(1, None), point(2, Some(1.0)), point(3, Some(2.0))]);
        let bins = host_bins(&points, 3, 1, 2);
        assert_eq!(
            (bins[0].as_ref().unwrap().pressure(), bins[1].as_ref().unwrap().pressure()),
            (None, Some(1.5))
        );
        assert_eq!(bins[1].as_ref().unwrap().swap(), 10);
    }
}
