//! Which account the servers run as: PostgreSQL refuses root, and RabbitMQ does not need it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// An account of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its login name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its main group.
    pub gid: u32,
}

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    // The kernel gives the folder of a process to its effective user.
    fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}

/// The first account of `names` that exists, when this process is root; `None` when it is not:
/// then the servers run as who we are.
///
/// # Errors
/// `/etc/passwd` cannot be read or has none of the names.
pub fn for_server(names: &[&str]) -> Result<Option<Account>> {
    if !is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    for name in names {
        if let Some(account) = find(&passwd, name) {
            return Ok(Some(account));
        }
    }
    bail!("none of the accounts {names:?} exists, and this server does not run as root")
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then(|| Account {
            name: name.to_owned(),
            uid,
            gid,
        })
    })
}

/// Whether an account without rights can walk down to `folder`: each part of its path lets
/// others pass. `/root` usually does not.
#[must_use]
pub fn can_be_entered_by_others(folder: &Path) -> bool {
    folder
        .ancestors()
        .filter(|it| !it.as_os_str().is_empty())
        .all(|it| fs::metadata(it).is_ok_and(|it| it.mode() & 0o001 != 0))
}

/// Gives `path` to the account (or leaves it as it is when there is none).
///
/// # Errors
/// The change of the owner fails.
pub fn give(path: &Path, account: Option<&Account>) -> Result<()> {
    if let Some(account) = account {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("cannot give {} to {}", path.display(), account.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name_and_root_is_never_taken() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104:a,b:/:/bin/sh\n";
        let found = find(passwd, "postgres").unwrap();
        assert_eq!((found.uid, found.gid), (101, 104));
        assert_eq!(find(passwd, "root"), None);
        assert_eq!(find(passwd, "rabbitmq"), None);
    }
}
