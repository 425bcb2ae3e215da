//! What a person at the console does with a site, for the demo and for tests: every step goes
//! through the real `muster` program and reads its JSON.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Interrupt, Site};

/// Classification of updates of a security suite, as the console takes it.
pub const SECURITY: &str = "security";

/// A person at the console of one site.
#[derive(Clone, Debug)]
pub struct Administrator {
    console: std::path::PathBuf,
    config: std::path::PathBuf,
    interrupt: Interrupt,
}

impl Administrator {
    /// Somebody who is logged in to the site as its administrator.
    #[must_use]
    pub fn of(site: &Site) -> Self {
        Self {
            console: site.program("muster"),
            config: site.console_config(),
            interrupt: site.state().interrupt().clone(),
        }
    }

    /// Runs the console and reads the last JSON document it prints.
    ///
    /// # Errors
    /// The console failed; the error is its own words.
    pub fn ask(&self, args: &[&str]) -> Result<Value> {
        let output = self.command(args).args(["-o", "json"]).output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("muster {}: {}", args.join(" "), words.trim());
        }
        let text = String::from_utf8(output.stdout)?;
        serde_json::Deserializer::from_str(&text)
            .into_iter::<Value>()
            .last()
            .with_context(|| format!("muster {} printed nothing", args.join(" ")))?
            .with_context(|| format!("muster {} printed no JSON", args.join(" ")))
    }

    /// Runs the console for a person who watches: its tables go to our own output.
    ///
    /// # Errors
    /// The console failed; it has said why.
    pub fn show(&self, args: &[&str]) -> Result<()> {
        let status = self.command(args).stdin(Stdio::null()).status()?;
        if !status.success() {
            bail!("muster {}: {status}", args.join(" "));
        }
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.console);
        command.env("MUSTER_CONFIG", &self.config).args(args);
        command
    }

    /// One-use tokens for enrolment, which put clients into the collection when one is named.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn tokens(&self, count: u32, collection: Option<&str>) -> Result<Vec<String>> {
        let count = count.to_string();
        let mut args = vec!["create", "token", "--valid-for", "1h", "--count", &count];
        args.extend(collection.into_iter().flat_map(|it| ["--collection", it]));
        Ok(strings(&self.ask(&args)?["tokens"]))
    }

    /// As [`Self::tokens`], written to a file that only its owner reads, one a line.
    ///
    /// # Errors
    /// As [`Self::ask`]; the file cannot be written.
    pub fn tokens_to(&self, file: &Path, count: u32, collection: Option<&str>) -> Result<()> {
        let mut text = self.tokens(count, collection)?.join("\n");
        text.push('\n');
        crate::secret::write_private(file, &text)
    }

    /// What the site knows of a client, by host name or id.
    ///
    /// # Errors
    /// As [`Self::ask`]; an unknown client is one.
    pub fn client(&self, name: &str) -> Result<Value> {
        Ok(self.ask(&["describe", "client", name])?["client"].take())
    }

    /// Numbers of the updates of a classification that members of a collection require now;
    /// without those that newer ones replace.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn required(&self, classification: &str, collection: &str) -> Result<Vec<u64>> {
        let answer = self.ask(&[
            "get",
            "updates",
            "--classification",
            classification,
            "--required-in",
            collection,
        ])?;
        let updates = answer["updates"].as_array().cloned().unwrap_or_default();
        Ok(updates
            .iter()
            .map(|it| number(&it["update"]["updateNo"]))
            .collect())
    }

    /// How many clients the site has that reported a completed scan.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn scanned(&self) -> Result<usize> {
        let answer = self.ask(&["get", "clients"])?;
        let clients = answer["clients"].as_array().cloned().unwrap_or_default();
        Ok(clients
            .iter()
            .filter(|it| number(&it["catalogGeneration"]) > 0)
            .count())
    }

    /// How many state messages (reports) the site has recorded since it was made, and how many
    /// states were in them.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn recorded(&self) -> Result<(u64, u64)> {
        let backlog = self.ask(&["backlog"])?;
        Ok((
            number(&backlog["reportsRecorded"]),
            number(&backlog["statesRecorded"]),
        ))
    }

    /// Summary of a deployment: clients by what their state means.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn deployment(&self, name: &str) -> Result<Progress> {
        let summary = self.ask(&["describe", "deployment", name])?["summary"].take();
        Ok(Progress {
            clients: number(&summary["clients"]),
            compliant: number(&summary["compliant"]),
            in_progress: number(&summary["inProgress"]),
            failed: number(&summary["failed"]),
            unknown: number(&summary["unknown"]),
        })
    }

    /// Asks again and again, twice a second, until the answer is there.
    ///
    /// # Errors
    /// The deadline passes (the error says what was waited for, and the last failure of asking),
    /// or Ctrl-C.
    pub fn until<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut ask: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let begin = Instant::now();
        let mut last = None;
        while begin.elapsed() < deadline {
            match ask() {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => last = None,
                Err(error) => last = Some(error),
            }
            self.interrupt.sleep(Duration::from_millis(500))?;
        }
        let waited = format!("{what} did not happen within {} s", deadline.as_secs());
        Err(match last {
            Some(error) => error.context(waited),
            None => anyhow::anyhow!(waited),
        })
    }
}

/// Clients of a deployment's collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All of them.
    pub clients: u64,
    /// Nothing left to do.
    pub compliant: u64,
    /// Not there yet.
    pub in_progress: u64,
    /// Gave up.
    pub failed: u64,
    /// Said nothing yet.
    pub unknown: u64,
}

impl Progress {
    /// Whether no client has anything left to say.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.clients > 0 && self.compliant + self.failed == self.clients
    }
}

/// A number of the canonical JSON, where 64-bit numbers are text; 0 when it is neither.
#[must_use]
pub fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .unwrap_or(0)
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(|it| it.as_str().map(str::to_owned))
        .collect()
}
