//! Every stream of a run as a file, where the user wants them (`--logs DIR`).
//!
//! In: lines. Out: DIR/host.log, DIR/guest1-console.log and so on, each line with the seconds since the start.
//! Must not end a run because a disk is full: it says once that a log is incomplete.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::config::Config;
use super::relay::Channel;

/// Every stream as a file, where the user wants them.
pub(super) struct Logs {
    dir: Option<PathBuf>,
    files: Vec<(Channel, File)>,
    failed: bool,
}

impl Logs {
    /// Makes the folder, where there is to be one.
    pub(super) fn new(config: &Config) -> Result<Self> {
        if let Some(dir) = &config.logs {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(Self { dir: config.logs.clone(), files: Vec::new(), failed: false })
    }

    /// Adds a line to the file of its stream.
    pub(super) fn write(&mut self, channel: Channel, at: Duration, text: &str) {
        if let Err(error) = self.try_write(channel, at, text)
            && !self.failed
        {
            // Once; the run matters more than its log.
            self.failed = true;
            eprintln!("testbed: a log is incomplete: {error:#}");
        }
    }

    fn try_write(&mut self, channel: Channel, at: Duration, text: &str) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let index = match self.files.iter().position(|(known, _)| *known == channel) {
            Some(index) => index,
            None => {
                let path = dir.join(channel.log_name());
                let file =
                    File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
                self.files.push((channel, file));
                self.files.len() - 1
            }
        };
        writeln!(self.files[index].1, "{:9.3} {text}", at.as_secs_f64()).context("cannot write")
    }
}
