//! BTF: the kernel's description of itself, and a module's, asked everything that the loader asks.
//!
//! In: 2 bytes: how much of what follows is the base, the rest is the module's (0: no module). Holds: every question ends
//! quickly with an answer or a reason; the same question has the same answer; an offset is one that a struct can have.

#![no_main]

use imr_common::host_abi::NO_OFFSET;
use imr_user::ingest::btf::KernelBtf;
use imr_user::ingest::layout::Layout;
use libfuzzer_sys::fuzz_target;

/// What the loader asks for, and what only fuzzing does: names that the corpus has in odd places.
const FIELDS: &[&str] = &[
    "kvm_vcpu.kvm",
    "kvm_vcpu.arch",
    "kvm_vcpu.arch.regs",
    "kvm.memslots",
    "kvm.mmu_notifier",
    "kvm_memslots.generation",
    "kvm_memslots.id_hash",
    "kvm_memory_slot.id_node",
    "kvm_memory_slot.base_gfn",
    "mmu_notifier_range.start",
    "file.private_data",
    "task_struct.tgid",
    "kvm.kvm.kvm.kvm",
    "kvm..kvm",
    "",
    ".",
];
const TRACEPOINTS: &[&str] = &["kvm_page_fault", "kvm_entry", "kvm_hypercall", ""];
const FUNCTIONS: &[&str] = &["kvm_emulate_hypercall", "kvm_mmu_notifier_invalidate_range_start", ""];

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    let base_length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (base, module) = rest.split_at(base_length);
    let Ok(btf) = KernelBtf::parse(base, (!module.is_empty()).then_some(module)) else { return };
    for path in FIELDS {
        let offset = btf.offset(path);
        assert_eq!(offset, btf.offset(path));
        if let Ok(offset) = offset {
            let container = path.split('.').next().unwrap_or_default();
            assert!(btf.has_struct(container), "{path} is at {offset} in no struct");
        }
        if btf.array_length(path).is_ok() {
            assert!(btf.offset(path).is_ok(), "{path} has a length and no place");
        }
    }
    for name in TRACEPOINTS {
        let parameters = btf.tracepoint(name);
        assert_eq!(parameters, btf.tracepoint(name));
    }
    for name in FUNCTIONS {
        let parameters = btf.function(name);
        for parameter in parameters.iter().flatten() {
            assert!(parameter.points_to.as_ref().is_none_or(|name| !name.is_empty() && parameter.size == 8));
        }
    }
    let layout = Layout::read(&btf).kernel;
    assert_eq!(layout.vcpu_rax, btf.offset("kvm_vcpu.arch.regs").unwrap_or(NO_OFFSET));
    assert_eq!(layout.kvm_memslots, btf.offset("kvm.memslots").unwrap_or(NO_OFFSET));
    if layout.arg_fault_vcpu != NO_OFFSET {
        let parameters = btf.tracepoint("kvm_page_fault").expect("its vCPU was found");
        let vcpu = &parameters[layout.arg_fault_vcpu as usize];
        assert_eq!(vcpu.points_to.as_deref(), Some("kvm_vcpu"));
    }
});
