//! The servers' configuration files: the documented ones of `deploy/config` with this machine's
//! addresses and paths.

use std::fs;

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

use super::{Service, Site};
use crate::postgres::Database;
use crate::secret;

/// One value that differs from the documented configuration.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Whose file.
    pub service: Service,
    /// The key, with its tables: `client_settings.report_interval`.
    pub key: &'static str,
    /// What it is to be.
    pub value: Value,
}

impl Setting {
    /// A setting of a service.
    #[must_use]
    pub fn new(service: Service, key: &'static str, value: impl Into<Value>) -> Self {
        Self {
            service,
            key,
            value: value.into(),
        }
    }
}

impl Site {
    /// Writes the files of all services; what an earlier start wrote is replaced.
    pub(super) fn write_configs(&self, site: &Database, catalog: &Database) -> Result<()> {
        fs::create_dir_all(self.state.root().join("config"))?;
        for service in Service::ALL {
            let name = service.name();
            let template = self.plan.templates.join(name).with_extension("toml");
            let text = fs::read_to_string(&template)
                .with_context(|| format!("cannot read {}", template.display()))?;
            let mut table: Table = text
                .parse()
                .with_context(|| format!("{} is not TOML", template.display()))?;
            self.common(service, &mut table)?;
            match service {
                Service::SiteServer => self.site_server(&mut table, site)?,
                Service::SoftwareUpdatePoint => {
                    self.postgres_part(&mut table, catalog, "catalog")?;
                    let own = self.grpc(Service::SiteServer);
                    set(&mut table, "source.parent.site_server", own)?;
                    self.data_dir(service, &mut table)?;
                }
                Service::DistributionPoint => {
                    let port = self.port(service).content;
                    set(&mut table, "content_listen", Self::address(port))?;
                    let own = self.grpc(Service::SiteServer);
                    set(&mut table, "parent.site_server", own)?;
                    self.data_dir(service, &mut table)?;
                }
                Service::ManagementPoint => {
                    set(&mut table, "site_server", self.grpc(Service::SiteServer))?;
                    self.rabbitmq_part(service, &mut table)?;
                }
            }
            for setting in self.plan.settings.iter().filter(|it| it.service == service) {
                set(&mut table, setting.key, setting.value.clone())?;
            }
            secret::write_private(&self.config(service), &toml::to_string_pretty(&table)?)?;
        }
        Ok(())
    }

    fn common(&self, service: Service, table: &mut Table) -> Result<()> {
        let ports = self.port(service);
        set(table, "site_code", self.code())?;
        set(table, "listen", Self::address(ports.grpc))?;
        set(table, "admin.listen", Self::address(ports.admin))?;
        self.tls(service, table, "tls")
    }

    fn tls(&self, service: Service, table: &mut Table, key: &str) -> Result<()> {
        let (cert, own) = self.certificate(service.name());
        set(table, &format!("{key}.ca"), text(&self.ca()))?;
        set(table, &format!("{key}.cert"), text(&cert))?;
        set(table, &format!("{key}.key"), text(&own))
    }

    fn site_server(&self, table: &mut Table, database: &Database) -> Result<()> {
        let folder = self.folder();
        set(table, "site_name", self.plan.name.as_str())?;
        set(table, "ca.cert", text(&folder.join("ca/ca.pem")))?;
        set(table, "ca.key", text(&folder.join("ca/ca.key")))?;
        set(table, "policy_key", text(&folder.join("keys/policy.key")))?;
        self.postgres_part(table, database, "site")?;
        self.rabbitmq_part(Service::SiteServer, table)?;
        if self.plan.can_be_parent {
            let broker = self.rabbit.administrator();
            let uri = format!("http://127.0.0.1:{}", broker.management_port);
            set(table, "rabbitmq.management.uri", uri)?;
            set(table, "rabbitmq.management.user", broker.user)?;
            let password = text(&broker.password_file);
            set(table, "rabbitmq.management.password_file", password)?;
        }
        let catalog = self.grpc(Service::SoftwareUpdatePoint);
        let mut point = Table::new();
        point.insert(
            "grpc".to_owned(),
            self.grpc(Service::DistributionPoint).into(),
        );
        point.insert("content".to_owned(), self.content().into());
        set(table, "roles.software_update_point", catalog.as_str())?;
        set(
            table,
            "roles.software_update_points",
            vec![catalog.as_str()],
        )?;
        set(
            table,
            "roles.management_points",
            vec![self.grpc(Service::ManagementPoint)],
        )?;
        set(table, "roles.distribution_points", vec![point])
    }

    fn postgres_part(&self, table: &mut Table, database: &Database, schema: &str) -> Result<()> {
        set(table, "postgres.host", text(&database.socket_dir))?;
        set(table, "postgres.port", i64::from(database.port))?;
        set(table, "postgres.dbname", database.name.as_str())?;
        set(table, "postgres.user", database.user.as_str())?;
        set(
            table,
            "postgres.password_file",
            text(&database.password_file),
        )?;
        set(table, "postgres.schema", schema)
    }

