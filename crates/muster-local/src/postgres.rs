//! A private PostgreSQL: own data folder, a unix socket, scram passwords, our process. Tests can
//! make it listen on a loopback address, too.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::account::{self, Account};
use crate::packages::Programs;
use crate::process::{self, Launch, Process};
use crate::rabbit::Listener;
use crate::secret;
use crate::state::State;

/// Names the socket (`.s.PGSQL.5432`); nothing listens on TCP unless [`Postgres::listen`] says so.
const PORT: u16 = 5432;
/// Where its clients are, as it sees them.
const LOOPBACK: &str = "127.0.0.0/8";
const SUPERUSER: &str = "muster_admin";
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Whether a commit survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As in production.
    On,
    /// fsync off: faster, for data nobody will miss. Services that insist on durability refuse it.
    Off,
}

/// Where a database is and who may log in to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The folder of the unix socket: the `host` of a connection.
    pub socket_dir: PathBuf,
    /// The number in the socket's name.
    pub port: u16,
    /// The database's name.
    pub name: String,
    /// Who logs in.
    pub user: String,
    /// A file with the role's password.
    pub password_file: PathBuf,
}

/// A private server. Dropping it stops it; its data stays in the state folder.
#[derive(Debug)]
pub struct Postgres {
    state: State,
    bin: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
    process: Process,
}

impl Postgres {
    /// Starts the server of this state folder, with an empty cluster when there is none yet, and
    /// waits until it answers and has proven that it is ours.
    ///
    /// # Errors
    /// It cannot be set up or does not get ready in 60 s; the error shows the end of its log.
    pub fn start(state: &State, programs: &Programs, durability: Durability) -> Result<Self> {
        let account = account::for_server(&["postgres", "nobody"])?;
        let home = state.servers().join("postgres");
        let data = home.join("data");
        let sockets = state.run().join("postgres");
        for folder in [&home, &sockets] {
            fs::create_dir_all(folder)?;
            account::give(folder, account.as_ref())?;
        }
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
        fs::set_permissions(&sockets, fs::Permissions::from_mode(0o755))?;
        if !data.exists() {
            init(state, &programs.postgres_bin, &home, account.as_ref())?;
        }
        write_settings(&data, &sockets, durability, account.as_ref())?;

        let launch = Launch::new("postgres", programs.postgres_bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .folder(&home)
            .account(account.as_ref())
            .bare_environment()
            .env("LC_ALL", "C.UTF-8")
            .stop_signal("INT");
        let process = Process::spawn(state, launch)?;
        let bin = programs.postgres_bin.clone();
        let mut server = Self {
            state: state.clone(),
            bin,
            data,
            sockets,
            process,
        };
        server.wait_until_ours()?;
        Ok(server)
    }

    /// The folder of its unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.sockets
    }

    /// Makes a role that may log in (or gives it its password again) and the file with its
    /// generated password, which is returned. Repeating is harmless.
    ///
    /// # Errors
    /// The name is not a plain word, or the server refuses.
    pub fn create_role(&self, role: &str) -> Result<PathBuf> {
        plain(role)?;
        let file = password_file(&self.state, role);
        let password = secret::read_or_create(&file)?;
        // The password comes through the pipe, not the command line, and psql quotes it.
        let script = format!(
            "\\set password {password}
             SELECT format('CREATE ROLE %I LOGIN', :'role')
              WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \\gexec
             SELECT format('ALTER ROLE %I PASSWORD %L', :'role', :'password') \\gexec\n"
        );
        self.psql("postgres", &script, &[("role", role)])
            .with_context(|| format!("cannot create the role {role}"))?;
        Ok(file)
    }

    /// Makes a role for tests: it may make and drop its own databases, and nothing else.
    ///
    /// # Errors
    /// As [`Postgres::create_role`].
    pub fn create_test_role(&self, role: &str) -> Result<Database> {
        let password_file = self.create_role(role)?;
        let script = "SELECT format('ALTER ROLE %I CREATEDB', :'role') \\gexec\n";
        self.psql("postgres", script, &[("role", role)])?;
        Ok(self.database("postgres", role, password_file))
    }

