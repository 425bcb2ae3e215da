//! `deploy/prometheus` and `deploy/grafana`: alerts that somebody can act on, dashboards that show
//! what the code really counts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use muster_local::packages::{self, Install};
use serde::Deserialize;
use serde_json::Value;

use crate::workspace::{Workspace, say};

const PROMETHEUS: &str = "deploy/prometheus";
const DASHBOARDS: &str = "deploy/grafana/dashboards";
const PROVISIONING: &str = "deploy/grafana/provisioning";
const RUNBOOKS: &str = "docs/runbooks";

/// Metrics that are not ours: the broker's plug-in, and what Prometheus itself adds.
const OTHERS: [&str; 5] = [
    "rabbitmq_alarms_free_disk_space_watermark",
    "rabbitmq_alarms_memory_used_watermark",
    "rabbitmq_queue_messages_unacked",
    "up",
    "ALERTS",
];

/// What a histogram becomes.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The files agree with each other and with the code, and promtool agrees with them.
pub(super) fn run(workspace: &Workspace) -> Result<()> {
    super::report(&violations(workspace.root())?)?;
    promtool(workspace)
}

fn violations(root: &Path) -> Result<Vec<String>> {
    let known = Names::of_the_code(root)?;
    let mut wrong: Vec<String> = known
        .silent()
        .map(|name| format!("{name} has no help text: see describe.rs of its service or crate"))
        .collect();
    alerts(root, &known, &mut wrong)?;
    for file in files(&root.join(DASHBOARDS), "json")? {
        let shown = file.strip_prefix(root).unwrap_or(&file).display();
        let found = fs::read_to_string(&file)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(serde_json::from_str(&text)?));
        match found {
            Ok(found) => dashboard(&found, &known, &mut |text| {
                wrong.push(format!("{shown}: {text}"))
            }),
            Err(error) => wrong.push(format!("{shown}: {error}")),
        }
    }
    for folder in ["dashboards", "datasources"] {
        for file in files(&root.join(PROVISIONING).join(folder), "yaml")? {
            let text = fs::read_to_string(&file)?;
            if let Err(error) = serde_saphyr::from_str::<Value>(&text) {
                wrong.push(format!(
                    "{}: {error}",
                    file.strip_prefix(root).unwrap_or(&file).display()
                ));
            }
        }
    }
    Ok(wrong)
}

#[derive(Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(rename = "for")]
    lasting: Option<String>,
    keep_firing_for: Option<String>,
    #[serde(default)]
    labels: Value,
    #[serde(default)]
    annotations: Value,
}

