//! What apt would do, before it does it: every package must be one that the policy approves, in
//! the same version, and the vendor's signed index must name the same file.

use muster_apt::packages::BinaryPackage;
use muster_domain::error_code;

use super::{DpkgRoot, last_lines};
use crate::Failure;
use crate::provider::Approved;

/// A package that apt would install, and the name it expects its file to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) file: Approved,
    pub(super) name: String,
}

/// The options of every call that leads to an installation.
pub(super) const OPTIONS: &[&str] = &["-q", "-y", "--no-remove", "--no-install-recommends"];

/// Asks apt what installing `wanted` means.
///
/// # Errors
/// `DEPENDENCY_NOT_APPROVED`, `WOULD_REMOVE_PACKAGES`, `VERSION_NOT_OFFERED`,
/// `UNTRUSTED_DEPLOYMENT` or `INSTALL_FAILED`.
pub(super) async fn simulate(
    root: &DpkgRoot,
    wanted: &[Approved],
    approved: &[Approved],
) -> Result<Vec<Fetch>, Failure> {
    let arguments: Vec<String> = arguments(wanted);
    let mut args: Vec<&str> = OPTIONS.to_vec();
    args.extend(["-s", "install"]);
    args.extend(arguments.iter().map(String::as_str));
    let said = root.look("apt-get", &args).await?;
    if !said.success {
        return Err(refused(&said.stderr, &said.stdout));
    }
    let planned = planned(&said.stdout)?;
    let files = approve(&planned, approved)?;

    let records = records(root, &files).await?;
    files
        .into_iter()
        .map(|file| vouched(file, &records))
        .collect()
}

/// `package:architecture=version` for each file, once.
pub(super) fn arguments(files: &[Approved]) -> Vec<String> {
    let mut arguments: Vec<String> = files
        .iter()
        .map(|file| match file.architecture.as_str() {
            "all" => format!("{}={}", file.package, file.version),
            architecture => format!("{}:{architecture}={}", file.package, file.version),
        })
        .collect();
    arguments.sort();
    arguments.dedup();
    arguments
}

/// A package that apt's simulation installs.
#[derive(Debug, PartialEq, Eq)]
struct Planned {
    package: String,
    version: String,
    architecture: String,
}

/// Reads `Inst name [old] (new origin [arch])` and refuses `Remv`.
fn planned(stdout: &str) -> Result<Vec<Planned>, Failure> {
    let mut planned = Vec::new();
    for line in stdout.lines() {
        if let Some(rest) = line.strip_prefix("Remv ") {
            let name = rest.split_whitespace().next().unwrap_or_default();
            let detail = format!("apt would remove {name}");
            return Err(Failure::new(error_code::WOULD_REMOVE_PACKAGES, detail));
        }
        let Some(rest) = line.strip_prefix("Inst ") else {
            continue;
        };
        let parsed = (|| {
            let name = rest.split_whitespace().next()?;
            let (_, inside) = rest.split_once('(')?;
            let version = inside.split_whitespace().next()?;
            let (_, after) = inside.split_once('[')?;
            let (architecture, _) = after.split_once(']')?;
            Some(Planned {
                package: name.split(':').next()?.to_owned(),
                version: version.to_owned(),
                architecture: architecture.to_owned(),
            })
        })();
        let unreadable = || Failure::new(error_code::INSTALL_FAILED, format!("apt said: {line}"));
        planned.push(parsed.ok_or_else(unreadable)?);
    }
    Ok(planned)
}

/// Finds each planned package among those that the policy approves.
fn approve(planned: &[Planned], approved: &[Approved]) -> Result<Vec<Approved>, Failure> {
    let find = |one: &Planned| {
        let same = approved.iter().find(|file| {
            file.package == one.package
                && file.version == one.version
                && file.architecture == one.architecture
        });
        same.cloned().ok_or_else(|| {
            let Planned {
                package,
                version,
                architecture,
            } = one;
            Failure::new(
                error_code::DEPENDENCY_NOT_APPROVED,
                format!("needs {package} {version} ({architecture}), which no deployment approves"),
            )
        })
    };
    planned.iter().map(find).collect()
}

/// What the vendor's indexes say about packages: apt's own copies, whose signatures it verified.
async fn records(root: &DpkgRoot, files: &[Approved]) -> Result<Vec<BinaryPackage>, Failure> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let arguments = arguments(files);
    let mut args = vec!["show"];
    args.extend(arguments.iter().map(String::as_str));
    let said = root.look("apt-cache", &args).await?;
    if !said.success {
        return Err(refused(&said.stderr, ""));
    }
    Ok(read_records(&said.stdout))
}

/// Records of apt-cache. One that is not of an index (dpkg's own has no file) is left out.
fn read_records(text: &str) -> Vec<BinaryPackage> {
    let mut reader = muster_apt::packages::Reader::new(text.as_bytes());
    let mut records = Vec::new();
    while let Ok(Some(record)) = reader.next_package() {
        records.extend(record);
    }
    records
}

/// The vendor's key of the two (reliability.md D1): a verified index must give the file that the
/// policy names, by size and SHA-256.
fn vouched(file: Approved, records: &[BinaryPackage]) -> Result<Fetch, Failure> {
    let untrusted = |why: String| Failure::new(error_code::UNTRUSTED_DEPLOYMENT, why);
    let mut same = records.iter().filter(|record| {
        record.package == file.package
            && record.version.as_str() == file.version
            && record.architecture == file.architecture
    });
    let title = file.title();
    if same.clone().next().is_none() {
        let detail = format!("the vendor's index has no {title}");
        return Err(Failure::new(error_code::VERSION_NOT_OFFERED, detail));
    }
    if !same.any(|record| record.size == file.size && record.sha256 == file.sha256) {
        let why = format!("the vendor's index names another file for {title} than the policy");
        return Err(untrusted(why));
    }
    Ok(Fetch {
        name: file_name(&file),
        file,
    })
}

