//! Finds the servers on this machine, or installs them from its own packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::account;

/// The oldest PostgreSQL that will do.
const POSTGRES: Version = (15, 0);
/// The oldest RabbitMQ that will do.
const RABBITMQ: Version = (3, 10);
/// The oldest kubectl that is worth installing: the first with Kustomize 5.
const KUBECTL: Version = (1, 27);

type Version = (u32, u32);

/// Whether missing packages may be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// As root or through sudo, saying what is done.
    Yes,
    /// The command is named in the error, nothing is changed.
    No,
}

/// Where the servers' programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The folder with `postgres`, `initdb` and `psql`.
    pub postgres_bin: PathBuf,
    /// What `postgres --version` says.
    pub postgres_version: String,
    /// The folder with `rabbitmq-server` and `rabbitmqctl` (not Debian's wrappers in `/usr/sbin`,
    /// which insist on the system's own account and settings).
    pub rabbitmq_bin: PathBuf,
    /// Its version.
    pub rabbitmq_version: String,
    /// Erlang's name service.
    pub epmd: PathBuf,
}

/// Finds PostgreSQL and RabbitMQ, installing what is missing when `install` allows it. `say`
/// gets what is done, one line at a time.
///
/// # Errors
/// Something is missing and may not or cannot be installed; the error names the command.
pub fn ensure(install: Install, say: &dyn Fn(&str)) -> Result<Programs> {
    let mut missing = Vec::new();
    if find_postgres().is_none() {
        missing.push("postgresql");
    }
    if find_rabbitmq().is_none() {
        missing.push("rabbitmq-server");
    }
    ensure_packages(&missing, install, say)?;
    let (postgres_bin, postgres_version) = find_postgres().context(
        "PostgreSQL 15 or newer is not on this machine; name its folder of programs in MUSTER_PG_BIN",
    )?;
    let (rabbitmq_bin, rabbitmq_version) =
        find_rabbitmq().context("RabbitMQ 3.10 or newer is not on this machine")?;
    let epmd = find_epmd().context("epmd of Erlang is not on this machine")?;
    Ok(Programs {
        postgres_bin,
        postgres_version,
        rabbitmq_bin,
        rabbitmq_version,
        epmd,
    })
}

/// Finds debootstrap, which the demo builds its throwaway Debian with; installs it as [`ensure`].
///
/// # Errors
/// As [`ensure`].
pub fn ensure_debootstrap(install: Install, say: &dyn Fn(&str)) -> Result<PathBuf> {
    let find = || find_program("debootstrap");
    if find().is_none() {
        ensure_packages(&["debootstrap"], install, say)?;
    }
    find().context("debootstrap is not on this machine")
}

/// Finds promtool, which checks alert rules and runs their tests; installs Debian's `prometheus`
/// as [`ensure`], whose service is neither started nor enabled. `None`: it is not here, and there
/// is no apt-get either.
///
/// # Errors
/// As [`ensure`], but for a missing apt-get.
pub fn ensure_promtool(install: Install, say: &dyn Fn(&str)) -> Result<Option<PathBuf>> {
    let find = || find_program("promtool");
    if find().is_none() {
        if find_program("apt-get").is_none() {
            return Ok(None);
        }
        ensure_packages(&["prometheus"], install, say)?;
    }
    find().context("promtool is not on this machine").map(Some)
}

/// Installs Debian's `kubernetes-client` as [`ensure_promtool`], where it is new enough (from Debian
/// 13 on) and there is no kubectl yet. `None`: there is nothing to install.
///
/// # Errors
/// As [`ensure`], but for a missing apt-get.
pub fn ensure_kubectl(install: Install, say: &dyn Fn(&str)) -> Result<Option<PathBuf>> {
    let mut policy = Command::new("apt-cache");
    policy.args(["policy", "kubernetes-client"]);
    let answer = crate::process::output(policy, "").unwrap_or_default();
    let offered = answer
        .lines()
        .find_map(|it| parse_version(it.trim().strip_prefix("Candidate: ")?));
    if find_program("kubectl").is_some() || offered < Some(KUBECTL) {
        return Ok(None);
    }
    ensure_packages(&["kubernetes-client"], install, say)?;
    Ok(find_program("kubectl"))
}

/// A program of this name in `PATH` or the usual folders of an administrator.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|it| it.join(name))
        .find(|it| it.is_file())
}