/// Each alert has what its receiver needs, a runbook and a test; no runbook and no test is left
/// over.
fn alerts(root: &Path, known: &Names, wrong: &mut Vec<String>) -> Result<()> {
    let path = root.join(PROMETHEUS).join("alerts.yaml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: RuleFile =
        serde_saphyr::from_str(&text).with_context(|| format!("{PROMETHEUS}/alerts.yaml"))?;
    let mut names = BTreeSet::new();
    for rule in file.groups.iter().flat_map(|group| &group.rules) {
        let name = &rule.alert;
        let mut tell =
            |text: String| wrong.push(format!("{PROMETHEUS}/alerts.yaml: {name}: {text}"));
        if !names.insert(name.clone()) {
            tell("there are two of this name".to_owned());
        }
        for metric in known.unknown(&rule.expr) {
            tell(format!("the code has no metric {metric}"));
        }
        if rule.lasting.is_none() || rule.keep_firing_for.is_none() {
            tell("say both `for` and `keep_firing_for`".to_owned());
        }
        if !matches!(rule.labels["severity"].as_str(), Some("page" | "ticket")) {
            tell("severity must be page or ticket".to_owned());
        }
        for annotation in ["summary", "description"] {
            if rule.annotations[annotation]
                .as_str()
                .unwrap_or_default()
                .is_empty()
            {
                tell(format!("it has no {annotation}"));
            }
        }
        let runbook = format!("{RUNBOOKS}/{name}.md");
        if rule.annotations["runbook_url"].as_str() != Some(&runbook) {
            tell(format!("runbook_url must be {runbook}"));
        }
        if !root.join(&runbook).is_file() {
            tell(format!("{runbook} does not exist"));
        }
        let test = format!("{PROMETHEUS}/tests/{name}.yaml");
        let tested = fs::read_to_string(root.join(&test)).unwrap_or_default();
        // One that it fires, and one that it does not.
        if !tested.contains(&format!("alertname: {name}\n"))
            || !tested.contains("exp_labels:")
            || !tested.contains("exp_alerts: []")
        {
            tell(format!(
                "{test} must show when it fires and when it does not"
            ));
        }
    }
    for (folder, ending) in [
        (RUNBOOKS.to_owned(), "md"),
        (format!("{PROMETHEUS}/tests"), "yaml"),
    ] {
        for file in files(&root.join(&folder), ending)? {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            if !names.contains(name.as_ref()) {
                wrong.push(format!("{folder}/{name}.{ending}: there is no such alert"));
            }
        }
    }
    Ok(())
}

/// A dashboard that can be linked to, and whose panels say what they show.
fn dashboard(found: &Value, known: &Names, tell: &mut dyn FnMut(String)) {
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    for field in ["uid", "title", "description"] {
        if text(&found[field]).is_empty() {
            tell(format!("it has no {field}"));
        }
    }
    let variables = found["templating"]["list"].as_array();
    for name in ["datasource", "site"] {
        let is_there = variables.is_some_and(|all| all.iter().any(|it| it["name"] == name));
        if !is_there {
            tell(format!("it has no variable {name}"));
        }
    }
    let panels = found["panels"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if panels.is_empty() {
        tell("it has no panels".to_owned());
    }
    for panel in panels {
        let title = text(&panel["title"]);
        if title.is_empty() {
            tell(format!("panel {} has no title", panel["id"]));
        }
        if text(&panel["description"]).is_empty() {
            tell(format!("panel {title:?} has no description"));
        }
        if text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty() {
            tell(format!("panel {title:?} has no unit"));
        }
        let targets = panel["targets"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        if targets.is_empty() {
            tell(format!("panel {title:?} asks nothing"));
        }
        for target in targets {
            let expr = text(&target["expr"]);
            for metric in known.unknown(&expr) {
                tell(format!("panel {title:?}: the code has no metric {metric}"));
            }
            let over_time = ["rate(", "increase("].iter().any(|it| expr.contains(it));
            if over_time && !expr.contains("[$__rate_interval]") {
                tell(format!("panel {title:?}: take rates over $__rate_interval"));
            }
            if !expr.contains("$site") {
                tell(format!(
                    "panel {title:?} shows other sites than the chosen one"
                ));
            }
        }
    }
}

/// Metric names of the code.
#[derive(Default)]
struct Names {
    counted: BTreeSet<String>,
    described: BTreeSet<String>,
}

impl Names {
    /// What `services/` and `crates/` count: each `gauge!("…"`, `counter!("…"`, `histogram!("…"`.
    /// The client agent counts for tests alone: it has no port.
    fn of_the_code(root: &Path) -> Result<Self> {
        let mut names = Self::default();
        let mut folders = vec![root.join("services"), root.join("crates")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)?.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    if path.file_name().is_some_and(|it| it != "client-agent") {
                        folders.push(path);
                    }
                } else if path.extension().is_some_and(|it| it == "rs") {
                    names.collect(&fs::read_to_string(&path)?);
                }
            }
        }
        Ok(names)
    }

    fn collect(&mut self, text: &str) {
        // What unit tests count is nobody's.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for call in ["gauge!(", "counter!(", "histogram!("] {
            for (at, _) in code.match_indices(call) {
                let rest = code[at + call.len()..].trim_start();
                let name = rest
                    .strip_prefix('"')
                    .and_then(|rest| rest.split('"').next());
                let names = if code[..at].ends_with("describe_") {
                    &mut self.described
                } else {
                    &mut self.counted
                };
                names.extend(name.map(str::to_owned));
            }
        }
    }

    /// Metrics that say nothing about themselves.
    fn silent(&self) -> impl Iterator<Item = &String> {
        self.counted.difference(&self.described)
    }

    /// The metrics in a PromQL expression that nobody counts.
    fn unknown(&self, expr: &str) -> Vec<String> {
        metrics_of(expr)
            .into_iter()
            .filter(|name| {
                let family = PARTS.iter().find_map(|part| name.strip_suffix(part));
                let known = |name: &str| self.counted.contains(name) || OTHERS.contains(&name);
                !known(name) && !family.is_some_and(known)
            })
            .collect()
    }
}

