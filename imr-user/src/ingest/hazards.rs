//! What can come to forbid reclaim while the slots stay as they are: open devices, userfaultfds, locked memory.
//!
//! Input: a VMM's open files and its status. Output: [`Hazards`], to be compared with what they were when its mappings
//! were read. One walk of its descriptors; what cannot be read counts as there.

use rustix::fs::{Dir, OFlags, readlinkat};

use super::vmm::Vmm;

/// What a VMM has open or locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hazards {
    /// A device is assigned: a VFIO group, device, container or an iommufd is open.
    pub vfio: bool,
    /// The VM has memory that its VMM cannot read.
    pub guest_memfd: bool,
    /// A userfaultfd is open: somebody may be filling the memory in (postcopy migration, snapshots). Which mappings it
    /// is about is in their flags.
    pub userfaultfd: bool,
    /// Locked by mlock, KiB (VmLck). Which mappings is in their flags.
    pub locked_kib: u64,
    /// Some is pinned for DMA (VmPin). Nobody tells where.
    pub pinned: bool,
}

/// All that can be there.
const ALL: Hazards =
    Hazards { vfio: true, guest_memfd: true, userfaultfd: true, locked_kib: u64::MAX, pinned: true };

impl Hazards {
    /// Of a process. Costs about a microsecond for each descriptor that it has open, and a few more.
    #[must_use]
    pub fn of(vmm: &Vmm) -> Self {
        let (Some(files), Ok(status)) = (Self::of_files(vmm), vmm.read_text("status")) else { return ALL };
        let kib = |name| kib_of(&status, name);
        // A process without memory of its own has no such lines: it is ending.
        let (Some(locked_kib), Some(pinned)) = (kib("VmLck:"), kib("VmPin:")) else { return ALL };
        Self { locked_kib, pinned: pinned > 0, ..files }
    }

    fn of_files(vmm: &Vmm) -> Option<Self> {
        let dir = vmm.open_at("fd", OFlags::RDONLY | OFlags::DIRECTORY).ok()?;
        let mut found = Self::default();
        let mut link = Vec::with_capacity(64);
        for entry in Dir::read_from(&dir).ok()? {
            // The two directory entries, and descriptors that were closed meanwhile, have no link.
            if let Ok(target) = readlinkat(&dir, entry.ok()?.file_name(), link) {
                found.add(&target.to_string_lossy());
                link = target.into_bytes();
            } else {
                link = Vec::with_capacity(64);
            }
        }
        Some(found)
    }

    /// What one open file means, by its link in /proc/PID/fd.
    fn add(&mut self, link: &str) {
        // Container, group and device files, the descriptor of a device (drivers/vfio/group.c,
        // vfio_device_open_file), and what has followed the container (drivers/iommu/iommufd).
        const VFIO: [&str; 3] = ["anon_inode:[vfio", "/dev/vfio/", "/dev/iommu"];
        self.vfio |= VFIO.iter().any(|start| link.starts_with(start));
        // virt/kvm/guest_memfd.c, __kvm_gmem_create: an anonymous inode "[kvm-gmem]", since 6.17 on a mount of its own.
        self.guest_memfd |= link.contains("[kvm-gmem]") || link.contains("[guest_memfd]");
        self.userfaultfd |= link == "anon_inode:[userfaultfd]";
    }
}

/// KiB in the line of /proc/PID/status that begins with `name` (fs/proc/task_mmu.c, task_mem).
fn kib_of(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Pid;

    #[test]
    fn links_say_what_is_open() {
        let of = |links: &[&str]| {
            let mut found = Hazards::default();
            links.iter().for_each(|link| found.add(link));
            (found.vfio, found.guest_memfd, found.userfaultfd)
        };
        assert_eq!(
            of(&["/dev/kvm", "anon_inode:kvm-vm", "/home/vfio.img", "socket:[1]"]),
            (false, false, false)
        );
        for link in [
            "/dev/vfio/vfio",
            "/dev/vfio/12",
            "/dev/vfio/devices/vfio0",
            "anon_inode:[vfio-device]",
            "/dev/iommu",
        ] {
            assert_eq!(of(&["/dev/null", link]), (true, false, false), "{link}");
        }
        for link in ["anon_inode:[kvm-gmem]", "/[kvm-gmem] (deleted)"] {
            assert_eq!(of(&[link, "/dev/null"]), (false, true, false), "{link}");
        }
        assert_eq!(of(&["anon_inode:[userfaultfd]"]), (false, false, true));
    }

    #[test]
    fn locked_and_pinned_memory_are_in_status() {
        let status = "VmLck:\t      16 kB\nVmPin:\t       0 kB\nVmHWM:\t 5 kB\n";
        assert_eq!((kib_of(status, "VmLck:"), kib_of(status, "VmPin:")), (Some(16), Some(0)));
        assert_eq!(kib_of("Name:\tkthreadd\n", "VmLck:"), None);
    }

    #[test]
    fn a_process_that_has_ended_counts_as_having_all() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let vmm = Vmm::open(Pid::new(child.id())).unwrap();
        assert_eq!(Hazards::of(&vmm), Hazards::default());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Hazards::of(&vmm), ALL);
    }
}
