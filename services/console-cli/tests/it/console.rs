//! The program under test and the site it talks to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use muster_runtime::Role;
use muster_runtime::config::TlsConfig;
use muster_runtime::tls::ca::CertificateAuthority;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::runtime::Runtime;

use crate::fake::{self, Fake};

/// A site with one administrator, who is logged in.
pub(crate) struct Console {
    pub(crate) fake: Fake,
    pub(crate) addr: SocketAddr,
    pub(crate) folder: TempDir,
    pub(crate) ca: CertificateAuthority,
    server: Option<Runtime>,
}

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Console {
    /// Starts the site and logs in.
    pub(crate) async fn start() -> Self {
        muster_runtime::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create(folder.path(), "P01").unwrap();
        let fake = Fake::default();
        let tls = issue(&ca, folder.path(), Role::SiteServer, "site-server");
        issue(&ca, folder.path(), Role::Administrator, "administrator");
        let (server, addr) = serve(&fake, tls, "127.0.0.1:0".parse().unwrap()).await;
        let console = Self {
            fake,
            addr,
            folder,
            ca,
            server: Some(server),
        };
        let run = console.login("administrator").await;
        assert_eq!(run.code, 0, "{run:?}");
        console
    }

    /// Logs in with the certificate of that name.
    pub(crate) async fn login(&self, name: &str) -> Run {
        let url = format!("https://{}", self.addr);
        let (cert, key) = (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        );
        let ca = self.path("ca.pem");
        let files = [ca, cert, key].map(|path| path.display().to_string());
        let [ca, cert, key] = &files;
        self.run(&[
            "login",
            "--site-server",
            &url,
            "--ca",
            ca,
            "--cert",
            cert,
            "--key",
            key,
        ])
        .await
    }

    /// A file of the administrator.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `muster` with these arguments, without a terminal.
    pub(crate) async fn run(&self, args: &[&str]) -> Run {
        let child = self.command(args).output();
        let output = tokio::time::timeout(Duration::from_secs(60), child).await;
        finished(output.unwrap().unwrap())
    }

    /// The program, ready to start.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command
            .args(args)
            .env("MUSTER_CONFIG", self.path("config.toml"))
            .env_remove("MUSTER_CONTEXT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a command that must succeed and gives its stdout.
    pub(crate) async fn text(&self, line: &str) -> String {
        let run = self.run(&line.split_whitespace().collect::<Vec<_>>()).await;
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{line}: {run:?}");
        run.out
    }

    /// Makes a certificate of another role.
    pub(crate) fn issue(&self, role: Role, name: &str) {
        issue(&self.ca, self.folder.path(), role, name);
    }

    /// Ends the site server as a crash would, and starts it again at the same address.
    pub(crate) async fn restart(&mut self) {
        self.crash();
        let tls = TlsConfig {
            ca: self.path("ca.pem"),
            cert: self.path("site-server.pem"),
            key: self.path("site-server.key"),
        };
        let (server, _) = serve(&self.fake, tls, self.addr).await;
        self.server = Some(server);
    }

    fn crash(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.crash();
    }
}

/// The site server on a runtime of its own, so that it can crash with all its connections.
async fn serve(fake: &Fake, tls: TlsConfig, listen: SocketAddr) -> (Runtime, SocketAddr) {
    let fake = fake.clone();
    let start = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.unwrap();
        let handle = runtime.block_on(fake::serve(&fake, tls, listen));
        let addr = handle.addr();
        // Its tasks run until the runtime ends.
        std::mem::forget(handle);
        (runtime, addr)
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// What the program left behind.
pub(crate) fn finished(output: Output) -> Run {
    Run {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn issue(ca: &CertificateAuthority, folder: &Path, role: Role, name: &str) -> TlsConfig {
    let hosts: &[&str] = if role.serves() { &["127.0.0.1"] } else { &[] };
    ca.issue(role, name, hosts)
        .unwrap()
        .write(folder, name, ca.path())
        .unwrap()
}
