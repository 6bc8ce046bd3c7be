//! Exit codes, and how an error ends the program.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::config::ConfigError;
use crate::pipeline::PipelineError;
use crate::pipeline::ctl::ClientError;

/// Something failed.
pub const FAILED: u8 = 1;
/// The arguments or the configuration make no sense.
pub const USAGE: u8 = 2;
/// Something that IMR needs is not there: privileges, a kernel feature, the eBPF object.
pub const MISSING: u8 = 3;

/// So long is waited for who reads standard error.
const READ_WITHIN: Duration = Duration::from_millis(500);

/// Prints the error with its causes on standard error and gives the exit code for it. A closed pipe on
/// standard output is the reader's way to say "enough" and ends the program quietly.
#[must_use]
pub fn report(program: &str, result: anyhow::Result<ExitCode>) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    say(&format!("{program}: {}", in_one_line(&error)));
    ExitCode::from(code(&error))
}

/// A line on standard error. Waits a moment at most where nobody reads that; on a full file system it is lost.
pub(super) fn say(line: &str) {
    let text = format!("{line}\n");
    let to_write = text.clone();
    // eprintln! panics where it cannot write.
    let (done, is_done) = mpsc::channel();
    let writing = thread::Builder::new().spawn(move || {
        let _ = io::stderr().write_all(to_write.as_bytes());
        let _ = done.send(());
    });
    let _ = match writing {
        Ok(_) => is_done.recv_timeout(READ_WITHIN).ok(),
        Err(_) => io::stderr().write_all(text.as_bytes()).ok(),
    };
}

/// The error and its causes. Some errors say their cause themselves; it is not said twice.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |said, cause| {
        let cause = cause.to_string();
        if said.ends_with(&cause) { said } else { format!("{said}: {cause}") }
    })
}

fn code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<PipelineError>().is_some_and(PipelineError::is_missing_prerequisite)
        || error.downcast_ref::<ClientError>().is_some_and(ClientError::is_missing_prerequisite)
    {
        MISSING
    } else if error.is::<ConfigError>() {
        USAGE
    } else {
        FAILED
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::FileConfig;

    #[test]
    fn a_wrong_configuration_is_wrong_usage() {
        let error = FileConfig::parse("c.toml".as_ref(), "[top]\nx = 1\n").unwrap_err();
        assert_eq!(code(&error.into()), USAGE);
        assert_eq!(code(&anyhow::anyhow!("something else")), FAILED);
    }

    #[test]
    fn a_cause_is_said_once() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let said = source.to_string();
        let error = ConfigError::Read { path: "c.toml".into(), source };
        let error = anyhow::Error::from(error).context("imr run");
        assert_eq!(in_one_line(&error), format!("imr run: cannot read the configuration c.toml: {said}"));
        assert_eq!(in_one_line(&anyhow::anyhow!("a").context("b")), "b: a");
    }
}
