//! `ring`: the module's hypercalls from a process without privileges, with a forged control page.
//!
//! In: how often. Out: what KVM returned, and whether the forged page was answered; fails if it was, or if a
//! call did not return -EPERM. The page is as good as a forgery can be: valid, at its true guest-physical
//! address (learnt while still root), and it offers the guest kernel's own memory.

use std::arch::asm;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use imr_common::guest_abi::{
    ABI_VERSION, HALF_SIZE, HYPERCALL_NR, LIST_END, LIST_RECORD_SIZE, MAGIC, OP_BYE, OP_DOORBELL, OP_HELLO,
    RECORD_LIST, RET_EPERM,
};
use rustix::thread::{Gid, Uid};

use crate::args::Args;
use crate::region::Region;
use crate::{Failure, failed};

const NOBODY: u32 = 65534;
const PAGE: usize = 4096;
const PAGE_WORDS: usize = PAGE / 8;
const COOKIE: u64 = 0x6675_7273_7400_0001;
/// Where Debian's kernels are loaded: taking it would end the guest at once.
const KERNEL_TEXT: u64 = 16 << 20;
const BLOCK_ORDER: u64 = 9;

/// `imr-testtool ring`: tries AMD's instruction, then Intel's, each in a process of its own, because the
/// other vendor's may end it.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let times: u64 = args.parsed("--times")?.unwrap_or(20);
    args.end()?;
    let mut deaths = Vec::new();
    for instruction in ["vmmcall", "vmcall"] {
        let status = Command::new("/proc/self/exe")
            .args(["ring-once", "--times", &times.to_string(), instruction])
            .status()
            .map_err(failed("cannot start myself"))?;
        match status.signal() {
            None if status.success() => return Ok(()),
            None => return Err(Failure::Failed(format!("with {instruction}: {status}"))),
            Some(signal) => deaths.push(format!("{instruction} ended it with signal {signal}")),
        }
    }
    Err(Failure::Failed(deaths.join(", ")))
}

/// `imr-testtool ring-once INSTRUCTION`: the calls themselves.
pub(crate) fn run_once(mut args: Args) -> Result<(), Failure> {
    let times: u64 = args.parsed("--times")?.unwrap_or(1);
    let instruction = args.word("the instruction")?;
    args.end()?;
    let call: fn(u64, u64, u64) -> i64 = match instruction.as_str() {
        "vmmcall" => vmmcall,
        "vmcall" => vmcall,
        other => return Err(Failure::Usage(format!("no instruction {other:?}"))),
    };
    let mut memory = Region::map(2 * PAGE)?;
    memory.touch();
    memory.lock()?;
    let page_gpa = guest_physical(memory.address())?;
    let record_gpa = guest_physical(memory.address() + PAGE as u64)?;
    forge(memory.words_mut(), page_gpa, record_gpa);
    drop_privileges()?;

    let (mut calls, mut denied) = (0, 0);
    for seq in 1..=times {
        memory.words_mut()[7] = seq;
        for (op, argument) in [(OP_HELLO, page_gpa), (OP_DOORBELL, seq), (OP_BYE, 0)] {
            calls += 1;
            denied += u64::from(call(op, argument, COOKIE) == RET_EPERM);
        }
    }
    let answered = memory.words()[HALF_SIZE / 8..PAGE_WORDS].iter().any(|&word| word != 0);
    println!("instruction={instruction} uid={NOBODY} calls={calls} denied={denied} answered={answered}");
    if answered || denied != calls {
        return Err(Failure::Failed("an unprivileged process was heard".into()));
    }
    Ok(())
}

/// Writes a valid guest half (the fields of `GuestHalf`, as 64-bit words) and a record of one range.
fn forge(words: &mut [u64], page_gpa: u64, record_gpa: u64) {
    let half = [
        MAGIC,
        u64::from(ABI_VERSION) | u64::from(RECORD_LIST) << 32,
        COOKIE,
        page_gpa,
        record_gpa,
        LIST_RECORD_SIZE,
    ];
    words[..half.len()].copy_from_slice(&half);
    // offer_count 1, offer_head 0.
    words[8] = 1;
    words[PAGE_WORDS] = KERNEL_TEXT;
    words[PAGE_WORDS + 1] = BLOCK_ORDER | u64::from(LIST_END) << 32;
}

/// The guest-physical address behind `address`. Needs CAP_SYS_ADMIN; without it the kernel shows zero
/// (Documentation/admin-guide/mm/pagemap.rst).
fn guest_physical(address: u64) -> Result<u64, Failure> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let path = "/proc/self/pagemap";
    let mut entry = [0; 8];
    let offset = address / PAGE as u64 * 8;
    File::open(path).and_then(|file| file.read_exact_at(&mut entry, offset)).map_err(failed(path))?;
    let entry = u64::from_le_bytes(entry);
    if entry & PRESENT == 0 || entry & FRAME == 0 {
        return Err(Failure::Failed(format!("{path} shows no frame: start this as root, in a guest")));
    }
    Ok((entry & FRAME) * PAGE as u64)
}

/// Becomes nobody, for good. The process has one thread, so a thread's identity is the process'.
fn drop_privileges() -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[])
        .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
        .map_err(|error| failed("cannot become nobody")(error.into()))
}

macro_rules! hypercall {
    ($name:ident, $instruction:literal) => {
        /// The hypercall by this instruction (arguments in RBX, RCX, RDX).
        fn $name(op: u64, argument: u64, cookie: u64) -> i64 {
            let result;
            // SAFETY: KVM changes no register but RAX and no memory for a call it refuses; where the CPU does
            // not know the instruction, the process ends. RBX is LLVM's own and is put back.
            unsafe {
                asm!(
                    "xchg {op}, rbx",
                    $instruction,
                    "xchg {op}, rbx",
                    op = inout(reg) op => _,
                    inlateout("rax") HYPERCALL_NR => result,
                    in("rcx") argument,
                    in("rdx") cookie,
                );
            }
            result
        }
    };
}

hypercall!(vmmcall, "vmmcall");
hypercall!(vmcall, "vmcall");

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use imr_common::guest_abi::GuestHalf;

    use super::*;

    #[test]
    fn the_forgery_has_every_field_where_the_contract_has_it() {
        let mut words = vec![0; 2 * PAGE_WORDS];
        forge(&mut words, 0x5000, 0x6000);
        let at = |offset: usize| words[offset / 8];
        assert_eq!(at(offset_of!(GuestHalf, magic)), MAGIC);
        assert_eq!(at(offset_of!(GuestHalf, cookie)), COOKIE);
        assert_eq!(at(offset_of!(GuestHalf, own_gpa)), 0x5000);
        assert_eq!(at(offset_of!(GuestHalf, record_gpa)), 0x6000);
        assert_eq!(at(offset_of!(GuestHalf, record_size)), LIST_RECORD_SIZE);
        assert_eq!(offset_of!(GuestHalf, offer_seq), 7 * 8);
        assert_eq!(offset_of!(GuestHalf, offer_count), 8 * 8);
    }
}
