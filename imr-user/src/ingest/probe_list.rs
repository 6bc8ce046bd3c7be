//! Every hook of the eBPF object: where it is attached, what it must be called with there, which offsets it needs and
//! what it is for. Checked against BTF before anything is attached, so that a changed kernel closes a probe instead of
//! misleading it.

use super::btf::{KernelBtf, Parameter};
use super::layout::Layout;

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attach {
    RawTracepoint,
    Kprobe,
    Kretprobe,
}

/// What a hook is for; decides when it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Attached whenever it can be; nothing stands in for it.
    Facts,
    /// The calls themselves.
    Calls,
    /// Proves calls by their return value.
    ProofByReturn,
    /// Proves calls at the next guest entry: in place of [`Role::ProofByReturn`].
    ProofByEntry,
    /// Knows the VM whose memory is taken.
    Notifier,
    /// Matches by address: in place of [`Role::Notifier`].
    UnmapByAddress,
    /// Knows the VM whose idle pages are looked for.
    AgeNotifier,
    /// Matches by address: in place of [`Role::AgeNotifier`].
    AgeByAddress,
    /// Sees resets and restores.
    Resets,
    /// Sees shutdowns as well; [`Role::Resets`] sees what follows them.
    Shutdowns,
}

impl Role {
    /// Name of the hook that does this work where the kernel refuses the hooks of this role, less well.
    pub(super) fn stand_in(self) -> Option<&'static str> {
        match self {
            Self::ProofByReturn => Some("raw_tp kvm_entry"),
            Self::Notifier => Some("raw_tp kvm_unmap_hva_range"),
            Self::AgeNotifier => Some("raw_tp kvm_age_hva"),
            Self::Facts
            | Self::Calls
            | Self::ProofByEntry
            | Self::UnmapByAddress
            | Self::AgeByAddress
            | Self::Resets
            | Self::Shutdowns => None,
        }
    }
}

/// What an argument must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument {
    /// A number or pointer of this many bytes.
    Bytes(usize),
    /// A pointer to this struct.
    To(&'static str),
}

/// One hook.
#[derive(Debug)]
pub(super) struct Hook {
    /// Name of the program in the object.
    pub(super) program: &'static str,
    pub(super) attach: Attach,
    /// Tracepoint or kernel function.
    pub(super) target: &'static str,
    pub(super) role: Role,
    /// The leading arguments; empty where the position is asked of BTF.
    arguments: &'static [Argument],
    /// Offsets and positions without which it cannot work, as in [`Layout`].
    needs: &'static [&'static str],
}

const INT: Argument = Argument::Bytes(4);
const LONG: Argument = Argument::Bytes(8);
const VCPU: Argument = Argument::To("kvm_vcpu");
const NOTIFIER: Argument = Argument::To("mmu_notifier");
const MM: Argument = Argument::To("mm_struct");

