//! Nothing flows unless two policies agree: one lets it out, one lets it in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::objects::{Object, list, selects, text, workloads};

/// What pods of a site can be called. A policy may name one that this overlay has not.
const ROLES: [&str; 5] = [
    "site-server",
    "management-point",
    "software-update-point",
    "distribution-point",
    "rabbitmq",
];

/// Some pods, ours or an operator's.
struct End {
    name: String,
    labels: BTreeMap<String, String>,
    /// `None`: the operator decides.
    ports: Option<BTreeSet<i64>>,
}

/// From, to, port.
type Edge = (String, String, i64);

/// What the policies allow.
#[derive(Default)]
struct Edges {
    /// In, from pods of the site.
    enters: BTreeSet<Edge>,
    /// Out, to pods of the site.
    leaves: BTreeSet<Edge>,
    /// In, from anywhere.
    open: BTreeSet<(String, i64)>,
}

pub(super) fn check(all: &[Object], wrong: &mut Vec<String>) {
    let ends = ends(all);
    let mut edges = Edges::default();
    let mut denied = false;
    for policy in all.iter().filter(|it| it.kind == "NetworkPolicy") {
        denied |= denies_all(policy);
        let mut tell = |text: &str| wrong.push(format!("NetworkPolicy/{}: {text}", policy.name));
        edges.add(policy, &ends, &mut tell);
    }
    if !denied {
        wrong.push("no policy denies everything first".to_owned());
    }
    for (from, to, port) in edges.enters.difference(&edges.leaves) {
        wrong.push(format!(
            "{to} lets {from} in at {port}, but nothing lets {from} out"
        ));
    }
    for (from, to, port) in edges.leaves.difference(&edges.enters) {
        wrong.push(format!(
            "{from} is let out to {to} at {port}, but nothing lets it in"
        ));
    }
    for end in &ends {
        let Some(ports) = &end.ports else { continue };
        let open = edges.open.iter().filter(|(name, _)| *name == end.name);
        let open: BTreeSet<i64> = open.map(|(_, port)| *port).collect();
        for port in ports.difference(&open) {
            wrong.push(format!("{}: no policy leads to its port {port}", end.name));
        }
        for port in open.difference(ports) {
            wrong.push(format!(
                "{}: a policy leads to port {port}, which it does not have",
                end.name
            ));
        }
    }
}

impl Edges {
    fn add(&mut self, policy: &Object, ends: &[End], tell: &mut dyn FnMut(&str)) {
        let chosen = &policy.value["spec"]["podSelector"];
        let here: Vec<&End> = ends.iter().filter(|it| chooses(chosen, it)).collect();
        if here.is_empty() && !known(chosen) {
            tell("it is for nobody");
        }
        for (word, rules, peers) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")] {
            let rules = policy.list(&format!("/spec/{rules}"));
            let types = policy.list("/spec/policyTypes");
            if !rules.is_empty() && !types.iter().any(|it| it == word) {
                tell(&format!("policyTypes lacks {word}"));
            }
            for rule in rules {
                let (ports, peers) = (ports(rule), list(rule, &format!("/{peers}")));
                if ports.is_empty() || peers.is_empty() {
                    tell("say both who and which ports");
                }
                for peer in peers {
                    let there = inside(peer, ends, tell);
                    for end in &here {
                        self.rule(end, &there, &ports, word == "Ingress");
                    }
                }
            }
        }
    }

    fn rule(&mut self, end: &End, there: &[&End], ports: &[i64], inwards: bool) {
        for port in ports.iter().copied() {
            if inwards {
                self.open.insert((end.name.clone(), port));
            }
            for other in there {
                let (own, other) = (end.name.clone(), other.name.clone());
                if inwards {
                    self.enters.insert((other, own, port));
                } else {
                    self.leaves.insert((own, other, port));
                }
            }
        }
    }
}

/// The pods of the site that a peer means; none when it is somewhere else.
fn inside<'a>(peer: &Value, ends: &'a [End], tell: &mut dyn FnMut(&str)) -> Vec<&'a End> {
    let elsewhere = ["namespaceSelector", "ipBlock"];
    if elsewhere.iter().any(|it| !peer[*it].is_null()) {
        return Vec::new();
    }
    let selector = &peer["podSelector"];
    let found: Vec<&End> = ends.iter().filter(|it| chooses(selector, it)).collect();
    if found.is_empty() && !known(selector) {
        tell(&format!("nobody is {selector}"));
    }
    found
}

fn ends(all: &[Object]) -> Vec<End> {
    let ours = workloads(all).into_iter().map(|it| End {
        name: it.name().to_owned(),
        ports: Some(it.ports().iter().map(|(_, port)| *port).collect()),
        labels: it.pods.into_iter().next().unwrap_or_default(),
    });
    let operators = all.iter().filter_map(|it| {
        let key = match it.kind.as_str() {
            "Cluster" => "cnpg.io/cluster",
            "RabbitmqCluster" => "app.kubernetes.io/name",
            _ => return None,
        };
        Some(End {
            name: it.name.clone(),
            labels: BTreeMap::from([(key.to_owned(), it.name.clone())]),
            ports: None,
        })
    });
    ours.chain(operators).collect()
}

fn chooses(selector: &Value, end: &End) -> bool {
    selector["matchExpressions"].is_null() && selects(&selector["matchLabels"], &end.labels)
}

fn known(selector: &Value) -> bool {
    ROLES.contains(&text(selector, "/matchLabels/app.kubernetes.io~1name"))
}

fn denies_all(policy: &Object) -> bool {
    let spec = &policy.value["spec"];
    let chosen = spec["podSelector"].as_object();
    let types = policy.list("/spec/policyTypes");
    chosen.is_none_or(serde_json::Map::is_empty)
        && types == ["Ingress", "Egress"]
        && ["ingress", "egress"].iter().all(|it| spec[*it].is_null())
}

fn ports(rule: &Value) -> Vec<i64> {
    let ranges = list(rule, "/ports").iter().filter_map(|port| {
        let first = port["port"].as_i64()?;
        Some(first..=port["endPort"].as_i64().unwrap_or(first))
    });
    ranges.flatten().collect()
}
