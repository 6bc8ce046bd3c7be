//! Parses /proc/PID/smaps: where each VMA is, what file is behind it, its page size and flags.
//!
//! Input: the file's text. Output: [`Vma`]s in order of address. Pure.

use crate::model::backing::VmaFlags;
use crate::model::ids::FRAME_SIZE;

/// One VMA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vma {
    /// First byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
    /// MAP_SHARED.
    pub shared: bool,
    /// The process may write to it.
    pub writable: bool,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// Zero: no file.
    pub inode: u64,
    /// As the kernel shows it; empty without one.
    pub path: String,
    /// KernelPageSize, bytes.
    pub page_size: u64,
    /// VmFlags, those that matter here.
    pub flags: VmaFlags,
}

/// All VMAs of the text.
///
/// # Errors
/// The line that makes no sense.
pub fn parse(text: &str) -> Result<Vec<Vma>, String> {
    let mut vmas: Vec<Vma> = Vec::new();
    let mut huge = false;
    // Not lines(): a file's name may end with a carriage return.
    for line in text.split_terminator('\n') {
        let (head, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if !head.ends_with(':') {
            vmas.push(parse_header(line).ok_or_else(|| format!("not a VMA: {line:?}"))?);
            huge = false;
            continue;
        }
        let Some(vma) = vmas.last_mut() else { return Err(format!("a field before any VMA: {line:?}")) };
        match head {
            "KernelPageSize:" => {
                let kib = rest.trim().strip_suffix("kB").and_then(|number| number.trim().parse::<u64>().ok());
                let bytes = kib.and_then(|kib| kib.checked_mul(1024));
                let bytes = bytes.filter(|bytes| bytes.is_power_of_two() && *bytes >= FRAME_SIZE);
                vma.page_size = bytes.ok_or_else(|| format!("not a page size: {line:?}"))?;
            }
            // Of tmpfs as of anonymous memory (fs/proc/task_mmu.c, show_smap). What is there now may be older than the
            // setting that would allow it.
            "THPeligible:" | "AnonHugePages:" | "ShmemPmdMapped:" => {
                let first = rest.split_whitespace().next();
                huge |= first.is_none_or(|number| number != "0");
            }
            // The last line of a VMA.
            "VmFlags:" => vma.flags = VmaFlags { huge: std::mem::take(&mut huge), ..parse_flags(rest) },
            _ => {}
        }
    }
    Ok(vmas)
}

/// `start-end perms offset dev inode path`.
fn parse_header(line: &str) -> Option<Vma> {
    let mut rest = line;
    let mut next = || {
        let (field, after) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
        rest = after;
        field
    };
    let (start, end) = next().split_once('-')?;
    let permissions = next().as_bytes();
    let offset = u64::from_str_radix(next(), 16).ok()?;
    let _device = next();
    let inode = next().parse().ok()?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    // So that no later sum of the three can overflow.
    offset.checked_add(end.checked_sub(start).filter(|length| *length > 0)?)?;
    Some(Vma {
        start,
        end,
        writable: *permissions.get(1)? == b'w',
        shared: *permissions.get(3)? == b's',
        offset,
        inode,
        path: rest.trim_start().to_owned(),
        page_size: FRAME_SIZE,
        flags: VmaFlags::default(),
    })
}

/// Two-letter codes (Documentation/filesystems/proc.rst, VmFlags).
fn parse_flags(codes: &str) -> VmaFlags {
    let mut flags = VmaFlags::default();
    for code in codes.split_whitespace() {
        match code {
            "lo" => flags.locked = true,
            "um" | "uw" | "ui" => flags.userfaultfd = true,
            "io" | "pf" => flags.device = true,
            _ => {}
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
7f0000000000-7f0020000000 rw-s 00001000 00:01 1027                       /memfd:pc.ram (deleted)
Size:             524288 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
AnonHugePages:         0 kB
THPeligible:           1
VmFlags: rd wr sh mr mw me ms lo um sd
7ffc00000000-7ffc00021000 r--p 00000000 00:00 0
KernelPageSize:        4 kB
AnonHugePages:         0 kB
THPeligible:           0
VmFlags: rd mr
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn reads_what_reclaim_asks_for() {
        let vmas = parse(TEXT).unwrap();
        assert_eq!(vmas.len(), 3);
        let ram = &vmas[0];
        assert_eq!(
            (ram.start, ram.end, ram.offset, ram.inode),
            (0x7f00_0000_0000, 0x7f00_2000_0000, 0x1000, 1027)
        );
        assert!(ram.shared && ram.writable && ram.flags.locked && ram.flags.userfaultfd && !ram.flags.device);
        assert_eq!((ram.page_size, ram.path.as_str()), (2 << 20, "/memfd:pc.ram (deleted)"));
        assert!(ram.flags.huge && !vmas[1].flags.huge);
        assert!(!vmas[1].shared && !vmas[1].writable && vmas[1].path.is_empty());
        assert_eq!(vmas[2].path, "[vsyscall]");
    }

    #[test]
    fn a_path_with_a_colon_is_no_field() {
        let vmas = parse("1000-2000 rw-s 00000000 00:01 7 /dev/shm/a: b\n").unwrap();
        assert_eq!(vmas[0].path, "/dev/shm/a: b");
        let vmas = parse("1000-2000 rw-s 00000000 00:01 7 /dev/shm/a\r\n").unwrap();
        assert_eq!(vmas[0].path, "/dev/shm/a\r");
    }

    #[test]
    fn nonsense_is_named() {
        assert!(parse("hello world\n").unwrap_err().contains("hello"));
        assert!(parse("Size: 4 kB\n").unwrap_err().contains("before any"));
        for header in
            ["2000-1000 rw-s 0 00:01 7", "1000-1000 rw-s 0 00:01 7", "0-2 rw-s ffffffffffffffff 00:01 7"]
        {
            assert!(parse(header).unwrap_err().contains("not a VMA"), "{header}");
        }
        for size in ["18446744073709551615", "3", "5", "0"] {
            let text = format!("1000-2000 rw-s 0 00:01 7\nKernelPageSize: {size} kB\n");
            assert!(parse(&text).unwrap_err().contains("page size"), "{text}");
        }
    }
}
