//! Who may call what on the gRPC port. Clients have no business here: they fetch over HTTPS.

use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};

const SITE_SERVER: &[Caller] = &[Caller::Role(Role::SiteServer)];

/// One row per method; everything else is denied.
pub(crate) const TABLE: Table = &[
    (
        "/muster.content.v1.ContentService/EnsureContent",
        SITE_SERVER,
    ),
    (
        "/muster.content.v1.ContentService/PublishSuites",
        SITE_SERVER,
    ),
    (
        "/muster.content.v1.ContentService/RemoveContent",
        SITE_SERVER,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_row() {
        let services = ["muster.content.v1.ContentService"];
        muster_runtime::auth::assert_covers(TABLE, muster_proto::DESCRIPTORS, &services);
    }
}
