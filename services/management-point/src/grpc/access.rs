//! Who may call what. Enrolment is the one call of Muster without a certificate.

use muster_runtime::Role;
use muster_runtime::auth::{Caller, Table};

const CLIENT: &[Caller] = &[Caller::Role(Role::Client)];
const MANAGEMENT_POINT: &[Caller] = &[Caller::Role(Role::ManagementPoint)];

/// One row per method; everything else is denied.
pub(crate) const TABLE: Table = &[
    (
        "/muster.client.v1.RegistrationService/Enrol",
        &[Caller::Anyone],
    ),
    ("/muster.client.v1.RegistrationService/Register", CLIENT),
    (
        "/muster.client.v1.RegistrationService/RenewIdentity",
        CLIENT,
    ),
    ("/muster.client.v1.RegistrationService/GetLocations", CLIENT),
    ("/muster.policy.v1.PolicyService/GetPolicy", CLIENT),
    ("/muster.state.v1.StateService/ReportStates", CLIENT),
    (
        "/muster.state.v1.StateService/RelayReports",
        MANAGEMENT_POINT,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_row() {
        let services = [
            "muster.client.v1.RegistrationService",
            "muster.policy.v1.PolicyService",
            "muster.state.v1.StateService",
        ];
        muster_runtime::auth::assert_covers(TABLE, muster_proto::DESCRIPTORS, &services);
    }

    #[test]
    fn only_enrolment_is_for_everybody() {
        let open = TABLE
            .iter()
            .filter(|(_, callers)| callers.contains(&Caller::Anyone));
        let open: Vec<_> = open.map(|(path, _)| *path).collect();
        assert_eq!(open, ["/muster.client.v1.RegistrationService/Enrol"]);
    }
}
