//! Several sites on this machine, joined to each other as an administrator would join them: each
//! with PostgreSQL, RabbitMQ and servers of its own, so that each can be killed by itself.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::administrator::Administrator;
use crate::interrupt::Interrupt;
use crate::packages::Programs;
use crate::site::{Plan, Service, Setting, Site};
use crate::state::State;

/// A description of a hierarchy: `[[sites]]` with `code`, `name` and, but for the central site,
/// `parent`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// The sites; parents stand before their children once it was [`Tree::parse`]d.
    pub sites: Vec<Member>,
}

/// One site of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Three characters, such as `P01`.
    pub code: String,
    /// What people call it.
    pub name: String,
    /// The code of the site above; none for the central site.
    #[serde(default)]
    pub parent: Option<String>,
}

/// Only the central site's software update point follows archives: the others follow their parent's.
fn follows() -> [Setting; 2] {
    let point = Service::SoftwareUpdatePoint;
    [
        Setting::new(point, "source.kind", "parent"),
        Setting::new(point, "source.parent.poll_interval", "5s"),
    ]
}

impl Tree {
    /// Reads a description.
    ///
    /// # Errors
    /// When it is not TOML of this form, or not one tree.
    pub fn parse(text: &str) -> Result<Self> {
        let tree: Self = toml::from_str(text)?;
        tree.sorted()
    }

    /// Reads a description from a file.
    ///
    /// # Errors
    /// As [`Tree::parse`]; when the file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no hierarchy", path.display()))
    }

    /// Sites one below the other, the central one first.
    #[must_use]
    pub fn chain(codes: &[&str]) -> Self {
        let sites = codes.iter().enumerate().map(|(at, code)| Member {
            code: (*code).to_owned(),
            name: format!("Site {code}"),
            parent: at.checked_sub(1).map(|above| codes[above].to_owned()),
        });
        Self {
            sites: sites.collect(),
        }
    }

    /// The same with every parent before its children.
    fn sorted(self) -> Result<Self> {
        let codes: BTreeSet<&str> = self.sites.iter().map(|it| it.code.as_str()).collect();
        ensure!(
            codes.len() == self.sites.len(),
            "a site code is there twice"
        );
        let central = self.sites.iter().filter(|it| it.parent.is_none()).count();
        ensure!(
            central == 1,
            "one site has no parent, here {central} have none"
        );
        let (mut sorted, mut rest): (Vec<Member>, Vec<Member>) = (Vec::new(), self.sites);
        while !rest.is_empty() {
            let before = sorted.len();
            let mut later = Vec::new();
            for site in rest {
                let known = |parent: &String| sorted.iter().any(|it: &Member| it.code == *parent);
                if site.parent.as_ref().is_none_or(known) {
                    sorted.push(site);
                } else {
                    later.push(site);
                }
            }
            if sorted.len() == before {
                let lost: Vec<&str> = later.iter().map(|it| it.code.as_str()).collect();
                bail!("not below the central site: {}", lost.join(", "));
            }
            rest = later;
        }
        Ok(Self { sites: sorted })
    }
}

/// Running sites, joined. Dropping it stops everything; the data stays in the state folder.
#[derive(Debug)]
pub struct Hierarchy {
    /// In the order of the tree: parents before their children.
    pub sites: Vec<(Member, Site)>,
    // What ends everything after a crash finds it here.
    _state: State,
}

