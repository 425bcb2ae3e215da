//! Errors on the wire. One word, the [`Kind`], decides what a caller does with an error; programs
//! match on it (as a gRPC code) and on a stable reason word (`google.rpc.ErrorInfo`); the text is
//! for people.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of every `google.rpc.ErrorInfo` we send.
pub const DOMAIN: &str = "muster";

/// What callers of `Unavailable` and `Exhausted` are asked to wait when nothing better is known.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// What kind of failure it is, and so what its receiver does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request can never succeed as it is.
    Invalid,
    /// What the request names does not exist, or not for this caller.
    NotFound,
    /// The request contradicts the present state.
    Conflict,
    /// The caller may not do this.
    Denied,
    /// Something we need is away: the caller keeps its data and backs off with jitter.
    Unavailable,
    /// Too much at once: as `Unavailable`, and the delay says when.
    Exhausted,
    /// Our own fault.
    Internal,
}

impl Kind {
    /// The gRPC code of this kind.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Invalid => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::Conflict => Code::FailedPrecondition,
            Self::Denied => Code::PermissionDenied,
            Self::Unavailable => Code::Unavailable,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Internal => Code::Internal,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Exhausted)
    }
}

/// An error that knows its kind. Implemented once per service, by its `app::Error`.
pub trait HasKind {
    /// What kind of failure it is.
    fn kind(&self) -> Kind;
    /// A stable word in upper case for programs, such as `UNKNOWN_CLIENT`.
    fn reason(&self) -> &'static str;
    /// How long a caller should wait before it tries again, when the error knows better than the
    /// default.
    fn retry_delay(&self) -> Option<Duration> {
        None
    }
}

/// A status with its reason, and with a retry delay when its kind is worth a retry.
#[must_use]
pub fn status(kind: Kind, reason: &'static str, message: impl Into<String>) -> Status {
    status_after(kind, reason, message, RETRY_DELAY)
}

/// As [`status`], with the delay that a retryable kind asks for.
#[must_use]
pub fn status_after(
    kind: Kind,
    reason: &'static str,
    message: impl Into<String>,
    delay: Duration,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, []);
    if kind.is_retryable() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(kind.code(), message, details)
}

/// The answer for a call without a certificate. It tells nothing about us.
#[must_use]
pub fn unauthenticated() -> Status {
    let details = ErrorDetails::with_error_info("NO_CERTIFICATE", DOMAIN, []);
    Status::with_error_details(
        Code::Unauthenticated,
        "a client certificate is required",
        details,
    )
}

/// Turns an application error into the answer of an RPC, and logs it: this is where it is
/// handled. The text of an internal error or of a missing dependency stays with us (it may name
/// tables, hosts or files); the caller gets the reason word.
#[must_use]
pub fn to_status(error: impl Error + HasKind + 'static) -> Status {
    let (kind, reason) = (error.kind(), error.reason());
    let text = chain(&error);
    let delay = error.retry_delay().unwrap_or(RETRY_DELAY);
    match kind {
        Kind::Invalid | Kind::NotFound | Kind::Conflict => {
            tracing::info!(reason, error = %text, "call refused");
            status(kind, reason, error.to_string())
        }
        Kind::Denied => {
            tracing::warn!(reason, error = %text, "call denied");
            status(kind, reason, error.to_string())
        }
        Kind::Exhausted => {
            tracing::warn!(reason, error = %text, "call put off");
            status_after(kind, reason, error.to_string(), delay)
        }
        Kind::Unavailable => {
            tracing::warn!(reason, error = %text, "call put off");
            status_after(kind, reason, "temporarily unavailable", delay)
        }
        Kind::Internal => {
            tracing::error!(reason, error = %text, "call failed");
            status(kind, reason, "internal error")
        }
    }
}

/// The reason word of a status that a Muster service sent.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .map(|info| info.reason)
}

/// An error and everything below it on one line, each cause once: `a: b: c`.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read table secret_names")]
    struct Broken(Kind);
    impl HasKind for Broken {
        fn kind(&self) -> Kind {
            self.0
        }
        fn reason(&self) -> &'static str {
            "BROKEN"
        }
    }

    #[test]
    fn a_reason_travels_with_the_status() {
        let status = status(Kind::NotFound, "UNKNOWN_CLIENT", "no such client");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(reason(&status).as_deref(), Some("UNKNOWN_CLIENT"));
        assert!(status.get_details_retry_info().is_none());
    }

    #[test]
    fn the_text_of_an_internal_error_stays_inside() {
        for kind in [Kind::Internal, Kind::Unavailable] {
            let status = to_status(Broken(kind));
            assert!(
                !status.message().contains("secret_names"),
                "{}",
                status.message()
            );
            assert_eq!(reason(&status).as_deref(), Some("BROKEN"));
        }
    }

    #[test]
    fn a_retryable_kind_says_when_to_come_back() {
        let info = to_status(Broken(Kind::Unavailable))
            .get_details_retry_info()
            .unwrap();
        assert_eq!(info.retry_delay, Some(RETRY_DELAY));
    }
}