    /// Makes a database of the superuser that nobody else may connect to yet (see
    /// [`Postgres::create_schema`]). Repeating is harmless.
    ///
    /// # Errors
    /// The name is not a plain word, or the server refuses.
    pub fn create_database(&self, name: &str) -> Result<()> {
        plain(name)?;
        let script = "
            SELECT format('CREATE DATABASE %I', :'name')
             WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec
            SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'name') \\gexec\n";
        self.psql("postgres", script, &[("name", name)])
            .map(drop)
            .with_context(|| format!("cannot create the database {name}"))
    }

    /// Removes a database with all that is in it, whoever is connected to it.
    ///
    /// # Errors
    /// The name is not a plain word, or the server refuses.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        plain(name)?;
        let script = "SELECT format('DROP DATABASE %I WITH (FORCE)', :'name') \\gexec\n";
        self.psql("postgres", script, &[("name", name)])
            .map(drop)
            .with_context(|| format!("cannot remove the database {name}"))
    }

    /// Makes a schema that belongs to `role` (made too when missing), and lets the role connect
    /// to the database. It can do nothing outside its schema. Repeating is harmless.
    ///
    /// # Errors
    /// A name is not a plain word, or the server refuses.
    pub fn create_schema(&self, database: &str, schema: &str, role: &str) -> Result<Database> {
        plain(database)?;
        plain(schema)?;
        let password_file = self.create_role(role)?;
        let script = "
            SELECT format('GRANT CONNECT ON DATABASE %I TO %I', :'database', :'role') \\gexec
            SELECT format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION %I', :'schema', :'role')
            \\gexec\n";
        let variables = [("database", database), ("schema", schema), ("role", role)];
        self.psql(database, script, &variables)
            .with_context(|| format!("cannot create the schema {schema}"))?;
        Ok(self.database(database, role, password_file))
    }

    fn database(&self, name: &str, user: &str, password_file: PathBuf) -> Database {
        Database {
            socket_dir: self.sockets.clone(),
            port: PORT,
            name: name.to_owned(),
            user: user.to_owned(),
            password_file,
        }
    }

    /// Runs a psql script as the superuser and returns what it prints, unaligned and without
    /// headers. `variables` are for `:'name'` and `:"name"`, which psql quotes.
    ///
    /// # Errors
    /// A statement fails; the error shows what the server says.
    pub fn psql(&self, database: &str, script: &str, variables: &[(&str, &str)]) -> Result<String> {
        let password = secret::read_or_create(&password_file(&self.state, SUPERUSER))?;
        let mut command = Command::new(self.bin.join("psql"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
            .args([
                "--no-psqlrc",
                "--quiet",
                "--no-align",
                "--tuples-only",
                "--no-password",
            ])
            .args([
                "--set",
                "ON_ERROR_STOP=1",
                "--username",
                SUPERUSER,
                "--dbname",
                database,
            ])
            .arg("--host")
            .arg(&self.sockets)
            .args(["--port", &PORT.to_string()])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "10");
        for (name, value) in variables {
            command.args(["--set", &format!("{name}={value}")]);
        }
        process::output(command, script)
    }

    /// Kills the server as a power cut of its process would (its workers notice and end).
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn kill_9(&mut self) -> Result<()> {
        self.process.kill_9()
    }

    /// Starts it again on the same data after [`Postgres::kill_9`] or [`Postgres::stop`], and
    /// waits until it has recovered. Workers of the killed server may hold the data a moment
    /// longer; then it tries again, for 20 s.
    ///
    /// # Errors
    /// It runs, or does not come back; the error shows the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            self.process.restart()?;
            let Err(error) = self.wait_until_ours() else {
                return Ok(());
            };
            let log = self.process.log_text();
            let held =
                log.contains("pre-existing shared memory block") || log.contains("postmaster.pid");
            if !held || Instant::now() > end {
                return Err(error);
            }
            self.process.terminate(STOP_PATIENCE)?;
            self.state.interrupt().sleep(Duration::from_millis(200))?;
        }
    }

    /// Stops it, keeps a copy of its data, and starts it again: a backup.
    ///
    /// # Errors
    /// The data cannot be copied, or it does not come back.
    pub fn keep_copy(&mut self, copy: &Path) -> Result<()> {
        self.stop()?;
        copy_folder(&self.data, copy)?;
        self.restart()
    }

    /// Stops it and starts it on a copy of [`Postgres::keep_copy`], as after the loss of its disk.
    ///
    /// # Errors
    /// The copy cannot be read, or the server does not come back.
    pub fn restore_copy(&mut self, copy: &Path) -> Result<()> {
        self.stop()?;
        fs::remove_dir_all(&self.data).context("cannot remove the data")?;
        copy_folder(copy, &self.data)?;
        self.restart()
    }

    /// Stops it: connections are ended, everything is flushed.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(STOP_PATIENCE).map(drop)
    }

    /// Starts it again so that it also listens on a loopback address, at the port of its socket.
    /// With [`Listener::Tls`] there is no way in by that address but TLS 1.3 with a certificate
    /// of the authority, and a password.
    ///
    /// # Errors
    /// The address is not one of loopback, a file cannot be read, or it does not come back.
    pub fn listen(&mut self, address: Ipv4Addr, listener: &Listener) -> Result<()> {
        if !address.is_loopback() {
            bail!("{address} is not a loopback address");
        }
        let account = account::for_server(&["postgres", "nobody"])?;
        let mut settings = format!("listen_addresses = '{address}'\n");
        let rule = match listener {
            Listener::Plain => {
                settings.push_str("ssl = off\n");
                format!("host all all {LOOPBACK} scram-sha-256\n")
            }
            Listener::Tls { ca, cert, key } => {
                settings.push_str("ssl = on\nssl_min_protocol_version = 'TLSv1.3'\n");
                for (setting, name, source) in [
                    ("ssl_ca_file", "muster-ca.pem", ca),
                    ("ssl_cert_file", "muster-cert.pem", cert),
                    ("ssl_key_file", "muster-key.pem", key),
                ] {
                    let text = fs::read_to_string(source)
                        .with_context(|| format!("cannot read {}", source.display()))?;
                    let copy = self.data.join(name);
                    secret::write_private(&copy, &text)?;
                    account::give(&copy, account.as_ref())?;
                    settings.push_str(&format!("{setting} = '{name}'\n"));
                }
                format!(
                    "hostssl all all {LOOPBACK} scram-sha-256 clientcert=verify-ca
hostnossl all all {LOOPBACK} reject\n"
                )
            }
        };
        let ours = self.data.join("muster-listen.conf");
        fs::write(&ours, settings)?;
        account::give(&ours, account.as_ref())?;
        let main = self.data.join("postgresql.conf");
        add_line(&main, "include = 'muster-listen.conf'")?;
        // The first rule that fits decides, so ours go before the server's own.
        let rules = self.data.join("pg_hba.conf");
        let known = fs::read_to_string(&rules)?;
        let known = known.lines().filter(|it| !it.contains(LOOPBACK));
        let text: String = known.map(|it| format!("{it}\n")).collect();
        fs::write(&rules, format!("{rule}{text}"))?;
        self.stop()?;
        self.restart()
    }

    /// Its number while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Nothing but this question is asked before the answer is our own data folder.
    fn wait_until_ours(&mut self) -> Result<()> {
        let pid_file = self.data.join("postmaster.pid");
        let pid = self.process.pid().unwrap_or_default().to_string();
        self.process.wait_until(START_DEADLINE, || {
            let text = fs::read_to_string(&pid_file)?;
            let lines: Vec<&str> = text.lines().collect();
            Ok(lines.first() == Some(&pid.as_str())
                && lines.get(7).is_some_and(|it| it.trim() == "ready"))
        })?;
        let folder = self.psql("postgres", "SHOW data_directory;\n", &[])?;
        let (theirs, ours) = (
            Path::new(folder.trim()).canonicalize()?,
            self.data.canonicalize()?,
        );
        if theirs != ours {
            bail!(
                "the server on our socket works on {}, not on {}",
                theirs.display(),
                ours.display()
            );
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// With owners and rights; the new folder must not be there yet.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["--archive", "--no-target-directory"]);
    command.arg(from).arg(to);
    process::output(command, "")
        .map(drop)
        .context("cannot copy the data")
}

fn password_file(state: &State, role: &str) -> PathBuf {
    state.secrets().join(format!("postgres-{role}.password"))
}

fn init(state: &State, bin: &Path, home: &Path, account: Option<&Account>) -> Result<()> {
    let password = secret::read_or_create(&password_file(state, SUPERUSER))?;
    let handed = home.join("superuser.password");
    secret::write_private(&handed, &password)?;
    account::give(&handed, account)?;
    // Made aside and renamed when complete: an interrupted initdb leaves no half a cluster.
    let unfinished = home.join("data.new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let launch = Launch::new("initdb", bin.join("initdb"))
        .arg("--pgdata")
        .arg(&unfinished)
        .args([
            "--username",
            SUPERUSER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
        ])
        .args(["--locale=C.UTF-8", "--data-checksums", "--no-instructions"])
        .arg("--pwfile")
        .arg(&handed)
        .folder(home)
        .account(account)
        .bare_environment()
        .env("LC_ALL", "C.UTF-8");
    let result = process::output(launch.command(), "").context("cannot make a cluster");
    fs::remove_file(&handed)?;
    result?;
    fs::rename(&unfinished, home.join("data")).context("cannot name the new cluster")
}

/// Our settings are one file that the server's own includes last. It is written at each start, so
/// a changed choice holds for old data too.
fn write_settings(
    data: &Path,
    sockets: &Path,
    durability: Durability,
    account: Option<&Account>,
) -> Result<()> {
    let switch = match durability {
        Durability::On => "on",
        Durability::Off => "off",
    };
    let text = format!(
        "# Written by muster-local at each start.
listen_addresses = ''
unix_socket_directories = '{}'
port = {PORT}
max_connections = 200
shared_buffers = 256MB
max_wal_size = 1GB
min_wal_size = 1GB
wal_compression = lz4
fsync = {switch}
full_page_writes = {switch}
synchronous_commit = {switch}
password_encryption = 'scram-sha-256'
log_line_prefix = '%m [%p] %q%u@%d '
log_min_duration_statement = 1s
log_lock_waits = on
timezone = 'UTC'
log_timezone = 'UTC'
",
        sockets.display()
    );
    let ours = data.join("muster.conf");
    fs::write(&ours, text)?;
    account::give(&ours, account)?;
    add_line(&data.join("postgresql.conf"), "include = 'muster.conf'")
}

/// Adds a line to the end of a file that does not have it yet.
fn add_line(file: &Path, line: &str) -> Result<()> {
    let known = fs::read_to_string(file)?;
    if !known.lines().any(|it| it == line) {
        fs::write(file, format!("{known}\n{line}\n"))?;
    }
    Ok(())
}

/// Names we make are lower-case words; anything else is a mistake worth stopping at.
fn plain(name: &str) -> Result<()> {
    let good = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(good) {
        bail!("{name:?} is not a name of lower-case letters, digits and underscores");
    }
    Ok(())
}
