//! The operators' resources, as far as we use them: a field that is not here is refused, one that
//! is here without `Option` is required. After the published schemas of CloudNativePG
//! (`postgresql.cnpg.io/v1`) and of the RabbitMQ Cluster Operator (`rabbitmq.com/v1beta1`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

pub(super) type PostgresCluster = Custom<PostgresSpec>;
pub(super) type RabbitmqCluster = Custom<RabbitmqSpec>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Custom<Spec> {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PostgresSpec {
    instances: u32,
    primary_update_strategy: UpdateStrategy,
    enable_superuser_access: bool,
    storage: PostgresStorage,
    wal_storage: PostgresStorage,
    resources: ResourceRequirements,
    affinity: PostgresAffinity,
    postgresql: PostgresSettings,
    bootstrap: PostgresBootstrap,
    managed: PostgresManaged,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum UpdateStrategy {
    Unsupervised,
    Supervised,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PostgresStorage {
    size: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_class: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PostgresAffinity {
    enable_pod_anti_affinity: bool,
    topology_key: String,
    pod_anti_affinity_type: AntiAffinity,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum AntiAffinity {
    Preferred,
    Required,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PostgresSettings {
    parameters: BTreeMap<String, String>,
    synchronous: PostgresSynchronous,
    pg_hba: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PostgresSynchronous {
    method: Quorum,
    number: u32,
    data_durability: Durability,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Quorum {
    Any,
    First,
}

/// `preferred` would let a failover forget what was acknowledged, so it is not a value here.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Durability {
    Required,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PostgresBootstrap {
    initdb: PostgresInit,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PostgresInit {
    database: String,
    owner: String,
    data_checksums: bool,
    secret: Named,
    #[serde(rename = "postInitApplicationSQL")]
    post_init_application_sql: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PostgresManaged {
    roles: Vec<PostgresRole>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PostgresRole {
    name: String,
    ensure: Ensure,
    login: bool,
    password_secret: Named,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Ensure {
    Present,
    Absent,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RabbitmqSpec {
    replicas: u32,
    persistence: RabbitmqPersistence,
    resources: ResourceRequirements,
    tls: RabbitmqTls,
    rabbitmq: RabbitmqSettings,
    #[serde(rename = "override")]
    overriding: RabbitmqOverride,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RabbitmqPersistence {
    storage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_class_name: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RabbitmqTls {
    secret_name: String,
    ca_secret_name: String,
    #[serde(rename = "disableNonTLSListeners")]
    disable_non_tls_listeners: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RabbitmqSettings {
    additional_config: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_plugins: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RabbitmqOverride {
    stateful_set: SpecOf<TemplateOf<SpecOf<PodSpec>>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecOf<T> {
    spec: T,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateOf<T> {
    template: T,
}
