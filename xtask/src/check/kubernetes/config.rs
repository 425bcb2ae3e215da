//! The services' configuration files in their maps: they name files that are mounted, ports that
//! are open and servers that are there. That they are configurations at all is proven where the
//! parsers are: each service has a test that reads its files of all overlays.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::objects::{Object, Workload, list, text, workloads};

pub(super) fn check(all: &[Object], wrong: &mut Vec<String>) {
    let pods = workloads(all);
    for pod in &pods {
        let mut tell = |text: String| wrong.push(format!("{}: {text}", pod.name()));
        let file = format!("/etc/muster/config/{}.toml", pod.name());
        let args = list(pod.spec, "/containers/0/args");
        let mounted = Mounted::of(pod, all);
        if !args.iter().any(|it| *it == file) || !mounted.files.contains(&file) {
            tell(format!("it must be started with {file}, from its map"));
            continue;
        }
        let table = match table(pod, all) {
            Ok(table) => Value::Table(table),
            Err(error) => {
                tell(error);
                continue;
            }
        };
        let mut values = Vec::new();
        walk("", &table, &mut values);
        let mut ports = BTreeSet::new();
        for (key, value) in &values {
            if key.ends_with("listen") {
                ports.extend(
                    value
                        .rsplit(':')
                        .next()
                        .and_then(|it| it.parse::<i64>().ok()),
                );
                if !value.starts_with("0.0.0.0:") {
                    tell(format!("{key} must be every address of the pod"));
                }
            } else if key == "data_dir" {
                if !mounted.folders.contains(value) {
                    tell(format!("{key}: no volume is mounted at {value}"));
                }
            } else if value.starts_with('/') && key != "source.root" {
                if !mounted.files.contains(value) {
                    tell(format!("{key}: nothing mounts {value}"));
                }
            } else if let Some((host, port)) = address(key, value)
                && !reachable(host, port, all, &pods)
            {
                tell(format!("{key}: {host} has no port {port} in this site"));
            }
        }
        let open: BTreeSet<i64> = pod.ports().iter().map(|(_, port)| *port).collect();
        if ports != open {
            tell(format!(
                "it listens at {ports:?}, its container has {open:?}"
            ));
        }
        let code = pod.object.text("/metadata/labels/muster~1site");
        if values
            .iter()
            .any(|(key, value)| key == "site_code" && value != code)
        {
            tell(format!(
                "its site_code is not its label muster/site, {code:?}"
            ));
        }
    }
}

fn table(pod: &Workload<'_>, all: &[Object]) -> Result<Table, String> {
    let key = format!("{}.toml", pod.name());
    let mut maps = all.iter().filter(|it| it.kind == "ConfigMap");
    let text = maps.find_map(|it| it.value["data"][&key].as_str());
    let text = text.ok_or_else(|| format!("no map has {key}"))?;
    text.parse().map_err(|error| format!("{key}: {error}"))
}

/// What a container finds in its file system.
#[derive(Default)]
struct Mounted {
    files: BTreeSet<String>,
    /// Where it may write.
    folders: BTreeSet<String>,
}

impl Mounted {
    fn of(pod: &Workload<'_>, all: &[Object]) -> Self {
        let mut mounted = Self::default();
        for mount in pod.containers().flat_map(|it| list(it, "/volumeMounts")) {
            let (name, path) = (text(mount, "/name"), text(mount, "/mountPath"));
            let claims = pod.object.list("/spec/volumeClaimTemplates");
            let claimed = claims.iter().any(|it| text(it, "/metadata/name") == name);
            if claimed && mount["readOnly"] != true {
                mounted.folders.insert(path.to_owned());
            }
            let volumes = list(pod.spec, "/volumes").iter();
            for volume in volumes.filter(|it| text(it, "/name") == name) {
                for source in list(volume, "/projected/sources").iter().chain([volume]) {
                    let items = list(source, "/secret/items").iter();
                    let items = items.map(|it| format!("{path}/{}", text(it, "/path")));
                    mounted.files.extend(items);
                    let map = text(source, "/configMap/name");
                    let maps = all
                        .iter()
                        .filter(|it| it.kind == "ConfigMap" && it.name == map);
                    let keys = maps.filter_map(|it| it.value["data"].as_object());
                    let keys = keys.flatten().map(|(key, _)| format!("{path}/{key}"));
                    mounted.files.extend(keys);
                }
            }
        }
        mounted
    }
}

/// Every text in a configuration, with its key.
fn walk(key: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => found.push((key.to_owned(), text.clone())),
        Value::Array(all) => all.iter().for_each(|it| walk(key, it, found)),
        Value::Table(table) => {
            for (name, value) in table {
                let dot = if key.is_empty() { "" } else { "." };
                walk(&format!("{key}{dot}{name}"), value, found);
            }
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

/// Host and port of a server that a setting names.
fn address<'a>(key: &str, value: &'a str) -> Option<(&'a str, i64)> {
    if key == "postgres.host" {
        return Some((value, 5432));
    }
    let schemes = ["https://", "amqps://"];
    let rest = schemes.iter().find_map(|it| value.strip_prefix(it))?;
    let (host, port) = rest.split('/').next()?.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// Whether a name of this namespace leads somewhere. Other names are not ours to know.
fn reachable(host: &str, port: i64, all: &[Object], pods: &[Workload<'_>]) -> bool {
    let service = |name: &str| {
        let mut found = all.iter();
        found.find(|it| it.kind == "Service" && it.name == name)
    };
    let has = |it: &Object| it.list("/spec/ports").iter().any(|it| it["port"] == port);
    let Some((pod, name)) = host.split_once('.') else {
        let operators = all.iter().any(|it| match it.kind.as_str() {
            "Cluster" => format!("{}-rw", it.name) == host && port == 5432,
            "RabbitmqCluster" => it.name == host && port == 5671,
            _ => false,
        });
        return operators || service(host).is_some_and(has);
    };
    let Some(headless) = service(name) else {
        return true;
    };
    let is_pod = |it: &Workload<'_>| {
        let label = "statefulset.kubernetes.io/pod-name";
        let named = it
            .pods
            .iter()
            .any(|it| it.get(label).is_some_and(|it| it == pod));
        named && it.object.text("/spec/serviceName") == name
    };
    has(headless) && headless.text("/spec/clusterIP") == "None" && pods.iter().any(is_pod)
}