/// The name under which apt looks for a package in its archives folder.
fn file_name(file: &Approved) -> String {
    let quote = |text: &str, bad: &str| {
        text.chars()
            .map(|c| match c {
                c if bad.contains(c) || c == '%' => format!("%{:02x}", c as u32),
                c => c.to_string(),
            })
            .collect::<String>()
    };
    format!(
        "{}_{}_{}.deb",
        quote(&file.package, "_:"),
        quote(&file.version, "_:"),
        quote(&file.architecture, "_:.")
    )
}

/// What apt's refusal means.
fn refused(stderr: &str, stdout: &str) -> Failure {
    // Most often a version that a newer one replaced in the archive.
    let missing = [
        "was not found",
        "Unable to locate package",
        "No packages found",
    ];
    let code = if missing.iter().any(|words| stderr.contains(words)) {
        error_code::VERSION_NOT_OFFERED
    } else if stderr.contains("remove is disabled") {
        error_code::WOULD_REMOVE_PACKAGES
    } else {
        error_code::INSTALL_FAILED
    };
    // The unmet dependencies stand on the other channel.
    let depends: Vec<&str> = stdout
        .lines()
        .map(str::trim)
        .filter(|line| line.contains("Depends:"))
        .take(5)
        .collect();
    let mut detail = last_lines(stderr);
    for line in depends {
        detail.push('\n');
        detail.push_str(line);
    }
    Failure::new(code, detail)
}

#[cfg(test)]
mod tests {
    use muster_domain::UpdateNo;

    use super::*;

    const SIMULATION: &str = "Reading package lists...\n\
        Inst libssl3 [3.0.11-1] (1:3.0.15-1 Debian-Security:12/stable-security [amd64]) []\n\
        Inst tzdata [2024a] (2024b Debian:12.8/stable [all])\n\
        Conf libssl3 (1:3.0.15-1 Debian-Security:12/stable-security [amd64])\n";

    fn file(package: &str, version: &str, architecture: &str) -> Approved {
        Approved {
            package: package.into(),
            version: version.into(),
            architecture: architecture.into(),
            sha256: [0xab; 32],
            size: 42,
            update: UpdateNo(1),
        }
    }

    #[test]
    fn what_apt_plans_must_be_approved_by_name_version_and_architecture() {
        let planned = planned(SIMULATION).unwrap();
        assert_eq!(planned.len(), 2);
        let both = [
            file("libssl3", "1:3.0.15-1", "amd64"),
            file("tzdata", "2024b", "all"),
        ];
        assert_eq!(approve(&planned, &both).unwrap().len(), 2);
        let failure = approve(&planned, &both[..1]).unwrap_err();
        assert_eq!(failure.code, error_code::DEPENDENCY_NOT_APPROVED);
        assert!(failure.detail.contains("tzdata 2024b"), "{failure}");
        let older = [both[0].clone(), file("tzdata", "2024a", "all")];
        assert!(
            approve(&planned, &older).is_err(),
            "another version is not approved"
        );
    }

    #[test]
    fn a_removal_is_refused() {
        let failure = planned("Remv apt [2.6]\n").unwrap_err();
        assert_eq!(failure.code, error_code::WOULD_REMOVE_PACKAGES);
    }

    #[test]
    fn the_vendor_and_the_site_must_name_the_same_file() {
        let file = file("libssl3", "1:3.0.15-1", "amd64");
        let record = |version: &str, size: u64, byte: &str| {
            read_records(&format!(
                "Package: libssl3\nVersion: {version}\nArchitecture: amd64\nSize: {size}\n\
                 Filename: pool/main/o/openssl/l.deb\nSHA256: {}\n\n\
                 Package: libssl3\nStatus: install ok installed\nVersion: 1:3.0.15-1\n\
                 Architecture: amd64\n",
                byte.repeat(32)
            ))
        };
        let good = record("1:3.0.15-1", 42, "ab");
        assert_eq!(good.len(), 1, "dpkg's own record does not vouch for a file");
        let fetch = vouched(file.clone(), &good).unwrap();
        assert_eq!(fetch.name, "libssl3_1%3a3.0.15-1_amd64.deb");
        let (other, gone) = (
            error_code::UNTRUSTED_DEPLOYMENT,
            error_code::VERSION_NOT_OFFERED,
        );
        for (bad, code) in [
            (record("1:3.0.15-1", 43, "ab"), other),
            (record("1:3.0.15-1", 42, "ac"), other),
            (record("1:3.0.16-1", 42, "ab"), gone),
            (Vec::new(), gone),
        ] {
            let failure = vouched(file.clone(), &bad).unwrap_err();
            assert_eq!(failure.code, code, "{bad:?}");
        }
    }

    #[test]
    fn a_version_that_left_the_archive_is_told_from_an_untrusted_file() {
        let said = "E: Version '1:3.0.15-1' for 'libssl3' was not found";
        assert_eq!(refused(said, "").code, error_code::VERSION_NOT_OFFERED);
        let said = "E: Packages need to be removed but remove is disabled.";
        assert_eq!(refused(said, "").code, error_code::WOULD_REMOVE_PACKAGES);
        assert_eq!(refused("E: broken", "").code, error_code::INSTALL_FAILED);
    }
}
