//! Only tests arm themselves: `muster_runtime::faults::arm` is named nowhere else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The module itself.
const HOME: &str = "crates/muster-runtime/src/faults.rs";

/// Each file that could arm a program and is no test.
pub(super) fn violations(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for folder in ["crates", "services", "tests", "load-tests", "xtask"] {
        collect(&root.join(folder), &mut files);
    }
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(root).unwrap_or(&file);
        if !is_test(inside) && arms(&fs::read_to_string(&file)?) {
            wrong.push(format!(
                "{}: only tests may arm failpoints and controls",
                inside.display()
            ));
        }
    }
    Ok(wrong)
}

/// Files that no production program is made of.
fn is_test(inside: &Path) -> bool {
    let parts: Vec<_> = inside.iter().collect();
    inside == Path::new(HOME)
        || inside.starts_with("tests")
        || inside.starts_with("load-tests")
        // This file names it in its own tests.
        || inside == Path::new("xtask/src/check/faults.rs")
        || parts.get(2).is_some_and(|it| *it == "tests")
}

/// Whether a text names `arm` of the module in any way that Rust has: by its path, in a group of
/// names, or by taking everything.
fn arms(text: &str) -> bool {
    let squeezed: String = text.chars().filter(|it| !it.is_whitespace()).collect();
    squeezed.match_indices("faults::").any(|(at, path)| {
        let rest = &squeezed[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().is_some_and(|names| {
                names
                    .split(',')
                    .any(|it| it.starts_with("arm") || it == "*")
            }),
            None => rest.starts_with("arm") || rest.starts_with('*'),
        }
    })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_it_is_seen_and_what_production_may_do_is_not() {
        for text in [
            "muster_runtime::faults::arm(plan)",
            "use muster_runtime::faults::{Plan,\n    arm};",
            "use muster_runtime::faults::arm as quiet;",
            "use muster_runtime::faults::*;",
        ] {
            assert!(arms(text), "{text}");
        }
        for text in [
            "faults::point(\"mp.before_publish\")",
            "use muster_runtime::faults::{self, Control};",
            "if faults::without(Control::AckBeforeCommit) { alarm() }",
        ] {
            assert!(!arms(text), "{text}");
        }
    }

    #[test]
    fn tests_are_told_from_programs_by_their_folder() {
        for test in [
            "tests/src/bin/faulty.rs",
            "crates/muster-runtime/tests/x.rs",
        ] {
            assert!(is_test(Path::new(test)), "{test}");
        }
        for program in [
            "services/site-server/src/main.rs",
            "crates/x/src/tests/y.rs",
        ] {
            assert!(!is_test(Path::new(program)), "{program}");
        }
    }
}
