//! x
use std::process::ExitCode;
fn main() -> ExitCode {
    imr_tests::ring::main(&[])
}
