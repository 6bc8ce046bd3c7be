//! Files of the machine that go into an image: given by the user, or programs with their libraries.
//!
//! In: `SRC[:DST]`, or paths. Out: entries of an archive, the shared libraries of each ELF program included.
//! Must not go on without a library: the program would fail inside, where nobody can see why.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;

/// Where a file goes that was given without a destination: the folder scripts start in.
const HOME: &str = "/root";

/// A file or directory of this machine, and where it appears in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileMapping {
    /// On this machine.
    pub(crate) source: PathBuf,
    /// Absolute, in the image.
    pub(crate) destination: String,
}

impl FileMapping {
    /// `source` as `destination`, which has to be absolute.
    pub(crate) fn new(source: impl Into<PathBuf>, destination: impl Into<String>) -> Self {
        Self { source: source.into(), destination: destination.into() }
    }
}

impl FromStr for FileMapping {
    type Err = String;

    /// `SRC` or `SRC:DST`. The source has to exist, so that a typing error is told before anything boots.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A name may hold a colon; a destination always starts with a slash.
        let split = text.rsplit_once(':').filter(|(_, destination)| destination.starts_with('/'));
        if split.is_none()
            && let Some((source, destination)) = text.rsplit_once(':')
            && !Path::new(text).exists()
            && Path::new(source).exists()
        {
            return Err(format!("the destination {destination:?} is not an absolute path"));
        }
        let (source, destination) = split.unwrap_or((text, ""));
        let path = Path::new(source);
        fs::metadata(path).map_err(|error| format!("cannot read {source:?}: {error}"))?;
        let destination = if destination.is_empty() || destination.ends_with('/') {
            let full = path.canonicalize().map_err(|error| format!("cannot resolve {source:?}: {error}"))?;
            // The name the user typed, not that of what a link points to.
            let name = path.file_name().or(full.file_name());
            let name =
                name.and_then(|name| name.to_str()).ok_or_else(|| format!("{source:?} has no name"))?;
            let folder = if destination.is_empty() { HOME } else { destination.trim_end_matches('/') };
            format!("{folder}/{name}")
        } else {
            destination.to_owned()
        };
        if destination.split('/').any(|part| part == "..") {
            return Err(format!("the destination {destination:?} leads upwards"));
        }
        Ok(Self { source: path.to_owned(), destination })
    }
}

/// Puts what `mapping` names into `archive`: a directory with all it holds, links as links.
pub(super) fn add(archive: &mut Archive, mapping: &FileMapping) -> Result<()> {
    add_path(archive, &mapping.source, &mapping.destination, true)
}

fn add_path(archive: &mut Archive, source: &Path, destination: &str, follow: bool) -> Result<()> {
    let data = if follow { fs::metadata(source) } else { fs::symlink_metadata(source) };
    let data = data.with_context(|| format!("cannot read {}", source.display()))?;
    if data.is_symlink() {
        let target = fs::read_link(source).with_context(|| format!("cannot read {}", source.display()))?;
        archive.symlink(destination, &target.to_string_lossy());
    } else if data.is_dir() {
        archive.dir(destination);
        let entries = fs::read_dir(source).with_context(|| format!("cannot list {}", source.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.with_context(|| format!("cannot list {}", source.display()))?.file_name());
        }
        names.sort();
        for name in names {
            let below = format!("{destination}/{}", name.to_string_lossy());
            add_path(archive, &source.join(&name), &below, false)?;
        }
    } else if data.is_file() {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        archive.file(destination, data.permissions().mode(), &content);
        let executable = data.permissions().mode() & 0o111 != 0;
        if executable && content.starts_with(b"\x7fELF") {
            add_libraries(archive, source)?;
        }
    } else {
        bail!("{} is neither a file, a directory nor a link", source.display());
    }
    Ok(())
}

fn add_libraries(archive: &mut Archive, program: &Path) -> Result<()> {
    for library in libraries(program)? {
        let destination = library.to_string_lossy().into_owned();
        if !archive.contains(&destination) {
            let content = fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?;
            archive.file(&destination, 0o755, &content);
        }
    }
    Ok(())
}

/// The shared libraries and the dynamic linker that `program` loads; none for a static one.
pub(super) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("cannot start ldd for {}", program.display()))?;
    // ldd fails on a static program; that is no error here.
    parse_ldd(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("{}", program.display()))
}

fn parse_ldd(said: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in said.lines() {
        let line = line.trim();
        let path = match line.split_once(" => ") {
            Some((name, "not found")) => bail!("its library {name} is not on this machine"),
            Some((_, path)) => path,
            None => line,
        };
        let path = path.split(" (0x").next().unwrap_or_default();
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_names_its_file_or_says_what_is_wrong() {
        let parse = |text: &str| text.parse::<FileMapping>();
        assert_eq!(parse("/bin/sh").unwrap().destination, "/root/sh");
        assert_eq!(parse("/bin/sh:/opt/").unwrap().destination, "/opt/sh");
        assert_eq!(parse("/bin/sh:/opt/x").unwrap(), FileMapping::new("/bin/sh", "/opt/x"));
        assert!(parse("/no/such/file:/x").unwrap_err().contains("/no/such/file"));
        assert!(parse("/bin/sh:opt/x").unwrap_err().contains("absolute"));
        assert!(parse("/bin/sh:/opt/../x").unwrap_err().contains("upwards"));
    }

    #[test]
    fn ldd_output_is_understood() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let found = parse_ldd(said).unwrap();
        assert_eq!(
            found,
            [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"), "/lib64/ld-linux-x86-64.so.2".into()]
        );
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
        assert!(parse_ldd("\tlibx.so => not found\n").unwrap_err().to_string().contains("libx.so"));
    }
}
