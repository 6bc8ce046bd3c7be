//! `json wait`: until a line fulfils the filters; then, without losing a millisecond, a signal or a QMP command.
//!
//! In: a growing file. Out: the line. The connection to QEMU's monitor is made before the waiting, so that
//! nothing but one write stands between the line and the command.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::args::Args;
use crate::json::{Filter, complete_lines, parse_line};
use crate::{Failure, failed};

/// Between two looks at the file.
const POLL: Duration = Duration::from_millis(1);

/// What is done the moment the line is there.
#[derive(Debug)]
pub(crate) enum Action {
    /// Nothing.
    None,
    /// A signal to a process.
    Signal(Signal, Pid),
    /// A command to QEMU's monitor.
    Qmp(Monitor),
}

/// A connection to QEMU's monitor that takes commands.
#[derive(Debug)]
pub(crate) struct Monitor {
    reader: BufReader<UnixStream>,
    command: String,
}

impl Action {
    /// Takes `--signal NAME:PID` or `--qmp SOCKET:COMMAND`.
    pub(crate) fn from_args(args: &mut Args) -> Result<Self, Failure> {
        if let Some(text) = args.option("--signal")? {
            let wrong = || Failure::Usage(format!("--signal: {text:?} is not such as KILL:123"));
            let (name, pid) = text.split_once(':').ok_or_else(wrong)?;
            let signal = match name {
                "KILL" => Signal::KILL,
                "STOP" => Signal::STOP,
                "INT" => Signal::INT,
                _ => return Err(wrong()),
            };
            // Zero and below mean groups of processes.
            let number = pid.parse::<i32>().ok().filter(|&number| number > 0);
            let pid = number.and_then(Pid::from_raw).ok_or_else(wrong)?;
            return Ok(Self::Signal(signal, pid));
        }
        if let Some(text) = args.option("--qmp")? {
            let wrong = || Failure::Usage(format!("--qmp: {text:?} is not such as /run/x.sock:system_reset"));
            let (socket, command) = text.split_once(':').ok_or_else(wrong)?;
            return Monitor::connect(socket, command).map(Self::Qmp);
        }
        Ok(Self::None)
    }

    fn take(self) -> Result<(), Failure> {
        match self {
            Self::None => Ok(()),
            Self::Signal(signal, pid) => rustix::process::kill_process(pid, signal)
                .map_err(|error| failed(format!("kill of {pid:?}"))(error.into())),
            Self::Qmp(mut monitor) => monitor.execute(),
        }
    }
}

impl Monitor {
    fn connect(socket: &str, command: &str) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket).map_err(failed(socket))?;
        let mut monitor = Self { reader: BufReader::new(stream), command: "qmp_capabilities".into() };
        // The greeting.
        monitor.read()?;
        monitor.execute()?;
        monitor.command = command.to_owned();
        Ok(monitor)
    }

    fn execute(&mut self) -> Result<(), Failure> {
        let line = format!("{{\"execute\":\"{}\"}}\n", self.command);
        self.reader.get_mut().write_all(line.as_bytes()).map_err(failed("QMP"))?;
        loop {
            let reply = self.read()?;
            if reply.get("return").is_some() {
                return Ok(());
            }
            if reply.get("error").is_some() {
                return Err(Failure::Failed(format!("QMP {}: {reply}", self.command)));
            }
            // An event.
        }
    }

    fn read(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).map_err(failed("QMP"))?;
        if read == 0 {
            return Err(Failure::Failed("QEMU closed its monitor".into()));
        }
        parse_line(0, line.trim_end())
    }
}

/// Waits for the first line from number `from` on that fulfils all filters.
pub(crate) fn wait(
    path: &str,
    from: usize,
    filters: &[Filter],
    timeout_s: f64,
    action: Action,
) -> Result<Value, Failure> {
    let start = Instant::now();
    let mut log = Log::open(path)?;
    loop {
        for (number, object) in log.read()? {
            if number >= from && filters.iter().all(|filter| filter.holds(&object)) {
                action.take()?;
                return Ok(object);
            }
        }
        if start.elapsed().as_secs_f64() >= timeout_s {
            let lines = log.lines;
            return Err(Failure::Failed(format!(
                "no such line in {path} within {timeout_s} s ({lines} lines)"
            )));
        }
        thread::sleep(POLL);
    }
}

/// Waits until no line that fulfils all filters has come for `quiet_s` seconds.
pub(crate) fn quiet(path: &str, filters: &[Filter], quiet_s: f64, timeout_s: f64) -> Result<(), Failure> {
    let start = Instant::now();
    let mut log = Log::open(path)?;
    log.read()?;
    let mut last = Instant::now();
    while last.elapsed().as_secs_f64() < quiet_s {
        if start.elapsed().as_secs_f64() >= timeout_s {
            return Err(Failure::Failed(format!("lines came to {path} for {timeout_s} s without an end")));
        }
        thread::sleep(10 * POLL);
        if log.read()?.iter().any(|(_, object)| filters.iter().all(|filter| filter.holds(object))) {
            last = Instant::now();
        }
    }
    Ok(())
}

/// A file of JSON lines that grows.
struct Log {
    file: File,
    pending: Vec<u8>,
    /// Lines read so far.
    lines: usize,
}

impl Log {
    fn open(path: &str) -> Result<Self, Failure> {
        let file = File::open(path).map_err(failed(path))?;
        Ok(Self { file, pending: Vec::new(), lines: 0 })
    }

    /// The lines that have come since the last call, with their numbers.
    fn read(&mut self) -> Result<Vec<(usize, Value)>, Failure> {
        self.file.read_to_end(&mut self.pending).map_err(failed("read"))?;
        let complete = self.pending.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let text: Vec<u8> = self.pending.drain(..complete).collect();
        let mut objects = Vec::new();
        for line in complete_lines(&String::from_utf8_lossy(&text)) {
            objects.push((self.lines, parse_line(self.lines, line)?));
            self.lines += 1;
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_line_that_comes_later_is_found() {
        let path = std::env::temp_dir().join(format!("imr-wait-test-{}", std::process::id()));
        fs::write(&path, "{\"event\":\"done\",\"seq\":1}\n{\"event\":").unwrap();
        let filters = ["event=done".parse().unwrap()];
        let name = path.to_str().unwrap().to_owned();
        assert!(wait(&name, 1, &filters, 0.0, Action::None).unwrap_err().to_string().contains("1 lines"));
        let writer = thread::spawn({
            let path = path.clone();
            move || {
                let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
                file.write_all(b"\"done\",\"seq\":2}\n").unwrap();
            }
        });
        let found = wait(&name, 1, &filters, 10.0, Action::None).unwrap();
        assert_eq!(found["seq"], 2);
        writer.join().unwrap();
        quiet(&name, &filters, 0.05, 10.0).unwrap();
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_signal_needs_a_name_and_a_process() {
        let parse = |text: &str| {
            Action::from_args(&mut Args::new(["--signal".to_owned(), text.to_owned()].into_iter()))
        };
        assert!(matches!(parse("KILL:77"), Ok(Action::Signal(Signal::KILL, _))));
        assert!(parse("KILL").is_err() && parse("HUP:77").is_err() && parse("KILL:-1").is_err());
    }
}
