//! What every pod, service and reference must have beside being valid.

use std::collections::BTreeSet;

use serde_json::Value;

use super::objects::{Object, Workload, list, selects, text, workloads};
use super::{README, Secrets};

/// Its standby is not ready by design: a disruption budget would count it as broken, and keep the
/// active one where it is.
const STANDING_BY: &str = "site-server";
/// How long a process may take to stop (reliability.md D13).
const STOP: i64 = 15;

/// Returns the names of the secrets that are used.
pub(super) fn check(
    all: &[Object],
    secrets: &Secrets,
    wrong: &mut Vec<String>,
) -> BTreeSet<String> {
    let pods = workloads(all);
    for pod in &pods {
        let mut tell = |text: &str| wrong.push(format!("{}: {text}", pod.name()));
        restricted(pod, &mut tell);
        for container in list(pod.spec, "/containers") {
            alive(container, pod.spec, &mut tell);
        }
        budget(pod, all, &mut tell);
    }
    namespace(all, wrong);
    services(all, &pods, wrong);
    let mut references = References {
        secrets,
        used: BTreeSet::new(),
        wrong,
    };
    references.check(all, &pods);
    references.used
}

/// The Pod Security Standard "restricted", a read-only root, and no token.
fn restricted(pod: &Workload<'_>, tell: &mut dyn FnMut(&str)) {
    let spec = pod.spec;
    let mut want = |good: bool, text: &str| {
        if !good {
            tell(text);
        }
    };
    let off = |value: &Value| value.is_null() || *value == false;
    let context = &spec["securityContext"];
    want(context["runAsNonRoot"] == true, "runAsNonRoot must be true");
    want(context["runAsUser"] != 0, "it must not run as root");
    want(
        text(context, "/seccompProfile/type") == "RuntimeDefault",
        "seccompProfile must be RuntimeDefault",
    );
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        want(off(&spec[field]), &format!("{field} is forbidden"));
    }
    want(
        spec["automountServiceAccountToken"] == false,
        "automountServiceAccountToken must be false",
    );
    for volume in list(spec, "/volumes") {
        let kinds = ["configMap", "secret", "projected", "emptyDir"];
        let good = kinds.iter().any(|kind| !volume[*kind].is_null());
        let name = text(volume, "/name");
        want(good, &format!("volume {name} is of a forbidden kind"));
    }
    for container in pod.containers() {
        let name = text(container, "/name");
        let context = &container["securityContext"];
        let dropped = list(context, "/capabilities/drop");
        let ports = list(container, "/ports");
        let image = text(container, "/image");
        let versioned = image.contains(':') && !image.ends_with(":latest");
        for (good, text) in [
            (off(&context["privileged"]), "privileged is forbidden"),
            (
                context["allowPrivilegeEscalation"] == false,
                "allowPrivilegeEscalation must be false",
            ),
            (
                context["readOnlyRootFilesystem"] == true,
                "readOnlyRootFilesystem must be true",
            ),
            (
                dropped.iter().any(|it| it == "ALL"),
                "capabilities must drop ALL",
            ),
            (
                list(context, "/capabilities/add").is_empty(),
                "no capability may be added",
            ),
            (
                context["runAsUser"] != 0 && context["runAsNonRoot"] != false,
                "it must not run as root",
            ),
            (
                ports.iter().all(|it| it["hostPort"].is_null()),
                "a port of the host is forbidden",
            ),
            (
                versioned && !image.contains('/'),
                "the image must have a version and no registry",
            ),
        ] {
            want(good, &format!("container {name}: {text}"));
        }
    }
}

/// Limits, the three probes, and time to stop.
fn alive(container: &Value, pod: &Value, tell: &mut dyn FnMut(&str)) {
    for kind in ["requests", "limits"] {
        for what in ["cpu", "memory"] {
            if container["resources"][kind][what].is_null() {
                tell(&format!("resources.{kind}.{what} is missing"));
            }
        }
    }
    // That a process lives must not depend on its database: only readiness may ask for more.
    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/healthz"),
    ] {
        let get = &container[probe]["httpGet"];
        if get.is_null() {
            tell(&format!("{probe} is missing"));
        } else if get["path"] != path || get["port"] != "admin" {
            tell(&format!("{probe} must ask for {path} at the port admin"));
        }
    }
    let drain = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64();
    let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    if grace < STOP + drain.unwrap_or_default() {
        tell(&format!(
            "terminationGracePeriodSeconds {grace} is too short"
        ));
    }
}

/// Replicas are worth something when they are not all taken away at once.
fn budget(pod: &Workload<'_>, all: &[Object], tell: &mut dyn FnMut(&str)) {
    let scaled = all.iter().any(|it| {
        it.kind == "HorizontalPodAutoscaler"
            && it.text("/spec/scaleTargetRef/kind") == pod.object.kind
            && it.text("/spec/scaleTargetRef/name") == pod.name()
    });
    if scaled && !pod.object.value["spec"]["replicas"].is_null() {
        tell("an autoscaler and the manifest both say how many there are");
    }
    let several = scaled || pod.pods.len() > 1;
    let budgets = all
        .iter()
        .filter(|it| it.kind == "PodDisruptionBudget")
        .filter(|it| {
            let wanted = &it.value["spec"]["selector"]["matchLabels"];
            pod.pods.iter().any(|pod| selects(wanted, pod))
        })
        .count();
    let wanted = usize::from(several && pod.name() != STANDING_BY);
    if budgets != wanted {
        tell(&format!(
            "it has {budgets} disruption budgets, and should have {wanted}"
        ));
    }
    if several && list(pod.spec, "/topologySpreadConstraints").is_empty() {
        tell("its replicas may all be on one machine");
    }
}

