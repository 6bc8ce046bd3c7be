//! What the test rings share: a harness whose skips say why and are counted; programs on a terminal of their own.
//!
//! The rings themselves are in `abi/`, `replay/`, `privileged/` (targets of this crate) and `vm/` (scripts
//! that `cargo xtask test vm` runs in the testbed). The programs in `src/bin` run inside the testbed.

pub mod pty;
pub mod ring;
pub mod terminal;
