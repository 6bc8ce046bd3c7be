//! One VMM process: its end, its name, its memory, what backs the slots it has mapped.
//!
//! Everything goes through a directory descriptor of /proc/PID that was opened while a pidfd showed the process alive:
//! it can never reach another process that got the same pid later. Nothing is changed here.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fstat, fstatfs, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::IngestError;
use super::discovery::{FoundSlot, KVM_VM_LINK};
use super::process_text;
use super::smaps::{self, Vma};
use crate::model::backing::{BackingKind, Segment, VmaFlags};
use crate::model::ids::{FRAME_SIZE, Gfn, Hva, Pid};

/// f_type of tmpfs and of what memfd_create makes (include/uapi/linux/magic.h).
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// f_type of hugetlbfs.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// Readings of smaps after which mappings that change all the time are left for the next event.
const SMAPS_ATTEMPTS: u32 = 8;

/// A VMM process.
#[derive(Debug)]
pub struct Vmm {
    pid: Pid,
    pidfd: OwnedFd,
    proc_dir: OwnedFd,
    name: String,
    start_ticks: u64,
}

impl Vmm {
    /// Takes hold of the process.
    ///
    /// # Errors
    /// [`IngestError::VmmGone`]; /proc/PID cannot be read.
    pub fn open(pid: Pid) -> Result<Self, IngestError> {
        let path = format!("/proc/{pid}");
        let raw = i32::try_from(pid.get()).ok().and_then(rustix::process::Pid::from_raw);
        let raw = raw.ok_or(IngestError::VmmGone { pid })?;
        let pidfd =
            pidfd_open(raw, PidfdFlags::empty()).map_err(|error| failure(pid, "pidfd_open", &path, error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc_dir = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|error| failure(pid, "open", &path, error))?;
        let mut vmm = Self { pid, pidfd, proc_dir, name: String::new(), start_ticks: 0 };
        // Alive after the directory was opened: the directory is this process'.
        if vmm.has_exited() {
            return Err(IngestError::VmmGone { pid });
        }
        vmm.name = vmm.read_name()?;
        vmm.start_ticks = vmm.read_start_ticks()?;
        Ok(vmm)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// QEMU's `-name`, else the process' comm.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it was started, clock ticks since boot: with the pid an identity.
    #[must_use]
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Directory /proc/PID; every access fails with ESRCH once the process has ended.
    #[must_use]
    pub fn proc_dir(&self) -> BorrowedFd<'_> {
        self.proc_dir.as_fd()
    }

    /// The process itself: what is done through it can never reach another one.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        // A pidfd becomes readable when the process ends; one that cannot be polled is as good as ended.
        !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0) | Err(Errno::INTR))
    }

    /// Waits until it ends. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The pidfd cannot be watched.
    pub async fn wait_for_exit(&self) -> Result<(), IngestError> {
        let failed =
            |error: io::Error| IngestError::io("watch pidfd of", format!("/proc/{}", self.pid), error);
        // SAFETY: the pidfd is borrowed from `self`, which keeps it open while the AsyncFd lives.
        let exit = unsafe { AsyncFd::register_with_interest(self.pidfd.as_fd(), Interest::READABLE) };
        let exit = exit.map_err(|error| failed(error.into()))?;
        exit.readable().await.map(drop).map_err(failed)
    }

    /// /proc/PID/mem, for reading and writing.
    ///
    /// # Errors
    /// [`IngestError::VmmGone`]; no permission.
    pub fn mem_file(&self) -> Result<OwnedFd, IngestError> {
        self.open_at("mem", OFlags::RDWR)
    }

    /// What backs each slot, in the order of `slots`: one segment a VMA, none for what is not mapped.
    ///
    /// Memory pinned for DMA anywhere in the process counts as locked everywhere: which pages it is nobody tells.
    /// Reads smaps, which walks the process' page tables: about 10 ms for each GiB it has mapped in 4 KiB pages.
    ///
    /// # Errors
    /// [`IngestError::VmmGone`]; smaps cannot be read or understood.
    pub fn segments(&self, slots: &[FoundSlot]) -> Result<Vec<Vec<Segment>>, IngestError> {
        let vmas = self.read_vmas()?;
        let pinned = process_text::has_pinned_memory(&self.read_text("status")?);
        slots.iter().map(|slot| self.segments_of(slot, &vmas, pinned)).collect()
    }

    /// The VMAs, in order and disjoint. The kernel lets go of the address space between two pieces of smaps
    /// (fs/proc/task_mmu.c, m_start): a VMA that grows meanwhile is told twice, so such a reading is made again.
    fn read_vmas(&self) -> Result<Vec<Vma>, IngestError> {
        for _ in 0..SMAPS_ATTEMPTS {
            let text = self.read_text("smaps")?;
            let vmas = smaps::parse(&text)
                .map_err(|what| IngestError::Format { path: self.path("smaps").into(), what })?;
            if vmas.is_sorted_by(|before, after| before.end <= after.start) {
                return Ok(vmas);
            }
        }
        let what = format!("mappings overlap in each of {SMAPS_ATTEMPTS} readings: they change all the time");
        Err(IngestError::Format { path: self.path("smaps").into(), what })
    }

    fn segments_of(&self, slot: &FoundSlot, vmas: &[Vma], pinned: bool) -> Result<Vec<Segment>, IngestError> {
        let start = slot.userspace_addr;
        let end = start.saturating_add(slot.npages.saturating_mul(FRAME_SIZE));
        let first = vmas.partition_point(|vma| vma.end <= start);
        let mut segments = Vec::new();
        for vma in vmas[first..].iter().take_while(|vma| vma.start < end) {
            let from = start.max(vma.start);
            let to = end.min(vma.end);
            let backing = self.backing(vma)?;
            segments.push(Segment {
                base_gfn: Gfn::new(slot.base_gfn + (from - start) / FRAME_SIZE),
                npages: (to - from) / FRAME_SIZE,
                hva: Hva::new(from),
                vma_start: Hva::new(vma.start),
                vma_end: Hva::new(vma.end),
                file_offset: if backing.inode == 0 { 0 } else { vma.offset + (from - vma.start) },
                dev: backing.dev,
                inode: backing.inode,
                kind: backing.kind,
                shared: vma.shared,
                writable: vma.writable,
                page_size: vma.page_size,
                flags: VmaFlags { locked: vma.flags.locked || pinned, ..vma.flags },
            });
        }
        Ok(segments)
    }

    /// Classified by what the file system says, not by the path: anybody can name a file `/memfd:x`.
    fn backing(&self, vma: &Vma) -> Result<Backing, IngestError> {
        if vma.inode == 0 && !vma.path.starts_with('/') {
            return Ok(Backing { kind: BackingKind::Anonymous, dev: 0, inode: 0 });
        }
        let link = format!("map_files/{:x}-{:x}", vma.start, vma.end);
        let file = self.open_at(&link, OFlags::PATH)?;
        let stat = fstat(&file).map_err(|error| self.failure("stat", &link, error))?;
        let filesystem = fstatfs(&file).map_err(|error| self.failure("statfs", &link, error))?;
        let kind = match filesystem.f_type.cast_unsigned() {
            HUGETLBFS_MAGIC => BackingKind::Hugetlbfs,
            TMPFS_MAGIC if vma.path.starts_with("/memfd:") => BackingKind::Memfd,
            TMPFS_MAGIC => BackingKind::Tmpfs,
            _ => BackingKind::OtherFile(vma.path.clone()),
        };
        Ok(Backing { kind, dev: stat.st_dev, inode: stat.st_ino })
    }

    /// Whether descriptor `fd` of the process still is a KVM VM.
    #[must_use]
    pub fn has_vm_file(&self, fd: u32) -> bool {
        readlinkat(&self.proc_dir, format!("fd/{fd}"), Vec::new())
            .is_ok_and(|link| link.as_bytes() == KVM_VM_LINK.as_bytes())
    }

    /// Pages of its address space that KSM has merged; zero pages that KSM put in place are not among them. `None`
    /// where the kernel does not say (before 5.19, or without CONFIG_KSM).
    #[must_use]
    pub fn merged_pages(&self) -> Option<u64> {
        // 5.19 to 6.3 have the first only; its number is also in the second since.
        if let Ok(text) = self.read_text("ksm_merging_pages") {
            return text.trim().parse().ok();
        }
        self.read_text("ksm_stat").ok().and_then(|text| process_text::field(&text, "ksm_merging_pages "))
    }

    /// Its private memory that is swapped out, bytes; pages of shared files are not among it. `None` where
    /// /proc/PID/status cannot be read.
    #[must_use]
    pub fn swap_bytes(&self) -> Option<u64> {
        process_text::swap_bytes(&self.read_text("status").ok()?)
    }

    /// /proc/PID/pagemap, for reading.
    pub(super) fn pagemap_file(&self) -> Result<File, IngestError> {
        self.open_at("pagemap", OFlags::RDONLY).map(File::from)
    }

    fn read_name(&self) -> Result<String, IngestError> {
        match process_text::guest_name(&self.read_bytes("cmdline")?) {
            Some(name) => Ok(name),
            None => Ok(process_text::printable(self.read_text("comm")?.trim_end())),
        }
    }

    fn read_start_ticks(&self) -> Result<u64, IngestError> {
        process_text::start_ticks(&self.read_text("stat")?).ok_or_else(|| IngestError::Format {
            path: self.path("stat").into(),
            what: "no starttime".into(),
        })
    }

    pub(super) fn read_text(&self, name: &'static str) -> Result<String, IngestError> {
        Ok(String::from_utf8_lossy(&self.read_bytes(name)?).into_owned())
    }

    fn read_bytes(&self, name: &'static str) -> Result<Vec<u8>, IngestError> {
        let mut file = File::from(self.open_at(name, OFlags::RDONLY)?);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| self.io_failure("read", name, error))?;
        Ok(bytes)
    }

    /// A file below /proc/PID.
    pub(super) fn open_at(&self, name: &str, flags: OFlags) -> Result<OwnedFd, IngestError> {
        openat(&self.proc_dir, name, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| self.failure("open", name, error))
    }

    /// The name of a file below /proc/PID, for people.
    pub(super) fn path(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid)
    }

    fn failure(&self, operation: &'static str, name: &str, error: Errno) -> IngestError {
        if self.has_exited() {
            return IngestError::VmmGone { pid: self.pid };
        }
        failure(self.pid, operation, &self.path(name), error)
    }

    /// The error of an operation on a file below /proc/PID.
    pub(super) fn io_failure(&self, operation: &'static str, name: &str, error: io::Error) -> IngestError {
        if self.has_exited() || error.raw_os_error() == Some(libc::ESRCH) {
            return IngestError::VmmGone { pid: self.pid };
        }
        IngestError::io(operation, self.path(name), error)
    }
}

