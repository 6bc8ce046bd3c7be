//! Files that a host script leaves in `$IMR_SAVE`, taken out of L1 (`--save DIR`).
//!
//! In: the lines of the port imr.saved: an archive in base64, then "end STATUS LEFT_OUT". Out: plain files below DIR.
//! Must not trust the archive: it holds no more than a limit, and nothing in it reaches out of DIR.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

/// The most that comes out of L1, headers of files included, bytes.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// An archive on its way out.
#[derive(Debug)]
pub(super) struct Saved {
    dir: PathBuf,
    archive: Vec<u8>,
    /// What was wrong with the lines so far.
    broken: Option<String>,
    ended: bool,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Files written.
    pub(super) files: usize,
    /// Their bytes.
    pub(super) bytes: usize,
    /// Why it is not all.
    pub(super) missing: Vec<String>,
}

impl Saved {
    /// Nothing yet, for files below `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), archive: Vec::new(), broken: None, ended: false }
    }

    /// Whether the last line has come.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Takes in a line. With the last one, the files are written.
    pub(super) fn line(&mut self, line: &str) -> Option<Report> {
        if self.ended {
            return None;
        }
        let Some(end) = line.strip_prefix("end ") else {
            if self.broken.is_none() {
                match decode(line) {
                    Some(bytes) if self.archive.len() + bytes.len() <= MOST_BYTES => {
                        self.archive.extend(bytes);
                    }
                    Some(_) => self.broken = Some(format!("it is more than {} MiB", MOST_BYTES >> 20)),
                    None => {
                        let start: String = line.chars().take(60).collect();
                        self.broken = Some(format!("L1 sent a line that is not base64: {start:?}"));
                    }
                }
            }
            return None;
        };
        self.ended = true;
        let mut report = unpack(&std::mem::take(&mut self.archive), &self.dir);
        if let Some(broken) = self.broken.take() {
            // The archive's early end is a consequence.
            report.missing = vec![broken];
        }
        let mut words = end.split_whitespace();
        match words.next() {
            Some("0") => {}
            // Told already: L1 stops where we do.
            _ if !report.missing.is_empty() => {}
            status => {
                report.missing.push(format!("packing failed in L1 with status {}", status.unwrap_or("?")));
            }
        }
        match words.next() {
            Some("0") => {}
            count => report.missing.push(format!(
                "{} in $IMR_SAVE that are neither files nor folders were left out",
                count.unwrap_or("?")
            )),
        }
        Some(report)
    }
}

/// A line of base64 (RFC 4648, section 4).
fn decode(line: &str) -> Option<Vec<u8>> {
    let digits = line.trim_end_matches('=');
    if !line.len().is_multiple_of(4) || line.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(line.len() / 4 * 3);
    for group in digits.as_bytes().chunks(4) {
        let mut bits = 0;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

/// An entry of the archive.
struct Entry<'a> {
    inode: u32,
    mode: u32,
    links: u32,
    name: &'a [u8],
    content: &'a [u8],
}

const HEADER: usize = 110;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const TRAILER: &[u8] = b"TRAILER!!!";

/// Writes the files of `archive` (cpio, "newc", as busybox packs it) below `dir`.
fn unpack(archive: &[u8], dir: &Path) -> Report {
    let mut report = Report { files: 0, bytes: 0, missing: Vec::new() };
    let mut entries = Vec::new();
    let mut rest = archive;
    loop {
        match entry(&mut rest) {
            Some(entry) if entry.name == TRAILER => break,
            Some(entry) => entries.push(entry),
            None => {
                report.missing.push("the archive breaks off".to_owned());
                break;
            }
        }
    }
    // Of a file with several names, the archive has the content once.
    let mut linked = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.links > 1 && !entry.content.is_empty()) {
        linked.insert(entry.inode, entry.content);
    }
    for entry in entries {
        let content = match linked.get(&entry.inode) {
            Some(content) if entry.links > 1 => content,
            _ => entry.content,
        };
        match write(&entry, content, dir) {
            Ok(()) => {
                report.files += 1;
                report.bytes += content.len();
            }
            Err(why) => {
                report.missing.push(format!("{:?}: {why}", String::from_utf8_lossy(entry.name)));
            }
        }
    }
    report
}

