//! The offsets and argument positions that the eBPF programs need, as the running kernel has them.
//!
//! Input: [`KernelBtf`]. Output: [`Layout`]: the words for the global `KERNEL`, and for each that was not found the
//! reason. A field that was not found makes the code that needs it do nothing.

use imr_common::host_abi::{KernelLayout, NO_OFFSET};

use super::btf::KernelBtf;

/// Words of [`KernelLayout`].
const WORDS: usize = size_of::<KernelLayout>() / size_of::<u32>();

/// What was found, and what was not.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The words; [`NO_OFFSET`] for what was not found.
    pub kernel: KernelLayout,
    /// `struct.field` or tracepoint, and why it is not known.
    missing: Vec<(&'static str, String)>,
}

impl Layout {
    /// Asks BTF for everything.
    #[must_use]
    pub fn read(btf: &KernelBtf) -> Self {
        let mut missing = Vec::new();
        let mut offset = |path: &'static str| {
            btf.offset(path).unwrap_or_else(|why| {
                missing.push((path, why));
                NO_OFFSET
            })
        };
        let mut kernel = KernelLayout {
            vcpu_kvm: offset("kvm_vcpu.kvm"),
            vcpu_rax: offset("kvm_vcpu.arch.regs"),
            kvm_memslots: offset("kvm.memslots"),
            kvm_mmu_notifier: offset("kvm.mmu_notifier"),
            memslots_generation: offset("kvm_memslots.generation"),
            memslots_id_hash: offset("kvm_memslots.id_hash"),
            memslots_node_idx: offset("kvm_memslots.node_idx"),
            slot_id_node: offset("kvm_memory_slot.id_node"),
            slot_base_gfn: offset("kvm_memory_slot.base_gfn"),
            slot_npages: offset("kvm_memory_slot.npages"),
            slot_userspace_addr: offset("kvm_memory_slot.userspace_addr"),
            slot_flags: offset("kvm_memory_slot.flags"),
            slot_id: offset("kvm_memory_slot.id"),
            range_start: offset("mmu_notifier_range.start"),
            range_end: offset("mmu_notifier_range.end"),
            file_private_data: offset("file.private_data"),
            task_tgid: offset("task_struct.tgid"),
            task_mm: offset("task_struct.mm"),
            task_files: offset("task_struct.files"),
            mm_locked_vm: offset("mm_struct.locked_vm"),
            mm_pinned_vm: offset("mm_struct.pinned_vm"),
            files_fdt: offset("files_struct.fdt"),
            fdt_max_fds: offset("fdtable.max_fds"),
            fdt_open_fds: offset("fdtable.open_fds"),
            ..KernelLayout::UNKNOWN
        };
        match btf.array_length("kvm_memslots.id_hash") {
            Ok(buckets) => kernel.memslots_buckets = buckets,
            Err(why) => missing.push(("kvm_memslots.id_hash", why)),
        }
        let mut position = |tracepoint: &'static str| match vcpu_position(btf, tracepoint) {
            Ok(position) => position,
            Err(why) => {
                missing.push((tracepoint, why));
                NO_OFFSET
            }
        };
        kernel.arg_fault_vcpu = position("kvm_page_fault");
        kernel.arg_entry_vcpu = position("kvm_entry");
        if kernel.arg_fault_vcpu != NO_OFFSET {
            kernel.arg_fault_address = kernel.arg_fault_vcpu + 1;
        }
        Self { kernel, missing }
    }

    /// Whether all of these were found.
    ///
    /// # Errors
    /// The reasons of those that were not.
    pub fn require(&self, names: &[&str]) -> Result<(), String> {
        let reasons: Vec<&str> = self
            .missing
            .iter()
            .filter(|(name, _)| names.contains(name))
            .map(|(_, why)| why.as_str())
            .collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) }
    }
}

/// Position of the `struct kvm_vcpu *` among a tracepoint's arguments.
fn vcpu_position(btf: &KernelBtf, tracepoint: &str) -> Result<u32, String> {
    let parameters = btf.tracepoint(tracepoint)?;
    let found = parameters.iter().position(|parameter| parameter.points_to.as_deref() == Some("kvm_vcpu"));
    found
        .and_then(|position| u32::try_from(position).ok())
        .ok_or_else(|| format!("tracepoint {tracepoint} carries no vCPU on this kernel (6.1 and later do)"))
}

/// The words of the global, in the order of the struct.
pub(super) fn words(layout: &KernelLayout) -> [u32; WORDS] {
    [
        layout.vcpu_kvm,
        layout.vcpu_rax,
        layout.kvm_memslots,
        layout.kvm_mmu_notifier,
        layout.memslots_generation,
        layout.memslots_id_hash,
        layout.memslots_node_idx,
        layout.slot_id_node,
        layout.slot_base_gfn,
        layout.slot_npages,
        layout.slot_userspace_addr,
        layout.slot_flags,
        layout.slot_id,
        layout.range_start,
        layout.range_end,
        layout.file_private_data,
        layout.task_tgid,
        layout.task_mm,
        layout.task_files,
        layout.mm_locked_vm,
        layout.mm_pinned_vm,
        layout.files_fdt,
        layout.fdt_max_fds,
        layout.fdt_open_fds,
        layout.arg_fault_vcpu,
        layout.arg_fault_address,
        layout.arg_entry_vcpu,
        layout.memslots_buckets,
        layout.proof_by_return,
        layout.notifier_kprobe,
        layout.reserved,
    ]
}
