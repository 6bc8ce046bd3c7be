//! What forbids to take memory, each made real: by this process, which stands in for a VMM, or by a child.
//!
//! In: mappings, locks and open files of every kind. Out: a verdict a test. What is judged goes the way of the product:
//! from /proc by `Vmm` and `Hazards` to the guard.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::ptr;

use imr_tests::ring::Verdict;
use imr_user::ingest::discovery::FoundSlot;
use imr_user::ingest::hazards::Hazards;
use imr_user::ingest::vmm::Vmm;
use imr_user::model::ids::{Gfn, Pid};
use imr_user::reclaim::choose::Allowed;
use imr_user::reclaim::guards::{Guard, SlotFacts, VmFacts, range_guard, vm_guard};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{
    MapFlags, MlockAllFlags, MprotectFlags, ProtFlags, UserfaultfdFlags, mlock, mlockall, mmap,
    mmap_anonymous, mprotect, munlock, munlockall, munmap, userfaultfd,
};

const FRAME: u64 = 4096;
const MIB: usize = 1 << 20;
/// Frames of 1 MiB.
const FRAMES: u64 = MIB as u64 / FRAME;
/// KVM_MEM_READONLY.
const READONLY: u32 = 2;

macro_rules! root_or_skip {
    () => {
        if !rustix::process::geteuid().is_root() {
            return Verdict::Skipped("this needs root".to_owned());
        }
    };
}

/// Two MiB of this process.
struct Ram {
    address: u64,
}

impl Ram {
    fn of(file: &File, flags: MapFlags) -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
        let address = unsafe { mmap(ptr::null_mut(), 2 * MIB, access, flags, file, 0) }.unwrap();
        Self { address: address as u64 }
    }

    fn memfd() -> Self {
        Self::of(&memfd(), MapFlags::SHARED)
    }

    fn anonymous() -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as in `of`.
        let address = unsafe { mmap_anonymous(ptr::null_mut(), 2 * MIB, access, MapFlags::PRIVATE) }.unwrap();
        Self { address: address as u64 }
    }

    fn slot(&self) -> FoundSlot {
        FoundSlot { id: 0, base_gfn: 0, npages: 2 * FRAMES, userspace_addr: self.address, flags: 0 }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours alone, and no reference points into it.
        unsafe { munmap(self.address as *mut _, 2 * MIB) }.unwrap();
    }
}

fn memfd() -> File {
    let fd = memfd_create("imr-test-ram", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, 2 * MIB as u64).unwrap();
    fd.into()
}

/// What the product knows of a process with these slots.
fn facts(pid: u32, slots: &[FoundSlot]) -> VmFacts {
    let vmm = Vmm::open(Pid::new(pid)).unwrap();
    let hazards = Hazards::of(&vmm);
    let segments = vmm.segments(slots).unwrap();
    let slot = |(slot, segments): (&FoundSlot, _)| SlotFacts {
        base_gfn: Gfn::new(slot.base_gfn),
        npages: slot.npages,
        readonly: slot.is_readonly(),
        followed: true,
        segments,
    };
    VmFacts {
        vfio: hazards.vfio,
        guest_memfd: hazards.guest_memfd,
        stale: false,
        slots: slots.iter().zip(segments).map(slot).collect(),
    }
}

fn own(slots: &[FoundSlot]) -> VmFacts {
    facts(std::process::id(), slots)
}

/// Why the first MiB is not taken, or what takes it.
fn judged(facts: &VmFacts, allowed: Allowed) -> Result<&'static str, Guard> {
    let backends = vm_guard(facts, allowed)?;
    range_guard(facts, allowed, Gfn::new(0), FRAMES)?;
    Ok(backends.name())
}

fn plain(facts: &VmFacts) -> Result<&'static str, Guard> {
    judged(facts, Allowed::default())
}

