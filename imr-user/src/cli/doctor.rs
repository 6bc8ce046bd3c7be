//! `imr doctor`: what this host can do, what is missing and what to do about it.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use crate::cli::exit;
use crate::pipeline::{self, Feature, FeatureState};

/// Arguments of `imr doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// One JSON object: `features`, each with name, state, found, lost, remedy.
    #[arg(long)]
    json: bool,
}

/// Prints what it finds. Exit code 3 when something that IMR cannot do without is missing.
///
/// # Errors
/// Standard output is gone.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let features = pipeline::examine();
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &serde_json::json!({ "features": features }))
            .map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        for feature in &features {
            print(&mut out, feature)?;
        }
    }
    let missing = features.iter().filter(|feature| feature.state == FeatureState::Missing).count();
    let degraded = features.iter().filter(|feature| feature.state == FeatureState::Degraded).count();
    if !args.json {
        writeln!(out, "\n{} features: {missing} missing, {degraded} degraded", features.len())?;
    }
    Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::MISSING) })
}

fn print(out: &mut impl Write, feature: &Feature) -> io::Result<()> {
    let mark = match feature.state {
        FeatureState::Present => "ok      ",
        FeatureState::Degraded => "degraded",
        FeatureState::Missing => "MISSING ",
    };
    writeln!(out, "{mark}  {}: {}", feature.name, feature.found)?;
    if !feature.lost.is_empty() {
        writeln!(out, "          without it: {}", feature.lost)?;
    }
    if !feature.remedy.is_empty() {
        writeln!(out, "          remedy: {}", feature.remedy)?;
    }
    Ok(())
}
