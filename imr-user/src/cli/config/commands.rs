//! `imr config`: the default file, a check of a file, and which file counts.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{FileConfig, Places, default_text};

/// Arguments of `imr config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the complete configuration as it is built in, with what each line means.
    Default,
    /// Say whether a file is right, or what is wrong in which line (exit code 2).
    Check {
        /// The file; without it, the one that would be used.
        file: Option<PathBuf>,
    },
    /// Print which file would be used.
    Path,
}

/// Does it.
///
/// # Errors
/// [`super::ConfigError`], or standard output is gone.
pub fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let places = Places::of_process();
    let mut out = io::stdout().lock();
    match &args.command {
        ConfigCommand::Default => write!(out, "{}", default_text())?,
        ConfigCommand::Check { file } => {
            FileConfig::load(file.as_deref(), &places)?;
            match file
                .clone()
                .map_or_else(|| Ok(places.find()?.map(|(path, _)| path)), |path| anyhow::Ok(Some(path)))?
            {
                Some(path) => writeln!(out, "{}: nothing to complain of", path.display())?,
                None => writeln!(out, "{}", none(&places))?,
            }
        }
        ConfigCommand::Path => match places.find()? {
            Some((path, _)) => writeln!(out, "{}", path.display())?,
            None => writeln!(out, "{}", none(&places))?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn none(places: &Places) -> String {
    let paths: Vec<String> = places.paths.iter().map(|path| path.display().to_string()).collect();
    format!("no file, what is built in counts; looked for {}", paths.join(" and "))
}
