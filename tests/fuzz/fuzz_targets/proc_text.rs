//! The texts of /proc: smaps, status, stat, cmdline, ksm_stat, meminfo, pressure; and durations as people write them.
//!
//! In: the file's content; each reader gets it. Holds: nobody panics; VMAs written down again read the same; a name is
//! at most 64 characters that no terminal obeys; a line with a number put before the text is the one that counts.

#![no_main]

use std::fmt::Write as _;

use imr_user::cli::duration;
use imr_user::ingest::smaps::{self, Vma};
use imr_user::ingest::{host, process_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(name) = process_text::guest_name(data) {
        check_name(&name);
    }
    let text = String::from_utf8_lossy(data);
    check_name(&process_text::printable(&text));
    check_smaps(&text);
    check_numbers(&text);
    if let Ok(duration) = duration::parse(&text) {
        assert!(duration.as_secs() <= 365 * 86_400, "{text:?} is longer than a year");
    }
});

fn check_name(name: &str) {
    assert!(name.chars().count() <= 64 && !name.contains(char::is_control), "{name:?}");
}

fn check_smaps(text: &str) {
    let Ok(vmas) = smaps::parse(text) else { return };
    for vma in &vmas {
        assert!(vma.start < vma.end, "an empty or reversed VMA: {vma:?}");
        assert!(vma.page_size >= 4096 && vma.page_size.is_power_of_two(), "{vma:?}");
    }
    let written = written_down(&vmas);
    assert_eq!(smaps::parse(&written).as_ref(), Ok(&vmas), "{written}");
}

fn written_down(vmas: &[Vma]) -> String {
    let mut text = String::new();
    for vma in vmas {
        let (write, share) = (if vma.writable { 'w' } else { '-' }, if vma.shared { 's' } else { 'p' });
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:08x}-{:08x} r{write}-{share} {:08x} 00:01 {} {:>20}",
            vma.start, vma.end, vma.offset, vma.inode, vma.path
        );
        let _ = writeln!(text, "KernelPageSize: {:>8} kB", vma.page_size / 1024);
        let _ = writeln!(text, "THPeligible: {:>8}", u8::from(vma.flags.huge));
        let flags = [(vma.flags.locked, "lo"), (vma.flags.userfaultfd, "um"), (vma.flags.device, "io")];
        let codes: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, code)| *code).collect();
        let _ = writeln!(text, "VmFlags: rd {}", codes.join(" "));
    }
    text
}

fn check_numbers(text: &str) {
    for name in ["MemTotal", "MemAvailable", "SwapTotal", "SwapFree"] {
        let bytes = host::meminfo(text, name);
        assert!(bytes.is_none_or(|bytes| bytes % 1024 == 0));
        let first = format!("{name}:    77 kB\n{text}");
        assert_eq!(host::meminfo(&first, name), Some(77 << 10));
    }
    if let Some(percent) = host::pressure_some_avg10(text) {
        assert!((0.0..=100.0).contains(&percent), "{percent} is no share");
    }
    let first = format!("some avg10=1.50 avg60=0.00 avg300=0.00 total=0\n{text}");
    assert_eq!(host::pressure_some_avg10(&first), Some(1.5));

    assert!(process_text::swap_bytes(text).is_none_or(|bytes| bytes % 1024 == 0));
    assert_eq!(process_text::swap_bytes(&format!("VmSwap:\t  5 kB\n{text}")), Some(5 << 10));
    assert!(process_text::has_pinned_memory(&format!("VmPin:\t  8 kB\n{text}")));
    assert!(!process_text::has_pinned_memory(&format!("VmPin:\t  0 kB\n{text}")));
    let merged = process_text::field::<u64>(&format!("ksm_merging_pages 12\n{text}"), "ksm_merging_pages ");
    assert_eq!(merged, Some(12));

    // Whatever the process calls itself, the name ends at the last parenthesis.
    let comm: String = text.chars().filter(|c| *c != '\0').take(15).collect();
    let stat = format!("7 ({comm}) S{} 4711 0\n", " 0".repeat(18));
    assert_eq!(process_text::start_ticks(&stat), Some(4711), "{stat}");
    let _ = process_text::start_ticks(text);
}
