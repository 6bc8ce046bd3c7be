//! `files`: files in a directory, or one block device, whose content follows from name and offset.
//!
//! In: where, and how much. Out: one line; `verify` fails on the first wrong byte.
//! On tmpfs the content lives in memory only; of a block device it is the page cache that is read again.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::fill::wrong_word;
use crate::pattern;
use crate::{Failure, failed};

const FILE_BYTES: usize = 4 << 20;
const PIECE_WORDS: usize = 8 * 512;
const MIB: usize = 1 << 20;

/// `imr-testtool files`.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let mib: usize = args.parsed("--mib")?.ok_or_else(|| Failure::Usage("--mib is missing".into()))?;
    let verb = args.word("write or verify")?;
    let place = PathBuf::from(args.word("the directory or device")?);
    args.end()?;
    let one: fn(&Path, usize, u64) -> Result<(), Failure> = match verb.as_str() {
        "write" => write,
        "verify" => verify,
        other => return Err(Failure::Usage(format!("{other:?} is neither write nor verify"))),
    };
    let bytes = mib * MIB;
    if place.is_dir() {
        let count = bytes.div_ceil(FILE_BYTES);
        for number in 0..count {
            one(
                &place.join(format!("file{number}")),
                FILE_BYTES.min(bytes - number * FILE_BYTES),
                number as u64,
            )?;
        }
        println!("files={count} bytes={bytes} {verb}=ok");
    } else {
        one(&place, bytes, 0)?;
        println!("device={} bytes={bytes} {verb}=ok", place.display());
    }
    Ok(())
}

fn write(path: &Path, bytes: usize, number: u64) -> Result<(), Failure> {
    let is_device = fs::metadata(path).is_ok_and(|data| !data.is_file());
    let file = OpenOptions::new().write(true).create(!is_device).truncate(!is_device).open(path);
    let mut file = file.map_err(failed(path.display()))?;
    each_piece(bytes, |offset, words| {
        pattern::fill(words, offset, number);
        let piece: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.write_all(&piece).map_err(failed(path.display()))
    })
}

fn verify(path: &Path, bytes: usize, number: u64) -> Result<(), Failure> {
    let mut file = File::open(path).map_err(failed(path.display()))?;
    each_piece(bytes, |offset, words| {
        let mut piece = vec![0; words.len() * 8];
        file.read_exact(&mut piece).map_err(failed(path.display()))?;
        for (word, bytes) in words.iter_mut().zip(piece.chunks_exact(8)) {
            let mut value = [0; 8];
            value.copy_from_slice(bytes);
            *word = u64::from_le_bytes(value);
        }
        match pattern::check(words, offset, number) {
            Some(wrong) => Err(wrong_word(wrong, &format!("{}, address is the offset", path.display()))),
            None => Ok(()),
        }
    })
}

/// Calls `action` with the offset and a buffer for each piece of `bytes` bytes.
fn each_piece(
    bytes: usize,
    mut action: impl FnMut(u64, &mut [u64]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut buffer = vec![0; PIECE_WORDS];
    let mut offset = 0;
    while offset < bytes {
        let words = PIECE_WORDS.min((bytes - offset) / 8);
        action(offset as u64, &mut buffer[..words])?;
        offset += words * 8;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found() {
        let path = std::env::temp_dir().join(format!("imr-files-test-{}", std::process::id()));
        write(&path, MIB, 3).unwrap();
        verify(&path, MIB, 3).unwrap();
        assert!(verify(&path, MIB, 2).is_err(), "another file's content");
        let mut content = fs::read(&path).unwrap();
        content[99_999] ^= 0x10;
        fs::write(&path, content).unwrap();
        let told = verify(&path, MIB, 3).unwrap_err().to_string();
        assert!(told.contains(&format!("{:#x}", 99_999 / 8 * 8)), "{told}");
        fs::remove_file(path).unwrap();
    }
}
