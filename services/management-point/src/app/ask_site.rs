//! Calls that the site server answers. The client's id comes from its certificate; what a client
//! learns of a failure is only what the site said *about the client*.

use std::net::IpAddr;

use muster_domain::ClientId;
use muster_proto::client::{
    GetClientLocationsRequest, GetClientPolicyRequest, GetLocationsResponse, RegisterClientRequest,
    RegisterRequest, RegisterResponse, RenewClientIdentityRequest, RenewIdentityRequest,
    RenewIdentityResponse,
};
use muster_proto::policy::{GetPolicyRequest, GetPolicyResponse};
use muster_runtime::status::{self, Kind};
use tonic::{Code, Status};

use super::enrol::check;
use super::{Error, Point};

/// A client's policy.
pub(crate) async fn get_policy(
    point: &Point,
    client: ClientId,
    from: IpAddr,
    request: GetPolicyRequest,
) -> Result<GetPolicyResponse, Error> {
    if request.known_version.len() > 64 {
        return Err(Error::Invalid("known_version is too long"));
    }
    let request = GetClientPolicyRequest {
        client_id: client.as_bytes().to_vec().into(),
        known_version: request.known_version,
        address: from.to_string(),
    };
    let answer = point
        .site
        .clone()
        .get_client_policy(request)
        .await
        .map_err(judge)?
        .into_inner();
    Ok(GetPolicyResponse {
        policy: answer.policy,
        send_full_report: answer.send_full_report,
        next_poll_in: answer.next_poll_in,
        wish: answer.wish,
    })
}

/// A new epoch for a client.
pub(crate) async fn register(
    point: &Point,
    client: ClientId,
    from: IpAddr,
    request: RegisterRequest,
) -> Result<RegisterResponse, Error> {
    let request = RegisterClientRequest {
        client_id: client.as_bytes().to_vec().into(),
        request: Some(request),
        address: from.to_string(),
    };
    let answer = point
        .site
        .clone()
        .register_client(request)
        .await
        .map_err(judge)?;
    answer.into_inner().response.ok_or_else(empty)
}

/// A new key, and maybe a new id, for one of the machines that use a client's identity.
/// `fingerprint` is that of the certificate it called under.
pub(crate) async fn renew_identity(
    point: &Point,
    client: ClientId,
    fingerprint: &str,
    request: RenewIdentityRequest,
) -> Result<RenewIdentityResponse, Error> {
    let facts = request.machine.as_ref();
    check(&request.csr, facts)?;
    let fingerprint = hex::decode(fingerprint).map_err(|_| Error::NotAClient)?;
    let request = RenewClientIdentityRequest {
        client_id: client.as_bytes().to_vec().into(),
        fingerprint: fingerprint.into(),
        request: Some(request),
    };
    let answer = point
        .site
        .clone()
        .renew_client_identity(request)
        .await
        .map_err(judge)?;
    answer.into_inner().response.ok_or_else(empty)
}

/// Where a client finds its servers.
pub(crate) async fn get_locations(
    point: &Point,
    client: ClientId,
    from: IpAddr,
) -> Result<GetLocationsResponse, Error> {
    let request = GetClientLocationsRequest {
        client_id: client.as_bytes().to_vec().into(),
        address: from.to_string(),
    };
    let answer = point
        .site
        .clone()
        .get_client_locations(request)
        .await
        .map_err(judge)?;
    Ok(GetLocationsResponse {
        locations: answer.into_inner().locations,
    })
}

/// The site answered without saying anything: a fault of the site, not of the client.
pub(super) fn empty() -> Error {
    Error::Site(Box::new(Status::internal("the answer is empty")))
}

/// What the site may say about a client, and the client is told. Any other answer (our own
/// certificate was refused, a fault, no answer) must not make a client stop or drop its data.
const ABOUT_THE_CLIENT: [&str; 6] = [
    "CLIENT_BLOCKED",
    "UNKNOWN_CLIENT",
    "TOKEN_REFUSED",
    "RENEWAL_NOT_ASKED",
    "INVALID_CSR",
    "INVALID_FIELD",
];

pub(super) fn judge(status: Status) -> Error {
    let kind = match status.code() {
        Code::InvalidArgument => Some(Kind::Invalid),
        Code::NotFound => Some(Kind::NotFound),
        Code::PermissionDenied => Some(Kind::Denied),
        Code::FailedPrecondition => Some(Kind::Conflict),
        Code::ResourceExhausted => Some(Kind::Exhausted),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => None,
    };
    let word = status::reason(&status);
    let known = ABOUT_THE_CLIENT
        .into_iter()
        .find(|known| word.as_deref() == Some(*known));
    match (kind, known) {
        (Some(Kind::Exhausted), _) => Error::Refused {
            kind: Kind::Exhausted,
            reason: "SITE_SERVER_BUSY",
            message: "the site server is busy".to_owned(),
        },
        (Some(kind), Some(reason)) => Error::Refused {
            kind,
            reason,
            message: status.message().to_owned(),
        },
        _ => Error::Site(Box::new(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_runtime::status::{HasKind, status};

    #[test]
    fn a_client_learns_what_the_site_says_about_it() {
        let error = judge(status(Kind::Denied, "CLIENT_BLOCKED", "deleted"));
        assert_eq!(
            (error.kind(), error.reason()),
            (Kind::Denied, "CLIENT_BLOCKED")
        );
    }

    #[test]
    fn what_is_between_us_and_the_site_never_stops_a_client() {
        for answer in [
            status(
                Kind::Denied,
                "NOT_ALLOWED",
                "this role may not call this method",
            ),
            Status::permission_denied("x"),
            Status::unauthenticated("x"),
            Status::unknown("transport error"),
            Status::internal("x"),
            Status::unimplemented("x"),
            Status::not_found("x"),
        ] {
            assert_eq!(
                judge(answer.clone()).kind(),
                Kind::Unavailable,
                "{answer:?}"
            );
        }
        let busy = judge(Status::resource_exhausted("x"));
        assert_eq!(busy.kind(), Kind::Exhausted);
    }
}
