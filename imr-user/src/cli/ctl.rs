//! `imr ctl`: asks a running imr or imr-top; and the socket of this process, where it is the one that runs.
//!
//! Output: a line a VM, or the status as a table or as JSON. Exit code 1 where it was not done, 3 where no imr is
//! running or this user may not ask it.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::exit;
use crate::model::snapshot::PolicyName;
use crate::pipeline::Handle;
use crate::pipeline::ctl::protocol::{self, Answer, ErrorKind, Request, Selector, Status, VmDone};
use crate::pipeline::ctl::{Ask, Client, DEFAULT_PATH, Listen, Place, PlaceError, Server};

/// Arguments of `imr ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The socket of the imr to ask
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_PATH)]
    socket: PathBuf,

    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, Subcommand)]
enum CtlCommand {
    /// Say how it is: its policy, its VMs, what takes their memory.
    Status {
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Change what is done with offers, from the next one on.
    Policy {
        /// The policy.
        #[arg(value_parser = policy)]
        policy: PolicyName,

        /// Of this VM, by its name or its id in `imr ctl status`; "all" is every one, and those to come
        #[arg(long, value_name = "NAME|ID|all", default_value = protocol::ALL)]
        vm: String,
    },
    /// Ask guests to offer all their free memory now. Policy and guards stand.
    Reclaim {
        /// Only this VM, by its name or its id in `imr ctl status`
        #[arg(long, value_name = "NAME|ID|all", default_value = protocol::ALL)]
        vm: String,
    },
}

fn policy(text: &str) -> Result<PolicyName, String> {
    PolicyName::named(text).ok_or_else(|| protocol::unknown_policy(text))
}

/// Asks, and prints the answer.
///
/// # Errors
/// Nobody answers, or standard output is gone.
pub fn run(args: &CtlArgs) -> anyhow::Result<ExitCode> {
    let request = match &args.command {
        CtlCommand::Status { .. } => Request::Status,
        CtlCommand::Policy { policy, vm } => Request::Policy(*policy, Selector::of(vm)),
        CtlCommand::Reclaim { vm } => Request::Reclaim(Selector::of(vm)),
    };
    let answer = Client::connect(&args.socket)?.ask(&request)?;
    let mut out = io::stdout().lock();
    match answer {
        Answer::Status(status) if matches!(args.command, CtlCommand::Status { json: true }) => {
            serde_json::to_writer(&mut out, &status).map_err(io::Error::from)?;
            writeln!(out)?;
            Ok(ExitCode::SUCCESS)
        }
        Answer::Status(status) => {
            table(&mut out, &status)?;
            Ok(ExitCode::SUCCESS)
        }
        Answer::Done { vms } => done(&mut out, &vms),
        Answer::Error { kind: ErrorKind::Forbidden, message } => {
            eprintln!("imr: no permission: {message}");
            Ok(ExitCode::from(exit::MISSING))
        }
        Answer::Error { message, .. } => bail!(message),
    }
}

fn done(out: &mut impl Write, vms: &[VmDone]) -> anyhow::Result<ExitCode> {
    if vms.is_empty() {
        writeln!(out, "no VM is followed")?;
    }
    for vm in vms {
        writeln!(out, "{} (id {}, pid {}): {}", vm.name, vm.id, vm.pid, vm.what)?;
    }
    // Of several, some will have no module: that is as it is. Where nothing at all was done, it failed.
    let nothing = !vms.is_empty() && vms.iter().all(|vm| !vm.ok);
    Ok(if nothing { ExitCode::from(exit::FAILED) } else { ExitCode::SUCCESS })
}

const MIB: u64 = 1 << 20;

fn table(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let Status { program, pid, uptime_s, policy, unanswerable, vms, socket } = status;
    writeln!(out, "imr {program}, pid {pid}, up {uptime_s} s, policy {policy}, {} VMs", vms.len())?;
    if let Some(why) = unanswerable {
        writeln!(out, "no guest is answered: {why}")?;
    }
    writeln!(
        out,
        "control socket: {} requests served, {} clients of other users and {} too many turned away, \
         {} malformed, {} too slow, {} failed",
        socket.served, socket.forbidden, socket.busy, socket.malformed, socket.slow, socket.failed
    )?;
    if vms.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:>4} {:>8}  {:<20} {:<10} {:<10} {:>9} {:>9} {:>12} {:>13} {:>7}  BACKEND",
        "ID",
        "PID",
        "NAME",
        "POLICY",
        "MODULE",
        "RAM MiB",
        "FREE MiB",
        "STRANDED MiB",
        "RECLAIMED MiB",
        "DONE"
    )?;
    for vm in vms {
        let why = vm.why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        writeln!(
            out,
            "{:>4} {:>8}  {:<20} {:<10} {:<10} {:>9} {:>9} {:>12} {:>13} {:>7}  {}{why}",
            vm.id,
            vm.pid,
            vm.name,
            vm.policy,
            vm.guest,
            vm.ram_bytes / MIB,
            vm.guest_free_bytes / MIB,
            vm.free_memory.map_or("-".to_owned(), |free| (free.all.stranded_bytes / MIB).to_string()),
            vm.reclaimed_bytes / MIB,
            vm.done,
            vm.backend
        )?;
    }
    Ok(())
}

/// The place of this process' control socket, before anything is started.
#[derive(Debug)]
pub struct Socket {
    /// None: there is to be no socket, or it cannot be had, for the reason told.
    claimed: Result<Option<(Place, OwnedFd)>, String>,
}

/// Takes the place that is `wanted`. Where nobody wanted one and the default cannot be had, there will be none, and
/// people are told why.
///
/// # Errors
/// The place that was asked for cannot be had.
pub fn claim(wanted: &Listen) -> anyhow::Result<Socket> {
    let claimed = match wanted {
        Listen::Off => Ok(None),
        Listen::At(path) => Ok(Some(Place::take(path).context("no control socket")?)),
        Listen::Default => Place::take(Path::new(DEFAULT_PATH)).map(Some).map_err(|error| {
            let other = matches!(error, PlaceError::Taken { .. });
            let on = if other { "`imr ctl` reaches that one" } else { "`imr ctl` does not work" };
            format!("no control socket, {on}: {error}")
        }),
    };
    Ok(Socket { claimed })
}

impl Socket {
    /// Answers there until the server is dropped.
    #[must_use]
    pub fn serve(self, pipeline: &Handle) -> Option<Server> {
        let server = self.claimed.and_then(|claimed| {
            let Some((place, socket)) = claimed else { return Ok(None) };
            let started = Server::start(place, socket, pipeline.asks.clone());
            started.map(Some).map_err(|error| format!("no control socket, it gets no thread: {error}"))
        });
        server.unwrap_or_else(|why| {
            // The channel is new and has room.
            let _ = pipeline.asks.try_send(Ask::Tell(why));
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(ok: bool) -> VmDone {
        VmDone { id: 3, pid: 4, name: "a".into(), ok, what: "w".into() }
    }

    #[test]
    fn it_failed_when_nothing_was_done() {
        let code = |vms: &[VmDone]| format!("{:?}", done(&mut Vec::new(), vms).unwrap());
        let success = format!("{:?}", ExitCode::SUCCESS);
        assert_eq!(code(&[]), success);
        assert_eq!(code(&[vm(false), vm(true)]), success);
        assert_ne!(code(&[vm(false)]), success);
    }

    #[test]
    fn every_policy_can_be_written() {
        for policy in PolicyName::ALL {
            assert_eq!(super::policy(policy.name()), Ok(policy));
        }
        assert!(super::policy("all").unwrap_err().contains("observe"));
    }
}
