//! The words of the control socket: one JSON object a line, each with the version of the protocol.
//!
//! Input: bytes of a line. Output: a [`Request`], or the [`Answer`] that says what is wrong with it; and lines for the
//! way back. Must not act on anything.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::free_memory::FreeMemory;
use crate::model::snapshot::PolicyName;

/// Version of the protocol. Another one is refused in words, so that an old `imr ctl` says why it does not work.
pub const VERSION: u32 = 1;
/// Longest request line, bytes, without its end.
pub const MOST_REQUEST_BYTES: usize = 4096;
/// Longest answer, bytes: room for some ten thousand VMs.
pub const MOST_ANSWER_BYTES: u64 = 8 << 20;
/// The word for every VM.
pub const ALL: &str = "all";

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How it is.
    Status,
    /// Do this with offers from the next one on.
    Policy(PolicyName, Selector),
    /// Ask guests for their free memory at once.
    Reclaim(Selector),
}

/// Which VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Every one; for a policy, also those to come.
    All,
    /// The one with this name, or this id.
    One(String),
}

impl Selector {
    /// From what people write.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if text == ALL { Self::All } else { Self::One(text.to_owned()) }
    }

    fn text(&self) -> &str {
        match self {
            Self::All => ALL,
            Self::One(text) => text,
        }
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// It was done, or tried, for these VMs.
    Done {
        /// One entry a VM.
        vms: Vec<VmDone>,
    },
    /// It was not done.
    Error {
        /// Which kind of error.
        kind: ErrorKind,
        /// What, where and what to do.
        message: String,
    },
}

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Another version of the protocol.
    Version,
    /// Not a request.
    Malformed,
    /// The caller is neither root nor this process' user.
    Forbidden,
    /// There are too many clients.
    Busy,
    /// No such VM.
    UnknownVm,
    /// The name is that of several VMs.
    AmbiguousVm,
    /// The pipeline did not answer in time, or is ending.
    NoAnswer,
}

/// What became of a request for one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDone {
    /// Its id in this process.
    pub id: u32,
    /// Its VMM.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Whether it could be done.
    pub ok: bool,
    /// What was done, or why not.
    pub what: String,
}

/// How a running imr is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its own version.
    pub program: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// What is done with the offers of VMs to come.
    pub policy: String,
    /// Why no guest may be answered, if so.
    pub unanswerable: Option<String>,
    /// The VMs, in order of discovery.
    pub vms: Vec<VmStatus>,
    /// What happened at the control socket.
    pub socket: Counters,
}

/// How a VM is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Its id in this process.
    pub id: u32,
    /// Its VMM.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// What is done with its offers.
    pub policy: String,
    /// Its guest module: `attached`, `no_module` or `detached`.
    pub guest: String,
    /// What takes its memory, or the guard that forbids it.
    pub backend: String,
    /// Why, where a guard forbids it.
    pub why: Option<String>,
    /// Guest RAM, bytes.
    pub ram_bytes: u64,
    /// Free by the guest's own statistics, bytes.
    pub guest_free_bytes: u64,
    /// What that is good for; null where the guest does not say.
    #[serde(default)]
    pub free_memory: Option<FreeMemory>,
    /// Reclaimed since the start, bytes as measured.
    pub reclaimed_bytes: u64,
    /// Reclaimed memory that the guest has used again since, bytes.
    #[serde(default)]
    pub refaulted_bytes: u64,
    /// Offers claimed.
    pub claimed: u64,
    /// Offers finished.
    pub done: u64,
    /// Offers given back untouched, withdrawn ones included.
    pub given_back: u64,
}

/// What happened at the control socket since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Requests carried out.
    pub served: u64,
    /// Clients turned away because of their user.
    pub forbidden: u64,
    /// Clients turned away because there were too many.
    pub busy: u64,
    /// Lines that were no request: not JSON, of another version, too long, or not ended.
    pub malformed: u64,
    /// Clients that were too slow to take their answer, or to finish a line.
    pub slow: u64,
    /// Connections that could not be taken up.
    pub failed: u64,
}

/// A line on its way in, before it is believed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    #[serde(rename = "version")]
    _version: u32,
    command: String,
    policy: Option<String>,
    vm: Option<String>,
}

#[derive(Deserialize)]
struct AnyVersion {
    version: u64,
}

#[derive(Serialize)]
struct RequestLine<'a> {
    version: u32,
    command: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<&'a str>,
}

/// An answer with its version, as it is on the wire.
#[derive(Serialize, Deserialize)]
struct AnswerLine<A> {
    version: u32,
    #[serde(flatten)]
    answer: A,
}

impl Request {
    /// Reads a line, without its end.
    ///
    /// # Errors
    /// The answer to give.
    pub fn parse(line: &[u8]) -> Result<Self, Answer> {
        let malformed = |why: &dyn fmt::Display| Answer::error(ErrorKind::Malformed, why.to_string());
        // Its version first: what else a newer one has in it nobody can know.
        let AnyVersion { version } =
            serde_json::from_slice(line).map_err(|error| malformed(&format_args!("no request: {error}")))?;
        if version != u64::from(VERSION) {
            return Err(Answer::error(
                ErrorKind::Version,
                format!("version {version} of the protocol; this imr speaks {VERSION}: use its own imr ctl"),
            ));
        }
        let raw: RawRequest =
            serde_json::from_slice(line).map_err(|error| malformed(&format_args!("no request: {error}")))?;
        let vm = Selector::of(raw.vm.as_deref().unwrap_or(ALL));
        match (raw.command.as_str(), raw.policy) {
            ("status", None) if raw.vm.is_none() => Ok(Self::Status),
            ("reclaim", None) => Ok(Self::Reclaim(vm)),
            ("policy", Some(policy)) => PolicyName::named(&policy)
                .map(|policy| Self::Policy(policy, vm))
                .ok_or_else(|| malformed(&unknown_policy(&policy))),
            ("policy", None) => Err(malformed(&"the command policy needs a policy")),
            ("status" | "reclaim", _) => Err(malformed(&"a field that this command does not have")),
            (other, _) => {
                Err(malformed(&format_args!("unknown command {other:?}; there are status, policy, reclaim")))
            }
        }
    }

