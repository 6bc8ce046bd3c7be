//! Running other programs: every failure names the command line, how it ended and its last words.
//!
//! In: a `Command`. Out: its output, or an error that a person can act on.
//! Must not decide what a failure means: callers do.

use std::env;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// How many of a silent program's last lines an error shows.
const LAST_LINES: usize = 40;

/// Runs `command` with this process' own terminal. Fails when it cannot be started or ends badly.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Runs `command` silently and returns what it wrote to standard output. Its output, both
/// streams, is shown only when it fails.
pub(crate) fn run_quiet(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let mut said = stdout;
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!("`{line}` ended with {}{}", output.status, last_lines(&said));
    }
    Ok(stdout)
}

/// What a program that may be absent says: `None` when it is not there or fails.
pub(crate) fn probe(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where `program` is, by `PATH` and then the administrator's folders (a user's `PATH` lacks sbin).
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].into_iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// The cargo that runs us, else the one on `PATH`.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Takes out of `command` what the calling cargo and rustup put into our environment for the build
/// of *this* crate. Left in, a build for another target would use the wrong compiler and flags.
pub(crate) fn forget_calling_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_calling_cargo) {
            command.env_remove(&name);
        }
    }
    command
}

fn belongs_to_calling_cargo(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        "CARGO",
        "CARGO_CRATE_NAME",
        "CARGO_ENCODED_RUSTDOCFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_MAKEFLAGS",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "RUSTC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    const PREFIXES: [&str; 8] = [
        "CARGO_BIN_",
        "CARGO_BUILD_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
        "RUSTC_",
    ];
    // Of whoever calls, and what a build script goes by.
    if name == "CARGO_TARGET_DIR" {
        return false;
    }
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// `command` as a person would type it, for messages.
pub(crate) fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        if argument.is_empty() || argument.contains([' ', '"', '$', '(', '\t']) {
            // Writing to a String cannot fail.
            let _ = write!(line, " '{argument}'");
        } else {
            let _ = write!(line, " {argument}");
        }
    }
    line
}

fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    if lines.is_empty() { String::new() } else { format!("; it said:\n{}", lines[from..].join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let error = run_quiet(Command::new("sh").args(["-c", "echo lost; exit 7"])).unwrap_err().to_string();
        assert!(error.contains("sh -c 'echo lost; exit 7'"), "{error}");
        assert!(error.contains("exit status: 7"), "{error}");
        assert!(error.ends_with("lost"), "{error}");
    }

    #[test]
    fn registry_settings_of_the_user_survive_the_cleaning() {
        assert!(!belongs_to_calling_cargo("CARGO_TARGET_DIR"));
        assert!(!belongs_to_calling_cargo("CARGO_HOME"));
        assert!(!belongs_to_calling_cargo("CARGO_NET_OFFLINE"));
        assert!(!belongs_to_calling_cargo("CARGO_HTTP_PROXY"));
        assert!(belongs_to_calling_cargo("RUSTUP_TOOLCHAIN"));
        assert!(belongs_to_calling_cargo("CARGO_PKG_VERSION"));
        assert!(belongs_to_calling_cargo("RUSTC_WRAPPER"));
    }
}
