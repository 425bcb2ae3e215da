//! Who a peer is. The name stands in its certificate as a URI,
//! `muster://<site code>/<role>/<name>`, put there by the site CA and by nobody else.

use std::fmt;
use std::str::FromStr;

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// What a peer is allowed to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The site server.
    SiteServer,
    /// A management point.
    ManagementPoint,
    /// A software update point.
    SoftwareUpdatePoint,
    /// A distribution point.
    DistributionPoint,
    /// The message broker of a site. It only serves, and calls nobody.
    MessageBroker,
    /// The database server of a site. It only serves, and calls nobody.
    Database,
    /// A managed machine; its name is the client id.
    Client,
    /// A person with the console.
    Administrator,
    /// The site server of a site below: it may use its queues at our broker, and calls what is
    /// meant for sites below.
    ChildSite,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 9] = [
        Self::SiteServer,
        Self::ManagementPoint,
        Self::SoftwareUpdatePoint,
        Self::DistributionPoint,
        Self::MessageBroker,
        Self::Database,
        Self::Client,
        Self::Administrator,
        Self::ChildSite,
    ];

    /// The word in certificates, logs and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SiteServer => "site-server",
            Self::ManagementPoint => "management-point",
            Self::SoftwareUpdatePoint => "software-update-point",
            Self::DistributionPoint => "distribution-point",
            Self::MessageBroker => "message-broker",
            Self::Database => "database",
            Self::Client => "client",
            Self::Administrator => "administrator",
            Self::ChildSite => "child-site",
        }
    }

    /// Whether peers connect to this role, so that its certificate may be a server's.
    #[must_use]
    pub const fn serves(self) -> bool {
        !matches!(self, Self::Client | Self::Administrator | Self::ChildSite)
    }

    /// Whether this role connects to others, so that its certificate may be a client's.
    #[must_use]
    pub const fn calls(self) -> bool {
        !matches!(self, Self::MessageBroker | Self::Database)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(InvalidIdentity("unknown role"))
    }
}

/// A certificate or a text does not hold exactly one identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a muster identity: {0}")]
pub struct InvalidIdentity(&'static str);

/// Who a peer is, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Identity {
    /// What it is.
    pub role: Role,
    /// Code of the site it belongs to.
    pub site: String,
    /// Its name within role and site: the client id for a client, a host name for a service.
    pub name: String,
}

impl Identity {
    /// An identity of valid parts: the site code has 1 to 16 ASCII letters and digits, the name
    /// 1 to 128 ASCII letters, digits, `.`, `_`, `-` and `@`.
    ///
    /// # Errors
    /// When a part is empty, too long or has other characters.
    pub fn new(
        role: Role,
        site: impl Into<String>,
        name: impl Into<String>,
    ) -> Result<Self, InvalidIdentity> {
        let (site, name) = (site.into(), name.into());
        if site.is_empty() || site.len() > 16 || !site.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(InvalidIdentity("invalid site code"));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(allowed) {
            return Err(InvalidIdentity("invalid name"));
        }
        Ok(Self { role, site, name })
    }

    /// Reads the identity from a certificate whose chain has been verified.
    ///
    /// # Errors
    /// When the certificate cannot be parsed or does not name exactly one identity.
    pub fn from_certificate(der: &[u8]) -> Result<Self, InvalidIdentity> {
        let (rest, certificate) = x509_parser::certificate::X509Certificate::from_der(der)
            .map_err(|_| InvalidIdentity("unreadable certificate"))?;
        if !rest.is_empty() {
            return Err(InvalidIdentity("bytes after the certificate"));
        }
        let mut found = None;
        for extension in certificate.extensions() {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension()
            else {
                continue;
            };
            for name in &names.general_names {
                let GeneralName::URI(uri) = name else {
                    continue;
                };
                if uri.starts_with("muster://") && found.replace(uri.parse()?).is_some() {
                    return Err(InvalidIdentity("more than one identity"));
                }
            }
        }
        found.ok_or(InvalidIdentity("no identity in the certificate"))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "muster://{}/{}/{}", self.site, self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let path = text
            .strip_prefix("muster://")
            .ok_or(InvalidIdentity("wrong scheme"))?;
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(site), Some(role), Some(name), None) => Self::new(role.parse()?, site, name),
            _ => Err(InvalidIdentity("not site, role and name")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_as_it_is_written() {
        for role in Role::ALL {
            let identity = Identity::new(role, "P01", "a-1.b_2@c").unwrap();
            assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
        }
    }

    #[test]
    fn anything_else_is_no_identity() {
        for text in [
            "",
            "muster://",
            "muster://P01/client",
            "muster://P01/client/",
            "muster:///client/a",
            "muster://P01/king/a",
            "muster://P01/client/a/b",
            "muster://P01/client/a b",
            "muster://P-1/client/a",
            "http://P01/client/a",
            "muster://P01/Client/a",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
