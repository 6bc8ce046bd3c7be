//! Puts the eBPF object where the crate can embed it.
//!
//! In: `$IMR_EBPF_OBJECT`, else what `cargo xtask build-ebpf` left in the target directory.
//! Out: `$OUT_DIR/imr-ebpf`; empty where there is none, and the binary says so when it needs one.
//! Must not build the object: a plain `cargo build` works without any eBPF tool chain.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=IMR_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    println!("cargo::rerun-if-changed=build.rs");

    let embedded = Path::new(&env::var("OUT_DIR")?).join("imr-ebpf");
    let object = match env::var_os("IMR_EBPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            let object =
                fs::read(&path).map_err(|error| format!("IMR_EBPF_OBJECT={}: {error}", path.display()))?;
            Some(object)
        }
        None => read_from_target_dir()?,
    };
    fs::write(embedded, object.unwrap_or_default())?;
    Ok(())
}

/// What `cargo xtask build-ebpf` built for this crate's architecture, if it did.
fn read_from_target_dir() -> Result<Option<Vec<u8>>, Box<dyn Error>> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent().ok_or("imr-user is not inside a workspace")?;
    let target = match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => workspace.join(dir),
        None => workspace.join("target"),
    };
    let dir = target.join("ebpf").join(env::var("CARGO_CFG_TARGET_ARCH")?);
    // Cargo reruns this script on every build for a watched path that is absent. An empty folder
    // can be watched instead; where it cannot be made, running every time is still right.
    let _ = fs::create_dir_all(&dir);
    println!("cargo::rerun-if-changed={}", dir.display());
    match fs::read(dir.join("imr-ebpf")) {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", dir.join("imr-ebpf").display()).into()),
    }
}
