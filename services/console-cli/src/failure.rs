//! Why a command did not do what was asked: one word for scripts, a sentence for people, a hint
//! at the next step, and the exit code. The exit codes are documented in `docs/operations.md`.

use std::io;

use muster_runtime::status;
use tonic::{Code, Status};

/// What kind of failure it is. The number is the exit code of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Anything that has no code of its own.
    General = 1,
    /// What was typed cannot be done as it is. Also clap's own exit code.
    Usage = 2,
    /// Something that was named does not exist.
    NotFound = 3,
    /// The site does not know us, or does not let us.
    Auth = 4,
    /// It contradicts the present state: a name is taken, something is in use.
    Conflict = 5,
    /// A part succeeded and a part did not.
    Partial = 6,
    /// It took longer than was allowed.
    Timeout = 7,
}

/// A command that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// Decides the exit code.
    pub(crate) kind: Kind,
    /// A stable word in upper case: the site's own reason where it gave one.
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
    closed_pipe: bool,
}

impl Failure {
    /// A failure of a kind, with its reason word.
    pub(crate) fn new(kind: Kind, reason: &str, message: impl Into<String>) -> Self {
        let (reason, message) = (reason.to_owned(), message.into());
        Self {
            kind,
            reason,
            message,
            hint: None,
            closed_pipe: false,
        }
    }

    /// What was typed cannot be done.
    pub(crate) fn usage(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, reason, message)
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether it is only that nobody reads our output any more.
    pub(crate) const fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let closed_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        Self {
            closed_pipe,
            ..Self::new(Kind::General, "IO", status::chain(&error))
        }
    }
}

impl From<muster_runtime::config::Error> for Failure {
    fn from(error: muster_runtime::config::Error) -> Self {
        Self::new(Kind::General, "CONFIG", status::chain(&error))
    }
}

impl From<muster_runtime::grpc::Error> for Failure {
    fn from(error: muster_runtime::grpc::Error) -> Self {
        Self::new(Kind::General, "CONNECTION_SETTINGS", status::chain(&error))
            .hint("`muster context show` shows the address and the files")
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        match status::reason(&status) {
            Some(reason) => answered(&status, &reason),
            None => not_answered(&status),
        }
    }
}

/// Whether the connection failed rather than the request, so that asking again may help.
pub(crate) fn is_connection(status: &Status) -> bool {
    let lost = matches!(status.code(), Code::Unknown | Code::Internal) || is_closed(status);
    (lost && status::reason(status).is_none() && !refuses_certificate(status))
        || status.code() == Code::Unavailable
}

/// The reason of a connection that the other side closed before it answered. With TLS 1.3 that
/// is also how a refused certificate looks; [`crate::client::Site::explain`] finds out.
pub(crate) const CONNECTION_CLOSED: &str = "CONNECTION_CLOSED";

/// tonic says "cancelled" both for a lost connection and for its own timeout.
fn is_closed(status: &Status) -> bool {
    // Which of them depends on whether we were still writing when the other side went.
    let signs = ["connection closed", "broken pipe", "connection reset"];
    let text = status::chain(status);
    matches!(status.code(), Code::Cancelled | Code::Unknown)
        && status::reason(status).is_none()
        && signs.iter().any(|sign| text.contains(sign))
}