pub(super) fn kinds_of_mappings() -> Verdict {
    root_or_skip!();
    let inject = Allowed { inject: true, dry_run: false };
    assert_eq!(plain(&own(&[Ram::memfd().slot()])), Ok("punch"));
    let anonymous = Ram::anonymous();
    assert_eq!(plain(&own(&[anonymous.slot()])), Err(Guard::PrivateMapping));
    assert_eq!(judged(&own(&[anonymous.slot()]), inject), Ok("inject"));
    let copied = Ram::of(&memfd(), MapFlags::PRIVATE);
    assert_eq!(judged(&own(&[copied.slot()]), inject), Err(Guard::PrivateFile));

    // Somebody's data on a disk, mapped as a VMM maps a file of guest RAM.
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("imr-guard-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let kind = rustix::fs::fstatfs(&file).unwrap().f_type as u64 & 0xffff_ffff;
    fs::remove_file(&path).unwrap();
    if kind == 0x0102_1994 {
        return Verdict::Skipped(format!("{} is on tmpfs; a file on a disk is needed", path.display()));
    }
    file.set_len(2 * MIB as u64).unwrap();
    let disk = Ram::of(&file, MapFlags::SHARED);
    assert!(
        matches!(judged(&own(&[disk.slot()]), inject), Err(Guard::OtherFile(name)) if name.contains("imr-guard"))
    );
    Verdict::Passed
}

pub(super) fn locked_memory() -> Verdict {
    root_or_skip!();
    let ram = Ram::memfd();
    let before = Hazards::of(&Vmm::open(Pid::new(std::process::id())).unwrap());
    // SAFETY: locks a part of a mapping that is ours.
    unsafe { mlock(ram.address as *mut _, MIB) }.unwrap();
    let locked = own(&[ram.slot()]);
    assert_eq!(plain(&locked), Err(Guard::Locked));
    assert!(
        range_guard(&locked, Allowed::default(), Gfn::new(FRAMES), FRAMES).is_ok(),
        "the other half is not"
    );
    // It can be seen without reading the mappings again.
    assert_ne!(before, Hazards::of(&Vmm::open(Pid::new(std::process::id())).unwrap()));
    // SAFETY: as above.
    unsafe { munlock(ram.address as *mut _, MIB) }.unwrap();
    assert_eq!(plain(&own(&[ram.slot()])), Ok("punch"));

    // As QEMU's -overcommit mem-lock=on does.
    let anonymous = Ram::anonymous();
    mlockall(MlockAllFlags::CURRENT).unwrap();
    let all = own(&[ram.slot(), FoundSlot { base_gfn: 2 * FRAMES, ..anonymous.slot() }]);
    munlockall().unwrap();
    assert_eq!(judged(&all, Allowed { inject: true, dry_run: false }), Err(Guard::Locked));
    Verdict::Passed
}

/// include/uapi/linux/userfaultfd.h, struct uffdio_api.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// struct uffdio_register.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// Registers the memory as a postcopy migration does: what is missing is somebody else's to fill in.
fn register(ram: &Ram, bytes: usize) -> Result<OwnedFd, Errno> {
    // SAFETY: a new descriptor, used below on our own mapping only.
    let uffd = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) }?;
    let mut api = Api { api: 0xaa, features: 0, ioctls: 0 };
    // SAFETY: UFFDIO_API takes this structure, which lives during the call.
    assert_eq!(unsafe { libc::ioctl(uffd.as_raw_fd(), 0xc018_aa3f, &raw mut api) }, 0);
    let mut register = Register { start: ram.address, len: bytes as u64, mode: 1, ioctls: 0 };
    // SAFETY: UFFDIO_REGISTER takes this structure; nobody touches the mapping while it is registered.
    assert_eq!(unsafe { libc::ioctl(uffd.as_raw_fd(), 0xc020_aa00, &raw mut register) }, 0);
    Ok(uffd)
}

pub(super) fn userfaultfd_registered() -> Verdict {
    root_or_skip!();
    let (ram, other) = (Ram::memfd(), Ram::anonymous());
    let slots = [ram.slot(), FoundSlot { base_gfn: 2 * FRAMES, ..other.slot() }];
    let hazards = || Hazards::of(&Vmm::open(Pid::new(std::process::id())).unwrap());
    let before = hazards();
    let uffd = match register(&other, MIB) {
        Ok(uffd) => uffd,
        Err(errno) => return Verdict::Skipped(format!("userfaultfd: {errno}")),
    };
    assert!(!before.userfaultfd && hazards().userfaultfd);
    // One registered mapping stands for the whole VM: postcopy goes from block to block.
    assert_eq!(plain(&own(&slots)), Err(Guard::Userfaultfd));
    drop(uffd);
    assert_eq!(hazards(), before);
    assert_eq!(plain(&own(&slots)), Ok("punch"));
    Verdict::Passed
}

pub(super) fn slots_that_are_no_free_memory() -> Verdict {
    root_or_skip!();
    let ram = Ram::memfd();
    let rom = own(&[FoundSlot { flags: READONLY, ..ram.slot() }]);
    assert_eq!(range_guard(&rom, Allowed::default(), Gfn::new(0), FRAMES), Err(Guard::ReadOnlySlot));
    assert!(vm_guard(&rom, Allowed::default()).is_err());
    let facts = own(&[ram.slot()]);
    for (base, npages) in [(2 * FRAMES, 1), (FRAMES, 2 * FRAMES), (0, 3 * FRAMES), (u64::MAX - 1, 2)] {
        let range = range_guard(&facts, Allowed::default(), Gfn::new(base), npages);
        assert_eq!(range, Err(Guard::OutsideRam), "{base:#x}+{npages:#x}");
    }
    // The slot goes on where nothing is mapped.
    let half = FoundSlot { npages: 1 << 20, ..ram.slot() };
    let range =
        range_guard(&own(&[half]), Allowed::default(), Gfn::new((1 << 20) - FRAMES), FRAMES).map(|_| ());
    assert!(
        matches!(range, Err(Guard::NoSuchSegment | Guard::PrivateMapping | Guard::OtherFile(_))),
        "{range:?}"
    );
    // SAFETY: takes the permission to write from a mapping of ours that nobody writes to any more.
    unsafe { mprotect(ram.address as *mut _, 2 * MIB, MprotectFlags::READ) }.unwrap();
    assert_eq!(plain(&own(&[ram.slot()])), Err(Guard::ReadOnlySlot));
    Verdict::Passed
}

