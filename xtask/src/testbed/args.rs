//! The command line of `cargo xtask testbed`.
//!
//! In: arguments. Out: a validated `Config`, or a usage error that names what is wrong, before anything boots.
//! Must not look at anything but the files that are named.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Subcommand};

use super::config::{Config, GuestRam, HostMmu, Mib, Script, Terminal};
use super::emulator::Accelerator;
use super::files::FileMapping;
use crate::kernel::KernelLine;

/// Arguments of `cargo xtask testbed`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a KVM host and its guests, run scripts in them, exit with the host script's status
    #[command(after_long_help = include_str!("help.txt"))]
    Run(RunArgs),
    /// Boot a KVM host and its guests, and give a shell in the host
    #[command(after_long_help = include_str!("help.txt"))]
    Shell(ShellArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Shell script to run in L1; the run ends with its status
    #[arg(long, value_name = "FILE", value_parser = script)]
    host_script: Option<PathBuf>,
    /// Copy what the host script puts into $IMR_SAVE to DIR, when it ends
    #[arg(long, value_name = "DIR", requires = "host_script")]
    save: Option<PathBuf>,
    /// Seconds from the first boot to the end
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

#[derive(Debug, clap::Args)]
struct ShellArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Run this command on the terminal instead of a shell
    #[arg(short, long, value_name = "CMD")]
    command: Option<String>,
}

