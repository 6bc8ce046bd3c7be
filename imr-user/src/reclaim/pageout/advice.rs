//! The system call process_madvise(2) (Linux 5.10).
//!
//! In: a process and ranges of its addresses. Out: bytes advised, from the first range on. It takes PTRACE_MODE_READ and
//! CAP_SYS_NICE (mm/madvise.c, process_madvise, 6.12), and reads or writes no memory of this process but the list.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::Stretch;

/// Ranges of one call at most (include/uapi/linux/uio.h, UIO_MAXIOV).
pub(super) const IOV_MAX: usize = 1024;

/// Advises as many as one call can.
pub(super) fn process_madvise(
    pidfd: BorrowedFd<'_>,
    stretches: &[Stretch],
    advice: libc::c_int,
) -> Result<u64, Errno> {
    let list: Vec<libc::iovec> = stretches
        .iter()
        .take(IOV_MAX)
        .map(|stretch| libc::iovec {
            // An address of the other process: never followed here.
            iov_base: stretch.hva.get() as *mut libc::c_void,
            iov_len: usize::try_from(stretch.bytes).unwrap_or(usize::MAX),
        })
        .collect();
    // SAFETY: the kernel reads `list`, which outlives the call, and takes the addresses in it for the other process'; the
    // advice given here never changes what memory contains (Step::advice).
    let result = unsafe {
        libc::syscall(libc::SYS_process_madvise, pidfd.as_raw_fd(), list.as_ptr(), list.len(), advice, 0_u32)
    };
    u64::try_from(result)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
