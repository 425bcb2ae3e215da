//! Fetches one wanted file from the parent's distribution point or from the archive: resumed where an attempt ended, cut at the promised
//! size, verified before anybody sees it. `tasks` says when, and tries again.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_RANGE, RANGE};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};

use super::{Above, Parents, Point, Source, Step};
use crate::config;
use crate::domain::digest::Digest;
use crate::store::{self, Incoming, Refused};

/// Where bytes come from, in metrics.
const ARCHIVE: &str = "archive";
const PARENT: &str = "parent";
/// Most redirects on the way to a file.
const MAX_REDIRECTS: usize = 5;
/// What an attempt gets besides the time for the bytes.
const GRACE: Duration = Duration::from_secs(60);

/// So many attempts are the parent's before the archive is asked.
const PARENT_FIRST: u32 = 3;

/// Where files come from, as we reach it.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    archives: Client,
    parents: Arc<Parents>,
}

impl Upstream {
    /// A client with our time limits. Proxies come from the environment.
    pub(crate) fn new(config: &config::Fetch, parents: Parents) -> Result<Self, reqwest::Error> {
        let archives = Client::builder()
            .user_agent("muster-distribution-point")
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.read_timeout)
            .redirect(Policy::custom(redirect))
            .build()?;
        Ok(Self {
            archives,
            parents: Arc::new(parents),
        })
    }
}

/// Follows within one scheme (or from http up to https), and never to a bare address of another
/// host: an archive has no business with the metadata service of our cloud.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let refused = match attempt.previous().last() {
        None => Some("a redirect from nowhere"),
        Some(_) if attempt.previous().len() > MAX_REDIRECTS => Some("too many redirects"),
        Some(from) => {
            let to = attempt.url();
            let up = from.scheme() == "http" && to.scheme() == "https";
            if from.scheme() != to.scheme() && !up {
                Some("a redirect to another scheme")
            } else if from.host() != to.host() && to.domain().is_none() {
                Some("a redirect to a bare address")
            } else {
                None
            }
        }
    };
    match refused {
        Some(why) => attempt.error(why),
        None => attempt.follow(),
    }
}

/// Why an attempt failed. The text begins with a stable word.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("HTTP_STATUS: the archive answered {0}")]
    Status(StatusCode),
    #[error("UPSTREAM_UNAVAILABLE: {}", muster_runtime::status::chain(.0))]
    Http(#[from] reqwest::Error),
    #[error("NOT_AT_PARENT: the parent's distribution point has not got it")]
    NotAtParent,
    #[error("NOT_AT_PARENT: the parent's distribution point is fetching it")]
    Coming,
    #[error("UPSTREAM_UNAVAILABLE: nobody says where the parent's distribution points are")]
    NoWay,
    #[error("UPSTREAM_UNAVAILABLE: {0}")]
    Cut(Refused),
    #[error("TOO_SLOW: not complete in time")]
    TooSlow,
    #[error("SIZE_MISMATCH: {0}")]
    Size(String),
    #[error("HASH_MISMATCH: {0}")]
    Hash(Refused),
    #[error("HASH_MISMATCH: the parent's distribution point has other bytes: {0}")]
    Altered(Refused),
    #[error("STORE_FAILED: {}", muster_runtime::status::chain(.0))]
    Store(#[from] store::Error),
    #[error("STORE_FAILED: somebody else is receiving the file")]
    Claimed,
}

impl Failure {
    /// Whether the same attempt may succeed in a moment.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Status(code) => {
                code.is_server_error()
                    || matches!(
                        *code,
                        StatusCode::TOO_MANY_REQUESTS
                            | StatusCode::REQUEST_TIMEOUT
                            | StatusCode::RANGE_NOT_SATISFIABLE
                    )
            }
            Self::Http(error) => !error.is_redirect() && !error.is_builder(),
            Self::NotAtParent
            | Self::Coming
            | Self::NoWay
            | Self::Altered(_)
            | Self::Cut(_)
            | Self::TooSlow
            | Self::Store(_)
            | Self::Claimed => true,
            Self::Size(_) | Self::Hash(_) => false,
        }
    }

    /// The stable word its text begins with.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Status(_) => "HTTP_STATUS",
            Self::NotAtParent | Self::Coming => "NOT_AT_PARENT",
            Self::Http(_) | Self::NoWay | Self::Cut(_) => "UPSTREAM_UNAVAILABLE",
            Self::TooSlow => "TOO_SLOW",
            Self::Size(_) => "SIZE_MISMATCH",
            Self::Hash(_) | Self::Altered(_) => "HASH_MISMATCH",
            Self::Store(_) | Self::Claimed => "STORE_FAILED",
        }
    }
}

/// One attempt to hold a file, after so many that failed.
pub(crate) async fn fetch_content(
    point: &Point,
    upstream: &Upstream,
    digest: Digest,
    source: &Source,
    failures: u32,
) -> Result<(), Failure> {
    let size_in_time = source.size / point.config.fetch.min_bytes_per_second.max(1);
    let limit = GRACE + Duration::from_secs(size_in_time);
    let attempt = attempt(point, upstream, digest, source, failures);
    tokio::time::timeout(limit, attempt)
        .await
        .unwrap_or(Err(Failure::TooSlow))
}

