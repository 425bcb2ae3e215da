//! A component of a suite: what product it belongs to, how its updates are classified, and which
//! clients it concerns.

use muster_apt::release::Release;

/// One component of one suite of one archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Channel {
    pub(crate) archive_uri: String,
    /// As the source names it, such as `bookworm-security`.
    pub(crate) suite: String,
    pub(crate) component: String,
    pub(crate) origin: String,
    pub(crate) label: String,
    /// The release's `Suite` field, such as `oldstable-security`.
    pub(crate) archive_suite: String,
    pub(crate) codename: String,
    pub(crate) version: String,
    pub(crate) not_automatic: bool,
    pub(crate) but_automatic_upgrades: bool,
}

/// The classifications that apt's suites can mean (`muster.catalog.v1.Classification`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Classification {
    /// A security suite.
    Security,
    /// Backports: new features, chosen by hand.
    FeaturePack,
    /// Everything else, point releases and `-updates` alike: both are bug fixes for the same release.
    Update,
}

impl Channel {
    pub(crate) fn new(uri: &str, suite: &str, component: &str, release: &Release) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            archive_uri: uri.to_owned(),
            suite: suite.to_owned(),
            component: component.to_owned(),
            origin: text(&release.origin),
            label: text(&release.label),
            archive_suite: text(&release.suite),
            codename: text(&release.codename),
            version: text(&release.version),
            not_automatic: release.not_automatic,
            but_automatic_upgrades: release.but_automatic_upgrades,
        }
    }

    /// The host of the archive, for `Pin: origin`.
    pub(crate) fn site(&self) -> &str {
        let rest = self
            .archive_uri
            .split_once("://")
            .map_or("", |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        host.split(':').next().unwrap_or_default()
    }

    /// The distribution in lower case, as os-release's `ID` has it; the host for an archive
    /// without an origin.
    pub(crate) fn distribution(&self) -> String {
        let name = if self.origin.is_empty() {
            self.site()
        } else {
            &self.origin
        };
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        };
        name.to_ascii_lowercase().chars().map(plain).collect()
    }

    /// The release's number as os-release's `VERSION_ID` has it: Debian counts point releases
    /// behind a dot (12.5 is 12), Ubuntu's number has a dot of its own (22.04).
    pub(crate) fn release_number(&self) -> &str {
        let number = self.version.split('-').next().unwrap_or_default();
        match number.split_once('.') {
            Some((major, _)) if self.origin.eq_ignore_ascii_case("debian") => major,
            _ => number,
        }
    }

    /// Suites in which a newer version of a source replaces an older one: main, updates and
    /// security of one release.
    pub(crate) fn family(&self) -> String {
        let number = self.release_number();
        let name = self.codename.split(['-', '/']).next().unwrap_or_default();
        let release = if number.is_empty() { name } else { number };
        format!("{}/{release}", self.distribution())
    }

    /// The product, such as `Debian 12`.
    pub(crate) fn product(&self) -> String {
        let origin = if self.origin.is_empty() {
            self.site()
        } else {
            &self.origin
        };
        let release = self.release_number();
        if release.is_empty() {
            origin.to_owned()
        } else {
            format!("{origin} {release}")
        }
    }

    pub(crate) fn classification(&self) -> Classification {
        let names = [
            &self.suite,
            &self.archive_suite,
            &self.codename,
            &self.label,
        ];
        let says = |word: &str| {
            names
                .iter()
                .any(|name| name.to_ascii_lowercase().contains(word))
        };
        if says("security") {
            Classification::Security
        } else if says("backports") {
            Classification::FeaturePack
        } else {
            Classification::Update
        }
    }

    /// Whether a client of this os-release `ID` and `VERSION_ID` is concerned. Empty texts ask about
    /// everything. An archive without a release number serves every release of its own accord.
    pub(crate) fn concerns(&self, os_id: &str, os_version_id: &str) -> bool {
        let number = self.release_number();
        if number.is_empty() || os_id.is_empty() {
            return true;
        }
        self.distribution() == os_id.to_ascii_lowercase()
            && (os_version_id.is_empty() || number == os_version_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(suite: &str, origin: &str, version: &str) -> Channel {
        Channel {
            archive_uri: "http://user@archive.example:8080/debian".into(),
            suite: suite.into(),
            codename: suite.into(),
            origin: origin.into(),
            version: version.into(),
            ..Channel::default()
        }
    }

    #[test]
    fn main_updates_and_security_of_a_release_are_one_family_and_product() {
        for (suite, version, classification) in [
            ("bookworm", "12.5", Classification::Update),
            ("bookworm-updates", "12-updates", Classification::Update),
            ("bookworm-security", "12", Classification::Security),
            ("bookworm-backports", "12", Classification::FeaturePack),
        ] {
            let channel = channel(suite, "Debian", version);
            assert_eq!(channel.family(), "debian/12");
            assert_eq!(channel.product(), "Debian 12");
            assert_eq!(channel.classification(), classification);
            assert!(channel.concerns("debian", "12") && channel.concerns("", ""));
            assert!(!channel.concerns("debian", "13") && !channel.concerns("ubuntu", "12"));
        }
    }

    #[test]
    fn a_number_with_a_dot_of_its_own_is_kept() {
        let channel = channel("jammy-security", "Ubuntu", "22.04");
        assert_eq!(
            (channel.product().as_str(), channel.family().as_str()),
            ("Ubuntu 22.04", "ubuntu/22.04")
        );
        assert!(channel.concerns("ubuntu", "22.04") && !channel.concerns("ubuntu", "22.10"));
    }

    #[test]
    fn an_archive_without_origin_or_number_serves_everybody_under_its_host() {
        let channel = channel("stable", "", "");
        assert_eq!(
            (channel.site(), channel.distribution().as_str()),
            ("archive.example", "archive.example")
        );
        assert_eq!(
            (channel.product().as_str(), channel.family().as_str()),
            ("archive.example", "archive.example/stable")
        );
        assert!(channel.concerns("debian", "12"));
    }
}
