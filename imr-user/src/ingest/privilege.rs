//! Whether this process may load eBPF programs here: capabilities and lockdown, looked at before anything is tried, so
//! that the answer is a sentence and not an errno.

use std::fs;

use super::IngestError;

const STATUS: &str = "/proc/self/status";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Bits of CapEff (include/uapi/linux/capability.h).
const CAP_SYS_PTRACE: (u32, &str) = (19, "CAP_SYS_PTRACE");
const CAP_SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN");
const CAP_PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const CAP_BPF: (u32, &str) = (39, "CAP_BPF");

/// Checks both.
///
/// # Errors
/// [`IngestError::NotPrivileged`], [`IngestError::Lockdown`].
pub(super) fn check() -> Result<(), IngestError> {
    let status = fs::read_to_string(STATUS).map_err(|error| IngestError::io("read", STATUS, error))?;
    let missing = missing_capabilities(&status);
    if !missing.is_empty() {
        return Err(IngestError::NotPrivileged { missing: missing.join(", ") });
    }
    // Absent without securityfs or without the lockdown LSM: nothing is locked then.
    if let Ok(lockdown) = fs::read_to_string(LOCKDOWN)
        && let Some(mode) = forbidding_mode(&lockdown)
    {
        return Err(IngestError::Lockdown { mode: mode.to_owned() });
    }
    Ok(())
}

/// The capabilities that loading and looking need and `status` does not show.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |capability: (u32, &str)| effective & (1 << capability.0) != 0;
    if has(CAP_SYS_ADMIN) {
        // It stands in for CAP_BPF and CAP_PERFMON (kernel/capability.c, bpf_capable).
        return if has(CAP_SYS_PTRACE) { Vec::new() } else { vec![CAP_SYS_PTRACE.1] };
    }
    // map_files of other processes wants CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
    [CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_SYS_ADMIN]
        .into_iter()
        .filter(|capability| !has(*capability))
        .map(|capability| capability.1)
        .collect()
}

/// The active lockdown mode, when it forbids `bpf_probe_read_kernel` (security/lockdown, LOCKDOWN_BPF_READ_KERNEL).
fn forbidding_mode(lockdown: &str) -> Option<&str> {
    let active = lockdown.split_whitespace().find(|mode| mode.starts_with('[') && mode.ends_with(']'))?;
    let mode = active.trim_matches(['[', ']']);
    (mode == "confidentiality").then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_lacks_nothing_and_a_user_lacks_all_four() {
        assert!(missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
        let user = missing_capabilities("CapEff:\t0000000000000000\n");
        assert_eq!(user, ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
    }

    #[test]
    fn a_status_that_makes_no_sense_counts_as_no_privilege() {
        assert_eq!(missing_capabilities("").len(), 4);
    }

    #[test]
    fn only_confidentiality_forbids() {
        assert_eq!(forbidding_mode("none integrity [confidentiality]\n"), Some("confidentiality"));
        assert_eq!(forbidding_mode("none [integrity] confidentiality\n"), None);
        assert_eq!(forbidding_mode("[none] integrity confidentiality\n"), None);
        assert_eq!(forbidding_mode(""), None);
    }
}
