//! The updates of the software update point, taken over and shown.

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
