//! Who may import whom inside imr-user, and what the pure layers may not touch.
//!
//! In: the sources below `imr-user/src`. Out: each path that breaks the rules.
//! Must not know a layer's contents: only the table below changes when the design does.

use std::path::Path;

use super::Failure;
use super::lexer::lex;
use super::paths::{Named, named};

/// A layer, the layers it may import besides itself, and whether it may use imr-common.
struct Layer {
    name: &'static str,
    may_import: &'static [&'static str],
    wire_formats: bool,
    pure: bool,
}

const fn layer(name: &'static str, may_import: &'static [&'static str]) -> Layer {
    Layer { name, may_import, wire_formats: false, pure: false }
}

impl Layer {
    const fn pure(mut self) -> Self {
        self.pure = true;
        self
    }

    const fn with_wire_formats(mut self) -> Self {
        self.wire_formats = true;
        self
    }
}

/// The import table, in the order of the data.
const LAYERS: [Layer; 11] = [
    // What the kernel is asked for by more than one of those below.
    layer("sys", &[]),
    layer("ingest", &["model", "sys"]).with_wire_formats(),
    layer("correlate", &["ingest", "model"]).pure(),
    layer("model", &[]).pure(),
    layer("policy", &["model"]).pure(),
    layer("reclaim", &["policy", "model", "sys"]).with_wire_formats(),
    layer("guest", &["policy", "model"]).with_wire_formats(),
    layer("pipeline", &["ingest", "correlate", "model", "policy", "reclaim", "guest"]).with_wire_formats(),
    layer("view", &["model"]),
    layer("cli", &["pipeline", "view", "model"]),
    // The binaries; a folder of programs, not a module.
    layer("bin", &["cli", "pipeline", "view", "model"]),
];

/// What makes code impure: time, files, threads, locks, input and output, and the crates for them.
const IMPURE: [&[&str]; 12] = [
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["std", "fs"],
    &["std", "thread"],
    &["std", "sync", "Mutex"],
    &["std", "io"],
    &["std", "net"],
    &["std", "env"],
    &["tokio"],
    &["rustix"],
    &["libc"],
    &["aya"],
];
const LOGGING: [&str; 10] =
    ["log", "trace!", "debug!", "info!", "warn!", "error!", "println!", "eprintln!", "print!", "eprint!"];

/// Checks one file; `path` is relative to `imr-user/src`.
pub(super) fn check(path: &Path, shown: &Path, source: &str, failures: &mut Vec<Failure>) {
    let mut parts = path.iter().map(|part| part.to_string_lossy().into_owned()).collect::<Vec<_>>();
    let Some(file) = parts.pop() else { return };
    let stem = file.trim_end_matches(".rs").to_owned();
    if !matches!(stem.as_str(), "mod" | "lib" | "main") {
        parts.push(stem);
    }
    // lib.rs joins the layers; it has no rule to break.
    let Some(name) = parts.first() else { return };
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == *name) else {
        failures.push(Failure::new(
            shown,
            1,
            format!("module `{name}` is no layer of imr-user"),
            "move it into a layer, or add the layer to the design and to xtask/src/tidy/imports.rs",
        ));
        return;
    };
    let mut told = Vec::new();
    let all_test = parts.iter().any(|part| part == "tests");
    for named in named(&lex(source)) {
        if let Some(target) = target(layer, &parts, &named)
            && !allows(layer, target)
            && !told.contains(&(named.line, target.to_owned()))
        {
            told.push((named.line, target.to_owned()));
            failures.push(forbidden(layer, target, &named, shown));
        }
        if layer.pure && !all_test && !named.in_test {
            check_purity(layer, &named, shown, failures);
        }
    }
}

fn allows(layer: &Layer, target: &str) -> bool {
    match target {
        "imr_common" => layer.wire_formats,
        target => target == layer.name || layer.may_import.contains(&target),
    }
}

fn forbidden(layer: &Layer, target: &str, named: &Named, shown: &Path) -> Failure {
    let may =
        if layer.may_import.is_empty() { "no other layer".to_owned() } else { layer.may_import.join(", ") };
    let common = if layer.wire_formats { " and imr_common" } else { "" };
    Failure::new(
        shown,
        named.line,
        format!("layer {} imports {target} (`{}`)", layer.name, named.segments.join("::")),
        format!(
            "{} may import {may}{common}; take it as an argument or move it to a layer that both see",
            layer.name
        ),
    )
}

