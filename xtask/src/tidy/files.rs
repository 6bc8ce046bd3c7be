//! What holds for every source file: its length, its opening words, its lint exceptions.
//!
//! In: a file's text. Out: each breach of the rules.
//! Must not read generated files: nobody edits them.

use std::path::Path;

use super::Failure;
use super::lexer::{Kind, lex};

/// The most lines a file may have; past it, it wants to be two.
const MOST_LINES: usize = 500;

/// Checks one source file of any language.
pub(super) fn check(shown: &Path, source: &str, failures: &mut Vec<Failure>) {
    let lines = source.lines().count();
    if lines > MOST_LINES {
        failures.push(Failure::new(
            shown,
            MOST_LINES + 1,
            format!("{lines} lines, {MOST_LINES} are the limit"),
            "split it by what it does; long test modules go to a sibling tests.rs",
        ));
    }
    if shown.extension().is_some_and(|extension| extension == "rs") {
        check_rust(shown, source, failures);
    }
}

fn check_rust(shown: &Path, source: &str, failures: &mut Vec<Failure>) {
    // `#![no_std]` and its like may stand first: rustfmt leaves them where they are.
    let opening = source.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if !opening.is_some_and(|line| line.starts_with("//!")) {
        failures.push(Failure::new(
            shown,
            1,
            "does not open with `//!` lines".to_owned(),
            "say its purpose, input, output and what it must not do, in two to six lines",
        ));
    }
    let tokens = lex(source);
    for (at, token) in tokens.iter().enumerate() {
        if !token.is('#') {
            continue;
        }
        let inner = usize::from(tokens.get(at + 1).is_some_and(|token| token.is('!')));
        let bracket = tokens.get(at + 1 + inner).is_some_and(|token| token.is('['));
        let allow =
            tokens.get(at + 2 + inner).is_some_and(|token| token.kind == Kind::Ident("allow".to_owned()));
        if bracket && allow {
            failures.push(Failure::new(
                shown,
                token.line,
                "a bare `allow` attribute".to_owned(),
                "use `#[expect(lint, reason = \"...\")]`, which complains when it is no longer needed",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<(usize, String)> {
        let mut failures = Vec::new();
        check(Path::new("a.rs"), source, &mut failures);
        failures.into_iter().map(|failure| (failure.line, failure.what)).collect()
    }

    #[test]
    fn a_good_file_passes() {
        assert_eq!(found("#![no_std]\n//! Purpose.\n// #[allow(x)]\nconst S: &str = \"#[allow(y)]\";\n"), []);
    }

    #[test]
    fn every_breach_is_found_with_its_line() {
        let what = found("// no opening\n#[allow(dead_code)]\nfn f() {}\n#![allow(x)]\n");
        assert_eq!(what.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 4]);
        let long = format!("//! x\n{}", "\n".repeat(MOST_LINES));
        assert_eq!(found(&long).len(), 1);
    }
}
