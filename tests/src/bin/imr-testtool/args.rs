//! The command line of a subcommand: `--name value` and bare words.
//!
//! In: its words. Out: options by name, then the words that are left.
//! Must not accept what nobody asked for: a misspelt option is an error.

use std::str::FromStr;

use crate::Failure;

/// The words that were not taken yet.
#[derive(Debug)]
pub(crate) struct Args {
    words: Vec<String>,
}

impl Args {
    pub(crate) fn new(words: impl Iterator<Item = String>) -> Self {
        Self { words: words.collect() }
    }

    /// Takes `--name VALUE`.
    pub(crate) fn option(&mut self, name: &str) -> Result<Option<String>, Failure> {
        let Some(at) = self.words.iter().position(|word| word == name) else { return Ok(None) };
        if at + 1 >= self.words.len() {
            return Err(Failure::Usage(format!("{name} needs a value")));
        }
        self.words.remove(at);
        Ok(Some(self.words.remove(at)))
    }

    /// Takes `--name VALUE` and reads the value.
    pub(crate) fn parsed<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Failure> {
        let Some(text) = self.option(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Failure::Usage(format!("{name}: {text:?} is no such value")))
    }

    /// Takes `--name`, an option without a value.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let at = self.words.iter().position(|word| word == name);
        at.map(|at| self.words.remove(at)).is_some()
    }

    /// Takes a bare `--` and all that follows it.
    pub(crate) fn after_dashes(&mut self) -> Vec<String> {
        let Some(at) = self.words.iter().position(|word| word == "--") else { return Vec::new() };
        let after = self.words.split_off(at + 1);
        self.words.truncate(at);
        after
    }

    /// Takes the first bare word.
    pub(crate) fn word(&mut self, what: &str) -> Result<String, Failure> {
        if self.words.is_empty() {
            return Err(Failure::Usage(format!("{what} is missing")));
        }
        Ok(self.words.remove(0))
    }

    /// The words that are left; an option among them is one that does not exist.
    pub(crate) fn rest(self) -> Result<Vec<String>, Failure> {
        match self.words.iter().find(|word| word.starts_with("--")) {
            Some(unknown) => Err(Failure::Usage(format!("no option {unknown}"))),
            None => Ok(self.words),
        }
    }

    /// Ends the reading: nothing may be left.
    pub(crate) fn end(self) -> Result<(), Failure> {
        match self.rest()?.first() {
            Some(word) => Err(Failure::Usage(format!("{word:?} is too much"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Args {
        Args::new(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_and_words_may_be_mixed() {
        let mut args = args("wait --timeout 5 a=b --file x c=d");
        assert_eq!(args.word("verb").unwrap(), "wait");
        assert_eq!(args.parsed::<u64>("--timeout").unwrap(), Some(5));
        assert_eq!(args.option("--file").unwrap().as_deref(), Some("x"));
        assert_eq!(args.rest().unwrap(), ["a=b", "c=d"]);
    }

    #[test]
    fn what_follows_two_dashes_is_somebody_elses() {
        let mut args = args("--size 80x24 file --help -- top --size 3 -- x");
        assert_eq!(args.after_dashes(), ["top", "--size", "3", "--", "x"]);
        assert!(args.flag("--help") && !args.flag("--help"));
        assert_eq!(args.option("--size").unwrap().as_deref(), Some("80x24"));
        assert_eq!(args.rest().unwrap(), ["file"]);
    }

    #[test]
    fn what_nobody_asked_for_is_an_error() {
        assert!(args("--tiemout 5").rest().is_err());
        assert!(args("more").end().is_err());
        assert!(args("--mib").option("--mib").is_err());
        assert!(args("--mib lots").parsed::<u64>("--mib").is_err());
    }
}