/// Everything is in the one namespace, which lets in nothing but what is restricted.
fn namespace(all: &[Object], wrong: &mut Vec<String>) {
    let own: Vec<&Object> = all.iter().filter(|it| it.kind == "Namespace").collect();
    let [own] = own.as_slice() else {
        wrong.push(format!("a site has one namespace, not {}", own.len()));
        return;
    };
    let labels = &own.value["metadata"]["labels"];
    if labels["pod-security.kubernetes.io/enforce"] != "restricted" {
        wrong.push("the namespace must enforce the restricted profile".to_owned());
    }
    for object in all.iter().filter(|it| it.kind != "Namespace") {
        if object.text("/metadata/namespace") != own.name {
            wrong.push(format!(
                "{}/{} is not in the namespace",
                object.kind, object.name
            ));
        }
    }
}

/// A service leads to one role, and to ports that it has.
fn services(all: &[Object], pods: &[Workload<'_>], wrong: &mut Vec<String>) {
    for service in all.iter().filter(|it| it.kind == "Service") {
        let name = &service.name;
        let wanted = &service.value["spec"]["selector"];
        let chosen: Vec<&Workload<'_>> = pods
            .iter()
            .filter(|it| !wanted.is_null() && it.pods.iter().any(|pod| selects(wanted, pod)))
            .collect();
        let [pod] = chosen.as_slice() else {
            let count = chosen.len();
            wrong.push(format!("Service/{name} leads to {count} roles, not to one"));
            continue;
        };
        for port in service.list("/spec/ports") {
            let target = &port["targetPort"];
            let known = pod.ports();
            if !known.iter().any(|it| *target == it.0 || *target == it.1) {
                wrong.push(format!(
                    "Service/{name}: {} has no port {target}",
                    pod.name()
                ));
            }
        }
    }
}

/// What is mounted is there: a map of ours, or a secret that the page tells people to make.
struct References<'a> {
    secrets: &'a Secrets,
    used: BTreeSet<String>,
    wrong: &'a mut Vec<String>,
}

impl References<'_> {
    fn check(&mut self, all: &[Object], pods: &[Workload<'_>]) {
        let is_there = |kind: &str, name: &str| {
            let mut found = all.iter();
            found.any(|it| it.kind == kind && it.name == name)
        };
        for pod in pods {
            for volume in list(pod.spec, "/volumes") {
                let projected = list(volume, "/projected/sources");
                for source in std::iter::once(volume).chain(projected) {
                    self.mounted(pod.name(), source, &is_there);
                }
            }
            for container in pod.containers() {
                if ["env", "envFrom"]
                    .iter()
                    .any(|it| !container[*it].is_null())
                {
                    self.tell(pod.name(), "settings are files, not environment");
                }
            }
            let account = text(pod.spec, "/serviceAccountName");
            if !is_there("ServiceAccount", account) {
                self.tell(
                    pod.name(),
                    &format!("there is no ServiceAccount {account:?}"),
                );
            }
        }
        let login = ["username", "password"];
        for object in all {
            let who = &object.name;
            if object.kind == "Cluster" {
                self.secret(
                    who,
                    object.text("/spec/bootstrap/initdb/secret/name"),
                    &login,
                );
                for role in object.list("/spec/managed/roles") {
                    self.secret(who, text(role, "/passwordSecret/name"), &login);
                }
            }
            if object.kind == "RabbitmqCluster" {
                let own = ["tls.crt", "tls.key"];
                self.secret(who, object.text("/spec/tls/secretName"), &own);
                self.secret(who, object.text("/spec/tls/caSecretName"), &["ca.crt"]);
            }
        }
    }

    fn mounted(&mut self, who: &str, source: &Value, is_there: &dyn Fn(&str, &str) -> bool) {
        if let Some(part) = source.get("secret") {
            // A volume and a source of a projected one call it differently.
            let name = [text(part, "/secretName"), text(part, "/name")].concat();
            let items = list(part, "/items").iter();
            let keys: Vec<&str> = items.map(|it| text(it, "/key")).collect();
            if keys.is_empty() {
                self.tell(who, &format!("say which keys of {name} are mounted"));
            }
            self.secret(who, &name, &keys);
        }
        if let Some(part) = source.get("configMap") {
            let name = text(part, "/name");
            if !is_there("ConfigMap", name) {
                self.tell(who, &format!("there is no ConfigMap {name}"));
            }
        }
    }

    fn secret(&mut self, who: &str, name: &str, keys: &[&str]) {
        self.used.insert(name.to_owned());
        let Some(known) = self.secrets.get(name) else {
            self.tell(who, &format!("the secret {name} is not in {README}"));
            return;
        };
        for key in keys.iter().filter(|key| !known.contains(**key)) {
            self.tell(who, &format!("{README} gives the secret {name} no {key}"));
        }
    }

    fn tell(&mut self, who: &str, text: &str) {
        self.wrong.push(format!("{who}: {text}"));
    }
}
