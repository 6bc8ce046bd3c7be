//! Ring "abi": what the guest's C header says of the contract is what Rust says, byte by byte.
//!
//! In: `guest-kmod/imr_abi.h` and a C compiler. Out: a test a struct, and one for the constants.
//! The header is compiled by a real compiler: a check of its text would miss padding and alignment.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; without libtest the lint does not see that"
)]

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::mem::{align_of, offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use imr_common::guest_abi::{self as abi, ControlPage, GuestHalf, HostHalf, ListEntry};
use imr_tests::ring::{Test, Verdict};

/// What C says, by name: `sizeof X`, `alignof X`, `X.field`, or a constant.
type Facts = BTreeMap<String, i128>;

fn main() -> ExitCode {
    imr_tests::ring::main(&[
        Test { name: "abi::guest_half", run: guest_half },
        Test { name: "abi::host_half", run: host_half },
        Test { name: "abi::control_page", run: control_page },
        Test { name: "abi::list_entry", run: list_entry },
        Test { name: "abi::constants", run: constants },
    ])
}

/// Compares a struct and the fields named.
macro_rules! same_struct {
    ($rust:ident, $c:literal, $($field:ident),+) => {{
        with_facts(|facts| {
            let expect = |what: String, rust: usize| {
                let c = facts.get(&what).unwrap_or_else(|| panic!("C did not tell {what}"));
                assert_eq!(*c, rust as i128, "{what}: C says {c}, Rust says {rust}");
            };
            expect(concat!("sizeof ", $c).into(), size_of::<$rust>());
            expect(concat!("alignof ", $c).into(), align_of::<$rust>());
            $(expect(concat!($c, ".", stringify!($field)).into(), offset_of!($rust, $field));)+
        })
    }};
}

fn guest_half() -> Verdict {
    same_struct!(
        GuestHalf,
        "imr_guest_half",
        magic,
        abi_version,
        record_kind,
        cookie,
        own_gpa,
        record_gpa,
        record_size,
        heartbeat,
        offer_seq,
        offer_count,
        offer_head,
        revoke_seq,
        total_pages,
        free_pages,
        reserve_pages,
        free_blocks,
        zone_free_blocks,
        flat_order,
        offer_last,
        offer_order,
        compacts,
        zone_kept_pages,
        compacted_blocks,
        reserved
    )
}

fn host_half() -> Verdict {
    same_struct!(
        HostHalf,
        "imr_host_half",
        attach_id,
        heartbeat,
        mode,
        pad,
        claim_seq,
        done_seq,
        abandon_seq,
        want_pages,
        want_seq,
        compact_pages,
        compact_seq,
        results,
        reserved
    )
}

fn control_page() -> Verdict {
    same_struct!(ControlPage, "imr_control_page", guest, host)
}

fn list_entry() -> Verdict {
    same_struct!(ListEntry, "imr_list_entry", gpa, order, next)
}

const CONSTANTS: &[(&str, i128)] = &[
    ("IMR_ABI_VERSION", abi::ABI_VERSION as i128),
    ("IMR_HYPERCALL_NR", abi::HYPERCALL_NR as i128),
    ("IMR_OP_HELLO", abi::OP_HELLO as i128),
    ("IMR_OP_DOORBELL", abi::OP_DOORBELL as i128),
    ("IMR_OP_BYE", abi::OP_BYE as i128),
    ("IMR_RET_ENOSYS", abi::RET_ENOSYS as i128),
    ("IMR_RET_EPERM", abi::RET_EPERM as i128),
    ("IMR_MAGIC", abi::MAGIC as i128),
    ("IMR_RECORD_LIST", abi::RECORD_LIST as i128),
    ("IMR_MAX_RANGES", abi::MAX_RANGES as i128),
    ("IMR_LIST_RECORD_SIZE", abi::LIST_RECORD_SIZE as i128),
    ("IMR_RECORD_FLAT", abi::RECORD_FLAT as i128),
    ("IMR_FLAT_RECORD_MAX", abi::FLAT_RECORD_MAX as i128),
    ("IMR_FLAT_MIN_ORDER", abi::FLAT_MIN_ORDER as i128),
    ("IMR_LIST_END", abi::LIST_END as i128),
    ("IMR_MAX_OFFER_ORDER", abi::MAX_OFFER_ORDER as i128),
    ("IMR_FREE_ORDERS", abi::FREE_ORDERS as i128),
    ("IMR_FREE_ZONES", abi::FREE_ZONES as i128),
    ("IMR_ZONE_FREE_ORDERS", abi::ZONE_FREE_ORDERS as i128),
    ("IMR_ZONE_DMA", abi::ZONE_DMA as i128),
    ("IMR_ZONE_DMA32", abi::ZONE_DMA32 as i128),
    ("IMR_ZONE_NORMAL", abi::ZONE_NORMAL as i128),
    ("IMR_ZONE_MOVABLE", abi::ZONE_MOVABLE as i128),
    ("IMR_MODE_OBSERVING", abi::MODE_OBSERVING as i128),
    ("IMR_MODE_RECLAIMING", abi::MODE_RECLAIMING as i128),
    ("IMR_RESULT_NONE", abi::RESULT_NONE as i128),
    ("IMR_RESULT_RECLAIMED", abi::RESULT_RECLAIMED as i128),
    ("IMR_RESULT_KEPT", abi::RESULT_KEPT as i128),
    ("IMR_RESULT_REFUSED", abi::RESULT_REFUSED as i128),
    ("IMR_HELLO_INTERVAL_MS", abi::HELLO_INTERVAL_MS as i128),
    ("IMR_HELLO_ATTACHED_MS", abi::HELLO_ATTACHED_MS as i128),
    ("IMR_HOST_STALE_MS", abi::HOST_STALE_MS as i128),
    ("IMR_RING_INTERVAL_MS", abi::RING_INTERVAL_MS as i128),
    ("IMR_CALL_LIFETIME_MS", abi::CALL_LIFETIME_MS as i128),
    ("IMR_CLAIM_LIFETIME_MS", abi::CLAIM_LIFETIME_MS as i128),
];

fn constants() -> Verdict {
    with_facts(|facts| {
        for (name, rust) in CONSTANTS {
            assert_eq!(facts[*name], *rust, "{name}: C says {}, Rust says {rust}", facts[*name]);
        }
    })
}

/// Runs `check` on what C says, or tells why C could not be asked.
fn with_facts(check: impl FnOnce(&Facts)) -> Verdict {
    static FACTS: OnceLock<Result<Facts, String>> = OnceLock::new();
    match FACTS.get_or_init(ask_c) {
        Ok(facts) => check(facts),
        Err(why) => return Verdict::Skipped(why.clone()),
    }
    Verdict::Passed
}

/// Compiles a program that includes the header and prints what is asked, and runs it.
fn ask_c() -> Result<Facts, String> {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    if Command::new(&compiler).arg("--version").output().is_err() {
        return Err(format!("no C compiler ({compiler:?} cannot be started)"));
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = compile(&compiler, tests);
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    Ok(text
        .lines()
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect())
}

fn compile(compiler: &str, tests: &Path) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("abi");
    fs::create_dir_all(&dir).unwrap();
    let (source, program) = (dir.join("layout.c"), dir.join("layout"));
    fs::write(&source, program_text(&fs::read_to_string(tests.join("../guest-kmod/imr_abi.h")).unwrap()))
        .unwrap();
    let output = Command::new(compiler)
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror"])
        .arg("-I")
        .arg(tests.join("abi/shim"))
        .arg("-I")
        .arg(tests.join("../guest-kmod"))
        .arg("-o")
        .args([&program, &source])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the header does not compile:\n{said}");
    program
}

/// A C program that prints size, alignment and every field of each struct in the header, and the constants. The
/// fields come from the header, so that one that Rust does not know is compiled, too.
fn program_text(header: &str) -> String {
    let mut lines = String::new();
    let mut current = None;
    for line in header.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("struct ").and_then(|rest| rest.strip_suffix(" {")) {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "    SAY(\"sizeof {name}\", sizeof(struct {name}));");
            let _ = writeln!(lines, "    SAY(\"alignof {name}\", _Alignof(struct {name}));");
            current = Some(name);
        } else if line.starts_with('}') {
            current = None;
        } else if let (Some(name), Some(field)) = (current, field_name(line)) {
            let _ = writeln!(lines, "    SAY(\"{name}.{field}\", offsetof(struct {name}, {field}));");
        }
    }
    for (constant, _) in CONSTANTS {
        let _ = writeln!(lines, "    SAY(\"{constant}\", {constant});");
    }
    // Signed constants are negative; the others need all 64 bits.
    format!(
        "#include <stdio.h>\n#include \"imr_abi.h\"\n\
         #define SAY(what, value) do {{ __typeof__(value) v = (value); \\\n\
         \tif (v < 1) printf(\"%s %lld\\n\", what, (long long)v); \\\n\
         \telse printf(\"%s %llu\\n\", what, (unsigned long long)v); }} while (0)\n\
         int main(void)\n{{\n{lines}    return 0;\n}}\n"
    )
}

/// The name in a declaration such as `__u64 reserved[227];`.
fn field_name(line: &str) -> Option<&str> {
    let name = line.strip_suffix(';')?.rsplit_once(' ')?.1;
    Some(name.split('[').next().unwrap_or(name))
}
