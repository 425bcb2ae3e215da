//! Numbers of what can go wrong on a client: stable, so that the same failure on ten
//! thousand machines is one line of a report. Listed in `docs/glossary.md`.

/// What a number means, if it is one of ours.
pub const fn meaning(code: i32) -> Option<&'static str> {
    let mut at = 0;
    while at < ALL.len() {
        if ALL[at].0 == code {
            return Some(ALL[at].1);
        }
        at += 1;
    }
    None
}

/// The package manager failed; the detail has its own words.
pub const INSTALL_FAILED: i32 = 101;
/// An update needs a package or a version that no deployment approves.
pub const DEPENDENCY_NOT_APPROVED: i32 = 102;
/// Installing would remove packages.
pub const WOULD_REMOVE_PACKAGES: i32 = 103;
/// A package of the update is on hold on the machine.
pub const PACKAGE_HELD: i32 = 104;
/// The package manager was at work for somebody else until time ran out.
pub const PACKAGE_MANAGER_BUSY: i32 = 105;
/// The machine's package database is broken and could not be repaired.
pub const PACKAGE_DATABASE_BROKEN: i32 = 106;
/// After installing, a scan still finds the update required.
pub const STILL_REQUIRED: i32 = 107;
/// The installation ran longer than its maximum run time.
pub const INSTALL_TIMED_OUT: i32 = 108;
/// No distribution point had the file.
pub const CONTENT_NOT_FOUND: i32 = 201;
/// A file's size or SHA-256 is not what the policy says.
pub const CONTENT_MISMATCH: i32 = 202;
/// No distribution point answered.
pub const CONTENT_UNREACHABLE: i32 = 203;
/// The disk has no room.
pub const DISK_FULL: i32 = 204;
/// The vendor's signed index names another file than the policy, or the policy names a keyring
/// that is not the machine's own.
pub const UNTRUSTED_DEPLOYMENT: i32 = 301;
/// The vendor's index could not be verified on this machine.
pub const VENDOR_INDEX_REFUSED: i32 = 302;
/// The policy's signature, client or revision was not accepted.
pub const POLICY_REFUSED: i32 = 303;
/// The archive no longer offers the version that the policy names: a newer one took its place.
pub const VERSION_NOT_OFFERED: i32 = 304;
/// No software update point answered.
pub const SCAN_SOURCE_UNREACHABLE: i32 = 401;
/// The machine's package list could not be read.
pub const INVENTORY_UNREADABLE: i32 = 402;
/// A failure that a simulated client was told to have.
pub const SIMULATED_FAILURE: i32 = 901;

/// All numbers with their meaning, in ascending order.
pub const ALL: &[(i32, &str)] = &[
    (INSTALL_FAILED, "the package manager failed"),
    (
        DEPENDENCY_NOT_APPROVED,
        "needs a package that no deployment approves",
    ),
    (WOULD_REMOVE_PACKAGES, "installing would remove packages"),
    (PACKAGE_HELD, "the package is on hold"),
    (PACKAGE_MANAGER_BUSY, "the package manager was busy"),
    (PACKAGE_DATABASE_BROKEN, "the package database is broken"),
    (STILL_REQUIRED, "still required after installing"),
    (INSTALL_TIMED_OUT, "ran longer than its maximum run time"),
    (CONTENT_NOT_FOUND, "content is on no distribution point"),
    (CONTENT_MISMATCH, "content is not what the policy names"),
    (CONTENT_UNREACHABLE, "no distribution point answered"),
    (DISK_FULL, "no room on the disk"),
    (
        UNTRUSTED_DEPLOYMENT,
        "the vendor's index does not name this file",
    ),
    (
        VENDOR_INDEX_REFUSED,
        "the vendor's index could not be verified",
    ),
    (POLICY_REFUSED, "the policy was not accepted"),
    (
        VERSION_NOT_OFFERED,
        "the archive no longer offers this version",
    ),
    (SCAN_SOURCE_UNREACHABLE, "no software update point answered"),
    (INVENTORY_UNREADABLE, "the package list could not be read"),
    (SIMULATED_FAILURE, "simulated failure"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_ascending() {
        assert!(ALL.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(meaning(PACKAGE_HELD), Some("the package is on hold"));
        assert_eq!(meaning(7), None);
    }
}
