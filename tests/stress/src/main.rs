//! The handshake under stress: the guest module's own C code on one thread, the host's own Rust code on another, for as
//! many batches as are asked for. Built three times by `cargo xtask test stress`: plain, and under two sanitizers.
//!
//! In: `--batches N --seed S --vms N --mutant NAME`. Out: a line with what happened, 0; or what went wrong, and not 0.
//! Must not use locks or channels of the standard library: it comes compiled, and ThreadSanitizer cannot see into it.

mod counts;
mod ffi;
mod host;
mod module;
mod world;

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use counts::{Count, Counts};
use world::{Mutant, Vm};

/// A run of so many batches has to have tried everything.
const LONG: u64 = 20_000;

struct Args {
    batches: u64,
    seed: u64,
    vms: u64,
    mutant: Mutant,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("imr-stress: {why}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let vms: Vec<Vm> = (0..args.vms).map(|number| Vm::new(number, args.mutant)).collect();
    let (guest_without, host_without) = match args.mutant {
        Mutant::GuestFence => (ffi::NO_MB, 0),
        Mutant::HostFence => (0, ffi::NO_MB),
        Mutant::Acquire => (ffi::NO_ACQUIRE, 0),
        _ => (0, 0),
    };
    let mut counts = Counts::default();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for vm in &vms {
            let batches = args.batches / args.vms;
            let seed = (args.seed << 8 | vm.number) << 1;
            threads.push(scope.spawn(move || {
                ffi::begin(mixed(seed), host_without);
                host::run(vm)
            }));
            threads.push(scope.spawn(move || {
                ffi::begin(mixed(seed | 1), guest_without);
                module::run(vm, batches)
            }));
        }
        // ThreadSanitizer sees that a thread is joined, not that a scope ends.
        for thread in threads {
            counts.merge(&thread.join().expect("a panic ends the process"));
        }
    });
    let ended: u64 = [Count::Done, Count::Abandoned, Count::Revoked, Count::Cut]
        .map(|count| counts.get(count))
        .iter()
        .sum();
    let batches = counts.get(Count::Batches);
    println!("seed {}, {:.1} s: {counts}", args.seed, start.elapsed().as_secs_f64());
    if batches != ended {
        eprintln!("LOST: {batches} batches, of which {ended} have ended");
        return ExitCode::FAILURE;
    }
    if batches >= LONG && !counts.missing().is_empty() {
        eprintln!("the run tried nothing of: {}", counts.missing().join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Neighbouring seeds have nothing in common (splitmix64).
fn mixed(seed: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args { batches: 100_000, seed: 1, vms: 2, mutant: Mutant::None };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"));
        match word.as_str() {
            "--batches" => args.batches = number()?,
            "--seed" => args.seed = number()?,
            "--vms" => args.vms = number()?.clamp(1, 64),
            "--mutant" => args.mutant = mutant(&value)?,
            _ => return Err(format!("{word}: not known")),
        }
    }
    Ok(args)
}

fn mutant(name: &str) -> Result<Mutant, String> {
    Ok(match name {
        "guest-fence" => Mutant::GuestFence,
        "host-fence" => Mutant::HostFence,
        "acquire" => Mutant::Acquire,
        "revoke" => Mutant::Revoke,
        "extra-ring" => Mutant::ExtraRing,
        "generation" => Mutant::Generation,
        _ => return Err(format!("--mutant {name}: not known")),
    })
}
