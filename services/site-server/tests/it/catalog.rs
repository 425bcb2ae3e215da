//! The updates of the software update point, taken over and shown.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Instant;

use muster_proto::catalog as cat;
use muster_proto::catalog::update_service_client::UpdateServiceClient;
use muster_runtime::status;
use muster_testkit::eventually;

use crate::deployments::{BASH, with_catalog};
use crate::roles::update;

#[tokio::test]
async fn the_catalog_is_followed_from_generation_to_generation() {
    let site = with_catalog().await;
    let mut newer = update(3, "bash", &["bash"]);
    (newer.generation, newer.supersedes) = (2, vec![BASH]);
    let mut older = update(BASH, "bash", &["bash"]);
    (older.generation, older.revision, older.superseded_by) = (2, 2, vec![3]);
    site.others
        .world
        .lock()
        .unwrap()
        .catalog
        .extend([newer, older]);
    eventually(async || site.count("SELECT generation FROM catalog_state").await == 2).await;
    let mut updates = UpdateServiceClient::new(site.channel("administrator"));
    let listed = updates
        .list_updates(cat::ListUpdatesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let numbers: Vec<u32> = listed
        .updates
        .iter()
        .map(|found| found.update.as_ref().unwrap().update_no)
        .collect();
    assert_eq!((numbers.as_slice(), listed.total), (&[1, 3][..], 2));
    let key = Some(cat::get_update_request::Key::UpdateNo(BASH));
    let shown = updates
        .get_update(cat::GetUpdateRequest { key })
        .await
        .unwrap()
        .into_inner();
    let shown = shown.update.unwrap().update.unwrap();
    assert_eq!(
        (shown.revision, shown.superseded_by.as_slice()),
        (2, &[3][..])
    );
    assert_eq!(shown.leaves[0].package, "bash");
    let key = Some(cat::get_update_request::Key::UpdateNo(99));
    let unknown = updates
        .get_update(cat::GetUpdateRequest { key })
        .await
        .unwrap_err();
    assert_eq!(status::reason(&unknown).as_deref(), Some("UNKNOWN_UPDATE"));
}

/// As many updates as Debian's archive makes, with ties in everything they are sorted by.
const MANY: &str = "
    INSERT INTO updates (update_no, update_id, revision, generation, first_generation, title,
                         description, classification, severity, product, suite, source_package,
                         source_version, cve_ids, released_at, supersedes, superseded_by, expired,
                         max_run_time_minutes, needs_exclusive_handling)
    SELECT n, 'update/' || n, 1, 1, 1, 'title', repeat('x', 500), 1, 0, 'Debian 12', 'bookworm',
           'source-' || n % 700, '1', '{}',
           CASE WHEN n % 5 > 0 THEN timestamptz '2026-01-01' + n % 90 * interval '1 day' END,
           '{}', '{}', false, 60, false
    FROM generate_series(100, 34099) AS n;
    INSERT INTO update_counter_rows (update_no, installed, required, unknown)
    SELECT n, 1, n % 7, 0 FROM generate_series(100, 34099, 3) AS n;
    ANALYZE updates; ANALYZE update_counter_rows;";

#[tokio::test]
#[allow(clippy::print_stdout)] // shown with --nocapture; a bound would fail on a busy machine
async fn a_list_of_thousands_is_read_page_by_page_in_every_order() {
    let site = with_catalog().await;
    let db = site.pool.get().await.unwrap();
    db.batch_execute(MANY).await.unwrap();
    let mut updates = UpdateServiceClient::new(site.channel("administrator"));
    for sort in [
        cat::UpdateSort::Number,
        cat::UpdateSort::RequiredDescending,
        cat::UpdateSort::ReleasedDescending,
        cat::UpdateSort::SourcePackage,
    ] {
        let (mut request, mut seen, mut slowest) = (
            cat::ListUpdatesRequest {
                sort: sort.into(),
                page_size: 1_000,
                ..Default::default()
            },
            Vec::new(),
            0,
        );
        loop {
            let began = Instant::now();
            let page = updates.list_updates(request.clone()).await;
            let page = page.unwrap().into_inner();
            slowest = slowest.max(began.elapsed().as_millis());
            assert_eq!(page.total, 34_002);
            seen.extend(page.updates);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        println!("{sort:?}: the slowest of 35 pages took {slowest} ms");
        let number = |it: &cat::UpdateSummary| it.update.as_ref().unwrap().update_no;
        let numbers: BTreeSet<u32> = seen.iter().map(number).collect();
        assert_eq!((seen.len(), numbers.len()), (34_002, 34_002), "{sort:?}");
        let key = |it: &cat::UpdateSummary| {
            let update = it.update.as_ref().unwrap();
            let released = update.released_at.as_ref().map(|at| at.seconds);
            match sort {
                cat::UpdateSort::RequiredDescending => (Reverse(Some(i64::from(it.required))), 1),
                cat::UpdateSort::ReleasedDescending => (Reverse(released), -1),
                cat::UpdateSort::Unspecified
                | cat::UpdateSort::Number
                | cat::UpdateSort::SourcePackage => (Reverse(None), 1),
            }
        };
        let keyed = |it: &cat::UpdateSummary| {
            let (key, direction) = key(it);
            (key, direction * i64::from(number(it)))
        };
        if sort == cat::UpdateSort::SourcePackage {
            let source = |it: &cat::UpdateSummary| it.update.clone().unwrap().source_package;
            let mut groups: Vec<String> = seen.iter().map(source).collect();
            groups.dedup();
            assert_eq!(groups.len(), 702, "each source package is in one place");
        } else {
            assert!(seen.is_sorted_by_key(keyed), "{sort:?}");
        }
    }
    let other = cat::ListUpdatesRequest {
        page_token: "1.5.7.".into(),
        sort: cat::UpdateSort::SourcePackage.into(),
        ..Default::default()
    };
    let refused = updates.list_updates(other).await.unwrap_err();
    assert_eq!(status::reason(&refused).as_deref(), Some("PAGE_TOKEN"));
}
