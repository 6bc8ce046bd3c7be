//! docs/guest-module.md against the guest module: parameters, statistics and messages.
//!
//! In: the module's C files and the document. Out: what the one has and the other has not.
//! Must not read C: it looks for the few shapes that the kernel's style leaves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Failure;

const DOC: &str = "docs/guest-module.md";
const MODULE: &str = "guest-kmod";

/// Something that users see, and the line of the file that has it.
type Found = BTreeMap<String, (PathBuf, usize)>;

/// Compares the two, both ways.
pub(super) fn check(workspace: &Path, failures: &mut Vec<Failure>) -> Result<()> {
    let (mut parameters, mut statistics, mut messages) = (Found::new(), Found::new(), Found::new());
    let folder = workspace.join(MODULE);
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with(".c") || name.ends_with(".mod.c") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let shown = Path::new(MODULE).join(&name);
        look_for(&text, &shown, parameter, &mut parameters);
        look_for(&text, &shown, message, &mut messages);
        if name == "imr_debugfs.c" {
            look_for(&text, &shown, statistic, &mut statistics);
        }
    }
    let doc = fs::read_to_string(workspace.join(DOC)).with_context(|| format!("cannot read {DOC}"))?;
    let same = |code: &str, row: &str| code == row;
    compare("parameter", "Parameters", &parameters, &doc, same, failures);
    compare("statistic", "Statistics", &statistics, &doc, same, failures);
    compare("message", "Messages", &messages, &doc, fits, failures);
    Ok(())
}

fn look_for(text: &str, shown: &Path, what: fn(&str) -> Option<&str>, found: &mut Found) {
    for (at, line) in text.lines().enumerate() {
        if let Some(name) = what(line.trim()) {
            found.entry(name.to_owned()).or_insert_with(|| (shown.to_owned(), at + 1));
        }
    }
}

/// `module_param(NAME, ...` and its like.
fn parameter(line: &str) -> Option<&str> {
    let (kind, rest) = line.split_once('(')?;
    if !kind.starts_with("module_param") {
        return None;
    }
    Some(rest.split([',', ')']).next()?.trim())
}

/// `[IMR_STAT_NAME] = "name",` and `seq_printf(m, "name %...`.
fn statistic(line: &str) -> Option<&str> {
    if line.starts_with("[IMR_STAT_") {
        return quoted(line);
    }
    let format = quoted(line.strip_prefix("seq_printf(m, ")?)?;
    format.split(' ').next().filter(|name| !name.starts_with('%'))
}

/// The format of a `pr_...("...`, without its newline.
fn message(line: &str) -> Option<&str> {
    let (call, rest) = line.split_once("(\"")?;
    if !call.starts_with("pr_") || call.contains(' ') {
        return None;
    }
    Some(rest.rsplit_once('"')?.0.trim_end_matches("\\n"))
}

fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1)
}

fn compare(
    what: &str,
    section: &str,
    code: &Found,
    doc: &str,
    same: fn(&str, &str) -> bool,
    failures: &mut Vec<Failure>,
) {
    let rows = rows(doc, section);
    for (name, (path, line)) in code {
        if !rows.iter().any(|(_, row)| same(name, row)) {
            let remedy = format!("add a row to \"{section}\" of {DOC}");
            failures.push(Failure::new(
                path,
                *line,
                format!("{what} `{name}` is not in the document"),
                remedy,
            ));
        }
    }
    for (line, row) in &rows {
        if !code.keys().any(|name| same(name, row)) {
            let what = format!("{what} `{row}` is not in {MODULE}");
            failures.push(Failure::new(Path::new(DOC), *line, what, "remove the row, or say what it is now"));
        }
    }
    if code.is_empty() {
        let what = format!("no {what} was found");
        failures.push(Failure::new(
            Path::new(MODULE),
            1,
            what,
            "xtask/src/tidy/guest_docs.rs looks for the wrong shape",
        ));
    }
}

