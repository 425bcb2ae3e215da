//! What a Debian root is and has, from its files.

use std::fs;
use std::path::Path;
use std::process::Command;

use muster_apt::phasing::Policy;
use muster_apt::{dpkg_status, preferences};

use crate::provider::{Machine, Package, Pins, Restart};

/// Reads everything about a root. What cannot be read is left out, or said to be unreadable.
pub(super) fn machine(root: &Path, host_name: Option<&str>) -> Machine {
    let own = root == Path::new("/");
    let (os_id, os_version_id) = os_release(root);
    let status = dpkg_status::read_root(root);
    let mut machine = Machine {
        host_name: host_name.map_or_else(|| self::host_name(root, own), str::to_owned),
        os_id,
        os_version_id,
        kernel: line(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default(),
        machine_id: line(&root.join("etc/machine-id")),
        memory_bytes: memory(),
        free_disk_bytes: free_disk(root),
        pins: pins(root),
        phasing: if own { phasing() } else { Policy::Always },
        ..Machine::default()
    };
    match status {
        Ok(status) => {
            // dpkg itself is always of the machine's own architecture.
            let dpkg = status
                .packages
                .iter()
                .find(|p| p.package == "dpkg" && p.is_present());
            machine.architecture = dpkg.map_or_else(String::new, |p| p.architecture.clone());
            let package = |p: &dpkg_status::Installed| Package {
                name: p.package.clone(),
                architecture: p.architecture.clone(),
                version: p.version.to_string(),
                source: p.source.clone(),
                held: p.is_held(),
            };
            let present = status.packages.iter().filter(|p| p.is_present());
            machine.packages = Ok(present.map(package).collect());
            machine.unreadable = status
                .rejected
                .into_iter()
                .filter_map(|rejected| rejected.package)
                .collect();
        }
        Err(error) => machine.packages = Err(error.to_string()),
    }
    machine
}

/// Whether a root asks for a restart: the files of `notify-reboot-required`, and for the machine's own
/// root a kernel that is newer than the running one.
pub(super) fn restart(root: &Path) -> Restart {
    for folder in ["run", "var/run"] {
        let flag = root.join(folder).join("reboot-required");
        if !flag.exists() {
            continue;
        }
        let list = fs::read_to_string(flag.with_extension("pkgs")).unwrap_or_default();
        let mut packages: Vec<String> = list
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect();
        packages.sort();
        packages.dedup();
        let reason = if packages.is_empty() {
            format!("/{folder}/reboot-required exists")
        } else {
            packages.join(", ")
        };
        return Restart {
            pending: true,
            packages,
            reason,
        };
    }
    if root == Path::new("/")
        && let Some(running) = line(Path::new("/proc/sys/kernel/osrelease"))
    {
        let kernels = fs::read_dir("/boot").into_iter().flatten().flatten();
        let installed = kernels.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_prefix("vmlinuz-")?.to_owned())
        });
        if let Some(newest) = newer_kernel(&running, &installed.collect::<Vec<_>>()) {
            return Restart {
                pending: true,
                packages: vec![format!("linux-image-{newest}")],
                reason: format!("kernel {running} running, {newest} installed"),
            };
        }
    }
    Restart::default()
}

/// The newest installed kernel of the running one's flavour, if it is newer. A running kernel that
/// is not installed here belongs to somebody else (a container).
fn newer_kernel(running: &str, installed: &[String]) -> Option<String> {
    if !installed.iter().any(|kernel| kernel == running) {
        return None;
    }
    let flavour = |kernel: &str| {
        kernel
            .rsplit_once('-')
            .map(|(_, flavour)| flavour.to_owned())
    };
    let newest = installed
        .iter()
        .filter(|kernel| flavour(kernel) == flavour(running))
        .max_by(|a, b| muster_domain::rule::compare_debian_versions(a, b))?;
    let newer = muster_domain::rule::compare_debian_versions(newest, running).is_gt();
    newer.then(|| newest.clone())
}

