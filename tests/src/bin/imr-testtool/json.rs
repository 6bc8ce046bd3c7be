//! `json`: questions of a shell script to a file of JSON lines, such as the output of `imr run --json`.
//!
//! In: a file with one JSON object a line, and filters. Out: a number, a field or a line.
//! Must not pass over a line that is not JSON, unless it is the last and still being written.

use std::fs;
use std::io::{self, Read as _};
use std::str::FromStr;

use serde_json::Value;

use crate::args::Args;
use crate::json_wait::{self, Action};
use crate::{Failure, failed};

/// `imr-testtool json`.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let verb = args.word("lines, count, sum, get, wait or quiet")?;
    let file = args.option("--file")?;
    let from: usize = args.parsed("--from")?.unwrap_or(0);
    let last = args.flag("--last");
    let field = args.option("--field")?;
    let timeout: Option<f64> = args.parsed("--timeout")?;
    let quiet: Option<f64> = args.parsed("--for")?;
    let action = Action::from_args(&mut args)?;
    let filters = args.rest()?.iter().map(|text| text.parse()).collect::<Result<Vec<Filter>, _>>()?;
    let needed = || field.as_deref().ok_or_else(|| Failure::Usage("--field is missing".into()));
    if verb == "wait" {
        let file = file.ok_or_else(|| Failure::Usage("--file is missing".into()))?;
        let found = json_wait::wait(&file, from, &filters, timeout.unwrap_or(30.0), action)?;
        println!(
            "{}",
            field.map_or_else(|| Some(found.to_string()), |path| shown(&found, &path)).unwrap_or_default()
        );
        return Ok(());
    }
    if verb == "quiet" {
        let (file, quiet) =
            file.zip(quiet).ok_or_else(|| Failure::Usage("--file or --for is missing".into()))?;
        return json_wait::quiet(&file, &filters, quiet, timeout.unwrap_or(60.0));
    }
    let text = match &file {
        Some(path) => fs::read_to_string(path).map_err(failed(path))?,
        None => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(failed("standard input"))?;
            text
        }
    };
    let from = if last { complete_lines(&text).count().saturating_sub(1) } else { from };
    let objects = parse(&text, from)?;
    let mut chosen = objects.iter().filter(|object| filters.iter().all(|filter| filter.holds(object)));
    match verb.as_str() {
        "lines" => println!("{}", complete_lines(&text).count()),
        "count" => println!("{}", chosen.count()),
        "sum" => {
            let path = needed()?;
            let values = chosen.flat_map(|object| all(object, path));
            println!("{}", values.filter_map(Value::as_i64).sum::<i64>());
        }
        "get" => {
            let last = chosen.next_back();
            let found = match &field {
                Some(path) => last.and_then(|object| shown(object, path)),
                None => last.map(Value::to_string),
            };
            println!("{}", found.ok_or_else(|| Failure::Failed("nothing is like that".into()))?);
        }
        other => return Err(Failure::Usage(format!("no verb {other:?}"))),
    }
    Ok(())
}

/// A condition on one field. A field that is not there fulfils only `!=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    path: String,
    comparison: Comparison,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Different,
    AtLeast,
    AtMost,
}

impl FromStr for Filter {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        use Comparison::{AtLeast, AtMost, Different, Equal};
        for (sign, comparison) in [("!=", Different), (">=", AtLeast), ("<=", AtMost), ("=", Equal)] {
            if let Some((path, value)) = text.split_once(sign) {
                return Ok(Self { path: path.to_owned(), comparison, value: value.to_owned() });
            }
        }
        Err(Failure::Usage(format!("{text:?} is no filter such as event=done")))
    }
}

impl Filter {
    /// Whether `object` fulfils it.
    pub(crate) fn holds(&self, object: &Value) -> bool {
        let found = shown(object, &self.path);
        let number = |text: &str| text.parse::<f64>().ok();
        let order = found.as_deref().and_then(number).zip(number(&self.value));
        match self.comparison {
            Comparison::Equal => found.as_ref() == Some(&self.value),
            Comparison::Different => found.as_ref() != Some(&self.value),
            Comparison::AtLeast => order.is_some_and(|(found, wanted)| found >= wanted),
            Comparison::AtMost => order.is_some_and(|(found, wanted)| found <= wanted),
        }
    }
}

