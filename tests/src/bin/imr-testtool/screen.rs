//! `screen`: a program on a terminal of its own, driven by a script that presses keys and reads the screen.
//!
//! In: a script (its commands are in [`HELP`]), a command line, the terminal's size. Out: captures of the screen;
//! on the first command that fails, what it waited for and the whole screen. Must not leave the program running,
//! and must not sleep where it can wait for output.

mod blocks;
mod colour;
mod keys;
mod script;
mod session;
mod svg;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::Args;
use crate::{Failure, failed};
use imr_tests::terminal::Size;
use script::{Line, Step};
use session::{Session, Settings};

const HELP: &str = "\
imr-testtool screen [OPTIONS] SCRIPT|- -- COMMAND [ARGUMENTS]...
  --size COLSxROWS   the terminal's size [80x24]
  --out DIR          where captures go; made if need be
  --term NAME        the value of TERM [xterm-256color]
  --env NAME=VALUE   one variable more; may be repeated
  --timeout SECONDS  how long `wait`, `gone` and `exit` wait at most, when they do not say so themselves [20]

A script has one command a line; empty lines and lines that begin with # do not count. TEXT is the rest of the line,
no pattern, to be found within one row of the screen; in double quotes it keeps the blanks at its ends.
  wait TEXT        wait until TEXT is on the screen (wait/5 TEXT: for 5 s at most)
  gone TEXT        wait until TEXT is not on the screen (gone/5 TEXT)
  expect TEXT      TEXT has to be on the screen now
  refuse TEXT      TEXT must not be on the screen now
  settle           wait until no output has come for 300 ms; fails when it does not end for 5 s. A frame may be half
                   drawn when `wait` is satisfied: settle before expect, refuse and capture
  key NAME...      press keys: one character, or Enter Esc Tab BackTab Up Down Left Right Home End PgUp PgDn Insert
                   Delete Backspace Space F1 to F12; C-x with Ctrl, M-x with Alt
  type TEXT        type TEXT, without Enter
  click COL ROW    left button down and up; columns and rows count from 1. Like wheel, it fails when the program has
                   not asked the terminal for SGR mouse reports
  wheel up|down COL ROW
  resize COLSxROWS give the terminal another size; the program gets SIGWINCH
  capture NAME     write the screen to DIR/NAME.txt, DIR/NAME.ansi (with colours, for cat) and DIR/NAME.svg
  exit STATUS      wait until the program has ended, with this status; 128 + N if signal N ended it (exit/5 STATUS)
A program that still runs at the end of the script is ended (SIGTERM, after 2 s SIGKILL). With --out, the screen at a
command that failed is captured as SCRIPT-failed (SCRIPT without its folder and what follows its first dot).";

/// `imr-testtool screen ...`.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let command = args.after_dashes();
    if args.flag("--help") {
        println!("{HELP}");
        return Ok(());
    }
    let size = args.parsed::<Size>("--size")?.unwrap_or(Size { columns: 80, rows: 24 });
    let out = args.option("--out")?.map(PathBuf::from);
    let term = args.option("--term")?.unwrap_or_else(|| "xterm-256color".to_owned());
    let timeout: u64 = args.parsed("--timeout")?.unwrap_or(20);
    let mut environment = vec![("TERM".to_owned(), term)];
    while let Some(pair) = args.option("--env")? {
        let (name, value) = pair
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| Failure::Usage(format!("--env: {pair:?} is not NAME=VALUE")))?;
        environment.push((name.to_owned(), value.to_owned()));
    }
    let path = args.word("the script")?;
    args.end()?;
    if command.is_empty() {
        return Err(Failure::Usage("after the script comes -- and the command to run".into()));
    }
    let text = if path == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map_err(failed("standard input"))?;
        text
    } else {
        fs::read_to_string(&path).map_err(failed(&path))?
    };
    let lines = script::parse(&text).map_err(|error| Failure::Usage(format!("{path}:{error}")))?;
    if let Some(dir) = &out {
        fs::create_dir_all(dir).map_err(failed(dir.display()))?;
    } else if let Some(line) = lines.iter().find(|line| matches!(line.step, Step::Capture(_))) {
        return Err(Failure::Usage(format!("{path}:{}: a capture needs --out DIR", line.number)));
    }
    let settings =
        Settings { size, environment, out, failed: failed_name(&path), limit: Duration::from_secs(timeout) };
    drive(&path, &lines, &command, settings)
}

/// What the capture at a failed command of the script at `path` is called.
fn failed_name(path: &str) -> String {
    let name =
        Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.split('.').next().unwrap_or_default() {
        "" | "-" => "failed".to_owned(),
        stem => format!("{stem}-failed"),
    }
}

/// Runs the script from end to end.
fn drive(path: &str, lines: &[Line], command: &[String], settings: Settings) -> Result<(), Failure> {
    let mut session =
        Session::start(command, settings).map_err(failed(format!("cannot start {command:?}")))?;
    for line in lines {
        if let Err(why) = session.step(&line.step) {
            let told = session.failure(&why);
            return Err(Failure::Failed(format!("{path}:{}: `{}`: {told}", line.number, line.text)));
        }
    }
    println!("{}", session.summary(lines.len()));
    Ok(())
}
