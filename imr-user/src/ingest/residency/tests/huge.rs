//! Which blocks are huge, against the kernel's own sums in /proc/self/smaps.

use super::*;

const BLOCKS: usize = 4;
const PAGES: u64 = BLOCKS as u64 * 512;

/// A field of the VMA that an address is in, KiB.
fn smaps_kib(address: *const u8, field: &str) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let number = |hexadecimal| u64::from_str_radix(hexadecimal, 16).unwrap();
            inside = (number(start)..number(end)).contains(&(address as u64));
        } else if inside && first.strip_suffix(':') == Some(field) {
            return words.next().unwrap().parse().unwrap();
        }
    }
    panic!("no {field} of {address:?} in /proc/self/smaps");
}

fn huge(found: &[Residency]) -> Vec<bool> {
    found.iter().map(|block| block.huge).collect()
}

/// Full blocks with a huge page behind each, and none where `kernel_kib` says so.
fn assert_huge(found: &[Residency], kernel_kib: u64) {
    assert_eq!(frames(found), [512; BLOCKS]);
    let found_kib = found.iter().filter(|block| block.huge).count() as u64 * (BLOCK_SIZE / 1024);
    assert_eq!(found_kib, kernel_kib, "{found:?}");
}

/// Words tell of huge pages only where page frame numbers are to be seen.
fn tells(reader: &ResidencyReader) -> bool {
    reader.pagemap.scans() || rustix::process::geteuid().is_root()
}

/// Written memory in huge pages, or why there is none.
fn anonymous_huge() -> Result<(Memory, u64), String> {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let enabled = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let memory = Memory::anonymous(BLOCKS * BLOCK);
    memory.advise(0, BLOCKS * BLOCK, Advice::LinuxHugepage);
    (0..BLOCKS * 512).for_each(|frame| memory.write(frame));
    match smaps_kib(memory.address, "AnonHugePages") {
        0 if enabled.contains("[madvise]") || enabled.contains("[always]") => {
            Err("this machine has no free huge page".to_owned())
        }
        0 => Err(format!("{path}: {}", enabled.trim())),
        kib => Ok((memory, kib)),
    }
}

macro_rules! or_skip {
    ($made:expr) => {
        match $made {
            Ok(made) => made,
            Err(why) => return eprintln!("skipped: {why}"),
        }
    };
}

#[test]
fn anonymous_huge_pages_are_huge_where_they_lie_as_the_guests() {
    let (memory, kernel_kib) = or_skip!(anonymous_huge());
    let mut aligned = Vec::new();
    for (reader, found) in read_slot(memory.slot(512, PAGES), 1, BLOCKS) {
        assert_huge(&found, if tells(&reader) { kernel_kib } else { 0 });
        aligned.push(huge(&found));
    }
    // The guest's blocks begin a frame before the VMM's pages.
    for (_, found) in read_slot(memory.slot(513, PAGES - 1), 2, BLOCKS - 2) {
        assert_eq!(found, [resident(512); BLOCKS - 2]);
    }
    // They lie as the VMM's, but the slot begins and ends within one.
    let mut slot = memory.slot(522, PAGES - 20);
    slot.userspace_addr += 10 * FRAME_SIZE;
    for ((_, found), aligned) in read_slot(slot, 1, BLOCKS).into_iter().zip(&aligned) {
        assert_eq!(frames(&found), [502, 512, 512, 502]);
        assert_eq!(huge(&found), [false, aligned[1], aligned[2], false]);
    }
    // KSM at work: the same words, and regions besides.
    let mut pagemap = Pagemap::open(&this_process()).unwrap();
    let mut found = vec![Residency::default(); BLOCKS];
    pagemap.count_private(&piece_of(512, PAGES, &memory), true, &mut found).unwrap();
    assert_huge(&found, if tells(&ResidencyReader::open(&this_process()).unwrap()) { kernel_kib } else { 0 });
}

#[test]
fn a_huge_page_that_was_broken_up_is_none() {
    let (memory, _) = or_skip!(anonymous_huge());
    // Or khugepaged may come by and make it one again.
    memory.advise(0, BLOCKS * BLOCK, Advice::LinuxNoHugepage);
    memory.advise(BLOCK + 7 * FRAME, FRAME, Advice::LinuxDontNeed);
    for (_, found) in read_slot(memory.slot(0, PAGES), 1, 1) {
        assert_eq!(found, [resident(511)]);
    }
    memory.write(512 + 7);
    for (_, found) in read_slot(memory.slot(0, PAGES), 1, 1) {
        assert_eq!(found, [resident(512)]);
    }
}

/// Whether this process may reach files through /proc/PID/map_files.
fn map_files() -> Result<(), &'static str> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("this needs root") }
}

/// A full memfd, mapped, and how much of it in huge pages.
fn shared(advice: Advice) -> (Memory, u64) {
    let file = File::from(memfd_create("residency-test", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, BLOCKS as u64 * BLOCK_SIZE).unwrap();
    let memory = Memory::shared_aligned(&file, BLOCKS * BLOCK);
    memory.advise(0, BLOCKS * BLOCK, advice);
    (0..BLOCKS * 512).for_each(|frame| memory.write(frame));
    let kib = smaps_kib(memory.address, "ShmemPmdMapped");
    (memory, kib)
}

#[test]
fn a_memfd_is_as_huge_as_the_vmm_maps_it() {
    or_skip!(map_files());
    let (small, kernel_kib) = shared(Advice::LinuxNoHugepage);
    assert_eq!(kernel_kib, 0);
    for (_, found) in read_slot(small.slot(512, PAGES), 1, BLOCKS) {
        assert_eq!(found, [resident(512); BLOCKS]);
    }
    let (memory, kernel_kib) = shared(Advice::LinuxHugepage);
    if kernel_kib == 0 {
        return eprintln!("skipped in part: no huge pages for memfds (transparent_hugepage/shmem_enabled)");
    }
    for (reader, found) in read_slot(memory.slot(512, PAGES), 1, BLOCKS) {
        assert_huge(&found, if tells(&reader) { kernel_kib } else { 0 });
    }
    for (_, found) in read_slot(memory.slot(600, PAGES), 2, 2) {
        assert_eq!(found, [resident(512); 2], "not aligned as the guest");
    }
}

#[test]
fn hugetlbfs_is_huge_whatever_words_tell() {
    or_skip!(map_files());
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let mapped = memfd_create("residency-test", flags).and_then(|file| {
        let file = File::from(file);
        ftruncate(&file, 2 * BLOCK_SIZE)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
        unsafe { mmap(ptr::null_mut(), 2 * BLOCK, access, MapFlags::SHARED, &file, 0) }
    });
    let Ok(whole) = mapped else {
        return eprintln!("skipped: no 2 huge pages are reserved (vm.nr_hugepages)");
    };
    let memory = Memory { address: whole.cast(), whole: (whole, 2 * BLOCK) };
    memory.write(512);
    for (_, found) in read_slot(memory.slot(0, 1024), 0, 2) {
        assert_eq!(found, [resident(0), Residency { huge: true, ..resident(512) }]);
    }
    for (_, found) in read_slot(memory.slot(1, 1024), 1, 1) {
        assert_eq!(found, [resident(511)], "not aligned as the guest");
    }
}
