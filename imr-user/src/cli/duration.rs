//! Durations as people write them: `10s`, `5m`, `500ms`, `1.5s`; a bare number is seconds.

use std::time::Duration;

/// Units, longest name first where one ends like another, and their seconds.
const UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
/// Longest duration taken: a year.
const LONGEST_S: f64 = 365.0 * 86_400.0;

/// Parses one.
///
/// # Errors
/// What is wrong with it, for a usage message.
pub fn parse(text: &str) -> Result<Duration, String> {
    let (number, unit_s) = UNITS
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)))
        .unwrap_or((text, 1.0));
    let seconds = number
        .trim()
        .parse::<f64>()
        .map_err(|_| format!("{text:?} is no duration; write one such as 500ms, 10s, 5m or 0.5"))?
        * unit_s;
    if !(0.0..=LONGEST_S).contains(&seconds) {
        return Err(format!("{text:?} is out of range; 0 to a year"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_durations_in_several_ways() {
        for (text, ms) in
            [("10s", 10_000), ("5m", 300_000), ("500ms", 500), ("0.5", 500), ("2", 2000), ("1h", 3_600_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "ten", "nan", "inf", "1e99", "1 2s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