/// What stands in backticks at the beginning of each table row of a section, with its line.
fn rows<'a>(doc: &'a str, section: &str) -> Vec<(usize, &'a str)> {
    let mut inside = false;
    let mut rows = Vec::new();
    for (at, line) in doc.lines().enumerate() {
        if let Some(title) = line.strip_prefix("## ") {
            inside = title == section;
        }
        if let Some((name, _)) = line.strip_prefix("| `").and_then(|rest| rest.split_once('`'))
            && inside
        {
            rows.push((at + 1, name));
        }
    }
    rows
}

/// Whether `row` is what printing with `format` can give.
fn fits(format: &str, row: &str) -> bool {
    let pieces = pieces(format);
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return false };
    if pieces.len() == 1 {
        return row == first;
    }
    let Some(mut rest) = row.strip_prefix(first.as_str()).and_then(|row| row.strip_suffix(last.as_str()))
    else {
        return false;
    };
    for piece in &pieces[1..pieces.len() - 1] {
        match rest.find(piece.as_str()) {
            // A value is at least one character long.
            Some(at) if at > 0 => rest = &rest[at + piece.len()..],
            _ => return false,
        }
    }
    !rest.is_empty()
}

/// What stands between the conversions of a format.
fn pieces(format: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut chars = format.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            if let Some(piece) = pieces.last_mut() {
                piece.push(char);
            }
        } else if chars.next_if_eq(&'%').is_some() {
            if let Some(piece) = pieces.last_mut() {
                piece.push('%');
            }
        } else {
            while chars.next_if(|char| !"diouxXsc".contains(*char)).is_some() {}
            chars.next();
            pieces.push(String::new());
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_shapes_are_found() {
        assert_eq!(parameter("module_param(order, uint, 0444);"), Some("order"));
        assert_eq!(parameter("module_param_named(a, b, uint, 0444);"), Some("a"));
        assert_eq!(parameter("MODULE_PARM_DESC(order, \"x\");"), None);
        assert_eq!(statistic("[IMR_STAT_OFFERS]\t\t= \"offers\","), Some("offers"));
        assert_eq!(statistic("seq_printf(m, \"mode %u\\n\", 1);"), Some("mode"));
        assert_eq!(statistic("seq_printf(m, \"%s %lld\\n\", name, 1);"), None);
        assert_eq!(message("pr_warn_once(\"lost (error %d)\\n\","), Some("lost (error %d)"));
        assert_eq!(message("pr_err(\"a \\\"b\\\"\\n\");"), Some("a \\\"b\\\""));
        assert_eq!(message("seq_printf(m, \"mode %u\\n\", 1);"), None);
    }

    #[test]
    fn a_row_is_a_message_with_values() {
        assert!(fits("host %016llx %s", "host 0123 has detached"));
        assert!(fits("order=%u is not in %u to %u", "order=8 is not in 9 to 10"));
        assert!(!fits("order=%u is not in %u to %u", "order=8 is not in 9 to "));
        assert!(!fits("order=%u is not in %u to %u", "order=8 is not 9 to 10"));
        assert!(fits("100%% of %-5lld", "100% of 7") && fits("plain", "plain") && !fits("plain", "plainer"));
    }

    #[test]
    fn both_ways_are_compared() {
        let doc = "## Parameters\n| `a` | x |\n| `b` | y |\n## Statistics\n| `c` | z |\n";
        let code = Found::from([
            ("a".to_owned(), (PathBuf::from("m.c"), 1)),
            ("c".to_owned(), (PathBuf::from("m.c"), 2)),
        ]);
        let mut failures = Vec::new();
        compare("parameter", "Parameters", &code, doc, |code, row| code == row, &mut failures);
        let lines: Vec<_> =
            failures.iter().map(|failure| (failure.path.to_str().unwrap(), failure.line)).collect();
        assert_eq!(lines, [("m.c", 2), (DOC, 3)]);
    }
}
