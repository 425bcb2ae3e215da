//! apt's configuration for one job: its own folders, sources, preferences and certificates, so
//! that nothing of the machine's apt settings decides what is installed; but the machine's own
//! keyrings and package database.

use std::fmt::Write;
use std::fs;

use super::DpkgRoot;
use crate::Failure;
use crate::agent::write_private;
use crate::download::private_dir;
use crate::provider::{Job, Suite};

/// The agent's folder for apt, inside the root.
pub(super) const BASE: &str = "/var/lib/muster/apt";
/// The configuration file, inside the root; `APT_CONFIG` names it.
pub(super) const FILE: &str = "/var/lib/muster/apt/etc/apt.conf";

/// Writes everything that apt needs for a job, with its suites as `trust` let them through.
pub(super) fn prepare(root: &DpkgRoot, job: &Job, suites: &[Suite]) -> Result<(), Failure> {
    let base = root.inside(BASE);
    let write = || -> Result<(), crate::Error> {
        for folder in [
            "etc/empty",
            "state/lists/partial",
            "cache/archives/partial",
            "log",
        ] {
            private_dir(&base.join(folder))?;
        }
        write_private(&base.join("etc/apt.conf"), conf().as_bytes())?;
        write_private(
            &base.join("etc/sources.list"),
            sources(job, suites).as_bytes(),
        )?;
        for (file, name) in [
            (&job.tls.ca, "ca.pem"),
            (&job.tls.cert, "client.pem"),
            (&job.tls.key, "client.key"),
        ] {
            let bytes = fs::read(file).map_err(crate::Error::file(file))?;
            write_private(&base.join("etc").join(name), &bytes)?;
        }
        Ok(())
    };
    write().map_err(|error| {
        let detail = muster_runtime::status::chain(&error);
        Failure::new(muster_domain::error_code::INSTALL_FAILED, detail)
    })
}

/// Empties the folder of downloaded packages.
pub(super) fn empty_archives(root: &DpkgRoot) -> std::io::Result<()> {
    for entry in fs::read_dir(archives(root))? {
        let path = entry?.path();
        if path.is_file() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Where apt finds packages that need not be downloaded.
pub(super) fn archives(root: &DpkgRoot) -> std::path::PathBuf {
    root.inside(BASE).join("cache/archives")
}

fn conf() -> String {
    format!(
        r#"// Written by muster-agent for one job.
Dir "/";
Dir::Etc "{BASE}/etc";
Dir::Etc::main "{BASE}/etc/none";
Dir::Etc::parts "{BASE}/etc/empty";
Dir::Etc::sourcelist "{BASE}/etc/sources.list";
Dir::Etc::sourceparts "{BASE}/etc/empty";
Dir::Etc::preferences "{BASE}/etc/none";
Dir::Etc::preferencesparts "{BASE}/etc/empty";
Dir::Etc::netrc "{BASE}/etc/none";
Dir::Etc::netrcparts "{BASE}/etc/empty";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Dir::State "{BASE}/state";
Dir::State::lists "{BASE}/state/lists";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "{BASE}/cache";
Dir::Cache::archives "{BASE}/cache/archives";
Dir::Log "{BASE}/log";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
APT::Get::Assume-Yes "true";
APT::Get::Always-Include-Phased-Updates "true";
APT::Update::Error-Mode "any";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "2";
Acquire::http::Proxy "DIRECT";
Acquire::https::Proxy "DIRECT";
Acquire::https::CAInfo "{BASE}/etc/ca.pem";
Acquire::https::SslCert "{BASE}/etc/client.pem";
Acquire::https::SslKey "{BASE}/etc/client.key";
Acquire::https::Verify-Peer "true";
Acquire::https::Verify-Host "true";
Dpkg::Use-Pty "0";
Dpkg::Options {{ "--force-confdef"; "--force-confold"; }};
DPkg::Lock::Timeout "{}";
"#,
        super::LOCK_WAIT.as_secs()
    )
}

fn sources(job: &Job, suites: &[Suite]) -> String {
    let mut text = String::new();
    // One distribution point: two addresses of the same files would only confuse apt.
    if let Some(point) = job.distribution_points.first() {
        for suite in suites {
            let _ = writeln!(text, "{}", source(point, suite));
        }
    }
    text
}

fn source(point: &str, suite: &Suite) -> String {
    let mut options = Vec::new();
    if !suite.signed_by.is_empty() {
        options.push(format!("signed-by={}", suite.signed_by));
    }
    if suite.ignore_valid_until {
        options.push("check-valid-until=no".to_owned());
    }
    let options = if options.is_empty() {
        String::new()
    } else {
        format!(" [{}]", options.join(" "))
    };
    let point = point.trim_end_matches('/');
    let components = suite.components.join(" ");
    format!(
        "deb{options} {point}/apt/{}/ {} {components}",
        suite.key, suite.suite
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_becomes_one_line_of_sources() {
        let suite = Suite {
            key: "0123456789abcdef".into(),
            suite: "bookworm-security".into(),
            components: vec!["main".into(), "contrib".into()],
            signed_by: "/usr/share/keyrings/debian-archive-keyring.gpg".into(),
            ignore_valid_until: true,
        };
        assert_eq!(
            source("https://dp.example:8443/", &suite),
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no] \
             https://dp.example:8443/apt/0123456789abcdef/ bookworm-security main contrib"
        );
    }
}
