//! Who may call what: one table per service, deny by default.
//!
//! The table is data; [`crate::grpc::Server`] enforces it before a handler runs, and
//! [`assert_covers`] proves in a test that it has a row for every method, so a new RPC cannot be
//! forgotten. Who the caller is comes from its certificate, never from a field or a header.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Request, Status};

use crate::status::{Kind, status, unauthenticated};
use crate::tls::Peer;
use crate::{Identity, Role};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Everybody who reaches the port, even without a certificate: enrolment, and nothing else.
    Anyone,
    /// A peer whose certificate says this role.
    Role(Role),
}

/// One row per method: its path `/package.Service/Method`, and who may call it.
pub type Table = &'static [(&'static str, &'static [Caller])];

/// Services that any peer with a certificate may call: what is served and whether it is well.
const FOR_EVERY_ROLE: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];

/// Who made this request, for handlers: `let client = auth::identity(&request)?;`
///
/// # Errors
/// `UNAUTHENTICATED` when the caller showed no certificate.
pub fn identity<T>(request: &Request<T>) -> Result<&Identity, Status> {
    request
        .extensions()
        .get::<Arc<Identity>>()
        .map(AsRef::as_ref)
        .ok_or_else(unauthenticated)
}

/// Where a request comes from, for handlers: the address and the certificate's fingerprint.
#[must_use]
pub fn peer<T>(request: &Request<T>) -> Option<&Peer> {
    request.extensions().get::<Peer>()
}

/// What the table says about one method.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// The method's path: a label of bounded variety, unlike what a peer sends.
    pub(crate) path: &'static str,
    callers: &'static [Caller],
}

/// The table, ready to be asked.
#[derive(Debug)]
pub(crate) struct Rules(HashMap<&'static str, Rule>);

impl Rules {
    pub(crate) fn new(table: Table) -> Self {
        Self(
            table
                .iter()
                .map(|&(path, callers)| (path, Rule { path, callers }))
                .collect(),
        )
    }

    /// The name under which a method is counted and traced.
    pub(crate) fn label(&self, path: &str) -> &'static str {
        let known = self.0.get(path).map(|rule| rule.path);
        let standard = || {
            FOR_EVERY_ROLE
                .into_iter()
                .find(|prefix| path.starts_with(prefix))
        };
        known.or_else(standard).unwrap_or("unknown")
    }

    /// Whether `caller` may call the method at `path`.
    pub(crate) fn check(&self, path: &str, caller: Option<&Identity>) -> Result<(), Status> {
        let callers = self.0.get(path).map(|rule| rule.callers);
        if callers.is_some_and(|callers| callers.contains(&Caller::Anyone)) {
            return Ok(());
        }
        let caller = caller.ok_or_else(unauthenticated)?;
        let allowed = match callers {
            Some(callers) => callers.contains(&Caller::Role(caller.role)),
            None => FOR_EVERY_ROLE.iter().any(|prefix| path.starts_with(prefix)),
        };
        if allowed {
            return Ok(());
        }
        Err(status(
            Kind::Denied,
            "NOT_ALLOWED",
            "this role may not call this method",
        ))
    }
}

/// For tests: every method of `services` (full names, `muster.state.v1.StateService`) in the
/// encoded descriptor set has exactly one row, and no row names anything else.
///
/// # Panics
/// When the table and the services differ; the message lists the differences.
#[track_caller]
pub fn assert_covers(table: Table, file_descriptor_set: &[u8], services: &[&str]) {
    let described: BTreeSet<String> = methods(file_descriptor_set)
        .into_iter()
        .filter(|method| services.contains(&method.service.as_str()))
        .map(|method| method.path)
        .collect();
    for service in services {
        let prefix = format!("/{service}/");
        assert!(
            described.iter().any(|path| path.starts_with(&prefix)),
            "service {service} is not in the descriptors"
        );
    }
    let rows: BTreeSet<String> = table.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(rows.len(), table.len(), "a method has two rows");
    let missing: Vec<_> = described.difference(&rows).collect();
    let unknown: Vec<_> = rows.difference(&described).collect();
    assert!(missing.is_empty(), "methods without a row: {missing:?}");
    assert!(unknown.is_empty(), "rows without a method: {unknown:?}");
    for (path, callers) in table {
        assert!(!callers.is_empty(), "nobody may call {path}");
    }
}

/// A method as the descriptors have it.
#[derive(Debug)]
pub(crate) struct Method {
    service: String,
    /// `/package.Service/Method`
    pub(crate) path: String,
    /// Whether either side sends a stream, so that the call may last.
    pub(crate) streams: bool,
}

/// All methods of an encoded descriptor set; none when it cannot be decoded.
pub(crate) fn methods(file_descriptor_set: &[u8]) -> Vec<Method> {
    let set = FileDescriptorSet::decode(file_descriptor_set).unwrap_or_default();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let name = match file.package() {
                "" => service.name().to_owned(),
                package => format!("{package}.{}", service.name()),
            };
            methods.extend(service.method.iter().map(|method| Method {
                path: format!("/{name}/{}", method.name()),
                service: name.clone(),
                streams: method.client_streaming() || method.server_streaming(),
            }));
        }
    }
    methods
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    const TABLE: Table = &[
        ("/t.S/Enrol", &[Caller::Anyone]),
        ("/t.S/Report", &[Caller::Role(Role::Client)]),
    ];

    fn code(path: &str, role: Option<Role>) -> Option<Code> {
        let caller = role.map(|role| Identity::new(role, "P01", "x").unwrap());
        Rules::new(TABLE)
            .check(path, caller.as_ref())
            .err()
            .map(|status| status.code())
    }

    #[test]
    fn what_the_table_does_not_allow_is_denied() {
        for role in Role::ALL {
            let report = (role != Role::Client).then_some(Code::PermissionDenied);
            assert_eq!(code("/t.S/Report", Some(role)), report);
            assert_eq!(code("/t.S/Other", Some(role)), Some(Code::PermissionDenied));
            assert_eq!(code("/t.S/Enrol", Some(role)), None);
            assert_eq!(code("/grpc.health.v1.Health/Check", Some(role)), None);
        }
        assert_eq!(code("/t.S/Enrol", None), None);
        for path in [
            "/t.S/Report",
            "/t.S/Other",
            "/grpc.health.v1.Health/Check",
            "",
            "/",
        ] {
            assert_eq!(code(path, None), Some(Code::Unauthenticated), "{path}");
        }
    }

    #[test]
    fn a_path_that_a_peer_made_up_is_not_a_label() {
        assert_eq!(Rules::new(TABLE).label("/t.S/Made-Up"), "unknown");
        assert_eq!(Rules::new(TABLE).label("/t.S/Report"), "/t.S/Report");
    }

    fn health() -> &'static [u8] {
        tonic_health::pb::FILE_DESCRIPTOR_SET
    }

    #[test]
    fn a_complete_table_passes() {
        const FULL: Table = &[
            ("/grpc.health.v1.Health/Check", &[Caller::Anyone]),
            ("/grpc.health.v1.Health/Watch", &[Caller::Anyone]),
        ];
        assert_covers(FULL, health(), &["grpc.health.v1.Health"]);
    }

    #[test]
    #[should_panic(expected = "methods without a row")]
    fn a_method_without_a_row_is_found() {
        const PART: Table = &[("/grpc.health.v1.Health/Check", &[Caller::Anyone])];
        assert_covers(PART, health(), &["grpc.health.v1.Health"]);
    }
}
