//! Content from distribution points that stop, lie, or have nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use client_agent::download::{Content, Pace};
use muster_domain::error_code;
use muster_runtime::Tasks;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[derive(Clone, Default)]
struct Behaviour {
    body: Vec<u8>,
    /// Close the connection after so many bytes of the body, this many times.
    cut: Option<(usize, u32)>,
    ignores_ranges: bool,
    /// Send a few bytes at a time.
    drips: bool,
    status: Option<u16>,
}

struct Point {
    url: String,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: Tasks,
}

impl Point {
    async fn start(behaviour: Behaviour) -> Self {
        Self::start_at("127.0.0.1:0", behaviour).await
    }

    async fn start_at(addr: &str, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let behaviour = Arc::new(Mutex::new(behaviour));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let tasks = Tasks::new();
        let (shared, log) = (Arc::clone(&behaviour), Arc::clone(&requests));
        tasks.spawn("point", async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                    match socket.read(&mut buffer).await {
                        Ok(n) if n > 0 => head.extend_from_slice(&buffer[..n]),
                        _ => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                log.lock().unwrap().push(head.clone());
                let answer = answer(&mut shared.lock().unwrap(), &head);
                let drips = shared.lock().unwrap().drips;
                let size = if drips { 200 } else { answer.len() };
                for piece in answer.chunks(size.max(1)).take(40) {
                    if socket.write_all(piece).await.is_err() {
                        break;
                    }
                    if drips {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                let _ = socket.shutdown().await;
            }
        });
        Self {
            url,
            behaviour,
            requests,
            _tasks: tasks,
        }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(behaviour: &mut Behaviour, head: &str) -> Vec<u8> {
    if let Some(status) = behaviour.status {
        return format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n").into_bytes();
    }
    let start = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))
        .and_then(|range| range.trim_end_matches('-').trim().parse::<usize>().ok())
        .filter(|_| !behaviour.ignores_ranges);
    let total = behaviour.body.len();
    let (status, range) = match start {
        Some(start) => (
            "206 Partial Content",
            format!("content-range: bytes {start}-{}/{total}\r\n", total - 1),
        ),
        None => ("200 OK", String::new()),
    };
    let body = &behaviour.body[start.unwrap_or(0)..];
    let mut sent = body;
    if let Some((bytes, times)) = &mut behaviour.cut
        && *times > 0
    {
        *times -= 1;
        sent = &body[..(*bytes).min(body.len())];
    }
    let head = format!(
        "HTTP/1.1 {status}\r\n{range}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), sent].concat()
}

struct Cache {
    dir: tempfile::TempDir,
    content: Content,
}

fn cache() -> Cache {
    muster_runtime::crypto::install();
    let dir = tempfile::tempdir().unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let content = Content::with_client(dir.path(), http).unwrap();
    Cache { dir, content }
}

fn impatient(cache: Cache) -> Cache {
    let pace = Pace {
        first_pause: Duration::from_millis(1),
        grace: Duration::from_millis(300),
        least_rate: u64::MAX,
        ..Pace::default()
    };
    Cache {
        content: cache.content.with_pace(pace),
        ..cache
    }
}

fn body() -> (Vec<u8>, [u8; 32]) {
    let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let sha256 = Sha256::digest(&body).into();
    (body, sha256)
}

#[tokio::test]
async fn a_transfer_that_breaks_off_is_resumed_where_it_stopped() {
    let (body, sha256) = body();
    let behaviour = Behaviour {
        body: body.clone(),
        cut: Some((150_000, 2)),
        ..Default::default()
    };
    let point = Point::start(behaviour).await;
    let cache = cache();
    let path = cache
        .content
        .fetch(&sha256, 400_000, std::slice::from_ref(&point.url))
        .await
        .unwrap();
    assert_eq!(std::fs::read(path).unwrap(), body);
    let requests = point.requests();
    assert_eq!(requests.len(), 3);
    let tag = format!("if-range: \"{}\"", hex::encode(sha256));
    assert!(
        requests[1].contains("range: bytes=") && requests[1].contains(&tag),
        "{}",
        requests[1]
    );
    assert_eq!(
        std::fs::read_dir(cache.dir.path()).unwrap().count(),
        1,
        "no piece is left"
    );
}

#[tokio::test]
async fn a_server_that_ignores_ranges_gives_the_whole_file_again() {
    let (body, sha256) = body();
    let behaviour = Behaviour {
        body: body.clone(),
        cut: Some((150_000, 1)),
        ignores_ranges: true,
        ..Default::default()
    };
    let point = Point::start(behaviour).await;
    let cache = cache();
    let path = cache
        .content
        .fetch(&sha256, 400_000, std::slice::from_ref(&point.url))
        .await
        .unwrap();
    assert_eq!(std::fs::read(path).unwrap(), body);
}

#[tokio::test]
async fn an_altered_file_is_refused_and_nothing_of_it_is_kept() {
    let (mut body, sha256) = body();
    body[70_000] ^= 1;
    let point = Point::start(Behaviour {
        body,
        ..Default::default()
    })
    .await;
    let cache = cache();
    let failure = cache
        .content
        .fetch(&sha256, 400_000, std::slice::from_ref(&point.url))
        .await
        .unwrap_err();
    assert_eq!(failure.code, error_code::CONTENT_MISMATCH);
    assert_eq!(std::fs::read_dir(cache.dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_longer_than_the_policy_says_is_refused_early() {
    let (body, sha256) = body();
    let point = Point::start(Behaviour {
        body,
        ..Default::default()
    })
    .await;
    let cache = cache();
    let failure = cache
        .content
        .fetch(&sha256, 1_000, std::slice::from_ref(&point.url))
        .await
        .unwrap_err();
    assert_eq!(failure.code, error_code::CONTENT_MISMATCH);
    assert_eq!(std::fs::read_dir(cache.dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn another_distribution_point_helps_out() {
    let (body, sha256) = body();
    let mut altered = body.clone();
    altered[0] ^= 1;
    let empty = Point::start(Behaviour {
        status: Some(404),
        ..Default::default()
    })
    .await;
    let liar = Point::start(Behaviour {
        body: altered,
        ..Default::default()
    })
    .await;
    let good = Point::start(Behaviour {
        body,
        ..Default::default()
    })
    .await;
    let cache = cache();
    let urls = [empty.url.clone(), liar.url.clone(), good.url.clone()];
    cache.content.fetch(&sha256, 400_000, &urls).await.unwrap();
    assert!(cache.content.has(&sha256, 400_000));

    // Now it is here: nobody is asked.
    good.behaviour.lock().unwrap().status = Some(500);
    cache.content.fetch(&sha256, 400_000, &urls).await.unwrap();
}

#[tokio::test]
async fn a_distribution_point_that_restarts_is_waited_for() {
    let (body, sha256) = body();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = gone.local_addr().unwrap();
    drop(gone);
    let starts = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let behaviour = Behaviour {
            body,
            ..Default::default()
        };
        Point::start_at(&addr.to_string(), behaviour).await
    };
    let cache = cache();
    let urls = [format!("http://{addr}")];
    let (fetched, _point) = tokio::join!(cache.content.fetch(&sha256, 400_000, &urls), starts);
    fetched.unwrap();
}

#[tokio::test]
async fn a_distribution_point_that_drips_is_given_up() {
    let (body, sha256) = body();
    let point = Point::start(Behaviour {
        body,
        drips: true,
        ..Default::default()
    })
    .await;
    let cache = impatient(cache());
    let urls = std::slice::from_ref(&point.url);
    let fetch = cache.content.fetch(&sha256, 400_000, urls);
    let failure = tokio::time::timeout(Duration::from_secs(20), fetch).await;
    let failure = failure.expect("it ends").unwrap_err();
    assert_eq!(failure.code, error_code::CONTENT_UNREACHABLE);
    assert!(failure.detail.contains("not done in"), "{failure}");
    assert_eq!(Pace::default().limit(80 << 20).as_secs(), 60 + 10 * 1024);
}

#[tokio::test]
async fn the_failure_says_whether_nobody_answered_or_nobody_has_it() {
    let (_, sha256) = body();
    let cache = impatient(cache());
    let nobody = ["http://127.0.0.1:9".to_owned()];
    let failure = cache.content.fetch(&sha256, 1, &nobody).await.unwrap_err();
    assert_eq!(failure.code, error_code::CONTENT_UNREACHABLE);
    let empty = Point::start(Behaviour {
        status: Some(404),
        ..Default::default()
    })
    .await;
    let urls = [nobody[0].clone(), empty.url.clone()];
    let failure = cache.content.fetch(&sha256, 1, &urls).await.unwrap_err();
    assert_eq!(failure.code, error_code::CONTENT_NOT_FOUND);
}
