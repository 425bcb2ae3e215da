//! The token with which a site joins: it names the parent, and proves both ends to each other.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_domain::SiteCode;
use sha2::{Digest, Sha256};

const PREFIX: &str = "muster-join-";
/// Version, code, fingerprint and secret: what stands before the address.
const HEAD: usize = 1 + 3 + 32 + 32;
const VERSION: u8 = 1;
/// Longest token, in bytes.
const MAX: usize = 1024;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invitation {
    /// The site that made it.
    pub(crate) parent: SiteCode,
    /// SHA-256 of the certificate of that site's authority.
    pub(crate) authority: [u8; 32],
    secret: [u8; 32],
    /// Where that site serves gRPC.
    pub(crate) address: String,
}

/// The text is no token of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is not a token of `muster site invite`")]
pub(crate) struct NoToken;

impl Invitation {
    /// A new one; the secret is as hard to guess as a key.
    pub(crate) fn new(parent: SiteCode, authority: [u8; 32], address: &str) -> Self {
        Self {
            parent,
            authority,
            secret: rand::random(),
            address: address.to_owned(),
        }
    }

    pub(crate) fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(self.parent.as_str().as_bytes());
        bytes.extend_from_slice(&self.authority);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(self.address.as_bytes());
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(crate) fn decode(token: &str) -> Result<Self, NoToken> {
        if token.len() > MAX {
            return Err(NoToken);
        }
        let text = token.strip_prefix(PREFIX).ok_or(NoToken)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NoToken)?;
        let (head, address) = bytes.split_at_checked(HEAD).ok_or(NoToken)?;
        if head[0] != VERSION || !address.starts_with(b"https://") {
            return Err(NoToken);
        }
        let code = std::str::from_utf8(&head[1..4]).map_err(|_| NoToken)?;
        let part = |from: usize| <[u8; 32]>::try_from(&head[from..from + 32]).map_err(|_| NoToken);
        Ok(Self {
            parent: code.parse().map_err(|_| NoToken)?,
            authority: part(4)?,
            secret: part(36)?,
            address: String::from_utf8(address.to_vec()).map_err(|_| NoToken)?,
        })
    }
}

/// The hash under which a token is kept.
pub(crate) fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

/// Put before what a joining site signs.
pub(crate) const SIGNING_CONTEXT: &[u8] = b"muster-join-v1\0";

/// What a joining site signs with the key that it shows. Neither a token nor a code can hold a zero.
pub(crate) fn signed_part(token: &str, site_code: &str, request: &[u8]) -> Vec<u8> {
    [
        token.as_bytes(),
        b"\0",
        site_code.as_bytes(),
        b"\0",
        request,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_was_put_into_it_and_nothing_else_is_one() {
        let code: SiteCode = "CEN".parse().unwrap();
        let invitation = Invitation::new(code, [7; 32], "https://central.example:8443");
        let token = invitation.encode();
        assert_eq!(Invitation::decode(&token), Ok(invitation.clone()));
        assert_ne!(
            Invitation::new(code, [7; 32], "https://central.example:8443").encode(),
            token
        );
        let plain = Invitation {
            address: "http://central.example".to_owned(),
            ..invitation
        };
        for bad in [
            "",
            "muster-join-",
            "muster-join-AAAA",
            &token[1..],
            &token[..60],
            &plain.encode(),
            &format!("{token}{}", "A".repeat(2000)),
        ] {
            assert_eq!(Invitation::decode(bad), Err(NoToken), "{bad}");
        }
    }
}