/// Takes the next entry off `archive`.
fn entry<'a>(archive: &mut &'a [u8]) -> Option<Entry<'a>> {
    let header = std::str::from_utf8(archive.get(..HEADER)?).ok()?;
    let field = |n: usize| u32::from_str_radix(&header[6 + 8 * n..14 + 8 * n], 16).ok();
    if !header.starts_with("070701") || !header.is_ascii() {
        return None;
    }
    let (size, name_size) = (usize::try_from(field(6)?).ok()?, usize::try_from(field(11)?).ok()?);
    let name = archive.get(HEADER..HEADER + name_size)?.strip_suffix(b"\0")?;
    let start = (HEADER + name_size).next_multiple_of(4);
    let content = archive.get(start..start + size)?;
    let entry = Entry { inode: field(0)?, mode: field(1)?, links: field(4)?, name, content };
    *archive = archive.get((start + size).next_multiple_of(4)..).unwrap_or_default();
    Some(entry)
}

fn write(entry: &Entry<'_>, content: &[u8], dir: &Path) -> Result<(), String> {
    if entry.mode & S_IFMT != S_IFREG {
        return Err("not a plain file".to_owned());
    }
    let path = dir.join(inside(entry.name)?);
    let folder = path.parent().unwrap_or(dir);
    let told = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    fs::create_dir_all(folder).map_err(told)?;
    // What lies there already may be a link to elsewhere.
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(true).custom_flags(flags);
    options.open(&path).and_then(|mut file| file.write_all(content)).map_err(told)
}

