//! The guest ABI as data: every constant, every field with its type and offset.
//!
//! In: `imr_common::guest_abi` as compiled, and its source for the words beside each item.
//! Out: a description that header and lock are made from. A field, type or constant that this file
//! does not name fails to compile or fails tidy; nothing is left out silently.

use std::mem::{offset_of, size_of};

use imr_common::guest_abi as abi;

/// The source, for its doc comments and to see that no constant was forgotten.
const SOURCE: &str = include_str!("../../../imr-common/src/guest_abi.rs");

/// A constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Constant {
    /// Its Rust name.
    pub(super) name: &'static str,
    /// Its Rust type.
    pub(super) rust_type: &'static str,
    /// Its value.
    pub(super) value: i128,
}

/// A structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Struct {
    /// Its Rust name.
    pub(super) name: &'static str,
    /// Its size, bytes.
    pub(super) size: usize,
    /// Its alignment where that is more than its fields', bytes.
    pub(super) align: Option<usize>,
    /// Its fields, in order.
    pub(super) fields: Vec<Field>,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    /// Its name.
    pub(super) name: &'static str,
    /// Its Rust type, as written in this file.
    pub(super) rust_type: &'static str,
    /// Its offset, bytes.
    pub(super) offset: usize,
}

/// A constant's value, whatever integer it is.
trait Wide {
    fn wide(self) -> i128;
}

macro_rules! wide {
    ($($type:ty),*) => {
        $(impl Wide for $type {
            fn wide(self) -> i128 {
                i128::from(self)
            }
        })*
    };
}

wide!(u8, u32, u64, i64);

impl Wide for usize {
    fn wide(self) -> i128 {
        // There is no From, and no machine with 128-bit addresses.
        self as i128
    }
}

macro_rules! constants {
    ($($name:ident: $type:ty),* $(,)?) => {
        vec![$({
            // Fails to compile when the type here is not the constant's.
            let value: $type = abi::$name;
            Constant { name: stringify!($name), rust_type: stringify!($type), value: value.wide() }
        }),*]
    };
}

macro_rules! structure {
    ($name:ident, $align:expr, { $($field:ident: $type:ty),* $(,)? }) => {{
        use abi::*;
        // Never called: a field that is missing here, or of another type, does not compile.
        #[expect(dead_code, reason = "exists to be type-checked")]
        fn exhaustive($name { $($field),* }: &$name) {
            $(let _: &$type = $field;)*
        }
        Struct {
            name: stringify!($name),
            size: size_of::<$name>(),
            align: $align,
            fields: vec![$(Field {
                name: stringify!($field),
                rust_type: stringify!($type),
                offset: offset_of!($name, $field),
            }),*],
        }
    }};
}

/// Every constant, in the order of the header.
pub(super) fn constants() -> Vec<Constant> {
    constants! {
        ABI_VERSION: u32,
        HYPERCALL_NR: u64,
        OP_HELLO: u64,
        OP_DOORBELL: u64,
        OP_BYE: u64,
        RET_ENOSYS: i64,
        RET_EPERM: i64,
        MAGIC: u64,
        CONTROL_PAGE_SIZE: usize,
        HALF_SIZE: usize,
        RECORD_LIST: u32,
        RECORD_FLAT: u32,
        MAX_RANGES: usize,
        LIST_RECORD_SIZE: u64,
        FLAT_RECORD_MAX: u64,
        FLAT_MIN_ORDER: u32,
        LIST_END: u32,
        MAX_OFFER_ORDER: u32,
        FREE_ORDERS: usize,
        FREE_ZONES: usize,
        ZONE_FREE_ORDERS: usize,
        ZONE_DMA: usize,
        ZONE_DMA32: usize,
        ZONE_NORMAL: usize,
        ZONE_MOVABLE: usize,
        MODE_OBSERVING: u32,
        MODE_RECLAIMING: u32,
        RESULT_NONE: u8,
        RESULT_RECLAIMED: u8,
        RESULT_KEPT: u8,
        RESULT_REFUSED: u8,
        HELLO_INTERVAL_MS: u64,
        HELLO_ATTACHED_MS: u64,
        HOST_STALE_MS: u64,
        RING_INTERVAL_MS: u64,
        CALL_LIFETIME_MS: u64,
        CLAIM_LIFETIME_MS: u64,
    }
}

