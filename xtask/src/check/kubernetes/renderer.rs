//! Finds a program that renders overlays.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use muster_local::packages::{self, Install, find_program};
use muster_local::process;
use serde_json::Value;

use crate::workspace::say;

/// Components, `labels` and `patches` as we use them are known from this version of Kustomize on.
const OLDEST: u32 = 5;

/// A program, and the words before the folder.
pub(super) struct Renderer {
    program: PathBuf,
    words: &'static [&'static str],
}

impl Renderer {
    /// A kubectl or kustomize that is new enough, Debian's where it is. `None`: there is none.
    pub(super) fn find() -> Result<Option<Self>> {
        let found = [("kubectl", &["kustomize"]), ("kustomize", &["build"])]
            .into_iter()
            .filter_map(|(name, words)| {
                let program = find_program(name)?;
                Some(Self { program, words })
            })
            .find(Self::will_do);
        if found.is_some() {
            return Ok(found);
        }
        let installed = packages::ensure_kubectl(Install::Yes, &say)?.map(|program| Self {
            program,
            words: &["kustomize"],
        });
        Ok(installed.filter(Self::will_do))
    }

    /// Whether it runs and is new enough.
    fn will_do(&self) -> bool {
        let mut command = Command::new(&self.program);
        let place = if self.words == ["kustomize"] {
            command.args(["version", "--client", "--output=json"]);
            "/kustomizeVersion"
        } else {
            command.args(["version", "--output=json"]);
            "/version"
        };
        let answer = process::output(command, "").unwrap_or_default();
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let version = answer.pointer(place).and_then(Value::as_str);
        version.and_then(major).is_some_and(|it| it >= OLDEST)
    }

    /// What `kubectl apply` would send.
    pub(super) fn render(&self, folder: &Path) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(self.words).arg(folder);
        process::output(command, "").with_context(|| format!("cannot render {}", folder.display()))
    }
}

/// The first number of `v5.5.0` or `kustomize/v5.5.0`.
pub(super) fn major(version: &str) -> Option<u32> {
    version.rsplit('v').next()?.split('.').next()?.parse().ok()
}
