//! What L1 reports on the port imr.events, a line each.
//!
//! In: a line as scripts/l1-init.sh and scripts/guest.sh write it. Out: an `Event`.
//! Must not act on it.

/// A report of L1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// L1's userspace is up and KVM is loaded.
    HostUp,
    /// L1's clock and its shell still run; comes every ten seconds.
    Alive,
    /// A guest's userspace is up.
    GuestUp(u32),
    /// A guest's script ended.
    GuestScript(u32, i32),
    /// A guest's QEMU ended.
    GuestOff(u32, i32),
    /// The host script has the user's terminal now.
    Attached,
    /// All is over, with this status.
    Exit(i32),
    /// L1 cannot go on.
    Failed(String),
    /// A step on the way that needs no answer.
    Progress,
    /// A line that none of the scripts writes.
    Unknown,
}

impl Event {
    /// Reads one line.
    pub(super) fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let mut next = || words.next().unwrap_or_default();
        let event = match next() {
            "up" => Some(Self::HostUp),
            "alive" => Some(Self::Alive),
            "exit" => next().parse().ok().map(Self::Exit),
            "fail" => Some(Self::Failed(line.trim_start().trim_start_matches("fail").trim().to_owned())),
            "script" => Some(Self::Progress),
            "interactive" => Some(Self::Attached),
            "guest" => next().parse().ok().and_then(|n| {
                let (what, status) = (next(), next().parse().ok());
                match what {
                    "up" => Some(Self::GuestUp(n)),
                    "script" => status.map(|status| Self::GuestScript(n, status)),
                    "off" => status.map(|status| Self::GuestOff(n, status)),
                    "ready" => Some(Self::Progress),
                    _ => None,
                }
            }),
            _ => None,
        };
        event.unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scripts_write_is_understood() {
        let parse = Event::parse;
        assert_eq!(parse("up"), Event::HostUp);
        assert_eq!(parse("alive"), Event::Alive);
        assert_eq!(parse("guest 2 up "), Event::GuestUp(2));
        assert_eq!(parse("guest 1 script 3"), Event::GuestScript(1, 3));
        assert_eq!(parse("guest 1 off 137"), Event::GuestOff(1, 137));
        assert_eq!(parse("exit 0"), Event::Exit(0));
        assert_eq!(parse("fail no /dev/kvm in L1"), Event::Failed("no /dev/kvm in L1".to_owned()));
        assert_eq!(parse("guest 1 ready "), Event::Progress);
    }

    #[test]
    fn nonsense_is_unknown() {
        for line in ["", "exit", "exit now", "guest", "guest x up", "guest 1", "guest 1 script", "hello"] {
            assert_eq!(Event::parse(line), Event::Unknown, "{line}");
        }
    }
}
