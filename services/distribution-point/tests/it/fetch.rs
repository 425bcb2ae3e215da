//! How files come in: only what has the promised size and hash is ever offered.

use bytes::Bytes;
use muster_proto::catalog::FileRef;
use muster_proto::content::{EnsureContentRequest, FileState, RemoveContentRequest};
use muster_runtime::{Role, status};
use muster_testkit::eventually;
use reqwest::StatusCode;
use tonic::Code;

use super::world::{Trick, World, hex, sha256};

fn bytes(seed: u8, len: usize) -> Bytes {
    (0..len)
        .map(|n| seed.wrapping_add((n % 251) as u8))
        .collect::<Vec<u8>>()
        .into()
}

async fn served(world: &World, sha256: &str) -> StatusCode {
    let request = world
        .http(Role::Client)
        .get(world.url(&format!("/content/{sha256}")));
    request.send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_fetched_verified_offered_and_kept_over_a_restart() {
    let mut world = World::start().await;
    let body = bytes(1, 1_000_000);
    let file = world.archive.file("pool/a_1%3a1+b1~2.deb", &body);
    world.archive.put("pool/a_1%253a1+b1~2.deb", body.clone());
    let first = world.ensure(vec![file.clone()]).await.remove(0);
    assert!(
        matches!(first.state(), FileState::Waiting | FileState::Fetching),
        "{first:?}"
    );
    let status = world.settled(&file).await;
    assert_eq!(
        (status.state(), status.bytes_fetched),
        (FileState::Available, 1_000_000)
    );
    assert_eq!(served(&world, &hex(&file.sha256)).await, StatusCode::OK);
    assert_eq!(
        world.archive.asked().len(),
        1,
        "asked for twice, fetched once"
    );

    world.restart().await;
    assert_eq!(world.settled(&file).await.state(), FileState::Available);
    assert_eq!(served(&world, &hex(&file.sha256)).await, StatusCode::OK);
    assert_eq!(world.archive.asked().len(), 1, "nothing is fetched again");

    let mut site = world.grpc(Role::SiteServer);
    let request = || RemoveContentRequest {
        sha256: vec![file.sha256.clone()],
    };
    let freed = site
        .remove_content(request())
        .await
        .unwrap()
        .into_inner()
        .bytes_freed;
    assert_eq!(freed, 1_000_000);
    assert_eq!(
        site.remove_content(request())
            .await
            .unwrap()
            .into_inner()
            .bytes_freed,
        0
    );
    assert_eq!(
        served(&world, &hex(&file.sha256)).await,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_as_promised_is_never_offered() {
    let world = World::start().await;
    let wanted = bytes(1, 100_000);
    let other = bytes(2, 100_000);
    let cases = [
        ("pool/other-bytes", other, Trick::Honest, "HASH_MISMATCH"),
        (
            "pool/short",
            wanted.slice(..99_999),
            Trick::Honest,
            "SIZE_MISMATCH",
        ),
        (
            "pool/long",
            bytes(1, 100_001),
            Trick::Honest,
            "SIZE_MISMATCH",
        ),
        (
            "pool/endless",
            wanted.clone(),
            Trick::Endless,
            "SIZE_MISMATCH",
        ),
        (
            "pool/gone",
            wanted.clone(),
            Trick::Status(404),
            "HTTP_STATUS",
        ),
        (
            "pool/broken",
            wanted.clone(),
            Trick::Status(503),
            "HTTP_STATUS",
        ),
        (
            "pool/file",
            wanted.clone(),
            Trick::Redirect("file:///etc/passwd".into()),
            "HTTP_STATUS",
        ),
        (
            "pool/metadata",
            wanted.clone(),
            Trick::Redirect("http://169.254.169.254/x".into()),
            "UPSTREAM",
        ),
        (
            "pool/loop",
            wanted.clone(),
            Trick::Redirect("/debian/pool/loop".into()),
            "UPSTREAM",
        ),
    ];
    for (path, sent, trick, word) in cases {
        world.archive.trick(path, sent, trick);
        let status = world.settled(&world.archive.file(path, &wanted)).await;
        assert_eq!(status.state(), FileState::Failed, "{path}: {status:?}");
        assert!(status.detail.starts_with(word), "{path}: {}", status.detail);
        assert_eq!(
            served(&world, &hex(&sha256(&wanted))).await,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    assert!(!world.archive.asked().iter().any(|it| it.contains("passwd")));

    // The archive is repaired: asked for again after a while, it is tried again.
    world.archive.put("pool/short", wanted.clone());
    let file = world.archive.file("pool/short", &wanted);
    eventually(async || world.settled(&file).await.state() == FileState::Available).await;
    assert_eq!(served(&world, &hex(&sha256(&wanted))).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_was_cut_goes_on_where_it_ended() {
    let world = World::start().await;
    let body = bytes(3, 300_000);
    world
        .archive
        .trick("pool/cut", body.clone(), Trick::CutOnceAt(200_000));
    let status = world.settled(&world.archive.file("pool/cut", &body)).await;
    assert_eq!(status.state(), FileState::Available, "{status:?}");
    let asked = world.archive.asked();
    assert_eq!(asked[0], "/debian/pool/cut whole");
    let offset: usize = asked[1]
        .strip_prefix("/debian/pool/cut ")
        .and_then(|range| range.strip_suffix('-'))
        .and_then(|offset| offset.parse().ok())
        .unwrap_or_else(|| panic!("{asked:?}"));
    assert!(offset > 0 && offset <= 200_000, "{asked:?}");
    assert_eq!(asked.len(), 2, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_two_versions_never_become_a_file() {
    let world = World::start().await;
    let (old, new) = (bytes(4, 300_000), bytes(5, 300_000));
    let file = world.archive.file("pool/x", &new);
    let incoming = world.data_dir().join("incoming").join(hex(&file.sha256));
    // What an earlier attempt left is of the old version.
    std::fs::write(&incoming, &old[..100_000]).unwrap();
    world.archive.put("pool/x", new.clone());
    assert_eq!(world.settled(&file).await.state(), FileState::Available);
    let asked = world.archive.asked();
    assert_eq!(asked, ["/debian/pool/x 100000-", "/debian/pool/x whole"]);
    assert!(!incoming.exists());

    // An archive without ranges sends everything again.
    let whole = bytes(6, 1000);
    let file = world.archive.file("pool/y", &whole);
    std::fs::write(
        world.data_dir().join("incoming").join(hex(&file.sha256)),
        b"junk",
    )
    .unwrap();
    world.archive.trick("pool/y", whole.clone(), Trick::Whole);
    assert_eq!(world.settled(&file).await.state(), FileState::Available);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_site_server_may_ask_and_only_for_what_makes_sense() {
    let world = World::start().await;
    for role in Role::ALL
        .into_iter()
        .filter(|role| role.calls() && *role != Role::SiteServer)
    {
        let answer = world
            .grpc(role)
            .ensure_content(EnsureContentRequest::default())
            .await;
        assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied, "{role}");
    }
    let good = world.archive.file("pool/a", &bytes(1, 10));
    let mut site = world.grpc(Role::SiteServer);
    for broken in [
        FileRef {
            sha256: vec![0; 31].into(),
            ..good.clone()
        },
        FileRef {
            path: "../../etc/passwd".to_owned(),
            ..good.clone()
        },
        FileRef {
            path: "/etc/passwd".to_owned(),
            ..good.clone()
        },
        FileRef {
            path: String::new(),
            ..good.clone()
        },
        FileRef {
            archive_uri: String::new(),
            ..good.clone()
        },
        FileRef {
            archive_uri: "file:///".to_owned(),
            ..good.clone()
        },
        FileRef {
            size: u64::MAX,
            ..good.clone()
        },
    ] {
        let request = EnsureContentRequest {
            files: vec![good.clone(), broken.clone()],
        };
        let refused = site.ensure_content(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{broken:?}");
        assert_eq!(status::reason(&refused).as_deref(), Some("INVALID_FIELD"));
    }
    let many = EnsureContentRequest {
        files: vec![good; 2_001],
    };
    assert_eq!(
        site.ensure_content(many).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert!(
        world.archive.asked().is_empty(),
        "nothing of a refused request is fetched"
    );
}
