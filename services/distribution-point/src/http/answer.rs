//! One request, one answer. A path is looked up in maps and never reaches the file system; bytes
//! come in pieces of 256 KiB.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, LAST_MODIFIED, RETRY_AFTER,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::Point;
use crate::domain::manifest::Found;
use crate::domain::range::{Answer, decide};
use crate::domain::target::Target;

/// Bounds the files being sent at once.
pub(crate) type Transfers = Arc<Semaphore>;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How much is read from the disk at a time, in bytes.
const PIECE: usize = 256 * 1024;
/// What a client is asked to wait when too many files are being sent, in seconds.
const BUSY: HeaderValue = HeaderValue::from_static("5");
/// The bytes under this path never change.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");
/// The path gets other bytes with the next publication.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// What a peer may fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    Nothing,
    /// It is of this site.
    Here,
    /// It is of a site below: it waits for what is on its way to us.
    Below,
}

/// Answers a request of a peer that may fetch, or may not.
pub(crate) async fn answer<B>(
    point: &Point,
    transfers: &Transfers,
    allowed: Allowed,
    request: &Request<B>,
) -> Response<Body> {
    let response = match allowed {
        Allowed::Nothing => empty(StatusCode::FORBIDDEN),
        Allowed::Here | Allowed::Below => find(point, transfers, allowed, request).await,
    };
    let code = response.status().as_str().to_owned();
    metrics::counter!("muster_content_requests_total", "code" => code).increment(1);
    response
}

async fn find<B>(
    point: &Point,
    transfers: &Transfers,
    allowed: Allowed,
    request: &Request<B>,
) -> Response<Body> {
    let get = match *request.method() {
        Method::GET => true,
        Method::HEAD => false,
        _ => {
            let allow = (ALLOW, HeaderValue::from_static("GET, HEAD"));
            return with(empty(StatusCode::METHOD_NOT_ALLOWED), [allow]);
        }
    };
    let found = match Target::parse(request.uri().path()) {
        Some(Target::Content(digest)) => Some(Found {
            digest,
            immutable: true,
            modified_at: None,
        }),
        Some(Target::Apt(key, path)) => point.manifests.current().find(&key, &path),
        None => None,
    };
    let Some(found) = found else {
        return empty(StatusCode::NOT_FOUND);
    };
    let Some(size) = point.content.size(&found.digest) else {
        if allowed == Allowed::Below && point.jobs.is_coming(&found.digest) {
            return with(
                empty(StatusCode::SERVICE_UNAVAILABLE),
                [(RETRY_AFTER, BUSY)],
            );
        }
        return empty(StatusCode::NOT_FOUND);
    };
    let (etag, modified) = (etag(found), modified(found));
    match decide(get, request.headers(), &etag, modified.as_deref(), size) {
        Answer::NotModified => validators(empty(StatusCode::NOT_MODIFIED), found),
        Answer::PreconditionFailed => empty(StatusCode::PRECONDITION_FAILED),
        Answer::Unsatisfiable => {
            let range = (CONTENT_RANGE, text(&format!("bytes */{size}")));
            with(empty(StatusCode::RANGE_NOT_SATISFIABLE), [range])
        }
        Answer::Whole if !get => {
            let response = validators(empty(StatusCode::OK), found);
            with(response, [(CONTENT_LENGTH, size.into())])
        }
        Answer::Whole => send(point, transfers, found, None).await,
        Answer::Part { first, last } => send(point, transfers, found, Some((first, last))).await,
    }
}

async fn send(
    point: &Point,
    transfers: &Transfers,
    found: Found,
    part: Option<(u64, u64)>,
) -> Response<Body> {
    let Ok(permit) = Arc::clone(transfers).try_acquire_owned() else {
        return with(
            empty(StatusCode::SERVICE_UNAVAILABLE),
            [(RETRY_AFTER, BUSY)],
        );
    };
    let opened = async {
        let Some((file, size)) = point.content.open_file(found.digest).await? else {
            return Ok(None);
        };
        let (first, last) = part.unwrap_or((0, size.saturating_sub(1)));
        let len = if size == 0 { 0 } else { last - first + 1 };
        Ok::<_, crate::store::Error>(Some((file, size, first, last, len)))
    };
    let (file, size, first, last, len) = match opened.await {
        Ok(Some(opened)) => opened,
        Ok(None) => return empty(StatusCode::NOT_FOUND),
        Err(error) => {
            let error = muster_runtime::status::chain(&error);
            tracing::error!(content.sha256 = %found.digest, error, "cannot serve a file");
            return empty(StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    let mut response = Response::new(stream_of(file, first, len, permit));
    if part.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = text(&format!("bytes {first}-{last}/{size}"));
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    let response = validators(response, found);
    with(response, [(CONTENT_LENGTH, len.into())])
}

/// `len` bytes from `first` on. A file that ends early is an error, so that the client sees a
/// broken transfer and not a short file.
fn stream_of(file: File, first: u64, len: u64, permit: OwnedSemaphorePermit) -> Body {
    let file = tokio::fs::File::from_std(file);
    let pieces = stream::try_unfold(
        (file, len, permit),
        move |(mut file, left, permit)| async move {
            if left == 0 {
                return Ok(None);
            }
            if left == len && first > 0 {
                file.seek(SeekFrom::Start(first)).await?;
            }
            let mut piece =
                BytesMut::with_capacity(PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
            let count = (&mut file).take(left).read_buf(&mut piece).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            metrics::counter!("muster_content_served_bytes_total").increment(count as u64);
            Ok(Some((
                Frame::data(piece.freeze()),
                (file, left - count as u64, permit),
            )))
        },
    );
    BodyExt::boxed_unsync(StreamBody::new(pieces))
}

fn etag(found: Found) -> String {
    format!("\"{}\"", found.digest)
}

/// The time that a client may come back with, as HTTP writes it.
fn modified(found: Found) -> Option<String> {
    let at = jiff::Timestamp::from_second(found.modified_at?).ok()?;
    DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok()
}

fn validators(mut response: Response<Body>, found: Found) -> Response<Body> {
    if let Some(modified) = modified(found) {
        response
            .headers_mut()
            .insert(LAST_MODIFIED, text(&modified));
    }
    let cache = if found.immutable {
        IMMUTABLE
    } else {
        REVALIDATE
    };
    let kind = HeaderValue::from_static("application/octet-stream");
    let ranges = HeaderValue::from_static("bytes");
    with(
        response,
        [
            (ETAG, text(&etag(found))),
            (CACHE_CONTROL, cache),
            (CONTENT_TYPE, kind),
            (ACCEPT_RANGES, ranges),
        ],
    )
}

fn empty(status: StatusCode) -> Response<Body> {
    let body = Empty::new().map_err(|never| match never {});
    let mut response = Response::new(BodyExt::boxed_unsync(body));
    *response.status_mut() = status;
    response
}

fn with<const N: usize>(
    mut response: Response<Body>,
    headers: [(HeaderName, HeaderValue); N],
) -> Response<Body> {
    response.headers_mut().extend(headers);
    response
}

/// For text that we made of digits, quotes and spaces.
fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