/// Every structure, each after those it holds.
pub(super) fn structs() -> Vec<Struct> {
    vec![
        structure!(GuestHalf, None, {
            magic: u64,
            abi_version: u32,
            record_kind: u32,
            cookie: u64,
            own_gpa: u64,
            record_gpa: u64,
            record_size: u64,
            heartbeat: u64,
            offer_seq: u64,
            offer_count: u32,
            offer_head: u32,
            revoke_seq: u64,
            total_pages: u64,
            free_pages: u64,
            reserve_pages: u64,
            free_blocks: [u64; FREE_ORDERS],
            zone_free_blocks: [u32; ZONE_FREE_ORDERS],
            flat_order: u32,
            offer_last: u32,
            offer_order: u32,
            compacts: u32,
            zone_kept_pages: [u64; FREE_ZONES],
            compacted_blocks: u64,
            reserved: [u64; 188],
        }),
        structure!(HostHalf, None, {
            attach_id: u64,
            heartbeat: u64,
            mode: u32,
            pad: u32,
            claim_seq: u64,
            done_seq: u64,
            abandon_seq: u64,
            want_pages: u64,
            want_seq: u64,
            compact_pages: u64,
            compact_seq: u64,
            results: [u8; MAX_RANGES],
            reserved: [u64; 214],
        }),
        structure!(ControlPage, Some(align_of::<ControlPage>()), { guest: GuestHalf, host: HostHalf }),
        structure!(ListEntry, None, { gpa: u64, order: u32, next: u32 }),
    ]
}

/// The public constants and structures of the source that this file does not name.
pub(super) fn forgotten() -> Vec<&'static str> {
    let constants = constants();
    let structs = structs();
    let known = |name: &str| {
        constants.iter().any(|constant| constant.name == name) || structs.iter().any(|one| one.name == name)
    };
    SOURCE
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ").or_else(|| line.strip_prefix("pub struct ")))
        .filter_map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next())
        .filter(|name| !known(name))
        .collect()
}

/// The doc comment of a constant, structure or, with its structure's name before it, a field
/// (`GuestHalf.magic`), as one line of plain text.
pub(super) fn doc(item: &str) -> String {
    let (within, name) = item.split_once('.').map_or((None, item), |(within, name)| (Some(within), name));
    let from = within.and_then(|within| SOURCE.find(&format!("pub struct {within} {{"))).unwrap_or(0);
    let mut words = Vec::new();
    for line in SOURCE[from..].lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            words.push(text.trim().to_owned());
        } else if declares(line, name) {
            break;
        } else if !line.starts_with("#[") {
            words.clear();
        }
    }
    plain(&words.join(" "))
}

fn declares(line: &str, name: &str) -> bool {
    line.strip_prefix("pub ")
        .map(|rest| rest.trim_start_matches("const ").trim_start_matches("struct "))
        .and_then(|rest| rest.strip_prefix(name))
        .is_some_and(|rest| rest.starts_with([':', ' ', '{']))
}

/// Rust's doc links in C's words: constants with their prefix, structures by their tag.
fn plain(doc: &str) -> String {
    let mut text = String::new();
    for (at, part) in doc.split("[`").enumerate() {
        match part.split_once("`]").filter(|_| at > 0) {
            Some((link, rest)) => text.push_str(&(c_name(link) + rest)),
            None => text.push_str(part),
        }
    }
    text.replace('`', "")
}

/// The C name of a constant (`IMR_MAGIC`) or a structure (`struct imr_guest_half`).
pub(super) fn c_name(rust: &str) -> String {
    if rust.chars().any(char::is_lowercase) {
        let mut tag = String::from("struct imr");
        for c in rust.chars() {
            if c.is_uppercase() {
                tag.push('_');
            }
            tag.extend(c.to_lowercase());
        }
        tag
    } else {
        format!("IMR_{rust}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_public_is_forgotten() {
        assert_eq!(forgotten(), [""; 0]);
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        assert_eq!(c_name("MAX_RANGES"), "IMR_MAX_RANGES");
        assert_eq!(c_name("GuestHalf"), "struct imr_guest_half");
    }

    #[test]
    fn every_item_has_words() {
        for constant in constants() {
            assert_ne!(doc(constant.name), "", "{}", constant.name);
        }
        for one in structs() {
            assert_ne!(doc(one.name), "", "{}", one.name);
            for field in &one.fields {
                assert_ne!(doc(&format!("{}.{}", one.name, field.name)), "", "{}.{}", one.name, field.name);
            }
        }
        assert_eq!(
            plain("a chain of [`ListEntry`], up to [`MAX_RANGES`] `x`"),
            "a chain of struct imr_list_entry, up to IMR_MAX_RANGES x"
        );
    }
}
