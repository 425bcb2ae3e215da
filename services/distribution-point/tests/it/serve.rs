//! How clients get bytes, over HTTP/1.1 and HTTP/2.

use bytes::Bytes;
use muster_runtime::Role;
use muster_testkit::TestCa;
use reqwest::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use reqwest::{Method, Response, StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::{World, sha256};

fn header(response: &Response, name: impl reqwest::header::AsHeaderName) -> String {
    response
        .headers()
        .get(name)
        .map(|it| it.to_str().unwrap().to_owned())
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_served_whole_in_parts_or_not_at_all_as_the_client_asks() {
    let world = World::start().await;
    let body: Bytes = (0..1_000_000_u32)
        .map(|n| (n % 253) as u8)
        .collect::<Vec<_>>()
        .into();
    let name = world.hold("pool/a.deb", &body).await;
    let (client, url) = (
        world.http(Role::Client),
        world.url(&format!("/content/{name}")),
    );
    let get = |headers: Vec<(reqwest::header::HeaderName, String)>| {
        let request = client.get(&url).headers(
            headers
                .into_iter()
                .map(|(name, value)| (name, value.parse().unwrap()))
                .collect(),
        );
        async move { request.send().await.unwrap() }
    };
    let etag = format!("\"{name}\"");

    let whole = get(vec![]).await;
    assert_eq!(
        (whole.status(), whole.version()),
        (StatusCode::OK, Version::HTTP_2)
    );
    assert_eq!(header(&whole, ETAG), etag);
    assert_eq!(header(&whole, ACCEPT_RANGES), "bytes");
    assert_eq!(header(&whole, CONTENT_LENGTH), "1000000");
    assert!(header(&whole, CACHE_CONTROL).contains("immutable"));
    assert_eq!(whole.bytes().await.unwrap(), body);

    let head = client
        .head(&url)
        .header(RANGE, "bytes=1-2")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (head.status(), header(&head, ETAG)),
        (StatusCode::OK, etag.clone())
    );
    assert_eq!(header(&head, CONTENT_LENGTH), "1000000");
    assert!(head.bytes().await.unwrap().is_empty());

    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=262143-262144", 262_143, 262_144),
        ("bytes=300000-", 300_000, 999_999),
        ("bytes=-5", 999_995, 999_999),
        ("bytes=999999-2000000", 999_999, 999_999),
    ] {
        let part = get(vec![(RANGE, range.to_owned()), (IF_RANGE, etag.clone())]).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(
            header(&part, CONTENT_RANGE),
            format!("bytes {first}-{last}/1000000")
        );
        assert_eq!(
            header(&part, CONTENT_LENGTH),
            (last - first + 1).to_string()
        );
        assert_eq!(part.bytes().await.unwrap(), body[first..=last], "{range}");
    }
    for (why, headers) in [
        (
            "another version",
            vec![
                (RANGE, "bytes=5-".to_owned()),
                (IF_RANGE, "\"x\"".to_owned()),
            ],
        ),
        ("several ranges", vec![(RANGE, "bytes=0-1,5-6".to_owned())]),
    ] {
        let answer = get(headers).await;
        assert_eq!(answer.status(), StatusCode::OK, "{why}");
        assert_eq!(answer.bytes().await.unwrap().len(), body.len(), "{why}");
    }
    let beyond = get(vec![(RANGE, "bytes=1000000-".to_owned())]).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&beyond, CONTENT_RANGE), "bytes */1000000");
    let same = get(vec![(IF_NONE_MATCH, etag)]).await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    let post = client.post(&url).body("x").send().await.unwrap();
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    let empty = world.hold("pool/empty", &Bytes::new()).await;
    let empty = client
        .get(world.url(&format!("/content/{empty}")))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (empty.status(), header(&empty, CONTENT_LENGTH)),
        (StatusCode::OK, "0".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_for_clients_of_the_site_and_its_distribution_points() {
    let world = World::start().await;
    let name = world
        .hold("pool/a.deb", &Bytes::from_static(b"bytes"))
        .await;
    let url = world.url(&format!("/content/{name}"));
    for role in Role::ALL.into_iter().filter(|role| role.calls()) {
        let wanted = match role {
            Role::Client | Role::DistributionPoint | Role::ChildSite => StatusCode::OK,
            _ => StatusCode::FORBIDDEN,
        };
        let answer = world.http(role).get(&url).send().await.unwrap();
        assert_eq!(answer.status(), wanted, "{role}");
    }
    assert!(
        world.http_with(None).get(&url).send().await.is_err(),
        "no certificate"
    );
    let foreign = TestCa::new();
    let foreign = world.http_with(Some(&foreign.issue(Role::Client, "x")));
    assert!(foreign.get(&url).send().await.is_err(), "another authority");
}

/// Sends a request line as it is over HTTP/1.1; returns the status.
async fn raw(world: &World, path: &str) -> u16 {
    let tls = world.ca.issue(Role::Client, "raw");
    let mut config = muster_runtime::tls::ClientTls::new(&tls)
        .unwrap()
        .current()
        .as_ref()
        .clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let socket = tokio::net::TcpStream::connect(world.point().content_addr())
        .await
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = "localhost".try_into().unwrap();
    let mut stream = connector.connect(name, socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(!answer.contains("root:"), "{path}");
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_leads_out_of_the_store() {
    let world = World::start().await;
    let name = world
        .hold("pool/a.deb", &Bytes::from_static(b"bytes"))
        .await;
    assert_eq!(raw(&world, &format!("/content/{name}")).await, 200);
    let unknown = "0".repeat(64);
    for path in [
        "/",
        "/content/",
        "/etc/passwd",
        "/content/../../../../../../etc/passwd",
        "/content/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/content/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/content//etc/passwd",
        "/apt/0123456789abcdef/../../../etc/passwd",
        "/apt/0123456789abcdef/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/apt/../manifest.json",
        "/manifest.json",
        "/incoming/x",
        &format!("/content/{unknown}"),
        &format!("/content/{}", name.to_uppercase()),
        &format!("/content/{}/{name}", &name[..2]),
        &format!("/content/{name}%00"),
    ] {
        let status = raw(&world, path).await;
        assert!(matches!(status, 404 | 400), "{path}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_not_served_and_comes_back_from_the_archive() {
    let mut world = World::start().await;
    let body = Bytes::from_static(b"the vendor's bytes");
    let name = world.hold("pool/a.deb", &body).await;
    let path = world
        .data_dir()
        .join("content")
        .join(&name[..2])
        .join(&name);
    let (client, url) = (
        world.http(Role::Client),
        world.url(&format!("/content/{name}")),
    );
    std::fs::write(&path, b"cut").unwrap();
    assert_eq!(
        client.get(&url).send().await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    let file = world.archive.file("pool/a.deb", &body);
    world.settled(&file).await;
    assert_eq!(
        client
            .get(&url)
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap(),
        body
    );

    // Same length, other bytes: the scrub that runs after the start finds it.
    std::fs::write(&path, b"the thief's bytes!").unwrap();
    world.restart().await;
    let url = world.url(&format!("/content/{name}"));
    muster_testkit::eventually(async || {
        client.get(&url).send().await.unwrap().status() == StatusCode::NOT_FOUND
    })
    .await;
    world.settled(&file).await;
    let answer = client.request(Method::GET, &url).send().await.unwrap();
    assert_eq!(sha256(&answer.bytes().await.unwrap()), sha256(&body));
}
