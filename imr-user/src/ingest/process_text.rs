//! What the texts and words of /proc/PID say: cmdline, stat, status, ksm_stat.
//!
//! In: a file's content, which the process' owner has a say in. Out: names and numbers, or nothing where there is none.
//! Pure.

use std::str::FromStr;

/// Field of /proc/PID/stat, counted after the name: starttime (proc(5), field 22).
const STARTTIME_AFTER_NAME: usize = 19;
/// Longest name shown, characters.
const NAME_CHARS: usize = 64;
/// Bytes of a KiB.
const KIB: u64 = 1024;

/// The guest's name in the command line of a QEMU, [`printable`]; `None` where it names none.
#[must_use]
pub fn guest_name(cmdline: &[u8]) -> Option<String> {
    let mut arguments = cmdline.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    while let Some(argument) = arguments.next() {
        if (argument == "-name" || argument == "--name")
            && let Some(name) = arguments.next().and_then(|value| qemu_name(&value))
        {
            return Some(printable(&name));
        }
    }
    None
}

/// The guest's name in the value of `-name`: `NAME`, `NAME,opt=...` or `guest=NAME,opt=...`.
fn qemu_name(value: &str) -> Option<String> {
    // A comma in the name is written as two (QEMU's util/qemu-option.c).
    let escaped = value.replace(",,", "\u{1}");
    let parts: Vec<&str> = escaped.split(',').collect();
    let guest = parts.iter().find_map(|part| part.strip_prefix("guest="));
    let name = guest.or_else(|| parts.first().copied().filter(|first| !first.contains('=')))?;
    (!name.is_empty()).then(|| name.replace('\u{1}', ","))
}

/// The name with what a terminal might obey replaced, at most 64 characters.
#[must_use]
pub fn printable(name: &str) -> String {
    name.chars().take(NAME_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// When the process was started, clock ticks since boot, by /proc/PID/stat.
#[must_use]
pub fn start_ticks(stat: &str) -> Option<u64> {
    // The name is in parentheses and may hold anything, parentheses included.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(STARTTIME_AFTER_NAME)?.parse().ok()
}

/// VmPin of /proc/PID/status (fs/proc/task_mmu.c, task_mem).
#[must_use]
pub fn has_pinned_memory(status: &str) -> bool {
    let pinned = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
    pinned.and_then(|rest| rest.trim().strip_suffix("kB")).is_some_and(|kib| kib.trim() != "0")
}

/// VmSwap of /proc/PID/status, bytes.
#[must_use]
pub fn swap_bytes(status: &str) -> Option<u64> {
    field::<u64>(status, "VmSwap:")?.checked_mul(KIB)
}

/// The number after `name` at the beginning of a line.
#[must_use]
pub fn field<T: FromStr>(text: &str, name: &str) -> Option<T> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_names_in_all_forms() {
        assert_eq!(qemu_name("web1").as_deref(), Some("web1"));
        assert_eq!(qemu_name("web1,process=q").as_deref(), Some("web1"));
        assert_eq!(qemu_name("guest=web1,debug-threads=on").as_deref(), Some("web1"));
        assert_eq!(qemu_name("debug-threads=on,guest=web1").as_deref(), Some("web1"));
        assert_eq!(qemu_name("guest=web,,2,debug-threads=on").as_deref(), Some("web,2"));
        assert_eq!(printable("a\u{1b}[2Jb"), "a?[2Jb");
        assert_eq!(qemu_name("debug-threads=on"), None);
        assert_eq!(qemu_name(""), None);
    }

    #[test]
    fn the_command_line_names_the_guest() {
        assert_eq!(guest_name(b"qemu\0-m\x00512\0-name\0guest=we\x1bb,x=y\0").as_deref(), Some("we?b"));
        assert_eq!(guest_name(b"qemu\0-name\0"), None);
        assert_eq!(guest_name(b""), None);
    }

    #[test]
    fn pinned_memory_shows_in_status() {
        assert!(has_pinned_memory("VmLck:\t 0 kB\nVmPin:\t      12 kB\n"));
        assert!(!has_pinned_memory("VmLck:\t 8 kB\nVmPin:\t       0 kB\n"));
        assert!(!has_pinned_memory(""));
    }

    #[test]
    fn numbers_are_found_by_the_name_of_their_line() {
        let text = "ksm_rmap_items 7\nksm_merging_pages 12\nVmSwap:\t     40 kB\n";
        assert_eq!(field(text, "ksm_merging_pages "), Some(12_u64));
        assert_eq!(swap_bytes(text), Some(40 << 10));
        assert_eq!(field::<u64>(text, "merging_pages"), None);
        assert_eq!(swap_bytes("VmSwap: many kB"), None);
        assert_eq!(
            swap_bytes("VmSwap: 18446744073709551615 kB"),
            None,
            "more bytes than there are addresses"
        );
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let stat = format!("7 (a) b) S {} 4711", "0 ".repeat(17).trim_end());
        assert_eq!(start_ticks(&stat), None, "one field short");
        let stat = format!("7 (a) b) S {} 4711 0", "0 ".repeat(18).trim_end());
        assert_eq!(start_ticks(&stat), Some(4711));
        assert_eq!(start_ticks(""), None);
    }
}