/// A shell that has done what it was told, and waits.
fn shell(script: &str) -> Result<Child, String> {
    let script = format!("{script} && echo ready && read line");
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("unshare: {error}"))?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line == "ready\n" {
        return Ok(child);
    }
    let output = child.wait_with_output().unwrap();
    Err(format!("a private mount namespace: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What an assigned device leaves in /proc: the group, the device or an iommufd open under these very names.
pub(super) fn vfio_in_use() -> Verdict {
    root_or_skip!();
    for (make, open) in [
        ("mkdir /dev/vfio", "/dev/vfio/12"),
        ("mkdir -p /dev/vfio/devices", "/dev/vfio/devices/vfio0"),
        ("true", "/dev/iommu"),
        // No device, though it may look like one.
        ("mkdir /dev/shm", "/dev/shm/vfio"),
    ] {
        let child = match shell(&format!("mount -t tmpfs none /dev && {make} && exec 9>{open}")) {
            Ok(child) => child,
            Err(why) => return Verdict::Skipped(why),
        };
        let hazards = Hazards::of(&Vmm::open(Pid::new(child.id())).unwrap());
        let facts = facts(child.id(), &[]);
        end(child);
        assert_eq!(hazards.vfio, open != "/dev/shm/vfio", "{open}");
        let guard = if hazards.vfio { Guard::Vfio } else { Guard::OutsideRam };
        assert_eq!(vm_guard(&facts, Allowed::default()), Err(guard), "{open}");
    }
    Verdict::Passed
}

pub(super) fn private_guest_memory() -> Verdict {
    root_or_skip!();
    let ram = Ram::memfd();
    assert_eq!(plain(&own(&[ram.slot()])), Ok("punch"));
    let vm = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm());
    let size = kvm_bindings::kvm_create_guest_memfd { size: 2 * MIB as u64, ..Default::default() };
    match vm.and_then(|vm| vm.create_guest_memfd(size)) {
        Ok(raw) => {
            let judged = plain(&own(&[ram.slot()]));
            // SAFETY: the descriptor that KVM has just made for us, known to nobody else.
            drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(raw) });
            assert_eq!(judged, Err(Guard::GuestMemfd), "a real guest_memfd");
        }
        Err(why) => {
            // This kernel makes none: what it would leave in /proc is a file of this name.
            println!("guest_memfd cannot be made here ({why}): a file of its name stands in for it");
            let child = match shell("mount -t tmpfs none /mnt && exec 9>'/mnt/[kvm-gmem]'") {
                Ok(child) => child,
                Err(why) => return Verdict::Skipped(why),
            };
            let facts = facts(child.id(), &[]);
            end(child);
            assert_eq!(vm_guard(&facts, Allowed::default()), Err(Guard::GuestMemfd));
        }
    }
    assert_eq!(plain(&own(&[ram.slot()])), Ok("punch"));
    Verdict::Passed
}

/// struct clone_args, up to `set_tid_size` (include/uapi/linux/sched.h).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

/// Starts `sleep` as process `pid`, which must be free.
fn sleep_as(pid: i32) -> Result<(), Errno> {
    let words = ["/bin/sleep", "60"]
        .map(|word| std::ffi::CString::new(std::ffi::OsStr::new(word).as_bytes()).unwrap());
    let arguments = [words[0].as_ptr(), words[1].as_ptr(), ptr::null()];
    let tids = [pid];
    let args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: tids.as_ptr() as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    // SAFETY: as fork; the child calls nothing but execv and _exit, with what was made before.
    let done = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    if done == 0 {
        // SAFETY: the words end with zeros and the list with a null pointer.
        unsafe { libc::execv(arguments[0], arguments.as_ptr()) };
        // SAFETY: ends the child, and runs nothing of the parent's.
        unsafe { libc::_exit(127) };
    }
    if done < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

pub(super) fn process_ids_used_again() -> Verdict {
    root_or_skip!();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = child.id();
    let vmm = Vmm::open(Pid::new(pid)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(vmm.has_exited());
    if let Err(errno) = sleep_as(pid as i32) {
        return Verdict::Skipped(format!("clone3 with a chosen pid: {errno}"));
    }
    // It is there, under the same number, and yet nothing of it can be reached.
    let successor = Vmm::open(Pid::new(pid)).unwrap();
    let reached = (
        vmm.has_exited(),
        vmm.segments(&[]).is_err_and(|error| error.is_vmm_gone()),
        vmm.mem_file().is_err(),
    );
    let hazards = Hazards::of(&vmm);
    let own_hazards = Hazards::of(&successor);
    let raw = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitpid(Some(raw), rustix::process::WaitOptions::empty()).unwrap();
    assert_eq!(reached, (true, true, true));
    assert!(hazards.vfio && hazards.guest_memfd, "what cannot be read counts as there");
    assert_eq!(own_hazards, Hazards::default());
    assert!(Vmm::open(Pid::new(pid)).is_err_and(|error| error.is_vmm_gone()));
    Verdict::Passed
}