fn line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn host_name(root: &Path, own: bool) -> String {
    let running = own
        .then(|| line(Path::new("/proc/sys/kernel/hostname")))
        .flatten();
    running
        .or_else(|| line(&root.join("etc/hostname")))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn os_release(root: &Path) -> (String, String) {
    let text = ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|path| fs::read_to_string(root.join(path)).ok())
        .unwrap_or_default();
    let value = |key: &str| {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found
            .unwrap_or_default()
            .trim()
            .trim_matches(['"', '\''])
            .to_owned()
    };
    (value("ID"), value("VERSION_ID"))
}

fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn free_disk(root: &Path) -> u64 {
    let output = Command::new("stat")
        .args(["-f", "-c", "%a %S"])
        .arg(root)
        .output();
    let Ok(output) = output else { return 0 };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text
        .split_whitespace()
        .filter_map(|word| word.parse::<u64>().ok());
    numbers
        .next()
        .unwrap_or(0)
        .saturating_mul(numbers.next().unwrap_or(0))
}

fn pins(root: &Path) -> Pins {
    preferences::Preferences::read_root(root).unwrap_or_else(|error| {
        tracing::warn!(%error, "the pins of apt cannot be read");
        Pins::default()
    })
}

/// `APT::Get::…-Include-Phased-Updates` of this machine's apt.
fn phasing() -> Policy {
    let output = Command::new("apt-config")
        .args(["dump", "APT::Get"])
        .output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let on = |option: &str| {
        let key = format!("APT::Get::{option}-Include-Phased-Updates");
        text.lines()
            .filter_map(|line| line.strip_prefix(&key))
            .any(|value| {
                let value = value
                    .trim()
                    .trim_matches([' ', '"', ';'])
                    .to_ascii_lowercase();
                matches!(
                    value.as_str(),
                    "1" | "true" | "yes" | "on" | "with" | "enable"
                )
            })
    };
    match (on("Always"), on("Never")) {
        (true, _) => Policy::Always,
        (false, true) => Policy::Never,
        (false, false) => Policy::ByMachine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["etc/apt", "var/lib/dpkg", "run"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("etc/hostname"), "box\n").unwrap();
        fs::write(
            dir.path().join("etc/os-release"),
            "ID=debian\nVERSION_ID=\"12\"\n",
        )
        .unwrap();
        let status = "Package: dpkg\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.21\n\n\
             Package: bash\nStatus: hold ok installed\nArchitecture: amd64\nVersion: 5.2-1\n\n\
             Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n";
        fs::write(dir.path().join("var/lib/dpkg/status"), status).unwrap();
        dir
    }

    #[test]
    fn a_root_is_read_from_its_files() {
        let root = root();
        let machine = machine(root.path(), None);
        assert_eq!(
            (
                machine.host_name.as_str(),
                machine.os_id.as_str(),
                machine.os_version_id.as_str()
            ),
            ("box", "debian", "12")
        );
        assert_eq!(machine.architecture, "amd64");
        let packages = machine.packages.unwrap();
        let names: Vec<_> = packages.iter().map(|p| (p.name.as_str(), p.held)).collect();
        assert_eq!(
            names,
            [("dpkg", false), ("bash", true)],
            "what is removed is not installed"
        );
    }

    #[test]
    fn a_root_without_dpkg_is_unreadable_and_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(machine(dir.path(), None).packages.is_err());
    }

    #[test]
    fn a_restart_names_the_packages_that_ask_for_it() {
        let root = root();
        assert!(!restart(root.path()).pending);
        fs::write(root.path().join("run/reboot-required"), "").unwrap();
        fs::write(
            root.path().join("run/reboot-required.pkgs"),
            "libc6\ndbus\nlibc6\n",
        )
        .unwrap();
        let restart = restart(root.path());
        assert!(restart.pending);
        assert_eq!(restart.packages, ["dbus", "libc6"]);
    }

    #[test]
    fn a_newer_kernel_of_the_same_flavour_asks_for_a_restart() {
        let installed = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let both = installed(&["6.1.0-9-amd64", "6.1.0-18-amd64", "6.9.0-1-rt-amd64x"]);
        assert_eq!(
            newer_kernel("6.1.0-9-amd64", &both).as_deref(),
            Some("6.1.0-18-amd64")
        );
        assert_eq!(newer_kernel("6.1.0-18-amd64", &both), None);
        assert_eq!(
            newer_kernel("5.10.0-cloud", &both),
            None,
            "somebody else's kernel"
        );
    }
}