#[derive(Debug, clap::Args)]
struct MachineArgs {
    /// Kernel of L1: 6.1 or 6.12 [default: 6.12; with --host-mmu shadow 6.1]
    #[arg(long, value_name = "LINE")]
    host_kernel: Option<KernelLine>,
    /// Kernel of the guests: 6.1 or 6.12 [default: 6.12; with --host-mmu shadow 6.1]
    #[arg(long, value_name = "LINE")]
    guest_kernel: Option<KernelLine>,
    /// Number of guests
    #[arg(long, value_name = "N", default_value_t = 1)]
    guests: u32,
    /// Memory of each guest
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    guest_mem: Mib,
    /// CPUs of each guest
    #[arg(long, value_name = "N", default_value_t = 1)]
    guest_cpus: u32,
    /// What is behind a guest's memory
    #[arg(long, value_enum, default_value_t = GuestRam::Thp)]
    guest_ram: GuestRam,
    /// How L1's KVM translates guest-physical addresses
    #[arg(long, value_enum, default_value_t = HostMmu::Npt)]
    host_mmu: HostMmu,
    /// Shell script to run in every guest, at every boot of it; without one, the guest loads imr_guest.ko
    #[arg(long, value_name = "FILE", value_parser = script)]
    guest_script: Option<PathBuf>,
    /// File or directory to put into L1, programs with their libraries; may be repeated
    #[arg(long = "host-file", value_name = "SRC[:DST]", action = ArgAction::Append)]
    host_files: Vec<FileMapping>,
    /// File or directory to put into the guests, programs with their libraries; may be repeated
    #[arg(long = "guest-file", value_name = "SRC[:DST]", action = ArgAction::Append)]
    guest_files: Vec<FileMapping>,
    /// Memory of L1 [default: enough for the guests, 3G at least]
    #[arg(long, value_name = "SIZE")]
    host_mem: Option<Mib>,
    /// Swap of L1: a file of this size on a disk of its own [default: none]
    #[arg(long, value_name = "SIZE")]
    host_swap: Option<Mib>,
    /// CPUs of L1
    #[arg(long, value_name = "N", default_value_t = 2)]
    host_cpus: u32,
    /// More for L1's kernel command line
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    host_append: String,
    /// More for the guests' kernel command line
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    guest_append: String,
    /// Leave it to the host script to start the guests
    #[arg(long)]
    no_autostart: bool,
    /// Build nothing: take imr, imr-top, imr_guest.ko and the guest tools as far as they are there
    #[arg(long)]
    no_build: bool,
    /// Seconds until L1 counts as hung at boot, and is booted once more
    #[arg(long, value_name = "S", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3600))]
    boot_timeout: u64,
    /// Keep every stream, kernel consoles included, as a file in DIR
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

/// A script that can be read. It is read again when the images are made.
fn script(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match std::fs::read(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(format!("cannot read {text:?}: {error}")),
    }
}

impl Args {
    /// The configuration they ask for, or a sentence about what cannot work.
    pub(super) fn config(self) -> Result<Config, String> {
        let config = match self.command {
            Command::Run(run) => Config {
                host_script: run.host_script.map(Script::File),
                save: run.save,
                timeout: Some(Duration::from_secs(run.timeout)),
                ..run.machine.config()
            },
            Command::Shell(shell) => Config {
                host_script: Some(Script::Text(shell_script(shell.command.as_deref()))),
                terminal: Terminal::Users,
                timeout: None,
                ..shell.machine.config()
            },
        };
        config.check()?;
        Accelerator::of_this_machine().check(&config)?;
        if !config.autostart && config.host_script.is_none() {
            return Err(
                "with --no-autostart it is the host script that starts the guests: give --host-script"
                    .to_owned(),
            );
        }
        Ok(config)
    }
}

impl MachineArgs {
    fn config(self) -> Config {
        // Under emulation nothing else works on shadow page tables (see emulator.rs).
        let usual = match self.host_mmu {
            HostMmu::Npt => KernelLine::V6_12,
            HostMmu::Shadow => KernelLine::V6_1,
        };
        Config {
            host_kernel: self.host_kernel.unwrap_or(usual),
            guest_kernel: self.guest_kernel.unwrap_or(usual),
            guests: self.guests,
            guest_mem: self.guest_mem,
            guest_cpus: self.guest_cpus,
            guest_ram: self.guest_ram,
            host_mmu: self.host_mmu,
            host_mem: self.host_mem,
            host_swap: self.host_swap,
            host_cpus: self.host_cpus,
            host_append: self.host_append,
            guest_append: self.guest_append,
            guest_script: self.guest_script.map(Script::File),
            autostart: !self.no_autostart,
            host_files: self.host_files,
            guest_files: self.guest_files,
            build: !self.no_build,
            boot_timeout: Duration::from_secs(self.boot_timeout),
            logs: self.logs,
            ..Config::default()
        }
    }
}

fn shell_script(command: Option<&str>) -> String {
    match command {
        Some(command) => command.to_owned(),
        None => {
            "echo \"L1, $(uname -r), $IMR_GUESTS guest(s). 'guest help' tells about them; exit ends all.\"\n\
                 export PS1='L1:\\w# '\nexec sh -i\n"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &str) -> Result<Config, String> {
        let words = ["testbed"].into_iter().chain(words.split_whitespace());
        Cli::try_parse_from(words).map_err(|error| error.to_string())?.args.config()
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        let config = parse(
            "run --host-kernel 6.1 --guest-kernel 6.1 --guests 2 --guest-mem 1G --guest-cpus 2 --guest-ram memfd \
             --host-mmu shadow --host-script /dev/null --guest-file /bin/sh:/opt/sh --timeout 9 --no-autostart \
             --save /no/such/folder --host-swap 256M",
        )
        .unwrap();
        assert_eq!((config.host_kernel, config.guest_kernel), (KernelLine::V6_1, KernelLine::V6_1));
        assert_eq!((config.guests, config.guest_mem, config.guest_cpus), (2, Mib(1024), 2));
        assert_eq!((config.guest_ram, config.host_mmu), (GuestRam::Memfd, HostMmu::Shadow));
        assert_eq!(config.guest_files[0].destination, "/opt/sh");
        assert_eq!(config.timeout, Some(Duration::from_secs(9)));
        assert_eq!(config.save, Some(PathBuf::from("/no/such/folder")));
        assert_eq!(config.host_swap, Some(Mib(256)));
        assert!(!config.autostart && config.build);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, named) in [
            ("run --host-script /no/such/script", "/no/such/script"),
            ("run --host-file /no/such/file:/x", "/no/such/file"),
            ("run --guest-mem 3M", "3M"),
            ("run --guest-mem 64M", "64M"),
            ("run --host-swap 2M", "2M"),
            ("run --host-swap lots", "lots"),
            ("run --host-kernel 5.10", "5.10"),
            ("run --guests 99", "99"),
            ("run --timeout 0", "0"),
            ("run --no-autostart", "--host-script"),
            ("run --save /tmp", "--host-script"),
            ("run --guests 4 --guest-mem 1G --host-mem 2G", "5120M"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(named), "{words}: {error}");
        }
    }

    #[test]
    fn a_shell_has_the_terminal_and_no_limit() {
        let config = parse("shell --guests 0 -c imr-top").unwrap();
        assert_eq!((config.terminal, config.timeout, config.guests), (Terminal::Users, None, 0));
        assert!(matches!(config.host_script, Some(Script::Text(text)) if text == "imr-top"));
    }
}