async fn attempt(
    point: &Point,
    upstream: &Upstream,
    digest: Digest,
    source: &Source,
    failures: u32,
) -> Result<(), Failure> {
    if point.content.size(&digest).is_some() {
        return Ok(());
    }
    let incoming = Incoming::open(&point.content, digest, source.size).await?;
    let mut incoming = incoming.ok_or(Failure::Claimed)?;
    let resumed = incoming.received() > 0;
    let mut from = ARCHIVE;
    if incoming.received() < source.size {
        let above = upstream.parents.above().await;
        let from_archive = point.config.parent.from_archive;
        let (client, url) = match &above {
            Above::Points(points) if !from_archive || failures < PARENT_FIRST => {
                from = PARENT;
                points.place(digest, failures).ok_or(Failure::NoWay)?
            }
            Above::Unknown if !from_archive => return Err(Failure::NoWay),
            Above::Nobody | Above::Unknown | Above::Points(_) => {
                (&upstream.archives, address(source)?)
            }
        };
        let request = client.get(url);
        receive(point, request, from, digest, source, &mut incoming).await?;
    }
    match incoming.finish().await? {
        Ok(()) => Ok(()),
        Err(cut @ Refused::TooShort { .. }) => Err(Failure::Cut(cut)),
        // Parts of two versions, perhaps: once more from the beginning.
        Err(other) if resumed => Err(Failure::Cut(other)),
        // Somebody else may have the right ones.
        Err(other) if from == PARENT => Err(Failure::Altered(other)),
        Err(other) => Err(Failure::Hash(other)),
    }
}

async fn receive(
    point: &Point,
    mut request: RequestBuilder,
    from: &'static str,
    digest: Digest,
    source: &Source,
    incoming: &mut Incoming,
) -> Result<(), Failure> {
    let offset = incoming.received();
    if offset > 0 {
        request = request.header(RANGE, format!("bytes={offset}-"));
    }
    let mut response = request.send().await?;
    match response.status() {
        StatusCode::OK => {
            if response
                .content_length()
                .is_some_and(|len| len != source.size)
            {
                return Err(Failure::Size(wrong_size(
                    response.content_length(),
                    source.size,
                )));
            }
            if offset > 0 {
                incoming.restart().await?;
            }
        }
        StatusCode::PARTIAL_CONTENT if offset > 0 => {
            let total = continues(&response, offset);
            if total != Some(source.size) {
                incoming.restart().await?;
                return Err(Failure::Status(StatusCode::RANGE_NOT_SATISFIABLE));
            }
        }
        StatusCode::NOT_FOUND if from == PARENT => return Err(Failure::NotAtParent),
        StatusCode::SERVICE_UNAVAILABLE if from == PARENT => return Err(Failure::Coming),
        other => {
            if other == StatusCode::RANGE_NOT_SATISFIABLE {
                incoming.restart().await?;
            }
            return Err(Failure::Status(other));
        }
    }
    while let Some(chunk) = response.chunk().await? {
        metrics::counter!("muster_content_fetched_bytes_total", "from" => from)
            .increment(chunk.len() as u64);
        let written = incoming.write(chunk).await?;
        written.map_err(|refused| Failure::Size(refused.to_string()))?;
        point.jobs.set(
            &digest,
            Step::Fetching {
                bytes: incoming.received(),
            },
        );
    }
    Ok(())
}

fn wrong_size(found: Option<u64>, wanted: u64) -> String {
    format!(
        "the archive offers {} bytes, the index says {wanted}",
        found.unwrap_or_default()
    )
}

/// The size of the whole file, when the answer goes on at `offset`.
fn continues(response: &Response, offset: u64) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    (first.parse() == Ok(offset))
        .then(|| total.parse().ok())
        .flatten()
}

/// The file's address; each segment of the path is escaped once.
fn address(source: &Source) -> Result<Url, Failure> {
    let unusable = || Failure::Size(format!("{} is not an address", source.archive.as_str()));
    let mut url = Url::parse(source.archive.as_str()).map_err(|_| unusable())?;
    url.path_segments_mut()
        .map_err(|()| unusable())?
        .pop_if_empty()
        .extend(source.path.as_str().split('/'));
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::archive::{ArchivePath, ArchiveUri};

    #[test]
    fn a_file_is_asked_for_under_its_escaped_name() {
        let source = Source {
            archive: ArchiveUri::parse("http://archive.example/debian/").unwrap(),
            path: ArchivePath::parse("pool/main/g/g++_1%3a2~1+b1?x#y.deb").unwrap(),
            size: 1,
        };
        assert_eq!(
            address(&source).unwrap().as_str(),
            "http://archive.example/debian/pool/main/g/g++_1%253a2~1+b1%3Fx%23y.deb"
        );
    }
}
