//! `imr-top`: the live view. Everything is in the library; this decides the exit code.

use std::process::ExitCode;

use imr_user::cli::{exit, top};

fn main() -> ExitCode {
    exit::report("imr-top", top::run())
}
