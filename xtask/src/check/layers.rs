//! Packages: `services/*` → `crates/*` → `muster-domain`. A service meets another service only
//! through `proto/`; `tests` and `load-tests` may start several at once.

use std::path::Path;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// Crates that start processes or serve tests: no program may carry them.
const FOR_TESTS: [&str; 2] = ["muster-local", "muster-testkit"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layer {
    Domain,
    Crate,
    Service,
    /// `tests`, `load-tests` and `xtask`: nothing depends on them.
    Top,
}

/// Each dependency that points the wrong way.
pub(super) fn violations(workspace: &Workspace) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for package in workspace.packages() {
        let folder = package
            .manifest_path
            .parent()
            .context("a manifest without a folder")?;
        let from = layer(workspace.root(), folder);
        for dependency in &package.dependencies {
            let Some(path) = &dependency.path else {
                continue;
            };
            let to = layer(workspace.root(), path);
            let dev = dependency.kind.as_deref() == Some("dev");
            if let Some(rule) = breaks(&package.name, from, &dependency.name, to, dev) {
                wrong.push(format!(
                    "{} depends on {}: {rule}",
                    package.name, dependency.name
                ));
            }
        }
    }
    Ok(wrong)
}

fn layer(root: &Path, folder: &Path) -> Layer {
    let inside = folder.strip_prefix(root).unwrap_or(folder);
    if inside == Path::new("crates/muster-domain") {
        Layer::Domain
    } else if inside.starts_with("crates") {
        Layer::Crate
    } else if inside.starts_with("services") {
        Layer::Service
    } else {
        Layer::Top
    }
}

fn breaks(from: &str, layer: Layer, to: &str, to_layer: Layer, dev: bool) -> Option<&'static str> {
    let for_tests = FOR_TESTS.contains(&to);
    match (layer, to_layer) {
        (_, Layer::Top) => Some("nothing depends on tests, load-tests or xtask"),
        (Layer::Domain, _) => Some("muster-domain depends on nothing of ours"),
        (Layer::Crate, Layer::Service) => Some("crates do not know services"),
        (Layer::Service, Layer::Service) => Some("services meet through proto/"),
        (Layer::Crate | Layer::Service, Layer::Crate)
            if for_tests && !dev && !FOR_TESTS.contains(&from) =>
        {
            Some("it may be a dev-dependency only")
        }
        (Layer::Crate | Layer::Service, Layer::Crate | Layer::Domain) | (Layer::Top, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_point_down_and_never_sideways_between_services() {
        use Layer::{Crate, Domain, Service, Top};
        let wrong =
            |from, layer, to, to_layer, dev| breaks(from, layer, to, to_layer, dev).is_some();
        assert!(!wrong(
            "site-server",
            Service,
            "muster-runtime",
            Crate,
            false
        ));
        assert!(!wrong(
            "muster-proto",
            Crate,
            "muster-domain",
            Domain,
            false
        ));
        assert!(!wrong("load-tests", Top, "client-agent", Service, false));
        assert!(!wrong(
            "site-server",
            Service,
            "muster-testkit",
            Crate,
            true
        ));
        assert!(!wrong(
            "muster-testkit",
            Crate,
            "muster-local",
            Crate,
            false
        ));
        assert!(wrong(
            "site-server",
            Service,
            "muster-testkit",
            Crate,
            false
        ));
        assert!(wrong("site-server", Service, "client-agent", Service, true));
        assert!(wrong("muster-proto", Crate, "site-server", Service, false));
        assert!(wrong("muster-domain", Domain, "muster-proto", Crate, false));
        assert!(wrong("site-server", Service, "load-tests", Top, true));
    }
}