    /// The line, with its end.
    ///
    /// # Errors
    /// None that is known: its parts are text.
    pub fn line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let version = VERSION;
        let line = match self {
            Self::Status => RequestLine { version, command: "status", policy: None, vm: None },
            Self::Policy(policy, vm) => {
                RequestLine { version, command: "policy", policy: Some(policy.name()), vm: Some(vm.text()) }
            }
            Self::Reclaim(vm) => {
                RequestLine { version, command: "reclaim", policy: None, vm: Some(vm.text()) }
            }
        };
        serde_json::to_vec(&line).map(ended)
    }
}

/// What to say of a policy that there is not.
#[must_use]
pub fn unknown_policy(text: &str) -> String {
    let known = PolicyName::ALL.map(PolicyName::name).join(", ");
    format!("unknown policy {text:?}; there are {known}")
}

impl Answer {
    /// An error.
    #[must_use]
    pub fn error(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Error { kind, message: message.into() }
    }

    /// The line, with its end.
    ///
    /// # Errors
    /// None that is known: its parts are text and numbers.
    pub fn line(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&AnswerLine { version: VERSION, answer: self }).map(ended)
    }

    /// Reads a line, without its end.
    ///
    /// # Errors
    /// It is no answer of this version.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        let AnswerLine { version, answer } = serde_json::from_slice::<AnswerLine<Self>>(line)?;
        if version == VERSION {
            Ok(answer)
        } else {
            Err(serde::de::Error::custom(format_args!("version {version}, not {VERSION}")))
        }
    }
}

fn ended(mut line: Vec<u8>) -> Vec<u8> {
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_as_they_were() {
        let mut all = vec![Request::Status, Request::Reclaim(Selector::All)];
        for policy in PolicyName::ALL {
            all.push(Request::Policy(policy, Selector::of("all")));
            all.push(Request::Policy(policy, Selector::of("a \"name\"\n with everything")));
        }
        for request in all {
            let line = request.line().unwrap();
            let (end, line) = line.split_last().unwrap();
            assert_eq!(*end, b'\n');
            assert!(!line.contains(&b'\n'), "one line");
            assert_eq!(Request::parse(line), Ok(request));
        }
    }

    #[test]
    fn a_vm_that_is_not_named_is_every_vm() {
        let request = Request::parse(br#"{"version":1,"command":"reclaim"}"#);
        assert_eq!(request, Ok(Request::Reclaim(Selector::All)));
    }

    #[test]
    fn what_is_no_request_is_said_in_words() {
        for (line, kind, word) in [
            (&b""[..], ErrorKind::Malformed, "no request"),
            (b"\xff\xfe", ErrorKind::Malformed, "no request"),
            (b"[1]", ErrorKind::Malformed, "no request"),
            (br#"{"command":"status"}"#, ErrorKind::Malformed, "version"),
            (br#"{"version":2,"command":"status","more":1}"#, ErrorKind::Version, "speaks 1"),
            (br#"{"version":1,"command":"halt"}"#, ErrorKind::Malformed, "there are status"),
            (br#"{"version":1,"command":"status","vm":"x"}"#, ErrorKind::Malformed, "field"),
            (br#"{"version":1,"command":"status","x":1}"#, ErrorKind::Malformed, "unknown field"),
            (br#"{"version":1,"command":"policy"}"#, ErrorKind::Malformed, "needs a policy"),
            (br#"{"version":1,"command":"policy","policy":"all"}"#, ErrorKind::Malformed, "observe"),
            (br#"{"version":1,"command":"status"} x"#, ErrorKind::Malformed, "trailing"),
        ] {
            let shown = String::from_utf8_lossy(line);
            let Err(Answer::Error { kind: found, message }) = Request::parse(line) else {
                panic!("{shown} is taken")
            };
            assert_eq!(found, kind, "{shown}");
            assert!(message.contains(word), "{shown}: {message}");
        }
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let done = VmDone { id: 1, pid: 2, name: "a".into(), ok: true, what: "b".into() };
        let status = Status {
            program: "0".into(),
            pid: 1,
            uptime_s: 2,
            policy: "observe".into(),
            unanswerable: None,
            vms: Vec::new(),
            socket: Counters::default(),
        };
        for answer in [
            Answer::Done { vms: vec![done] },
            Answer::Status(Box::new(status)),
            Answer::error(ErrorKind::Busy, "too\nmany"),
        ] {
            let line = answer.line().unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(Answer::parse(&line[..line.len() - 1]).unwrap(), answer);
        }
        assert!(Answer::parse(br#"{"version":9,"answer":"done","vms":[]}"#).is_err());
    }
}
