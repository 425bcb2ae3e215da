//! `docs/architecture.md` leads a newcomer through files: each name in it must exist.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const PAGE: &str = "docs/architecture.md";
const ENDINGS: [&str; 6] = [".rs", ".toml", ".proto", ".sql", ".md", ".sh"];

/// Names of files in the page that are not there. A name counts from the root of the repository,
/// from the page's own folder (a link), or from the service or crate that the page has named last
/// (`client-agent  src/reporter.rs`).
pub(super) fn violations(root: &Path) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(root.join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
    let mut homes = Vec::new();
    for parent in ["services", "crates"] {
        for folder in fs::read_dir(root.join(parent))?.flatten() {
            homes.push((
                folder.file_name().to_string_lossy().into_owned(),
                folder.path(),
            ));
        }
    }
    let mut wrong = Vec::new();
    let docs = root.join("docs");
    let mut last = root.to_path_buf();
    for (number, line) in text.lines().enumerate() {
        for token in tokens(line) {
            for part in token.split('/') {
                if let Some((_, path)) = homes.iter().find(|(name, _)| name == part) {
                    last.clone_from(path);
                }
            }
            let is_file = ENDINGS.iter().any(|it| token.ends_with(it));
            let exists = || {
                let folders = [root, &docs, &last];
                folders.iter().any(|it| it.join(token).is_file())
            };
            if is_file && !exists() {
                wrong.push(format!("{PAGE}:{}: {token} does not exist", number + 1));
            }
        }
    }
    Ok(wrong)
}

fn tokens(line: &str) -> impl Iterator<Item = &str> {
    line.split(|it: char| !(it.is_ascii_alphanumeric() || matches!(it, '/' | '.' | '_' | '-')))
        .map(|it| it.trim_matches(['.', '/']))
        .filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_gone_is_named_with_its_line() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["docs", "crates", "services/client-agent/src"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("services/client-agent/src/spool.rs"), "").unwrap();
        let page = "client-agent   src/spool.rs   keeps it\n`services/client-agent/src/spool.rs`.\n(src/gone.rs)\n";
        fs::write(root.path().join(PAGE), page).unwrap();
        let wrong = violations(root.path()).unwrap();
        assert_eq!(
            wrong,
            ["docs/architecture.md:3: src/gone.rs does not exist"]
        );
    }
}
