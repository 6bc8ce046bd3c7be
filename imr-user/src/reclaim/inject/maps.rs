//! /proc/PID/maps of a VMM: which mapping an address is in.
//!
//! Input: the directory /proc/PID. Output: mappings as they are at this moment. Asks for single ones by ioctl where the
//! kernel can be asked (PROCMAP_QUERY, Linux 6.11); a VMM has hundreds.

use std::fs::File;
use std::io::Read as _;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: libc::Ioctl = {
    let size = size_of::<Query>() as libc::Ioctl;
    (3 << 30) | (size << 16) | ((b'f' as libc::Ioctl) << 8) | 17
};
/// include/uapi/linux/fs.h, enum procmap_query_flags.
const WRITABLE: u64 = 2;
const EXECUTABLE: u64 = 4;
const SHARED: u64 = 8;

/// struct procmap_query.
#[repr(C)]
#[derive(Debug, Default)]
struct Query {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

const _: () = assert!(size_of::<Query>() == 104);

/// One mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reclaim) struct Vma {
    pub(in crate::reclaim) start: u64,
    pub(in crate::reclaim) end: u64,
    pub(in crate::reclaim) writable: bool,
    pub(in crate::reclaim) executable: bool,
    pub(in crate::reclaim) shared: bool,
    /// Where `start` is in its file.
    pub(in crate::reclaim) offset: u64,
    /// Major and minor number of its file's device.
    pub(in crate::reclaim) device: (u32, u32),
    /// 0 without a file.
    pub(in crate::reclaim) inode: u64,
    /// By its name; only known of those that [`Maps::all`] returns.
    pub(in crate::reclaim) is_c_library: bool,
}

/// An open /proc/PID/maps. Holds no memory of the VMM: the kernel keeps `struct mm_struct`, not its pages.
#[derive(Debug)]
pub(in crate::reclaim) struct Maps {
    file: File,
}

impl Maps {
    pub(in crate::reclaim) fn open(proc_dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        let fd = openat(proc_dir, c"maps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { file: File::from(fd) })
    }

    /// The mapping that `address` is in.
    pub(in crate::reclaim) fn find(&self, address: u64) -> Result<Option<Vma>, Errno> {
        match self.query(address) {
            Ok(found) => Ok(found),
            Err(Errno::NOTTY | Errno::INVAL) => {
                Ok(self.all()?.into_iter().find(|vma| (vma.start..vma.end).contains(&address)))
            }
            Err(errno) => Err(errno),
        }
    }

    /// As [`Maps::find`]; [`Errno::NOTTY`] where the kernel cannot be asked for one.
    pub(in crate::reclaim) fn query(&self, address: u64) -> Result<Option<Vma>, Errno> {
        let mut query = Query { size: size_of::<Query>() as u64, query_addr: address, ..Query::default() };
        // SAFETY: `query` is the structure that this request takes, and names no buffers.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
        if done != 0 {
            let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
            return if errno == Errno::NOENT { Ok(None) } else { Err(errno) };
        }
        let has = |flag| query.vma_flags & flag != 0;
        Ok(Some(Vma {
            start: query.vma_start,
            end: query.vma_end,
            writable: has(WRITABLE),
            executable: has(EXECUTABLE),
            shared: has(SHARED),
            offset: query.vma_offset,
            device: (query.dev_major, query.dev_minor),
            inode: query.inode,
            is_c_library: false,
        }))
    }

    /// All of them.
    pub(in crate::reclaim) fn all(&self) -> Result<Vec<Vma>, Errno> {
        rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Start(0))?;
        let mut text = Vec::new();
        let read = (&self.file).read_to_end(&mut text);
        read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(String::from_utf8_lossy(&text).lines().filter_map(parse).collect())
    }
}

/// A line: `start-end rwxp offset device inode path`.
fn parse(line: &str) -> Option<Vma> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let access = words.next()?.as_bytes();
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode = words.next()?.parse().ok()?;
    let path = words.next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    Some(Vma {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        writable: access.get(1) == Some(&b'w'),
        executable: access.get(2) == Some(&b'x'),
        shared: access.get(3) == Some(&b's'),
        offset,
        device,
        inode,
        is_c_library: ["libc.", "libc-", "ld-musl"].iter().any(|start| file.starts_with(start)),
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::reclaim::testing::proc_dir;

    #[test]
    fn lines_of_maps() {
        let vma = parse("7f00-7f80 r-xp 00001000 fe:01 77   /usr/lib/libc.so.6").unwrap();
        let code = Vma {
            start: 0x7f00,
            end: 0x7f80,
            writable: false,
            executable: true,
            shared: false,
            offset: 0x1000,
            device: (0xfe, 1),
            inode: 77,
            is_c_library: true,
        };
        assert_eq!(vma, code);
        let memory = parse("10-20 rw-s 00000000 00:01 0 ").unwrap();
        assert!(memory.writable && memory.shared && memory.inode == 0 && !memory.is_c_library);
        assert_eq!(parse("no such line"), None);
    }

    #[test]
    fn asking_for_one_and_reading_all_agree() {
        let proc_dir = proc_dir(std::process::id());
        let maps = Maps::open(proc_dir.as_fd()).unwrap();
        let code = asking_for_one_and_reading_all_agree as fn() as usize as u64;
        let listed =
            maps.all().unwrap().into_iter().find(|vma| (vma.start..vma.end).contains(&code)).unwrap();
        assert!(listed.executable && !listed.writable && listed.inode != 0);
        let found = maps.find(code).unwrap().unwrap();
        assert_eq!(found, Vma { is_c_library: found.is_c_library, ..listed });
        assert_eq!(maps.find(0x10).unwrap(), None);
    }
}
