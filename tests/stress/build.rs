//! Compiles the guest module's handshake, the very file, and the memory that it shares with the host.
//!
//! In: `IMR_STRESS_SANITIZER` (address or thread; none when it is not set). Out: a static library.

fn main() {
    println!("cargo::rerun-if-changed=shim");
    println!("cargo::rerun-if-changed=../abi/shim");
    println!("cargo::rerun-if-changed=../../guest-kmod");
    println!("cargo::rerun-if-env-changed=IMR_STRESS_SANITIZER");
    let mut build = cc::Build::new();
    build
        .files(["../../guest-kmod/imr_handshake.c", "shim/memory.c"])
        // The second has what the contract's header alone needs.
        .includes(["shim", "../abi/shim", "../../guest-kmod"])
        .std("gnu11")
        .opt_level(2)
        .debug(true)
        .extra_warnings(true)
        .warnings_into_errors(true);
    if let Some(sanitizer) = std::env::var("IMR_STRESS_SANITIZER").ok().filter(|name| !name.is_empty()) {
        build.flag(format!("-fsanitize={sanitizer}")).flag("-fno-omit-frame-pointer");
        if sanitizer == "thread" {
            // It says that the sanitizer does not see fences; the store buffer is there for them.
            build.flag_if_supported("-Wno-tsan");
        }
    }
    build.compile("imr_stress");
}
