//! Numbers and names as people read them: bytes, counts, durations, clock times, and text made safe to print.
//!
//! Input: plain values. Output: short strings of known greatest width. Pure, and knows nothing of colours.

use std::time::Duration;

use ratatui::text::Span;

/// Units of bytes, each 1024 of the one before.
const BYTE_UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
/// The same in one letter.
const BYTE_LETTERS: [&str; 7] = ["B", "K", "M", "G", "T", "P", "E"];
/// Units of counts, each 1000 of the one before.
const COUNT_LETTERS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// Bytes with three significant digits and the unit in full, such as `1.50 GiB`.
#[must_use]
pub fn bytes(value: u64) -> String {
    let (number, unit) = scaled(value as f64, 1024.0);
    format!("{number} {}", BYTE_UNITS[unit])
}

/// Bytes in at most five columns, such as `1.50G`; zero is `0`.
#[must_use]
pub fn bytes_short(value: u64) -> String {
    if value == 0 {
        return "0".to_owned();
    }
    let (number, unit) = scaled(value as f64, 1024.0);
    format!("{number}{}", BYTE_LETTERS[unit])
}

/// `used/total unit`, both in the unit of the total, such as `12.3/24.0 GiB`.
#[must_use]
pub fn bytes_of(part: u64, whole: u64) -> String {
    let (number, unit) = scaled(whole as f64, 1024.0);
    let part = part as f64 / 1024f64.powi(unit as i32);
    format!("{}/{number} {}", three_digits(part), BYTE_UNITS[unit])
}

/// A count in at most five columns, such as `12.3k`.
#[must_use]
pub fn count(value: u64) -> String {
    let (number, unit) = scaled(value as f64, 1000.0);
    format!("{number}{}", COUNT_LETTERS[unit])
}

/// A rate a second in at most five columns; what is not a number is `-`.
#[must_use]
pub fn rate(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "-".to_owned();
    }
    if value > 0.0 && value < 9.95 {
        return format!("{value:.1}");
    }
    let (number, unit) = scaled(value.round(), 1000.0);
    format!("{number}{}", COUNT_LETTERS[unit])
}

/// Microseconds in at most five columns, such as `350us`, `1.2ms`, `12s`.
#[must_use]
pub fn micros(value: u64) -> String {
    let us = value as f64;
    if us < 999.5 {
        format!("{value}us")
    } else if us < 9_950.0 {
        format!("{:.1}ms", us / 1e3)
    } else if us < 999_500.0 {
        format!("{:.0}ms", us / 1e3)
    } else if us < 99_950_000.0 {
        format!("{:.1}s", us / 1e6)
    } else if us < 9_999_500_000.0 {
        format!("{:.0}s", us / 1e6)
    } else {
        ">2h".to_owned()
    }
}

/// A time between two samples, as it is written on the command line, such as `500ms` or `2s`.
#[must_use]
pub fn delay(value: Duration) -> String {
    if value.as_millis().is_multiple_of(1000) {
        format!("{}s", value.as_secs())
    } else {
        format!("{}ms", value.as_millis())
    }
}

/// How long something has been up, such as `00:12:31` or `3d 04:05:06`.
#[must_use]
pub fn uptime(value: Duration) -> String {
    let all = value.as_secs();
    let (days, hours, minutes, seconds) = (all / 86_400, all / 3600 % 24, all / 60 % 60, all % 60);
    if days > 0 {
        format!("{days}d {hours:02}:{minutes:02}:{seconds:02}")
    } else {
        format!("{hours:02}:{minutes:02}:{seconds:02}")
    }
}

/// Time of day in UTC of a wall-clock time, such as `12:34:56`.
#[must_use]
pub fn clock_utc(unix_ms: u64) -> String {
    let all = unix_ms / 1000;
    format!("{:02}:{:02}:{:02}", all / 3600 % 24, all / 60 % 60, all % 60)
}

/// Share of the whole in whole percent, 0 where there is no whole.
#[must_use]
pub fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 0 } else { (part as f64 * 100.0 / whole as f64).round() as u64 }
}

/// The text without anything that could steer a terminal or reorder a line.
///
/// Names come from the command lines of other processes: control characters, bidirectional overrides and
/// zero-width characters become `?`, as does everything outside ASCII where `ascii` is set.
#[must_use]
pub fn printable(text: &str, ascii: bool) -> String {
    text.chars().map(|c| if steers(c) || (ascii && !c.is_ascii()) { '?' } else { c }).collect()
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Columns that the text takes on a terminal.
#[must_use]
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text cut to at most `columns`, the last one being `ellipsis` where something was cut.
#[must_use]
pub fn cut(text: &str, columns: usize, ellipsis: char) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut taken = 0;
    let mut one = [0u8; 4];
    for c in text.chars() {
        let wide = width(c.encode_utf8(&mut one));
        if taken + wide + 1 > columns {
            break;
        }
        taken += wide;
        out.push(c);
    }
    if columns > 0 {
        out.push(ellipsis);
    }
    out
}

/// The text in exactly `columns`, cut or padded on the right.
#[must_use]
pub fn left(text: &str, columns: usize, ellipsis: char) -> String {
    let mut out = cut(text, columns, ellipsis);
    let taken = width(&out);
    out.extend(std::iter::repeat_n(' ', columns.saturating_sub(taken)));
    out
}

