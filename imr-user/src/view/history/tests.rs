//! The history: bounded, in order, every sample once, whatever the clock and the rate do.

use std::time::Duration;

use proptest::prelude::*;

use super::testing::{busy, many};
use super::tiers::{KEPT, SPANS_MS};
use super::*;

/// Bytes that a VM may cost.
const VM_MOST: usize = 60 << 10;

fn bytes<S: Sample>(series: &Series<S>) -> usize {
    size_of_val(series) + series.room().iter().sum::<usize>() * size_of::<S>()
}

/// Samples of a VM: so many, so far apart, over and over.
fn samples(pace: &[(u64, u64)]) -> Vec<Point> {
    let mut unix_ms = 1_700_000_123_456;
    let mut points: Vec<Point> = Vec::new();
    for (apart, count) in pace {
        for _ in 0..*count {
            unix_ms += apart;
            let at = points.len() as u64;
            points.push(Point {
                unix_ms,
                over_ms: if at > 0 { *apart as u32 } else { 0 },
                samples: 1,
                resident_in_use: (at * 7919 % 10_007) << 20,
                resident_free: unix_ms,
                reclaimed: u64::MAX,
                swapped: 5,
                merged: at,
                refaulted_total: at * at,
            });
        }
    }
    points
}

fn series(points: &[Point]) -> Series<Point> {
    let mut series = Series::default();
    points.iter().for_each(|point| series.push(*point));
    series
}

fn pace() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let rates = prop::sample::select(&[97u64, 100, 203, 500, 1000, 1013, 2000, 5000, 10_000][..]);
    prop::collection::vec((rates, 1u64..1500), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_sample_counts_once_in_order_and_in_bounds(pace in pace()) {
        let raw = samples(&pace);
        let series = series(&raw);
        let points: Vec<Point> = series.points().copied().collect();
        prop_assert!(points.is_sorted_by(|a, b| a.unix_ms < b.unix_ms));
        prop_assert!(points.iter().all(|point| point.samples > 0));
        // Each stands for all the time since the one before, and no more.
        prop_assert!(points.windows(2).all(|two| two[1].since_ms() == two[0].unix_ms));
        prop_assert_eq!(points.iter().map(|point| point.samples as usize).sum::<usize>(), raw.len());
        prop_assert_eq!(points[0].since_ms(), raw[0].unix_ms);
        let newest = points.iter().rev().take_while(|point| point.samples == 1).count();
        prop_assert_eq!(&points[points.len() - newest..], &raw[raw.len() - newest..], "the newest as they were");
        // Where the rate changed, the oldest of them may make room for a longer span that begins among them.
        prop_assert!(pace.len() > 1 || newest >= KEPT[0].min(raw.len()) - 52.min(raw.len()));
        prop_assert!(series.room().iter().zip(KEPT).all(|(room, kept)| *room <= kept));
        prop_assert!(bytes(&series) <= VM_MOST);
    }

    #[test]
    fn merging_keeps_means_and_totals(pace in pace()) {
        let raw = samples(&pace);
        let series = series(&raw);
        let amounts: [fn(&Point) -> u64; 4] =
            [|p| p.resident_in_use, |p| p.resident_free, |p| p.swapped, |p| p.merged];
        let mut rest = raw.iter();
        for point in series.points() {
            let of: Vec<&Point> = rest.by_ref().take(point.samples as usize).collect();
            let newest = of[of.len() - 1];
            prop_assert_eq!((point.unix_ms, point.refaulted_total), (newest.unix_ms, newest.refaulted_total));
            prop_assert_eq!(point.reclaimed, u64::MAX, "no sum overflows");
            for amount in amounts {
                let sum: u128 = of.iter().map(|sample| u128::from(amount(sample))).sum();
                let mean = sum as f64 / of.len() as f64;
                // Half a byte for each of three times.
                prop_assert!((amount(point) as f64 - mean).abs() <= 1.5 + mean * f64::EPSILON);
            }
        }
        prop_assert!(rest.next().is_none());
    }

    #[test]
    fn a_point_never_changes(pace in pace(), more in pace()) {
        let before = samples(&pace);
        let after = samples(&[pace, more].concat());
        let (before, after) = (series(&before), series(&after));
        // What is in both is the same, or a part of a longer span.
        let after: Vec<Point> = after.points().copied().collect();
        for old in before.points() {
            let at = after.partition_point(|point| point.unix_ms < old.unix_ms);
            let new = after[at];
            prop_assert!(new == *old || (new.samples > old.samples && new.since_ms() <= old.since_ms()));
        }
    }
}

#[test]
fn the_very_first_sample_stands_for_no_time_and_counts_all_the_same() {
    for count in 1000..1300 {
        let series = series(&samples(&[(5000, count)]));
        let counted: u64 = series.points().map(|point| u64::from(point.samples)).sum();
        assert_eq!(counted, count);
    }
}

