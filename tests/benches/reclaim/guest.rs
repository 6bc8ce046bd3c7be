//! The tiny guest: one vCPU in long mode at CPL 3, guest memory mapped one to one, a loop that writes to every frame.
//!
//! In: guest memory. Out: stretches of it touched by the guest itself, so that KVM's MMU maps them. At CPL 3, because
//! some KVMs emulate a guest's kernel mode; nothing here needs it, so it is the same guest on all of them.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::ask::{BLOCK, FRAME};
use crate::memory::Memory;
use crate::missing::Missing;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x8000;
/// The port that says "done".
const PORT: u8 = 0x10;
/// Present, writable, accessible from CPL 3; accessed and dirty, so that the CPU has nothing to add.
const ENTRY: u64 = 0b110_0111;
/// A page of 2 MiB.
const LARGE: u64 = 1 << 7;

/// rdi: start, rdx: end, rsi: step, rcx: passes, rax: what is written.
const PROGRAM: [u8; 23] = [
    0x48, 0x89, 0xfb, // pass:  mov rbx, rdi
    0x48, 0x89, 0x03, // frame: mov [rbx], rax
    0x48, 0x01, 0xf3, //        add rbx, rsi
    0x48, 0x39, 0xd3, //        cmp rbx, rdx
    0x72, 0xf5, //              jb frame
    0x48, 0xff, 0xc9, //        dec rcx
    0x75, 0xed, //              jnz pass
    0xe6, PORT, //              out PORT, al
    0xeb, 0xfe, //              jmp $
];

/// The guest and its VM.
pub(crate) struct Guest {
    vcpu: VcpuFd,
    vm: VmFd,
}

impl Guest {
    /// Makes the VM. The memory has to stay mapped as long as the process lives.
    pub(crate) fn start(memory: &Memory) -> Result<Self> {
        load(memory)?;
        let kvm = Kvm::new().map_err(|error| Missing(format!("/dev/kvm cannot be opened: {error}")))?;
        let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
        // Intel's VMX without "unrestricted guest" wants a place; others ignore it.
        let _ = vm.set_tss_address(0xfffb_d000);
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.bytes(),
            userspace_addr: memory.address(),
        };
        // SAFETY: the memory is mapped at that address with that length until the process ends.
        unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
        let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("KVM_GET_SUPPORTED_CPUID")?;
        vcpu.set_cpuid2(&cpuid).context("KVM_SET_CPUID2")?;
        let sregs = vcpu.get_sregs().context("KVM_GET_SREGS")?;
        vcpu.set_sregs(&long_mode_cpl3(sregs)).context("KVM_SET_SREGS")?;
        Ok(Self { vcpu, vm })
    }

    /// The VM's file descriptor.
    pub(crate) fn vm_fd(&self) -> i32 {
        self.vm.as_raw_fd()
    }

    /// Writes `value` to every frame from `start` to `end`, `passes` times.
    pub(crate) fn touch(&mut self, start: u64, end: u64, passes: u64, value: u64) -> Result<()> {
        let regs = kvm_regs {
            rip: CODE,
            rdi: start,
            rdx: end,
            rsi: FRAME,
            rcx: passes,
            rax: value,
            // IOPL 3: `out` at CPL 3. Bit 1 is always set. Interrupts stay off.
            rflags: (3 << 12) | (1 << 1),
            ..kvm_regs::default()
        };
        self.vcpu.set_regs(&regs).context("KVM_SET_REGS")?;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) if port == u16::from(PORT) => return Ok(()),
                Ok(other) => bail!("the tiny guest left with {other:?}"),
                Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => {}
                Err(error) => return Err(error).context("KVM_RUN"),
            }
        }
    }
}

/// Page tables that map all of guest memory one to one in pages of 2 MiB, and the program.
fn load(memory: &Memory) -> Result<()> {
    let blocks = memory.bytes() / BLOCK;
    anyhow::ensure!(blocks <= 512, "the tiny guest maps 1 GiB at most, not {blocks} blocks");
    memory.write(PML4, &(PDPT | ENTRY).to_le_bytes())?;
    memory.write(PDPT, &(PD | ENTRY).to_le_bytes())?;
    for block in 0..blocks {
        memory.write(PD + block * 8, &((block * BLOCK) | ENTRY | LARGE).to_le_bytes())?;
    }
    memory.write(CODE, &PROGRAM)
}

fn long_mode_cpl3(mut sregs: kvm_sregs) -> kvm_sregs {
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x1b,
        type_: 11,
        present: 1,
        dpl: 3,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment { selector: 0x23, type_: 3, l: 0, db: 1, ..code };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // A busy 64-bit TSS: a CPU does not enter a guest without one.
    sregs.tr = kvm_segment { selector: 0x28, limit: 0x67, type_: 11, s: 0, dpl: 0, l: 0, g: 0, ..code };
    sregs.ldt = kvm_segment { unusable: 1, ..kvm_segment::default() };
    // PG, NE, ET, PE; PAE; LMA, LME.
    sregs.cr0 = 0x8000_0031;
    sregs.cr3 = PML4;
    sregs.cr4 = 1 << 5;
    sregs.efer = (1 << 10) | (1 << 8);
    sregs
}
