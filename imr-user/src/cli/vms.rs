//! `imr vms`: the VMs that run now, once.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::model::free_memory::FreeMemory;
use crate::model::pageout::PageoutState;
use crate::model::snapshot::{PolicyName, Snapshot};
use crate::pipeline::ctl::protocol::{Answer, Request};
use crate::pipeline::ctl::{Client, DEFAULT_PATH};
use crate::pipeline::{self, Allowed, Config};

/// Arguments of `imr vms`.
#[derive(Debug, Args)]
pub struct VmsArgs {
    /// The whole snapshot as one JSON object.
    #[arg(long)]
    json: bool,
    /// Show what would be used if private anonymous memory were taken as well, by running madvise inside the VMM.
    #[arg(long)]
    inject: bool,
    /// Show what would be used if nothing were taken, only said.
    #[arg(long)]
    dry_run: bool,
    /// Say of each VM, too, whether its idle memory can be swapped out.
    #[arg(long)]
    pageout: bool,
}

const MIB: u64 = 1 << 20;
/// A running imr answers in milliseconds; one that is stopped, not at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints the VMs.
///
/// # Errors
/// The pipeline could not start or failed, or standard output is gone.
pub fn run(args: &VmsArgs) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio runtime")?;
    let running = ask_running();
    runtime.block_on(async {
        let mut handle = pipeline::spawn(Config {
            policy: PolicyName::Observe,
            allowed: Allowed { inject: args.inject, dry_run: args.dry_run },
            answer: false,
            pageout: args.pageout,
            ..Config::default()
        })?;
        let snapshot =
            handle.snapshots.wait_for(|snapshot| snapshot.sequence > 0).await.map(|found| found.clone());
        handle.ask_to_stop();
        handle.join()?;
        let Ok(snapshot) = snapshot else { bail!("the pipeline ended without a snapshot") };
        let mut snapshot = Snapshot::clone(&snapshot);
        add_free_memory(&mut snapshot, &running);
        let mut out = io::stdout().lock();
        if args.json {
            serde_json::to_writer(&mut out, &snapshot).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            table(&mut out, &snapshot)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Has the imr that answers guests, if there is one, say how it is.
fn ask_running() -> Receiver<Answer> {
    let (sender, answers) = channel();
    thread::spawn(move || {
        let client = Client::connect(Path::new(DEFAULT_PATH));
        // Without one, or with one that does not answer, there is nothing to add.
        if let Ok(answer) = client.and_then(|mut client| client.ask(&Request::Status)) {
            let _ = sender.send(answer);
        }
    });
    answers
}

/// What guests say only the one knows who answers them.
fn add_free_memory(snapshot: &mut Snapshot, running: &Receiver<Answer>) {
    let Ok(Answer::Status(status)) = running.recv_timeout(PATIENCE) else { return };
    for vm in &mut snapshot.vms {
        let known = status.vms.iter().find(|known| known.pid == vm.pid.get());
        vm.free_memory = known.and_then(|known| known.free_memory);
    }
}

fn table(out: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    if snapshot.vms.is_empty() {
        return writeln!(out, "no KVM guest is running on {}", snapshot.host.name);
    }
    writeln!(out, "{:>8}  {:<20} {:>9} {:>12}  BACKEND", "PID", "NAME", "RAM MiB", "RESIDENT MiB")?;
    for vm in &snapshot.vms {
        let backend = vm.reclaim.text();
        writeln!(
            out,
            "{:>8}  {:<20} {:>9} {:>12}  {backend}",
            vm.pid,
            vm.name,
            vm.ram_bytes / MIB,
            vm.resident_bytes / MIB
        )?;
        match &vm.pageout.state {
            PageoutState::Off => {}
            PageoutState::Ready => writeln!(out, "          pageout    idle memory can be swapped out")?,
            PageoutState::Waiting { reason: guard, why } | PageoutState::Forbidden { guard, why } => {
                writeln!(out, "          pageout    none ({guard}: {why})")?;
            }
        }
        if let Some(FreeMemory { all, .. }) = &vm.free_memory {
            writeln!(
                out,
                "          free       {} MiB: {} reclaimable now, {} stranded by fragmentation, {} kept by the guest",
                all.free_bytes / MIB,
                all.reclaimable_bytes / MIB,
                all.stranded_bytes / MIB,
                all.kept_bytes / MIB
            )?;
        }
        for slot in &vm.slots {
            let writable = if slot.readonly { "ro" } else { "rw" };
            writeln!(
                out,
                "          slot {:>3}  {:#014x} {:>9} KiB {writable}  {}: {}",
                slot.id,
                slot.base_gfn.get() * 4096,
                slot.npages * 4,
                slot.backing,
                slot.reclaim.name()
            )?;
        }
    }
    Ok(())
}
