//! `deploy/kubernetes`: every overlay is rendered, each object parsed as what it says it is with
//! nothing left over, and the whole held against rules of our own. No cluster is asked.

mod config;
mod network;
mod objects;
mod operators;
mod renderer;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use self::renderer::Renderer;
use crate::workspace::{Workspace, say};

const FOLDER: &str = "deploy/kubernetes";
/// Has the table of the secrets that people make.
const README: &str = "deploy/kubernetes/README.md";

/// Name and keys.
type Secrets = BTreeMap<String, BTreeSet<String>>;

/// Renders all overlays and reports what is wrong with them.
pub(super) fn run(workspace: &Workspace) -> Result<()> {
    let page = workspace.root().join(README);
    let page =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let secrets = secrets(&page);
    let root = workspace.root().join(FOLDER);
    let Some(renderer) = Renderer::find()? else {
        say(
            "NOT CHECKED: no kubectl 1.27 or kustomize 5 is here, nor in this machine's packages, so nobody \
             has rendered deploy/kubernetes; only its files are read, one by one",
        );
        return super::report(&unrendered(&root)?);
    };
    let folder = root.join("overlays");
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for overlay in folders(&folder)? {
        let text = renderer.render(&folder.join(&overlay))?;
        let found = violations(&text, &secrets);
        wrong.extend(found.wrong.iter().map(|it| format!("{overlay}: {it}")));
        used.extend(found.secrets);
    }
    if wrong.is_empty() {
        for name in secrets.keys().filter(|it| !used.contains(*it)) {
            wrong.push(format!("{README}: nothing uses the secret {name}"));
        }
    }
    super::report(&wrong)
}

/// The files that objects are in, as they are.
fn unrendered(folder: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            wrong.extend(unrendered(&path)?);
        } else if name.ends_with(".yaml") && name != "kustomization.yaml" {
            let mut told = Vec::new();
            objects::parse(&fs::read_to_string(&path)?, &mut told);
            wrong.extend(told.iter().map(|it| format!("{}: {it}", path.display())));
        }
    }
    Ok(wrong)
}

/// What was found in one overlay.
#[derive(Default)]
struct Found {
    secrets: BTreeSet<String>,
    wrong: Vec<String>,
}

fn violations(text: &str, secrets: &Secrets) -> Found {
    let mut found = Found::default();
    let all = objects::parse(text, &mut found.wrong);
    // What is not what it says it is would only cause riddles below.
    if found.wrong.is_empty() {
        found.secrets = rules::check(&all, secrets, &mut found.wrong);
        network::check(&all, &mut found.wrong);
        config::check(&all, &mut found.wrong);
    }
    found
}

/// Reads the rows ``| `name` | `key`, `key` | ...``.
fn secrets(page: &str) -> Secrets {
    let words = |cell: &str| -> Vec<String> {
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted.map(str::to_owned).collect()
    };
    let mut found = Secrets::new();
    for line in page.lines().filter(|it| it.starts_with("| `")) {
        let mut cells = line.split('|').skip(1);
        let (names, keys) = (cells.next(), cells.next());
        for name in words(names.unwrap_or_default()) {
            found.insert(name, words(keys.unwrap_or_default()).into_iter().collect());
        }
    }
    found
}

fn folders(parent: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(parent).with_context(|| format!("cannot read {}", parent.display()))?;
    let mut found: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    if found.is_empty() {
        bail!("{} has no overlays", parent.display());
    }
    Ok(found)
}