struct Backing {
    kind: BackingKind,
    dev: u64,
    inode: u64,
}

fn failure(pid: Pid, operation: &'static str, path: &str, error: Errno) -> IngestError {
    match error {
        Errno::SRCH => IngestError::VmmGone { pid },
        // /proc/PID itself, or the whole of it, is not there any more.
        Errno::NOENT if operation != "stat" && path == format!("/proc/{pid}") => IngestError::VmmGone { pid },
        _ => IngestError::io(operation, path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_no_swap_and_nothing_merged() {
        let vmm = Vmm::open(Pid::new(std::process::id())).unwrap();
        assert!(vmm.swap_bytes().is_some());
        assert!(matches!(vmm.merged_pages(), None | Some(0)));
    }

    #[test]
    fn this_process_is_alive_and_has_a_start() {
        let vmm = Vmm::open(Pid::new(std::process::id())).unwrap();
        assert!(!vmm.has_exited());
        assert!(vmm.start_ticks() > 0 && !vmm.name().is_empty());
        assert!(!vmm.has_vm_file(0));
    }

    #[test]
    fn a_process_that_has_ended_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::new(child.id());
        child.wait().unwrap();
        assert!(Vmm::open(pid).unwrap_err().is_vmm_gone());
    }

    #[test]
    fn memory_of_this_process_is_classified() {
        let buffer = vec![1_u8; 64 * 4096];
        let address = (buffer.as_ptr() as u64).next_multiple_of(FRAME_SIZE);
        let slot = FoundSlot { id: 0, base_gfn: 100, npages: 32, userspace_addr: address, flags: 0 };
        let vmm = Vmm::open(Pid::new(std::process::id())).unwrap();
        let segments = vmm.segments(&[slot]).unwrap();
        let pages: u64 = segments[0].iter().map(|segment| segment.npages).sum();
        assert_eq!(pages, 32);
        let segment = &segments[0][0];
        assert_eq!(
            (&segment.kind, segment.shared, segment.page_size),
            (&BackingKind::Anonymous, false, 4096)
        );
        assert_eq!(buffer[0], 1);
    }
}
