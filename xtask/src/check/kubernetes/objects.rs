//! What was rendered, object by object, each read as the type it claims to be.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::operators::{PostgresCluster, RabbitmqCluster};

/// One object.
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) value: Value,
}

impl Object {
    /// The text at a JSON pointer, or nothing.
    pub(super) fn text(&self, pointer: &str) -> &str {
        text(&self.value, pointer)
    }

    /// The list at a JSON pointer, or an empty one.
    pub(super) fn list(&self, pointer: &str) -> &[Value] {
        list(&self.value, pointer)
    }
}

pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found.map(Vec::as_slice).unwrap_or_default()
}

/// The pods of a Deployment or a StatefulSet.
pub(super) struct Workload<'a> {
    pub(super) object: &'a Object,
    pub(super) spec: &'a Value,
    /// The labels of each pod; in a StatefulSet its name is among them.
    pub(super) pods: Vec<BTreeMap<String, String>>,
}

impl<'a> Workload<'a> {
    pub(super) fn name(&self) -> &'a str {
        &self.object.name
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let first = list(self.spec, "/initContainers").iter();
        first.chain(list(self.spec, "/containers"))
    }

    /// Name and number of each port.
    pub(super) fn ports(&self) -> Vec<(&'a str, i64)> {
        let ports = self.containers().flat_map(|it| list(it, "/ports"));
        ports
            .map(|it| {
                let number = it["containerPort"].as_i64().unwrap_or_default();
                (text(it, "/name"), number)
            })
            .collect()
    }
}

/// All that has pods of ours.
pub(super) fn workloads(all: &[Object]) -> Vec<Workload<'_>> {
    let ours = all
        .iter()
        .filter(|it| matches!(it.kind.as_str(), "Deployment" | "StatefulSet"));
    ours.map(|object| {
        let template = &object.value["spec"]["template"];
        let common = labels(&template["metadata"]["labels"]);
        let replicas = object.value["spec"]["replicas"].as_u64().unwrap_or(1);
        let pods = (0..replicas.max(1)).map(|number| {
            let mut own = common.clone();
            if object.kind == "StatefulSet" {
                let name = format!("{}-{number}", object.name);
                own.insert("statefulset.kubernetes.io/pod-name".to_owned(), name);
            }
            own
        });
        Workload {
            object,
            spec: &template["spec"],
            pods: pods.collect(),
        }
    })
    .collect()
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// Whether `wanted` (a map of labels) chooses a pod. Nothing wanted chooses every pod.
pub(super) fn selects(wanted: &Value, pod: &BTreeMap<String, String>) -> bool {
    labels(wanted)
        .iter()
        .all(|(key, value)| pod.get(key) == Some(value))
}

/// Reads the documents. What is not what it says it is goes to `wrong`.
pub(super) fn parse(rendered: &str, wrong: &mut Vec<String>) -> Vec<Object> {
    let mut all = Vec::new();
    for document in rendered.split("\n---\n") {
        let value: Value = match serde_saphyr::from_str(document) {
            Ok(value) => value,
            Err(error) => {
                wrong.push(format!("not YAML: {error}"));
                continue;
            }
        };
        let object = Object {
            kind: text(&value, "/kind").to_owned(),
            name: text(&value, "/metadata/name").to_owned(),
            value,
        };
        for told in strictly(&object) {
            wrong.push(format!("{}/{}: {told}", object.kind, object.name));
        }
        all.push(object);
    }
    all
}

fn strictly(object: &Object) -> Vec<String> {
    let value = &object.value;
    match (object.text("/apiVersion"), object.kind.as_str()) {
        ("v1", "ConfigMap") => strict::<ConfigMap>(value),
        ("v1", "Namespace") => strict::<Namespace>(value),
        ("v1", "Service") => strict::<Service>(value),
        ("v1", "ServiceAccount") => strict::<ServiceAccount>(value),
        ("apps/v1", "Deployment") => strict::<Deployment>(value),
        ("apps/v1", "StatefulSet") => strict::<StatefulSet>(value),
        ("autoscaling/v2", "HorizontalPodAutoscaler") => strict::<HorizontalPodAutoscaler>(value),
        ("networking.k8s.io/v1", "NetworkPolicy") => strict::<NetworkPolicy>(value),
        ("policy/v1", "PodDisruptionBudget") => strict::<PodDisruptionBudget>(value),
        ("postgresql.cnpg.io/v1", "Cluster") => strict::<PostgresCluster>(value),
        ("rabbitmq.com/v1beta1", "RabbitmqCluster") => strict::<RabbitmqCluster>(value),
        ("v1", "Secret") => vec!["a secret has no place in the repository".to_owned()],
        (version, _) => vec![format!("nobody has said how to check {version} of it")],
    }
}

/// Reads a value as `T` and writes it again: a type that knows everything in it loses nothing.
/// The types of Kubernetes by themselves ignore what they do not know.
fn strict<T: DeserializeOwned + Serialize>(value: &Value) -> Vec<String> {
    let again =
        serde_json::from_value::<T>(value.clone()).and_then(|typed| serde_json::to_value(typed));
    match again {
        Ok(again) => {
            let mut lost = Vec::new();
            compare("", value, &again, &mut lost);
            lost
        }
        Err(error) => vec![error.to_string()],
    }
}

fn compare(place: &str, before: &Value, after: &Value, lost: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let place = format!("{place}/{key}");
                match after.get(key) {
                    Some(after) => compare(&place, value, after, lost),
                    None if value.is_null() => {}
                    None => lost.push(format!("{place} is not a field")),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (number, (before, after)) in before.iter().zip(after).enumerate() {
                compare(&format!("{place}/{number}"), before, after, lost);
            }
        }
        (before, after) if before == after => {}
        (before, after) => lost.push(format!("{place}: {before} is read as {after}")),
    }
}