/// A Muster service said no, and why.
fn answered(status: &Status, reason: &str) -> Failure {
    let failure = Failure::new(kind(status.code()), reason, status.message());
    match hint(reason, status.code()) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Nothing that speaks Muster answered: the connection, or somebody else at the address.
fn not_answered(status: &Status) -> Failure {
    let text = status::chain(status);
    if refuses_certificate(status) {
        return Failure::new(Kind::Auth, "CERTIFICATE_REFUSED", text).hint(
            "`muster login` needs the CA of this site and a certificate of an administrator",
        );
    }
    if is_closed(status) {
        return Failure::new(Kind::General, CONNECTION_CLOSED, text)
            .hint("is it a site server? `muster context show` shows its address");
    }
    let kind = kind(status.code());
    if kind == Kind::Timeout {
        return Failure::new(kind, "TIMEOUT", "the site server did not answer in time")
            .hint("`--timeout 5m` waits longer");
    }
    let (reason, hint) = if status.code() == Code::Unimplemented {
        (
            "NOT_OFFERED",
            "the site server is older than this console, or it is no site server",
        )
    } else if matches!(status.code(), Code::Unavailable | Code::Unknown) {
        (
            "UNREACHABLE",
            "is the site server running? `muster context show` shows its address",
        )
    } else {
        let failure = Failure::new(kind, "CALL_FAILED", text);
        return match hint("", status.code()) {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
    };
    Failure::new(kind, reason, text).hint(hint)
}

/// One of the two sides did not accept the other's certificate.
pub(crate) fn certificate_refused(text: String) -> Failure {
    Failure::new(Kind::Auth, "CERTIFICATE_REFUSED", text)
        .hint("`muster login` needs the CA of this site and a certificate of an administrator")
}

/// TLS failures arrive as text only: the peer's alert, or our own verifier's complaint.
fn refuses_certificate(status: &Status) -> bool {
    let text = status::chain(status);
    status::reason(status).is_none()
        && ["certificate", "fatal alert", "the server is not a"]
            .iter()
            .any(|sign| text.contains(sign))
}

const fn kind(code: Code) -> Kind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Kind::Usage,
        Code::NotFound => Kind::NotFound,
        Code::Unauthenticated | Code::PermissionDenied => Kind::Auth,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Kind::Conflict,
        Code::DeadlineExceeded | Code::Cancelled => Kind::Timeout,
        Code::Ok
        | Code::Unknown
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::ResourceExhausted => Kind::General,
    }
}

fn hint(reason: &str, code: Code) -> Option<&'static str> {
    Some(match reason {
        "UNKNOWN_SITE" => "`muster get sites` lists the sites",
        "UNKNOWN_CLIENT" => "`muster get clients` lists the clients",
        "AMBIGUOUS_NAME" => "use the id: `muster get clients` shows it",
        "UNKNOWN_UPDATE" => "`muster get updates` lists the updates",
        "UNKNOWN_UPDATE_LIST" => "`muster get update-lists` lists the update lists",
        "UNKNOWN_COLLECTION" => "`muster get collections` lists the collections",
        "UNKNOWN_PACKAGE" => "`muster get packages` lists the packages",
        "UNKNOWN_DEPLOYMENT" => "`muster get deployments` lists the deployments",
        "NO_CONTENT" => "`muster create package --wait` puts content on the distribution points",
        "IN_USE" => "delete what uses it first: `muster get deployments`, `muster get packages`",
        "NOT_ALLOWED" | "NO_CERTIFICATE" => {
            "`muster login` needs a certificate of the role administrator"
        }
        _ if reason == "ALREADY_EXISTS" || code == Code::AlreadyExists => {
            "choose another name, or delete the old one first"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_runtime::status::Kind as Sent;

    #[test]
    fn an_answer_keeps_its_reason_and_gets_its_exit_code() {
        for (sent, code) in [
            (Sent::Invalid, 2),
            (Sent::NotFound, 3),
            (Sent::Denied, 4),
            (Sent::Conflict, 5),
            (Sent::Unavailable, 1),
            (Sent::Exhausted, 1),
            (Sent::Internal, 1),
        ] {
            let failure = Failure::from(status::status(sent, "SOME_WORD", "text"));
            assert_eq!(
                (failure.kind as u8, failure.reason.as_str()),
                (code, "SOME_WORD")
            );
        }
    }

    #[test]
    fn only_a_lost_connection_is_tried_again() {
        assert!(is_connection(&Status::unavailable("tcp connect error")));
        assert!(is_connection(&status::status(
            Sent::Unavailable,
            "STARTING",
            "later"
        )));
        assert!(!is_connection(&status::status(Sent::Internal, "BUG", "no")));
        assert!(!is_connection(&Status::unknown(
            "received fatal alert: UnknownCA"
        )));
        assert!(!is_connection(&Status::not_found("no")));
    }
}
