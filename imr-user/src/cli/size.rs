//! Amounts of memory as people write them: `512M`, `1.5G`, `2GiB`, `10%`; a bare number is bytes.

use crate::pipeline::settings::{Amount, Percent};

/// Units and their bytes, by their first letter.
const UNITS: [(char, u64); 5] = [('B', 1), ('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30), ('T', 1 << 40)];

/// Parses bytes.
///
/// # Errors
/// What is wrong with it, for a usage message.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write one such as 512M, 1.5G or 2GiB");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim_start().to_ascii_uppercase();
    let factor = match unit.chars().next() {
        None => 1,
        Some(letter) => {
            let found = UNITS.iter().find(|(known, _)| *known == letter).ok_or_else(wrong)?;
            if !matches!(&unit[1..], "" | "B" | "IB") || (letter == 'B' && unit.len() > 1) {
                return Err(wrong());
            }
            found.1
        }
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * factor as f64;
    if bytes >= u64::MAX as f64 {
        return Err(format!("{text:?} is more memory than there can be"));
    }
    Ok(bytes as u64)
}

/// Parses percent, with or without its sign, from 0 to 100.
///
/// # Errors
/// What is wrong with it, for a usage message.
pub fn percent(text: &str) -> Result<Percent, String> {
    let number = text.trim().strip_suffix('%').unwrap_or(text).trim();
    let percent: f32 =
        number.parse().map_err(|_| format!("{text:?} is no share; write one such as 10% or 2.5%"))?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(format!("{text:?} is not between 0% and 100%"));
    }
    Ok(Percent::new(percent))
}

/// Parses bytes, or a share with its percent sign.
///
/// # Errors
/// What is wrong with it, for a usage message.
pub fn amount(text: &str) -> Result<Amount, String> {
    if text.trim().ends_with('%') { percent(text).map(Amount::Share) } else { bytes(text).map(Amount::Bytes) }
}

/// Bytes so that [`bytes`] reads them back as they are.
#[must_use]
pub fn write_bytes(bytes: u64) -> String {
    let fitting = UNITS.iter().rev().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    match fitting {
        Some((letter, factor)) if *factor > 1 => format!("{}{letter}", bytes / factor),
        _ => bytes.to_string(),
    }
}

/// A share so that [`percent`] reads it back.
#[must_use]
pub fn write_percent(percent: Percent) -> String {
    percent.to_string().replace(' ', "")
}

/// An amount so that [`amount`] reads it back.
#[must_use]
pub fn write_amount(amount: Amount) -> String {
    match amount {
        Amount::Bytes(bytes) => write_bytes(bytes),
        Amount::Share(share) => write_percent(share),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_write_sizes_in_several_ways() {
        for (text, value) in
            [("512M", 512 << 20), ("1.5G", 3 << 29), ("2GiB", 2 << 30), ("7", 7), ("7 kb", 7 << 10), ("0", 0)]
        {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in ["", "M", "-1M", "1X", "1MM", "1BiB", "nan", "inf", "99999999T", "1.2.3", "10%", "1M "] {
            assert_eq!(bytes(text).is_ok(), text == "1M ", "{text}");
        }
        assert_eq!((percent("2.5%"), percent("10")), (Ok(Percent::new(2.5)), Ok(Percent::new(10.0))));
        for text in ["", "%", "101%", "-1%", "nan%", "ten"] {
            assert!(percent(text).is_err(), "{text}");
        }
        assert_eq!(amount("10 %"), Ok(Amount::Share(Percent::new(10.0))));
        assert_eq!(amount("10M"), Ok(Amount::Bytes(10 << 20)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in 0..1_u64 << 52, unit in 0..4_u32, share in 0..10_001_u32) {
            let value = value >> (10 * unit) << (10 * unit);
            prop_assert_eq!(bytes(&write_bytes(value)), Ok(value));
            let share = Percent::hundredths(share);
            prop_assert_eq!(amount(&write_amount(Amount::Share(share))), Ok(Amount::Share(share)));
        }
    }
}
