//! `kexec`: another kernel takes the place of the guest's own, as the kernel's users have it: loaded, then begun as a
//! reboot, so that drivers and notifiers hear of it.
//!
//! In: files of the kernel and its initramfs. Out: nothing; it returns only when it failed.

use std::ffi::{CString, c_long};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;

use crate::args::Args;
use crate::{Failure, failed};

/// `imr-testtool kexec`, with the command line of the kernel that runs.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let mut open = |name: &str| {
        let path = args.option(name)?.ok_or_else(|| Failure::Usage(format!("{name} is missing")))?;
        File::open(&path).map_err(failed(path))
    };
    let (kernel, initrd) = (open("--kernel")?, open("--initrd")?);
    args.end()?;
    let line = fs::read_to_string("/proc/cmdline").map_err(failed("/proc/cmdline"))?;
    let line = CString::new(line.trim_end()).map_err(|error| Failure::Failed(error.to_string()))?;
    load(&kernel, &initrd, &line).map_err(failed("kexec_file_load"))?;
    // SAFETY: takes a number; what it ends is the guest that this was asked for in.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    Err(failed("reboot")(io::Error::last_os_error()))
}

fn load(kernel: &File, initrd: &File, line: &CString) -> io::Result<()> {
    // SAFETY: both descriptors are open and the string lives through the call, which reads as many bytes of it as
    // are given, with the NUL that it wants (kexec_file_load(2)).
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            c_long::from(kernel.as_raw_fd()),
            c_long::from(initrd.as_raw_fd()),
            line.as_bytes_with_nul().len(),
            line.as_ptr(),
            0 as c_long,
        )
    };
    if loaded == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
