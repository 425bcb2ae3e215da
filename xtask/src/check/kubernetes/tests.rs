//! A site of one role that is right, and what is said when something of it is not.

use super::*;

const GOOD: &str = r#"apiVersion: v1
kind: Namespace
metadata:
  name: muster-p01
  labels:
    pod-security.kubernetes.io/enforce: restricted
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: muster
  namespace: muster-p01
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: management-point-config-abc
  namespace: muster-p01
data:
  management-point.toml: |
    site_code = "P01"
    listen = "0.0.0.0:8444"
    site_server = "https://management-point:8444"
    [tls]
    key = "/etc/muster/tls/tls.key"
    [admin]
    listen = "0.0.0.0:9444"
---
apiVersion: v1
kind: Service
metadata:
  name: management-point
  namespace: muster-p01
spec:
  selector:
    app.kubernetes.io/name: management-point
  ports:
    - { name: grpc, port: 8444, targetPort: grpc }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: default-deny
  namespace: muster-p01
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: management-point
  namespace: muster-p01
spec:
  podSelector:
    matchLabels:
      app.kubernetes.io/name: management-point
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - podSelector:
            matchLabels:
              app.kubernetes.io/name: management-point
      ports:
        - { protocol: TCP, port: 8444 }
    - from:
        - ipBlock: { cidr: 192.0.2.1/32 }
      ports:
        - { protocol: TCP, port: 9444 }
  egress:
    - to:
        - podSelector:
            matchLabels:
              app.kubernetes.io/name: management-point
      ports:
        - { protocol: TCP, port: 8444 }
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: management-point
  namespace: muster-p01
  labels:
    muster/site: P01
spec:
  replicas: 1
  selector:
    matchLabels:
      app.kubernetes.io/name: management-point
  template:
    metadata:
      labels:
        app.kubernetes.io/name: management-point
    spec:
      serviceAccountName: muster
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 30
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: management-point
          image: muster-management-point:1.2.3
          args: [--config, /etc/muster/config/management-point.toml]
          ports:
            - { name: grpc, containerPort: 8444 }
            - { name: admin, containerPort: 9444 }
          startupProbe:
            httpGet: { path: /healthz, port: admin }
          readinessProbe:
            httpGet: { path: /readyz, port: admin }
          livenessProbe:
            httpGet: { path: /healthz, port: admin }
          lifecycle:
            preStop:
              sleep:
                seconds: 5
          resources:
            requests: { cpu: 500m, memory: 256Mi }
            limits: { cpu: "2", memory: 512Mi }
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - { name: config, mountPath: /etc/muster/config, readOnly: true }
            - { name: tls, mountPath: /etc/muster/tls, readOnly: true }
      volumes:
        - name: config
          configMap:
            name: management-point-config-abc
        - name: tls
          secret:
            secretName: management-point-tls
            items:
              - { key: tls.key, path: tls.key }
"#;

const PAGE: &str = "| secret | keys | from |\n|---|---|---|\n\
    | `management-point-tls` | `ca.crt`, `tls.key` | us |\n| `rabbitmq-tls`, `rabbitmq-ca` | `ca.crt` | us |\n";

fn told(text: &str) -> Vec<String> {
    violations(text, &secrets(PAGE)).wrong
}

/// What is said once `from` is `to`.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the good site has no {from}");
    let told = told(&GOOD.replace(from, to));
    assert!(!told.is_empty(), "nothing was said about {to}");
    told.join("; ")
}

#[test]
fn a_site_that_is_right_is_let_through() {
    let found = violations(GOOD, &secrets(PAGE));
    assert_eq!(found.wrong, Vec::<String>::new());
    assert!(found.secrets.iter().eq(["management-point-tls"]));
}

