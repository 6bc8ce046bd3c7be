//! `guest-kmod/imr_abi.h`: the guest ABI in C, for the guest's module.
//!
//! In: the ABI as data. Out: the header's text, in the kernel's style.
//! Must not be edited by hand: `cargo xtask tidy --bless` writes it, `cargo xtask tidy` compares.

use std::fmt::Write as _;

use super::guest_abi::{Constant, Field, Struct, c_name, constants, doc, structs};

/// The kernel's line length for comments.
const WIDTH: usize = 80;

/// The header's text.
pub(super) fn text() -> String {
    let mut out = String::from(
        "/* SPDX-License-Identifier: GPL-2.0-only */\n\
         /*\n\
         \x20* Guest <-> host: hypercall, control page and record. Generated from\n\
         \x20* imr-common/src/guest_abi.rs by `cargo xtask tidy --bless`; do not edit.\n\
         \x20*/\n\
         #ifndef IMR_ABI_H\n\
         #define IMR_ABI_H\n\
         \n\
         #include <linux/build_bug.h>\n\
         #include <linux/compiler.h>\n\
         #include <linux/stddef.h>\n\
         #include <linux/types.h>\n",
    );
    for constant in constants() {
        define(&mut out, &constant);
    }
    for one in structs() {
        structure(&mut out, &one);
    }
    out.push_str("\n#endif /* IMR_ABI_H */\n");
    out
}

fn define(out: &mut String, constant: &Constant) {
    out.push('\n');
    comment(out, &doc(constant.name));
    // Writing to a String cannot fail.
    let _ = writeln!(out, "#define {} {}", c_name(constant.name), value(constant));
}

fn value(constant: &Constant) -> String {
    let suffix = match constant.rust_type {
        "u64" => "ULL",
        "u32" => "U",
        "i64" => "LL",
        _ => "",
    };
    match constant.value {
        value if value < 0 => format!("({value}{suffix})"),
        value if value > 0xffff => format!("{value:#x}{suffix}"),
        value => format!("{value}{suffix}"),
    }
}

fn comment(out: &mut String, words: &str) {
    if words.len() + "/*  */".len() <= WIDTH {
        let _ = writeln!(out, "/* {words} */");
        return;
    }
    out.push_str("/*\n");
    for line in wrap(words, WIDTH - 3) {
        let _ = writeln!(out, " * {line}");
    }
    out.push_str(" */\n");
}

fn structure(out: &mut String, one: &Struct) {
    let tag = c_name(one.name);
    out.push_str("\n/**\n");
    described(out, &format!("{tag} - {}", doc(one.name)));
    for field in &one.fields {
        described(out, &format!("@{}: {}", field.name, doc(&format!("{}.{}", one.name, field.name))));
    }
    let _ = writeln!(out, " */\n{tag} {{");
    for field in &one.fields {
        let _ = writeln!(out, "\t{};", declaration(field));
    }
    let aligned = one.align.map(|align| format!(" __aligned({align})")).unwrap_or_default();
    let _ = writeln!(out, "}}{aligned};\n");
    for field in &one.fields {
        let _ = writeln!(out, "static_assert(offsetof({tag}, {}) == {});", field.name, field.offset);
    }
    let _ = writeln!(out, "static_assert(sizeof({tag}) == {});", one.size);
}

/// One entry of a kernel-doc comment; further lines are indented.
fn described(out: &mut String, words: &str) {
    for (at, line) in wrap(words, WIDTH - 5).into_iter().enumerate() {
        let indent = if at == 0 { "" } else { "  " };
        let _ = writeln!(out, " * {indent}{line}");
    }
}

fn declaration(field: &Field) -> String {
    let rust = field.rust_type;
    match rust.trim_matches(['[', ']']).split_once("; ") {
        Some((element, length)) => {
            let length =
                if length.starts_with(char::is_alphabetic) { c_name(length) } else { length.to_owned() };
            format!("{} {}[{length}]", c_type(element), field.name)
        }
        None => format!("{} {}", c_type(rust), field.name),
    }
}

fn c_type(rust: &str) -> String {
    match rust {
        "u8" | "u16" | "u32" | "u64" => format!("__{rust}"),
        other => c_name(other),
    }
}

fn wrap(words: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_carry_their_type_in_c() {
        let constant = |rust_type, value| Constant { name: "X", rust_type, value };
        assert_eq!(value(&constant("u64", 7)), "7ULL");
        assert_eq!(value(&constant("u32", 0xffff_ffff)), "0xffffffffU");
        assert_eq!(value(&constant("i64", -1000)), "(-1000LL)");
        assert_eq!(value(&constant("usize", 4096)), "4096");
    }

    #[test]
    fn fields_are_declared_as_the_kernel_does() {
        let field = |rust_type| Field { name: "f", rust_type, offset: 0 };
        assert_eq!(declaration(&field("u64")), "__u64 f");
        assert_eq!(declaration(&field("[u8; MAX_RANGES]")), "__u8 f[IMR_MAX_RANGES]");
        assert_eq!(declaration(&field("[u64; 227]")), "__u64 f[227]");
        assert_eq!(declaration(&field("GuestHalf")), "struct imr_guest_half f");
    }

    #[test]
    fn no_line_is_too_long() {
        for line in text().lines() {
            assert!(line.len() <= 100, "{line}");
        }
    }
}
