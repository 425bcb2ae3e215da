//! Suites as an apt archive.

use bytes::Bytes;
use muster_proto::content::RemoveContentRequest;
use muster_runtime::{Role, status};
use reqwest::StatusCode;
use tonic::Code;

use super::world::{KEY, World, hex, sha256};

fn text(text: &str) -> Bytes {
    Bytes::from(text.repeat(500))
}

async fn get(world: &World, path: &str) -> Option<Bytes> {
    let url = world.url(&format!("/apt/{KEY}/{path}"));
    let answer = world.http(Role::Client).get(url).send().await.unwrap();
    match answer.status() {
        StatusCode::OK => Some(answer.bytes().await.unwrap()),
        StatusCode::NOT_FOUND => None,
        other => panic!("{path}: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suite_is_published_whole_and_replaced_at_once() {
    let mut world = World::start().await;
    let packages = "dists/bookworm/main/binary-amd64/Packages.xz";
    let by_hash = |bytes: &Bytes| {
        format!(
            "dists/bookworm/main/binary-amd64/by-hash/SHA256/{}",
            hex(&sha256(bytes))
        )
    };
    let snapshot = |n: u8| {
        let (release, index) = (text(&format!("release {n}")), text(&format!("index {n}")));
        [
            ("InRelease", release),
            ("main/binary-amd64/Packages.xz", index),
        ]
    };
    assert_eq!(get(&world, "dists/bookworm/InRelease").await, None);

    let first = snapshot(1);
    first
        .iter()
        .for_each(|(_, bytes)| world.artifacts.put(bytes));
    world.publish(&first).await.unwrap();
    world.artifacts.clear();
    world
        .publish(&first)
        .await
        .expect("again, with nothing to copy");
    assert_eq!(
        get(&world, "dists/bookworm/InRelease").await.as_ref(),
        Some(&first[0].1)
    );
    assert_eq!(get(&world, packages).await.as_ref(), Some(&first[1].1));
    assert_eq!(
        get(&world, &by_hash(&first[1].1)).await.as_ref(),
        Some(&first[1].1)
    );
    assert_eq!(
        get(&world, "dists/bookworm/main/Contents-amd64.gz").await,
        None
    );
    assert_eq!(get(&world, "dists/trixie/InRelease").await, None);

    // A snapshot that cannot be completed changes nothing.
    let second = snapshot(2);
    world.artifacts.put(&second[0].1);
    let missing = world.publish(&second).await.unwrap_err();
    assert_eq!(missing.code(), Code::Unavailable, "{missing:?}");
    world
        .artifacts
        .put_as(sha256(&second[1].1), &text("forgery"));
    let altered = world.publish(&second).await.unwrap_err();
    assert_eq!(altered.code(), Code::FailedPrecondition, "{altered:?}");
    assert_eq!(status::reason(&altered).as_deref(), Some("FILE_ALTERED"));
    assert_eq!(
        get(&world, "dists/bookworm/InRelease").await.as_ref(),
        Some(&first[0].1)
    );

    world.artifacts.put(&second[1].1);
    world.publish(&second).await.unwrap();
    assert_eq!(
        get(&world, "dists/bookworm/InRelease").await.as_ref(),
        Some(&second[0].1)
    );
    assert_eq!(get(&world, packages).await.as_ref(), Some(&second[1].1));
    assert_eq!(
        get(&world, &by_hash(&first[1].1)).await.as_ref(),
        Some(&first[1].1)
    );

    world.restart().await;
    assert_eq!(get(&world, packages).await.as_ref(), Some(&second[1].1));

    let third = snapshot(3);
    third
        .iter()
        .for_each(|(_, bytes)| world.artifacts.put(bytes));
    world.publish(&third).await.unwrap();
    assert_eq!(
        get(&world, &by_hash(&first[1].1)).await,
        None,
        "two snapshots ago"
    );
    let content = world.url(&format!("/content/{}", hex(&sha256(&first[1].1))));
    let gone = world.http(Role::Client).get(content).send().await.unwrap();
    assert_eq!(
        gone.status(),
        StatusCode::NOT_FOUND,
        "nothing names its bytes any more"
    );

    // What a published suite needs is not removed, whoever asks.
    let sha256 = vec![sha256(&third[0].1).to_vec().into()];
    let mut site = world.grpc(Role::SiteServer);
    let freed = site
        .remove_content(RemoveContentRequest { sha256 })
        .await
        .unwrap();
    assert_eq!(freed.into_inner().bytes_freed, 0);
    assert_eq!(
        get(&world, "dists/bookworm/InRelease").await.as_ref(),
        Some(&third[0].1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apt_which_knows_no_tags_is_told_that_nothing_changed() {
    let world = World::start().await;
    let url = world.url(&format!("/apt/{KEY}/dists/bookworm/InRelease"));
    let http = world.http(Role::Client);
    let ask = async |since: &str| {
        let request = http.get(&url).header("If-Modified-Since", since);
        let answer = request.send().await.unwrap();
        let modified = answer.headers()["last-modified"]
            .to_str()
            .unwrap()
            .to_owned();
        (answer.status(), modified)
    };
    let release = |n: u8| text(&format!("release {n}"));
    world.artifacts.put(&release(1));
    world.publish(&[("InRelease", release(1))]).await.unwrap();
    let (status, first) = ask("Thu, 01 Jan 1970 00:00:00 GMT").await;
    assert_eq!(status, StatusCode::OK);
    assert!(first.ends_with(" GMT"), "{first}");
    assert_eq!(ask(&first).await, (StatusCode::NOT_MODIFIED, first.clone()));
    world.publish(&[("InRelease", release(1))]).await.unwrap();
    assert_eq!(
        ask(&first).await.0,
        StatusCode::NOT_MODIFIED,
        "published again"
    );
    world.artifacts.put(&release(2));
    world.publish(&[("InRelease", release(2))]).await.unwrap();
    let (status, second) = ask(&first).await;
    assert_eq!(status, StatusCode::OK, "in the same second, perhaps");
    assert_ne!(first, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_the_pool_are_found_under_the_vendors_path_once_they_are_held() {
    let world = World::start().await;
    let (release, deb) = (text("release"), text("deb"));
    world.artifacts.put(&release);
    world.publish(&[("InRelease", release)]).await.unwrap();
    let path = "pool/main/g/gcc/g++_12.2-14+deb12u1_amd64.deb";
    let absent = world
        .archive
        .file("pool/main/a/absent_1_amd64.deb", &text("x"));
    world.settled(&absent).await;
    assert_eq!(get(&world, &absent.path).await, None, "known and not held");
    world.hold(path, &deb).await;
    assert_eq!(get(&world, path).await.as_ref(), Some(&deb));
    let escaped = "pool/main/g/gcc/g%2b%2b_12.2-14%2bdeb12u1_amd64.deb";
    assert_eq!(
        get(&world, escaped).await.as_ref(),
        Some(&deb),
        "as apt asks"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suite_without_a_signature_or_with_a_path_that_leads_out_is_refused() {
    let world = World::start().await;
    let bytes = text("x");
    world.artifacts.put(&bytes);
    for files in [
        vec![("Release", bytes.clone())],
        vec![],
        vec![
            ("InRelease", bytes.clone()),
            ("../../etc/passwd", bytes.clone()),
        ],
        vec![("InRelease", bytes.clone()), ("/etc/passwd", bytes.clone())],
    ] {
        let refused = world.publish(&files).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    assert_eq!(get(&world, "dists/bookworm/InRelease").await, None);
}
