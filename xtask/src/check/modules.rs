//! Modules inside a service: `grpc`, `bus`, `tasks` → `app` → `store`, and everyone → `domain`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The modules a module must not name. Modules that are not listed (config, providers, …) are
/// free, and so is a module itself.
const FORBIDDEN: [(&str, &[&str]); 6] = [
    ("domain", &["app", "store", "grpc", "bus", "tasks"]),
    ("store", &["app", "grpc", "bus", "tasks"]),
    ("app", &["grpc", "bus", "tasks"]),
    ("grpc", &["store", "bus", "tasks"]),
    ("bus", &["store", "grpc", "tasks"]),
    ("tasks", &["store", "grpc", "bus"]),
];

/// A service has one error type, in `app`, and everyone may say it.
const ERRORS: [&str; 2] = ["Error", "Kind"];

/// Each `crate::…` in a service that points the wrong way. Unit tests may look anywhere.
pub(super) fn violations(root: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for service in fs::read_dir(root.join("services"))?.flatten() {
        let source = service.path().join("src");
        for (module, forbidden) in FORBIDDEN {
            let mut files = Vec::new();
            let single = source.join(module).with_extension("rs");
            if single.is_file() {
                files.push(single);
            }
            collect(&source.join(module), &mut files)?;
            for file in files {
                let text = fs::read_to_string(&file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                for (line, used, item) in uses(&text) {
                    if forbidden.contains(&used.as_str()) && !ERRORS.contains(&item.as_str()) {
                        let shown = file.strip_prefix(root).unwrap_or(&file).display();
                        wrong.push(format!("{shown}:{line}: {module} must not use {used}"));
                    }
                }
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    Ok(wrong)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The modules that a file names behind `crate::`: the line, the top-level module, and what
/// of it (empty for the module itself).
fn uses(text: &str) -> Vec<(usize, String, String)> {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        // Comments may name anything; the line stays, so that numbers are right.
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let part_of_a_word = code[..at]
            .chars()
            .next_back()
            .is_some_and(|it| it.is_alphanumeric() || it == '_' || it == '$');
        if part_of_a_word {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        for path in entries(&code[at + "crate::".len()..]) {
            let module = word(path);
            let rest = path[module.len()..].strip_prefix("::").unwrap_or_default();
            for item in entries(rest) {
                found.push((line, module.clone(), word(item)));
            }
        }
    }
    found
}

/// The entries of `{a::b, c::{d, e}}…`, or the text itself when it is no group.
fn entries(text: &str) -> Vec<&str> {
    let Some(group) = text.strip_prefix('{') else {
        return vec![text];
    };
    let mut found = Vec::new();
    let mut depth = 0_u32;
    let mut entry = 0;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                found.push(group[entry..at].trim());
                entry = at + 1;
                if letter == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found.retain(|it| !it.is_empty());
    found
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|it| it.is_alphanumeric() || *it == '_')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_use_is_seen_and_comments_and_tests_are_not() {
        let text = "use crate::{app::{self, Error}, store,\n    domain};\n// crate::grpc\nfn f() { crate::bus::g(); mycrate::tasks() }\n#[cfg(test)]\nuse crate::tasks;\n";
        let seen: Vec<String> = uses(text)
            .iter()
            .map(|it| format!("{}.{}", it.1, it.2))
            .collect();
        assert_eq!(
            seen,
            ["app.self", "app.Error", "store.", "domain.", "bus.g"]
        );
        assert_eq!(uses(text)[4].0, 4);
    }
}