/// `name` as a path that stays where it is put.
fn inside(name: &[u8]) -> Result<PathBuf, String> {
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return Err("leads out of its folder".to_owned()),
        }
    }
    if path.as_os_str().is_empty() { Err("has no name".to_owned()) } else { Ok(path) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::cpio::Archive;
    use super::*;

    /// A folder of one test, gone afterwards.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("imr-saved-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// One entry; the archive's own writer makes only good ones.
    fn raw(name: &str, mode: u32, content: &str) -> Vec<u8> {
        let mut bytes = format!("070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}", 1, 0, 0, 1, 0).into_bytes();
        let sizes = (content.len(), name.len() + 1);
        bytes.extend(format!("{:08x}{:032x}{:08x}{:08x}", sizes.0, 0, sizes.1, 0).into_bytes());
        bytes.extend(format!("{name}\0").into_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn base64_is_read_strictly() {
        assert_eq!(decode("").unwrap(), b"");
        assert_eq!(decode("TWFu").unwrap(), b"Man");
        assert_eq!(decode("TWE=").unwrap(), b"Ma");
        assert_eq!(decode("TQ==").unwrap(), b"M");
        assert_eq!(decode("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
        for wrong in ["TWF", "TW=u", "T===", "TWF!", "end 0"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }

    /// The same commands as in scripts/l1-init.sh.
    #[test]
    fn what_busybox_packs_comes_out_the_same() {
        let (from, into) = (Dir::new("from"), Dir::new("into"));
        let script = "cd \"$0\" && mkdir -p a/b && echo one >a/b/one && ln a/b/one 'second name' && : >empty && \
                      head -c 100000 /dev/urandom >noise && \
                      find . -type f -print0 | busybox cpio -o -0 -H newc | busybox base64 -w 4000; echo end 0 0";
        let output = Command::new("sh").args(["-c", script]).arg(&from.0).output().unwrap();
        if Command::new("busybox").output().is_err() {
            eprintln!("skipped: no busybox on this machine");
            return;
        }
        let mut saved = Saved::new(&into.0);
        let text = String::from_utf8(output.stdout).unwrap();
        let reports: Vec<Report> = text.lines().filter_map(|line| saved.line(line)).collect();
        assert_eq!(reports, [Report { files: 4, bytes: 100_008, missing: Vec::new() }], "{text:.300}");
        assert!(saved.ended());
        for name in ["a/b/one", "second name", "empty", "noise"] {
            assert_eq!(fs::read(into.0.join(name)).unwrap(), fs::read(from.0.join(name)).unwrap(), "{name}");
        }
    }

    #[test]
    fn nothing_leaves_the_folder_and_only_files_are_made() {
        let dir = Dir::new("evil");
        let mut archive = Vec::new();
        for (name, mode) in [
            ("../up", S_IFREG),
            ("/tmp/imr-absolute", S_IFREG),
            ("a/../../up", S_IFREG),
            (".", S_IFREG),
            ("", S_IFREG),
            ("link", 0o120_000),
            ("device", 0o020_000),
            ("folder", 0o040_000),
            ("good", S_IFREG),
        ] {
            archive.extend(raw(name, mode | 0o777, "x"));
        }
        let mut end = Archive::default();
        end.file("also", 0o644, b"yz");
        archive.extend(end.finish());
        std::os::unix::fs::symlink("/dev/null", dir.0.join("good")).unwrap();
        let report = unpack(&archive, &dir.0);
        assert_eq!((report.files, report.bytes), (1, 2), "{report:?}");
        assert_eq!(report.missing.len(), 9, "{report:?}");
        assert!(report.missing[0].contains("../up") && report.missing[0].contains("leads out"));
        assert!(report.missing[8].contains("good"), "a link that is there already is not followed");
        assert!(!dir.0.join("../up").exists() && !Path::new("/tmp/imr-absolute").exists());
        assert_eq!(fs::read(dir.0.join("also")).unwrap(), b"yz");
    }

    #[test]
    fn a_broken_archive_gives_what_is_whole_and_says_so() {
        let dir = Dir::new("broken");
        let mut archive = raw("first", S_IFREG, "1");
        archive.extend(raw("second", S_IFREG, "22222222"));
        for cut in [archive.len(), archive.len() - 4, archive.len() - 20, archive.len() - 100] {
            let report = unpack(&archive[..cut], &dir.0);
            assert_eq!(report.missing, ["the archive breaks off"], "{cut}");
            assert_eq!(report.files, if cut == archive.len() { 2 } else { 1 });
        }
        assert_eq!(unpack(b"070701 is no header", &dir.0).files, 0);
        let mut huge = raw("x", S_IFREG, "");
        // The sizes of content and name.
        huge[54..62].fill(b'f');
        huge[94..102].fill(b'f');
        assert_eq!(unpack(&huge, &dir.0).files, 0);
    }

    #[test]
    fn too_much_garbage_and_a_failed_packer_are_told() {
        let dir = Dir::new("told");
        let told = |lines: &[&str]| {
            let mut saved = Saved::new(&dir.0);
            lines
                .iter()
                .filter_map(|line| saved.line(line))
                .flat_map(|report| report.missing)
                .collect::<Vec<_>>()
        };
        assert!(told(&["???", "end 0 0"])[0].contains("not base64"));
        assert_eq!(told(&["end 1 0"]), ["the archive breaks off"]);
        let line = "A".repeat(4 << 20);
        let mut lines = vec![line.as_str(); MOST_BYTES / (3 << 20) + 1];
        lines.push("end 141 0");
        assert_eq!(told(&lines), ["it is more than 64 MiB"]);
        // An archive with nothing in it.
        let trailer = "MDcwNzAxMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw\
                       MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDBCMDAwMDAwMDBUUkFJTEVSISEhAAAAAAAA";
        assert_eq!(told(&[trailer, "end 0 0"]), Vec::<String>::new());
        assert_eq!(
            told(&[trailer, "end 1 2"]),
            [
                "packing failed in L1 with status 1".to_owned(),
                "2 in $IMR_SAVE that are neither files nor folders were left out".to_owned()
            ]
        );
    }
}
