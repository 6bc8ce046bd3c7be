//! The script of `screen`, read.
//!
//! In: its text. Out: a step a line, or the number of the first line that makes no sense, and why.
//! Must not run anything: a script with an error at its end does nothing at all.

use std::fmt;
use std::time::Duration;

use imr_tests::terminal::{LONGEST_SIDE, Size};

use super::keys::Key;

/// What to do with the mouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mouse {
    /// Left button down and up.
    Click,
    /// One step away from the user.
    WheelUp,
    /// One step towards the user.
    WheelDown,
}

/// One command. A limit of `None` is the script's usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Until the text is (or is not) on the screen.
    Wait { text: String, there: bool, limit: Option<Duration> },
    /// The text is (or is not) on the screen.
    Check { text: String, there: bool },
    /// Keys, one after the other.
    Keys(Vec<Key>),
    /// Characters as they are.
    Type(String),
    /// At a column and a row, both from 1.
    Mouse(Mouse, u16, u16),
    /// Another size.
    Resize(Size),
    /// Until no more output comes.
    Settle,
    /// The screen to files of this name.
    Capture(String),
    /// Until the program has ended with this status.
    Exit { status: i32, limit: Option<Duration> },
}

/// A command and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: usize,
    /// As it was written.
    pub(crate) text: String,
    /// What it says.
    pub(crate) step: Step,
}

/// Why a script cannot be run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ScriptError {
    number: usize,
    why: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.number, self.why)
    }
}

/// Reads a whole script.
pub(crate) fn parse(script: &str) -> Result<Vec<Line>, ScriptError> {
    let mut lines = Vec::new();
    for (index, text) in script.lines().enumerate() {
        let (number, text) = (index + 1, text.trim());
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let step = step(text).map_err(|why| ScriptError { number, why })?;
        lines.push(Line { number, text: text.to_owned(), step });
    }
    Ok(lines)
}

fn step(line: &str) -> Result<Step, String> {
    let (head, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim_start();
    let (verb, limit) = match head.split_once('/') {
        Some((verb, seconds)) => (verb, Some(duration(seconds)?)),
        None => (head, None),
    };
    if limit.is_some() && !matches!(verb, "wait" | "gone" | "exit") {
        return Err(format!("{verb} waits for nothing that could have a limit"));
    }
    let step = match verb {
        "wait" | "gone" => Step::Wait { text: text(verb, rest)?, there: verb == "wait", limit },
        "expect" | "refuse" => Step::Check { text: text(verb, rest)?, there: verb == "expect" },
        "type" => Step::Type(text(verb, rest)?),
        "key" => {
            let keys = rest.split_whitespace().map(str::parse).collect::<Result<Vec<Key>, _>>()?;
            if keys.is_empty() {
                return Err("key needs at least one key".into());
            }
            Step::Keys(keys)
        }
        "click" => mouse(Mouse::Click, rest)?,
        "wheel" => match rest.split_once(char::is_whitespace) {
            Some(("up", place)) => mouse(Mouse::WheelUp, place)?,
            Some(("down", place)) => mouse(Mouse::WheelDown, place)?,
            _ => return Err(format!("{rest:?} is not such as: up 10 5")),
        },
        "resize" => Step::Resize(rest.parse()?),
        "settle" if rest.is_empty() => Step::Settle,
        "capture" => Step::Capture(name(rest)?),
        "exit" => {
            let status = rest.parse().ok().filter(|status| (0..=255).contains(status));
            Step::Exit { status: status.ok_or_else(|| format!("{rest:?} is not a status"))?, limit }
        }
        "settle" => return Err("settle takes no words".into()),
        other => return Err(format!("no command {other:?} (imr-testtool screen --help)")),
    };
    Ok(step)
}

fn duration(seconds: &str) -> Result<Duration, String> {
    let number: Option<f64> = seconds.parse().ok();
    number
        .and_then(|number| Duration::try_from_secs_f64(number).ok())
        .ok_or_else(|| format!("{seconds:?} is not a number of seconds"))
}

/// The rest of the line, or what stands in its quotes.
fn text(verb: &str, rest: &str) -> Result<String, String> {
    let quoted = rest.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = quoted.unwrap_or(rest);
    if text.is_empty() { Err(format!("{verb} needs a text")) } else { Ok(text.to_owned()) }
}

fn mouse(what: Mouse, place: &str) -> Result<Step, String> {
    let wrong = || format!("{place:?} is not a column and a row, counted from 1");
    let mut words = place.split_whitespace();
    let mut number = || words.next()?.parse().ok().filter(|number| (1..=LONGEST_SIDE).contains(number));
    let (column, row) = (number().ok_or_else(wrong)?, number().ok_or_else(wrong)?);
    if words.next().is_some() { Err(wrong()) } else { Ok(Step::Mouse(what, column, row)) }
}

/// A name that stays in the folder for captures.
fn name(rest: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if rest.is_empty() || rest.starts_with('.') || !rest.chars().all(good) {
        return Err(format!("{rest:?} is not a name of letters, digits, -, _ and ."));
    }
    Ok(rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(script: &str) -> Vec<Step> {
        parse(script).unwrap().into_iter().map(|line| line.step).collect()
    }

    #[test]
    fn every_command_is_understood() {
        let wait = |text: &str, limit| Step::Wait { text: text.to_owned(), there: true, limit };
        assert_eq!(
            steps("# a comment\n\n  wait 2 VMs # up\nwait/0.5  \" x \"\ngone/3 y\nsettle\n"),
            [
                wait("2 VMs # up", None),
                wait(" x ", Some(Duration::from_millis(500))),
                Step::Wait { text: "y".into(), there: false, limit: Some(Duration::from_secs(3)) },
                Step::Settle,
            ]
        );
        assert_eq!(
            steps(
                "expect \"\nrefuse a b\nkey q C-c\ntype /guest 1\nclick 3 4\nwheel down 80 24\nresize 20x5"
            ),
            [
                Step::Check { text: "\"".into(), there: true },
                Step::Check { text: "a b".into(), there: false },
                Step::Keys(vec![Key::Char('q'), Key::Ctrl('c')]),
                Step::Type("/guest 1".into()),
                Step::Mouse(Mouse::Click, 3, 4),
                Step::Mouse(Mouse::WheelDown, 80, 24),
                Step::Resize(Size { columns: 20, rows: 5 }),
            ]
        );
        assert_eq!(
            steps("capture vms_80x24.1\nexit/2 143"),
            [
                Step::Capture("vms_80x24.1".into()),
                Step::Exit { status: 143, limit: Some(Duration::from_secs(2)) }
            ]
        );
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        for wrong in [
            "wait",
            "wait/x y",
            "wait/-1 y",
            "expect/3 x",
            "key",
            "key Entr",
            "click 0 1",
            "click 1",
            "click 1 2 3",
            "wheel left 1 1",
            "wheel up 1",
            "resize 80",
            "resize 0x5",
            "resize 80x9999",
            "settle 300",
            "capture",
            "capture ../x",
            "capture .x",
            "capture a/b",
            "exit",
            "exit -1",
            "exit 256",
            "sleep 5",
            "type",
        ] {
            let error = parse(&format!("settle\n\n{wrong}\n")).unwrap_err();
            assert_eq!(error.number, 3, "{wrong}");
            assert!(error.to_string().starts_with("3: "), "{error}");
        }
    }
}
