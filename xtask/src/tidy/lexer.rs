//! A Rust lexer that knows just enough for tidy: names, `::` and punctuation, with their lines.
//!
//! In: source text. Out: tokens; comments and literals are left out.
//! Must not try to understand the language: what tokens mean is the callers' matter.

/// A token that tidy looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: Kind,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// The kinds of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or keyword; raw ones without their `r#`.
    Ident(String),
    /// `::`
    PathSep,
    /// Any other punctuation, one character at a time.
    Punct(char),
}

impl Token {
    /// The name, if this is one.
    pub(super) fn ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }

    /// Whether this is the punctuation `c`.
    pub(super) fn is(&self, c: char) -> bool {
        self.kind == Kind::Punct(c)
    }
}

/// Cuts `source` into tokens.
pub(super) fn lex(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source, line: 1, tokens: Vec::new() };
    while lexer.step() {}
    lexer.tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.skip(block_comment(self.rest));
        } else if let Some(length) = string(self.rest) {
            self.skip(length);
        } else if first == '\'' {
            self.skip(char_or_lifetime(self.rest));
        } else if let Some(name) = name(self.rest) {
            let token = Kind::Ident(name.trim_start_matches("r#").to_owned());
            self.take(token, name.len());
        } else if self.rest.starts_with("::") {
            self.take(Kind::PathSep, 2);
        } else if first.is_whitespace() || first.is_ascii_digit() {
            // A number's digits go one by one, its suffix too: it holds nothing of interest.
            self.skip(number(self.rest).max(first.len_utf8()));
        } else {
            self.take(Kind::Punct(first), first.len_utf8());
        }
        true
    }

    fn take(&mut self, kind: Kind, length: usize) {
        self.tokens.push(Token { kind, line: self.line });
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        let (gone, rest) = self.rest.split_at(length);
        self.line += gone.matches('\n').count();
        self.rest = rest;
    }
}

fn block_comment(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// The length of the string literal that `text` starts with, prefix included.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|after| after.starts_with('"') || raw_start(prefix, after))
    })?;
    let body = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let from = hashes + 1;
        let length = body.get(from..)?.find(&end).map_or(body.len(), |at| from + at + end.len());
        return Some(prefix.len() + length);
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

fn raw_start(prefix: &str, after: &str) -> bool {
    prefix.ends_with('r') && after.starts_with('#') && after.trim_start_matches('#').starts_with('"')
}

/// The length of the character literal, or of the lifetime, that `text` starts with.
fn char_or_lifetime(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            // The escaped character itself may be a quote.
            let from = chars.next().map_or(text.len(), |(at, c)| at + c.len_utf8());
            text[from..].find('\'').map_or(text.len(), |at| from + at + 1)
        }
        Some((at, c)) if text[at + c.len_utf8()..].starts_with('\'') => at + c.len_utf8() + 1,
        _ => {
            1 + text[1..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .map(char::len_utf8)
                .sum::<usize>()
        }
    }
}

fn name(text: &str) -> Option<&str> {
    let raw = text.starts_with("r#") && text[2..].starts_with(|c: char| c.is_alphabetic() || c == '_');
    let from = if raw { 2 } else { 0 };
    let body = &text[from..];
    if !body.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return None;
    }
    let length = body.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(body.len());
    Some(&text[..from + length])
}

fn number(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str) -> Vec<String> {
        lex(source).iter().filter_map(|token| token.ident().map(str::to_owned)).collect()
    }

    #[test]
    fn comments_and_literals_hold_no_names() {
        assert_eq!(
            names("a // b\n/* c /* d */ e */ f \"g \\\" h\" i r#\"j \" k\"# l b'm' 'n' '\\'' o"),
            ["a", "f", "i", "l", "b", "o"]
        );
        assert_eq!(
            names("fn f<'a>(x: &'a str) -> char { 'x' } 0x12ab_u32 br\"z\""),
            ["fn", "f", "x", "str", "char"]
        );
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let tokens = lex("a\n\"two\nlines\"\n/* and\nmore */ b");
        assert_eq!(tokens.last().map(|token| token.line), Some(5));
    }

    #[test]
    fn unfinished_text_ends() {
        for source in ["漢'字", "b漢", "'漢", "\"漢", "\"abc", "r#\"abc", "/* abc", "'", "'\\", "b\"", "r#"]
        {
            lex(source);
        }
    }
}
