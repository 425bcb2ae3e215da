//! Names of things. Parsed once at the door, then carried as types.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What was wrong with the text or bytes of an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} is not valid: {why}")]
pub struct InvalidId {
    /// Which kind of id.
    pub what: &'static str,
    /// What its form should be.
    pub why: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, in the order of time (UUID version 7).
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// From the 16 bytes used on the wire.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
                Uuid::from_slice(bytes)
                    .map(Self)
                    .map_err(|_| InvalidId { what: $what, why: "it must be 16 bytes" })
            }

            /// The 16 bytes used on the wire.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| InvalidId { what: $what, why: "it must be a UUID" })
            }
        }
    };
}

uuid_id!(
    /// A managed machine. Given at enrolment, never used again.
    ClientId,
    "client id"
);
uuid_id!(
    /// A deployment, the same in the whole hierarchy (AssignmentUniqueID, semantics.md 2.7).
    DeploymentId,
    "deployment id"
);
uuid_id!(
    /// A collection of clients.
    CollectionId,
    "collection id"
);
uuid_id!(
    /// A list of updates.
    UpdateListId,
    "update list id"
);
uuid_id!(
    /// A deployment package: content on distribution points.
    PackageId,
    "package id"
);

/// The dense number of an update, given once by the top-level software update point and
/// the same in the whole hierarchy. 1 and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UpdateNo(pub u32);

impl fmt::Display for UpdateNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Three characters, A–Z and 0–9, that name a site in the whole hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteCode([u8; 3]);

impl SiteCode {
    /// The code as text.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in.
        std::str::from_utf8(&self.0).unwrap_or("???")
    }
}

impl FromStr for SiteCode {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.trim().to_ascii_uppercase();
        match upper.as_bytes() {
            [a, b, c]
                if [a, b, c]
                    .iter()
                    .all(|x| x.is_ascii_uppercase() || x.is_ascii_digit()) =>
            {
                Ok(Self([*a, *b, *c]))
            }
            _ => Err(InvalidId {
                what: "site code",
                why: "it must be three letters or digits",
            }),
        }
    }
}

impl fmt::Display for SiteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for SiteCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SiteCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The shard of a client: always the same while their number stays. FNV-1a, since the time in an
/// id's first bytes would put clients that enrolled together into one shard.
#[must_use]
pub fn shard_of(client: ClientId, shards: u16) -> u16 {
    let hash = client
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // The high half mixes better; the remainder of a u16 fits one.
    u16::try_from((hash >> 32) % u64::from(shards.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_code_is_three_letters_or_digits_in_upper_case() {
        assert_eq!("p01".parse::<SiteCode>().unwrap().as_str(), "P01");
        for bad in ["", "P0", "P012", "P-1", "Ä01"] {
            assert!(bad.parse::<SiteCode>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_from_the_wire_has_sixteen_bytes() {
        let id = ClientId::generate();
        assert_eq!(ClientId::from_slice(id.as_bytes()), Ok(id));
        assert!(ClientId::from_slice(&[0; 15]).is_err());
    }
}