/// The text in exactly `columns`, cut or padded on the left.
#[must_use]
pub fn right(text: &str, columns: usize, ellipsis: char) -> String {
    let cut = cut(text, columns, ellipsis);
    let taken = width(&cut);
    let mut out = " ".repeat(columns.saturating_sub(taken));
    out.push_str(&cut);
    out
}

/// The text in lines of at most `columns`, broken between words; a word longer than a line stays whole.
#[must_use]
pub fn words(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let taken = lines.last().map_or(0, |line| width(line));
        if taken > 0 && taken + 1 + width(word) > columns {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// The number in at most four columns and the index of its unit.
fn scaled(value: f64, step: f64) -> (String, usize) {
    let mut value = value;
    let mut unit = 0;
    // The last whole number shown in a unit is one below the step, so that rounding never prints `1000k`.
    while value >= step - 0.5 && unit + 1 < BYTE_UNITS.len() {
        value /= step;
        unit += 1;
    }
    (if unit == 0 { format!("{value:.0}") } else { three_digits(value) }, unit)
}

fn three_digits(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_have_three_significant_digits() {
        let cases = [
            (0, "0 B", "0"),
            (1, "1 B", "1B"),
            (1023, "1023 B", "1023B"),
            (1024, "1.00 KiB", "1.00K"),
            (1536 << 10, "1.50 MiB", "1.50M"),
            (512 << 20, "512 MiB", "512M"),
            (1023 << 20, "1023 MiB", "1023M"),
            ((1 << 30) - 1, "1.00 GiB", "1.00G"),
            (12_345 << 20, "12.1 GiB", "12.1G"),
            (u64::MAX, "16.0 EiB", "16.0E"),
        ];
        for (value, long, short) in cases {
            assert_eq!(bytes(value), long);
            assert_eq!(bytes_short(value), short);
        }
    }

    #[test]
    fn part_is_shown_in_the_unit_of_the_whole() {
        assert_eq!(bytes_of(12 << 30, 24 << 30), "12.0/24.0 GiB");
        assert_eq!(bytes_of(0, 2 << 30), "0/2.00 GiB");
        assert_eq!(bytes_of(1 << 20, 24 << 30), "0.00/24.0 GiB");
    }

    #[test]
    fn counts_and_rates() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1.00k");
        assert_eq!(count(1_234_567), "1.23M");
        assert_eq!(rate(0.0), "0");
        assert_eq!(rate(0.44), "0.4");
        assert_eq!(rate(12.4), "12");
        assert_eq!(rate(1_000_000.0), "1.00M");
        assert_eq!(rate(f64::NAN), "-");
        assert_eq!(rate(f64::INFINITY), "-");
        assert_eq!(rate(-1.0), "-");
    }

    #[test]
    fn durations() {
        let cases = [
            (0, "0us"),
            (350, "350us"),
            (999, "999us"),
            (1000, "1.0ms"),
            (12_345, "12ms"),
            (999_499, "999ms"),
            (1_500_000, "1.5s"),
            (120_000_000, "120s"),
            (u64::MAX, ">2h"),
        ];
        for (value, text) in cases {
            assert_eq!(micros(value), text);
        }
        assert_eq!(delay(Duration::from_millis(1500)), "1500ms");
        assert_eq!(delay(Duration::from_secs(2)), "2s");
        assert_eq!(uptime(Duration::from_secs(751)), "00:12:31");
        assert_eq!(uptime(Duration::from_secs(273_906)), "3d 04:05:06");
        assert_eq!(clock_utc(1_700_000_000_123), "22:13:20");
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n", false), "a?[2Jb?");
        assert_eq!(printable("a\u{202e}b\u{200b}", false), "a?b?");
        assert_eq!(printable("kämmerer", false), "kämmerer");
        assert_eq!(printable("kämmerer", true), "k?mmerer");
    }

    #[test]
    fn text_is_cut_by_columns_not_by_characters() {
        assert_eq!(cut("alphabet", 5, '~'), "alph~");
        assert_eq!(cut("alpha", 5, '~'), "alpha");
        assert_eq!(cut("漢字漢字", 5, '~'), "漢字~");
        assert_eq!(cut("漢字漢字", 4, '~'), "漢~");
        assert_eq!(cut("abc", 0, '~'), "");
        assert_eq!(left("漢字漢字", 4, '~'), "漢~ ");
        assert_eq!(right("7", 3, '~'), "  7");
    }

    proptest! {
        #[test]
        fn short_forms_never_pass_five_columns(value: u64, real in 0.0f64..1e18) {
            prop_assert!(bytes_short(value).len() <= 5);
            prop_assert!(count(value).len() <= 5);
            prop_assert!(micros(value).len() <= 5);
            prop_assert!(rate(real).len() <= 5);
        }

        #[test]
        fn columns_are_exact(text in "\\PC{0,12}", columns in 0usize..20) {
            prop_assert_eq!(width(&left(&text, columns, '~')), columns);
            prop_assert_eq!(width(&right(&text, columns, '~')), columns);
        }
    }
}