/// All hooks. Those that something stands in for come before their stand-ins.
pub(super) const HOOKS: &[Hook] = &[
    Hook {
        program: "hypercall_entry",
        attach: Attach::Kprobe,
        target: "kvm_emulate_hypercall",
        role: Role::ProofByReturn,
        arguments: &[VCPU],
        needs: &["kvm_vcpu.kvm", "kvm_vcpu.arch.regs"],
    },
    Hook {
        program: "hypercall_return",
        attach: Attach::Kretprobe,
        target: "kvm_emulate_hypercall",
        role: Role::ProofByReturn,
        arguments: &[VCPU],
        needs: &["kvm_vcpu.kvm", "kvm_vcpu.arch.regs"],
    },
    Hook {
        program: "kvm_entry",
        attach: Attach::RawTracepoint,
        target: "kvm_entry",
        role: Role::ProofByEntry,
        arguments: &[],
        needs: &["kvm_vcpu.kvm", "kvm_vcpu.arch.regs", "kvm_entry"],
    },
    Hook {
        program: "kvm_hypercall",
        attach: Attach::RawTracepoint,
        target: "kvm_hypercall",
        role: Role::Calls,
        arguments: &[LONG, LONG, LONG, LONG, LONG],
        needs: &[],
    },
    Hook {
        program: "notifier_end",
        attach: Attach::Kprobe,
        target: "kvm_mmu_notifier_invalidate_range_end",
        role: Role::Notifier,
        arguments: &[NOTIFIER, Argument::To("mmu_notifier_range")],
        needs: &["kvm.mmu_notifier", "mmu_notifier_range.start", "mmu_notifier_range.end"],
    },
    Hook {
        program: "notifier_start",
        attach: Attach::Kprobe,
        target: "kvm_mmu_notifier_invalidate_range_start",
        role: Role::Notifier,
        arguments: &[NOTIFIER, Argument::To("mmu_notifier_range")],
        needs: &["kvm.mmu_notifier"],
    },
    Hook {
        program: "kvm_unmap_hva_range",
        attach: Attach::RawTracepoint,
        target: "kvm_unmap_hva_range",
        role: Role::UnmapByAddress,
        arguments: &[LONG, LONG],
        needs: &[],
    },
    Hook {
        program: "set_sregs",
        attach: Attach::Kprobe,
        target: "kvm_arch_vcpu_ioctl_set_sregs",
        role: Role::Resets,
        arguments: &[VCPU],
        needs: &["kvm_vcpu.kvm"],
    },
    Hook {
        program: "vcpu_ioctl",
        attach: Attach::Kprobe,
        target: "kvm_arch_vcpu_ioctl",
        role: Role::Resets,
        arguments: &[Argument::To("file"), INT, LONG],
        needs: &["kvm_vcpu.kvm", "file.private_data"],
    },
    Hook {
        program: "kvm_userspace_exit",
        attach: Attach::RawTracepoint,
        target: "kvm_userspace_exit",
        role: Role::Shutdowns,
        arguments: &[INT, INT],
        needs: &[],
    },
    Hook {
        program: "kvm_page_fault",
        attach: Attach::RawTracepoint,
        target: "kvm_page_fault",
        role: Role::Facts,
        arguments: &[],
        needs: &["kvm_page_fault", "kvm_vcpu.kvm", "kvm.memslots", "kvm_memslots.generation"],
    },
    Hook {
        program: "kvm_mmu_set_spte",
        attach: Attach::RawTracepoint,
        target: "kvm_mmu_set_spte",
        role: Role::Facts,
        arguments: &[INT, LONG, LONG],
        needs: &[],
    },
    Hook {
        program: "kvm_tdp_mmu_spte_changed",
        attach: Attach::RawTracepoint,
        target: "kvm_tdp_mmu_spte_changed",
        role: Role::Facts,
        arguments: &[INT, LONG, INT, LONG, LONG],
        needs: &[],
    },
    Hook {
        program: "clear_flush_young",
        attach: Attach::Kprobe,
        target: "kvm_mmu_notifier_clear_flush_young",
        role: Role::AgeNotifier,
        arguments: &[NOTIFIER, MM, LONG, LONG],
        needs: &["kvm.mmu_notifier"],
    },
    Hook {
        program: "clear_young",
        attach: Attach::Kprobe,
        target: "kvm_mmu_notifier_clear_young",
        role: Role::AgeNotifier,
        arguments: &[NOTIFIER, MM, LONG, LONG],
        needs: &["kvm.mmu_notifier"],
    },
    Hook {
        program: "kvm_age_hva",
        attach: Attach::RawTracepoint,
        target: "kvm_age_hva",
        role: Role::AgeByAddress,
        arguments: &[LONG, LONG],
        needs: &[],
    },
];

/// What a fingerprint of what a process has locked, pinned and open needs.
pub(super) const FINGERPRINT_NEEDS: &[&str] = &[
    "task_struct.mm",
    "task_struct.files",
    "mm_struct.locked_vm",
    "mm_struct.pinned_vm",
    "files_struct.fdt",
    "fdtable.max_fds",
    "fdtable.open_fds",
];

/// What the slot walk needs.
pub(super) const WALK_NEEDS: &[&str] = &[
    "task_struct.tgid",
    "file.private_data",
    "kvm.memslots",
    "kvm_memslots.generation",
    "kvm_memslots.id_hash",
    "kvm_memslots.node_idx",
    "kvm_memory_slot.id_node",
    "kvm_memory_slot.base_gfn",
    "kvm_memory_slot.npages",
    "kvm_memory_slot.userspace_addr",
    "kvm_memory_slot.flags",
    "kvm_memory_slot.id",
];

impl Hook {
    /// What people call it.
    pub(super) fn name(&self) -> String {
        let kind = match self.attach {
            Attach::RawTracepoint => "raw_tp",
            Attach::Kprobe => "kprobe",
            Attach::Kretprobe => "kretprobe",
        };
        format!("{kind} {}", self.target)
    }

    /// Whether the running kernel has the hook as the program expects it.
    ///
    /// # Errors
    /// What is missing or different.
    pub(super) fn check(&self, btf: &KernelBtf, layout: &Layout) -> Result<(), String> {
        let parameters = match self.attach {
            Attach::RawTracepoint => btf.tracepoint(self.target)?,
            Attach::Kprobe | Attach::Kretprobe => btf.function(self.target)?,
        };
        for (position, argument) in self.arguments.iter().enumerate() {
            if !parameters.get(position).is_some_and(|parameter| argument.fits(parameter)) {
                return Err(format!(
                    "argument {position} of {} is not what it is on the kernels this was made for",
                    self.target
                ));
            }
        }
        layout.require(self.needs)
    }
}

impl Argument {
    fn fits(&self, parameter: &Parameter) -> bool {
        match self {
            Self::Bytes(size) => parameter.size == *size,
            Self::To(name) => parameter.points_to.as_deref() == Some(*name),
        }
    }
}
