//! One file a hook. Each reads the hook's arguments, says whose they are, and leaves the rest to `slots` and `emit`.

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
