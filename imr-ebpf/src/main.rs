//! The eBPF half of IMR: follows the host's MMU for every KVM guest and carries the guests' calls to user space.
//!
//! Input: KVM's tracepoints and a few kprobes, the tables that user space fills. Output: the block and VM tables
//! (memory-mapped), the ring buffer `EVENTS`. It decides nothing and takes no memory; what it cannot attribute it
//! counts.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod blocks;
mod cpu;
mod emit;
mod fingerprint;
mod kernel;
mod maps;
mod probes;
mod slots;
mod vms;

/// The verifier proves that no path gets here.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Tells the kernel that GPL-only helpers may be used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
