//! The configuration file: where it is, what it says, and what is wrong with it, by line.
//!
//! Input: a path or the environment. Output: [`FileConfig`], complete: what the file does not say is built in. One
//! section a program or subcommand, each in a file of its own. The command line wins over all of it.

pub mod commands;
mod run;
mod text;
mod top;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

pub use self::run::RunSection;
pub use self::text::{default_text, text_of};
pub use self::top::TopSection;

/// Longest file read, bytes: it is for people.
const MOST_BYTES: u64 = 1 << 20;
/// Where the file of the whole machine is.
const SYSTEM: &str = "/etc/imr/config.toml";

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file is there and cannot be read, or was asked for and is not there.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{path}:{line}: {what}")]
    Wrong {
        /// In which file.
        path: String,
        /// In which line, from 1.
        line: usize,
        /// What it is, and what is allowed.
        what: String,
    },
}

/// What a file says, checked, and completed by what is built in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileConfig {
    /// What is done with memory.
    pub run: RunSection,
    /// imr-top.
    pub top: TopSection,
}

/// A file as it is written. A section that is added needs a field here and one in [`FileConfig`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    run: run::RawRun,
    #[serde(default)]
    top: top::RawTop,
}

/// Something wrong at these bytes of the text.
#[derive(Debug)]
struct Fault {
    span: Range<usize>,
    what: String,
}

/// Where files are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// In this order; the first that is there counts, alone.
    pub paths: Vec<PathBuf>,
}

impl Places {
    /// Those of this process' user, and that of the machine.
    #[must_use]
    pub fn of_process() -> Self {
        Self::from_variables(std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME"))
    }

    fn from_variables(xdg: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Self {
        // What is not absolute counts for nothing, as the XDG base directory specification has it.
        let absolute =
            |value: Option<std::ffi::OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
        let own = absolute(xdg).or_else(|| absolute(home).map(|home| home.join(".config")));
        let own = own.map(|folder| folder.join("imr/config.toml"));
        Self { paths: own.into_iter().chain([PathBuf::from(SYSTEM)]).collect() }
    }

    /// The file that counts, with its text.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn find(&self) -> Result<Option<(PathBuf, String)>, ConfigError> {
        for path in &self.paths {
            match read(path) {
                Ok(text) => return Ok(Some((path.clone(), text))),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(source) => return Err(ConfigError::Read { path: path.display().to_string(), source }),
            }
        }
        Ok(None)
    }
}

impl FileConfig {
    /// Reads the file asked for, else the first there is, else none.
    ///
    /// # Errors
    /// [`ConfigError`]; a file that was asked for must be there.
    pub fn load(asked: Option<&Path>, places: &Places) -> Result<Self, ConfigError> {
        let found = match asked {
            Some(path) => {
                let text = read(path)
                    .map_err(|source| ConfigError::Read { path: path.display().to_string(), source })?;
                Some((path.to_owned(), text))
            }
            None => places.find()?,
        };
        found.map_or_else(|| Ok(Self::default()), |(path, text)| Self::parse(&path, &text))
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// The first thing that is wrong, and in which line.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let wrong = |fault: Fault| ConfigError::Wrong {
            path: path.display().to_string(),
            line: 1 + text.as_bytes().iter().take(fault.span.start).filter(|byte| **byte == b'\n').count(),
            what: fault.what,
        };
        let raw: Raw = toml::from_str(text).map_err(|error| {
            wrong(Fault { span: error.span().unwrap_or(0..0), what: error.message().to_owned() })
        })?;
        Ok(Self { run: raw.run.check().map_err(wrong)?, top: raw.top.check().map_err(wrong)? })
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    if file.take(MOST_BYTES + 1).read_to_string(&mut text)? as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