/// Which layer, or `imr_common`, a path leads to; `None` for what is not the table's business.
fn target<'a>(layer: &Layer, module: &[String], named: &'a Named) -> Option<&'a str> {
    let segments: Vec<&str> = named.segments.iter().map(String::as_str).collect();
    match *segments.first()? {
        "imr_common" => Some("imr_common"),
        // A program sees the library by its name, and its own files as `crate`.
        "imr_user" => segments.get(1).copied(),
        "crate" if layer.name == "bin" => None,
        "crate" => segments.get(1).copied(),
        "super" if layer.name != "bin" => {
            let ups = segments.iter().take_while(|segment| **segment == "super").count();
            let depth = module.len() + named.inline_depth;
            // Fewer steps stay inside the layer; more than the depth does not compile.
            (ups == depth).then(|| segments.get(ups).copied()).flatten()
        }
        _ => None,
    }
    .filter(|target| {
        LAYERS.iter().any(|layer| layer.name == *target) || matches!(*target, "*" | "imr_common")
    })
}

fn check_purity(layer: &Layer, named: &Named, shown: &Path, failures: &mut Vec<Failure>) {
    let segments: Vec<&str> = named.segments.iter().map(String::as_str).collect();
    let impure = IMPURE.iter().any(|path| leads_to(&segments, path));
    let logs = segments.len() == 1 && LOGGING.contains(&segments[0]) || segments[0] == "log";
    if impure || logs {
        failures.push(Failure::new(
            shown,
            named.line,
            format!("pure layer {} uses `{}`", layer.name, named.segments.join("::")),
            "pure layers take time, randomness and data as arguments and return what to do and say",
        ));
    }
}

/// Whether `segments` name something at or below `path`, or glob over it.
fn leads_to(segments: &[&str], path: &[&str]) -> bool {
    segments.starts_with(path)
        || segments.split_last().is_some_and(|(last, before)| *last == "*" && path.starts_with(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, source: &str) -> Vec<String> {
        let mut failures = Vec::new();
        check(Path::new(path), Path::new(path), source, &mut failures);
        failures.iter().map(|failure| format!("{}: {}", failure.line, failure.what)).collect()
    }

    #[test]
    fn the_table_holds() {
        assert_eq!(
            found("model/block.rs", "use crate::policy::Plan;"),
            ["1: layer model imports policy (`crate::policy::Plan`)"]
        );
        assert_eq!(found("policy/mod.rs", "use crate::model::Gfn; use crate::policy::plan;"), [""; 0]);
        assert_eq!(found("view/heatmap.rs", "use crate::{model::X, pipeline::Y};").len(), 1);
        assert_eq!(found("cli/run.rs", "use crate::{model::X, pipeline::Y, view::Z};"), [""; 0]);
        assert_eq!(
            found("pipeline/mod.rs", "fn f() {\n crate::cli::run();\n crate::view::draw() }").len(),
            2
        );
    }

    #[test]
    fn wire_formats_stay_at_the_borders() {
        assert_eq!(found("ingest/decode.rs", "use imr_common::host_abi;"), [""; 0]);
        // One statement, one complaint.
        assert_eq!(found("correlate/mod.rs", "use imr_common::host_abi::{Event, Call};").len(), 1);
    }

    #[test]
    fn super_does_not_escape() {
        assert_eq!(found("model/a/b.rs", "use super::super::super::ingest::X;").len(), 1);
        assert_eq!(found("model/a/b.rs", "use super::super::c::X;"), [""; 0]);
        assert_eq!(found("model/mod.rs", "use super::view::X;").len(), 1);
        assert_eq!(
            found("model/mod.rs", "mod inner { use super::view::X; use super::super::cli::Y; }").len(),
            1
        );
    }

    #[test]
    fn pure_layers_have_no_clock_file_or_log_line() {
        assert_eq!(
            found("model/a.rs", "use std::time::{Duration, Instant};"),
            ["1: pure layer model uses `std::time::Instant`"]
        );
        assert_eq!(found("policy/a.rs", "use std::time::*;").len(), 1);
        assert_eq!(
            found("correlate/a.rs", "fn f() { std::fs::read(\"x\"); log::warn!(\"x\"); println!() }").len(),
            3
        );
        assert_eq!(found("model/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }"), [""; 0]);
        assert_eq!(found("model/tests.rs", "use std::fs;"), [""; 0]);
        assert_eq!(found("ingest/a.rs", "use std::fs;"), [""; 0]);
    }

    #[test]
    fn programs_use_the_library_by_the_table() {
        assert_eq!(found("bin/imr.rs", "use imr_user::cli; mod x; use crate::x::y;"), [""; 0]);
        assert_eq!(found("bin/imr.rs", "use imr_user::reclaim::punch;").len(), 1);
    }

    #[test]
    fn a_module_outside_the_table_is_found() {
        assert_eq!(found("utils/mod.rs", "").len(), 1);
        assert_eq!(found("lib.rs", "pub mod model;"), [""; 0]);
    }
}
