//! The scale of time: what a column stands for, which column a moment is in, and how times are written.
//!
//! Input: moments and widths in milliseconds. Output: columns counted back from the newest, and text. Pure.

/// What a column can stand for, milliseconds. From 5 s on each consists of whole spans of the history.
pub(super) const WIDTHS_MS: [u64; 15] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_200_000,
    1_800_000, 3_600_000,
];
/// A second.
const USUAL: usize = 3;

/// Columns of a fixed width, whose bounds are multiples of the width since 1970: a moment stays in its column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// What a column stands for, milliseconds.
    pub(super) width_ms: u64,
    /// The newest moment in the picture, milliseconds since 1970-01-01 UTC.
    pub(super) until_ms: u64,
    /// Columns there are.
    pub(super) columns: usize,
}

impl Scale {
    /// How many columns before the newest a moment is, on the screen or not. What is newer is in the newest.
    pub(super) fn back(self, unix_ms: u64) -> usize {
        let back = (self.until_ms / self.width_ms).saturating_sub(unix_ms / self.width_ms);
        usize::try_from(back).unwrap_or(usize::MAX)
    }

    /// When the oldest column begins, milliseconds since 1970-01-01 UTC.
    pub(super) fn begin_ms(self) -> u64 {
        let columns = (self.until_ms / self.width_ms + 1).saturating_sub(self.columns as u64);
        columns * self.width_ms
    }
}

/// The finest width that makes sense where samples are so far apart: about one a column. Of [`WIDTHS_MS`], by number.
pub(super) fn finest(apart_ms: Option<u64>) -> usize {
    let Some(apart) = apart_ms else { return USUAL };
    // Samples are never quite as far apart as they were asked for.
    WIDTHS_MS.iter().position(|width| *width * 4 >= apart * 3).unwrap_or(WIDTHS_MS.len() - 1)
}

/// A span of time, such as `500 ms`, `1.6 s`, `126 s`, `5 min 20 s`, `34 min`, `5 h 20 min`.
pub(super) fn span(ms: u64) -> String {
    let seconds = (ms + 500) / 1000;
    let minutes = (seconds + 30) / 60;
    let two = |great: u64, unit, small: u64, part| match small {
        0 => format!("{great} {unit}"),
        _ => format!("{great} {unit} {small} {part}"),
    };
    match seconds {
        _ if ms < 1000 => format!("{ms} ms"),
        1..=9 if !ms.is_multiple_of(1000) => format!("{:.1} s", ms as f64 / 1000.0),
        // As widths of columns are called.
        60 | 120 => format!("{minutes} min"),
        0..=299 => format!("{seconds} s"),
        300..=3599 => two(seconds / 60, "min", seconds % 60, "s"),
        3601..=5999 => format!("{minutes} min"),
        _ => two(minutes / 60, "h", minutes % 60, "min"),
    }
}

/// The same without blanks, such as `1.6s`, `34m`, `5h20m`.
pub(super) fn short_span(ms: u64) -> String {
    span(ms).replace("min", "m").replace(' ', "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_of_time() {
        let cases = [
            (0, "0 ms", "0ms"),
            (100, "100 ms", "100ms"),
            (1_600, "1.6 s", "1.6s"),
            (8_000, "8 s", "8s"),
            (60_000, "1 min", "1m"),
            (9_960, "10 s", "10s"),
            (120_000, "2 min", "2m"),
            (126_000, "126 s", "126s"),
            (320_000, "5 min 20 s", "5m20s"),
            (2_040_000, "34 min", "34m"),
            (3_600_000, "1 h", "1h"),
            (5_000_000, "83 min", "83m"),
            (19_200_000, "5 h 20 min", "5h20m"),
            (86_400_000, "24 h", "24h"),
        ];
        for (ms, long, short) in cases {
            assert_eq!((span(ms).as_str(), short_span(ms).as_str()), (long, short));
        }
    }

    #[test]
    fn one_sample_a_column() {
        let finest = |ms| WIDTHS_MS[finest(ms)];
        for rate in [100, 200, 500, 1_000, 2_000, 5_000, 10_000] {
            for off in [rate * 9 / 10, rate, rate * 11 / 10] {
                assert_eq!(finest(Some(off)), rate, "{off} ms apart");
            }
        }
        assert_eq!([None, Some(u64::MAX / 4)].map(finest), [1_000, 3_600_000]);
    }

    proptest! {
        #[test]
        fn a_column_keeps_its_bounds(width in prop::sample::select(&WIDTHS_MS[..]), at in 0u64..1 << 41, later in 0u64..1 << 30) {
            let scale = Scale { width_ms: width, until_ms: at + later, columns: 100 };
            let back = scale.back(at);
            let begin = (scale.until_ms / width - back as u64) * width;
            prop_assert!((begin..begin + width).contains(&at));
            prop_assert_eq!(at >= scale.begin_ms(), back < 100);
        }
    }
}
