#![no_std]
//! The two wire contracts of IMR.
//!
//! [`guest_abi`] is what guest and host write into guest memory and say by hypercall; [`host_abi`] is what
//! the eBPF programs and user space share. Integers only, explicit padding, layout asserted at compile time.
//! This crate performs no I/O and takes no decision.

pub mod guest_abi;
pub mod host_abi;
