//! A virtual host per test.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use muster_local::http;
use muster_local::instances::Broker;
use muster_rabbitmq::Config;
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(20);

/// An empty virtual host that only this test knows; deleted with it, queues and all.
#[derive(Debug)]
pub struct TestVhost {
    /// How to reach it: AMQP on loopback, a user with all rights.
    pub config: Config,
    name: String,
    broker: Broker,
}

impl TestVhost {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends every connection to it, as a restart of the broker would. Clients see a connection
    /// that was closed by the administrator.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn close_connections(&self) {
        let (broker, name) = (self.broker.clone(), self.name.clone());
        run(move || {
            let path = format!("vhosts/{name}/connections");
            let listed = manage(&broker, "GET", &path, "")?;
            let listed: Vec<Connection> = serde_json::from_str(&listed)?;
            for connection in listed {
                let id = percent(&connection.name);
                // One that has ended meanwhile is what we want.
                let _ = manage(&broker, "DELETE", &format!("connections/{id}"), "");
            }
            Ok(())
        })
        .await;
    }
}

#[derive(serde::Deserialize)]
struct Connection {
    name: String,
}

/// Makes a virtual host.
///
/// # Panics
/// When there is no broker (the message says how to start one) or it refuses.
pub async fn vhost() -> TestVhost {
    let broker = crate::instances().rabbitmq;
    let name = format!("test-{}", Uuid::new_v4().simple());
    let made = (broker.clone(), name.clone());
    run(move || {
        let (broker, name) = made;
        manage(&broker, "PUT", &format!("vhosts/{name}"), "")?;
        let rights = r#"{"configure":".*","write":".*","read":".*"}"#;
        manage(
            &broker,
            "PUT",
            &format!("permissions/{name}/{}", broker.user),
            rights,
        )?;
        Ok(())
    })
    .await;
    let uri = format!("amqp://127.0.0.1:{}/{name}", broker.amqp_port);
    let config = Config::new(uri, &broker.user, &broker.password_file);
    TestVhost {
        config,
        name,
        broker,
    }
}

impl Drop for TestVhost {
    fn drop(&mut self) {
        // What stays behind goes with the broker at the end of the run.
        let _ = manage(&self.broker, "DELETE", &format!("vhosts/{}", self.name), "");
    }
}

async fn run(work: impl FnOnce() -> Result<()> + Send + 'static) {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
        .unwrap_or_else(|error| panic!("{error:#}"));
}

/// One request to the management interface.
fn manage(broker: &Broker, method: &str, path: &str, body: &str) -> Result<String> {
    let password = std::fs::read_to_string(&broker.password_file)?;
    let url = format!("http://127.0.0.1:{}/api/{path}", broker.management_port);
    let login = Some((broker.user.as_str(), password.trim()));
    let (status, answer) = http::send(method, &url, login, body, TIMEOUT)
        .with_context(|| format!("the broker's management interface: {method} {path}"))?;
    if !(200..300).contains(&status) {
        bail!("{method} {path}: {status} {answer}");
    }
    Ok(answer)
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|it| {
            if it.is_ascii_alphanumeric() {
                char::from(it).to_string()
            } else {
                format!("%{it:02X}")
            }
        })
        .collect()
}
