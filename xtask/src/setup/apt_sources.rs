//! apt's sources on this machine, and the entry for the backports suite derived from them.
//!
//! In: `apt-get indextargets` and the source files it names. Out: a deb822 entry.
//! Must not know any archive's address: it copies the machine's own.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// One index that apt fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexTarget {
    /// The file and the entry in it (`path:number`) that asks for this index.
    asked_by: String,
    /// The suite as the entry names it.
    release: String,
    /// The suite's code name.
    codename: String,
    /// The archive.
    uri: String,
    /// The archive's component.
    pub(super) component: String,
}

/// Every package index that apt fetches on this machine.
pub(super) fn index_targets() -> Result<Vec<IndexTarget>> {
    let said = process::run_quiet(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SOURCESENTRY)|$(RELEASE)|$(CODENAME)|$(REPO_URI)|$(COMPONENT)",
        "Created-By: Packages",
    ]))?;
    Ok(said.lines().filter_map(IndexTarget::parse).collect())
}

impl IndexTarget {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('|').map(str::to_owned);
        Some(Self {
            asked_by: fields.next()?,
            release: fields.next()?,
            codename: fields.next()?,
            uri: fields.next()?,
            component: fields.next()?,
        })
    }

    /// Whether this is an index of `suite`, by either of its names.
    pub(super) fn is(&self, suite: &str) -> bool {
        self.release == suite || self.codename == suite
    }

    /// The deb822 entry for `suites` (separated by blanks) of the same archive, signed by the same key.
    pub(super) fn entry(&self, suites: &str) -> Result<String> {
        let signed_by = self.signed_by()?;
        Ok(format!("Types: deb\nURIs: {}\nSuites: {suites}\nComponents: main\n{signed_by}", self.uri))
    }

    fn signed_by(&self) -> Result<String> {
        let (path, number) = self.asked_by.rsplit_once(':').unwrap_or((&self.asked_by, "1"));
        let number: usize = number.parse().unwrap_or(1);
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read apt's source file {path}"))?;
        let found = if path.ends_with(".sources") {
            signed_by_deb822(&text, number)
        } else {
            signed_by_line(&text, number)
        };
        Ok(found.unwrap_or_default())
    }
}

/// The `Signed-By` field, with its continuation lines, of entry `number` (from 1).
fn signed_by_deb822(text: &str, number: usize) -> Option<String> {
    let is_entry = |stanza: &&[&str]| stanza.iter().any(|line| line.starts_with("Types:"));
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanza = lines.split(|line| line.trim().is_empty()).filter(is_entry).nth(number.checked_sub(1)?)?;
    let mut field = String::new();
    for line in stanza {
        let goes_on = !field.is_empty() && line.starts_with([' ', '\t']);
        if line.to_ascii_lowercase().starts_with("signed-by:") || goes_on {
            field.push_str(line);
            field.push('\n');
        } else if !field.is_empty() {
            break;
        }
    }
    Some(field).filter(|field| !field.is_empty())
}

/// The `signed-by` option of a one-line entry on line `number` (from 1), as a deb822 field.
fn signed_by_line(text: &str, number: usize) -> Option<String> {
    let line = text.lines().nth(number.checked_sub(1)?)?;
    let options = line.split_once('[')?.1.split_once(']')?.0;
    let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="))?;
    Some(format!("Signed-By: {key}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# a comment\nTypes: deb\n# another\nURIs: http://archive.example/debian\nSuites: bookworm\n\
                       Signed-By: /keys/a.gpg\nComponents: main\n\nTypes: deb\nSigned-By:\n -----BEGIN\n .\n -----END\n";

    #[test]
    fn the_key_of_the_entry_itself_is_taken() {
        assert_eq!(signed_by_deb822(TWO, 1).as_deref(), Some("Signed-By: /keys/a.gpg\n"));
        assert_eq!(signed_by_deb822(TWO, 2).as_deref(), Some("Signed-By:\n -----BEGIN\n .\n -----END\n"));
        assert_eq!(signed_by_deb822(TWO, 3), None);
        assert_eq!(signed_by_deb822(TWO, 0), None);
    }

    #[test]
    fn a_one_line_entry_may_name_its_key() {
        let text = "deb http://archive.example/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/keys/b.gpg] http://archive.example/debian bookworm main\n";
        assert_eq!(signed_by_line(text, 1), None);
        assert_eq!(signed_by_line(text, 2).as_deref(), Some("Signed-By: /keys/b.gpg\n"));
    }

    #[test]
    fn the_entry_names_the_machines_own_archive() {
        let target = IndexTarget::parse(
            "/nonexistent/x.list:1|oldstable|bookworm|http://archive.example/debian/|main",
        )
        .unwrap();
        assert!(target.is("bookworm") && !target.is("bookworm-updates"));
        assert!(target.entry("bookworm-backports").is_err());
    }
}
