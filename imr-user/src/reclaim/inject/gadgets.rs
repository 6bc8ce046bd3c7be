//! Two places in the VMM's own code that a thread of it is made to pass: `syscall; ret`, and what a signal handler
//! returns to.
//!
//! Input: the VMM's executable mappings. Output: their addresses. Nothing is ever written to code.

use std::cell::RefCell;

use rustix::io::Errno;

use super::maps::{Maps, Vma};
use super::ptrace::Tracee;

/// `syscall; ret`.
const SYSCALL_RET: &[u8] = &[0x0f, 0x05, 0xc3];
/// `mov $15,%eax; syscall` and `mov $15,%rax; syscall`: __restore_rt of the C libraries.
const RESTORERS: [&[u8]; 2] =
    [&[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05], &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]];
/// Longest of them.
const LONGEST: usize = 9;
/// Bytes of code read at a time.
const CHUNK: usize = 1 << 20;
/// VMMs whose addresses are remembered by a thread; a worker has one.
const MAX_KNOWN: usize = 16;

/// Addresses in one VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gadgets {
    pub(super) syscall_ret: u64,
    pub(super) restorer: u64,
}

thread_local! {
    /// By process id. A number that is used again does no harm: the bytes are looked at in every batch.
    static KNOWN: RefCell<Vec<(u32, Gadgets)>> = const { RefCell::new(Vec::new()) };
}

/// Finds them in the process `pid`, of which `tracee` is a thread; `None` where it has none.
pub(super) fn find(pid: u32, tracee: Tracee, maps: &Maps) -> Result<Option<Gadgets>, Errno> {
    let known = KNOWN.with_borrow(|known| known.iter().find(|entry| entry.0 == pid).map(|entry| entry.1));
    if let Some(gadgets) = known
        && still_there(gadgets, tracee, maps)?
    {
        return Ok(Some(gadgets));
    }
    let Some(gadgets) = search(tracee, maps)? else { return Ok(None) };
    KNOWN.with_borrow_mut(|known| {
        known.retain(|entry| entry.0 != pid);
        if known.len() == MAX_KNOWN {
            known.remove(0);
        }
        known.push((pid, gadgets));
    });
    Ok(Some(gadgets))
}

fn still_there(gadgets: Gadgets, tracee: Tracee, maps: &Maps) -> Result<bool, Errno> {
    let begins = |address, wanted: &[&[u8]]| -> Result<bool, Errno> {
        let mut code = [0; LONGEST];
        let read = tracee.read(address, &mut code).unwrap_or(0);
        let is_code = maps.find(address)?.is_some_and(|vma| is_code(&vma));
        Ok(is_code && wanted.iter().any(|wanted| code[..read].starts_with(wanted)))
    };
    Ok(begins(gadgets.syscall_ret, &[SYSCALL_RET])? && begins(gadgets.restorer, &RESTORERS)?)
}

/// Code that a file was loaded for; none that somebody writes or has written.
fn is_code(vma: &Vma) -> bool {
    vma.executable && !vma.writable && vma.inode != 0
}

fn search(tracee: Tracee, maps: &Maps) -> Result<Option<Gadgets>, Errno> {
    let mut code: Vec<Vma> = maps.all()?.into_iter().filter(is_code).collect();
    // The C library has both; the VMM's own code is large and has neither, unless it is linked statically.
    code.sort_by_key(|vma| !vma.is_c_library);
    let (mut syscall_ret, mut restorer) = (None, None);
    let mut bytes = vec![0; CHUNK];
    for vma in code {
        let mut address = vma.start;
        while address < vma.end {
            let length = bytes.len().min(usize::try_from(vma.end - address).unwrap_or(CHUNK));
            // What is past the end of the file cannot be read.
            let Ok(read) = tracee.read(address, &mut bytes[..length]) else { break };
            let place = |at: Option<usize>| at.map(|at| address + at as u64);
            syscall_ret = syscall_ret.or_else(|| place(position(&bytes[..read], SYSCALL_RET)));
            restorer = restorer
                .or_else(|| place(RESTORERS.iter().find_map(|wanted| position(&bytes[..read], wanted))));
            if let (Some(syscall_ret), Some(restorer)) = (syscall_ret, restorer) {
                return Ok(Some(Gadgets { syscall_ret, restorer }));
            }
            if read < length || length < CHUNK {
                break;
            }
            // One that lies across two chunks.
            address += (CHUNK - LONGEST) as u64;
        }
    }
    Ok(None)
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted[0];
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == first) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}
