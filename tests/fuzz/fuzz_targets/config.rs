//! The configuration file.
//!
//! In: the text. Holds: a fault is told with a line that the text has; what is taken, written down and read again is the
//! same configuration; a comment before it changes nothing.

#![no_main]

use std::path::Path;

use imr_user::cli::config::{ConfigError, FileConfig, text_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = Path::new("c.toml");
    match FileConfig::parse(path, text) {
        Ok(config) => {
            let written = text_of(&config);
            let again = FileConfig::parse(path, &written).expect("what was written can be read");
            assert_eq!(again, config, "{written}");
            let commented = FileConfig::parse(path, &format!("# a comment\n{text}"));
            // A byte order mark may stand first only.
            assert!(text.starts_with('\u{feff}') || commented.is_ok_and(|commented| commented == config));
        }
        Err(ConfigError::Wrong { line, what, .. }) => {
            let lines = 1 + text.bytes().filter(|byte| *byte == b'\n').count();
            assert!((1..=lines).contains(&line), "line {line} of {lines}: {what}");
            assert!(!what.is_empty());
        }
        Err(error) => panic!("parsing reads no file: {error}"),
    }
});
