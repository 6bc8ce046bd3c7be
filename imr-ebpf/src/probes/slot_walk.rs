//! iter/task_file: for each open file that user space has put into `WALK`, writes a `SlotFact` a memslot of its VM, and
//! one with `SLOT_WALK_END` that carries the generation as it is after the walk. Works for idle VMs.
//!
//! The walk takes no lock: a change under way shows as two different generations, and user space walks again. Slots
//! hang in hash chains that are read with bpf_probe_read_kernel, so a freed one ends the walk and faults nothing.

use core::{ffi::c_void, mem::size_of};

use aya_ebpf::{
    bindings::seq_file,
    helpers::{bpf_loop, bpf_seq_write},
};
use imr_common::host_abi::{NO_OFFSET, SLOT_WALK_END, SlotFact};

use crate::{
    kernel::{self, layout},
    maps::{WALK, WALK_STATE, WalkState},
};

/// Turns of the walk: one a bucket and one a slot. More slots than this cut the walk short, and the end record says so.
const MAX_TURNS: u32 = 4096;
/// Bytes of `struct hlist_head`, one pointer.
const BUCKET_BYTES: u64 = 8;
/// Bytes of `struct hlist_node`, two pointers; `id_node` has one for each of the two sets of slots.
const NODE_BYTES: u64 = 16;

/// `struct bpf_iter_meta` (kernel/bpf/bpf_iter.c).
#[repr(C)]
struct IterMeta {
    seq: *mut seq_file,
    session_id: u64,
    seq_num: u64,
}

/// `struct bpf_iter__task_file` (kernel/bpf/task_iter.c).
#[repr(C)]
struct IterTaskFile {
    meta: *mut IterMeta,
    task: *mut c_void,
    fd: u32,
    pad: u32,
    file: *mut c_void,
}

/// What a turn is given; only read. Its state is in `WALK_STATE`.
#[repr(C)]
struct Context {
    seq: *mut seq_file,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn walk_slots(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a `struct bpf_iter__task_file`; the verifier checks each load.
    let (meta, task, fd, file) = unsafe { ((*ctx).meta, (*ctx).task, (*ctx).fd, (*ctx).file) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    walk_file(meta, task as u64, fd, file as u64);
    0
}

#[inline(always)]
fn walk_file(meta: *mut IterMeta, task: u64, fd: u32, file: u64) -> Option<()> {
    let tgid: u32 = kernel::read(task, layout!(task_tgid))?;
    // SAFETY: only the presence of the element matters.
    unsafe { WALK.get((u64::from(tgid) << 32) | u64::from(fd)) }?;
    let kvm: u64 = kernel::read(file, layout!(file_private_data))?;
    let memslots = kernel::memslots_of(kvm)?;
    let generation = kernel::generation_of(memslots)?;
    let active: i32 = kernel::read(memslots, layout!(memslots_node_idx))?;
    let node_offset = layout!(slot_id_node);
    if node_offset == NO_OFFSET {
        return None;
    }
    let walk = WALK_STATE.get_ptr_mut(0)?;
    // SAFETY: the map's only element; user space runs one walk at a time.
    unsafe {
        walk.write(WalkState {
            fact: SlotFact { kvm, generation, tgid, fd, ..SlotFact::default() },
            memslots,
            bucket: 0,
            node: 0,
            node_offset: u64::from(node_offset) + NODE_BYTES * (active & 1) as u64,
            written: 0,
            failed: 0,
        });
    }
    // SAFETY: the verifier knows `meta` as a trusted `struct bpf_iter_meta`.
    let mut context = Context { seq: unsafe { (*meta).seq } };
    // SAFETY: `step` matches the callback's prototype and `context` outlives the call.
    unsafe { bpf_loop(MAX_TURNS, step as *mut c_void, (&raw mut context).cast(), 0) };

    let now = kernel::generation_of(kernel::memslots_of(kvm)?)?;
    // SAFETY: as above; volatile, because the compiler sees nobody who could have changed it.
    let walk = unsafe { walk.read_volatile() };
    let complete = walk.bucket >= u64::from(layout!(memslots_buckets)) && walk.node == 0 && walk.failed == 0;
    let end = SlotFact {
        kvm,
        generation: now,
        npages: walk.written,
        flags: u32::from(!complete),
        id: SLOT_WALK_END,
        tgid,
        fd,
        ..SlotFact::default()
    };
    write(context.seq, &end);
    Some(())
}

/// One turn: the next slot of the bucket, or the next bucket. Non-zero ends the loop.
extern "C" fn step(_turn: u64, context: *mut c_void) -> i64 {
    // SAFETY: `walk_file` passes its own `Context`, which is alive while `bpf_loop` runs.
    let seq = unsafe { (*context.cast::<Context>()).seq };
    let Some(walk) = WALK_STATE.get_ptr_mut(0) else { return 1 };
    // SAFETY: the map's only element, and `walk_file` does not touch it while `bpf_loop` runs.
    let walk = unsafe { &mut *walk };
    if walk.node == 0 {
        if walk.bucket >= u64::from(layout!(memslots_buckets)) {
            return 1;
        }
        let head = walk.memslots + BUCKET_BYTES * walk.bucket;
        walk.bucket += 1;
        match kernel::read(head, layout!(memslots_id_hash)) {
            Some(node) => walk.node = node,
            None => walk.failed = 1,
        }
        return 0;
    }
    let slot = walk.node - walk.node_offset;
    let next: Option<u64> = kernel::read(walk.node, 0);
    if fill(&mut walk.fact, slot).is_some() && write(seq, &walk.fact) {
        walk.written += 1;
    } else {
        walk.failed = 1;
    }
    walk.node = next.unwrap_or(0);
    0
}

#[inline(always)]
fn fill(fact: &mut SlotFact, slot: u64) -> Option<()> {
    fact.base_gfn = kernel::read(slot, layout!(slot_base_gfn))?;
    fact.npages = kernel::read(slot, layout!(slot_npages))?;
    fact.userspace_addr = kernel::read(slot, layout!(slot_userspace_addr))?;
    fact.flags = kernel::read(slot, layout!(slot_flags))?;
    let id: i16 = kernel::read(slot, layout!(slot_id))?;
    fact.id = i32::from(id);
    Some(())
}

/// False when the buffer is full: the kernel then shows the file again into an empty one.
#[inline(always)]
fn write(seq: *mut seq_file, fact: &SlotFact) -> bool {
    // SAFETY: `fact` is initialised to its last byte (the struct has no padding), and the verifier checks `seq`.
    unsafe { bpf_seq_write(seq, (&raw const *fact).cast_mut().cast(), size_of::<SlotFact>() as u32) == 0 }
}
