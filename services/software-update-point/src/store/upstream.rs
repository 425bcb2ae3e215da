//! The archives, over HTTP. Every answer has a bound in bytes and in time; nothing that comes from
//! here is believed before it was verified.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use muster_apt::index::{Checker, Mismatch};
use reqwest::header::{ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use reqwest::{Client, Response, StatusCode, redirect};

use super::artifacts::Draft;

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 5;

/// A client for all archives. It uses the proxy of the environment, if there is one.
#[derive(Debug)]
pub(crate) struct Upstream {
    client: Client,
    /// Bytes received since the start.
    received: AtomicU64,
}

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The archive could not be reached or broke off.
    #[error("{0}")]
    Http(String),
    /// The archive answered, but not with the file.
    #[error("the archive answered {0}")]
    Status(StatusCode),
    /// The answer is longer than a file of this kind may be.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The file is not what the signed release says.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The file could not be written.
    #[error("it cannot be written")]
    Write(#[source] std::io::Error),
}

/// What a conditional request gave.
#[derive(Debug)]
pub(crate) enum Page {
    /// As it was.
    Unchanged,
    /// The file, and what to ask with next time.
    New {
        bytes: Vec<u8>,
        etag: Option<String>,
        last_modified: Option<String>,
    },
}

impl Upstream {
    pub(crate) fn new(
        connect_timeout: Duration,
        read_timeout: Duration,
    ) -> Result<Self, FetchError> {
        // A redirect may lead from http to https, never back.
        let policy = redirect::Policy::custom(|attempt| {
            let downgrade = attempt.url().scheme() != "https"
                && attempt.previous().iter().any(|url| url.scheme() == "https");
            if downgrade {
                attempt.error("a redirect leads from https to another scheme")
            } else if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirects")
            } else {
                attempt.follow()
            }
        });
        let client = Client::builder()
            .user_agent(concat!(
                "muster-software-update-point/",
                env!("CARGO_PKG_VERSION")
            ))
            .connect_timeout(connect_timeout)
            .read_timeout(read_timeout)
            .redirect(policy)
            .build()
            .map_err(|error| http(&error))?;
        Ok(Self {
            client,
            received: AtomicU64::new(0),
        })
    }

    /// Bytes received since the start.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Fetches a small file whole, unless it is as it was.
    pub(crate) async fn page(
        &self,
        url: &str,
        etag: Option<&str>,
        last_modified: Option<&str>,
        limit: usize,
    ) -> Result<Page, FetchError> {
        let mut request = self.client.get(url);
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        if let Some(time) = last_modified {
            request = request.header(IF_MODIFIED_SINCE, time);
        }
        let response = request.send().await.map_err(|error| http(&error))?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Page::Unchanged);
        }
        let response = good(response)?;
        let (etag, last_modified) = (
            header(response.headers(), ETAG),
            header(response.headers(), LAST_MODIFIED),
        );
        let mut bytes = Vec::new();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| http(&error))?;
            self.received
                .fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if bytes.len() + chunk.len() > limit {
                return Err(FetchError::TooLong(limit));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Page::New {
            bytes,
            etag,
            last_modified,
        })
    }

    /// Fetches a file into a draft and verifies it on the way: a file that is too long ends early.
    pub(crate) async fn file(
        &self,
        url: &str,
        mut checker: Checker,
        draft: &mut Draft,
    ) -> Result<(), FetchError> {
        let response = self
            .client
            .get(url)
            .send()
            .await
            .map_err(|error| http(&error))?;
        let mut body = good(response)?.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| http(&error))?;
            self.received
                .fetch_add(chunk.len() as u64, Ordering::Relaxed);
            checker.update(&chunk)?;
            draft.write_all(&chunk).map_err(FetchError::Write)?;
        }
        draft.flush().map_err(FetchError::Write)?;
        Ok(checker.finish()?)
    }
}

fn good(response: Response) -> Result<Response, FetchError> {
    if response.status() == StatusCode::OK {
        Ok(response)
    } else {
        Err(FetchError::Status(response.status()))
    }
}

fn header(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= 200).then(|| value.to_owned())
}

/// The error and its causes in one line, without the address: it may hold a password.
fn http(error: &reqwest::Error) -> FetchError {
    let mut text = String::new();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(inner) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    if text.is_empty() {
        text = if error.is_timeout() {
            "it took too long"
        } else {
            "the request failed"
        }
        .to_owned();
    }
    FetchError::Http(text.chars().take(500).collect())
}