#[test]
fn a_day_at_every_rate() {
    for apart in [100, 1000, 10_000] {
        let raw = samples(&[(apart, 26 * 3_600_000 / apart)]);
        let series = series(&raw);
        let points: Vec<Point> = series.points().copied().collect();
        let newest = points[points.len() - 1].unix_ms;
        let day = newest - points[0].since_ms();
        assert!((86_100_000..=86_800_000).contains(&day), "{apart} ms apart: {day} ms");
        assert_eq!(series.room(), KEPT);
        assert!(bytes(&series) <= VM_MOST, "{} bytes", bytes(&series));
        // Never coarser than the span that suits the age.
        for point in &points {
            let age = newest - point.unix_ms;
            let span = match age {
                0..900_000 => SPANS_MS[0],
                900_000..5_400_000 => SPANS_MS[1],
                _ => SPANS_MS[2],
            };
            let most = if age < apart * 200 { apart } else { span + apart };
            assert!(u64::from(point.over_ms) <= most, "{point:?}, {age} ms ago, {apart} ms apart");
        }
    }
}

#[test]
fn pressure_keeps_its_peaks() {
    let mut series = Series::default();
    for at in 0..10_000u64 {
        let pressure = if at < 1000 { None } else { Some(if at == 3000 { 80.0 } else { 0.5 }) };
        series.push(HostPoint { unix_ms: at * 1000, over_ms: 1000, samples: 1, swap_used: at, pressure });
    }
    let points: Vec<HostPoint> = series.points().copied().collect();
    assert!(points.len() < 800, "{}", points.len());
    assert_eq!(points.iter().filter(|point| point.pressure == Some(80.0)).count(), 1);
    assert_eq!((points[0].pressure, points[0].swap_used), (None, 150));
}

#[test]
fn samples_are_taken_once_and_only_of_vms_that_are_there() {
    let mut history = History::default();
    let mut sample = many(2);
    for at in 1..=300 {
        (sample.sequence, sample.unix_ms) = (at, 1_000_000 + at * 1000);
        history.note(&sample);
        history.note(&sample);
    }
    let count = |series: &Series<Point>| series.points().map(|point| point.samples).sum::<u32>();
    let ids = [sample.vms[0].id, sample.vms[1].id];
    assert_eq!(count(history.all()), 300);
    assert_eq!(history.host().points().map(|point| point.samples).sum::<u32>(), 300);
    assert_eq!(ids.map(|id| count(history.vm(id).unwrap())), [300, 300]);
    let all = history.all().newest().unwrap();
    assert_eq!(all.reclaimed, sample.vms.iter().map(|vm| vm.reclaimed_now_bytes).sum::<u64>());
    assert_eq!(history.host().apart_ms(), Some(1000));
    let gone = sample.vms.pop().unwrap();
    (sample.sequence, sample.unix_ms) = (301, sample.unix_ms + 1000);
    history.note(&sample);
    assert!(history.vm(gone.id).is_none());
    // It is not known of a VM what it had before it was found.
    sample.vms.push(gone);
    (sample.sequence, sample.unix_ms) = (302, sample.unix_ms + 1000);
    history.note(&sample);
    let back: Vec<_> = history.vm(ids[1]).unwrap().points().map(|point| point.over_ms).collect();
    assert_eq!(back, [0]);
    assert_eq!(history.vm(ids[0]).unwrap().newest().unwrap().over_ms, 1000);
}

#[test]
fn refaults_of_all_go_on_when_a_vm_ends() {
    let mut history = History::default();
    let mut sample = many(2);
    sample.vms.iter_mut().for_each(|vm| vm.refaulted_bytes = 100);
    history.note(&sample);
    sample.vms.pop();
    sample.vms[0].refaulted_bytes += 5;
    (sample.sequence, sample.unix_ms) = (sample.sequence + 1, sample.unix_ms + 1000);
    history.note(&sample);
    assert_eq!(history.all().points().map(|point| point.refaulted_total).collect::<Vec<_>>(), [200, 205]);
}

#[test]
fn time_goes_on_when_the_clock_does_not() {
    let mut history = History::default();
    let mut sample = busy();
    // A second apart, the clock an hour back, a second apart, ten minutes without any, a slower rate.
    let steps: [(u64, u64); 7] = [
        (7_200_000, 0),
        (7_201_000, 1000),
        (3_601_000, 2000),
        (3_602_000, 3000),
        (4_202_000, 603_000),
        (4_212_000, 613_000),
        (4_242_000, 643_000),
    ];
    for (sequence, (unix_ms, uptime_ms)) in (1..).zip(steps) {
        (sample.sequence, sample.unix_ms) = (sequence, unix_ms);
        sample.uptime = Duration::from_millis(uptime_ms);
        history.note(&sample);
    }
    let points: Vec<_> = history.host().points().map(|point| (point.unix_ms, point.over_ms)).collect();
    let expected = [
        (7_200_000, 0),
        (7_201_000, 1000),
        (7_202_000, 1000),
        (7_203_000, 1000),
        (7_803_000, 0),
        (7_813_000, 10_000),
        (7_843_000, 30_000),
    ];
    assert_eq!(points, expected);
    assert_eq!(history.time_of(&sample), 7_843_000);
}
