//! `site-server init`: everything a new site needs before its first process starts. Made once;
//! an existing site is never overwritten.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use muster_domain::SiteCode;
use muster_runtime::Role;
use muster_runtime::tls::ca::CertificateAuthority;

use crate::domain::policy::PolicyKey;

/// The certificates of a new site: file name and role.
const CERTIFICATES: [(&str, Role); 7] = [
    ("site-server", Role::SiteServer),
    ("management-point", Role::ManagementPoint),
    ("software-update-point", Role::SoftwareUpdatePoint),
    ("distribution-point", Role::DistributionPoint),
    ("broker", Role::MessageBroker),
    ("database", Role::Database),
    ("administrator", Role::Administrator),
];

/// Makes the site CA, the policy key and one certificate per role under `out`:
/// `ca/ca.pem`, `ca/ca.key`, `keys/policy.key`, `certs/<name>.pem` and `.key`.
///
/// # Errors
/// When the site code is invalid, `out` has a site already, or a file cannot be written.
pub fn init(site: &str, name: &str, out: &Path, hosts: &[String]) -> anyhow::Result<()> {
    let site: SiteCode = site.parse()?;
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        bail!("a site needs a name for people");
    }
    for folder in ["ca", "keys", "certs"] {
        let path = out.join(folder);
        if path.exists() {
            bail!(
                "{} exists already: this site was initialised",
                path.display()
            );
        }
    }
    for folder in ["ca", "keys", "certs"] {
        let path = out.join(folder);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
    }
    let ca = CertificateAuthority::create(&out.join("ca"), site.as_str())?;
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    for (name, role) in CERTIFICATES {
        ca.issue(role, name, &hosts)
            .and_then(|issued| issued.write(&out.join("certs"), name, ca.path()))
            .with_context(|| format!("cannot issue the certificate of {name}"))?;
    }
    let path = out.join("keys/policy.key");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(PolicyKey::generate()?.as_bytes())?;
    file.sync_all()?;
    tracing::info!(site.code = %site, site.name = name, out = %out.display(), "site initialised");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_site_has_its_keys_to_itself_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        init("p01", "Head office", folder.path(), &hosts).unwrap();
        let before = fs::read(folder.path().join("ca/ca.key")).unwrap();
        for file in [
            "ca/ca.key",
            "keys/policy.key",
            "certs/broker.key",
            "certs/administrator.key",
        ] {
            let mode = fs::metadata(folder.path().join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert!(folder.path().join("certs/administrator.pem").exists());
        let error = init("P01", "Again", folder.path(), &hosts)
            .unwrap_err()
            .to_string();
        assert!(error.contains("exists already"), "{error}");
        assert_eq!(fs::read(folder.path().join("ca/ca.key")).unwrap(), before);
    }

    #[test]
    fn a_site_needs_a_code_and_a_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(init("P0001", "x", folder.path(), &[]).is_err());
        assert!(init("P01", " ", folder.path(), &[]).is_err());
    }
}
