//! The host: memory, swap, memory pressure, names.
//!
//! Input: /proc and uname. Output: [`HostSnapshot`] without its counters and probes, which others know.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};

use super::IngestError;
use crate::model::snapshot::HostSnapshot;

const MEMINFO: &str = "/proc/meminfo";
const PRESSURE: &str = "/proc/pressure/memory";
const URANDOM: &str = "/dev/urandom";

/// Reads it.
///
/// # Errors
/// /proc/meminfo cannot be read or understood.
pub fn read() -> Result<HostSnapshot, IngestError> {
    let text = fs::read_to_string(MEMINFO).map_err(|error| IngestError::io("read", MEMINFO, error))?;
    let field = |name: &str| {
        meminfo(&text, name)
            .ok_or_else(|| IngestError::Format { path: MEMINFO.into(), what: format!("no {name}") })
    };
    let swap_total = field("SwapTotal")?;
    let uname = rustix::system::uname();
    Ok(HostSnapshot {
        kernel: uname.release().to_string_lossy().into_owned(),
        name: uname.nodename().to_string_lossy().into_owned(),
        mem_total: field("MemTotal")?,
        mem_available: field("MemAvailable")?,
        swap_total,
        swap_used: swap_total.saturating_sub(field("SwapFree")?),
        pressure_some_avg10: read_pressure()?,
        ..HostSnapshot::default()
    })
}

/// How KVM translates guest addresses here, as far as its module parameters tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mmu {
    /// Nested page tables: EPT or NPT. Otherwise shadow paging.
    pub two_dimensional: bool,
    /// Parameter `tdp_mmu` of kvm; `None` where there is no such parameter, or no kvm.
    pub tdp_mmu: Option<bool>,
}

impl Mmu {
    /// Reads /sys/module.
    #[must_use]
    pub fn read() -> Self {
        let parameter = |module: &str, name: &str| {
            let text = fs::read_to_string(format!("/sys/module/{module}/parameters/{name}")).ok()?;
            Some(matches!(text.trim(), "Y" | "1"))
        };
        Self {
            two_dimensional: parameter("kvm_amd", "npt").or(parameter("kvm_intel", "ept")) == Some(true),
            tdp_mmu: parameter("kvm", "tdp_mmu"),
        }
    }

    /// Whether an idleness scan shows which frames it found accessed: only the TDP MMU traces that
    /// (arch/x86/kvm/mmu/tdp_mmu.c, kvm_tdp_mmu_age_gfn_range, 6.1 and 6.12).
    #[must_use]
    pub fn shows_young(self) -> bool {
        self.two_dimensional && self.tdp_mmu != Some(false)
    }
}

/// `None` where the kernel has no PSI, or has it switched off.
fn read_pressure() -> Result<Option<f32>, IngestError> {
    match fs::read_to_string(PRESSURE) {
        Ok(text) => Ok(pressure_some_avg10(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // Built with PSI and booted with psi=0 (kernel/sched/psi.c, psi_open).
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(IngestError::io("read", PRESSURE, error)),
    }
}

/// A field of /proc/meminfo, bytes.
#[must_use]
pub fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The share of the last ten seconds in which some task waited for memory, percent, by /proc/pressure/memory.
#[must_use]
pub fn pressure_some_avg10(text: &str) -> Option<f32> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f32 = some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
    // "NaN" and "inf" are numbers, too.
    (0.0..=100.0).contains(&percent).then_some(percent)
}

/// A number nobody can guess.
///
/// # Errors
/// /dev/urandom cannot be read.
pub fn random_u64() -> Result<u64, IngestError> {
    let mut bytes = [0; 8];
    let mut file = File::open(URANDOM).map_err(|error| IngestError::io("open", URANDOM, error))?;
    file.read_exact(&mut bytes).map_err(|error| IngestError::io("read", URANDOM, error))?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_bytes() {
        let text = "MemTotal:       16384 kB\nMemAvailable:    1024 kB\nHugePages_Total:       0\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(16 << 20));
        assert_eq!(meminfo(text, "MemAvail"), None);
        assert_eq!(meminfo(text, "HugePages_Total"), None);
        assert_eq!(meminfo("MemTotal: 18446744073709551615 kB\n", "MemTotal"), None);
    }

    #[test]
    fn pressure_is_percent() {
        let text = "some avg10=1.25 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=3\n";
        assert_eq!(pressure_some_avg10(text), Some(1.25));
        assert_eq!(pressure_some_avg10(""), None);
        for nonsense in ["NaN", "inf", "-1", "101"] {
            assert_eq!(pressure_some_avg10(&format!("some avg10={nonsense} total=0\n")), None);
        }
    }

    #[test]
    fn this_host_has_memory() {
        let host = read().unwrap();
        assert!(host.mem_total > 0 && host.mem_available <= host.mem_total && !host.kernel.is_empty());
    }
}