fn find_postgres() -> Option<(PathBuf, String)> {
    let mut folders: Vec<PathBuf> = std::env::var_os("MUSTER_PG_BIN")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    let mut packaged: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|it| {
            Some((
                it.file_name().to_str()?.parse().ok()?,
                it.path().join("bin"),
            ))
        })
        .collect();
    packaged.sort_by_key(|it| std::cmp::Reverse(it.0));
    folders.extend(packaged.into_iter().map(|it| it.1));
    folders.extend(find_program("postgres").and_then(|it| it.parent().map(Path::to_path_buf)));
    folders.into_iter().find_map(|folder| {
        if !["initdb", "psql"]
            .iter()
            .all(|it| folder.join(it).is_file())
        {
            return None;
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let version = text.split_whitespace().find_map(parse_version)?;
        (version >= POSTGRES).then_some((folder, text))
    })
}

fn find_rabbitmq() -> Option<(PathBuf, String)> {
    let bin = PathBuf::from("/usr/lib/rabbitmq/bin");
    if !bin.join("rabbitmq-server").is_file() {
        return None;
    }
    fs::read_dir("/usr/lib/rabbitmq/lib")
        .ok()?
        .flatten()
        .find_map(|it| {
            let name = it.file_name();
            let version = name.to_str()?.strip_prefix("rabbitmq_server-")?.to_owned();
            (parse_version(&version)? >= RABBITMQ).then_some((bin.clone(), version))
        })
}

fn find_epmd() -> Option<PathBuf> {
    find_program("epmd").or_else(|| {
        let packaged = PathBuf::from("/usr/lib/erlang/bin/epmd");
        packaged.is_file().then_some(packaged)
    })
}

/// The first two numbers of a version such as `15.18`, `3.10.8` or `18beta1`.
fn parse_version(text: &str) -> Option<Version> {
    let mut numbers = text.split('.').map(|it| {
        let digits = it.find(|it: char| !it.is_ascii_digit()).unwrap_or(it.len());
        it[..digits].parse::<u32>().ok()
    });
    let major = numbers.next()??;
    Some((major, numbers.next().flatten().unwrap_or(0)))
}

/// The packages' scripts must not start servers of the system, today or at the next boot:
/// those would not be ours to look after. `policy-rc.d` is Debian's own way to say so, and
/// `createcluster.conf` that of its PostgreSQL packages.
const SCRIPT: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
ours=no
if [ ! -e "$policy" ]; then
    ours=yes
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
cluster=/etc/postgresql-common/createcluster.conf
if [ ! -e "$cluster" ]; then
    mkdir -p /etc/postgresql-common
    printf '%s\n' '# Made by "cargo xtask" before it installed PostgreSQL: no cluster of the system was wanted.' \
        'create_main_cluster = false' > "$cluster"
fi
apt-get -o DPkg::Lock::Timeout=120 update
apt-get -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold install -y --no-install-recommends "$@"
if command -v systemctl >/dev/null 2>&1; then
    for unit in postgresql rabbitmq-server prometheus; do
        case " $* " in *" $unit "*) systemctl disable "$unit" >/dev/null 2>&1 || true ;; esac
    done
fi
"#;

fn ensure_packages(packages: &[&str], install: Install, say: &dyn Fn(&str)) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let command = format!("apt-get update && apt-get install -y --no-install-recommends {list}");
    if install == Install::No {
        bail!("missing: {list}. As root: {command}");
    }
    if find_program("apt-get").is_none() {
        bail!("missing: {list}, and there is no apt-get here to install it with");
    }
    let mut shell = if account::is_root() {
        say(&format!("missing: {list}. Running: {command}"));
        Command::new("/bin/sh")
    } else {
        let sudo =
            find_program("sudo").with_context(|| format!("missing: {list}. As root: {command}"))?;
        say(&format!("missing: {list}. Running through sudo: {command}"));
        let mut shell = Command::new(sudo);
        shell.arg("/bin/sh");
        shell
    };
    say("no service of the system is started or enabled by this");
    let status = shell.args(["-c", SCRIPT, "sh"]).args(packages).status()?;
    if !status.success() {
        bail!("{command}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("15.18"), Some((15, 18)));
        assert_eq!(parse_version("3.10.8"), Some((3, 10)));
        assert_eq!(parse_version("18beta1"), Some((18, 0)));
        assert_eq!(parse_version("(PostgreSQL)"), None);
        assert!(parse_version("3.9.13") < Some(RABBITMQ));
        assert!(parse_version("4.2") >= Some(RABBITMQ));
    }

    #[test]
    fn the_script_that_installs_is_a_shell_script() {
        let status = Command::new("/bin/sh")
            .args(["-n", "-c", SCRIPT])
            .status()
            .unwrap();
        assert!(status.success());
    }
}
