//! The paths and macro calls of a Rust file, use trees flattened.
//!
//! In: tokens. Out: what the file names, where, how deep in inline modules, and whether in tests.
//! Must not judge: which paths are allowed is the import table's matter.

use super::lexer::{Kind, Token};

/// A path of at least two segments, or a macro call (one segment that ends with `!`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The segments; `*` for a glob.
    pub(super) segments: Vec<String>,
    /// The line of the first of them, from 1.
    pub(super) line: usize,
    /// How many inline modules it is in.
    pub(super) inline_depth: usize,
    /// Whether one of them is `#[cfg(test)]`.
    pub(super) in_test: bool,
}

/// Everything that `tokens` name.
pub(super) fn named(tokens: &[Token]) -> Vec<Named> {
    let mut scan =
        Scan { tokens, at: 0, braces: 0, modules: Vec::new(), test_attribute: false, found: Vec::new() };
    while scan.at < tokens.len() {
        scan.step();
    }
    scan.found
}

struct Scan<'a> {
    tokens: &'a [Token],
    at: usize,
    braces: usize,
    /// The inline modules we are in: the brace depth inside each, and whether it is for tests.
    modules: Vec<(usize, bool)>,
    /// A `#[cfg(test)]` stands before the item that comes next.
    test_attribute: bool,
    found: Vec<Named>,
}

impl Scan<'_> {
    fn step(&mut self) {
        let token = &self.tokens[self.at];
        if token.is('{') {
            self.braces += 1;
            self.test_attribute = false;
        } else if token.is('}') {
            if self.modules.last().is_some_and(|(depth, _)| *depth == self.braces) {
                self.modules.pop();
            }
            self.braces = self.braces.saturating_sub(1);
        } else if token.is(';') {
            self.test_attribute = false;
        } else if is_cfg_test(&self.tokens[self.at..]) {
            self.test_attribute = true;
        } else if let Some(name) = token.ident() {
            if name == "mod" && self.tokens.get(self.at + 2).is_some_and(|token| token.is('{')) {
                self.modules.push((self.braces + 1, self.test_attribute));
                self.test_attribute = false;
            } else if !self.continues_a_path() {
                self.name();
                return;
            }
        }
        self.at += 1;
    }

    fn continues_a_path(&self) -> bool {
        let before = |n: usize| self.at.checked_sub(n).and_then(|at| self.tokens.get(at));
        before(1).is_some_and(|token| token.kind == Kind::PathSep)
            && before(2).is_some_and(|token| token.ident().is_some() || token.is('>'))
    }

    /// Takes the path or macro call that starts here.
    fn name(&mut self) {
        let mut paths = Vec::new();
        let end = self.tree(self.at, &mut Vec::new(), &mut paths);
        let is_macro = self.tokens.get(end).is_some_and(|token| token.is('!'))
            && self.tokens.get(end + 1).is_some_and(|token| ['(', '[', '{'].into_iter().any(|c| token.is(c)));
        for (mut segments, line) in paths {
            if is_macro && let Some(last) = segments.last_mut() {
                last.push('!');
            }
            if segments.len() > 1 || is_macro {
                self.push(segments, line);
            }
        }
        self.at = end.max(self.at + 1);
    }

    fn push(&mut self, segments: Vec<String>, line: usize) {
        let in_test = self.test_attribute || self.modules.iter().any(|(_, test)| *test);
        self.found.push(Named { segments, line, inline_depth: self.modules.len(), in_test });
    }

    /// Flattens the tree that starts at `at` below `prefix`; returns where it ends.
    fn tree(&self, mut at: usize, prefix: &mut Vec<String>, paths: &mut Vec<(Vec<String>, usize)>) -> usize {
        let length = prefix.len();
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        while let Some(token) = self.tokens.get(at) {
            if let Some(name) = token.ident() {
                prefix.push(name.to_owned());
            } else if token.is('*') {
                prefix.push("*".to_owned());
            } else if token.is('{') && at > 0 && self.tokens[at - 1].kind == Kind::PathSep {
                at = self.group(at + 1, prefix, paths);
                prefix.truncate(length);
                return at;
            } else {
                break;
            }
            at += 1;
            if self.tokens.get(at).is_none_or(|token| token.kind != Kind::PathSep) {
                break;
            }
            at += 1;
        }
        if prefix.len() > length {
            paths.push((prefix.clone(), line));
        }
        prefix.truncate(length);
        at
    }

    /// Flattens what is between the brace before `at` and its closing one; returns what is behind.
    fn group(&self, mut at: usize, prefix: &mut Vec<String>, paths: &mut Vec<(Vec<String>, usize)>) -> usize {
        while let Some(token) = self.tokens.get(at) {
            if token.is('}') {
                return at + 1;
            }
            let next = self.tree(at, prefix, paths);
            at = next.max(at + 1);
            // Over `as name` and the comma.
            while self.tokens.get(at).is_some_and(|token| !token.is(',') && !token.is('}')) {
                at += 1;
            }
            if self.tokens.get(at).is_some_and(|token| token.is(',')) {
                at += 1;
            }
        }
        at
    }
}

fn is_cfg_test(tokens: &[Token]) -> bool {
    let wanted = [
        Kind::Punct('#'),
        Kind::Punct('['),
        Kind::Ident("cfg".to_owned()),
        Kind::Punct('('),
        Kind::Ident("test".to_owned()),
        Kind::Punct(')'),
        Kind::Punct(']'),
    ];
    tokens.len() >= wanted.len() && tokens.iter().zip(&wanted).all(|(token, kind)| token.kind == *kind)
}

#[cfg(test)]
mod tests {
    use super::super::lexer::lex;
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        named(&lex(source)).iter().map(|named| named.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_are_flattened() {
        assert_eq!(
            paths("use crate::{model::{Gfn, block::*}, ingest as i};\nuse std::fs;"),
            ["crate::model::Gfn", "crate::model::block::*", "crate::ingest", "std::fs"]
        );
    }

    #[test]
    fn paths_in_expressions_and_macros_count_too() {
        assert_eq!(
            paths("fn f() { let x = crate::view::draw::<u8>(1); log::info!(\"{x}\"); println!(); a != b; }"),
            ["crate::view::draw", "log::info!", "println!"]
        );
        assert_eq!(paths("fn f() { ::std::fs::read(x) }"), ["std::fs::read"]);
    }

    #[test]
    fn inline_modules_and_tests_are_known() {
        let source = "use super::a;\nmod inner { use super::b; }\n#[cfg(test)]\nmod tests { use super::c; fn f() { x::y() } }\nuse super::d;";
        let found: Vec<_> = named(&lex(source))
            .into_iter()
            .map(|named| (named.segments[1].clone(), named.inline_depth, named.in_test))
            .collect();
        assert_eq!(
            found,
            [
                ("a".into(), 0, false),
                ("b".into(), 1, false),
                ("c".into(), 1, true),
                ("y".into(), 1, true),
                ("d".into(), 0, false)
            ]
        );
    }

    #[test]
    fn lines_are_those_of_the_branch() {
        let found = named(&lex("use crate::{\n    model,\n    view,\n};"));
        assert_eq!(found.iter().map(|named| named.line).collect::<Vec<_>>(), [2, 3]);
    }
}