impl Hierarchy {
    /// Starts the sites side by side under `root` (one folder each, the same sites again when they
    /// are there), and joins those that are not joined yet. `plan` makes the plan of one.
    ///
    /// # Errors
    /// A site does not start, or is not taken in.
    pub fn start(
        root: &Path,
        interrupt: &Interrupt,
        servers: &Programs,
        tree: Tree,
        services: &[Service],
        plan: &(dyn Fn(&Member) -> Plan + Sync),
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        let state = State::open(root, interrupt.clone())?;
        say(&format!("starting {} sites", tree.sites.len()));
        let start = |member: &Member| -> Result<Site> {
            let folder = root.join("sites").join(&member.code);
            let state = State::open(&folder, interrupt.clone())?;
            let mut plan = Plan {
                can_be_parent: true,
                ..plan(member)
            };
            if member.parent.is_some() {
                // What the plan says itself comes after it, and holds.
                plan.settings.splice(0..0, follows());
            }
            let site = Site::start_some(&state, servers, plan, services, &|_| {})?;
            site.login()?;
            Ok(site)
        };
        let mut sites = Vec::new();
        // Two at a time: more would only wait for each other.
        for pair in tree.sites.chunks(2) {
            let started: Vec<Result<Site>> = std::thread::scope(|scope| {
                let threads: Vec<_> = pair
                    .iter()
                    .map(|member| scope.spawn(|| start(member)))
                    .collect();
                threads
                    .into_iter()
                    .map(|it| it.join().unwrap_or_else(|_| bail!("a start panicked")))
                    .collect()
            });
            for (member, site) in pair.iter().zip(started) {
                let site = site.with_context(|| format!("cannot start site {}", member.code))?;
                say(&format!("site {} is up", member.code));
                sites.push((member.clone(), site));
            }
        }
        let hierarchy = Self {
            sites,
            _state: state,
        };
        hierarchy.join(say)?;
        Ok(hierarchy)
    }

    /// Joins the sites, parents first, as an administrator does: a token there, and with it here.
    fn join(&self, say: &dyn Fn(&str)) -> Result<()> {
        for (member, site) in &self.sites {
            let Some(parent) = &member.parent else {
                continue;
            };
            let here = Administrator::of(site);
            let own = here.ask(&["describe", "site"])?["site"].take();
            if own["parentSiteCode"].as_str() == Some(parent) {
                continue;
            }
            let there = Administrator::of(self.site(parent)?);
            let invited = there.ask(&["site", "invite", &member.code])?;
            let token = invited["token"].as_str().context("no token")?;
            here.ask(&["site", "join", token])?;
            say(&format!("site {} is a child of {parent}", member.code));
        }
        Ok(())
    }

    /// The site with this code.
    ///
    /// # Errors
    /// There is none.
    pub fn site(&self, code: &str) -> Result<&Site> {
        let found = self.sites.iter().find(|(member, _)| member.code == code);
        let (_, site) = found.with_context(|| format!("there is no site {code}"))?;
        Ok(site)
    }

    /// The same, to do something to it.
    ///
    /// # Errors
    /// There is none.
    pub fn site_mut(&mut self, code: &str) -> Result<&mut Site> {
        let mut all = self.sites.iter_mut();
        let found = all.find(|(member, _)| member.code == code);
        let (_, site) = found.with_context(|| format!("there is no site {code}"))?;
        Ok(site)
    }

    /// Stops the sites, children first.
    ///
    /// # Errors
    /// A signal cannot be sent.
    pub fn stop(&mut self) -> Result<()> {
        for (_, site) in self.sites.iter_mut().rev() {
            site.stop()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Result<Vec<String>> {
        let tree = Tree::parse(text)?;
        Ok(tree.sites.into_iter().map(|it| it.code).collect())
    }

    fn site(code: &str, parent: &str) -> String {
        let parent = match parent {
            "" => String::new(),
            parent => format!("parent = \"{parent}\"\n"),
        };
        format!("[[sites]]\ncode = \"{code}\"\nname = \"x\"\n{parent}")
    }

    #[test]
    fn parents_stand_before_their_children() {
        let text = [site("S11", "P01"), site("P01", "CEN"), site("CEN", "")].concat();
        assert_eq!(codes(&text).unwrap(), ["CEN", "P01", "S11"]);
        let chain = Tree::chain(&["CEN", "P01", "S11"]);
        assert_eq!(chain.sites[2].parent.as_deref(), Some("P01"));
    }

    #[test]
    fn what_is_not_one_tree_is_refused() {
        for (bad, why) in [
            (site("P01", "CEN"), "have none"),
            ([site("CEN", ""), site("P01", "")].concat(), "have none"),
            ([site("CEN", ""), site("CEN", "CEN")].concat(), "twice"),
            ([site("CEN", ""), site("P01", "P02")].concat(), "P01"),
            (
                [site("CEN", ""), site("P01", "P02"), site("P02", "P01")].concat(),
                "P01, P02",
            ),
        ] {
            let error = format!("{:#}", codes(&bad).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_shown_example_is_a_hierarchy() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/hierarchies/small.toml"
        );
        assert_eq!(Tree::read(Path::new(file)).unwrap().sites.len(), 3);
    }
}