/// Words that must be metrics: they begin as ours or the broker's do, or stand before `{` or `[`.
fn metrics_of(expr: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = BTreeSet::new();
    let mut quoted = false;
    let mut word = String::new();
    for c in expr.chars().chain(std::iter::once(' ')) {
        if c == '"' {
            quoted = !quoted;
        }
        if !quoted && is_word(c) {
            word.push(c);
            continue;
        }
        let named = word.starts_with("muster_") || word.starts_with("rabbitmq_");
        let begins = word.starts_with(|first: char| first.is_ascii_alphabetic());
        if named || (begins && matches!(c, '{' | '[')) {
            found.insert(word.clone());
        }
        word.clear();
    }
    found
}

fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == ending))
        .collect();
    found.sort();
    Ok(found)
}

fn promtool(workspace: &Workspace) -> Result<()> {
    let Some(program) = packages::ensure_promtool(Install::Yes, &say)? else {
        say(
            "NOT CHECKED: promtool is not here and there is no apt-get to install it with, so nobody has \
             run the alert rules and their tests",
        );
        return Ok(());
    };
    let folder = workspace.root().join(PROMETHEUS);
    let tests = files(&folder.join("tests"), "yaml")?;
    let run = |args: &[&str], files: &[PathBuf]| {
        let mut command = Command::new(&program);
        command.current_dir(&folder).args(args).args(files);
        workspace.run(&mut command)
    };
    run(&["check", "config", "prometheus.yml"], &[])?;
    run(&["check", "rules", "alerts.yaml"], &[])?;
    run(&["test", "rules"], &tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Names {
        Names {
            counted: all.iter().map(|name| (*name).to_owned()).collect(),
            ..Names::default()
        }
    }

    #[test]
    fn metrics_are_found_in_expressions_and_labels_are_not() {
        let expr = r#"sum by (site) (rate(muster_a_total{muster="muster_x", job="j"}[5m])) > bool up{a="b"}
                      and histogram_quantile(0.9, muster_b_seconds_bucket) / node_load1[5m]"#;
        let found: Vec<String> = metrics_of(expr).into_iter().collect();
        assert_eq!(
            found,
            [
                "muster_a_total",
                "muster_b_seconds_bucket",
                "node_load1",
                "up"
            ]
        );
        let known = names(&["muster_a_total", "muster_b_seconds"]);
        assert_eq!(known.unknown(expr), ["node_load1"]);
    }

    #[test]
    fn the_code_is_read_for_what_it_counts_and_what_it_says_of_it() {
        let mut names = Names::default();
        names.collect(
            "metrics::gauge!(\n    \"muster_a\", \"queue\" => x).set(1.0);\n\
             ::metrics::counter!(\"muster_b_total\")\ndescribe_gauge!(\"muster_a\", \"help\")\n\
             #[cfg(test)]\ngauge!(\"muster_c\")",
        );
        assert!(names.counted.iter().eq(["muster_a", "muster_b_total"]));
        assert!(names.silent().eq(["muster_b_total"]));
    }

    #[test]
    fn a_panel_must_say_what_it_shows_and_show_what_is_counted() {
        let bad = serde_json::json!({
            "uid": "u", "title": "t", "description": "d",
            "templating": {"list": [{"name": "datasource"}, {"name": "site"}]},
            "panels": [{"title": "P", "fieldConfig": {"defaults": {"unit": "s"}},
                        "targets": [{"expr": "rate(muster_gone_total[5m])"}]}],
        });
        let mut told = Vec::new();
        dashboard(&bad, &names(&[]), &mut |text| told.push(text));
        assert_eq!(
            told,
            [
                "panel \"P\" has no description",
                "panel \"P\": the code has no metric muster_gone_total",
                "panel \"P\": take rates over $__rate_interval",
                "panel \"P\" shows other sites than the chosen one",
            ]
        );
    }
}
