//! One file a hook. Each reads the hook's arguments, says whose they are, and leaves the rest to `slots` and `emit`.
//!
//! What a callback of `bpf_loop` changes from turn to turn lies in a map, never on its caller's stack. Verifiers before
//! Linux 6.7 follow a callback as if it ran once, take the stack values of that one turn for known, and cut out the
//! branches that only a later turn takes: the program loads, and does something else than it says.

mod age_hva;
mod fault;
mod hypercall;
mod notifier;
mod proof;
mod reset;
mod set_spte;
mod slot_walk;
mod tdp_change;
mod unmap_hva;
