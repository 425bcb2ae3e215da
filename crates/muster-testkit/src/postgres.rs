//! A database per test.

use muster_local::instances::Instances;
use muster_postgres::Config;
use tokio_postgres::NoTls;
use uuid::Uuid;

/// An empty database that only this test knows; dropped with it, connections or not.
#[derive(Debug)]
pub struct TestDatabase {
    /// How to reach it: its owner, the schema `public`, 8 connections. Change `schema` for a
    /// service that has its own; `muster_postgres::migrate` makes it.
    pub config: Config,
    instances: Instances,
}

impl TestDatabase {
    /// The same database with another schema.
    #[must_use]
    pub fn schema(&self, schema: &str) -> Config {
        Config {
            schema: schema.to_owned(),
            ..self.config.clone()
        }
    }
}

impl TestDatabase {
    /// A copy of what is in it now. Nobody may be connected to it meanwhile.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn copy(&self) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let sql = "SELECT format('CREATE DATABASE %I TEMPLATE %I', split_part($1::text, ' ', 1),
                                 split_part($1::text, ' ', 2))";
        let names = format!("{name} {}", self.config.dbname);
        let mut tries = 0;
        // Sessions that were closed a moment ago may still be there.
        while let Err(error) = execute(&self.instances, sql, &names).await {
            tries += 1;
            assert!(tries < 50, "cannot copy a database: {error}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Self {
            config: Config {
                dbname: name,
                ..self.config.clone()
            },
            instances: self.instances.clone(),
        }
    }
}

/// Makes a database.
///
/// # Panics
/// When there is no server (the message says how to start one) or it refuses.
pub async fn database() -> TestDatabase {
    let instances = crate::instances();
    let name = format!("test_{}", Uuid::new_v4().simple());
    execute(
        &instances,
        "SELECT format('CREATE DATABASE %I', $1::text)",
        &name,
    )
    .await
    .unwrap_or_else(|error| panic!("cannot make a database: {error}"));
    let server = &instances.postgres;
    let config = Config {
        password_file: Some(server.password_file.clone()),
        pool_size: 8,
        ..Config::new(&server.socket_dir, server.port, &name, &server.user)
    };
    TestDatabase { config, instances }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // On a thread of its own: the test's runtime may be the one that is just ending.
        let drop = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .ok()?;
            let sql = "SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', $1::text)";
            // What stays behind goes with the server at the end of the run.
            runtime
                .block_on(execute(&self.instances, sql, &self.config.dbname))
                .ok()
        };
        std::thread::scope(|scope| {
            let _ = scope.spawn(drop).join();
        });
    }
}

/// Runs the statement that the server has put together, so that it does the quoting.
async fn execute(
    instances: &Instances,
    sql: &str,
    name: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let server = &instances.postgres;
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(&server.socket_dir)
        .port(server.port)
        .dbname(&server.name)
        .user(&server.user)
        .password(std::fs::read_to_string(&server.password_file)?.trim())
        .connect(NoTls)
        .await?;
    let work = async {
        let statement: String = client.query_one(sql, &[&name]).await?.get(0);
        client.batch_execute(&statement).await
    };
    tokio::select! {
        done = work => Ok(done?),
        ended = connection => Ok(ended?),
    }
}