/// The lines of `text` that have their end.
pub(crate) fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

/// The objects from line `from` on.
fn parse(text: &str, from: usize) -> Result<Vec<Value>, Failure> {
    complete_lines(text).enumerate().skip(from).map(|(number, line)| parse_line(number, line)).collect()
}

/// One line; `number` is for the message.
pub(crate) fn parse_line(number: usize, line: &str) -> Result<Value, Failure> {
    serde_json::from_str(line)
        .map_err(|error| Failure::Failed(format!("line {number} is not JSON ({error}): {line}")))
}

/// What is at a path such as `vms.0.name`; the first of what is at one such as `vms.state:on.name`.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    all(object, path).into_iter().next()
}

/// All that is at a path: `list.NAME:VALUE` is every item whose field NAME is VALUE.
fn all<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    path.split('.')
        .fold(vec![object], |values, name| values.into_iter().flat_map(|value| below(value, name)).collect())
}

fn below<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    match (value, name.split_once(':')) {
        (Value::Array(items), Some((name, wanted))) => {
            items.iter().filter(|item| shown(item, name).as_deref() == Some(wanted)).collect()
        }
        (Value::Array(items), None) => {
            name.parse::<usize>().ok().and_then(|index| items.get(index)).into_iter().collect()
        }
        (other, _) => other.get(name).into_iter().collect(),
    }
}

/// The same as a shell wants it: strings without quotation marks.
fn shown(object: &Value, path: &str) -> Option<String> {
    at(object, path).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "{\"event\":\"claim\",\"seq\":1,\"vm\":{\"name\":\"a\"}}\n\
                       {\"event\":\"done\",\"seq\":1,\"sizes\":[5,6],\"vm\":{\"name\":\"a\"}}\n{\"event\":\"cl";

    fn matching(filters: &[&str]) -> usize {
        let filters: Vec<Filter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        let objects = parse(LOG, 0).unwrap();
        objects.iter().filter(|object| filters.iter().all(|filter| filter.holds(object))).count()
    }

    #[test]
    fn filters_are_all_to_hold() {
        assert_eq!(matching(&[]), 2, "the line that is still being written does not count");
        assert_eq!(matching(&["event=done", "vm.name=a"]), 1);
        assert_eq!(matching(&["event=done", "vm.name!=a"]), 0);
        assert_eq!(matching(&["seq>=1"]), 2);
        assert_eq!(matching(&["seq>=2"]), 0);
        assert_eq!(matching(&["sizes.1=6"]), 1);
        assert_eq!(matching(&["absent!=x"]), 2);
    }

    #[test]
    fn items_of_a_list_are_chosen_by_a_field() {
        let text = r#"{"cells":[{"fact":"a","n":1},{"fact":"b","n":2},{"fact":"a","n":4}]}"#;
        let object: Value = serde_json::from_str(text).unwrap();
        let numbers = |path: &str| all(&object, path).iter().filter_map(|value| value.as_i64()).sum::<i64>();
        assert_eq!((numbers("cells.fact:a.n"), numbers("cells.fact:c.n"), numbers("cells.1.n")), (5, 0, 2));
        assert_eq!(shown(&object, "cells.fact:b.n").as_deref(), Some("2"));
        assert_eq!((numbers("cells.n:4.n"), numbers("cells.absent.n")), (4, 0));
    }

    #[test]
    fn a_line_that_is_not_json_is_named() {
        let told = parse("{}\nthread panicked\n", 0).unwrap_err().to_string();
        assert!(told.contains("line 1") && told.contains("panicked"), "{told}");
        assert!(parse("nonsense\n{}\n", 1).is_ok(), "what comes before is none of our business");
    }
}