    fn rabbitmq_part(&self, service: Service, table: &mut Table) -> Result<()> {
        let user = service.name();
        let uri = format!(
            "amqps://127.0.0.1:{}/{}",
            self.rabbit.amqp_port(),
            self.code()
        );
        set(table, "rabbitmq.uri", uri)?;
        set(table, "rabbitmq.user", user)?;
        set(
            table,
            "rabbitmq.password_file",
            text(&self.rabbit.password_file(user)),
        )?;
        self.tls(service, table, "rabbitmq.tls")
    }

    fn data_dir(&self, service: Service, table: &mut Table) -> Result<()> {
        let folder = self.state.root().join("data").join(service.name());
        fs::create_dir_all(&folder)?;
        set(table, "data_dir", text(&folder))
    }
}

fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Sets a value below tables, which are made when they are missing.
fn set(table: &mut Table, key: &str, value: impl Into<Value>) -> Result<()> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value.into());
            Ok(())
        }
        Some((first, rest)) => {
            let entry = table
                .entry(first)
                .or_insert_with(|| Value::Table(Table::new()));
            let Some(inner) = entry.as_table_mut() else {
                bail!("{first} is a value, not a table with {rest}");
            };
            set(inner, rest, value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_set_below_tables_and_the_rest_stays() {
        let mut table: Table = "a = 1\n[b]\nc = 2\nd = 3\n".parse().unwrap();
        set(&mut table, "b.c", "new").unwrap();
        set(&mut table, "e.f.g", vec!["x"]).unwrap();
        assert_eq!(table["b"]["c"].as_str(), Some("new"));
        assert_eq!(table["b"]["d"].as_integer(), Some(3));
        assert_eq!(table["e"]["f"]["g"][0].as_str(), Some("x"));
        assert!(set(&mut table, "a.b", 1).is_err());
    }

    fn documented(service: Service) -> Table {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config");
        let file = std::path::Path::new(folder)
            .join(service.name())
            .with_extension("toml");
        fs::read_to_string(file).unwrap().parse().unwrap()
    }

    fn value<'a>(table: &'a Table, key: &str) -> &'a Value {
        let mut keys = key.split('.');
        let first = table.get(keys.next().unwrap());
        keys.fold(first, |value, key| match key.parse::<usize>() {
            Ok(index) => value?.get(index),
            Err(_) => value?.get(key),
        })
        .unwrap_or_else(|| panic!("{key} is not documented"))
    }

    fn port(table: &Table, key: &str) -> u16 {
        let address = value(table, key).as_str().unwrap();
        let address = address.parse::<std::net::SocketAddr>().unwrap();
        address.port()
    }

    #[test]
    fn the_documented_files_describe_one_site() {
        let [site, management, update, distribution] = [
            Service::SiteServer,
            Service::ManagementPoint,
            Service::SoftwareUpdatePoint,
            Service::DistributionPoint,
        ]
        .map(documented);
        // Who names whom, and where that one listens.
        for (table, key, host, of, listen) in [
            (&management, "site_server", "site-server", &site, "listen"),
            (
                &site,
                "roles.management_points.0",
                "management-point",
                &management,
                "listen",
            ),
            (
                &site,
                "roles.software_update_point",
                "software-update-point",
                &update,
                "listen",
            ),
            (
                &site,
                "roles.software_update_points.0",
                "software-update-point",
                &update,
                "listen",
            ),
            (
                &site,
                "roles.distribution_points.0.grpc",
                "distribution-point",
                &distribution,
                "listen",
            ),
            (
                &site,
                "roles.distribution_points.0.content",
                "distribution-point",
                &distribution,
                "content_listen",
            ),
        ] {
            let wanted = format!("https://{host}:{}", port(of, listen));
            assert_eq!(value(table, key).as_str(), Some(&*wanted), "{key}");
        }
        assert_eq!(
            value(&site, "rabbitmq.uri"),
            value(&management, "rabbitmq.uri")
        );
        assert_eq!(
            value(&site, "state_shards"),
            value(&management, "state_shards")
        );
        let mut ports = vec![port(&distribution, "content_listen")];
        for (service, table) in [
            (Service::SiteServer, &site),
            (Service::ManagementPoint, &management),
            (Service::SoftwareUpdatePoint, &update),
            (Service::DistributionPoint, &distribution),
        ] {
            ports.extend(["listen", "admin.listen"].map(|key| port(table, key)));
            assert_eq!(value(table, "site_code"), value(&site, "site_code"));
            let name = service.name();
            for tls in ["tls", "rabbitmq.tls"] {
                if tls == "tls" || table.contains_key("rabbitmq") {
                    for (key, file) in [
                        ("ca", "ca.pem".to_owned()),
                        ("cert", format!("{name}.pem")),
                        ("key", format!("{name}.key")),
                    ] {
                        let wanted = format!("/etc/muster/tls/{file}");
                        let found = value(table, &format!("{tls}.{key}")).as_str();
                        assert_eq!(found, Some(&*wanted), "{name} {tls}");
                    }
                }
            }
        }
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), count, "every port is used once: {ports:?}");
    }
}
