//! The measured process: imr-top's own session on this terminal, over the synthetic host.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Parser as _;
use imr_user::cli::config::FileConfig;
use imr_user::cli::top::{Environment, Feed, TopArgs, run_top};
use tokio::sync::{mpsc, watch};

use crate::host;

/// Shows the tables' guests until `q`.
pub(crate) fn run(tables: &Path) -> Result<ExitCode> {
    let tables = host::open_tables(tables)?;
    let config = TopArgs::try_parse_from(["imr-top"])?;
    let config =
        config.validate(&Environment::of_process(), FileConfig::default()).map_err(anyhow::Error::msg)?;
    let mut vms = host::guests();
    let first = host::sample(&mut vms, &tables, 0, Duration::ZERO);
    let (details, detail_receiver) = watch::channel(None);
    let (commands, mut wishes) = mpsc::unbounded_channel();
    // Nothing is asked of a synthetic host, but the questions must not pile up.
    std::thread::spawn(move || while wishes.blocking_recv().is_some() {});
    let snapshots = host::publish(vms, tables, Arc::new(first));
    let exit = run_top(&config, Feed { snapshots, details: detail_receiver, commands })?;
    drop(details);
    Ok(ExitCode::from(exit.code()))
}
