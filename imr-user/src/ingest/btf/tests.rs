//! Against BTF that is made here, byte by byte (Documentation/bpf/btf.rst), and against the running kernel's where it
//! has any.

use super::*;
use crate::ingest::layout::Layout;
use imr_common::host_abi::NO_OFFSET;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;

/// Writes BTF; types are numbered from 1.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Writer {
    fn name(&mut self, name: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if name.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn add(&mut self, name: &str, kind: u32, vlen: usize, size_or_type: u32, rest: &[u32]) -> u32 {
        let name = self.name(name);
        self.words(&[name, kind << 24 | u32::try_from(vlen).unwrap(), size_or_type]);
        self.words(rest);
        self.count += 1;
        self.count
    }

    fn container(&mut self, kind: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let rest: Vec<u32> =
            members.iter().flat_map(|(name, kind, byte)| [self.name(name), *kind, byte * 8]).collect();
        self.add(name, kind, members.len(), size, &rest)
    }

    fn proto(&mut self, parameters: &[u32]) -> u32 {
        let rest: Vec<u32> = parameters.iter().flat_map(|kind| [0, *kind]).collect();
        self.add("", KIND_FUNC_PROTO, parameters.len(), 0, &rest)
    }

    fn finish(self) -> Vec<u8> {
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}

/// A kernel with a `kvm_vcpu` whose registers lie in an anonymous union in `arch`, and one tracepoint.
fn small_kernel() -> KernelBtf {
    let mut w = Writer::default();
    let long = w.add("long unsigned int", KIND_INT, 0, 8, &[64]);
    let int = w.add("unsigned int", KIND_INT, 0, 4, &[32]);
    let u64_type = w.add("u64", KIND_TYPEDEF, 0, long, &[]);
    let registers = w.add("", KIND_ARRAY, 0, 0, &[long, int, 17]);
    let inner = w.container(KIND_UNION, "", 136, &[("regs", registers, 0)]);
    let arch = w.container(KIND_STRUCT, "kvm_vcpu_arch", 144, &[("pad", long, 0), ("", inner, 8)]);
    let arch_const = w.add("", KIND_CONST, 0, arch, &[]);
    let vcpu = w.container(KIND_STRUCT, "kvm_vcpu", 160, &[("kvm", long, 0), ("arch", arch_const, 16)]);
    let vcpu_pointer = w.add("", KIND_PTR, 0, vcpu, &[]);
    let void_pointer = w.add("", KIND_PTR, 0, 0, &[]);
    let proto = w.proto(&[void_pointer, vcpu_pointer, u64_type, int]);
    let proto_pointer = w.add("", KIND_PTR, 0, proto, &[]);
    w.add("btf_trace_kvm_page_fault", KIND_TYPEDEF, 0, proto_pointer, &[]);
    let function = w.proto(&[vcpu_pointer]);
    w.add("kvm_emulate_hypercall", KIND_FUNC, 0, function, &[]);
    KernelBtf::parse(&w.finish(), None).unwrap()
}

#[test]
fn fields_are_found_through_anonymous_members_and_qualifiers() {
    let btf = small_kernel();
    assert_eq!(btf.offset("kvm_vcpu.kvm"), Ok(0));
    assert_eq!(btf.offset("kvm_vcpu.arch"), Ok(16));
    assert_eq!(btf.offset("kvm_vcpu.arch.regs"), Ok(24));
    assert_eq!(btf.array_length("kvm_vcpu.arch.regs"), Ok(17));
}

#[test]
fn what_is_not_there_is_named() {
    let btf = small_kernel();
    assert!(btf.offset("kvm_vcpu.nothing").unwrap_err().contains("kvm_vcpu.nothing"));
    assert!(btf.offset("nobody.kvm").unwrap_err().contains("nobody"));
    assert!(btf.offset("kvm_vcpu.kvm.deeper").unwrap_err().contains("deeper"));
    assert!(btf.array_length("kvm_vcpu.kvm").unwrap_err().contains("no array"));
    assert!(btf.tracepoint("kvm_entry").unwrap_err().contains("kvm_entry"));
    assert!(btf.function("kvm_nothing").unwrap_err().contains("kvm_nothing"));
    assert!(!btf.has_struct("kvm"));
}

#[test]
fn prototypes_show_sizes_and_structs() {
    let btf = small_kernel();
    let vcpu = Parameter { size: 8, points_to: Some("kvm_vcpu".into()) };
    let number = |size| Parameter { size, points_to: None };
    assert_eq!(btf.tracepoint("kvm_page_fault").unwrap(), [vcpu.clone(), number(8), number(4)]);
    assert_eq!(btf.function("kvm_emulate_hypercall").unwrap(), [vcpu]);
}

#[test]
fn a_layout_says_what_it_lacks() {
    let layout = Layout::read(&small_kernel());
    assert_eq!((layout.kernel.vcpu_rax, layout.kernel.arg_fault_vcpu), (24, 0));
    assert_eq!(layout.kernel.kvm_memslots, NO_OFFSET);
    assert!(layout.require(&["kvm_vcpu.kvm", "kvm_page_fault"]).is_ok());
    let why = layout.require(&["kvm_vcpu.kvm", "kvm.memslots", "kvm_entry"]).unwrap_err();
    assert!(why.contains("struct kvm not in BTF") && why.contains("kvm_entry"), "{why}");
}

#[test]
fn anonymous_members_that_hold_each_other_end_the_search() {
    // Each of its members is the struct itself: without a limit, 16 to the power of the depth are looked at.
    let mut w = Writer::default();
    let members: Vec<(&str, u32, u32)> = (0..16).map(|byte| ("", 1, byte)).collect();
    assert_eq!(w.container(KIND_STRUCT, "kvm", 16, &members), 1);
    let btf = KernelBtf::parse(&w.finish(), None).unwrap();
    assert!(btf.offset("kvm.memslots").unwrap_err().contains("no field memslots"));
    assert!(btf.has_struct("kvm"));
}

#[test]
fn offsets_that_leave_the_address_space_are_none() {
    let mut w = Writer::default();
    let long = w.add("long", KIND_INT, 0, 8, &[64]);
    let far = u32::MAX / 8;
    let inner = w.container(KIND_STRUCT, "", 8, &[("memslots", long, far)]);
    w.container(KIND_STRUCT, "kvm", 8, &[("", inner, far)]);
    let btf = KernelBtf::parse(&w.finish(), None).unwrap();
    assert!(btf.offset("kvm.memslots").is_err());
}

#[test]
fn what_is_no_btf_is_refused() {
    assert!(KernelBtf::parse(b"", None).is_err());
    assert!(KernelBtf::parse(&[0; 64], None).is_err());
}

#[test]
fn the_running_kernels_own_btf_is_understood() {
    let btf = match KernelBtf::of_running_kernel() {
        Ok(btf) => btf,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    assert!(btf.offset("task_struct.tgid").is_ok());
    assert!(btf.offset("file.private_data").is_ok());
    if !btf.has_struct("kvm") {
        return eprintln!("skipped in part: no KVM in this kernel's BTF");
    }
    let layout = Layout::read(&btf);
    assert_eq!(layout.require(crate::ingest::probe_list::WALK_NEEDS), Ok(()));
    assert_eq!(layout.require(crate::ingest::probe_list::FINGERPRINT_NEEDS), Ok(()));
    assert_eq!(layout.kernel.memslots_buckets, 128);
}