#[test]
fn a_misspelt_field_is_refused_wherever_it_is() {
    for (from, to, place) in [
        (
            "replicas: 1",
            "replicaz: 1",
            "/spec/replicaz is not a field",
        ),
        (
            "readOnlyRootFilesystem",
            "readOnlyRootFileSystem",
            "readOnlyRootFileSystem is not a field",
        ),
        (
            "targetPort: grpc",
            "targetport: grpc",
            "/targetport is not a field",
        ),
        ("ipBlock: {", "ipblock: {", "/ipblock is not a field"),
    ] {
        let text = with(from, to);
        assert!(text.contains(place), "{text}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_and_an_unknown_kind_are_refused() {
    assert!(with("replicas: 1", "replicas: one").contains("invalid type"));
    assert!(with("kind: Deployment", "kind: Deploiment").contains("how to check"));
    assert!(with("apiVersion: apps/v1", "apiVersion: apps/v1beta1").contains("how to check"));
    let secret = format!("{GOOD}---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n");
    assert!(
        told(&secret)
            .join("")
            .contains("no place in the repository")
    );
}

#[test]
fn a_missing_probe_or_limit_is_refused_and_so_is_life_that_depends_on_others() {
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let get = if probe == "readinessProbe" {
            "/readyz"
        } else {
            "/healthz"
        };
        let lines =
            format!("          {probe}:\n            httpGet: {{ path: {get}, port: admin }}\n");
        assert!(with(&lines, "").contains(&format!("{probe} is missing")));
    }
    let life = "livenessProbe:\n            httpGet: { path: /healthz";
    assert!(with(life, &life.replace("healthz", "readyz")).contains("must ask for /healthz"));
    assert!(with("memory: 512Mi", "ephemeral-storage: 1Gi").contains("limits.memory is missing"));
    assert!(with("PeriodSeconds: 30", "PeriodSeconds: 19").contains("too short"));
}

#[test]
fn a_container_with_privileges_is_refused() {
    let context = "allowPrivilegeEscalation: false";
    assert!(
        with(context, &format!("{context}\n            privileged: true")).contains("privileged")
    );
    for (from, to, words) in [
        (
            context,
            "allowPrivilegeEscalation: true",
            "allowPrivilegeEscalation",
        ),
        ("drop: [ALL]", "drop: [NET_RAW]", "drop ALL"),
        (
            "drop: [ALL]",
            "{ drop: [ALL], add: [SYS_ADMIN] }",
            "may be added",
        ),
        ("runAsUser: 10001", "runAsUser: 0", "root"),
        ("runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot"),
        ("type: RuntimeDefault", "type: Unconfined", "RuntimeDefault"),
        (
            "readOnlyRootFilesystem: true",
            "readOnlyRootFilesystem: false",
            "readOnlyRoot",
        ),
        (
            "      serviceAccountName",
            "      hostNetwork: true\n      serviceAccountName",
            "hostNetwork",
        ),
        (
            "containerPort: 9444",
            "containerPort: 9444, hostPort: 9444",
            "port of the host",
        ),
        (
            "enforce: restricted",
            "enforce: baseline",
            "restricted profile",
        ),
        (
            "muster-management-point:1.2.3",
            "muster-management-point",
            "version",
        ),
        (
            "muster-management-point:1.2.3",
            "registry.example/mp:1",
            "registry",
        ),
    ] {
        let from = if to.starts_with('{') {
            "\n              drop: [ALL]"
        } else {
            from
        };
        let to = if to.starts_with('{') {
            format!(" {to}")
        } else {
            to.to_owned()
        };
        let text = with(from, &to);
        assert!(text.contains(words), "{words}: {text}");
    }
    let folder = "configMap:\n            name: management-point-config-abc";
    assert!(with(folder, "hostPath:\n            path: /etc").contains("forbidden kind"));
}

#[test]
fn a_reference_that_leads_nowhere_is_refused() {
    assert!(
        with("secretName: management-point-tls", "secretName: mp-tls").contains("mp-tls is not in")
    );
    assert!(with("- { key: tls.key, ", "- { key: tls.crt, ").contains("no tls.crt"));
    assert!(
        with(
            "name: management-point-config-abc\n        -",
            "name: other\n        -"
        )
        .contains("no ConfigMap other")
    );
    assert!(
        with("serviceAccountName: muster", "serviceAccountName: default")
            .contains("no ServiceAccount")
    );
    let selector = "spec:\n  selector:\n    app.kubernetes.io/name: management-point\n  ports";
    assert!(with(selector, &selector.replace("-point\n", "-pint\n")).contains("leads to 0 roles"));
    assert!(with("targetPort: grpc", "targetPort: http").contains("has no port"));
}

#[test]
fn a_port_needs_its_policy_and_a_policy_its_port() {
    assert!(with("port: 9444 }", "port: 9445 }").contains("no policy leads to its port 9444"));
    assert!(with("port: 9444 }", "port: 9445 }").contains("port 9445, which it does not have"));
    let denied = "spec:\n  podSelector: {}\n  policyTypes: [Ingress, Egress]";
    assert!(
        with(denied, "spec:\n  podSelector: {}\n  policyTypes: [Ingress]")
            .contains("denies everything")
    );
    let out = "  egress:\n    - to:\n        - podSelector:\n            matchLabels:\n              app.kubernetes.io/name: management-point\n";
    let other = out.replace("management-point", "site-server");
    assert!(with(out, &other).contains("nothing lets management-point out"));
    let nobody = out.replace("management-point", "manager");
    assert!(with(out, &nobody).contains("nobody is"));
    let both = "      app.kubernetes.io/name: management-point\n  policyTypes: [Ingress, Egress]";
    assert!(with(both, &both.replace(", Egress", "")).contains("policyTypes lacks Egress"));
}

#[test]
fn a_configuration_names_what_is_mounted_open_and_there() {
    assert!(
        with(
            "\"/etc/muster/tls/tls.key\"",
            "\"/etc/muster/tls/other.key\""
        )
        .contains("nothing mounts")
    );
    assert!(with("0.0.0.0:9444", "0.0.0.0:9445").contains("it listens at"));
    assert!(with("0.0.0.0:9444", "127.0.0.1:9444").contains("every address"));
    assert!(
        with(
            "https://management-point:8444",
            "https://management-pint:8444"
        )
        .contains("has no port")
    );
    assert!(
        with(
            "https://management-point:8444",
            "https://management-point:8445"
        )
        .contains("has no port 8445")
    );
    assert!(with("site_code = \"P01\"", "site_code = \"P02\"").contains("site_code"));
    assert!(with("[admin]", "[admin").contains("management-point.toml"));
    assert!(with("  management-point.toml: |", "  mp.toml: |").contains("must be started with"));
}

#[test]
fn replicas_have_a_budget_and_are_spread_but_a_standby_has_none() {
    let text = with("replicas: 1", "replicas: 2");
    assert!(
        text.contains("0 disruption budgets, and should have 1"),
        "{text}"
    );
    assert!(text.contains("on one machine"), "{text}");
    let budget = "---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata:\n  name: b\n  namespace: muster-p01\n\
        spec:\n  maxUnavailable: 1\n  selector:\n    matchLabels:\n      app.kubernetes.io/name: management-point\n";
    let text = told(&format!("{GOOD}{budget}")).join("");
    assert!(
        text.contains("1 disruption budgets, and should have 0"),
        "{text}"
    );
}

#[test]
fn an_operators_resource_is_known_field_by_field() {
    let broker = "---\napiVersion: rabbitmq.com/v1beta1\nkind: RabbitmqCluster\nmetadata:\n  name: rabbitmq\n  namespace: muster-p01\n\
        spec:\n  replicas: 3\n  persistence: { storage: 1Gi }\n  resources: {}\n\
        \x20 tls: { secretName: rabbitmq-tls, caSecretName: rabbitmq-ca, disableNonTLSListeners: true }\n\
        \x20 rabbitmq: { additionalConfig: \"\" }\n\
        \x20 override: { statefulSet: { spec: { template: { spec: { containers: [ { name: rabbitmq } ] } } } } }\n";
    let text = format!("{GOOD}{broker}");
    // The page gives that secret no certificate.
    assert!(
        told(&text)
            .join("")
            .contains("gives the secret rabbitmq-tls no tls.crt")
    );
    for (from, to, words) in [
        (
            "disableNonTLSListeners",
            "disableNonTlsListeners",
            "disableNonTlsListeners",
        ),
        ("  replicas: 3\n  persistence", "  persistence", "replicas"),
        (
            "[ { name: rabbitmq } ]",
            "[ { name: rabbitmq, imagee: x } ]",
            "imagee is not a field",
        ),
    ] {
        let told = told(&text.replace(from, to)).join("");
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn the_version_of_a_renderer_is_read() {
    assert_eq!(renderer::major("v5.5.0"), Some(5));
    assert_eq!(renderer::major("kustomize/v5.0.3"), Some(5));
    assert_eq!(renderer::major("v4.5.7"), Some(4));
    assert_eq!(renderer::major("unknown"), None);
}

#[test]
fn the_repositorys_own_files_are_what_they_say_they_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(FOLDER);
    assert_eq!(unrendered(&folder).unwrap(), Vec::<String>::new());
}
